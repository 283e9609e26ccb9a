//! The books: transactions, what is shown of them, and every effect that money operations had.
//!
//! Nothing here does I/O, sleeps or knows HTTP beyond status codes: time comes in as an argument.

mod apply;
mod authorize;
mod guard;
mod transaction;

pub use apply::{Completion, Done, Manner, Outcome};
pub use authorize::Authorize;
pub use transaction::{Lag, Opening, TestCard, Transaction};

use std::collections::{HashMap, VecDeque};

use jiff::Timestamp;
use serde::Serialize;

use super::random::Random;
use super::wire::{self, Item, Object, Refusal};

/// The most transactions that the sandbox keeps.
pub const TRANSACTIONS_MAX: usize = 1_000_000;

/// The most events of a transaction; beyond, nothing is done to it.
const EVENTS_MAX: usize = 10_000;

/// The most changes that wait to be told of: a request makes two at most.
const CHANGES_MAX: usize = 1_000;

/// A kind of money operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Takes authorized money.
    Capture,
    /// Gives captured money back.
    Refund,
    /// Releases what is authorized and not captured.
    Void,
}

impl Kind {
    /// The last part of the operation's path, and its name in the admin API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Refund => "refund",
            Self::Void => "void",
        }
    }

    /// The operation that bears this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Capture, Self::Refund, Self::Void].into_iter().find(|kind| kind.name() == name)
    }

    fn event(self) -> &'static str {
        match self {
            Self::Capture => "CAPTURE",
            Self::Refund => "REFUND",
            Self::Void => "VOID",
        }
    }

    fn initiation(self) -> &'static str {
        match self {
            Self::Capture => "INITIATE_CAPTURE",
            Self::Refund => "INITIATE_REFUND",
            Self::Void => "INITIATE_VOID",
        }
    }
}

/// Who caused an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A request of an API client.
    Api,
    /// A person in Dintero's Backoffice.
    Backoffice,
    /// Something between the API client and Dintero that sent the client's request again.
    Middlebox,
}

/// A money operation as it was asked for.
#[derive(Clone, Debug)]
pub struct Order {
    /// The transaction's id.
    pub transaction: String,
    /// What is to be done.
    pub kind: Kind,
    /// Minor units. A void has no amount: it releases all that is left, and this is ignored.
    pub amount: i64,
    /// `capture_reference` or `refund_reference`.
    pub reference: Option<String>,
    /// The lines that move.
    pub items: Vec<Item>,
    /// No capture will follow `[D 3.1]`.
    pub final_capture: bool,
    /// The terminal on which the cardholder approves a refund `[D 3.2]`.
    pub terminal_id: Option<String>,
    /// The caller's `ext_` fields.
    pub metadata: Object,
    /// Who asks.
    pub source: Source,
    /// The request's `User-Agent`.
    pub user_agent: Option<String>,
    /// The headers that the event echoes.
    pub request_headers: Object,
    /// The API client or the Backoffice user.
    pub created_by: String,
}

impl Order {
    /// An operation by a person in Backoffice: it carries no reference of any API client.
    pub fn backoffice(transaction: &str, kind: Kind, amount: i64) -> Self {
        let agent = "Mozilla/5.0 (Backoffice)";
        Self {
            transaction: transaction.to_owned(),
            kind,
            amount,
            reference: None,
            items: Vec::new(),
            final_capture: false,
            terminal_id: None,
            metadata: Object::new(),
            source: Source::Backoffice,
            user_agent: Some(agent.to_owned()),
            request_headers: Object::from_iter([("user-agent".to_owned(), agent.into())]),
            created_by: "backoffice-user".to_owned(),
        }
    }
}

/// Money that moved. The truth, whatever GET shows.
#[derive(Clone, Debug, Serialize)]
pub struct Effect {
    /// Counts effects from 1.
    pub sequence: u64,
    /// The transaction's id.
    pub transaction: String,
    /// What was done.
    pub kind: Kind,
    /// Minor units captured, refunded or released.
    pub amount: i64,
    /// The reference that the caller sent, if any; never a default.
    pub reference: Option<String>,
    /// The `request_id` of the event.
    pub request_id: String,
    /// The event's `id`.
    pub event_id: String,
    /// Who caused it.
    pub source: Source,
    /// The `User-Agent` of the request that caused it.
    pub user_agent: Option<String>,
    /// When.
    pub at: String,
}

