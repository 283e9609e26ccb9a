//! The embedded journal: one SQLite file in a directory that one process owns.
//!
//! One thread writes; it takes whatever is waiting into one transaction, so
//! that many calls share one flush. Durable means flushed: WAL with
//! `synchronous=FULL` syncs the log at every commit.
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
//! - Each record carries a checksum, compared whenever it is read.

mod hub;
mod rows;

use std::{
    collections::HashSet,
    fs::{self, File, TryLockError},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::journal::entry::{Entry, Event, Schedule};
use crate::journal::{Error, Filter, Journal, Loss, Tombstone, Written, embedded::hub::Hub};
use crate::payment::id::{CallerName, IdempotencyKey, OperationId, TransactionId};

/// Most writes that share one commit.
const BATCH_MAX: usize = 256;
/// Most writes that wait; more wait in their callers.
const QUEUE_MAX: usize = 4096;
/// Most reads at once.
const READERS_MAX: usize = 4;

/// A journal in one directory.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
}

struct Shared {
    writes: mpsc::Sender<Job>,
    readers: Mutex<Vec<Connection>>,
    reading: Semaphore,
    file: PathBuf,
    hub: Arc<Hub>,
    broken: Arc<AtomicBool>,
    /// Entries that cannot be read, each told once.
    damaged: Mutex<HashSet<Uuid>>,
    /// Held as long as the journal lives.
    _lock: File,
}

struct Job {
    write: Write,
    answer: oneshot::Sender<Result<Written, Error>>,
}

enum Write {
    Insert(Box<Entry>),
    Update(Box<Entry>),
    /// Takes part in a commit and changes nothing.
    Check,
}

impl Embedded {
    /// Opens or makes the journal in `directory`. Entries whose sender died
    /// with an earlier process become in doubt, to be read back at once.
    pub fn open(directory: &Path, now: Timestamp, schedule: &Schedule) -> Result<Self, Error> {
        let io = |what: &str, error: &dyn std::fmt::Display| {
            Error::Unavailable(format!("{what} {}: {error}", directory.display()))
        };
        // What callers write about their orders is nobody else's to read.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| io("cannot make", &error))?;
        let lock = File::create(directory.join("lock")).map_err(|error| io("cannot write to", &error))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io("another process uses", &"stop it first"),
            TryLockError::Error(error) => io("cannot lock", &error),
        })?;
        let file = directory.join("journal.sqlite");
        if !file.exists() {
            tracing::warn!(directory = %directory.display(), "a new, empty journal: it knows no earlier key");
        }
        let mut connection = rows::open(&file, true)?;
        // The file's name must survive a power cut as well as its contents.
        File::open(directory).and_then(|d| d.sync_all()).map_err(|error| io("cannot sync", &error))?;
        take_over(&mut connection, now, schedule)?;

        let (writes, queue) = mpsc::channel(QUEUE_MAX);
        let hub = Arc::new(Hub::default());
        let broken = Arc::new(AtomicBool::new(false));
        let writer = Writer { connection, hub: Arc::clone(&hub), broken: Arc::clone(&broken) };
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|error| io("cannot start the writer of", &error))?;
        let shared = Shared {
            writes,
            readers: Mutex::new(Vec::new()),
            reading: Semaphore::new(READERS_MAX),
            file,
            hub,
            broken,
            damaged: Mutex::default(),
            _lock: lock,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Whether a commit failed in a way that allows no further write: the
    /// process has to end.
    pub fn is_broken(&self) -> bool {
        self.shared.broken.load(Ordering::Acquire)
    }

    async fn write(&self, write: Write) -> Result<Written, Error> {
        let (answer, written) = oneshot::channel();
        let gone = || Error::Unavailable("the journal's writer has ended".to_owned());
        self.shared.writes.send(Job { write, answer }).await.map_err(|_| gone())?;
        // From here on the write may happen whether or not we hear of it.
        let lost = |_| Error::Unconfirmed("the journal's writer has ended".to_owned());
        written.await.map_err(lost)?
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
                None => rows::open(&shared.file, false)?,
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
        self.write(Write::Insert(Box::new(entry))).await
    }

    async fn update(&self, entry: Entry) -> Result<Written, Error> {
        self.write(Write::Update(Box::new(entry))).await
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

    async fn tombstone(&self, _: &CallerName, _: &IdempotencyKey) -> Result<Option<Tombstone>, Error> {
        Ok(None)
    }

    fn remembers_since(&self) -> Timestamp {
        Timestamp(i64::MIN)
    }

    fn loss(&self) -> Option<Loss> {
        None
    }

    fn changes(&self, id: OperationId) -> watch::Receiver<u64> {
        self.shared.hub.subscribe(id)
    }

    async fn check(&self) -> Result<(), Error> {
        self.write(Write::Check).await.map(|_| ())
    }
}

struct Writer {
    connection: Connection,
    hub: Arc<Hub>,
    broken: Arc<AtomicBool>,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH_MAX
                && let Ok(job) = queue.try_recv()
            {
                batch.push(job);
            }
            let (writes, answers): (Vec<_>, Vec<_>) =
                batch.into_iter().map(|job| (job.write, job.answer)).unzip();
            let results = match self.commit(&writes) {
                Ok(results) => results,
                Err(error) => writes.iter().map(|_| Err(error.clone())).collect(),
            };
            for ((write, result), answer) in writes.iter().zip(results).zip(answers) {
                if let (Ok(Written::Done), Write::Insert(entry) | Write::Update(entry)) = (&result, write) {
                    self.hub.changed(entry.id, entry.revision);
                }
                // A caller that stopped waiting reads the entry later.
                drop(answer.send(result));
            }
        }
    }

    fn commit(&mut self, writes: &[Write]) -> Result<Vec<Result<Written, Error>>, Error> {
        if self.broken.load(Ordering::Acquire) {
            return Err(Error::Unavailable("an earlier write failed for good".to_owned()));
        }
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(rows::unavailable)?;
        let mut results = Vec::with_capacity(writes.len());
        for write in writes {
            let result = match write {
                Write::Insert(entry) => rows::insert(&transaction, entry),
                Write::Update(entry) => rows::update(&transaction, entry),
                Write::Check => rows::touch(&transaction),
            };
            // A failing statement may have ended the whole transaction: then
            // none of it is written.
            match result {
                Err(error) if transaction.is_autocommit() => return Err(error),
                result => results.push(result),
            }
        }
        match transaction.commit() {
            Ok(()) => Ok(results),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
                Err(rows::unavailable(error))
            }
            Err(error) => {
                self.broken.store(true, Ordering::Release);
                tracing::error!(%error, "the journal could not commit; this process must not write again");
                Err(Error::Unconfirmed(error.to_string()))
            }
        }
    }
}

/// Holding the lock proves that whoever started these is dead.
fn take_over(connection: &mut Connection, now: Timestamp, schedule: &Schedule) -> Result<(), Error> {
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(rows::unavailable)?;
    let why = "payops ended while the attempt was under way".to_owned();
    for entry in rows::started(&transaction)? {
        let event = Event::doubted(why.clone());
        if let Some(mut next) = entry.after(&event, now, schedule)? {
            next.reading.next_at = Some(now);
            rows::update(&transaction, &next)?;
        }
    }
    transaction.commit().map_err(rows::unavailable)
}
