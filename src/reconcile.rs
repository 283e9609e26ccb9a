//! Finds out what became of operations in doubt by reading the PSP. It sends
//! nothing that could move money twice: only a void, or a capture that cannot
//! fit twice, is sent again, and only where that was allowed (T12).

pub mod decide;
pub mod hint;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::conclude::{Conclude, sought};
use crate::journal::{
    Journal,
    entry::{Entry, Event, State},
};
use crate::payment::id::OperationId;
use crate::psp::{Psp, judge::judge};
use crate::reconcile::decide::{Rules, decide, may_resend};

/// How often the journal is asked what is due.
const TICK: Duration = Duration::from_millis(200);

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
    /// Reads on schedule: a limit of their own, below live traffic.
    scheduled: Arc<Semaphore>,
    /// Reads that a caller waits for: they do not queue behind the schedule.
    awaited: Semaphore,
    looking: Mutex<HashMap<OperationId, CancellationToken>>,
}

impl<J: Journal, P: Psp> ReadBack<J, P> {
    /// At most `in_flight_max` reads on schedule at once, and as many for
    /// callers.
    pub fn new(conclude: Conclude<J, P>, rules: Rules, resend: Resend, in_flight_max: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                conclude,
                rules,
                resend,
                scheduled: Arc::new(Semaphore::new(in_flight_max)),
                awaited: Semaphore::new(in_flight_max),
                looking: Mutex::default(),
            }),
        }
    }

    /// Looks at an open entry now and returns it as it stands then. Looks at
    /// the same operation share one read.
    pub async fn look(&self, entry: Entry) -> Entry {
        let Ok(_permit) = self.shared.awaited.acquire().await else { return entry };
        self.look_once(entry).await
    }

    /// Reads back whatever is due, until stopped.
    pub async fn run(self, stop: CancellationToken) {
        self.run_every(TICK, stop).await;
    }

    /// The same, asking the journal every `tick`.
    pub async fn run_every(self, tick: Duration, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let mut tick = tokio::time::interval(tick);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let free = self.shared.scheduled.available_permits();
            let now = self.shared.conclude.clock.now();
            // Those that are being looked at are still due: ask for more.
            let busy = self.shared.looking.lock().unwrap_or_else(PoisonError::into_inner).len();
            let most = free.saturating_add(busy);
            let due = match self.shared.conclude.journal.due(now, most).await {
                Ok(due) => due,
                Err(error) => {
                    tracing::warn!(%error, "what is due could not be read");
                    continue;
                }
            };
            for entry in due {
                if self.is_looking(entry.id) {
                    continue;
                }
                let Ok(permit) = Arc::clone(&self.shared.scheduled).try_acquire_owned() else { break };
                let read_back = self.clone();
                tasks.spawn(async move {
                    read_back.look_once(entry).await;
                    drop(permit);
                });
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    fn is_looking(&self, id: OperationId) -> bool {
        self.shared.looking.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&id)
    }

    async fn look_once(&self, entry: Entry) -> Entry {
        let id = entry.id;
        let over = CancellationToken::new();
        let other = {
            let mut looking = self.shared.looking.lock().unwrap_or_else(PoisonError::into_inner);
            match looking.get(&id) {
                Some(other) => Some(other.clone()),
                None => {
                    looking.insert(id, over.clone());
                    None
                }
            }
        };
        if let Some(other) = other {
            other.cancelled().await;
            return self.current(entry).await;
        }
        let _looking = Looking { shared: &self.shared, id, over };
        // A look that has just ended may have learned something, such as that
        // the PSP wants to be left alone.
        let entry = self.current(entry).await;
        self.read(entry).await
    }

    /// The entry as it is stored now, or as it was known.
    async fn current(&self, entry: Entry) -> Entry {
        match self.shared.conclude.journal.get(entry.id).await {
            Ok(Some(current)) => current,
            _ => entry,
        }
    }

    async fn read(&self, entry: Entry) -> Entry {
        let Shared { conclude, rules, resend, .. } = &*self.shared;
        let mut entry = entry;
        if entry.state.is_sending() {
            if entry.lease_until > conclude.clock.now() {
                return entry;
            }
            let why = "nothing was heard of the sender".to_owned();
            let event = if wrong!(ResendAfterLease) { Event::NotSent { why } } else { Event::doubted(why) };
            entry = self.write(entry, &event).await;
        }
        let issued_at = conclude.clock.now();
        // Not even for a caller who waits: the PSP asked to be left alone.
        if !entry.state.is_open() || entry.reading.not_before.is_some_and(|at| at > issued_at) {
            return entry;
        }
        let read = conclude.psp.read(&entry.operation.transaction).await;
        let tag = entry.tag();
        let verdict = read.as_ref().map(|on| judge(&sought(&entry, &tag), on)).map_err(Clone::clone);
        let event = decide(&entry, verdict, issued_at, rules);
        let again = read.is_ok_and(|on| may_resend(&entry, &event, &on, issued_at, rules));
        let before = entry.state.as_str();
        let mut entry = self.write(entry, &event).await;
        if again && matches!(entry.state, State::InDoubt { .. }) {
            tracing::info!(operation_id = %entry.id, "sent again: twice would be harmless");
            entry = resend(entry.clone()).await.unwrap_or(entry);
        }
        if entry.state.as_str() != before {
            tracing::info!(
                operation_id = %entry.id, transaction_id = %entry.operation.transaction,
                kind = %entry.operation.kind(), before, state = entry.state.as_str(),
                reads = entry.reading.made, "an open operation was read back"
            );
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
