//! What every journal keeps, whatever it is kept in: one suite, that each
//! backend runs over an empty journal of its own.

mod days;

use std::collections::BTreeSet;

use futures::future::join_all;
use payops::clock::Timestamp;
use payops::journal::entry::{Entry, Event};
use payops::journal::{Filter, Journal, Tombstone, Written, follow::follow};
use payops::payment::id::OperationId;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::{DAY, after, minted, not_sent, proven, started};

/// One entry of each state, as payops 0.1 wrote them.
const OF_0_1: &str = include_str!("entries-0.1.jsonl");

/// How long what is over is remembered, in every journal under test.
pub const RETENTION_DAYS: u32 = 90;

/// Everything. `now` is the journal's time, within a minute.
pub async fn all(journal: &impl Journal, now: Timestamp) {
    what_is_written_is_found_by_each_of_its_names(journal, now).await;
    a_key_is_written_once(journal, now).await;
    one_of_many_writers_of_a_key_wins(journal, now).await;
    a_transaction_has_one_open_operation(journal, now).await;
    the_slot_is_free_once_the_operation_is_over(journal, now).await;
    a_change_is_written_over_its_own_revision_alone(journal, now).await;
    one_of_many_changes_of_a_revision_wins(journal, now).await;
    a_write_that_was_not_confirmed_may_be_repeated(journal, now).await;
    many_writes_at_once_are_each_answered_for_themselves(journal, now).await;
    what_is_due_comes_the_longest_due_first(journal, now).await;
    a_listing_is_filtered_and_paged_the_youngest_first(journal, now).await;
    whoever_watches_hears_of_each_change(journal, now).await;
    days::all(journal, now).await;
    entries_of_the_first_version_load(journal).await;
    what_is_over_and_old_is_forgotten_and_its_key_stays_used(journal, now).await;
    journal.check().await.unwrap();
}

async fn insert(journal: &impl Journal, entry: &Entry) {
    assert_eq!(journal.insert(entry.clone()).await.unwrap(), Written::Done);
}

async fn change(journal: &impl Journal, entry: &Entry, event: &Event, now: Timestamp) -> Entry {
    let next = after(entry, event, now);
    assert_eq!(journal.update(next.clone()).await.unwrap(), Written::Done);
    next
}

/// A key that no other test has.
fn fresh() -> String {
    format!("key-{}", uuid::Uuid::new_v4().simple())
}

/// A caller that no other test has.
fn of_a_caller_of_its_own(now: Timestamp) -> Entry {
    let caller = format!("c{}", uuid::Uuid::new_v4().simple());
    Entry { caller: caller.parse().unwrap(), ..started(&fresh(), now) }
}

/// Another first entry on the same transaction.
fn rival(entry: &Entry, now: Timestamp) -> Entry {
    Entry { operation: entry.operation.clone(), ..started(&fresh(), now) }
}

fn retried(now: Timestamp) -> Event {
    Event::Retried(payops::journal::entry::Beginning {
        nonce: uuid::Uuid::new_v4(),
        fence_at: now + DAY,
        lease_until: now + std::time::Duration::from_secs(45),
    })
}

async fn what_is_written_is_found_by_each_of_its_names(journal: &impl Journal, now: Timestamp) {
    let entry = started(&fresh(), now);
    assert_eq!(journal.find(&entry.caller, &entry.key).await.unwrap(), None);
    assert_eq!(journal.get(entry.id).await.unwrap(), None);
    assert_eq!(journal.open_on(&entry.operation.transaction).await.unwrap(), None);
    insert(journal, &entry).await;
    assert_eq!(journal.find(&entry.caller, &entry.key).await.unwrap(), Some(entry.clone()));
    assert_eq!(journal.get(entry.id).await.unwrap(), Some(entry.clone()));
    assert_eq!(journal.open_on(&entry.operation.transaction).await.unwrap(), Some(entry.clone()));
    let stranger = "stranger".parse().unwrap();
    assert_eq!(journal.find(&stranger, &entry.key).await.unwrap(), None, "a key belongs to its caller");
    let settled = change(journal, &entry, &proven(), now).await;
    assert_eq!(journal.get(entry.id).await.unwrap(), Some(settled));
    assert_eq!(journal.open_on(&entry.operation.transaction).await.unwrap(), None);
}