/// What the documentation leaves open and a test may want otherwise.
#[expect(clippy::struct_excessive_bools, reason = "each switches a separate assumption")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// Events echo the request's `metadata` `[D 12 #13]`.
    pub echo_metadata: bool,
    /// A completing event repeats the `event_reference` `[D 12 #12]`.
    pub completion_repeats_reference: bool,
    /// The event that completes an accepted void names its initiation, as documented for the others `[D 12 #12]`.
    pub void_completion_correlates: bool,
    /// What is released no longer counts towards the status: captured in full, not in part `[D 12 #8]`.
    pub released_counts_as_captured: bool,
    /// `final_capture` also appends a `VOID` event for the rest `[D 12 #8]`.
    pub final_capture_adds_void_event: bool,
    /// How many effects are kept; the oldest go first.
    pub ledger_max: usize,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            echo_metadata: false,
            completion_repeats_reference: false,
            void_completion_correlates: true,
            released_counts_as_captured: false,
            final_capture_adds_void_event: false,
            ledger_max: 1_000_000,
        }
    }
}

/// All transactions of all accounts.
#[derive(Debug)]
pub struct Ledger {
    /// What is left open by the documentation.
    pub behaviour: Behaviour,
    transactions: HashMap<String, Transaction>,
    /// Ids, oldest first.
    order: Vec<String>,
    effects: VecDeque<Effect>,
    sequence: u64,
    /// What nobody was told of yet.
    changes: Vec<Change>,
    random: Random,
}

/// A transaction was created or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The transaction's id.
    pub transaction: String,
    /// `capture`, `refund`, `void`, or another word.
    pub operation: &'static str,
}

impl Ledger {
    /// Empty books, whose identifiers follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            behaviour: Behaviour::default(),
            transactions: HashMap::new(),
            order: Vec::new(),
            effects: VecDeque::new(),
            sequence: 0,
            changes: Vec::new(),
            random: Random::new(seed),
        }
    }

    /// Opens a transaction; its history of events fits its state. The error says what is wrong with `opening`.
    pub fn open(&mut self, opening: Opening, now: Timestamp) -> Result<&Transaction, String> {
        if self.transactions.len() >= TRANSACTIONS_MAX {
            return Err(format!("the sandbox holds {TRANSACTIONS_MAX} transactions; POST /sandbox/v1/reset"));
        }
        let suffix = self.random.alphanumeric(22);
        let id = opening.id.clone().unwrap_or_else(|| format!("{}.{suffix}", opening.account));
        if self.transactions.contains_key(&id) {
            return Err(format!("transaction {id} exists; leave the id out, or choose another"));
        }
        let transaction = Transaction::open(id.clone(), opening, &mut self.random, now);
        self.order.push(id.clone());
        self.changed(&id, "create");
        Ok(self.transactions.entry(id).or_insert(transaction))
    }

    /// The transaction.
    pub fn get(&self, id: &str) -> Result<&Transaction, Refusal> {
        self.transactions.get(id).ok_or_else(Refusal::not_found)
    }

    /// The transaction, to be changed.
    pub fn get_mut(&mut self, id: &str) -> Result<&mut Transaction, Refusal> {
        self.transactions.get_mut(id).ok_or_else(Refusal::not_found)
    }

    /// All transactions, the newest first. The order is not documented `[D 12 #19]`.
    pub fn newest_first(&self) -> impl Iterator<Item = &Transaction> {
        self.order.iter().rev().filter_map(|id| self.transactions.get(id))
    }

    /// What moved, the oldest first; of one transaction or of all.
    pub fn effects<'a>(&'a self, transaction: Option<&'a str>) -> impl Iterator<Item = &'a Effect> {
        self.effects.iter().filter(move |effect| transaction.is_none_or(|id| effect.transaction == id))
    }

    /// Appends an event exactly as given: GET shows it, and nothing else changes.
    pub fn append_raw(&mut self, id: &str, event: Object, now: Timestamp) -> Result<(), Refusal> {
        let transaction = self.get_mut(id)?;
        transaction.room_for_events()?;
        transaction.events.push(event);
        transaction.updated_at = now;
        self.changed(id, "event");
        Ok(())
    }

    /// Remembers a change, to be told of by whoever takes it.
    pub fn changed(&mut self, id: &str, operation: &'static str) {
        if self.changes.len() < CHANGES_MAX {
            self.changes.push(Change { transaction: id.to_owned(), operation });
        }
    }

    /// What has changed since this was asked last.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    fn record(&mut self, order: &Order, kind: Kind, amount: i64, ids: (&str, &str), now: Timestamp) {
        let (request_id, event_id) = ids;
        self.sequence += 1;
        self.effects.push_back(Effect {
            sequence: self.sequence,
            transaction: order.transaction.clone(),
            kind,
            amount,
            reference: order.reference.clone(),
            request_id: request_id.to_owned(),
            event_id: event_id.to_owned(),
            source: order.source,
            user_agent: order.user_agent.clone(),
            at: wire::time(now),
        });
        while self.effects.len() > self.behaviour.ledger_max {
            self.effects.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
