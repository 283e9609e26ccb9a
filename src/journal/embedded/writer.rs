//! The one thread that writes. It takes whatever is waiting into one
//! transaction, so that many calls share one flush.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicI64, Ordering},
};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use crate::clock::{Clock, Timestamp};
use crate::journal::{
    Error, Written,
    audit::{Chain, Head, Record},
    embedded::{
        audit::Batch,
        mark::{Acknowledged, Mark},
        meta::{Meta, Progress},
        opening::Lock,
        rows,
    },
    entry::{Entry, Tally},
    hub::Hub,
    tally::Tallies,
};

/// Most writes that share one commit.
const BATCH_MAX: usize = 256;

pub(super) struct Job {
    pub(super) write: Write,
    pub(super) answer: oneshot::Sender<Result<Answer, Error>>,
}

pub(super) enum Write {
    Insert(Box<Entry>),
    Update(Box<Entry>),
    /// Forgets what did not change since then, so many entries at most.
    Forget(Timestamp, usize),
    /// Takes part in a commit and changes nothing.
    Check,
    /// Adds to the audit what is no write of an entry.
    Note(Vec<Record>),
}

#[derive(Debug)]
pub(super) enum Answer {
    Written(Written),
    /// How many.
    Forgotten(usize),
}

pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) mark: Mark,
    pub(super) meta: Meta,
    pub(super) commits: u64,
    pub(super) chain: Chain,
    /// How far the audit is, for all to see.
    pub(super) head: Arc<Mutex<Head>>,
    pub(super) hub: Arc<Hub>,
    pub(super) tallies: Arc<Mutex<Tallies>>,
    pub(super) broken: Arc<AtomicBool>,
    pub(super) clock: Clock,
    /// Keys that are older, and tell so, left no tombstone.
    pub(super) forgotten_before: Arc<AtomicI64>,
    /// Held until the last write is over.
    pub(super) _lock: Lock,
}

impl Writer {
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Job>) {
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
                if let (Ok(Answer::Written(Written::Done)), Write::Insert(entry) | Write::Update(entry)) =
                    (&result, write)
                {
                    self.hub.changed(entry.id, entry.revision);
                }
                // A caller that stopped waiting reads the entry later.
                drop(answer.send(result));
            }
        }
    }

    /// Sums are those of what is written, also before it is committed: whoever
    /// comes next in the same commit finds them so.
    fn commit(&mut self, writes: &[Write]) -> Result<Vec<Result<Answer, Error>>, Error> {
        let mut counted = Vec::new();
        let committed = self.write(writes, &mut counted);
        if committed.is_err() {
            let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
            for (tally, more) in counted {
                tallies.add(tally, -more);
            }
        }
        committed
    }

    fn write(
        &mut self,
        writes: &[Write],
        counted: &mut Vec<(Tally, i64)>,
    ) -> Result<Vec<Result<Answer, Error>>, Error> {
        if self.broken.load(Ordering::Acquire) {
            return Err(Error::Unavailable("an earlier write failed for good".to_owned()));
        }
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(rows::unavailable)?;
        let mut results = Vec::with_capacity(writes.len());
        let mut changed = false;
        let mut meta = self.meta.clone();
        let mut audit = Batch::next(&transaction, &self.chain);
        for write in writes {
            let result = match write {
                Write::Insert(entry) => {
                    insert(&transaction, entry, &mut audit, &self.tallies, counted).map(Answer::Written)
                }
                Write::Update(entry) => {
                    update(&transaction, entry, &mut audit, &self.tallies, counted).map(Answer::Written)
                }
                Write::Forget(before, most) => {
                    // A key of then is refused from now on, whatever is found.
                    self.forgotten_before.fetch_max(before.0, Ordering::AcqRel);
                    forget(&transaction, &mut audit, &mut meta, (*before, *most, self.clock.now()))
                        .map(Answer::Forgotten)
                }
                Write::Check => Ok(Answer::Written(Written::Done)),
                Write::Note(notes) => {
                    let noted = notes.iter().try_for_each(|note| audit.append(note));
                    noted.map(|()| Answer::Written(Written::Done))
                }
            };
            changed |= matches!(result, Ok(Answer::Written(Written::Done) | Answer::Forgotten(1..)));
            // A failing statement may have ended the whole transaction, or left a
            // write untold: then none of it is written.
            match result {
                Err(error) if transaction.is_autocommit() || audit.has_failed() => return Err(error),
                result => results.push(result),
            }
        }
        let commits = self.commits + u64::from(changed);
        let chain = audit.end();
        if changed {
            Progress { commits, head: chain.head() }.store(&transaction)?;
        }
        match transaction.commit() {
            Ok(()) => {}
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
                return Err(rows::unavailable(error));
            }
            Err(error) => {
                self.broken.store(true, Ordering::Release);
                tracing::error!(%error, "the journal could not commit; this process must not write again");
                return Err(Error::Unconfirmed(error.to_string()));
            }
        }
        self.meta = meta;
        self.commits = commits;
        *self.head.lock().unwrap_or_else(PoisonError::into_inner) = chain.head();
        self.chain = chain;
        // One that is behind is no harm: it says less.
        if changed
            && let Err(error) = self.mark.write(Acknowledged { generation: self.meta.generation, commits })
        {
            tracing::debug!(%error, "the mark beside the journal could not be written");
        }
        Ok(results)
    }
}

fn insert(
    connection: &Connection,
    entry: &Entry,
    audit: &mut Batch<'_>,
    tallies: &Mutex<Tallies>,
    counted: &mut Vec<(Tally, i64)>,
) -> Result<Written, Error> {
    if let Some(rival) = rows::rival(connection, entry)? {
        return Ok(rival);
    }
    let mut tallies = tallies.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(spent) = tallies.beyond(entry) {
        return Ok(Written::Beyond { spent });
    }
    let written = rows::insert(connection, entry, audit)?;
    count(&mut tallies, entry, counted);
    Ok(written)
}

fn update(
    connection: &Connection,
    entry: &Entry,
    audit: &mut Batch<'_>,
    tallies: &Mutex<Tallies>,
    counted: &mut Vec<(Tally, i64)>,
) -> Result<Written, Error> {
    let mut tallies = tallies.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(spent) = tallies.beyond(entry)
        && rows::is_current(connection, entry)?
    {
        return Ok(Written::Beyond { spent });
    }
    let written = rows::update(connection, entry, audit)?;
    if written == Written::Done {
        count(&mut tallies, entry, counted);
    }
    Ok(written)
}

fn count(tallies: &mut Tallies, entry: &Entry, counted: &mut Vec<(Tally, i64)>) {
    if let Some((tally, more)) = entry.counted() {
        tallies.add(tally.clone(), more);
        counted.push((tally, more));
    }
}

fn forget(
    connection: &Connection,
    audit: &mut Batch<'_>,
    meta: &mut Meta,
    (before, most, at): (Timestamp, usize, Timestamp),
) -> Result<usize, Error> {
    let forgotten = rows::forget(connection, before, most)?;
    if forgotten > 0 {
        audit.append(&Record::Forgotten { at, before })?;
    }
    if forgotten > 0 && meta.forgotten_before < Some(before) {
        meta.forgotten_before = Some(before);
        meta.store(connection)?;
    }
    Ok(forgotten)
}
