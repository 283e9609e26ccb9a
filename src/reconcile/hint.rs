//! Hints: somebody says that a transaction has changed. A hint is no evidence;
//! it only makes the open operation of that transaction be read now, and not
//! when the schedule has it. What the read shows is judged as always.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::journal::{Journal, entry::Entry};
use crate::payment::id::TransactionId;
use crate::psp::Psp;
use crate::reconcile::ReadBack;

/// Transactions that are followed at once; a hint about one more is dropped,
/// and the schedule will read it.
const TRANSACTIONS_MAX: usize = 1024;

/// When to look again after a look that showed nothing new: what a hint is
/// about may not be visible yet [D 12 #6]. After that the schedule goes on.
const LOOK_AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// Takes hints and follows them, off the path of whoever gives them.
pub struct Hints<J, P> {
    shared: Arc<Shared<J, P>>,
}

struct Shared<J, P> {
    read_back: ReadBack<J, P>,
    /// A limit of their own: hints take no place of a caller's or the
    /// schedule's.
    places: Semaphore,
    /// Each marks the hints about its transaction.
    followed: Mutex<HashMap<TransactionId, watch::Sender<()>>>,
    look_again: [Duration; 2],
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl<J: Journal, P: Psp> Hints<J, P> {
    /// At most `in_flight_max` reads at once, none after `stop`.
    pub fn new(read_back: ReadBack<J, P>, in_flight_max: usize, stop: CancellationToken) -> Self {
        Self {
            shared: Arc::new(Shared {
                read_back,
                places: Semaphore::new(in_flight_max),
                followed: Mutex::default(),
                look_again: LOOK_AGAIN,
                tasks: TaskTracker::new(),
                stop,
            }),
        }
    }

    /// Takes a hint; returns before anything is read.
    ///
    /// Hints about one transaction share the read that is yet to be issued. A
    /// hint that comes while a read is under way gets one more afterwards: that
    /// read may be older than what the hint is about.
    pub fn take(&self, transaction: TransactionId) {
        if self.shared.stop.is_cancelled() {
            return;
        }
        let mut followed = self.shared.followed();
        if let Some(hinted) = followed.get(&transaction) {
            hinted.send_replace(());
            return;
        }
        if followed.len() >= TRANSACTIONS_MAX {
            tracing::warn!(transaction_id = %transaction, "too many hints at once; it is read on schedule");
            return;
        }
        let (hinted, hints) = watch::channel(());
        followed.insert(transaction.clone(), hinted);
        let shared = Arc::clone(&self.shared);
        self.shared.tasks.spawn(async move {
            let stop = shared.stop.clone();
            stop.run_until_cancelled(shared.follow(transaction, hints)).await;
        });
    }

    /// Waits until nothing is followed any more; soon after the stop.
    pub async fn ended(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl<J: Journal, P: Psp> Shared<J, P> {
    async fn follow(&self, transaction: TransactionId, mut hints: watch::Receiver<()>) {
        let mut pauses = self.look_again.iter();
        loop {
            let settled = self.look(&transaction, &mut hints).await;
            let pause = if settled { None } else { pauses.next() };
            if let Some(pause) = pause {
                if tokio::time::timeout(*pause, hints.changed()).await.is_ok() {
                    pauses = self.look_again.iter();
                }
                continue;
            }
            let mut followed = self.followed();
            // Under the lock: no hint slips in between the look and the end.
            if !hints.has_changed().unwrap_or(false) {
                followed.remove(&transaction);
                return;
            }
            pauses = self.look_again.iter();
        }
    }

    /// Reads the open operation of the transaction, if there is one. Says
    /// whether that brought news, or none is to be had.
    async fn look(&self, transaction: &TransactionId, hints: &mut watch::Receiver<()>) -> bool {
        hints.mark_unchanged();
        let open = match self.read_back.shared.conclude.journal.open_on(transaction).await {
            Ok(open) => open,
            Err(error) => {
                tracing::warn!(transaction_id = %transaction, %error, "a hint could not be followed");
                return true;
            }
        };
        let Some(open) = open else { return true };
        // A hint can be faster than the answer to the request that it is about.
        let heard = self.read_back.heard_of(open.id).await;
        let Some(entry) = heard.filter(|entry| entry.state.is_open()) else { return true };
        let Ok(_place) = self.places.acquire().await else { return true };
        let before = entry.state.as_str();
        let after = self.read_back.look_anew(entry, hints).await;
        !after.state.is_open() || after.state.as_str() != before
    }

    fn followed(&self) -> MutexGuard<'_, HashMap<TransactionId, watch::Sender<()>>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J: Journal, P: Psp> ReadBack<J, P> {
    /// Looks at an open entry by a read that is issued from now on. `hints`
    /// that came until then are answered by it.
    async fn look_anew(&self, entry: Entry, hints: &mut watch::Receiver<()>) -> Entry {
        let running = {
            let looking = self.shared.looking.lock().unwrap_or_else(PoisonError::into_inner);
            looking.get(&entry.id).cloned()
        };
        if let Some(running) = running {
            running.cancelled().await;
        }
        hints.mark_unchanged();
        self.look_once(entry, ()).await
    }
}

impl<J, P> Clone for Hints<J, P> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

#[cfg(test)]
mod tests;
