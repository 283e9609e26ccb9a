//! The sums of a journal that one process writes, in its memory: what callers
//! have begun in a day. They follow from the entries, and are added up anew at
//! each start.

use std::collections::HashMap;

use crate::journal::entry::{Entry, Tally};

/// So many days are kept beside the latest: clocks and entries may be a little
/// apart.
const DAYS_BEFORE: i64 = 1;

/// Of the latest days. Nothing is begun on others.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    sums: HashMap<Tally, i64>,
    latest: i64,
}

impl Tallies {
    /// From the entries that count towards a day from `since` on.
    pub(super) fn of(entries: impl IntoIterator<Item = Entry>, since: i64) -> Self {
        let mut tallies = Self::default();
        for (tally, amount) in entries.into_iter().filter_map(|entry| entry.counts_since(since)) {
            tallies.add(tally, amount);
        }
        tallies
    }

    pub(super) fn spent(&self, tally: &Tally) -> i64 {
        self.sums.get(tally).copied().unwrap_or_default()
    }

    /// What the day's sum is, where an attempt would take it too far.
    pub(super) fn beyond(&self, entry: &Entry) -> Option<i64> {
        let spent = self.spent(&entry.tally()?);
        entry.is_beyond(spent).then_some(spent)
    }

    /// Adds what counts from now on; less than nothing takes it back.
    pub(super) fn add(&mut self, tally: Tally, more: i64) {
        if tally.day > self.latest {
            self.latest = tally.day;
            let since = self.latest - DAYS_BEFORE;
            self.sums.retain(|tally, _| tally.day >= since);
        }
        let spent = self.sums.entry(tally).or_default();
        *spent = spent.saturating_add(more);
    }
}
