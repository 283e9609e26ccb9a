//! How far back a sweep looks, what it asks for, and when it gives up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use super::*;
use crate::clock::Clock;
use crate::journal::Terms;
use crate::journal::embedded::{self, Embedded};
use crate::journal::entry::{Schedule, State};
use crate::payment::{
    Action, Command, Guards, Operation,
    outcome::{Proof, Sums},
};
use crate::psp::Received;
use crate::psp::fake::{Nothing, transaction};

const NOW: Timestamp = Timestamp(1_777_968_000_000);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// A PSP with a list, which fails as often as it is told to.
#[derive(Clone, Default)]
struct Listing {
    shared: Arc<Mutex<Books>>,
}

#[derive(Default)]
struct Books {
    captured: Vec<TransactionId>,
    /// Shown as they are not, in that order, before anything else.
    list_errors: VecDeque<ReadError>,
    read_errors: BTreeMap<TransactionId, Vec<ReadError>>,
    /// Whether `starting_after` does nothing.
    starts_anew: bool,
    pages: Vec<Page>,
    reads: Vec<TransactionId>,
    busy: (usize, usize),
}

impl Psp for Listing {
    type Prepared = Nothing;

    async fn prepare(&self, _: &Command) -> Result<Nothing, NotSent> {
        panic!("a sweep moves no money")
    }

    async fn send(&self, _: Nothing) -> Received {
        panic!("a sweep moves no money")
    }

    async fn read(&self, id: &TransactionId) -> Result<Transaction, ReadError> {
        let error = {
            let mut books = self.shared.lock().unwrap();
            books.reads.push(id.clone());
            books.busy.0 += 1;
            books.busy.1 = books.busy.1.max(books.busy.0);
            books.read_errors.get_mut(id).and_then(Vec::pop)
        };
        tokio::time::sleep(Duration::from_millis(10)).await;
        self.shared.lock().unwrap().busy.0 -= 1;
        match error {
            Some(error) => Err(error),
            None => Ok(Transaction { id: id.to_string(), ..transaction("AUTHORIZED", vec![]) }),
        }
    }

    async fn list(&self, page: &Page) -> Result<Vec<TransactionId>, ReadError> {
        let mut books = self.shared.lock().unwrap();
        books.pages.push(page.clone());
        if let Some(error) = books.list_errors.pop_front() {
            return Err(error);
        }
        if page.moved == Moved::Refunded {
            return Ok(Vec::new());
        }
        let after = page.after.as_ref().filter(|_| !books.starts_anew);
        let from = after.map_or(0, |after| books.captured.iter().position(|id| id == after).unwrap() + 1);
        Ok(books.captured[from..].iter().take(usize::from(page.most)).cloned().collect())
    }

    fn serves(&self, _: &TransactionId) -> bool {
        true
    }
}

struct Room {
    sweep: Sweep<Embedded, Listing>,
    psp: Listing,
    journal: Embedded,
    directory: tempfile::TempDir,
}

fn room() -> Room {
    room_of(tempfile::tempdir().unwrap(), true)
}

fn room_of(directory: tempfile::TempDir, new: bool) -> Room {
    let schedule = Schedule { first: Vec::new(), then: HOUR, jitter_percent: 0 };
    let clock = Clock::manual(NOW);
    let settings = embedded::Settings {
        directory: directory.path().to_owned(),
        terms: Terms { new, ..Terms::beginning() },
        audit: crate::journal::audit::Key::none(),
    };
    let journal = Embedded::open(&settings, &clock, &schedule).unwrap();
    let psp = Listing::default();
    let settings = Settings {
        accounts: vec!["T12345678".parse().unwrap()],
        every: DAY,
        look_back: DAY * 2,
        look_back_after_loss: DAY * 30,
        settles: HOUR,
        open_max: DAY * 7,
        mark: Some(directory.path().join("sweep.done")),
    };
    let conclude = Conclude { journal: journal.clone(), psp: psp.clone(), clock, schedule };
    Room { sweep: Sweep::new(conclude, settings), psp, journal, directory }
}

fn ids(count: usize) -> Vec<TransactionId> {
    (0..count).map(|number| id(&format!("n{number}"))).collect()
}

fn id(name: &str) -> TransactionId {
    format!("T12345678.{name}").parse().unwrap()
}

impl Room {
    /// A void on this transaction, which succeeded then.
    async fn succeeded(&self, transaction: &TransactionId, created_at: Timestamp, updated_at: Timestamp) {
        let command = Command {
            caller: "orders".parse().unwrap(),
            key: transaction.as_str().parse().unwrap(),
            operation: Operation { transaction: transaction.clone(), action: Action::Void },
            guards: Guards::default(),
            permit: crate::payment::permit::Permit::default(),
            traced: None,
        };
        let mut entry = Entry::start(&command, created_at, NOW, NOW);
        let transaction_status = "AUTHORIZATION_VOIDED".to_owned();
        let (event_id, event_time) = (None, None);
        let proof = Proof {
            event_id,
            amount: 0,
            event_time,
            transaction_status,
            sums: Sums::default(),
            by_others: false,
        };
        entry.state = State::Succeeded(proof);
        entry.updated_at = updated_at;
        self.journal.insert(entry).await.unwrap();
    }