async fn a_key_is_written_once(journal: &impl Journal, now: Timestamp) {
    let entry = started(&fresh(), now);
    insert(journal, &entry).await;
    // The key is what is taken, wherever it is used again.
    for again in [
        started(entry.key.as_str(), now),
        Entry { operation: entry.operation.clone(), ..started(entry.key.as_str(), now) },
    ] {
        let written = journal.insert(again).await.unwrap();
        assert_eq!(written, Written::KeyTaken(Box::new(entry.clone())));
    }
    // Another caller's key of that name is another key.
    insert(journal, &Entry { key: entry.key.clone(), ..of_a_caller_of_its_own(now) }).await;
}

async fn one_of_many_writers_of_a_key_wins(journal: &impl Journal, now: Timestamp) {
    let first = started(&fresh(), now);
    let rivals =
        (0..32).map(|_| Entry { operation: first.operation.clone(), ..started(first.key.as_str(), now) });
    let rivals: Vec<_> = rivals.collect();
    let written = join_all(rivals.iter().map(|entry| journal.insert(entry.clone()))).await;
    let won: Vec<_> = rivals.iter().zip(&written).filter(|(_, w)| **w == Ok(Written::Done)).collect();
    assert_eq!(won.len(), 1, "{written:?}");
    let winner = won[0].0;
    for (entry, written) in rivals.iter().zip(&written).filter(|(entry, _)| entry.id != winner.id) {
        assert_eq!(*written, Ok(Written::KeyTaken(Box::new(winner.clone()))), "{}", entry.id);
    }
    assert_eq!(journal.find(&first.caller, &first.key).await.unwrap().as_ref(), Some(winner));
}

async fn a_transaction_has_one_open_operation(journal: &impl Journal, now: Timestamp) {
    let first = started(&fresh(), now);
    let rivals: Vec<_> = (0..32).map(|_| rival(&first, now)).collect();
    let written = join_all(rivals.iter().map(|entry| journal.insert(entry.clone()))).await;
    let open = journal.open_on(&first.operation.transaction).await.unwrap().unwrap();
    for (entry, written) in rivals.iter().zip(written) {
        let expected =
            if entry.id == open.id { Written::Done } else { Written::Busy(Box::new(open.clone())) };
        assert_eq!(written, Ok(expected));
    }
    for event in [
        Event::doubted("no answer"),
        Event::Accepted { request_id: None },
        Event::Contradicted { why: "two".to_owned() },
    ] {
        let current = journal.get(open.id).await.unwrap().unwrap();
        let open = change(journal, &current, &event, now).await;
        let busy = journal.insert(rival(&first, now)).await.unwrap();
        assert_eq!(busy, Written::Busy(Box::new(open)), "{event:?}");
    }
}

async fn the_slot_is_free_once_the_operation_is_over(journal: &impl Journal, now: Timestamp) {
    let first = started(&fresh(), now);
    insert(journal, &first).await;
    let released = change(journal, &first, &not_sent(), now).await;
    let second = rival(&first, now);
    insert(journal, &second).await;
    // Whoever lets it go has to ask for it again.
    let again = after(&released, &retried(now), now);
    assert_eq!(journal.update(again.clone()).await.unwrap(), Written::Busy(Box::new(second.clone())));
    assert_eq!(journal.get(first.id).await.unwrap(), Some(released), "nothing was written");
    change(journal, &second, &proven(), now).await;
    assert_eq!(journal.update(again.clone()).await.unwrap(), Written::Done);
    assert_eq!(journal.open_on(&first.operation.transaction).await.unwrap(), Some(again));
}

