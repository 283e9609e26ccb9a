//! The embedded journal: one SQLite file in a directory that one process owns.
//!
//! One thread writes. Durable means flushed: WAL with `synchronous=FULL` syncs
//! the log at every commit.
//!
//! # Correctness
//!
//! - An exclusive lock on `lock` keeps a second process out. Holding it proves
//!   that every sender of an earlier life is dead, so at the opening each
//!   started entry becomes one in doubt at once.
//! - A full disk refuses the write: the log's commit mark is the last thing
//!   written, so nothing counts as committed. Any other error at a commit
//!   leaves open whether it is durable; then this journal never writes again
//!   and the process has to end: after a failed sync the pages may be marked
//!   clean, and a second sync would lie.
//! - Each record carries a checksum, compared whenever it is read. At the
//!   opening everything is checked, before anything is served.
//! - A journal that is not the one that was written last is noticed and said to
//!   be lost, by what is known outside: a generation in the configuration, a
//!   mark beside the file.

mod audit;
mod export;
mod inspect;
mod mark;
mod meta;
mod new_file;
mod opening;
mod rows;
mod schema;
mod verify;
mod wal;
mod writer;

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::Connection;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use uuid::Uuid;

use crate::clock::{Clock, Timestamp};
use crate::journal::audit::{Head, Key, Record};
use crate::journal::embedded::{
    opening::{Files, Opened},
    writer::{Answer, Job, Write, Writer},
};
use crate::journal::entry::{
    Entry, Schedule, Tally,
    spent::{day_of, end_of},
};
use crate::journal::hub::Hub;
use crate::journal::tally::Tallies;
use crate::journal::{Error, Filter, Journal, Loss, OpenState, Terms, Tombstone, Written};
use crate::payment::id::{CallerName, IdempotencyKey, OperationId, TransactionId};

pub use crate::journal::embedded::export::{export, take_back};
pub use crate::journal::embedded::inspect::{Checked, Stats, backup, check, stats};
pub use crate::journal::embedded::verify::{records, verify};

/// Most writes that wait; more wait in their callers.
const QUEUE_MAX: usize = 4096;
/// Most reads at once.
const READERS_MAX: usize = 4;

/// Where a journal is, and what is said of it outside.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder. One process owns it.
    pub directory: PathBuf,
    /// What is said of it outside.
    pub terms: Terms,
    /// What the audit is chained with.
    pub audit: Key,
}

impl Settings {
    /// A journal at its beginning: for tests and trials.
    pub fn beginning(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), terms: Terms::beginning(), audit: Key::none() }
    }
}

/// A journal in one directory.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
}

struct Shared {
    /// None when it ends.
    writes: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    readers: Mutex<Vec<Connection>>,
    reading: Semaphore,
    file: PathBuf,
    hub: Arc<Hub>,
    head: Arc<Mutex<Head>>,
    tallies: Arc<Mutex<Tallies>>,
    broken: Arc<AtomicBool>,
    /// Entries that cannot be read, each told once.
    damaged: Mutex<HashSet<Uuid>>,
    clock: Clock,
    retention: Duration,
    loss: Option<Loss>,
    /// See [`Journal::remembers_since`]: a longer retention brings nothing back.
    forgotten_before: Arc<AtomicI64>,
}

impl Embedded {
    /// Opens the journal, or makes it. A journal that is damaged is refused,
    /// one that was lost says so from then on ([`Journal::loss`]), and entries
    /// whose sender died with an earlier process become in doubt, to be read
    /// back at once.
    pub fn open(settings: &Settings, clock: &Clock, schedule: &Schedule) -> Result<Self, Error> {
        let Opened { connection, mark, meta, commits, chain, lock } =
            opening::open(settings, clock.now(), schedule)?;
        let loss = meta.lost_at.map(|at| Loss {
            at,
            quiet_until: at + settings.terms.loss_quiet,
            clock_leeway: settings.terms.key_clock_leeway,
        });
        let forgotten_before =
            Arc::new(AtomicI64::new(meta.forgotten_before.map_or(i64::MIN, |before| before.0)));
        let (writes, queue) = mpsc::channel(QUEUE_MAX);
        let hub = Arc::new(Hub::default());
        let broken = Arc::new(AtomicBool::new(false));
        let yesterday = day_of(clock.now()) - 1;
        let lately = rows::changed_since(&connection, end_of(yesterday - 1))?;
        let tallies = Arc::new(Mutex::new(Tallies::of(lately, yesterday)));
        let head = Arc::new(Mutex::new(chain.head()));
        let writer = Writer {
            connection,
            mark,
            meta,
            commits,
            chain,
            head: Arc::clone(&head),
            clock: clock.clone(),
            hub: Arc::clone(&hub),
            tallies: Arc::clone(&tallies),
            broken: Arc::clone(&broken),
            forgotten_before: Arc::clone(&forgotten_before),
            _lock: lock,
        };
        let writer = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|error| Error::Unavailable(format!("its writer cannot be started: {error}")))?;
        let shared = Shared {
            writes: Some(writes),
            writer: Some(writer),
            readers: Mutex::new(Vec::new()),
            reading: Semaphore::new(READERS_MAX),
            file: Files::of(&settings.directory).journal,
            hub,
            head,
            tallies,
            broken,
            damaged: Mutex::default(),
            clock: clock.clone(),
            retention: settings.terms.retention,
            loss,
            forgotten_before,
        };
        let journal = Self { shared: Arc::new(shared) };
        if let Some(loss) = journal.loss() {
            tracing::warn!(
                lost_at = loss.at.0,
                quiet_until = loss.quiet_until.0,
                "a journal was lost: keys that may be older wait, and cost a read each"
            );
        }
        Ok(journal)
    }

    async fn write(&self, write: Write) -> Result<Answer, Error> {
        let (answer, written) = oneshot::channel();
        let gone = || Error::Unavailable("the journal's writer has ended".to_owned());
        let writes = self.shared.writes.as_ref().ok_or_else(gone)?;
        writes.send(Job { write, answer }).await.map_err(|_| gone())?;
        // From here on the write may happen whether or not we hear of it.
        let lost = |_| Error::Unconfirmed("the journal's writer has ended".to_owned());
        written.await.map_err(lost)?
    }

    async fn put(&self, write: Write) -> Result<Written, Error> {
        match self.write(write).await? {
            Answer::Written(written) => Ok(written),
            Answer::Forgotten(_) => Err(Error::Unconfirmed("an answer to another question".to_owned())),
        }
    }

    async fn read<R: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        let closed = |_| Error::Unavailable("the journal is closed".to_owned());
        let _permit = self.shared.reading.acquire().await.map_err(closed)?;
        let shared = Arc::clone(&self.shared);
        let task = tokio::task::spawn_blocking(move || {
            let idle = shared.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match idle {
                Some(connection) => connection,
                None => schema::open_to_read(&shared.file)?,
            };
            let result = query(&connection)?;
            shared.readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            Ok(result)
        });
        task.await.map_err(|_| Error::Unavailable("a read of the journal failed".to_owned()))?
    }
}

