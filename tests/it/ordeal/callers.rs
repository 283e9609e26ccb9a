//! Callers as they are: they retry, run out of patience, hang up, give up and come back. They remember each word that
//! binds, and never accept another one.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use payops::grpc::pb::{self, OperationKind, OperationState};
use tonic::Code;

use crate::ordeal::{Dice, OPERATIONS_PER_TRANSACTION, Run, TRANSACTIONS};
use crate::place::Place;
use crate::support::{Caller, Outcome, capture, outcome, refund, void};

/// One intention, and what its caller was told.
pub struct Asked {
    pub key: String,
    pub kind: OperationKind,
    pub transaction: String,
    pub amount: i64,
    /// A call got no answer: it may have been on its way while later ones were answered.
    pub unanswered: bool,
    /// The last word.
    pub told: Option<Told>,
}

/// What binds whoever says it.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Succeeded(Box<pb::Operation>),
    /// By the PSP, and recorded.
    Declined(String),
    /// By a check before sending, which leaves no record.
    Refused(String),
    /// Nothing was sent, and another key is safe: the caller takes one.
    NothingSent,
}

/// Whether the caller is done with it.
enum Heard {
    Final,
    /// Nothing happened yet: it may be left at that.
    Nothing,
    Again,
}

impl Asked {
    fn new(run: &Run, dice: &mut Dice, key: String) -> Self {
        let kind = match dice.between(0, 12) {
            0 => OperationKind::Void,
            1..5 => OperationKind::Refund,
            _ => OperationKind::Capture,
        };
        let transactions = run.transactions.lock().unwrap();
        let youngest = &transactions[transactions.len().saturating_sub(TRANSACTIONS)..];
        let transaction = dice.pick(youngest).clone();
        let amount = if kind == OperationKind::Void { 0 } else { dice.between(1, 4_000).try_into().unwrap() };
        Self { key, kind, transaction, amount, unanswered: false, told: None }
    }

    /// Asks whichever process it comes to.
    async fn call(&mut self, run: &Run, callers: &[Caller], dice: &mut Dice) -> Heard {
        let caller = dice.pick(callers);
        let (patience, deadline) = match dice.between(0, 10) {
            0 => (Duration::from_millis(dice.between(2, 300)), None),
            1 | 2 => (Duration::from_secs(15), Some(Duration::from_millis(dice.between(20, 1_000)))),
            _ => (Duration::from_secs(15), None),
        };
        match tokio::time::timeout(patience, self.ask(caller, deadline)).await {
            Ok(answer) => self.hear(run, answer),
            Err(_) => {
                self.unanswered = true;
                run.hear("(the caller hung up)".to_owned());
                Heard::Again
            }
        }
    }

    async fn ask(&self, caller: &Caller, deadline: Option<Duration>) -> Outcome {
        fn within<T>(mut request: tonic::Request<T>, deadline: Option<Duration>) -> tonic::Request<T> {
            if let Some(deadline) = deadline {
                request.set_timeout(deadline);
            }
            request
        }
        let (mut client, key, id) = (caller.client.clone(), &self.key, &self.transaction);
        match self.kind {
            OperationKind::Capture => {
                let request = within(caller.keyed(key, capture(id, self.amount)), deadline);
                outcome(client.capture(request).await, |message| message.operation)
            }
            OperationKind::Refund => {
                let request = within(caller.keyed(key, refund(id, self.amount)), deadline);
                outcome(client.refund(request).await, |message| message.operation)
            }
            _ => {
                let request = within(caller.keyed(key, void(id)), deadline);
                outcome(client.void(request).await, |message| message.operation)
            }
        }
    }

