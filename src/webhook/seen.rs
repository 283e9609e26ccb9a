//! The last deliveries, so that one that comes again is recognised.

use std::collections::{HashSet, VecDeque};

use uuid::Uuid;

/// Remembers so many; the oldest goes first.
pub(super) struct Seen {
    kept: usize,
    ids: HashSet<Uuid>,
    oldest_first: VecDeque<Uuid>,
}

impl Seen {
    pub(super) fn new(kept: usize) -> Self {
        Self { kept, ids: HashSet::new(), oldest_first: VecDeque::new() }
    }

    /// Whether it is new.
    pub(super) fn remember(&mut self, id: Uuid) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.oldest_first.push_back(id);
        if self.oldest_first.len() > self.kept
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_remembered_and_no_more() {
        let mut seen = Seen::new(2);
        let [one, two, three] = [1, 2, 3].map(Uuid::from_u128);
        assert!(seen.remember(one) && seen.remember(two));
        assert!(!seen.remember(one) && !seen.remember(two));
        assert!(seen.remember(three));
        assert!(!seen.remember(two), "still known");
        assert!(seen.remember(one), "forgotten");
        assert_eq!((seen.ids.len(), seen.oldest_first.len()), (2, 2));
    }
}
