//! What payops remembers: one entry per (caller, key). The trait is small
//! enough that a backend cannot have opinions: every decision about states is
//! in [`entry`], pure; a backend keeps entries, holds two uniqueness rules and
//! compares before it sets.

pub mod audit;
pub mod embedded;
pub mod entry;
pub mod follow;
mod hub;
pub mod postgres;
mod record;
mod tally;
pub mod transfer;

use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Timestamp;
use crate::journal::audit::{Head, Record};
use crate::journal::entry::{Entry, Event, Schedule, Tally};
use crate::payment::id::{AccountId, CallerName, IdempotencyKey, OperationId, TransactionId};

/// A durable journal.
///
/// # Correctness
///
/// - A write that is acknowledged survives everything but the loss of the disk,
///   or of both machines.
/// - At most one entry per (caller, key), and at most one *open* entry per
///   transaction: the slot.
/// - The sum of a day is changed together with the entry that counts towards
///   it, or not at all, and no attempt that begins takes it beyond its limit.
/// - A change is written only over the revision that it was made from.
pub trait Journal: Clone + Send + Sync + 'static {
    /// The entry of a key.
    fn find(
        &self,
        caller: &CallerName,
        key: &IdempotencyKey,
    ) -> impl Future<Output = Result<Option<Entry>, Error>> + Send;

    /// The entry of a key, where that is known without asking anybody. That
    /// there is none says nothing: the first write finds out.
    fn recall(
        &self,
        caller: &CallerName,
        key: &IdempotencyKey,
    ) -> impl Future<Output = Result<Option<Entry>, Error>> + Send {
        self.find(caller, key)
    }

    /// The entry of an operation.
    fn get(&self, id: OperationId) -> impl Future<Output = Result<Option<Entry>, Error>> + Send;

    /// Writes a first entry, if key and slot are free.
    fn insert(&self, entry: Entry) -> impl Future<Output = Result<Written, Error>> + Send;

    /// Writes a change over the revision before it.
    fn update(&self, entry: Entry) -> impl Future<Output = Result<Written, Error>> + Send;

    /// Open entries whose time to be looked at has come, the longest due first.
    fn due(&self, now: Timestamp, most: usize) -> impl Future<Output = Result<Vec<Entry>, Error>> + Send;

    /// The open entry of a transaction.
    fn open_on(
        &self,
        transaction: &TransactionId,
    ) -> impl Future<Output = Result<Option<Entry>, Error>> + Send;

    /// Entries that fit the filter, the youngest first, from below `before` on.
    fn list(
        &self,
        filter: &Filter,
        before: Option<OperationId>,
        most: usize,
    ) -> impl Future<Output = Result<Vec<Entry>, Error>> + Send;

    /// Since when this journal cannot be trusted to know every key.
    fn loss(&self) -> Option<Loss>;

    /// What is left of a key whose entry is forgotten.
    fn tombstone(
        &self,
        caller: &CallerName,
        key: &IdempotencyKey,
    ) -> impl Future<Output = Result<Option<Tombstone>, Error>> + Send;

    /// Forgets entries that are over and have not changed for as long as the
    /// journal remembers, and takes away what is left of them where it can: at
    /// most `most`, the longest unchanged first. Says how many. A key that does
    /// not tell its age leaves a [`Tombstone`].
    fn forget(&self, most: usize) -> impl Future<Output = Result<usize, Error>> + Send;

    /// A key that was minted before then, and that the journal does not know,
    /// may be one that it has forgotten.
    fn remembers_since(&self) -> Timestamp;

    /// What counts of that sum.
    fn spent(&self, tally: &Tally) -> impl Future<Output = Result<i64, Error>> + Send;

    /// Marks each written change of an operation.
    fn changes(&self, id: OperationId) -> watch::Receiver<u64>;

    /// How many operations are open, by state.
    fn open_states(&self) -> impl Future<Output = Result<Vec<OpenState>, Error>> + Send;

    /// Adds to the audit what is no write of an entry.
    fn note(&self, notes: Vec<Record>) -> impl Future<Output = Result<(), Error>> + Send;

    /// How far this process has written the audit.
    fn head(&self) -> Option<Head>;

    /// How many writes of this process wait for one that is under way.
    fn waiting(&self) -> usize {
        0
    }

    /// Whether other processes work off the same journal.
    fn is_shared(&self) -> bool {
        false
    }

    /// Whether a standby has what is acknowledged. Nothing where there can be
    /// none.
    fn has_standby(&self) -> Option<bool> {
        None
    }

    /// Whether this process must not write any more, because what it knows of
    /// the journal may be wrong: it has to end.
    fn is_broken(&self) -> bool {
        false
    }

    /// Whether a write would succeed now.
    fn check(&self) -> impl Future<Output = Result<(), Error>> + Send;
}

