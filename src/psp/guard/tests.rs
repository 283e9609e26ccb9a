//! What is turned away, and what is not.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::clock::Timestamp;
use crate::payment::{Action, Guards, Operation};
use crate::psp::fake::transaction;

const CARD: &str = "T12345678.465UfBENeLpkBvwmqfTC4k";
const OTHER: &str = "T87654321.465UfBENeLpkBvwmqfTC4k";
const SECOND: Duration = Duration::from_secs(1);

/// Answers as it is told to, or not at all.
#[derive(Clone)]
struct Told {
    answer: Arc<Mutex<Option<Received>>>,
    read: Arc<Mutex<Result<Transaction, ReadError>>>,
    sent: Arc<AtomicUsize>,
}

struct Ready;

impl super::super::Prepared for Ready {
    fn life_left(&self) -> Duration {
        Duration::from_hours(4)
    }
}

impl Psp for Told {
    type Prepared = Ready;

    async fn prepare(&self, _: &Command) -> Result<Ready, NotSent> {
        Ok(Ready)
    }

    async fn send(&self, _: Ready) -> Received {
        self.sent.fetch_add(1, Ordering::SeqCst);
        let answer = self.answer.lock().unwrap().clone();
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    async fn read(&self, _: &TransactionId) -> Result<Transaction, ReadError> {
        self.read.lock().unwrap().clone()
    }

    async fn list(&self, _: &Page) -> Result<Vec<TransactionId>, ReadError> {
        Ok(Vec::new())
    }

    fn serves(&self, _: &TransactionId) -> bool {
        true
    }
}

struct Room {
    guarded: Guarded<Told>,
    clock: Clock,
}

impl Room {
    fn new(in_flight_max: usize) -> Self {
        let clock = Clock::manual(Timestamp(0));
        let inner = Told {
            answer: Arc::new(Mutex::new(Some(works()))),
            read: Arc::new(Mutex::new(Ok(transaction("AUTHORIZED", vec![])))),
            sent: Arc::default(),
        };
        let settings = Settings {
            in_flight_max,
            circuit: circuit::Settings { failures: 10, open_for: 5 * SECOND },
            attempt_timeout: 30 * SECOND,
        };
        let accounts = ["T12345678", "T87654321"].map(|id| id.parse().unwrap());
        Self { guarded: Guarded::new(inner, accounts, settings, clock.clone()), clock }
    }

    fn answers(&self, answer: Received) {
        *self.guarded.inner.answer.lock().unwrap() = Some(answer);
    }

    fn shows(&self, read: Result<Transaction, ReadError>) {
        *self.guarded.inner.read.lock().unwrap() = read;
    }

    /// One attempt, as far as it comes.
    async fn attempt(&self, transaction: &str) -> Result<Received, NotSent> {
        let prepared = self.guarded.prepare(&command(transaction)).await?;
        Ok(self.guarded.send(prepared).await)
    }

    /// So many places at once.
    async fn hold(&self, count: usize) -> Vec<Prepared<Ready>> {
        let mut held = Vec::new();
        for _ in 0..count {
            held.push(self.guarded.prepare(&command(CARD)).await.unwrap());
        }
        held
    }

    async fn look(&self) -> Result<(), ReadError> {
        self.guarded.look(&CARD.parse().unwrap()).await.map(drop)
    }

    async fn read(&self) -> Result<(), ReadError> {
        self.guarded.read(&CARD.parse().unwrap()).await.map(drop)
    }

