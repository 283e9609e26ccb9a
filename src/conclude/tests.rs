//! What each answer comes to, in time and too late.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use uuid::Uuid;

use super::*;
use crate::clock::Timestamp;
use crate::journal::{
    Written,
    embedded::{self, Embedded},
    entry::{Beginning, State},
};
use crate::payment::{Action, Amount, Capture, Command, Guards, Operation};
use crate::psp::NotSent;
use crate::psp::fake::{Fake, transaction};
use crate::psp::transaction::Event as PspEvent;

const NOW: Timestamp = Timestamp(1_000_000_000_000);

/// A journal with one started entry, and a PSP that shows what it is told.
struct Room {
    conclude: Conclude<Embedded, Fake>,
    entry: Entry,
    _directory: tempfile::TempDir,
}

impl Room {
    async fn of(action: Action) -> Self {
        let command = Command {
            caller: "orders".parse().unwrap(),
            key: "key-1".parse().unwrap(),
            operation: Operation { transaction: "T12345678.465UfBENeLpkBvwmqfTC4k".parse().unwrap(), action },
            guards: Guards::default(),
            permit: crate::payment::permit::Permit::default(),
            traced: None,
        };
        let schedule = Schedule { first: Vec::new(), then: Duration::from_secs(5), jitter_percent: 0 };
        let directory = tempfile::tempdir().unwrap();
        let journal =
            Embedded::open(&embedded::Settings::beginning(directory.path()), &Clock::manual(NOW), &schedule)
                .unwrap();
        let token_dead = NOW + Duration::from_hours(4);
        let entry = Entry::start(&command, NOW, token_dead, NOW + Duration::from_secs(45));
        assert_eq!(journal.insert(entry.clone()).await.unwrap(), Written::Done);
        let psp = Fake::showing(Ok(transaction("AUTHORIZED", vec![])));
        let conclude = Conclude { journal, psp, clock: Clock::manual(NOW), schedule };
        Self { conclude, entry, _directory: directory }
    }

    async fn capture() -> Self {
        Self::of(Action::Capture(Capture {
            amount: Amount::new(100).unwrap(),
            items: Vec::new(),
            reference: None,
            metadata: BTreeMap::new(),
            final_capture: false,
        }))
        .await
    }

    /// Our successful event, of this amount.
    fn moved(&self, amount: i64) -> Transaction {
        let event = PspEvent {
            name: "CAPTURE".to_owned(),
            success: Some(true),
            amount: Some(amount),
            event_reference: Some(self.entry.tag().to_string()),
            ..PspEvent::default()
        };
        transaction("PARTIALLY_CAPTURED", vec![event])
    }

    async fn record(&self, received: Received) -> Entry {
        self.conclude.record(self.entry.clone(), received).await.unwrap()
    }

    /// An event happens; what is stored then.
    async fn after(&self, event: Event) -> Entry {
        self.conclude.write(self.stored().await, &event).await.unwrap()
    }

    async fn late(&self, received: Received) -> Entry {
        self.conclude.late(self.entry.clone(), received).await;
        self.stored().await
    }

    async fn stored(&self) -> Entry {
        self.conclude.journal.get(self.entry.id).await.unwrap().unwrap()
    }
}

fn answer(transaction: Transaction) -> Received {
    Received::Answered { transaction: Box::new(transaction), accepted_request_id: None }
}

fn refusal(http_status: u16) -> Received {
    let message = Some("no".to_owned());
    Received::Refused(PspError { http_status: Some(http_status), message, ..PspError::default() })
}

fn retried() -> Event {
    let (fence_at, lease_until) = (NOW + Duration::from_hours(5), NOW + Duration::from_secs(90));
    Event::Retried(Beginning { nonce: Uuid::new_v4(), fence_at, lease_until })
}

fn given_up() -> Event {
    Event::NeverHappened { why: "absent".to_owned() }
}

