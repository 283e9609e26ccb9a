//! What happens before a journal is used: it is locked, checked, and compared
//! with what is said of it elsewhere; if it is not the one that was written
//! last, that is a loss, which is written down in the same commit as all that
//! follows from it.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Instant,
};

use rusqlite::{Connection, TransactionBehavior};

use crate::clock::Timestamp;
use crate::journal::{
    Error,
    audit::Chain,
    embedded::{
        Settings,
        audit::{self, Batch},
        mark::{Acknowledged, Found, Mark},
        meta::{Meta, Progress},
        rows, schema, wal,
    },
    entry::{Event, Schedule},
};

/// A journal that may be used.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) mark: Mark,
    pub(super) meta: Meta,
    pub(super) commits: u64,
    pub(super) chain: Chain,
    pub(super) lock: Lock,
}

/// The files of a journal.
pub(super) struct Files {
    directory: PathBuf,
    pub(super) journal: PathBuf,
    pub(super) log: PathBuf,
    pub(super) mark: PathBuf,
    lock: PathBuf,
}

/// Whether a journal is in use.
pub(super) enum Lock {
    /// By nobody, as long as this file is open.
    Taken(#[expect(dead_code, reason = "held, not read")] File),
    /// By a process.
    InUse,
}

/// What was found in a file that is sound.
pub(super) struct Sound {
    pub(super) meta: Meta,
    pub(super) progress: Progress,
    pub(super) entries: u64,
}

impl Files {
    pub(super) fn of(directory: &Path) -> Self {
        let file = |name: &str| directory.join(name);
        Self {
            directory: directory.to_owned(),
            journal: file("journal.sqlite"),
            log: file("journal.sqlite-wal"),
            mark: file("journal.acknowledged"),
            lock: file("lock"),
        }
    }

    /// Names the folder in an error, and what to do where it is damaged.
    pub(super) fn tell(&self, error: Error) -> Error {
        let directory = self.directory.display();
        match error {
            Error::Corrupt(what) => Error::Corrupt(format!(
                "{directory}: {what}. Nothing was changed; keep these files, and restore a backup into an empty \
                 folder (docs/journal.md, \"Restore\")"
            )),
            Error::Unavailable(what) if !what.contains(&*directory.to_string()) => {
                Error::Unavailable(format!("{directory}: {what}"))
            }
            other => other,
        }
    }

    pub(super) fn io(&self, what: &str) -> impl Fn(io::Error) -> Error {
        let what = format!("{what} {}", self.directory.display());
        move |error| Error::Unavailable(format!("{what}: {error}"))
    }

    /// Keeps every other process out, if none is in.
    pub(super) fn lock(&self) -> Result<Lock, Error> {
        let file = File::create(&self.lock).map_err(self.io("cannot write to"))?;
        self.take(file)
    }

    /// The same for somebody who leaves nothing behind.
    pub(super) fn lock_if_there(&self) -> Result<Option<Lock>, Error> {
        match File::open(&self.lock) {
            Ok(file) => self.take(file).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.io("cannot read the lock of")(error)),
        }
    }

    fn take(&self, file: File) -> Result<Lock, Error> {
        match file.try_lock() {
            Ok(()) => Ok(Lock::Taken(file)),
            Err(TryLockError::WouldBlock) => Ok(Lock::InUse),
            Err(TryLockError::Error(error)) => Err(self.io("cannot lock")(error)),
        }
    }

    /// Names survive a power cut when their folder is synced.
    fn sync(&self) -> Result<(), Error> {
        File::open(&self.directory).and_then(|folder| folder.sync_all()).map_err(self.io("cannot sync"))
    }

    /// What `SQLite` would silently forget. To be asked before `SQLite` is.
    pub(super) fn verify_log(&self) -> Result<(), Error> {
        let length = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
        if length(&self.journal) == 0 && length(&self.log) > 0 {
            let what = "journal.sqlite is missing or empty, and its log is there";
            return Err(Error::Corrupt(what.to_owned()));
        }
        wal::verify(&self.log)
    }

    /// The commits that were acknowledged, by the mark beside the journal.
    pub(super) fn acknowledged(&self) -> Result<Found, Error> {
        Found::read(&self.mark).map_err(self.io("cannot read the mark in"))
    }
}

pub(super) fn open(settings: &Settings, now: Timestamp, schedule: &Schedule) -> Result<Opened, Error> {
    let files = Files::of(&settings.directory);
    prepare(&files, settings, now, schedule).map_err(|error| files.tell(error))
}