async fn a_change_is_written_over_its_own_revision_alone(journal: &impl Journal, now: Timestamp) {
    let entry = started(&fresh(), now);
    assert_eq!(
        journal.update(after(&entry, &not_sent(), now)).await.unwrap(),
        Written::Stale,
        "there is nothing to change"
    );
    insert(journal, &entry).await;
    // A view of the same attempt, from before a change.
    let doubted = change(journal, &entry, &Event::doubted("no answer"), now).await;
    assert_eq!(journal.update(after(&entry, &not_sent(), now)).await.unwrap(), Written::Stale);
    assert_eq!(journal.get(entry.id).await.unwrap(), Some(doubted.clone()));
    let over = Event::NeverHappened { why: "absent".to_owned() };
    let released = change(journal, &doubted, &over, now).await;
    let again = change(journal, &released, &retried(now), now).await;
    assert_eq!(again.attempt, 2);
    // A view from before the second attempt.
    for (view, event) in [(&entry, proven()), (&released, retried(now)), (&entry, Event::doubted("late"))] {
        assert_eq!(journal.update(after(view, &event, now)).await.unwrap(), Written::Stale, "{event:?}");
    }
    assert_eq!(journal.get(entry.id).await.unwrap(), Some(again));
}

async fn one_of_many_changes_of_a_revision_wins(journal: &impl Journal, now: Timestamp) {
    let entry = started(&fresh(), now);
    insert(journal, &entry).await;
    let released = change(journal, &entry, &not_sent(), now).await;
    let rivals: Vec<_> = (0..32).map(|_| after(&released, &retried(now), now)).collect();
    let written = join_all(rivals.iter().map(|entry| journal.update(entry.clone()))).await;
    let stored = journal.get(entry.id).await.unwrap().unwrap();
    for (rival, written) in rivals.iter().zip(written) {
        let expected = if rival.nonce == stored.nonce { Written::Done } else { Written::Stale };
        assert_eq!(written, Ok(expected));
    }
}

async fn a_write_that_was_not_confirmed_may_be_repeated(journal: &impl Journal, now: Timestamp) {
    let entry = started(&fresh(), now);
    insert(journal, &entry).await;
    assert_eq!(journal.insert(entry.clone()).await.unwrap(), Written::Done, "the nonce says that it is ours");
    let other = Entry { nonce: uuid::Uuid::new_v4(), ..entry.clone() };
    assert_eq!(journal.insert(other).await.unwrap(), Written::KeyTaken(Box::new(entry.clone())));
    assert_eq!(journal.get(entry.id).await.unwrap(), Some(entry));
}

/// A batch of all kinds, of which some fail, is no worse than one after the other.
async fn many_writes_at_once_are_each_answered_for_themselves(journal: &impl Journal, now: Timestamp) {
    let mut changed = Vec::new();
    for nth in 0..40 {
        let entry = started(&fresh(), now);
        insert(journal, &entry).await;
        let event = if nth % 2 == 0 { proven() } else { not_sent() };
        changed.push((after(&entry, &event, now), Written::Done));
    }
    // Among them one that is stale, one whose slot is taken, one whose key is.
    let stale = started(&fresh(), now);
    changed.push((after(&stale, &proven(), now), Written::Stale));
    let first = started(&fresh(), now);
    insert(journal, &first).await;
    let released = change(journal, &first, &not_sent(), now).await;
    let holder = rival(&first, now);
    insert(journal, &holder).await;
    changed.push((after(&released, &retried(now), now), Written::Busy(Box::new(holder.clone()))));
    let mut new: Vec<_> = (0..40).map(|_| (started(&fresh(), now), Written::Done)).collect();
    new.push((rival(&first, now), Written::Busy(Box::new(holder.clone()))));
    new.push((started(holder.key.as_str(), now), Written::KeyTaken(Box::new(holder))));
    let updates = changed.iter().map(|(entry, _)| journal.update(entry.clone()));
    let inserts = new.iter().map(|(entry, _)| journal.insert(entry.clone()));
    let (updated, inserted) = futures::join!(join_all(updates), join_all(inserts));
    for ((entry, expected), written) in changed.iter().chain(&new).zip(updated.into_iter().chain(inserted)) {
        assert_eq!(written.as_ref(), Ok(expected));
        if *expected == Written::Done {
            assert_eq!(journal.get(entry.id).await.unwrap().as_ref(), Some(entry));
        }
    }
}