    async fn fail(&self) {
        self.answers(Received::Unknown("HTTP 500".to_owned()));
        for _ in 0..10 {
            self.attempt(CARD).await.unwrap();
        }
    }
}

fn works() -> Received {
    Received::Answered { transaction: Box::new(transaction("CAPTURED", vec![])), accepted_request_id: None }
}

fn command(transaction: &str) -> Command {
    Command {
        caller: "orders".parse().unwrap(),
        key: "key-1".parse().unwrap(),
        operation: Operation { transaction: transaction.parse().unwrap(), action: Action::Void },
        guards: Guards::default(),
        permit: crate::payment::permit::Permit::default(),
        traced: None,
    }
}

fn open_for(seconds: u32) -> NotSent {
    NotSent::CircuitOpen { retry_after: SECOND * seconds }
}

#[tokio::test]
async fn after_ten_failures_nothing_is_begun_for_that_account_and_all_is_for_the_other() {
    let room = Room::new(48);
    room.fail().await;
    assert_eq!(room.attempt(CARD).await, Err(open_for(5)));
    assert_eq!(room.guarded.inner.sent.load(Ordering::SeqCst), 10);
    room.answers(works());
    assert_eq!(room.attempt(OTHER).await, Ok(works()));
    // Then one tries, and all of them may when it works.
    room.clock.advance(5 * SECOND);
    let probe = room.guarded.prepare(&command(CARD)).await.unwrap();
    assert!(matches!(room.attempt(CARD).await, Err(NotSent::CircuitOpen { .. })));
    room.guarded.send(probe).await;
    assert_eq!(room.attempt(CARD).await, Ok(works()));
}

#[tokio::test]
async fn a_test_that_is_not_sent_leaves_it_to_the_next_one() {
    let room = Room::new(48);
    room.fail().await;
    room.answers(works());
    room.clock.advance(5 * SECOND);
    // Its key was taken, or the journal did not confirm it.
    drop(room.guarded.prepare(&command(CARD)).await.unwrap());
    assert_eq!(room.attempt(CARD).await, Ok(works()));
}

/// A refusal is an answer, and so is one that says nothing about the payment.
#[tokio::test]
async fn what_the_psp_refuses_is_no_failure_of_it() {
    let room = Room::new(48);
    for answer in [
        Received::Refused(crate::payment::outcome::PspError::default()),
        Received::Unauthorized,
        Received::Pushback { http_status: 409, retry_after: None },
    ] {
        room.answers(answer.clone());
        for _ in 0..30 {
            assert_eq!(room.attempt(CARD).await, Ok(answer.clone()));
        }
    }
}

#[tokio::test]
async fn what_an_answer_rests_on_is_read_while_the_circuit_is_open_and_closes_it() {
    let room = Room::new(48);
    let unreadable = || Err(ReadError::Unreadable("HTTP 500".to_owned()));
    room.shows(unreadable());
    for _ in 0..10 {
        room.look().await.unwrap_err();
    }
    assert_eq!(room.look().await, Err(ReadError::NotSent(open_for(5))));
    // As often as one likes, and that makes it no worse.
    for _ in 0..30 {
        assert_eq!(room.read().await, unreadable().map(drop));
    }
    assert_eq!(room.look().await, Err(ReadError::NotSent(open_for(5))));
    room.shows(Ok(transaction("AUTHORIZED", vec![])));
    room.read().await.unwrap();
    room.look().await.unwrap();
    // Commands have a circuit of their own: they were not what failed, nor what worked.
    assert_eq!(room.attempt(CARD).await, Ok(works()));
    room.fail().await;
    room.read().await.unwrap();
    assert_eq!(room.attempt(CARD).await, Err(open_for(5)));
}

#[tokio::test]
async fn an_account_takes_no_more_than_its_part() {
    let room = Room::new(2);
    let held = room.hold(2).await;
    assert_eq!(room.attempt(CARD).await, Err(NotSent::Overloaded));
    assert_eq!(room.attempt(OTHER).await, Ok(works()));
    // Reads have places of their own.
    room.look().await.unwrap();
    drop(held);
    assert_eq!(room.attempt(CARD).await, Ok(works()));
}

#[tokio::test]
async fn a_429_halves_what_may_be_under_way_and_its_wait_goes_for_the_account() {
    let room = Room::new(4);
    room.answers(Received::Pushback { http_status: 429, retry_after: Some(3 * SECOND) });
    room.attempt(CARD).await.unwrap();
    room.answers(works());
    let wait = || NotSent::RateLimited { retry_after: 3 * SECOND };
    assert_eq!(room.attempt(CARD).await, Err(wait()));
    assert_eq!(room.look().await, Err(ReadError::NotSent(wait())));
    assert_eq!(room.read().await, Err(ReadError::NotSent(wait())));
    assert_eq!(room.attempt(OTHER).await, Ok(works()));
    room.clock.advance(3 * SECOND);
    room.read().await.unwrap();
    let held = room.hold(2).await;
    assert_eq!(room.attempt(CARD).await, Err(NotSent::Overloaded));
    drop(held);
    // After a round without a sign there is one place more.
    for _ in 0..2 {
        room.attempt(CARD).await.unwrap();
    }
    assert_eq!(room.hold(3).await.len(), 3);
}

/// What hangs is a failure when its caller is told so, and not only when the last hope is gone.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_counts_when_its_time_is_over_and_gives_its_place_back() {
    let room = Room::new(10);
    *room.guarded.inner.answer.lock().unwrap() = None;
    for _ in 0..10 {
        let prepared = room.guarded.prepare(&command(CARD)).await.unwrap();
        let guarded = room.guarded.clone();
        tokio::spawn(async move { guarded.send(prepared).await });
    }
    tokio::time::sleep(29 * SECOND).await;
    assert_eq!(room.attempt(CARD).await, Err(NotSent::Overloaded));
    tokio::time::sleep(2 * SECOND).await;
    assert!(matches!(room.attempt(CARD).await, Err(NotSent::CircuitOpen { .. })));
    assert_eq!(room.guarded.inner.sent.load(Ordering::SeqCst), 10);
}

#[tokio::test]
async fn an_account_that_is_not_served_is_told_so() {
    let room = Room::new(1);
    assert_eq!(room.attempt("T00000000.a").await, Err(NotSent::UnknownAccount));
}