fn prepare(files: &Files, settings: &Settings, now: Timestamp, schedule: &Schedule) -> Result<Opened, Error> {
    // What callers write about their orders is nobody else's to read.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&files.directory)
        .map_err(files.io("cannot make"))?;
    let lock @ Lock::Taken(_) = files.lock()? else {
        let directory = files.directory.display();
        return Err(Error::Unavailable(format!("another process uses {directory}: stop it first")));
    };
    let found = files.acknowledged()?;
    files.verify_log()?;
    let mut connection = schema::open_to_write(&files.journal)?;
    let known = if schema::is_empty(&connection)? { None } else { Some(verify(&connection)?) };
    let loss = compare((settings.terms.generation, settings.terms.new), known.as_ref(), found)?;
    if let Some(Sound { meta: Meta { moved: true, generation, .. }, .. }) = &known
        && loss.is_none()
    {
        return Err(Error::Unavailable(format!(
            "it was exported, to be moved to PostgreSQL, and two journals of one account would each send. If it was \
             imported nowhere: payops journal export --undo. To go back to it all the same, and lose what came since, \
             set journal.generation = {}",
            generation.saturating_add(1)
        )));
    }
    schema::use_log(&connection)?;

    let mark = Mark::open(&files.mark).map_err(files.io("cannot write to"))?;
    let generation = settings.terms.generation;
    if known.is_none() {
        // Before there is a journal, or a crash in between would look like one
        // that was brought here without its mark.
        write_mark(files, &mark, Acknowledged { generation, commits: 0 })?;
    }
    let progress = known.as_ref().map(|known| known.progress);
    let commits = progress.map_or(0, |progress| progress.commits) + 1;
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(rows::unavailable)?;
    let meta = match known {
        Some(known) => Meta { generation, copy: false, moved: false, ..known.meta },
        None => {
            schema::make(&transaction)?;
            Meta { generation, copy: false, moved: false, lost_at: None, forgotten_before: None }
        }
    };
    let meta = Meta { lost_at: loss.map(|_| now).or(meta.lost_at), ..meta };
    meta.store(&transaction)?;
    let chain =
        audit::begin(&transaction, &settings.audit, progress.map(|progress| progress.head).as_ref(), now)?;
    let mut audit = Batch::next(&transaction, &chain);
    if loss.is_some() {
        fence(&mut audit, &transaction, now, settings)?;
    }
    take_over(&mut audit, &transaction, now, schedule)?;
    let chain = audit.end();
    Progress { commits, head: chain.head() }.store(&transaction)?;
    transaction.commit().map_err(rows::unavailable)?;
    // Whatever was read from the log is written and synced once more: after a
    // sync that failed in an earlier life the log may be good in memory alone.
    schema::empty_log(&connection)?;
    write_mark(files, &mark, Acknowledged { generation, commits })?;
    if let Some(why) = loss {
        tracing::warn!(directory = %files.directory.display(), generation, why, "the journal was lost");
    }
    if settings.terms.new && commits > 1 {
        tracing::warn!(
            "journal.new is set and the journal is there: remove it, or a loss will be taken for a beginning"
        );
    }
    Ok(Opened { connection, mark, meta, commits, chain, lock })
}

/// Everything that can be said of a file without the world around it.
pub(super) fn verify(connection: &Connection) -> Result<Sound, Error> {
    let began = Instant::now();
    schema::verify(connection)?;
    let (meta, progress) = (Meta::load(connection)?, Progress::load(connection)?);
    schema::verify_structure(connection)?;
    let entries = rows::verify(connection)?;
    let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(entries, milliseconds, "the journal was checked");
    Ok(Sound { meta, progress, entries })
}

/// Whether this is the journal that was written last. If it surely is not, and
/// that is no surprise, why; if it is one, an error.
pub(super) fn compare(
    (generation, new): (u32, bool),
    known: Option<&Sound>,
    found: Found,
) -> Result<Option<&'static str>, Error> {
    let marked = match found {
        Found::Acknowledged(acknowledged) => Some(acknowledged),
        Found::Nothing | Found::Unreadable => None,
    };
    let highest = known.map(|known| known.meta.generation).max(marked.map(|marked| marked.generation));
    if let Some(highest) = highest.filter(|highest| *highest > generation) {
        return Err(Error::Unavailable(format!(
            "journal.generation is {generation}, and the journal knows {highest} already: a lower one would hide a \
             loss. Set journal.generation = {highest}"
        )));
    }
    if let Some(Sound { meta: Meta { copy: true, .. }, .. }) = known {
        return Ok(Some("a backup was restored"));
    }
    // Whoever raises the generation says that an older state came back.
    let marked = marked.filter(|marked| marked.generation == generation);
    let commits = known.map_or(0, |known| known.progress.commits);
    if let Some(marked) = marked.filter(|marked| marked.commits > commits) {
        return Err(Error::Corrupt(format!(
            "it has {commits} commits, and {} were acknowledged: the last ones are damaged, or an older journal was \
             put in its place. If that was meant, set journal.generation = {}",
            marked.commits,
            generation.saturating_add(1)
        )));
    }
    Ok(match known {
        None if new => None,
        None => Some("there is none yet; only journal.new says that nothing was ever sent"),
        Some(known) if known.meta.generation < generation => Some("journal.generation was raised"),
        Some(_) if found == Found::Nothing => Some("it was brought here without the mark that belongs to it"),
        Some(_) => None,
    })
}

/// What is open may have had a later attempt, of which nothing is known.
fn fence(
    audit: &mut Batch<'_>,
    connection: &Connection,
    now: Timestamp,
    settings: &Settings,
) -> Result<(), Error> {
    for entry in rows::open(connection)? {
        if let Some(next) = entry.after_loss(now, now + settings.terms.loss_fence) {
            rows::update(connection, &next, audit)?;
        }
    }
    Ok(())
}

/// Holding the lock proves that whoever started these is dead.
fn take_over(
    audit: &mut Batch<'_>,
    connection: &Connection,
    now: Timestamp,
    schedule: &Schedule,
) -> Result<(), Error> {
    let why = "payops ended while the attempt was under way".to_owned();
    for entry in rows::open(connection)?.into_iter().filter(|entry| entry.state.is_sending()) {
        let event = Event::doubted(why.clone());
        if let Some(mut next) = entry.after(&event, now, schedule)? {
            next.reading.next_at = Some(now);
            rows::update(connection, &next, audit)?;
        }
    }
    Ok(())
}

pub(super) fn write_mark(files: &Files, mark: &Mark, acknowledged: Acknowledged) -> Result<(), Error> {
    mark.write(acknowledged).and_then(|()| mark.sync()).map_err(files.io("cannot write to"))?;
    files.sync()
}
