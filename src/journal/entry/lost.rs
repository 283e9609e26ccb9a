//! What an open entry becomes when the journal that it stands in was lost.

use crate::clock::Timestamp;
use crate::journal::entry::{
    Entry, State,
    history::{self, Change},
};

impl Entry {
    /// The entry once later writes may have been lost: a later attempt, of which
    /// nothing is known, may still take effect until `fence_at`. None where
    /// the operation is over.
    #[must_use]
    pub fn after_loss(&self, now: Timestamp, fence_at: Timestamp) -> Option<Self> {
        if !self.state.is_open() {
            return None;
        }
        let mut next = self.clone();
        // That the PSP pushed back is known of this attempt, not of a later one.
        if let State::InDoubt { pushback, .. } = &mut next.state {
            *pushback = false;
        }
        next.revision = self.revision.saturating_add(1);
        next.fence_at = self.fence_at.max(fence_at);
        next.reading.streak = None;
        let change = Change {
            at: now,
            attempt: self.attempt,
            state: self.state.as_str().to_owned(),
            why: Some("the journal was lost: a later attempt may be forgotten".to_owned()),
            by: None,
        };
        history::append(&mut next.history, change);
        Some(next)
    }
}
