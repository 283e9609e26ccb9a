//! Faults on request: what may go wrong, where, and how often.
//!
//! A request passes four stages, and takes at most one fault in each: the oldest that fits. So two faults of one
//! stage strike one request after the other, and faults of different stages combine.

mod parse;

pub use parse::parse;

use std::time::Duration;

use http::StatusCode;
use serde::Serialize;

use super::failure::Failure;
use super::ledger::Completion;
use super::random;
use super::wire::Object;

/// The most faults that wait at a time.
pub const FAULTS_MAX: usize = 10_000;

/// What goes wrong, by the stage in which it does.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The request never reaches Dintero's books.
    Admission(Admission),
    /// The operation is carried out in another way.
    Application(Application),
    /// GET shows the transaction as it was before, for so long `[D 12 #6]`.
    ReadLag(Duration),
    /// The answer goes wrong; what was asked is done.
    Delivery(Delivery),
    /// The webhook that tells of a change goes wrong; the change does not `[D 10.1]`.
    Hook(Hook),
}

/// Before anything is looked at.
#[derive(Clone, Debug)]
pub enum Admission {
    /// No answer. With `true` by a reset, else by an orderly close.
    Lost(bool),
    /// An error answer.
    Refused { status: StatusCode, code: String, message: String },
    /// 429 `[D 12 #18]`. `http_date` chooses the other form of `Retry-After`.
    RateLimited { retry_after: u64, http_date: bool },
    /// A redirect; to the same address, when no location is given.
    Redirect { status: StatusCode, location: Option<String> },
    /// The caller is answered at once, with a status or by a close; the request arrives later. Its token is checked
    /// when it arrives.
    Delayed { delay: Duration, answer: Option<StatusCode> },
}

/// While the operation is carried out. Strikes capture, refund and void only.
#[derive(Clone, Debug)]
pub enum Application {
    /// A failed event, answered with this status `[D 5.3]` `[D 12 #1]`.
    Fails { failure: Failure, status: StatusCode },
    /// Refused with an error body; perhaps with a failed event `[D 12 #1]`.
    Declined { status: StatusCode, code: String, failure: Failure, leave_failed_event: bool },
    /// 202, and a later end. Any product may do so `[D 12 #11]`.
    AcceptedThen(Completion),
    /// Another amount moves.
    WrongAmount(i64),
    /// `success` says this, `correction` the opposite.
    Contradicting(bool),
    /// A middlebox repeats the request. With `true` the caller gets the answer to the first.
    Duplicate(bool),
    /// A person in Backoffice captures first.
    BackofficeCaptureBefore(i64),
    /// The event does not carry the caller's reference.
    WithoutReference,
}

/// On the way back.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// No answer. With `true` by a reset, else by an orderly close.
    Lost(bool),
    /// The answer comes late.
    Delayed(Duration),
    /// An error answer, although what was asked is done `[D 12 #2]`. On a capture, 503 is described as a conflict
    /// with another operation, which tells as little about this one `[D 3.5]` `[D 12 #21]`.
    Error { status: StatusCode, code: String, message: String },
    /// Statuses, events, types and fields that no documentation knows.
    UnknownEnumValues,
    /// A proxy's page.
    Html(StatusCode),
    /// A TCP reset after so many bytes of the answer, headers included.
    ResetAtByte(usize),
    /// A body of so many bytes.
    HugeBody(usize),
    /// Half of the body, as if it were whole.
    TruncatedJson,
    /// The body in pieces of so many bytes, a pause after each.
    SlowDrip { bytes: usize, pause: Duration },
}

/// Beside the way back: the webhook.
#[derive(Clone, Copy, Debug)]
pub enum Hook {
    /// Never sent.
    Lost,
    /// Sent twice, as one and the same delivery.
    Duplicated,
    /// Signed with another secret, at each attempt.
    WrongSignature,
    /// Sent before GET shows what it is about, by so long `[D 12 #6]`.
    Early(Duration),
}

