//! What succeeded lately: a caller who repeats its key has its answer without a
//! statement, and also while the database is out of reach.
//!
//! # Correctness
//!
//! Only what succeeded is kept. Nothing changes it any more, so that no process
//! has to hear of another one's writes; what was declined may yet become a
//! review. It is forgotten at the age at which the journal forgets it.

use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, PoisonError},
};

use crate::clock::Timestamp;
use crate::journal::entry::{Entry, State};
use crate::payment::id::{CallerName, IdempotencyKey};

/// The most that is kept, in bytes: more than 10,000 plain operations. Callers
/// who repeat a key do so within minutes; for later ones there is the journal.
pub(super) const BYTES_MAX: usize = 16 << 20;
/// What an entry takes beside its text.
const OVERHEAD: usize = 128;

/// In two generations, of which the older one goes when the younger one is
/// full. Whatever is asked for stays young.
pub(super) struct Settled {
    generation_bytes_max: usize,
    generations: Mutex<(Generation, Generation)>,
}

#[derive(Default)]
struct Generation {
    entries: HashMap<(CallerName, IdempotencyKey), Kept>,
    bytes: usize,
}

struct Kept {
    /// As it is in the journal: its size is known, and it is small.
    record: Box<str>,
    updated_at: Timestamp,
}

impl Settled {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { generation_bytes_max: bytes_max / 2, generations: Mutex::default() }
    }

    /// Keeps it, if nothing can change it any more.
    pub(super) fn keep(&self, entry: &Entry) {
        let State::Succeeded(_) = entry.state else { return };
        let Ok(record) = serde_json::to_string(entry) else { return };
        let kept = Kept { record: record.into(), updated_at: entry.updated_at };
        self.put((entry.caller.clone(), entry.key.clone()), kept);
    }

    /// The entry of a key, unless it has not changed since `forgotten_before`.
    pub(super) fn find(
        &self,
        caller: &CallerName,
        key: &IdempotencyKey,
        forgotten_before: Timestamp,
    ) -> Option<Entry> {
        let name = (caller.clone(), key.clone());
        let kept = {
            let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
            let (young, old) = &mut *generations;
            young.take(&name).or_else(|| old.take(&name))?
        };
        if kept.updated_at < forgotten_before {
            return None;
        }
        let entry = serde_json::from_str(&kept.record).ok()?;
        self.put(name, kept);
        Some(entry)
    }

    fn put(&self, name: (CallerName, IdempotencyKey), kept: Kept) {
        let bytes = kept.bytes();
        if bytes > self.generation_bytes_max {
            return;
        }
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let (young, old) = &mut *generations;
        young.take(&name);
        if young.bytes + bytes > self.generation_bytes_max {
            *old = mem::take(young);
        }
        young.bytes += bytes;
        young.entries.insert(name, kept);
    }
}

impl Generation {
    fn take(&mut self, name: &(CallerName, IdempotencyKey)) -> Option<Kept> {
        let kept = self.entries.remove(name)?;
        self.bytes -= kept.bytes();
        Some(kept)
    }
}

impl Kept {
    fn bytes(&self) -> usize {
        self.record.len() + OVERHEAD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One entry of each state.
    const ENTRIES: &str = include_str!("../../../tests/it/journal/entries-0.1.jsonl");

    fn entries() -> impl Iterator<Item = Entry> {
        ENTRIES.lines().map(|line| serde_json::from_str(line).unwrap())
    }

    fn succeeded(nth: usize) -> Entry {
        let entry = entries().find(|entry| entry.state.as_str() == "succeeded").unwrap();
        Entry { key: format!("key-{nth}").parse().unwrap(), ..entry }
    }

    fn find(settled: &Settled, entry: &Entry) -> Option<Entry> {
        settled.find(&entry.caller, &entry.key, Timestamp(0))
    }

    #[test]
    fn only_what_succeeded_is_kept() {
        let settled = Settled::new(BYTES_MAX);
        for entry in entries() {
            settled.keep(&entry);
            let succeeded = entry.state.as_str() == "succeeded";
            assert_eq!(find(&settled, &entry), succeeded.then_some(entry));
        }
    }

    #[test]
    fn a_key_is_its_callers_own() {
        let settled = Settled::new(BYTES_MAX);
        let entry = succeeded(1);
        settled.keep(&entry);
        assert_eq!(settled.find(&"stranger".parse().unwrap(), &entry.key, Timestamp(0)), None);
    }

    #[test]
    fn it_is_forgotten_at_the_age_at_which_the_journal_forgets_it() {
        let settled = Settled::new(BYTES_MAX);
        let entry = succeeded(1);
        let at = |before| settled.find(&entry.caller, &entry.key, before);
        settled.keep(&entry);
        assert_eq!(at(entry.updated_at), Some(entry.clone()));
        assert_eq!(at(Timestamp(entry.updated_at.0 + 1)), None);
        assert_eq!(at(entry.updated_at), None, "and is gone");
    }

    #[test]
    fn it_never_takes_more_than_its_bound_and_what_is_asked_for_stays() {
        let (repeated, bytes) = (succeeded(0), serde_json::to_string(&succeeded(10)).unwrap().len());
        let settled = Settled::new(20 * (bytes + OVERHEAD));
        for nth in 0..1_000 {
            settled.keep(&repeated);
            settled.keep(&succeeded(nth));
            // The same again takes no more.
            settled.keep(&succeeded(nth));
            assert_eq!(find(&settled, &repeated), Some(repeated.clone()));
            let generations = settled.generations.lock().unwrap();
            for generation in [&generations.0, &generations.1] {
                let sum: usize = generation.entries.values().map(Kept::bytes).sum();
                assert!(sum == generation.bytes && sum <= 10 * (bytes + OVERHEAD), "{sum}");
            }
        }
        assert_eq!(find(&settled, &succeeded(999)), Some(succeeded(999)));
        assert_eq!(find(&settled, &succeeded(900)), None);
        let large = Settled::new(bytes);
        large.keep(&repeated);
        assert_eq!(find(&large, &repeated), None, "none that would crowd out all others");
    }
}