async fn what_is_due_comes_the_longest_due_first(journal: &impl Journal, now: Timestamp) {
    let ago = |seconds| now - std::time::Duration::from_secs(seconds);
    let due_at = |at: Option<Timestamp>| {
        let mut entry = started(&fresh(), now);
        entry.reading.next_at = at;
        entry
    };
    let moments = [Some(ago(400)), Some(ago(500)), Some(now + DAY), Some(ago(450)), None];
    let entries = moments.map(due_at);
    for entry in &entries {
        insert(journal, entry).await;
    }
    let ids: BTreeSet<_> = entries.iter().map(|entry| entry.id).collect();
    let of_these = |due: Vec<Entry>| -> Vec<OperationId> {
        due.into_iter().map(|entry| entry.id).filter(|id| ids.contains(id)).collect()
    };
    let expected = [1, 3, 0].map(|nth: usize| entries[nth].id);
    assert_eq!(of_these(journal.due(now, 10_000).await.unwrap()), expected);
    assert_eq!(of_these(journal.due(ago(450), 10_000).await.unwrap()), expected[..2], "to the moment");
    assert_eq!(journal.due(now, 2).await.unwrap().len(), 2);
    assert_eq!(journal.due(now, 0).await.unwrap(), []);
    // What is over is no longer due.
    change(journal, &entries[1], &proven(), now).await;
    assert_eq!(of_these(journal.due(now, 10_000).await.unwrap()), expected[1..]);
}

