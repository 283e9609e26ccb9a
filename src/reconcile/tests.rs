//! Reading back leaves the PSP alone when it asks for that.

use crate::clock::{Clock, Timestamp};
use crate::journal::embedded::{Embedded, Settings};
use crate::journal::entry::{Beginning, Schedule};
use crate::payment::{Action, Command, Guards, Operation};
use crate::psp::fake::{Fake, transaction};
use crate::psp::{NotSent, ReadError, Received};

use super::*;

const NOW: Timestamp = Timestamp(1_000_000_000_000);
const WAIT: Duration = Duration::from_mins(1);

struct Room {
    read_back: ReadBack<Embedded, Fake>,
    conclude: Conclude<Embedded, Fake>,
    entry: Entry,
    _directory: tempfile::TempDir,
}

/// A void whose answer was `received`.
async fn room(received: Received) -> Room {
    let transaction_id = "T12345678.465UfBENeLpkBvwmqfTC4k".parse().unwrap();
    let command = Command {
        caller: "orders".parse().unwrap(),
        key: "key-1".parse().unwrap(),
        operation: Operation { transaction: transaction_id, action: Action::Void },
        guards: Guards::default(),
        permit: crate::payment::permit::Permit::default(),
        traced: None,
    };
    let schedule = Schedule { first: Vec::new(), then: Duration::from_secs(2), jitter_percent: 0 };
    let directory = tempfile::tempdir().unwrap();
    let journal =
        Embedded::open(&Settings::beginning(directory.path()), &Clock::manual(NOW), &schedule).unwrap();
    let entry = Entry::start(&command, NOW, NOW + Duration::from_hours(4), NOW + WAIT);
    journal.insert(entry.clone()).await.unwrap();
    let psp = Fake::showing(Ok(transaction("AUTHORIZED", vec![])));
    let conclude = Conclude { journal, psp, clock: Clock::manual(NOW), schedule };
    let entry = conclude.record(entry, received).await.unwrap();
    let rules = Rules {
        settle_max: WAIT,
        read_lag_max: WAIT,
        absent_reads_apart: Duration::from_secs(10),
        failed_event_settles_after: WAIT,
        partial_review_after: WAIT,
        accepted_review_after: WAIT,
        unreadable_review_after: Duration::from_hours(24),
        resend_after: Duration::from_hours(24),
        resend_captures: false,
    };
    Room {
        read_back: ReadBack::new(conclude.clone(), rules, never(), 1, Tracer::off()),
        conclude,
        entry,
        _directory: directory,
    }
}

/// Sends nothing again.
fn never() -> Resend {
    Arc::new(|_| Box::pin(async { None }))
}

#[tokio::test]
async fn a_psp_that_asks_to_wait_is_not_read_even_for_a_caller_who_waits() {
    let room = room(Received::Pushback { http_status: 429, retry_after: Some(WAIT) }).await;
    let Conclude { psp, clock, journal, .. } = &room.conclude;
    for step in [Duration::ZERO, Duration::from_millis(59_999)] {
        clock.advance(step);
        assert_eq!(room.read_back.look(room.entry.clone()).await, room.entry);
        assert_eq!(journal.due(clock.now(), 10).await.unwrap(), []);
    }
    assert_eq!(psp.reads(), 0);
    clock.advance(Duration::from_millis(1));
    assert_eq!(journal.due(clock.now(), 10).await.unwrap(), std::slice::from_ref(&room.entry));
    let seen = room.read_back.look(room.entry).await;
    assert_eq!((psp.reads(), seen.reading.made), (1, 1));
}

#[tokio::test]
async fn a_read_that_is_turned_away_is_not_repeated_before_its_time() {
    let room = room(Received::Unknown("reset".to_owned())).await;
    let Conclude { psp, clock, .. } = &room.conclude;
    psp.show(Err(ReadError::NotSent(NotSent::RateLimited { retry_after: WAIT })));
    let as_it_was = room.entry.clone();
    let turned_away = room.read_back.look(room.entry).await;
    psp.show(Ok(transaction("AUTHORIZATION_VOIDED", vec![])));
    clock.advance(Duration::from_secs(59));
    assert_eq!(room.read_back.look(turned_away.clone()).await, turned_away);
    // Nor by a caller who does not know of it yet.
    assert_eq!(room.read_back.look(as_it_was).await, turned_away);
    clock.advance(Duration::from_secs(1));
    assert_eq!(room.read_back.look(turned_away).await.state.as_str(), "succeeded");
    assert_eq!(psp.reads(), 2);
}

#[tokio::test]
async fn a_pushback_ends_after_two_empty_reads_and_the_key_is_free() {
    let room = room(Received::Pushback { http_status: 409, retry_after: None }).await;
    let once = room.read_back.look(room.entry).await;
    assert_eq!(once.state.as_str(), "in_doubt");
    room.conclude.clock.advance(Duration::from_secs(10));
    assert_eq!(room.read_back.look(once).await.state.as_str(), "released");
}

#[tokio::test]
async fn a_started_operation_is_left_to_its_sender_until_the_lease_is_over() {
    let room = room(Received::Unauthorized).await;
    let event = Event::Retried(Beginning {
        nonce: uuid::Uuid::new_v4(),
        fence_at: NOW + WAIT,
        lease_until: NOW + Duration::from_secs(45),
    });
    let started = room.conclude.write(room.entry, &event).await.unwrap();
    assert_eq!(room.read_back.look(started.clone()).await, started);
    assert_eq!(room.conclude.psp.reads(), 0);
    room.conclude.clock.advance(Duration::from_secs(45));
    assert_eq!(room.read_back.look(started).await.state.as_str(), "in_doubt");
    assert_eq!(room.conclude.psp.reads(), 1, "it is only read");
}