impl Journal for Embedded {
    async fn find(&self, caller: &CallerName, key: &IdempotencyKey) -> Result<Option<Entry>, Error> {
        let (caller, key) = (caller.clone(), key.clone());
        self.read(move |connection| rows::by_key(connection, &caller, &key)).await
    }

    async fn get(&self, id: OperationId) -> Result<Option<Entry>, Error> {
        self.read(move |connection| rows::by_id(connection, id)).await
    }

    async fn insert(&self, entry: Entry) -> Result<Written, Error> {
        self.put(Write::Insert(Box::new(entry))).await
    }

    async fn update(&self, entry: Entry) -> Result<Written, Error> {
        self.put(Write::Update(Box::new(entry))).await
    }

    async fn due(&self, now: Timestamp, most: usize) -> Result<Vec<Entry>, Error> {
        // The damaged ones stay due: they must not crowd out the others.
        let known = self.shared.damaged.lock().unwrap_or_else(PoisonError::into_inner).len();
        let due = self.read(move |connection| rows::due(connection, now, most.saturating_add(known))).await?;
        let mut damaged = self.shared.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        let sound = due.into_iter().filter_map(|row| match row {
            Ok(entry) => Some(entry),
            Err((id, error)) => {
                if damaged.insert(id) {
                    tracing::error!(operation_id = %id, %error, "it cannot be read back: a person has to look");
                }
                None
            }
        });
        Ok(sound.take(most).collect())
    }

    async fn open_on(&self, transaction: &TransactionId) -> Result<Option<Entry>, Error> {
        let transaction = transaction.clone();
        self.read(move |connection| rows::open_on(connection, &transaction)).await
    }

    async fn list(
        &self,
        filter: &Filter,
        before: Option<OperationId>,
        most: usize,
    ) -> Result<Vec<Entry>, Error> {
        let filter = filter.clone();
        self.read(move |connection| rows::list(connection, &filter, before, most)).await
    }

    async fn tombstone(&self, caller: &CallerName, key: &IdempotencyKey) -> Result<Option<Tombstone>, Error> {
        let (caller, key) = (caller.clone(), key.clone());
        self.read(move |connection| rows::tombstone(connection, &caller, &key)).await
    }

    fn loss(&self) -> Option<Loss> {
        // Older keys than that are refused in any case.
        let now = self.shared.clock.now();
        self.shared.loss.filter(|loss| now < loss.at + self.shared.retention)
    }

    async fn forget(&self, most: usize) -> Result<usize, Error> {
        let before = self.shared.clock.now() - self.shared.retention;
        match self.write(Write::Forget(before, most)).await? {
            Answer::Forgotten(count) => Ok(count),
            Answer::Written(_) => Err(Error::Unconfirmed("an answer to another question".to_owned())),
        }
    }

    fn remembers_since(&self) -> Timestamp {
        let forgotten = Timestamp(self.shared.forgotten_before.load(Ordering::Acquire));
        (self.shared.clock.now() - self.shared.retention).max(forgotten)
    }

    async fn spent(&self, tally: &Tally) -> Result<i64, Error> {
        Ok(self.shared.tallies.lock().unwrap_or_else(PoisonError::into_inner).spent(tally))
    }

    fn changes(&self, id: OperationId) -> watch::Receiver<u64> {
        self.shared.hub.subscribe(id)
    }

    async fn open_states(&self) -> Result<Vec<OpenState>, Error> {
        self.read(rows::open_states).await
    }

    async fn note(&self, notes: Vec<Record>) -> Result<(), Error> {
        self.put(Write::Note(notes)).await.map(|_| ())
    }

    fn waiting(&self) -> usize {
        self.shared
            .writes
            .as_ref()
            .map_or(0, |writes| writes.max_capacity().saturating_sub(writes.capacity()))
    }

    fn head(&self) -> Option<Head> {
        Some(*self.shared.head.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_broken(&self) -> bool {
        self.shared.broken.load(Ordering::Acquire)
    }

    async fn check(&self) -> Result<(), Error> {
        self.put(Write::Check).await.map(|_| ())
    }
}

impl Drop for Shared {
    /// Whoever opens the journal next finds nobody in it.
    fn drop(&mut self) {
        drop(self.writes.take());
        if let Some(writer) = self.writer.take() {
            // It ends when it has written what was sent to it; if it panicked
            // there is nothing left to do.
            drop(writer.join());
        }
    }
}
