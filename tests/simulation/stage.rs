//! The real client with a moment before each of its calls at which the process
//! can be hit.

use crate::payment::{Command, id::TransactionId};
use crate::psp::{NotSent, Page, Psp, ReadError, Received, transaction::Transaction};

use super::point::{Life, Point};

#[derive(Clone)]
pub(super) struct Stage<P> {
    pub inner: P,
    pub life: Life,
}

impl<P: Psp> Psp for Stage<P> {
    type Prepared = P::Prepared;

    async fn prepare(&self, command: &Command) -> Result<Self::Prepared, NotSent> {
        self.life.point(Point::Prepare).await;
        self.inner.prepare(command).await
    }

    async fn send(&self, prepared: Self::Prepared) -> Received {
        self.life.point(Point::BeforeSend).await;
        self.inner.send(prepared).await
    }

    async fn read(&self, transaction: &TransactionId) -> Result<Transaction, ReadError> {
        self.inner.read(transaction).await
    }

    async fn list(&self, page: &Page) -> Result<Vec<TransactionId>, ReadError> {
        self.inner.list(page).await
    }

    fn serves(&self, transaction: &TransactionId) -> bool {
        self.inner.serves(transaction)
    }
}
