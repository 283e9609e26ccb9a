//! A hint is followed soon, seldom, and to the end.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::clock::{Clock, Timestamp};
use crate::conclude::Conclude;
use crate::journal::embedded::{Embedded, Settings};
use crate::journal::entry::{Beginning, Event, Schedule};
use crate::payment::{Action, Command, Guards, Operation};
use crate::psp::fake::{Fake, Nothing, transaction};
use crate::psp::{NotSent, Page, ReadError, Received, transaction::Transaction};
use crate::reconcile::decide::Rules;
use crate::trace::Tracer;

use super::*;

const NOW: Timestamp = Timestamp(1_000_000_000_000);
const WAIT: Duration = Duration::from_hours(1);
const CARD: &str = "T12345678.465UfBENeLpkBvwmqfTC4k";

/// A PSP whose reads wait until they are let through.
#[derive(Clone)]
struct Gate {
    fake: Fake,
    issued: Arc<AtomicUsize>,
    open: Arc<Semaphore>,
}

impl Psp for Gate {
    type Prepared = Nothing;

    async fn prepare(&self, command: &Command) -> Result<Nothing, NotSent> {
        self.fake.prepare(command).await
    }

    async fn send(&self, prepared: Nothing) -> Received {
        self.fake.send(prepared).await
    }

    async fn read(&self, id: &TransactionId) -> Result<Transaction, ReadError> {
        self.issued.fetch_add(1, Ordering::SeqCst);
        self.open.acquire().await.unwrap().forget();
        self.fake.read(id).await
    }

    async fn list(&self, page: &Page) -> Result<Vec<TransactionId>, ReadError> {
        self.fake.list(page).await
    }

    fn serves(&self, _: &TransactionId) -> bool {
        true
    }
}

struct Room {
    hints: Hints<Embedded, Gate>,
    read_back: ReadBack<Embedded, Gate>,
    conclude: Conclude<Embedded, Gate>,
    psp: Gate,
    entry: Entry,
    stop: CancellationToken,
    _directory: tempfile::TempDir,
}

impl Room {
    /// A void that was sent and not yet answered; its reads are let through.
    async fn new() -> Self {
        let room = Self::shut().await;
        room.psp.open.add_permits(1_000);
        room
    }

    /// The same, and reads wait.
    async fn shut() -> Self {
        let command = Command {
            caller: "orders".parse().unwrap(),
            key: "key-1".parse().unwrap(),
            operation: Operation { transaction: CARD.parse().unwrap(), action: Action::Void },
            guards: Guards::default(),
            permit: crate::payment::permit::Permit::default(),
            traced: None,
        };
        let schedule = Schedule { first: Vec::new(), then: WAIT, jitter_percent: 0 };
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings::beginning(directory.path());
        let journal = Embedded::open(&settings, &Clock::manual(NOW), &schedule).unwrap();
        let entry = Entry::start(&command, NOW, NOW + WAIT, NOW + WAIT);
        journal.insert(entry.clone()).await.unwrap();
        let fake = Fake::showing(Ok(transaction("AUTHORIZED", vec![])));
        let psp = Gate { fake, issued: Arc::default(), open: Arc::new(Semaphore::new(0)) };
        let conclude = Conclude { journal, psp: psp.clone(), clock: Clock::manual(NOW), schedule };
        let rules = Rules {
            settle_max: WAIT,
            read_lag_max: WAIT,
            absent_reads_apart: WAIT,
            failed_event_settles_after: WAIT,
            partial_review_after: WAIT,
            accepted_review_after: WAIT,
            unreadable_review_after: WAIT,
            resend_after: WAIT,
            resend_captures: false,
        };
        let read_back =
            ReadBack::new(conclude.clone(), rules, Arc::new(|_| Box::pin(async { None })), 1, Tracer::off());
        let stop = CancellationToken::new();
        let mut hints = Hints::new(read_back.clone(), 4, stop.clone());
        // Soon, and late enough that nothing else is meant.
        Arc::get_mut(&mut hints.shared).unwrap().look_again = [100, 200].map(Duration::from_millis);
        Self { hints, read_back, conclude, psp, entry, stop, _directory: directory }
    }

    /// Nothing is looked at again but upon a hint.
    fn without_following_up(mut self) -> Self {
        Arc::get_mut(&mut self.hints.shared).unwrap().look_again = [WAIT; 2];
        self
    }

    async fn answered(&self, received: Received) -> Entry {
        self.conclude.record(self.entry.clone(), received).await.unwrap()
    }

    fn hint(&self) {
        self.hints.take(CARD.parse().unwrap());
    }

    async fn state(&self) -> &'static str {
        self.conclude.journal.get(self.entry.id).await.unwrap().unwrap().state.as_str()
    }

    async fn issued(&self, reads: usize) {
        eventually(async || self.psp.issued.load(Ordering::SeqCst) == reads).await;
    }

    fn followed(&self) -> usize {
        self.hints.shared.followed().len()
    }

    async fn is_over(&self) {
        eventually(async || self.followed() == 0).await;
    }
}

fn lost() -> Received {
    Received::Unknown("reset".to_owned())
}

async fn eventually(mut condition: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.expect("it comes about");
}