    fn books<R>(&self, look: impl FnOnce(&mut Books) -> R) -> R {
        look(&mut self.psp.shared.lock().unwrap())
    }

    /// The first page's time.
    fn since(&self) -> Timestamp {
        self.books(|books| books.pages.first().unwrap().since)
    }
}

fn away() -> ReadError {
    ReadError::NotSent(NotSent::Unreachable("away".to_owned()))
}

#[tokio::test(start_paused = true)]
async fn every_page_is_asked_for_and_each_transaction_is_read_once_two_at_a_time() {
    let room = room();
    room.books(|books| books.captured = ids(250));
    // One that is listed, one that is not, one that succeeded long ago.
    for (transaction, at) in [(id("n3"), NOW - HOUR), (id("void"), NOW - HOUR), (id("old"), NOW - DAY * 3)] {
        room.succeeded(&transaction, at, at).await;
    }
    // It was open for days.
    room.succeeded(&id("slow"), NOW - DAY * 6, NOW - HOUR * 2).await;
    let seen = room.sweep.sweep(None).await.unwrap();
    // Nothing is to be seen of what the journal says of three.
    assert_eq!((seen.transactions, seen.incidents, seen.unreadable), (252, 3, 0));
    room.books(|books| {
        assert_eq!(books.reads.len(), 252, "each once");
        assert!(books.reads.contains(&id("void")) && books.reads.contains(&id("slow")));
        assert!(!books.reads.contains(&id("old")));
        assert_eq!(books.busy.1, 2);
        let asked: Vec<_> = books.pages.iter().map(|page| (page.moved, page.after.clone())).collect();
        let after = |number: usize| Some(id(&format!("n{number}")));
        let captured = [None, after(99), after(199), after(249)].map(|after| (Moved::Captured, after));
        assert_eq!(asked, [&captured[..], &[(Moved::Refunded, None)]].concat());
    });
}

