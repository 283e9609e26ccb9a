//! The one task that writes. It takes whatever is waiting into one statement
//! of each kind, so that many calls share one commit, and each is answered for
//! itself. A statement is a transaction of its own; only writes that change the
//! sum of a day share one with it: see [`counted`].
//!
//! # Correctness
//!
//! - An answer says that a write is there only if its commit was acknowledged
//!   without a warning: a warning (01000) says that the server no longer waited
//!   for its standby.
//! - Where the connection is lost, the same statement is repeated on a new one.
//!   A row that is there then and has our nonce and checksum is ours; whether it
//!   is durable a further commit shows, which no earlier one can outlive.
//! - The wait is bounded here and not at the server, where an end of the wait
//!   undoes nothing. What took too long is unconfirmed.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::journal::{
    Error, Tombstone, Written,
    audit::Record,
    entry::Entry,
    postgres::{
        audit::{Log, Told},
        counted::{Counted, Fates},
        inner::Inner,
        line::{Failed, Line, ROUNDS_MAX, Ran},
        opening::get,
        rows::{self, Columns, Parameter},
    },
    record::signed,
};
use crate::payment::id::OperationId;

/// Most writes that share one statement.
const BATCH_MAX: usize = 256;

pub(super) struct Job {
    pub(super) write: Write,
    pub(super) answer: oneshot::Sender<Result<Answer, Error>>,
    /// Nobody waits any longer.
    pub(super) until: Instant,
}

pub(super) enum Write {
    Insert(Box<Entry>),
    Update(Box<Entry>),
    /// Forgets what did not change since then, so many entries at most.
    Forget(Timestamp, usize),
    /// Takes away so many forgotten keys at most that are older than that.
    Purge(Timestamp, usize),
    /// Reads an entry that will stay as it is read.
    Lasting(OperationId),
    /// Adds to the audit what is no write of an entry.
    Note(Vec<Record>),
    /// Writes something of no meaning.
    Beat,
}

#[derive(Debug)]
pub(super) enum Answer {
    Written(Written),
    /// The entry, if it is still there.
    Lasting(Option<Box<Entry>>),
    /// How many.
    Forgotten(usize),
}

pub(super) struct Writer {
    pub(super) inner: Arc<Inner>,
    pub(super) line: Line,
    /// Names this process.
    pub(super) id: Uuid,
    pub(super) log: Log,
}

pub(super) type Waiting = (Box<Entry>, oneshot::Sender<Result<Answer, Error>>);

