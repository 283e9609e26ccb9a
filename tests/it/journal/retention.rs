//! What is over and old is forgotten; a key that was forgotten is never run again.

use std::time::Duration;

use futures::future::join_all;
use payops::clock::Timestamp;
use payops::grpc::pb::OperationState::Succeeded;
use payops::journal::entry::Event;
use payops::journal::{Journal as _, Tombstone, Written, embedded};
use serde_json::json;
use tonic::Code;

use super::{DAY, NOW, Place, change, insert, minted, not_sent, proven, started};
use crate::support::{TestApp, eventually};

#[tokio::test]
async fn what_is_over_and_old_is_forgotten_and_nothing_else() {
    let place = Place::new();
    let journal = place.open();
    let events = [
        ("succeeded", proven()),
        ("released", not_sent()),
        ("doubted", Event::doubted("no answer")),
        ("accepted", Event::Accepted { request_id: None }),
        ("review", Event::Contradicted { why: "two".to_owned() }),
    ];
    let mut ids = Vec::new();
    for (key, event) in events {
        let entry = started(key, NOW);
        insert(&journal, &entry).await;
        change(&journal, &entry, &event, NOW).await;
        ids.push((key, entry.id));
    }
    // Older, but changed not so long ago.
    let late = started("late", NOW);
    insert(&journal, &late).await;
    change(&journal, &late, &proven(), NOW + DAY).await;
    ids.push(("late", late.id));

    let kept = async || {
        let mut kept = Vec::new();
        for (key, id) in &ids {
            if journal.get(*id).await.unwrap().is_some() {
                kept.push(*key);
            }
        }
        kept
    };
    place.clock.advance(place.settings.terms.retention);
    assert_eq!(journal.forget(10).await.unwrap(), 0, "to the moment");
    place.clock.advance(Duration::from_secs(1));
    assert_eq!(journal.forget(1).await.unwrap(), 1, "not more than is asked for");
    assert_eq!(journal.forget(10).await.unwrap(), 1);
    assert_eq!(journal.forget(10).await.unwrap(), 0);
    assert_eq!(kept().await, ["doubted", "accepted", "review", "late"]);
    place.clock.advance(1000 * DAY);
    assert_eq!(journal.forget(10).await.unwrap(), 1);
    assert_eq!(kept().await, ["doubted", "accepted", "review"], "what is open is never forgotten");
}

#[tokio::test]
async fn a_key_leaves_a_tombstone_unless_its_age_tells() {
    let place = Place::new();
    let (dated, future) = (minted(NOW), minted(NOW + 1000 * DAY));
    let keys = ["plain", dated.as_str(), future.as_str()];
    let journal = place.open();
    for key in keys {
        let entry = started(key, NOW);
        insert(&journal, &entry).await;
        change(&journal, &entry, &proven(), NOW).await;
    }
    place.clock.advance(place.settings.terms.retention + DAY);
    assert_eq!(journal.forget(10).await.unwrap(), 3);
    drop(journal);
    assert_eq!(embedded::stats(place.directory()).unwrap().tombstones, 2);
    let journal = place.open();
    let forgotten = Written::Forgotten(Tombstone { state: "succeeded".to_owned() });
    for key in ["plain", future.as_str()] {
        assert_eq!(journal.insert(started(key, NOW)).await.unwrap(), forgotten, "{key}");
    }
    // The dated one is older than what the journal remembers: refused before anybody asks the journal.
    assert!(journal.remembers_since() > NOW);
    // The key of another caller is another key.
    let mut other = started("plain", NOW);
    other.caller = "returns".parse().unwrap();
    insert(&journal, &other).await;
}

/// What left no tombstone does not come back when the configuration promises more.
#[tokio::test]
async fn a_longer_retention_brings_no_forgotten_key_back() {
    let mut place = Place::new();
    place.settings.terms.retention = 30 * DAY;
    let dated = started(&minted(NOW), NOW);
    {
        let journal = place.open();
        insert(&journal, &dated).await;
        change(&journal, &dated, &proven(), NOW).await;
        place.clock.advance(31 * DAY);
        assert_eq!(journal.forget(10).await.unwrap(), 1);
        assert_eq!(journal.remembers_since(), NOW + DAY);
    }
    place.settings.terms.retention = 90 * DAY;
    assert_eq!(place.open().remembers_since(), NOW + DAY);
}

#[tokio::test]
async fn the_file_does_not_grow_for_ever() {
    let place = Place::new();
    let journal = place.open();
    let mut lengths = Vec::new();
    for round in 0..6 {
        let now = NOW + 100 * DAY * round;
        let entries: Vec<_> = (0..1_000).map(|_| started(&minted(now), now)).collect();
        join_all(entries.iter().map(|entry| insert(&journal, entry))).await;
        let over = proven();
        join_all(entries.iter().map(|entry| change(&journal, entry, &over, now))).await;
        place.clock.advance(100 * DAY);
        while journal.forget(64).await.unwrap() > 0 {}
        // The audit is kept: as whoever archives it takes it away.
        rusqlite::Connection::open(place.directory().join("journal.sqlite"))
            .unwrap()
            .execute("DELETE FROM audit", [])
            .unwrap();
        drop(journal.check().await);
        lengths.push(pages(&place));
    }
    println!("pages after each round of 1000 operations and their end: {lengths:?}");
    assert!(lengths[5] <= lengths[0] + lengths[0] / 10, "{lengths:?}");
}

fn pages(place: &Place) -> i64 {
    let file = place.directory().join("journal.sqlite");
    let connection = rusqlite::Connection::open(file).unwrap();
    connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap()
}

/// By the wire: not found, and refused with what was known, without a byte to the PSP.
#[tokio::test]
async fn a_forgotten_operation_is_not_found_and_its_key_is_refused() {
    let app = TestApp::start_with(|config| config.journal.retention = Duration::from_secs(2)).await;
    let orders = app.orders().await;
    let now = || jiff::Timestamp::now().as_millisecond();
    for plain in [true, false] {
        let key = if plain { "plain".to_owned() } else { minted(Timestamp(now())) };
        let card = app.world.card().await;
        assert_eq!(orders.capture(&key, &card, 100).await.unwrap().operation.state(), Succeeded);
        eventually("it is forgotten", async || orders.operation(&key).await.is_err()).await;
        assert_eq!(orders.operation(&key).await.unwrap_err().reason(), "OPERATION_NOT_FOUND");
        let refused = orders.capture(&key, &card, 100).await.unwrap_err();
        assert_eq!((refused.code, refused.reason()), (Code::FailedPrecondition, "IDEMPOTENCY_KEY_EXPIRED"));
        let state = plain.then_some("SUCCEEDED");
        assert_eq!(
            (refused.metadata("state"), refused.metadata("safe_to_use_new_key")),
            (state, Some("false"))
        );
        assert_eq!((app.posts(&card).await, app.moved(&card).await.len()), (1, 1), "{key}");
    }
    // A key that is too old and was never seen cannot be told from one that was forgotten.
    let card = app.world.card().await;
    let old = orders.capture(&minted(Timestamp(now() - 10_000)), &card, 100).await.unwrap_err();
    assert_eq!(old.reason(), "IDEMPOTENCY_KEY_EXPIRED");
    assert_eq!(app.world.requests(&card).await, Vec::<serde_json::Value>::new());
    // What is open stays.
    app.world.fault(json!({"operation": "capture", "fault": "answer_lost_before_applying"})).await;
    orders.capture("lost", &card, 100).await.unwrap_err();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    orders.operation("lost").await.unwrap();
}