async fn a_listing_is_filtered_and_paged_the_youngest_first(journal: &impl Journal, now: Timestamp) {
    let caller = of_a_caller_of_its_own(now).caller;
    let mut entries = Vec::new();
    for nth in 0..7_u64 {
        let at = now - std::time::Duration::from_secs(100 - nth);
        let entry = Entry { caller: caller.clone(), ..started(&fresh(), at) };
        insert(journal, &entry).await;
        let event =
            [proven(), not_sent(), Event::doubted("no answer")][usize::try_from(nth % 3).unwrap()].clone();
        entries.push(change(journal, &entry, &event, at).await);
        // Ids sort by their time, which has milliseconds.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    entries.reverse();
    let of_caller = Filter { caller: Some(caller), ..Filter::default() };
    assert_eq!(journal.list(&of_caller, None, 100).await.unwrap(), entries);
    let mut paged = Vec::new();
    while let page = journal.list(&of_caller, paged.last().map(|last: &Entry| last.id), 3).await.unwrap()
        && !page.is_empty()
    {
        assert!(page.len() <= 3);
        paged.extend(page);
    }
    assert_eq!(paged, entries);
    let list = async |filter: Filter| journal.list(&filter, None, 100).await.unwrap();
    let states = Filter { states: vec!["in_doubt", "released"], ..of_caller.clone() };
    let expected: Vec<_> =
        entries.iter().filter(|e| ["in_doubt", "released"].contains(&e.state.as_str())).cloned().collect();
    assert_eq!(list(states).await, expected);
    let (from, until) = (Some(entries[4].created_at), Some(entries[1].created_at));
    assert_eq!(list(Filter { from, until, ..of_caller.clone() }).await, entries[2..=4]);
    let transaction = Some(entries[3].operation.transaction.clone());
    assert_eq!(list(Filter { transaction, ..Filter::default() }).await, entries[3..4]);
    let account = |id: &str| Filter { account: Some(id.parse().unwrap()), ..of_caller.clone() };
    assert_eq!(list(account("T12345678")).await.len(), 7);
    assert_eq!(list(account("T12345679")).await, []);
}

async fn whoever_watches_hears_of_each_change(journal: &impl Journal, now: Timestamp) {
    let entry = started(&fresh(), now);
    insert(journal, &entry).await;
    let stopping = CancellationToken::new();
    let seen = follow(journal.clone(), entry.id, stopping, |entry| entry.state.as_str());
    let mut seen = std::pin::pin!(seen);
    let mut current = entry;
    assert_eq!(seen.next().await.unwrap().unwrap().as_ref(), Some(&current));
    for event in [Event::doubted("no answer"), Event::Accepted { request_id: None }, proven()] {
        current = change(journal, &current, &event, now).await;
        let told = tokio::time::timeout(super::PATIENCE, seen.next()).await.expect("it wakes");
        assert_eq!(told.unwrap().unwrap().as_ref(), Some(&current));
    }
    assert_eq!(seen.next().await, None);
}

async fn entries_of_the_first_version_load(journal: &impl Journal) {
    let mut states = BTreeSet::new();
    for line in OF_0_1.lines() {
        let entry: Entry = serde_json::from_str(line).unwrap();
        let written: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_value(&entry).unwrap(), written, "nothing is lost on the way");
        insert(journal, &entry).await;
        assert_eq!(journal.get(entry.id).await.unwrap(), Some(entry.clone()));
        assert_eq!(journal.find(&entry.caller, &entry.key).await.unwrap(), Some(entry.clone()));
        states.insert(entry.state.as_str());
    }
    assert_eq!(states.len(), 8, "one of each state");
}

async fn what_is_over_and_old_is_forgotten_and_its_key_stays_used(journal: &impl Journal, now: Timestamp) {
    let old = now - (RETENTION_DAYS + 1) * DAY;
    let (plain, dated) = (fresh(), minted(old));
    let mut over = Vec::new();
    for (key, event) in [(plain.as_str(), proven()), (dated.as_str(), proven()), (&fresh(), not_sent())] {
        let entry = started(key, old);
        insert(journal, &entry).await;
        over.push(change(journal, &entry, &event, old).await);
    }
    let open = started(&fresh(), old);
    insert(journal, &open).await;
    let young = started(&fresh(), old);
    insert(journal, &young).await;
    change(journal, &young, &proven(), now).await;
    let kept = async |entry: &Entry| journal.get(entry.id).await.unwrap().is_some();
    assert_eq!(journal.forget(1).await.unwrap(), 1, "not more than is asked for");
    while journal.forget(64).await.unwrap() > 0 {}
    for entry in &over {
        assert!(!kept(entry).await, "{}", entry.key);
        assert_eq!(journal.find(&entry.caller, &entry.key).await.unwrap(), None);
        assert_eq!(
            journal
                .list(
                    &Filter { transaction: Some(entry.operation.transaction.clone()), ..Filter::default() },
                    None,
                    9
                )
                .await
                .unwrap(),
            []
        );
    }
    assert!(kept(&open).await && kept(&young).await);
    // The key is never run again: it says so itself, or it is too old to.
    let tombstone = Tombstone { state: "succeeded".to_owned() };
    let caller = &over[0].caller;
    assert_eq!(journal.tombstone(caller, &plain.parse().unwrap()).await.unwrap(), Some(tombstone.clone()));
    assert_eq!(journal.insert(started(&plain, now)).await.unwrap(), Written::Forgotten(tombstone));
    assert!(old < journal.remembers_since());
    assert_eq!(journal.tombstone(caller, &open.key).await.unwrap(), None);
}