/// Which requests a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target(&'static str);

/// A fault that waits for its requests.
#[derive(Debug)]
pub struct Waiting {
    target: Target,
    transaction: Option<String>,
    /// Lets so many candidates pass first.
    skip: u64,
    /// How many strikes are left; no end when absent.
    left: Option<u64>,
    /// In parts of 2^32; always, when absent.
    threshold: Option<u64>,
    name: &'static str,
    fault: Fault,
    asked: Object,
}

/// A fault as `GET /faults` shows it.
#[derive(Debug, Serialize)]
pub struct Shown<'a> {
    id: u64,
    hits: u64,
    left: Option<u64>,
    #[serde(flatten)]
    asked: &'a Object,
}

/// All faults that wait.
#[derive(Debug)]
pub struct Faults {
    seed: u64,
    next: u64,
    waiting: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    candidates: u64,
    hits: u64,
    waiting: Waiting,
}

impl Target {
    /// The names that `operation` may have.
    pub const NAMES: [&'static str; 9] =
        ["any", "money", "capture", "refund", "void", "get", "list", "token", "authorization"];

    fn fits(self, operation: &str) -> bool {
        match self.0 {
            "any" => true,
            "money" => matches!(operation, "capture" | "refund" | "void"),
            name => name == operation,
        }
    }

    fn moves_money(self) -> bool {
        matches!(self.0, "any" | "money" | "capture" | "refund" | "void")
    }
}

impl Faults {
    /// No fault waits. Faults with a probability strike as `seed` has it.
    pub fn new(seed: u64) -> Self {
        Self { seed, next: 1, waiting: Vec::new() }
    }

    /// Adds a fault and names it; `None` when too many wait.
    pub fn add(&mut self, waiting: Waiting) -> Option<u64> {
        if self.waiting.len() >= FAULTS_MAX {
            return None;
        }
        let id = self.next;
        self.next += 1;
        self.waiting.push(Entry { id, candidates: 0, hits: 0, waiting });
        Some(id)
    }

    /// Removes one fault, or all. Says how many.
    pub fn remove(&mut self, id: Option<u64>) -> usize {
        let before = self.waiting.len();
        self.waiting.retain(|entry| id.is_some_and(|id| entry.id != id));
        before - self.waiting.len()
    }

    /// The faults that wait, the oldest first.
    pub fn shown(&self) -> Vec<Shown<'_>> {
        let show = |entry: &'_ Entry| (entry.id, entry.hits, entry.waiting.left);
        self.waiting
            .iter()
            .map(|entry| (show(entry), &entry.waiting.asked))
            .map(|((id, hits, left), asked)| Shown { id, hits, left, asked })
            .collect()
    }

    /// The fault that strikes this request in the stage that `pick` picks, and its name.
    pub fn take<T>(
        &mut self,
        operation: &str,
        transaction: Option<&str>,
        pick: impl Fn(&Fault) -> Option<T>,
    ) -> Option<(T, &'static str)> {
        let seed = self.seed;
        let mut struck = None;
        for entry in &mut self.waiting {
            let waiting = &mut entry.waiting;
            let elsewhere = waiting.transaction.is_some() && waiting.transaction.as_deref() != transaction;
            if elsewhere || !waiting.target.fits(operation) {
                continue;
            }
            let Some(fault) = pick(&waiting.fault) else { continue };
            entry.candidates += 1;
            let passes = entry.candidates <= waiting.skip
                || waiting
                    .threshold
                    .is_some_and(|most| u64::from(random::draw(seed, entry.id, entry.candidates)) >= most);
            if passes {
                continue;
            }
            entry.hits += 1;
            waiting.left = waiting.left.map(|left| left.saturating_sub(1));
            struck = Some((fault, waiting.name));
            break;
        }
        self.waiting.retain(|entry| entry.waiting.left != Some(0));
        struck
    }
}
