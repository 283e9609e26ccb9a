//! A PSP of the tests: it shows what it is told to show, and counts its reads.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::payment::{Command, id::TransactionId};
use crate::psp::{NotSent, Page, Psp, ReadError, Received, transaction::Event, transaction::Transaction};

/// Shows one transaction, or one error.
#[derive(Clone)]
pub(crate) struct Fake {
    shared: Arc<Mutex<(Result<Transaction, ReadError>, u32)>>,
}

/// There is nothing to send.
pub(crate) struct Nothing;

impl Fake {
    pub(crate) fn showing(transaction: Result<Transaction, ReadError>) -> Self {
        Self { shared: Arc::new(Mutex::new((transaction, 0))) }
    }

    pub(crate) fn show(&self, transaction: Result<Transaction, ReadError>) {
        self.shared.lock().unwrap().0 = transaction;
    }

    pub(crate) fn reads(&self) -> u32 {
        self.shared.lock().unwrap().1
    }
}

impl Psp for Fake {
    type Prepared = Nothing;

    async fn prepare(&self, _: &Command) -> Result<Nothing, NotSent> {
        Ok(Nothing)
    }

    async fn send(&self, _: Nothing) -> Received {
        Received::Unknown("nothing is ever sent".to_owned())
    }

    async fn read(&self, _: &TransactionId) -> Result<Transaction, ReadError> {
        let mut shared = self.shared.lock().unwrap();
        shared.1 += 1;
        shared.0.clone()
    }

    async fn list(&self, _: &Page) -> Result<Vec<TransactionId>, ReadError> {
        Ok(Vec::new())
    }

    fn serves(&self, _: &TransactionId) -> bool {
        true
    }
}

impl crate::psp::Prepared for Nothing {
    fn life_left(&self) -> Duration {
        Duration::from_hours(4)
    }
}

/// A transaction of 500 minor units with these events.
pub(crate) fn transaction(status: &str, events: Vec<Event>) -> Transaction {
    Transaction {
        id: "T12345678.465UfBENeLpkBvwmqfTC4k".to_owned(),
        status: status.to_owned(),
        currency: "NOK".to_owned(),
        product_type: "vipps".to_owned(),
        amount: 500,
        merchant_reference: None,
        settlement_status: None,
        created_at: None,
        updated_at: None,
        items: Vec::new(),
        events,
    }
}
