//! The journal: what it keeps, what it notices, what it forgets.

mod command;
mod conformance;
mod damage;
mod days;
mod disk;
mod docs;
mod gone;
mod loss;
mod measured;
mod moving;
mod opening;
pub mod postgres;
mod retention;

use std::{collections::BTreeMap, path::Path, time::Duration};

use payops::clock::{Clock, Timestamp};
use payops::journal::embedded::{Embedded, Settings};
use payops::journal::entry::{Entry, Event, Schedule};
use payops::journal::{Error, Journal as _, Written};
use payops::payment::outcome::{Proof, Sums};
use payops::payment::{Action, Amount, Capture, Command, Guards, Operation};

pub const NOW: Timestamp = Timestamp(1_750_000_000_000);
pub const DAY: Duration = Duration::from_hours(24);
/// How long a test waits for a condition.
const PATIENCE: Duration = Duration::from_secs(15);

/// A folder, a clock that is moved by hand, and what is said of the journal outside.
struct Place {
    folder: tempfile::TempDir,
    clock: Clock,
    settings: Settings,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::beginning(folder.path().join("journal"));
        Self { folder, clock: Clock::manual(NOW), settings }
    }

    fn directory(&self) -> &Path {
        &self.settings.directory
    }

    fn open(&self) -> Embedded {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<Embedded, Error> {
        once_free(|| Embedded::open(&self.settings, &self.clock, &schedule()))
    }

    /// What a refusal says.
    fn refused(&self) -> String {
        self.try_open().err().expect("it is refused").to_string()
    }
}

/// Tries again where a journal that was just closed is still in use: a process that another test starts has, for a
/// moment, a copy of every file that is open here, and of the lock.
pub fn once_free<T>(work: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
    let began = std::time::Instant::now();
    loop {
        match work() {
            Err(Error::Unavailable(why)) if why.contains("stop it first") && began.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            done => return done,
        }
    }
}

pub fn schedule() -> Schedule {
    Schedule { first: Vec::new(), then: Duration::from_mins(5), jitter_percent: 0 }
}

/// A capture that was just recorded, on a transaction of its own.
pub fn started(key: &str, now: Timestamp) -> Entry {
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let capture = Capture {
        amount: Amount::new(29_990).unwrap(),
        items: Vec::new(),
        reference: Some("order-1001".parse().unwrap()),
        metadata: BTreeMap::new(),
        final_capture: false,
    };
    let command = Command {
        caller: "orders".parse().unwrap(),
        key: key.parse().unwrap(),
        operation: Operation {
            transaction: format!("T12345678.{unique}").parse().unwrap(),
            action: Action::Capture(capture),
        },
        guards: Guards::default(),
        permit: payops::payment::permit::Permit::default(),
        traced: None,
    };
    Entry::start(&command, now, now + Duration::from_hours(4), now + Duration::from_secs(45))
}

pub fn after(entry: &Entry, event: &Event, now: Timestamp) -> Entry {
    entry.after(event, now, &schedule()).unwrap().unwrap()
}

pub fn proven() -> Event {
    Event::Proven(Proof {
        event_id: Some("4eee0ef7-5b6c-4c3a-9a2e-8a3f1b2c3d4e".to_owned()),
        amount: 29_990,
        event_time: Some("2026-06-15T15:06:40.000Z".to_owned()),
        transaction_status: "CAPTURED".to_owned(),
        sums: Sums { authorized: 29_990, captured: 29_990, refundable: 29_990, ..Sums::default() },
        by_others: false,
    })
}

pub fn not_sent() -> Event {
    Event::NotSent { why: "connection refused".to_owned() }
}

pub async fn insert(journal: &Embedded, entry: &Entry) {
    assert_eq!(journal.insert(entry.clone()).await.unwrap(), Written::Done);
}

/// Writes the change and gives the entry after it.
pub async fn change(journal: &Embedded, entry: &Entry, event: &Event, now: Timestamp) -> Entry {
    let next = after(entry, event, now);
    assert_eq!(journal.update(next.clone()).await.unwrap(), Written::Done);
    next
}

/// A `UUIDv7` minted then.
fn minted(at: Timestamp) -> String {
    let (seconds, nanos) = (at.0 / 1_000, at.0 % 1_000 * 1_000_000);
    let (seconds, nanos) = (seconds.try_into().unwrap(), nanos.try_into().unwrap());
    let at = uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanos);
    uuid::Uuid::new_v7(at).to_string()
}

/// Copies a folder's files.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_journal_is_a_journal() {
    conformance::all(&Place::new().open(), NOW).await;
}
