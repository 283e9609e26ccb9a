//! Finds out what became of operations in doubt by reading the PSP. It sends
//! nothing that could move money twice: only a void, or a capture that cannot
//! fit twice, is sent again, and only where that was allowed (T12).

pub mod decide;
pub mod hint;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use opentelemetry::{KeyValue, trace::FutureExt as _};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::clock::Timestamp;
use crate::conclude::{Conclude, sought};
use crate::journal::{
    Journal,
    entry::{Entry, Event, State},
};
use crate::payment::{fresh, id::OperationId};
use crate::psp::{Psp, judge::judge};
use crate::reconcile::decide::{Rules, decide, may_resend};
use crate::trace::{self, Tracer};

/// How often the journal is asked what is due.
const TICK: Duration = Duration::from_millis(200);

/// Looks that may be under way for each place for a read: some are being read,
/// the others being written.
const LOOKS: usize = 4;

/// How many each place for a read has waiting for it, at most.
const BATCH: usize = 8;

/// Out of how many times as many those are chosen: the more, the less often two
/// processes choose the same.
const CHOICE: usize = 8;

/// Sends an operation in doubt once more (T12) and returns it as it stands then.
pub type Resend = Arc<dyn Fn(Entry) -> BoxFuture<'static, Option<Entry>> + Send + Sync>;

/// Reads back, on schedule and for callers who wait.
pub struct ReadBack<J, P> {
    shared: Arc<Shared<J, P>>,
}

struct Shared<J, P> {
    conclude: Conclude<J, P>,
    rules: Rules,
    resend: Resend,
    in_flight_max: usize,
    tracer: Tracer,
    /// Where in a backlog this process begins.
    begins_at: u128,
    /// Reads on schedule: a limit of their own, below live traffic.
    scheduled: Arc<Semaphore>,
    /// Looks on schedule, from the read to its record.
    looks: Arc<Semaphore>,
    /// Reads that a caller waits for: they do not queue behind the schedule.
    awaited: Semaphore,
    looking: Mutex<HashMap<OperationId, CancellationToken>>,
    /// The journal did not say what is due: told once, and once when it does.
    unread: AtomicBool,
}

