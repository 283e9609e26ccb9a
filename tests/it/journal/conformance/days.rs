//! What a caller begins in a day stays within its limit, whoever writes it.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use futures::future::join_all;
use payops::clock::Timestamp;
use payops::journal::entry::{Entry, Event};
use payops::journal::{Journal, Written};
use payops::payment::{
    outcome::{Decline, PspError, Reason},
    permit::DayMax,
};

use super::{DAY, after, change, fresh, insert, not_sent, of_a_caller_of_its_own, proven, retried, started};

/// The amount of every operation here.
const EACH: i64 = 29_990;

/// Everything. `now` is the journal's time, within a minute.
pub async fn all(journal: &impl Journal, now: Timestamp) {
    a_limit_holds_to_the_unit(journal, now).await;
    of_many_at_once_as_many_begin_as_there_is_room_for(journal, now).await;
    one_that_does_not_begin_leaves_its_room_to_others(journal, now).await;
    what_moves_nothing_is_given_back(journal, now).await;
    a_fact_is_counted_whatever_the_sum_is(journal, now).await;
    what_is_in_the_way_is_told_before_the_limit(journal, now).await;
}

/// First attempts of one caller, under a limit.
struct Limited {
    caller: Entry,
    max: AtomicI64,
    now: Timestamp,
}

impl Limited {
    fn new(max: i64, now: Timestamp) -> Self {
        Self { caller: of_a_caller_of_its_own(now), max: AtomicI64::new(max), now }
    }

    fn day_max(&self) -> DayMax {
        DayMax { currency: "NOK".parse().unwrap(), amount: self.max.load(Relaxed) }
    }

    fn entry(&self) -> Entry {
        self.of(started(&fresh(), self.now))
    }

    fn of(&self, entry: Entry) -> Entry {
        Entry { caller: self.caller.caller.clone(), ..entry }.under(Some(&self.day_max()), self.now)
    }

    async fn spent(&self, journal: &impl Journal) -> i64 {
        journal.spent(&self.entry().tally().unwrap()).await.unwrap()
    }

    /// Released, as it begins again.
    fn again(&self, released: &Entry) -> Entry {
        after(released, &retried(self.now), self.now).under(Some(&self.day_max()), self.now)
    }
}

fn declined() -> Event {
    Event::Refused(Box::new(Decline {
        reason: Reason::Declined,
        message: "no".to_owned(),
        psp: PspError::default(),
        transaction_status: None,
        sums: None,
    }))
}

async fn a_limit_holds_to_the_unit(journal: &impl Journal, now: Timestamp) {
    let limited = Limited::new(2 * EACH, now);
    let first = limited.entry();
    insert(journal, &first).await;
    // The same write again is the same operation.
    insert(journal, &first).await;
    assert_eq!(limited.spent(journal).await, EACH);
    insert(journal, &limited.entry()).await;
    let beyond = Written::Beyond { spent: 2 * EACH };
    let refused = limited.entry();
    assert_eq!(journal.insert(refused.clone()).await.unwrap(), beyond);
    assert_eq!(journal.find(&refused.caller, &refused.key).await.unwrap(), None, "its key is free");
    limited.max.store(3 * EACH - 1, Relaxed);
    assert_eq!(journal.insert(limited.entry()).await.unwrap(), beyond, "by one unit");
    limited.max.store(3 * EACH, Relaxed);
    insert(journal, &limited.entry()).await;
    assert_eq!(limited.spent(journal).await, 3 * EACH);
    // Another caller, another day and one without a limit have nothing to do with it.
    insert(journal, &Limited::new(EACH, now).entry()).await;
    insert(journal, &Entry { spent: None, ..limited.entry() }).await;
    let tomorrow = Limited { caller: limited.caller.clone(), max: AtomicI64::new(EACH), now: now + DAY };
    insert(journal, &tomorrow.entry()).await;
    assert_eq!(journal.insert(tomorrow.entry()).await.unwrap(), Written::Beyond { spent: EACH });
    assert_eq!(limited.spent(journal).await, 3 * EACH);
}

