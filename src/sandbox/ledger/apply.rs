//! How an operation takes effect: at once, later, wrongly or not at all.

use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use serde_json::Value;

use super::guard::guard;
use super::transaction::Open;
use super::{Kind, Ledger, Order, Transaction};
use crate::sandbox::failure::Failure;
use crate::sandbox::wire::{Event, Item, Refusal, time};

/// How an operation is carried out.
#[derive(Clone, Debug, Default)]
pub enum Manner {
    /// As its product has it.
    #[default]
    Plainly,
    /// An event with `success: false` `[D 5.3]`; nothing moves.
    Fails(Failure),
    /// Accepted with 202, and completed later `[D 3.6]`.
    Later(Completion),
    /// Another amount moves than the one asked for, and the event says so.
    WrongAmount(i64),
    /// `success` and `correction` disagree, and `correction` is right `[D 5.3]`: with `true` nothing moves, with
    /// `false` the money moves.
    Contradicting(bool),
    /// The event does not carry the caller's reference.
    WithoutReference,
}

/// What becomes of an accepted operation, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// What becomes of it.
    pub outcome: Outcome,
    /// How long it takes.
    pub after: Duration,
}

/// How an accepted operation ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The money moves.
    Done,
    /// The provider refuses.
    Failed(Failure),
    /// It stays open.
    Never,
}

/// An operation that was carried out or accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The `request_id` of its event.
    pub request_id: String,
    /// For a 202: what is to become of it.
    pub accepted: Option<Completion>,
}

/// An event in the making.
struct Note<'a> {
    name: &'static str,
    success: bool,
    amount: i64,
    request_id: &'a str,
    correlation: Option<&'a str>,
    reference: Option<String>,
    error: Option<Value>,
    correction: Option<Value>,
}

impl Ledger {
    /// Carries out an operation. There is no deduplication: a repeated reference is applied again `[D 7]`
    /// `[D 12 #3]`.
    ///
    /// `later` is how long products with asynchronous refunds take.
    pub fn operate(
        &mut self,
        order: &Order,
        manner: &Manner,
        later: Duration,
        now: Timestamp,
    ) -> Result<Done, Refusal> {
        let transaction = self.get(&order.transaction)?;
        transaction.room_for_events()?;
        let amount = guard(transaction, order)?;
        let card = transaction.opening.test_card.and_then(|card| card.times_out);
        let product_later = order.kind == Kind::Refund && transaction.rules().refund_later;
        if card == Some(order.kind) {
            // The status that a test card produces is not described; that a failed event stays is [D 12 #1].
            self.fail(order, &Failure::timed_out(), now)?;
            let message = "Operation timed out";
            return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL SERVER ERROR", message));
        }
        match manner {
            Manner::Fails(failure) => self.fail(order, failure, now),
            Manner::Later(completion) => self.accept(order, amount, completion.clone(), now),
            Manner::Plainly if product_later => {
                self.accept(order, amount, Completion { outcome: Outcome::Done, after: later }, now)
            }
            Manner::Plainly => self.apply(order, amount, self.reference(order), None, now),
            Manner::WrongAmount(amount) => self.apply(order, *amount, self.reference(order), None, now),
            Manner::WithoutReference => {
                let default = self.get(&order.transaction)?.opening.default_reference.clone();
                self.apply(order, amount, default, None, now)
            }
            Manner::Contradicting(true) => self.withdraw(order, amount, now),
            Manner::Contradicting(false) => {
                let done = self.apply(order, amount, self.reference(order), None, now)?;
                self.deny_last(&order.transaction, now)?;
                Ok(done)
            }
        }
    }

    /// Appends a failed event; nothing moves.
    pub fn fail(&mut self, order: &Order, failure: &Failure, now: Timestamp) -> Result<Done, Refusal> {
        self.get(&order.transaction)?.room_for_events()?;
        let request_id = self.random_uuid();
        let transaction = self.get(&order.transaction)?;
        let note = Note {
            correction: failure.correction.then(|| transaction.correction()),
            error: Some(failure.error(now)),
            ..Note::of(order.kind.event(), order.amount, &request_id, self.reference(order))
        };
        self.append(order, Note { success: false, ..note }, now)?;
        Ok(Done { request_id, accepted: None })
    }

    /// Ends open operations: the one with this `request_id`, or all. Says how many.
    pub fn complete(
        &mut self,
        transaction: &str,
        request_id: Option<&str>,
        outcome: &Outcome,
        now: Timestamp,
    ) -> Result<usize, Refusal> {
        let open = &self.get(transaction)?.open;
        let chosen = open.iter().filter(|open| request_id.is_none_or(|id| open.request_id == id));
        let ids: Vec<String> = chosen.map(|open| open.request_id.clone()).collect();
        for id in &ids {
            // One by one: what is still open stays set aside while this one takes effect.
            let open = &mut self.get_mut(transaction)?.open;
            if let Some(place) = open.iter().position(|open| open.request_id == *id) {
                let ended = open.remove(place);
                self.end(&ended, outcome, now)?;
            }
        }
        Ok(ids.len())
    }

    fn end(&mut self, open: &Open, outcome: &Outcome, now: Timestamp) -> Result<(), Refusal> {
        let repeats = self.behaviour.completion_repeats_reference;
        let reference = self.reference(&open.order).filter(|_| repeats); // [D 12 #12]
        let correlates = open.order.kind != Kind::Void || self.behaviour.void_completion_correlates;
        let correlation = Some(open.request_id.as_str()).filter(|_| correlates); // [D 12 #12]
        match outcome {
            Outcome::Done => self.apply(&open.order, open.amount, reference, correlation, now).map(drop),
            Outcome::Failed(failure) => {
                let (request_id, correction) =
                    (self.random_uuid(), self.get(&open.order.transaction)?.correction());
                let note = Note {
                    correlation,
                    correction: failure.correction.then_some(correction),
                    error: Some(failure.error(now)),
                    ..Note::of(open.order.kind.event(), open.amount, &request_id, reference)
                };
                self.append(&open.order, Note { success: false, ..note }, now).map(drop)
            }
            Outcome::Never => Ok(()),
        }
    }