/// What is said of a journal outside of it, wherever it is kept.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Nothing was ever sent: that there is no journal yet is no loss.
    pub new: bool,
    /// How often it was lost, from 1. Less than this in the journal: an older
    /// copy.
    pub generation: u32,
    /// How long what is over is remembered.
    pub retention: Duration,
    /// How long after a loss nothing is sent under a key that may be older.
    pub loss_quiet: Duration,
    /// How long the token of a lost attempt may live.
    pub loss_fence: Duration,
    /// How far the clocks of those who mint keys may be ahead.
    pub key_clock_leeway: Duration,
}

impl Terms {
    /// Of a journal at its beginning, with the times that the configuration has
    /// by default: for tests and trials.
    pub fn beginning() -> Self {
        Self {
            new: true,
            generation: 1,
            retention: Duration::from_hours(90 * 24),
            loss_quiet: Duration::from_mins(20),
            loss_fence: Duration::from_hours(24),
            key_clock_leeway: Duration::from_mins(10),
        }
    }
}

/// Which entries are asked for. What is not set does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// In any of these states, by the word of [`entry::State::as_str`]; empty
    /// for all.
    pub states: Vec<&'static str>,
    /// On transactions of this account.
    pub account: Option<AccountId>,
    /// On this transaction.
    pub transaction: Option<TransactionId>,
    /// Of this caller.
    pub caller: Option<CallerName>,
    /// First written then or later.
    pub from: Option<Timestamp>,
    /// First written before then.
    pub until: Option<Timestamp>,
}

/// The open operations in one state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenState {
    /// In the word of journals.
    pub state: String,
    /// How many there are.
    pub count: u64,
    /// Since when the oldest of them is in it.
    pub since: Timestamp,
}

/// The journal is not the one that was written last: it was lost, or an older
/// copy came back. Keys that it does not know may have moved money.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Nothing written before then is surely known.
    pub at: Timestamp,
    /// Until then a request that left before the loss may still take effect:
    /// nothing is sent under a key that may be older than the loss.
    pub quiet_until: Timestamp,
    /// How far the clocks of those who mint keys may be ahead of ours.
    pub clock_leeway: Duration,
}

impl Loss {
    /// Whether the key was surely minted after the loss, so that no request of
    /// it can be forgotten: only a `UUIDv7` tells.
    pub fn is_before(&self, key: &IdempotencyKey, now: Timestamp) -> bool {
        let Some(minted_at) = key.minted_at() else { return false };
        minted_at > (self.at + self.clock_leeway).0 && minted_at <= (now + self.clock_leeway).0
    }

    /// Whether what became of an entry that was written then may be lost. Who
    /// dated it may have been ahead of who dated the loss.
    pub fn may_hide_more(&self, written_at: Timestamp) -> bool {
        written_at <= self.at + self.clock_leeway
    }
}

/// A key whose entry was forgotten because of its age. It is never run again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The state in which the entry was, in the word of journals.
    pub state: String,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq)]
pub enum Written {
    /// It is durable.
    Done,
    /// The key has this entry already (insert).
    KeyTaken(Box<Entry>),
    /// The transaction has this open entry already.
    Busy(Box<Entry>),
    /// Somebody else changed the entry meanwhile (update).
    Stale,
    /// The key had an entry, which is forgotten (insert).
    Forgotten(Tombstone),
    /// The key is so old that it may have had an entry (insert).
    Expired,
    /// The attempt would take the sum of its day beyond what it may be.
    Beyond {
        /// What counts of that sum now, in minor units.
        spent: i64,
    },
}

/// The journal could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing was written.
    #[error("the journal cannot be used: {0}")]
    Unavailable(String),
    /// Whether it was written is unknown.
    #[error("the journal did not confirm the write: {0}")]
    Unconfirmed(String),
    /// What is stored is not what was written.
    #[error("the journal is damaged: {0}")]
    Corrupt(String),
    /// A change that the state machine does not know.
    #[error(transparent)]
    Illegal(#[from] entry::Illegal),
}