async fn of_many_at_once_as_many_begin_as_there_is_room_for(journal: &impl Journal, now: Timestamp) {
    let limited = Limited::new(10 * EACH + EACH / 2, now);
    let entries: Vec<_> = (0..200).map(|_| limited.entry()).collect();
    let written = join_all(entries.iter().map(|entry| journal.insert(entry.clone()))).await;
    let done = written.iter().filter(|written| **written == Ok(Written::Done)).count();
    let beyond = written.iter().filter(|written| matches!(written, Ok(Written::Beyond { .. }))).count();
    assert_eq!((done, beyond), (10, 190), "{written:?}");
    assert_eq!(limited.spent(journal).await, 10 * EACH);
    // And as many begin again as are over.
    let begun: Vec<_> =
        entries.into_iter().zip(written).filter(|(_, written)| *written == Ok(Written::Done)).collect();
    let over = not_sent();
    let ended = join_all(begun.iter().map(|(entry, _)| change(journal, entry, &over, now))).await;
    assert_eq!(limited.spent(journal).await, 0);
    limited.max.store(4 * EACH, Relaxed);
    let again = join_all(ended.iter().map(|entry| journal.update(limited.again(entry)))).await;
    let done = again.iter().filter(|written| **written == Ok(Written::Done)).count();
    assert_eq!((done, limited.spent(journal).await), (4, 4 * EACH), "{again:?}");
}

/// Those that are refused for another reason take nothing from those beside them.
async fn one_that_does_not_begin_leaves_its_room_to_others(journal: &impl Journal, now: Timestamp) {
    for _ in 0..20 {
        let limited = Limited::new(EACH, now);
        let holder = started(&fresh(), now);
        insert(journal, &holder).await;
        let busy = limited.of(Entry { operation: holder.operation.clone(), ..started(&fresh(), now) });
        let fits = limited.entry();
        let both = join_all([busy, fits].map(|entry| journal.insert(entry))).await;
        assert!(matches!(both.as_slice(), [Ok(Written::Busy(_)), Ok(Written::Done)]), "{both:?}");
    }
}

async fn what_moves_nothing_is_given_back(journal: &impl Journal, now: Timestamp) {
    let limited = Limited::new(EACH, now);
    for event in [declined(), not_sent()] {
        let entry = limited.entry();
        insert(journal, &entry).await;
        assert_eq!(limited.spent(journal).await, EACH);
        change(journal, &entry, &event, now).await;
        assert_eq!(limited.spent(journal).await, 0, "{event:?}");
    }
    // What is in doubt may have moved, and what was released may begin again.
    let entry = limited.entry();
    insert(journal, &entry).await;
    let doubted = change(journal, &entry, &Event::doubted("no answer"), now).await;
    assert_eq!(limited.spent(journal).await, EACH);
    let never = Event::NeverHappened { why: "nothing came of it".to_owned() };
    let released = change(journal, &doubted, &never, now).await;
    assert_eq!(limited.spent(journal).await, 0);
    let again = limited.again(&released);
    assert_eq!(journal.update(again.clone()).await.unwrap(), Written::Done);
    assert_eq!(limited.spent(journal).await, EACH);
    change(journal, &again, &proven(), now).await;
    assert_eq!(limited.spent(journal).await, EACH);
    assert_eq!(journal.insert(limited.entry()).await.unwrap(), Written::Beyond { spent: EACH });
}

async fn a_fact_is_counted_whatever_the_sum_is(journal: &impl Journal, now: Timestamp) {
    let limited = Limited::new(EACH, now);
    let entry = limited.entry();
    insert(journal, &entry).await;
    let declined = change(journal, &entry, &declined(), now).await;
    insert(journal, &limited.entry()).await;
    // It took effect after all.
    let review = change(journal, &declined, &proven(), now).await;
    assert_eq!((review.state.as_str(), limited.spent(journal).await), ("review", 2 * EACH));
    assert_eq!(journal.insert(limited.entry()).await.unwrap(), Written::Beyond { spent: 2 * EACH });
}

async fn what_is_in_the_way_is_told_before_the_limit(journal: &impl Journal, now: Timestamp) {
    let limited = Limited::new(EACH, now);
    let first = limited.entry();
    insert(journal, &first).await;
    let taken = limited.of(started(first.key.as_str(), now));
    assert_eq!(journal.insert(taken).await.unwrap(), Written::KeyTaken(Box::new(first.clone())));
    let busy = limited.of(Entry { operation: first.operation.clone(), ..started(&fresh(), now) });
    assert_eq!(journal.insert(busy).await.unwrap(), Written::Busy(Box::new(first.clone())));

    // Whoever begins again on an old view is told so: somebody else has begun.
    let released = change(journal, &first, &not_sent(), now).await;
    let again = limited.again(&released);
    assert_eq!(journal.update(again).await.unwrap(), Written::Done);
    assert_eq!(journal.update(limited.again(&released)).await.unwrap(), Written::Stale);
    assert_eq!(limited.spent(journal).await, EACH);
    let other = limited.entry();
    assert_eq!(journal.insert(other).await.unwrap(), Written::Beyond { spent: EACH });
}
