//! What an open entry becomes when the journal that it stands in was lost.

use crate::clock::Timestamp;
use crate::journal::entry::{Entry, State};

impl Entry {
    /// The entry once later writes may have been lost: a later attempt, of which
    /// nothing is known, may still take effect until `fence_at`. None where
    /// the operation is over.
    #[must_use]
    pub fn after_loss(&self, now: Timestamp, fence_at: Timestamp) -> Option<Self> {
        if !self.state.is_open() {
            return None;
        }
        let mut next = self.successor("found in a journal that was lost", now);
        // That the PSP pushed back is known of this attempt, not of a later one.
        if let State::InDoubt { pushback, .. } = &mut next.state {
            *pushback = false;
        }
        next.fence_at = self.fence_at.max(fence_at);
        next.reading.streak = None;
        // Perhaps it was sent again in doubt (T12), and what failed since is a
        // later attempt: only proof counts before the fence.
        if !matches!(self.state, State::Accepted | State::Review { .. }) {
            next.resends = self.resends.max(1);
        }
        let why = "the journal was lost: a later attempt may be forgotten".to_owned();
        next.remember(Some(why), None, now);
        Some(next)
    }
}