    /// Takes an answer, and holds it against those before.
    fn hear(&mut self, run: &Run, answer: Outcome) -> Heard {
        let refused = match answer {
            Ok(done) => {
                let operation = done.operation;
                assert_eq!(
                    (operation.kind(), &operation.transaction_id, operation.amount),
                    (self.kind, &self.transaction, self.amount),
                    "{}: the answer is about something else: {operation:?}",
                    self.key
                );
                run.hear(format!("OK {:?}", operation.state()));
                return match operation.state() {
                    OperationState::Succeeded => self.bind(Told::Succeeded(Box::new(operation))),
                    OperationState::Pending => self.nothing_new("accepted"),
                    other => panic!("{}: OK, and {other:?}", self.key),
                };
            }
            Err(refused) => refused,
        };
        let reason = refused.reason().to_owned();
        run.hear(format!(
            "{:?} {}",
            refused.code,
            if reason.is_empty() { "(the connection broke)" } else { &reason }
        ));
        match refused.code {
            _ if reason.is_empty() => {
                self.unanswered = true;
                Heard::Again
            }
            Code::FailedPrecondition if refused.metadata("state") == Some("DECLINED") => {
                self.bind(Told::Declined(reason))
            }
            Code::FailedPrecondition => self.bind(Told::Refused(reason)),
            // It cannot be looked up now: no word on what was said before.
            Code::Unavailable if ["JOURNAL_UNAVAILABLE", "DRAINING"].contains(&reason.as_str()) => {
                assert_eq!(
                    refused.metadata("safe_to_use_new_key"),
                    Some("false"),
                    "{}: {refused:?}",
                    self.key
                );
                Heard::Again
            }
            // Its deadline left no time to look anything up. At another process it cannot be joined.
            Code::Aborted
                if reason == "OPERATION_IN_PROGRESS" && refused.metadata("operation_id").is_none() =>
            {
                self.unanswered |= run.places.len() > 1;
                Heard::Again
            }
            Code::Aborted | Code::Unavailable | Code::ResourceExhausted | Code::Internal => {
                assert_ne!(reason, "IN_REVIEW", "{}: {refused:?}", self.key);
                assert_ne!(reason, "INTERNAL", "{}: {refused:?}", self.key);
                self.nothing_new(&reason);
                let nothing = refused.metadata("safe_to_use_new_key") == Some("true");
                if nothing { Heard::Nothing } else { Heard::Again }
            }
            _ => panic!("{}: {refused:?}", self.key),
        }
    }

    fn bind(&mut self, told: Told) -> Heard {
        match &self.told {
            None => self.told = Some(told),
            // What was merely refused was not recorded, and may be refused for another reason or be run.
            Some(Told::Refused(_)) => self.told = Some(told),
            Some(before) => assert_eq!(*before, told, "{}: another answer than before", self.key),
        }
        Heard::Final
    }

    fn nothing_new(&self, what: &str) -> Heard {
        let definite = matches!(self.told, Some(Told::Succeeded(_) | Told::Declined(_)));
        assert!(!definite, "{}: {what} after {:?}", self.key, self.told);
        Heard::Again
    }
}

/// One caller's day: all that it asked for, each with its last word.
pub async fn call(run: Arc<Run>, number: u64) -> Vec<Asked> {
    let mut dice = Dice::new(run.seed, number);
    let callers: Vec<_> = run.places.iter().map(Place::orders).collect();
    let (mut over, mut later): (Vec<Asked>, Vec<Asked>) = (Vec::new(), Vec::new());
    loop {
        let ending = run.enough();
        // Back to what was given up, at the end and now and then.
        let back = !later.is_empty() && (ending || later.len() > 4 || dice.one_in(4));
        let mut asked = if back {
            later.remove(0)
        } else if ending {
            return over;
        } else {
            let n = run.begun.fetch_add(1, Relaxed);
            if n.is_multiple_of(OPERATIONS_PER_TRANSACTION) {
                run.authorize(&mut dice).await;
            }
            Asked::new(&run, &mut dice, format!("caller-{number}-{n}"))
        };
        loop {
            match asked.call(&run, &callers, &mut dice).await {
                Heard::Final => break,
                Heard::Nothing if !asked.unanswered && dice.one_in(6) => {
                    asked.told = Some(Told::NothingSent);
                    break;
                }
                Heard::Nothing | Heard::Again => {}
            }
            dice.pause(50, 350).await;
            if !run.enough() && dice.one_in(3) {
                break;
            }
        }
        if asked.told.is_none() {
            later.push(asked);
            continue;
        }
        over.push(asked);
        run.over.fetch_add(1, Relaxed);
        // Somebody asks again for what is long over.
        let old = usize::try_from(dice.between(0, over.len().try_into().unwrap())).unwrap();
        if dice.one_in(6) && over[old].told != Some(Told::NothingSent) {
            over[old].call(&run, &callers, &mut dice).await;
        }
    }
}