#[tokio::test(start_paused = true)]
async fn a_page_that_fails_is_asked_for_again_shorter_and_not_before_the_psp_allows() {
    let room = room();
    let limited = ReadError::NotSent(NotSent::RateLimited { retry_after: Duration::from_secs(77) });
    room.books(|books| {
        books.captured = ids(60);
        books.list_errors = [ReadError::Unreadable("too long".to_owned()), limited].into();
    });
    let begun = tokio::time::Instant::now();
    assert_eq!(room.sweep.sweep(None).await.unwrap().transactions, 60);
    assert!(begun.elapsed() >= Duration::from_secs(78), "{:?}", begun.elapsed());
    let asked = room.books(|books| books.pages.iter().map(|page| page.most).collect::<Vec<_>>());
    assert_eq!(asked[..3], [100, 50, 25]);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_does_not_come_makes_the_sweep_incomplete() {
    let room = room();
    room.books(|books| books.list_errors = vec![away(); PAUSES.len() + 1].into());
    assert!(room.sweep.sweep(None).await.is_err());
    assert_eq!(room.books(|books| books.pages.len()), PAUSES.len() + 1, "not for ever");
    assert!(room.sweep.sweep(None).await.is_ok(), "and then it comes");
}

#[tokio::test(start_paused = true)]
async fn a_list_that_never_gets_on_makes_the_sweep_incomplete() {
    let room = room();
    room.books(|books| {
        books.captured = ids(150);
        books.starts_anew = true;
    });
    assert!(room.sweep.sweep(None).await.is_err());
    assert_eq!(room.books(|books| books.pages.len()), 2);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_cannot_be_read_is_told_and_the_others_are_compared() {
    let room = room();
    let unreadable = || ReadError::Unreadable("no transaction".to_owned());
    room.books(|books| {
        books.captured = ids(5);
        books.read_errors.insert(id("n1"), vec![ReadError::Forbidden]);
        books.read_errors.insert(id("n2"), vec![unreadable(); PAUSES.len() + 1]);
        books.read_errors.insert(id("n3"), vec![unreadable(); PAUSES.len()]);
    });
    let seen = room.sweep.sweep(None).await.unwrap();
    assert_eq!((seen.transactions, seen.unreadable), (3, 2));
    room.books(|books| {
        let reads = |name: &str| books.reads.iter().filter(|read| **read == id(name)).count();
        assert_eq!([reads("n1"), reads("n2"), reads("n3")], [1, PAUSES.len() + 1, PAUSES.len() + 1]);
    });
}

#[tokio::test(start_paused = true)]
async fn where_nothing_can_be_read_the_sweep_is_incomplete() {
    let room = room();
    room.books(|books| {
        books.captured = ids(5);
        books.read_errors.insert(id("n1"), vec![away(); PAUSES.len() + 1]);
    });
    assert!(room.sweep.sweep(None).await.is_err(), "the PSP is out of reach");
    room.books(|books| {
        books.captured = ids(UNREADABLE_MAX + 5);
        books.reads.clear();
        for id in books.captured.clone() {
            books.read_errors.insert(id, vec![ReadError::NotFound]);
        }
    });
    assert!(room.sweep.sweep(None).await.is_err(), "one after the other");
    assert!(room.books(|books| books.reads.len()) <= UNREADABLE_MAX + READS_MAX);
}

#[tokio::test(start_paused = true)]
async fn it_looks_back_to_where_the_last_complete_one_began() {
    for (done, since) in [
        (None, NOW - DAY * 2),
        (Some(NOW - DAY), NOW - DAY * 2),
        // It failed for days: what was on its way then is looked at, too.
        (Some(NOW - DAY * 5), NOW - DAY * 5 - HOUR),
        // What is older is forgotten.
        (Some(NOW - DAY * 500), NOW - DAY * 90),
    ] {
        let room = room();
        room.sweep.sweep(done).await.unwrap();
        assert_eq!(room.since(), since, "{done:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_loss_the_first_complete_one_looks_back_to_what_is_known_from_before() {
    for (last, since) in [
        (None, NOW - DAY * 30),
        (Some(NOW - DAY * 9), NOW - DAY * 9 - HOUR),
        (Some(NOW - DAY * 40), NOW - DAY * 30),
        (Some(NOW - HOUR), NOW - DAY * 2),
    ] {
        let directory = tempfile::tempdir().unwrap();
        if let Some(last) = last {
            let before = room_of(directory, true);
            before.succeeded(&id("last"), last, last).await;
            let Room { sweep, psp, journal, directory } = before;
            drop((sweep, psp, journal));
            // An older copy came back, and brought no mark of its own.
            std::fs::remove_file(directory.path().join("journal.acknowledged")).unwrap();
            let room = room_of(directory, false);
            assert!(room.journal.loss().is_some());
            is_since(&room, since).await;
        } else {
            is_since(&room_of(directory, false), since).await;
        }
    }
}

async fn is_since(room: &Room, since: Timestamp) {
    for (done, since) in [(None, since), (Some(NOW - DAY), since), (Some(NOW), NOW - DAY * 2)] {
        room.books(|books| books.pages.clear());
        room.sweep.sweep(done).await.unwrap();
        assert_eq!(room.since(), since, "{done:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_made_once_a_day_sooner_after_a_failure_and_goes_on_after_a_restart() {
    let mut room = room();
    let (mark, start) = (room.sweep.settings.mark.clone().unwrap(), tokio::time::Instant::now());
    room.sweep.conclude.clock = Clock::simulated(NOW);
    room.books(|books| books.list_errors = vec![away(); PAUSES.len() + 1].into());
    let at = |books: &mut Books| (books.pages.len(), start.elapsed());
    let psp = room.psp.clone();
    let conclude = room.sweep.conclude.clone();
    let settings = room.sweep.settings.clone();
    let pages = async |count: usize| loop {
        let (pages, elapsed) = at(&mut psp.shared.lock().unwrap());
        if pages >= count {
            return elapsed;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    let stop = CancellationToken::new();
    let near = |elapsed: Duration, expected: Duration| {
        assert!(elapsed.abs_diff(expected) < Duration::from_secs(10), "{elapsed:?}, not {expected:?}");
    };
    let running = tokio::spawn(room.sweep.run(stop.clone()));
    near(pages(1).await, DAY / STARTING);
    let gave_up = pages(PAUSES.len() + 1).await;
    assert_eq!(mark::read(&mark), None);
    // A complete one has two pages, both empty.
    let done = pages(PAUSES.len() + 3).await;
    near(done, gave_up + DAY / SOONER);
    near(pages(PAUSES.len() + 5).await, done + DAY);
    tokio::time::sleep(HOUR).await;
    stop.cancel();
    running.await.unwrap();
    let marked = mark::read(&mark).unwrap();
    near(marked.since(NOW), done + DAY);
    // Another process, on the same folder.
    tokio::spawn(Sweep::new(conclude, settings).run(CancellationToken::new()));
    near(pages(PAUSES.len() + 7).await, done + DAY * 2);
    drop(room.directory);
}

#[test]
fn a_mark_is_what_was_written_last_or_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sweep.done");
    assert_eq!(mark::read(&file), None);
    for at in [NOW, NOW + HOUR] {
        mark::write(&file, at).unwrap();
        assert_eq!(mark::read(&file), Some(at));
    }
    for torn in ["", "17779680000x", "\u{0}\u{0}"] {
        std::fs::write(&file, torn).unwrap();
        assert_eq!(mark::read(&file), None, "{torn:?}");
    }
    assert!(mark::write(&directory.path().join("missing/sweep.done"), NOW).is_err());
}