impl<J: Journal, P: Psp> ReadBack<J, P> {
    /// At most `in_flight_max` reads on schedule at once, and as many for
    /// callers.
    pub fn new(
        conclude: Conclude<J, P>,
        rules: Rules,
        resend: Resend,
        in_flight_max: usize,
        tracer: Tracer,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                tracer,
                conclude,
                rules,
                resend,
                in_flight_max,
                begins_at: fresh::uuid_v4().as_u128(),
                scheduled: Arc::new(Semaphore::new(in_flight_max)),
                looks: Arc::new(Semaphore::new(in_flight_max.saturating_mul(LOOKS))),
                awaited: Semaphore::new(in_flight_max),
                looking: Mutex::default(),
                unread: AtomicBool::new(false),
            }),
        }
    }

    /// Looks at an open entry now and returns it as it stands then. Looks at
    /// the same operation share one read.
    pub async fn look(&self, entry: Entry) -> Entry {
        let Ok(place) = self.shared.awaited.acquire().await else { return entry };
        self.look_once(entry, place).await
    }

    /// Whether the operation may be looked at: its sender was heard of, or is
    /// taken for dead.
    pub fn may_look(&self, entry: &Entry) -> bool {
        !entry.state.is_sending() || entry.lease_until <= self.shared.conclude.clock.now()
    }

    /// The operation once it may be looked at. None where the journal does not
    /// say.
    pub async fn heard_of(&self, id: OperationId) -> Option<Entry> {
        let Conclude { journal, clock, .. } = &self.shared.conclude;
        // Before the first look: a change in between is not missed.
        let mut changes = journal.changes(id);
        loop {
            let entry = journal.get(id).await.ok()??;
            if self.may_look(&entry) {
                return Some(entry);
            }
            let left = entry.lease_until.since(clock.now());
            // The lease is over one day, whether or not a change is heard of.
            if let Ok(Err(_)) = tokio::time::timeout(left, changes.changed()).await {
                return None;
            }
        }
    }

    /// Reads back whatever is due, until stopped.
    pub async fn run(self, stop: CancellationToken) {
        self.run_every(TICK, stop).await;
    }

    /// The same, asking the journal every `tick`, and meanwhile whenever it had
    /// more than was asked for: a backlog is worked off as fast as reads may go.
    pub async fn run_every(self, tick: Duration, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let mut tick = tokio::time::interval(tick);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            if stop.run_until_cancelled(self.work_off(&tasks)).await.is_none() {
                break;
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    /// Looks at what is due, each as soon as there is a place for it. Ends where
    /// one stays due, since its look could not be recorded: it would be read
    /// again and again.
    async fn work_off(&self, tasks: &TaskTracker) {
        let most = self.shared.in_flight_max.saturating_mul(BATCH);
        let held_up = Arc::new(AtomicBool::new(false));
        loop {
            let now = self.shared.conclude.clock.now();
            let due = self.due(now, most).await;
            let is_all = due.len() < most;
            for entry in due {
                let Ok(look) = Arc::clone(&self.shared.looks).acquire_owned().await else { return };
                let Ok(place) = Arc::clone(&self.shared.scheduled).acquire_owned().await else { return };
                if held_up.load(Ordering::Acquire) {
                    return;
                }
                let (read_back, held_up) = (self.clone(), Arc::clone(&held_up));
                tasks.spawn(async move {
                    let stays_due = read_back.look_if_due(entry, now, place).await;
                    held_up.fetch_or(stays_due, Ordering::AcqRel);
                    drop(look);
                });
            }
            if is_all {
                return;
            }
        }
    }

    /// Of the longest due that nobody looks at, `most` at most. Processes that
    /// share a journal each take those nearest to a point of their own, so that
    /// they do not all read the same.
    async fn due(&self, now: Timestamp, most: usize) -> Vec<Entry> {
        let Shared { conclude, looking, begins_at, unread, .. } = &*self.shared;
        // Those that are being looked at are still due: ask for more.
        let busy = looking.lock().unwrap_or_else(PoisonError::into_inner).len();
        let choice = if conclude.journal.is_shared() { CHOICE } else { 1 };
        let due = conclude.journal.due(now, most.saturating_mul(choice).saturating_add(busy)).await;
        let was_unread = unread.swap(due.is_err(), Ordering::AcqRel);
        let mut due = match due {
            Ok(due) => due,
            Err(error) => {
                if !was_unread {
                    tracing::warn!(%error, "what is due cannot be read: it is tried again");
                }
                return Vec::new();
            }
        };
        if was_unread {
            tracing::info!("what is due can be read again");
        }
        let looking = looking.lock().unwrap_or_else(PoisonError::into_inner);
        due.retain(|entry| !looking.contains_key(&entry.id));
        if conclude.journal.is_shared() {
            due.sort_unstable_by_key(|entry| entry.nonce.as_u128() ^ begins_at);
        }
        due.truncate(most);
        due
    }

    /// Looks at an entry that was due at `now` and has waited for its place,
    /// unless somebody else was faster. Says whether that changed nothing.
    async fn look_if_due(&self, listed: Entry, now: Timestamp, place: impl Send) -> bool {
        let is_due = |entry: &Entry| entry.reading.next_at.is_some_and(|at| at <= now);
        let Ok(_looking) = self.begin(listed.id) else { return false };
        let entry = self.current(listed).await;
        is_due(&entry) && is_due(&self.read(entry, place).await)
    }

    async fn look_once(&self, entry: Entry, place: impl Send) -> Entry {
        match self.begin(entry.id) {
            Ok(_looking) => {
                // A look that has just ended may have learned something, such as
                // that the PSP wants to be left alone.
                let entry = self.current(entry).await;
                self.read(entry, place).await
            }
            Err(other) => {
                other.cancelled().await;
                self.current(entry).await
            }
        }
    }

    /// Begins a look, or says when the one under way is over.
    fn begin(&self, id: OperationId) -> Result<Looking<'_, J, P>, CancellationToken> {
        let mut looking = self.shared.looking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = looking.get(&id) {
            return Err(other.clone());
        }
        let over = CancellationToken::new();
        looking.insert(id, over.clone());
        Ok(Looking { shared: &self.shared, id, over })
    }

    /// The entry as it is stored now, or as it was known.
    async fn current(&self, entry: Entry) -> Entry {
        match self.shared.conclude.journal.get(entry.id).await {
            Ok(Some(current)) => current,
            _ => entry,
        }
    }

    async fn read(&self, entry: Entry, place: impl Send) -> Entry {
        if !self.may_look(&entry) {
            return entry;
        }
        let traced = self.shared.tracer.on_behalf("read back", entry.traced.as_ref(), || {
            let id = KeyValue::new("payops.operation.id", entry.id.to_string());
            trace::operation(&entry.operation).into_iter().chain([id]).collect()
        });
        async {
            let entry = Box::pin(self.read_traced(entry, place)).await;
            trace::describe(|| [KeyValue::new(trace::STATE, entry.state.as_str())]);
            entry
        }
        .with_context(traced)
        .await
    }

    /// Gives the place back as soon as the PSP has answered: the next read need
    /// not wait until the journal has this one.
    async fn read_traced(&self, entry: Entry, place: impl Send) -> Entry {
        let Shared { conclude, rules, resend, .. } = &*self.shared;
        let mut entry = entry;
        if entry.state.is_sending() {
            let why = "nothing was heard of the sender".to_owned();
            let event = if wrong!(ResendAfterLease) { Event::NotSent { why } } else { Event::doubted(why) };
            entry = self.write(entry, &event).await;
            // That could not be recorded, or somebody else began an attempt:
            // a sender may be alive still.
            if entry.state.is_sending() {
                return entry;
            }
        }
        let issued_at = conclude.clock.now();
        // Not even for a caller who waits: the PSP asked to be left alone.
        if !entry.state.is_open() || entry.reading.not_before.is_some_and(|at| at > issued_at) {
            return entry;
        }
        let read = conclude.psp.read(&entry.operation.transaction).await;
        drop(place);
        let tag = entry.tag();
        let verdict = read.as_ref().map(|on| judge(&sought(&entry, &tag), on)).map_err(Clone::clone);
        let event = decide(&entry, verdict, issued_at, rules);
        let again = read.is_ok_and(|on| may_resend(&entry, &event, &on, issued_at, rules));
        let mut entry = self.write(entry, &event).await;
        if again && matches!(entry.state, State::InDoubt { .. }) {
            tracing::info!(operation_id = %entry.id, "sent again: twice would be harmless");
            entry = resend(entry.clone()).await.unwrap_or(entry);
        }
        entry
    }

    async fn write(&self, entry: Entry, event: &Event) -> Entry {
        let fallback = entry.clone();
        // A failure is logged where it happens; the entry stays due.
        self.shared.conclude.write(entry, event).await.unwrap_or(fallback)
    }
}

/// Says that the look is over, however it ended.
struct Looking<'a, J, P> {
    shared: &'a Shared<J, P>,
    id: OperationId,
    over: CancellationToken,
}

impl<J, P> Drop for Looking<'_, J, P> {
    fn drop(&mut self) {
        self.shared.looking.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.over.cancel();
    }
}

impl<J, P> Clone for ReadBack<J, P> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

#[cfg(test)]
mod tests;