impl Writer {
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.recv().await {
            let mut batch = vec![first];
            while batch.len() < BATCH_MAX
                && let Ok(job) = queue.try_recv()
            {
                batch.push(job);
            }
            self.carry_out(batch).await;
        }
    }

    async fn carry_out(&mut self, batch: Vec<Job>) {
        let now = Instant::now();
        let until = now + self.inner.settings.postgres.commit_wait;
        let (mut inserts, mut updates): (Vec<Waiting>, Vec<Waiting>) = Default::default();
        let (mut readers, mut others) = (Vec::new(), Vec::new());
        for Job { write, answer, until } in batch {
            match write {
                _ if until <= now => {
                    tell(answer, Err(Error::Unavailable("the database did not keep up".to_owned())));
                }
                Write::Insert(entry) => inserts.push((entry, answer)),
                Write::Update(entry) => updates.push((entry, answer)),
                Write::Lasting(id) => readers.push((rows::uuid(id), answer)),
                other => others.push((other, answer)),
            }
        }
        // In one order everywhere, or two processes could wait for each other.
        inserts.sort_by(|(one, _), (other, _)| {
            let order = |entry: &Entry| (entry.operation.transaction.clone(), entry.key.clone());
            order(one).cmp(&order(other))
        });
        updates.sort_by_key(|(entry, _)| entry.id);
        // Those that are counted wait for others who count the same; the rest need not.
        let (counted_updates, updates) = part(updates, |(entry, _)| entry.counted().is_some());
        let (counted_inserts, inserts) = part(inserts, |(entry, _)| entry.counted().is_some());
        // First those that may free a slot, or a sum.
        self.update(updates, until).await;
        self.insert(inserts, until).await;
        self.update(counted_updates, until).await;
        self.insert(counted_inserts, until).await;
        self.show(readers, until).await;
        for (write, answer) in others {
            let done = match write {
                Write::Forget(before, most) => self.forget(before, most, until).await.map(Answer::Forgotten),
                Write::Note(notes) => self.note(&notes, until).await,
                Write::Purge(before, most) => self.purge(before, most, until).await.map(Answer::Forgotten),
                _ => self.beat(until).await.map(|()| Answer::Written(Written::Done)),
            };
            tell(answer, done);
        }
    }

    async fn insert(&mut self, mut waiting: Vec<Waiting>, until: Instant) {
        for _ in 0..ROUNDS_MAX {
            if waiting.is_empty() {
                return;
            }
            let (unfit, fit) = self.begin(waiting);
            waiting = fit;
            for ((_, answer), error) in unfit {
                tell(answer, Err(error));
            }
            let fates = match self.put(&waiting, false, until).await {
                Ok(ran) => ran.done,
                Err(Failed::Taken) => continue,
                Err(Failed::Error(error)) => return fail(waiting, &error),
            };
            let (won, lost) =
                part(waiting.into_iter().enumerate().collect(), |(nth, _)| fates.written.contains(nth));
            self.done(plain(won));
            if lost.is_empty() {
                return;
            }
            let beyond = lost.iter().map(|(nth, _)| fates.beyond.get(nth).copied()).collect();
            waiting = match self.rivals(plain(lost), beyond, until).await {
                Some(waiting) => waiting,
                None => return,
            };
        }
        fail(waiting, &Error::Unavailable("others were in the way".to_owned()));
    }

    /// Writes entries and what the audit tells of them: new ones, or changes.
    async fn put(
        &mut self,
        waiting: &[Waiting],
        changes: bool,
        until: Instant,
    ) -> Result<Ran<Fates>, Failed> {
        let entries: Vec<&Entry> = waiting.iter().map(|(entry, _)| &**entry).collect();
        let chain = self.chain(until).await.map_err(Failed::Error)?;
        let columns = Columns::of(entries.iter().copied()).map_err(Failed::Error)?;
        let told = Told::of_entries(&chain, entries.iter().copied().enumerate(), &columns.checksum);
        let epoch = self.inner.epoch();
        let ran = if entries.iter().any(|entry| entry.counted().is_some()) {
            self.line.run(&Counted { entries, epoch, chain, changes }, until).await
        } else if changes {
            let ran = self.line.statement(rows::UPDATE, &columns.changes(&epoch, &told), until).await;
            ran.map(|ran| ran.map(|rows| rows::places(&rows).collect()))
        } else {
            let ran = self.line.statement(rows::INSERT, &columns.inserted(&epoch, &told), until).await;
            ran.map(|ran| ran.map(|rows| rows::inserted(&rows, &entries)))
        };
        match &ran {
            Ok(Ran { done, repeated: false }) => self.told(told.links_of(&done.written)),
            _ => self.log.doubt(),
        }
        ran
    }

    /// What stood in the way of inserts: somebody else's entry or, where there
    /// was no room for it in its day, that. Gives back those in whose way
    /// nothing stands any more.
    async fn rivals(
        &mut self,
        lost: Vec<Waiting>,
        beyond: Vec<Option<i64>>,
        until: Instant,
    ) -> Option<Vec<Waiting>> {
        let columns = match Columns::of(lost.iter().map(|(entry, _)| &**entry)) {
            Ok(columns) => columns,
            Err(error) => {
                fail(lost, &error);
                return None;
            }
        };
        // A new statement: it sees what the other one had to wait for.
        let found = match self.line.look(rows::RIVALS, &columns.rivals(), until).await {
            Ok(found) => found,
            Err(error) => {
                fail(lost, &error);
                return None;
            }
        };
        let mut again = Vec::new();
        let mut ours = Vec::new();
        let mut found: std::collections::HashMap<i64, Row> =
            found.into_iter().filter_map(|row| Some((row.try_get(0).ok()?, row))).collect();
        for ((nth, (entry, answer)), beyond) in (1..).zip(lost).zip(beyond) {
            match (found.remove(&nth).map(|row| rival(&row, &entry)), beyond) {
                (Some(Ok(Some(Written::Done))), _) => ours.push((entry, answer)),
                (Some(Ok(Some(written))), _) => tell(answer, Ok(Answer::Written(written))),
                (Some(Ok(None)) | None, Some(spent)) => {
                    tell(answer, Ok(Answer::Written(Written::Beyond { spent })));
                }
                (Some(Ok(None)) | None, None) => again.push((entry, answer)),
                (Some(Err(error)), _) => tell(answer, Err(error)),
            }
        }
        self.confirm(ours, until).await;
        if !again.is_empty()
            && let Err(error) = self.current(until).await
        {
            fail(again, &error);
            return None;
        }
        Some(again)
    }

    async fn update(&mut self, waiting: Vec<Waiting>, until: Instant) {
        let (unfit, waiting) = self.begin(waiting);
        for ((_, answer), error) in unfit {
            tell(answer, Err(error));
        }
        if waiting.is_empty() {
            return;
        }
        match self.change(&waiting, until).await {
            Ok(changes) => self.changed(waiting, &changes, until).await,
            Err(Failed::Error(error)) => fail(waiting, &error),
            // One of them opens an operation whose slot is taken: each alone.
            Err(Failed::Taken) => {
                for one in waiting {
                    self.update_one(one, until).await;
                }
            }
        }
    }

    async fn update_one(&mut self, one: Waiting, until: Instant) {
        let mut waiting = vec![one];
        for _ in 0..ROUNDS_MAX {
            match self.change(&waiting, until).await {
                Ok(changes) => return self.changed(waiting, &changes, until).await,
                Err(Failed::Error(error)) => return fail(waiting, &error),
                Err(Failed::Taken) => {
                    let Some((entry, _)) = waiting.first() else { return };
                    let transaction = entry.operation.transaction.as_str().to_owned();
                    let found = self.line.look(rows::OPEN_ON, &[(&transaction, Type::TEXT)], until).await;
                    let open =
                        found.and_then(|found| found.first().map(|row| rows::entry(row, 0)).transpose());
                    match open {
                        // It is free by now.
                        Ok(None) => {}
                        Ok(Some(open)) => {
                            for (_, answer) in waiting.drain(..) {
                                tell(answer, Ok(Answer::Written(Written::Busy(Box::new(open.clone())))));
                            }
                            return;
                        }
                        Err(error) => return fail(waiting, &error),
                    }
                }
            }
        }
        fail(waiting, &Error::Unavailable("others were in the way".to_owned()));
    }

    /// Which were written, which are there by an earlier try, and for which
    /// there was no room.
    async fn change(&mut self, waiting: &[Waiting], until: Instant) -> Result<Changes, Failed> {
        let Ran { done: Fates { written, beyond }, repeated } = self.put(waiting, true, until).await?;
        let mut stored = HashSet::new();
        if written.len() < waiting.len() && repeated {
            let columns = Columns::of(waiting.iter().map(|(entry, _)| &**entry)).map_err(Failed::Error)?;
            let ids: Vec<Uuid> = waiting.iter().map(|(entry, _)| rows::uuid(entry.id)).collect();
            let sql = "SELECT u.n FROM unnest($1::uuid[], $2::bytea[]) WITH ORDINALITY AS u (id, checksum, n)
                       JOIN payops.operations o ON o.id = u.id AND o.checksum = u.checksum";
            let parameters: &[Parameter<'_>] =
                &[(&ids, Type::UUID_ARRAY), (&columns.checksum, Type::BYTEA_ARRAY)];
            let found = self.line.look(sql, parameters, until).await.map_err(Failed::Error)?;
            stored.extend(rows::places(&found).filter(|nth| !written.contains(nth)));
        }
        Ok(Changes { written, stored, beyond })
    }

    async fn changed(&mut self, waiting: Vec<Waiting>, changes: &Changes, until: Instant) {
        let Changes { written, stored, beyond } = changes;
        let (won, others) = part(waiting.into_iter().enumerate().collect(), |(nth, _)| written.contains(nth));
        let (ours, others) = part(others, |(nth, _)| stored.contains(nth));
        let (beyond_it, stale) = part(others, |(nth, _)| beyond.contains_key(nth));
        self.done(plain(won));
        self.confirm(plain(ours), until).await;
        if stale.is_empty() && beyond_it.is_empty() {
            return;
        }
        // Nothing is stale for good where the whole journal is another one.
        let current = self.current(until).await;
        for (_, (_, answer)) in stale {
            tell(answer, current.clone().map(|()| Answer::Written(Written::Stale)));
        }
        for (nth, (entry, answer)) in beyond_it {
            let spent = beyond.get(&nth).copied().unwrap_or_default();
            let refused = match &current {
                Ok(()) => self
                    .is_current(&entry, until)
                    .await
                    .map(|is_current| if is_current { Written::Beyond { spent } } else { Written::Stale }),
                Err(error) => Err(error.clone()),
            };
            tell(answer, refused.map(Answer::Written));
        }
    }

    /// Whether the entry is what the change was made from.
    async fn is_current(&mut self, entry: &Entry, until: Instant) -> Result<bool, Error> {
        let id = vec![rows::uuid(entry.id)];
        let found = self.line.look(rows::REVISIONS, &[(&id, Type::UUID_ARRAY)], until).await?;
        let revision = found.first().map(|row| get::<i64>(row, 1)).transpose()?;
        Ok(revision == Some(signed(entry.follows)))
    }

    /// Parts those that may not begin now from the rest.
    fn begin(&self, waiting: Vec<Waiting>) -> (Vec<(Waiting, Error)>, Vec<Waiting>) {
        let unfit = self.inner.unfit();
        let (mut refused, mut rest) = (Vec::new(), Vec::new());
        for one in waiting {
            match &unfit {
                // What is under way is concluded in any case.
                Some(error) if one.0.state.is_sending() => refused.push((one, error.clone())),
                _ => rest.push(one),
            }
        }
        (refused, rest)
    }

    pub(super) fn done(&self, written: Vec<Waiting>) {
        if let Some((entry, _)) = written.last() {
            self.inner.acknowledge(entry.id, entry.revision);
        }
        self.inner.changed(written.iter().map(|(entry, _)| (entry.id, entry.revision)));
        for (entry, answer) in written {
            self.inner.settled.keep(&entry);
            tell(answer, Ok(Answer::Written(Written::Done)));
        }
    }

    async fn beat(&mut self, until: Instant) -> Result<(), Error> {
        let (id, epoch) = (self.id, self.inner.epoch());
        let parameters: &[Parameter<'_>] = &[(&id, Type::UUID), (&epoch, Type::INT8)];
        match self.line.statement(rows::BEAT, parameters, until).await {
            Ok(ran) if ran.done.is_empty() => self.current(until).await,
            Ok(_) => Ok(()),
            Err(failed) => Err(failed.into()),
        }
    }

    /// An error if this is no longer the journal that this process began with.
    pub(super) async fn current(&mut self, until: Instant) -> Result<(), Error> {
        let found = self.line.look("SELECT epoch FROM payops.meta", &[], until).await?;
        let epoch = found.first().map(|row| get(row, 0)).transpose()?;
        self.inner.require_epoch(epoch)
    }
}

/// What became of changes, by their places.
struct Changes {
    written: HashSet<usize>,
    stored: HashSet<usize>,
    beyond: HashMap<usize, i64>,
}

/// Without their places.
fn plain(list: Vec<(usize, Waiting)>) -> Vec<Waiting> {
    list.into_iter().map(|(_, one)| one).collect()
}

/// What an insert is told of the row that stood in its way.
fn rival(row: &Row, entry: &Entry) -> Result<Option<Written>, Error> {
    if get::<Option<bool>>(row, 3)? == Some(true) {
        return Ok(Some(Written::Forgotten(Tombstone { state: get(row, 4)? })));
    }
    if let Some(state) = get(row, 7)? {
        return Ok(Some(Written::Forgotten(Tombstone { state })));
    }
    if get::<Option<bool>>(row, 8)? == Some(true) && get::<Option<&str>>(row, 1)?.is_none() {
        return Ok(Some(Written::Expired));
    }
    if get::<Option<&str>>(row, 1)?.is_some() {
        let other = rows::entry(row, 1)?;
        // The same write again: a repeat of one that was not acknowledged.
        let same = other.nonce == entry.nonce;
        return Ok(Some(if same { Written::Done } else { Written::KeyTaken(Box::new(other)) }));
    }
    if get::<Option<&str>>(row, 5)?.is_some() {
        return Ok(Some(Written::Busy(Box::new(rows::entry(row, 5)?))));
    }
    Ok(None)
}

pub(super) fn part<T>(list: Vec<T>, first: impl FnMut(&T) -> bool) -> (Vec<T>, Vec<T>) {
    list.into_iter().partition(first)
}

pub(super) fn fail(waiting: Vec<Waiting>, error: &Error) {
    for (_, answer) in waiting {
        tell(answer, Err(error.clone()));
    }
}

/// Who stopped waiting reads the entry later.
pub(super) fn tell(answer: oneshot::Sender<Result<Answer, Error>>, result: Result<Answer, Error>) {
    drop(answer.send(result));
}