/// Applies `event` to the entry and writes it, again on what is stored now if
/// somebody was faster. A fact lands whatever happened meanwhile; a judgement
/// about an attempt that is over is dropped, and what is stored is returned.
/// The nonce tells attempts apart: after a loss numbers are given out again.
pub async fn advance<J: Journal>(
    journal: &J,
    mut entry: Entry,
    event: &Event,
    now: Timestamp,
    schedule: &Schedule,
) -> Result<Entry, Error> {
    let nonce = entry.nonce;
    let (id, made) = (entry.id, entry.made.clone());
    loop {
        let next = match entry.after(event, now, schedule) {
            Ok(Some(next)) => next,
            Ok(None) => return Ok(entry),
            // The view was old: what is stored stands.
            Err(_) if entry.nonce != nonce => return Ok(entry),
            Err(illegal) => return Err(illegal.into()),
        };
        match journal.update(next.clone()).await? {
            Written::Done => {
                page(&entry, &next);
                tell(&entry, &next);
                return Ok(next);
            }
            Written::Busy(_) => {
                // An effect after a decline, while another operation is open.
                // It cannot be recorded now, and must not go unseen.
                page(&entry, &next);
                return Err(Error::Unavailable("the transaction's slot is taken".to_owned()));
            }
            // Whoever goes on with an attempt is counted already.
            Written::Beyond { .. } => {
                return Err(Error::Unavailable("the sum of the day has no room".to_owned()));
            }
            Written::Stale | Written::KeyTaken(_) | Written::Forgotten(_) | Written::Expired => {}
        }
        let missing = || Error::Corrupt(format!("entry {id} has disappeared"));
        entry = journal.get(id).await?.ok_or_else(missing)?;
        entry.made.clone_from(&made);
        if entry.nonce != nonce && !event.is_fact() && !wrong!(JudgementWithoutAttempt) {
            return Ok(entry);
        }
        if entry.after(event, now, schedule).is_err() {
            page_disputed(&entry, event);
            return Ok(entry);
        }
    }
}

/// One line for each operation at its end, and for each doubt on the way: whatever
/// an incident needs.
fn tell(before: &Entry, after: &Entry) {
    use crate::journal::entry::State;
    if before.state.as_str() == after.state.as_str() || after.state.is_sending() {
        return;
    }
    let psp_event_id = match &after.state {
        State::Succeeded(proof) => proof.event_id.as_deref(),
        _ => None,
    };
    let reason = match &after.state {
        State::Declined(decline) => Some(decline.reason.as_str()),
        _ => None,
    };
    let millis = |took: Duration| u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    macro_rules! line {
        ($level:expr) => {
            tracing::event!(
                $level,
                operation_id = %after.id,
                transaction_id = %after.operation.transaction,
                caller = %after.caller,
                kind = %after.operation.kind(),
                amount = after.operation.amount().map(crate::payment::Amount::minor),
                before = before.state.as_str(),
                state = after.state.as_str(),
                reason,
                why = after.state.why(),
                attempt = after.attempt,
                reads = before.reading.made,
                record_ms = after.made.took.record.map(millis),
                psp_ms = after.made.took.psp.map(millis),
                total_ms = millis(after.updated_at.since(after.created_at)),
                psp_event_id,
                trace_id = after.traced.as_ref().map(crate::payment::Traced::trace_id),
                "operation"
            )
        };
    }
    match after.state {
        State::InDoubt { .. } | State::Review { .. } => line!(tracing::Level::WARN),
        _ => line!(tracing::Level::INFO),
    }
}

/// What is settled with better evidence stays settled. But a contradiction,
/// such as more money than was asked for, is for a person to see all the same.
pub(crate) fn page_disputed(settled: &Entry, event: &Event) {
    if let Event::Contradicted { why } = event {
        tracing::error!(
            operation_id = %settled.id, transaction_id = %settled.operation.transaction,
            state = settled.state.as_str(), why,
            "evidence contradicts what is settled: a person has to look"
        );
    }
}

/// Money in doubt for good, or an assumption that broke: somebody has to look.
fn page(before: &Entry, after: &Entry) {
    use crate::journal::entry::State;
    let late = match (&before.state, &after.state) {
        (State::Released { .. }, State::Succeeded(proof)) if !proof.by_others => Some("given up"),
        (State::Declined(_), State::Review { .. }) => Some("declined"),
        _ => None,
    };
    if let Some(after_being) = late {
        tracing::error!(
            operation_id = %after.id, transaction_id = %after.operation.transaction,
            "an operation took effect after it had been {after_being}: an assumption about the PSP broke"
        );
    }
    if let (false, State::Review { why }) = (matches!(before.state, State::Review { .. }), &after.state) {
        tracing::error!(
            operation_id = %after.id, transaction_id = %after.operation.transaction, why,
            "an operation needs a person's review"
        );
    }
}