#[tokio::test]
async fn an_operation_that_would_be_read_in_an_hour_is_read_upon_a_hint() {
    let room = Room::new().await;
    room.answered(lost()).await;
    room.psp.fake.show(Ok(transaction("AUTHORIZATION_VOIDED", vec![])));
    room.hint();
    eventually(async || room.state().await == "succeeded").await;
    room.is_over().await;
    assert_eq!(room.psp.fake.reads(), 1);
}

#[tokio::test]
async fn a_hint_that_is_faster_than_the_answer_waits_for_it() {
    let room = Room::new().await;
    room.psp.fake.show(Ok(transaction("AUTHORIZATION_VOIDED", vec![])));
    room.hint();
    eventually(async || room.followed() == 1).await;
    // The sender may still hear of it: nobody takes its place, for longer than what is looked at is followed up.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!((room.state().await, room.psp.fake.reads()), ("started", 0));
    room.answered(lost()).await;
    eventually(async || room.state().await == "succeeded").await;
    assert_eq!(room.psp.fake.reads(), 1);
}

#[tokio::test]
async fn a_hint_waits_for_the_answer_to_what_was_sent_again_too() {
    let room = Room::new().await;
    let doubted = room.answered(lost()).await;
    let beginning = Beginning { nonce: uuid::Uuid::new_v4(), fence_at: NOW + WAIT, lease_until: NOW + WAIT };
    let resent = room.conclude.write(doubted, &Event::Resent(beginning)).await.unwrap();
    room.psp.fake.show(Ok(transaction("AUTHORIZATION_VOIDED", vec![])));
    room.hint();
    eventually(async || room.followed() == 1).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!((room.state().await, room.psp.fake.reads()), ("resent", 0));
    room.conclude.record(resent, lost()).await.unwrap();
    eventually(async || room.state().await == "succeeded").await;
    assert_eq!(room.psp.fake.reads(), 1);
}

#[tokio::test]
async fn a_hint_about_what_its_answer_settles_reads_nothing() {
    let room = Room::new().await;
    room.hint();
    room.conclude.write(room.entry.clone(), &Event::NotSent { why: "unreachable".to_owned() }).await.unwrap();
    room.is_over().await;
    room.hint();
    room.is_over().await;
    assert_eq!(room.psp.fake.reads(), 0);
}

#[tokio::test]
async fn hints_share_a_read_and_those_that_come_during_one_share_the_next() {
    let room = Room::shut().await.without_following_up();
    room.answered(lost()).await;
    room.hint();
    room.issued(1).await;
    for _ in 0..100 {
        room.hint();
    }
    room.psp.open.add_permits(1);
    // The one under way may be older than those hints.
    room.issued(2).await;
    room.psp.fake.show(Ok(transaction("AUTHORIZATION_VOIDED", vec![])));
    room.psp.open.add_permits(1);
    eventually(async || room.state().await == "succeeded").await;
    room.is_over().await;
    assert_eq!(room.psp.issued.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_read_that_somebody_else_began_before_the_hint_does_not_answer_it() {
    let room = Room::shut().await.without_following_up();
    let open = room.answered(lost()).await;
    let other = tokio::spawn({
        let read_back = room.read_back.clone();
        async move { read_back.look(open).await }
    });
    room.issued(1).await;
    room.hint();
    tokio::time::sleep(Duration::from_millis(50)).await;
    room.issued(1).await;
    room.psp.open.add_permits(1);
    assert_eq!(other.await.unwrap().state.as_str(), "in_doubt");
    room.issued(2).await;
}

/// [D 12 #6]
#[tokio::test]
async fn what_cannot_be_seen_yet_is_looked_for_twice_more_and_then_left_to_the_schedule() {
    let room = Room::new().await;
    room.answered(lost()).await;
    let begun = std::time::Instant::now();
    room.hint();
    room.is_over().await;
    assert_eq!(room.psp.fake.reads(), 3);
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    // Another hint begins anew.
    room.hint();
    room.issued(4).await;
    room.psp.fake.show(Ok(transaction("AUTHORIZATION_VOIDED", vec![])));
    room.is_over().await;
    assert_eq!((room.state().await, room.psp.fake.reads()), ("succeeded", 5));
}

#[tokio::test]
async fn a_psp_that_asks_to_be_left_alone_is_left_alone() {
    let room = Room::new().await;
    room.answered(Received::Pushback { http_status: 429, retry_after: Some(WAIT) }).await;
    room.hint();
    room.is_over().await;
    assert_eq!(room.psp.fake.reads(), 0);
}

#[tokio::test]
async fn what_is_followed_has_a_bound_and_ends_with_the_stop() {
    let room = Room::shut().await;
    room.answered(lost()).await;
    room.hint();
    room.issued(1).await;
    {
        let mut followed = room.hints.shared.followed();
        for nth in 1..TRANSACTIONS_MAX {
            followed.insert(format!("T12345678.x{nth}").parse().unwrap(), watch::channel(()).0);
        }
    }
    room.hints.take("T12345678.beyond".parse().unwrap());
    assert_eq!(room.followed(), TRANSACTIONS_MAX);
    room.stop.cancel();
    room.hints.ended().await;
    room.hint();
    assert_eq!(room.psp.issued.load(Ordering::SeqCst), 1, "nothing is read after the stop");
}
