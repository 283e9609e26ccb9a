//! Who waits for which operation. Only operations that somebody watches are
//! here.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tokio::sync::watch;

use crate::payment::id::OperationId;

/// From this size on, every new watch first clears those that nobody holds.
const SWEEP_FROM: usize = 1024;

#[derive(Default)]
pub(in crate::journal) struct Hub(Mutex<HashMap<OperationId, watch::Sender<u64>>>);

impl Hub {
    /// Wakes at each change from now on.
    pub(in crate::journal) fn subscribe(&self, id: OperationId) -> watch::Receiver<u64> {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.len() >= SWEEP_FROM {
            watched.retain(|_, sender| sender.receiver_count() > 0);
        }
        watched.entry(id).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    /// What somebody waits for.
    pub(in crate::journal) fn watched(&self) -> Vec<OperationId> {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|_, sender| sender.receiver_count() > 0);
        watched.keys().copied().collect()
    }

    /// Says that the operation has this revision now.
    pub(in crate::journal) fn changed(&self, id: OperationId, revision: u64) {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = watched.get(&id) else { return };
        if sender.receiver_count() == 0 {
            watched.remove(&id);
            return;
        }
        // News may come by more than one way. After a failover it may be older:
        // whoever wakes looks for itself.
        sender.send_if_modified(|known| std::mem::replace(known, revision) != revision);
    }
}
