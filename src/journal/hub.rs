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
pub(super) struct Hub(Mutex<HashMap<OperationId, watch::Sender<u64>>>);

impl Hub {
    /// Wakes at each change from now on.
    pub(super) fn subscribe(&self, id: OperationId) -> watch::Receiver<u64> {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.len() >= SWEEP_FROM {
            watched.retain(|_, sender| sender.receiver_count() > 0);
        }
        watched.entry(id).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    /// Says that the operation has this revision now.
    pub(super) fn changed(&self, id: OperationId, revision: u64) {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = watched.get(&id)
            && sender.send(revision).is_err()
        {
            watched.remove(&id);
        }
    }
}