    fn accept(
        &mut self,
        order: &Order,
        amount: i64,
        completion: Completion,
        now: Timestamp,
    ) -> Result<Done, Refusal> {
        let request_id = self.random_uuid();
        let note = Note::of(order.kind.initiation(), amount, &request_id, self.reference(order));
        self.append(order, note, now)?; // the status stays as it was [D 3.6]
        let open = Open { request_id: request_id.clone(), order: order.clone(), amount };
        self.get_mut(&order.transaction)?.open.push(open);
        Ok(Done { request_id, accepted: Some(completion) })
    }

    /// The money moves: sums, lines, event, effect.
    fn apply(
        &mut self,
        order: &Order,
        amount: i64,
        reference: Option<String>,
        correlation: Option<&str>,
        now: Timestamp,
    ) -> Result<Done, Refusal> {
        let (behaviour, request_id) = (self.behaviour.clone(), self.random_uuid());
        let transaction = self.get_mut(&order.transaction)?;
        let mut rest = 0;
        match order.kind {
            Kind::Capture => {
                transaction.captured += amount;
                transaction.captured_at.push(now);
                if order.final_capture {
                    rest = transaction.capturable().max(0);
                }
            }
            Kind::Refund => {
                // One event, whichever captures Dintero takes it from [D 12 #28].
                transaction.refunded += amount;
                transaction.refunded_at.push(now);
            }
            Kind::Void => transaction.release(amount),
        }
        transaction.released += rest;
        transaction.released_counts_as_captured = behaviour.released_counts_as_captured;
        let lines = order.items.iter().map(|item| (order.kind, item.line_id.clone(), item.amount));
        transaction.lines.extend(lines);
        let note = Note { correlation, ..Note::of(order.kind.event(), amount, &request_id, reference) };
        let event_id = self.append(order, note, now)?;
        self.record(order, order.kind, amount, (&request_id, &event_id), now);
        if rest > 0 {
            let mut void_id = event_id;
            if behaviour.final_capture_adds_void_event {
                void_id = self.append(order, Note::of("VOID", rest, &request_id, None), now)?;
            }
            self.record(order, Kind::Void, rest, (&request_id, &void_id), now);
        }
        Ok(Done { request_id, accepted: None })
    }

    /// An event that claims success, whose `correction` takes it back.
    fn withdraw(&mut self, order: &Order, amount: i64, now: Timestamp) -> Result<Done, Refusal> {
        let correction = self.get(&order.transaction)?.correction();
        let request_id = self.random_uuid();
        let note = Note {
            correction: Some(correction),
            ..Note::of(order.kind.event(), amount, &request_id, self.reference(order))
        };
        self.append(order, note, now)?;
        Ok(Done { request_id, accepted: None })
    }

    /// Turns the last event into one that claims failure, whose `correction` tells that the money moved.
    fn deny_last(&mut self, transaction: &str, now: Timestamp) -> Result<(), Refusal> {
        let transaction = self.get_mut(transaction)?;
        let correction = transaction.correction();
        if let Some(event) = transaction.events.last_mut() {
            event.insert("success".to_owned(), false.into());
            event.insert("error".to_owned(), Failure::timed_out().error(now));
            event.insert("correction".to_owned(), correction);
        }
        Ok(())
    }

    fn append(&mut self, order: &Order, note: Note<'_>, now: Timestamp) -> Result<String, Refusal> {
        let (id, echo) = (self.random_uuid(), self.behaviour.echo_metadata);
        let transaction = self.get_mut(&order.transaction)?;
        let event = Event {
            id: id.clone(),
            event: note.name,
            transaction_status: transaction.status(),
            success: note.success,
            amount: (!note.name.ends_with("VOID")).then_some(note.amount),
            items: Item::values(&order.items),
            event_reference: note.reference,
            metadata: (echo && !order.metadata.is_empty()).then(|| order.metadata.clone()),
            error: note.error,
            correction: note.correction,
            request_id: note.request_id.to_owned(),
            correlation_request_id: note.correlation.map(str::to_owned),
            request_headers: order.request_headers.clone(),
            created_by: Some(order.created_by.clone()),
            created_at: time(now),
        };
        transaction.events.push(event.object());
        transaction.updated_at = now;
        self.changed(&order.transaction, order.kind.name());
        Ok(id)
    }

    /// The reference on the event: the caller's, else the session's default `[D 5.3]`. A void has neither.
    fn reference(&self, order: &Order) -> Option<String> {
        if order.kind == Kind::Void {
            return None;
        }
        let default = || self.get(&order.transaction).ok()?.opening.default_reference.clone();
        order.reference.clone().or_else(default)
    }

    fn random_uuid(&mut self) -> String {
        self.random.uuid()
    }
}

impl<'a> Note<'a> {
    fn of(name: &'static str, amount: i64, request_id: &'a str, reference: Option<String>) -> Self {
        let (error, correction, correlation) = (None, None, None);
        Self { name, success: true, amount, request_id, correlation, reference, error, correction }
    }
}

impl Transaction {
    fn release(&mut self, amount: i64) {
        self.released += amount;
        if self.opening.amount == 0 {
            self.blocked = Some("AUTHORIZATION_VOIDED".to_owned()); // no sum can tell [D 12 #17]
        }
    }
}
