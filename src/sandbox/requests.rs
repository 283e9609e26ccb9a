//! The log of requests received on the PSP's side.

use std::collections::VecDeque;

use serde::Serialize;

/// A request as it was received, and what became of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Entry {
    /// Counts requests from 1.
    pub sequence: u64,
    /// When it was received.
    pub at: String,
    /// `GET`, `POST` or `PUT`.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// `capture`, `refund`, `void`, `get`, `list`, `token`, `authorization`, `update`, `hooks` or
    /// `unknown`.
    pub operation: &'static str,
    /// The transaction in the path.
    pub transaction: Option<String>,
    /// The reference in the body.
    pub reference: Option<String>,
    /// Names the bearer token without telling it.
    pub token_fingerprint: Option<String>,
    /// The status that was answered; absent while unanswered, and when the answer never left.
    pub status: Option<u16>,
    /// For `delayed_application`: the status that applying it gave in the end.
    pub status_late: Option<u16>,
    /// The faults that struck.
    pub faults: Vec<String>,
    /// The caller's W3C trace context.
    pub traceparent: Option<String>,
    /// The caller's `User-Agent`.
    pub user_agent: Option<String>,
}

/// The longest text of a caller's that is logged, in characters; what is beyond is cut off.
const TEXT_MAX: usize = 1_000;

/// The newest requests.
#[derive(Debug)]
pub struct Requests {
    /// How many are kept; the oldest go first.
    pub max: usize,
    entries: VecDeque<Entry>,
    sequence: u64,
}

impl Default for Requests {
    fn default() -> Self {
        Self { max: 1_000_000, entries: VecDeque::new(), sequence: 0 }
    }
}

impl Requests {
    /// Logs a request; its sequence number is set here and returned.
    pub fn receive(&mut self, mut entry: Entry) -> u64 {
        self.sequence += 1;
        entry.sequence = self.sequence;
        let texts =
            [&mut entry.transaction, &mut entry.reference, &mut entry.traceparent, &mut entry.user_agent];
        for text in texts.into_iter().flatten().chain([&mut entry.method, &mut entry.path]) {
            if let Some((end, _)) = text.char_indices().nth(TEXT_MAX) {
                text.truncate(end);
            }
        }
        self.entries.push_back(entry);
        while self.entries.len() > self.max {
            self.entries.pop_front();
        }
        self.sequence
    }

    /// Changes an entry, if it is still kept.
    pub fn change(&mut self, sequence: u64, with: impl FnOnce(&mut Entry)) {
        // Entries are in order without gaps, except where the log was emptied in between.
        let first = self.entries.front().map_or(0, |entry| entry.sequence);
        let place = sequence.checked_sub(first).and_then(|place| usize::try_from(place).ok());
        if let Some(entry) = place.and_then(|place| self.entries.get_mut(place)) {
            with(entry);
        }
    }

    /// The requests, the oldest first; for one transaction or all.
    pub fn entries<'a>(&'a self, transaction: Option<&'a str>) -> impl Iterator<Item = &'a Entry> {
        let wanted =
            move |entry: &&Entry| transaction.is_none_or(|id| entry.transaction.as_deref() == Some(id));
        self.entries.iter().filter(wanted)
    }

    /// Forgets them all; the numbers go on.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_an_answer_finds_its_request() {
        let mut requests = Requests { max: 2, ..Requests::default() };
        let numbers = [(); 3].map(|()| requests.receive(Entry::default()));
        for number in numbers {
            requests.change(number, |entry| entry.status = Some(200));
        }
        let kept: Vec<_> = requests.entries(None).map(|entry| (entry.sequence, entry.status)).collect();
        assert_eq!(kept, [(2, Some(200)), (3, Some(200))]);
    }

    #[test]
    fn what_a_caller_sends_is_not_kept_at_any_length() {
        let mut requests = Requests::default();
        requests.receive(Entry { reference: Some("ø".repeat(2_000)), ..Entry::default() });
        let kept = requests.entries(None).next().and_then(|entry| entry.reference.clone());
        assert_eq!(kept, Some("ø".repeat(1_000)));
    }

    #[test]
    fn an_answer_to_a_forgotten_request_changes_nothing() {
        let mut requests = Requests::default();
        let early = requests.receive(Entry::default());
        requests.clear();
        requests.receive(Entry::default());
        requests.change(early, |entry| entry.status = Some(500));
        assert!(requests.entries(None).all(|entry| entry.status.is_none()));
    }
}