/// What is logged on this thread as long as the guard lives.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Logged {
    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let logged = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::ERROR)
            .with_writer(move || logged.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn each_answer_to_a_capture_means_one_thing() {
    let pushback = Received::Pushback { http_status: 409, retry_after: None };
    let rows: [(Received, &str); 11] = [
        (Received::NotSent("no route".to_owned()), "released"),
        (Received::Unauthorized, "released"),
        (refusal(400), "declined"),
        (refusal(403), "declined"),
        (refusal(404), "declined"),
        (refusal(422), "declined"),
        (pushback, "in_doubt"),
        (answer(transaction("CAPTURED", vec![])), "in_doubt"),
        (answer(transaction("UNKNOWN", vec![])), "in_doubt"),
        (Received::Unknown("HTTP 503".to_owned()), "in_doubt"),
        (
            Received::Answered {
                transaction: Box::new(transaction("AUTHORIZED", vec![])),
                accepted_request_id: Some("r".to_owned()),
            },
            "accepted",
        ),
    ];
    for (received, expected) in rows {
        let room = Room::capture().await;
        let entry = room.record(received.clone()).await;
        assert_eq!(entry.state.as_str(), expected, "{received:?}");
        assert_eq!(room.stored().await, entry, "what is answered is durable");
    }
    for (amount, expected) in [(100, "succeeded"), (101, "review"), (99, "accepted")] {
        let room = Room::capture().await;
        let entry = room.record(answer(room.moved(amount))).await;
        assert_eq!(entry.state.as_str(), expected, "{amount}");
    }
}

#[tokio::test]
async fn an_answer_about_another_transaction_proves_nothing() {
    let room = Room::capture().await;
    let other = Transaction { id: "T12345678.another".to_owned(), ..room.moved(100) };
    assert_eq!(room.record(answer(other)).await.state.as_str(), "in_doubt");
}

#[tokio::test]
async fn an_accepted_request_keeps_the_id_that_the_psp_gave_it() {
    let room = Room::capture().await;
    let transaction = Box::new(transaction("AUTHORIZED", vec![]));
    let accepted_request_id = Some("r-1".to_owned());
    let entry = room.record(Received::Answered { transaction, accepted_request_id }).await;
    assert_eq!(entry.accepted_request_id.as_deref(), Some("r-1"));
}

#[tokio::test]
async fn a_refusal_that_left_an_effect_is_no_refusal() {
    for (amount, expected) in [(100, "succeeded"), (200, "review"), (40, "accepted")] {
        let room = Room::capture().await;
        room.conclude.psp.show(Ok(room.moved(amount)));
        assert_eq!(room.record(refusal(400)).await.state.as_str(), expected, "{amount}");
    }
    // A capture's refusal is definite by itself; the read only explains it.
    let room = Room::capture().await;
    room.conclude.psp.show(Err(ReadError::Unreadable("HTTP 500".to_owned())));
    assert_eq!(room.record(refusal(400)).await.state.as_str(), "declined");
}

#[tokio::test]
async fn a_void_that_is_refused_is_read_before_anything_is_said() {
    let limited = NotSent::RateLimited { retry_after: Duration::from_mins(1) };
    let rows = [
        (400, Ok(transaction("AUTHORIZATION_VOIDED", vec![])), "succeeded"),
        (400, Ok(transaction("AUTHORIZED", vec![])), "declined"),
        (404, Err(ReadError::NotFound), "declined"),
        (400, Err(ReadError::Unreadable("HTTP 500".to_owned())), "in_doubt"),
        (400, Err(ReadError::Forbidden), "in_doubt"),
        (400, Err(ReadError::NotSent(limited)), "in_doubt"),
    ];
    for (status, shown, expected) in rows {
        let room = Room::of(Action::Void).await;
        room.conclude.psp.show(shown.clone());
        let entry = room.record(refusal(status)).await;
        assert_eq!(entry.state.as_str(), expected, "{status} {shown:?}");
        // Nothing was executed: two reads that show nothing free the key.
        if let State::InDoubt { pushback, .. } = entry.state {
            assert!(pushback, "{shown:?}");
        }
    }
}

#[tokio::test]
async fn a_pushback_is_not_read_before_the_psp_wants_it() {
    let room = Room::capture().await;
    let wait = Duration::from_mins(2);
    let entry = room.record(Received::Pushback { http_status: 429, retry_after: Some(wait) }).await;
    assert_eq!(entry.reading.not_before, Some(NOW + wait));
    assert_eq!(entry.reading.next_at, Some(NOW + wait));
}

#[tokio::test]
async fn a_late_proof_is_a_fact_in_whatever_state() {
    // What happened meanwhile, and what the proof makes of it.
    let decline = || {
        let message = "no".to_owned();
        let (psp, reason) = (PspError::default(), Reason::Declined);
        Box::new(Decline { reason, message, psp, transaction_status: None, sums: None })
    };
    let rows: Vec<(Vec<Event>, &str)> = vec![
        (vec![], "succeeded"),
        (vec![Event::doubted("no answer")], "succeeded"),
        (vec![Event::Accepted { request_id: None }], "succeeded"),
        (vec![Event::doubted("no answer"), given_up()], "succeeded"),
        (vec![Event::doubted("no answer"), given_up(), retried()], "succeeded"),
        (vec![Event::Contradicted { why: "odd".to_owned() }], "succeeded"),
        (vec![Event::Refused(decline())], "review"),
        (vec![Event::doubted("no answer"), given_up(), retried(), Event::Refused(decline())], "review"),
    ];
    for (meanwhile, expected) in rows {
        let room = Room::capture().await;
        for event in &meanwhile {
            room.after(event.clone()).await;
        }
        let entry = room.late(answer(room.moved(100))).await;
        assert_eq!(entry.state.as_str(), expected, "{meanwhile:?}");
        // The same again changes nothing, or ends the review.
        let again = room.late(answer(room.moved(100))).await;
        assert_eq!(again.state.as_str(), "succeeded", "{meanwhile:?}");
    }
}

#[tokio::test]
async fn a_late_judgement_counts_for_its_own_attempt_alone() {
    let late = [refusal(400), answer(room_independent_part())];
    for received in late {
        let room = Room::capture().await;
        room.after(Event::doubted("no answer")).await;
        room.after(given_up()).await;
        let second = room.after(retried()).await;
        assert_eq!(room.late(received.clone()).await, second, "{received:?}");
    }
    // And where nothing came between, it settles the doubt.
    let room = Room::capture().await;
    room.after(Event::doubted("no answer")).await;
    assert_eq!(room.late(refusal(400)).await.state.as_str(), "declined");
}

/// A part of the amount, for the key of every room.
fn room_independent_part() -> Transaction {
    let tag = crate::payment::id::Tag::derive(&"orders".parse().unwrap(), &"key-1".parse().unwrap());
    let event = PspEvent {
        name: "CAPTURE".to_owned(),
        success: Some(true),
        amount: Some(40),
        event_reference: Some(tag.to_string()),
        ..PspEvent::default()
    };
    transaction("PARTIALLY_CAPTURED", vec![event])
}

#[tokio::test]
async fn a_late_answer_that_settles_nothing_is_not_recorded() {
    let pushback = Received::Pushback { http_status: 429, retry_after: None };
    let nothing = [
        Received::Unknown("reset".to_owned()),
        Received::NotSent("no route".to_owned()),
        Received::Unauthorized,
        pushback,
        answer(transaction("AUTHORIZED", vec![])),
    ];
    for received in nothing {
        let room = Room::capture().await;
        let doubtful = room.after(Event::doubted("no answer")).await;
        assert_eq!(room.late(received.clone()).await, doubtful, "{received:?}");
    }
}

#[tokio::test]
async fn an_effect_after_a_decline_is_somebodys_case_at_once() {
    let room = Room::capture().await;
    room.record(refusal(400)).await;
    let logged = Logged::default();
    let listening = logged.listen();
    let entry = room.late(answer(room.moved(100))).await;
    drop(listening);
    assert_eq!(entry.state.as_str(), "review");
    assert!(logged.text().contains("an assumption about the PSP broke"), "{}", logged.text());
    assert!(logged.text().contains("needs a person's review"), "{}", logged.text());
    assert!(entry.state.is_open(), "it holds the slot until it is decided");
}

#[tokio::test]
async fn an_effect_after_a_decline_is_told_even_while_another_operation_holds_the_slot() {
    let room = Room::capture().await;
    let declined = room.record(refusal(400)).await;
    let other = Entry {
        id: crate::payment::id::OperationId::new(),
        key: "key-2".parse().unwrap(),
        nonce: Uuid::new_v4(),
        ..room.entry.clone()
    };
    assert_eq!(room.conclude.journal.insert(other).await.unwrap(), Written::Done);
    let logged = Logged::default();
    let listening = logged.listen();
    assert_eq!(room.late(answer(room.moved(100))).await, declined);
    drop(listening);
    assert!(logged.text().contains("an assumption about the PSP broke"), "{}", logged.text());
}

#[tokio::test]
async fn an_effect_after_a_release_or_during_a_later_attempt_is_told() {
    for events in [vec![given_up()], vec![given_up(), retried()]] {
        let room = Room::capture().await;
        room.after(Event::doubted("no answer")).await;
        for event in events {
            room.after(event).await;
        }
        let logged = Logged::default();
        let listening = logged.listen();
        room.late(answer(room.moved(100))).await;
        drop(listening);
        assert!(logged.text().contains("an assumption about the PSP broke"), "{}", logged.text());
    }
}

#[tokio::test]
async fn money_that_moved_twice_is_told_even_when_the_operation_is_settled() {
    let room = Room::capture().await;
    let settled = room.record(answer(room.moved(100))).await;
    let logged = Logged::default();
    let listening = logged.listen();
    // By a late answer, and by one whose attempt is the current one.
    assert_eq!(room.late(answer(room.moved(200))).await, settled);
    let late = logged.text();
    assert_eq!(room.record(answer(room.moved(200))).await, settled);
    drop(listening);
    assert!(late.contains("evidence contradicts what is settled"), "{late}");
    assert_eq!(logged.text().matches("evidence contradicts what is settled").count(), 2);
    assert!(!logged.text().contains("a defect"), "{}", logged.text());
}

#[tokio::test]
async fn a_late_refusal_of_what_is_settled_is_no_news() {
    let room = Room::capture().await;
    let settled = room.record(answer(room.moved(100))).await;
    room.conclude.psp.show(Ok(transaction("AUTHORIZED", vec![])));
    let logged = Logged::default();
    let listening = logged.listen();
    assert_eq!(room.late(refusal(400)).await, settled);
    drop(listening);
    assert_eq!(logged.text(), "");
}
