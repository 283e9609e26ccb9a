//! The journal in PostgreSQL, for any number of processes.
//!
//! Durable means that a second machine has it: `synchronous_commit` is on in
//! each session, and the start is refused without a synchronous standby, unless
//! the configuration says otherwise; then each key is looked up at the PSP
//! before its first sending, as after a loss.
//!
//! # Correctness
//!
//! - Two unique indexes hold the two rules, whoever writes. A change names the
//!   revision, the attempt and the nonce that it was made from.
//! - What is final is told only when a commit after it was acknowledged.
//! - Times are the database's: see [`Clock::following`]. An attempt is given up
//!   when its lease is over by that clock, never because its process is not
//!   heard of. A database whose clock was set by hand begins nothing until it is
//!   set right or the process starts anew.
//! - A loss is noticed at the start (a raised `journal.generation`, another
//!   cluster, another timeline without a standby, no journal at all) and at each
//!   new connection (the same, and a write that was acknowledged and is not
//!   there). A process that was running then never writes again. A
//!   copy that was restored together with its timeline, such as
//!   a snapshot of the disk, only the generation tells.
//! - The sum of a day is a row, changed in the transaction that writes the
//!   entry that counts.
//! - A key is never freed: forgetting an entry leaves its row, without content,
//!   so that no insert can pass between the two. The row of a key that tells its
//!   age goes when every insert refuses the key by that.

mod audit;
mod connection;
mod counted;
mod forgetting;
mod import;
mod inner;
mod lasting;
mod line;
mod migrate;
mod news;
mod opening;
mod rows;
mod settled;
mod tend;
mod verify;
mod writer;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use crate::clock::{Clock, Timestamp};
use crate::config::Postgres as Connection;
use crate::journal::audit::{Head, Key, Record};
use crate::journal::entry::{Entry, Tally};
use crate::journal::postgres::{
    audit::Log,
    connection::{Connector, Purpose},
    inner::Inner,
    line::Line,
    news::News,
    opening::{NO_PARAMETERS, get},
    rows::Parameter,
    writer::{Answer, Job, Write, Writer},
};
use crate::journal::record::hash_of_key;
use crate::journal::{Error, Filter, Journal, Loss, OpenState, Terms, Tombstone, Written};
use crate::payment::id::{CallerName, IdempotencyKey, OperationId, TransactionId};

pub use crate::journal::postgres::import::{Imported, import};
pub use crate::journal::postgres::verify::{records, verify};

/// Most writes that wait; more wait in their callers.
const QUEUE_MAX: usize = 4096;

/// Where a journal is, and what is said of it outside.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How the database is reached.
    pub postgres: Connection,
    /// What is said of it outside.
    pub terms: Terms,
    /// What the audit is chained with.
    pub audit: Key,
}

/// A journal in a database.
#[derive(Clone)]
pub struct Postgres {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Arc<Inner>,
    writes: mpsc::Sender<Job>,
    /// Entries that cannot be read, each told once.
    damaged: Mutex<HashSet<Uuid>>,
    /// End with the journal.
    _tasks: JoinSet<()>,
}

/// Brings the tables to the present form. Says how many steps that took.
pub async fn migrate(postgres: &Connection) -> Result<usize, Error> {
    let connected = Connector::new(postgres)?.connect(Purpose::Write, None).await?;
    migrate::migrate(&connected).await
}

/// Whether the database could be opened as it is. Changes nothing.
pub async fn examine(postgres: &Connection) -> Result<(), Error> {
    let connected = Connector::new(postgres)?.connect(Purpose::Write, None).await?;
    opening::fit(&connected, postgres).await.map(drop)
}

impl Postgres {
    /// Opens the journal. Gives the clock that dates it, too.
    pub async fn open(settings: &Settings) -> Result<(Self, Clock), Error> {
        let connector = Connector::new(&settings.postgres)?;
        let connected = connector.connect(Purpose::Write, None).await?;
        if settings.postgres.migrate {
            migrate::migrate(&connected).await?;
        }
        let status = opening::fit(&connected, &settings.postgres).await?;
        if settings.postgres.without_standby {
            tracing::warn!(
                "journal.postgres.without_standby: what the database acknowledges may be lost with its machine, so \
                 each key is looked up at the PSP before its first sending"
            );
        }
        let (meta, chain) = opening::open(&connected, settings).await?;
        let clock = Clock::following(status.shown);
        let process = Uuid::new_v4();
        let (news, telling) = News::new(process);
        let inner = Arc::new(Inner::new(settings.clone(), connector, clock.clone(), meta, news));
        let (writes, queue) = mpsc::channel(QUEUE_MAX);
        let mut tasks = JoinSet::new();
        let line = Line { inner: Arc::clone(&inner), connection: Some(connected) };
        inner.told(chain.head());
        let log = Log::Open(chain);
        let writer = Writer { inner: Arc::clone(&inner), line, id: process, log };
        // Not among those: it writes what it was given, and then ends.
        tokio::spawn(writer.run(queue));
        tasks.spawn(tend::examine(Arc::clone(&inner)));
        tasks.spawn(tend::watch(Arc::clone(&inner)));
        tasks.spawn(news::exchange(Arc::clone(&inner), telling));
        let shared = Shared { inner, writes, damaged: Mutex::default(), _tasks: tasks };
        let journal = Self { shared: Arc::new(shared) };
        if let Some(lost_at) = journal.shared.inner.meta.lost_at {
            tracing::warn!(
                lost_at = lost_at.0,
                quiet_until = (lost_at + settings.terms.loss_quiet).0,
                "a journal was lost: keys that may be older wait, and cost a read each"
            );
        }
        Ok((journal, clock))
    }

    async fn write(&self, write: Write) -> Result<Answer, Error> {
        let (answer, written) = oneshot::channel();
        let gone = || Error::Unavailable("the journal's writer has ended".to_owned());
        let until = Instant::now() + self.shared.inner.settings.postgres.commit_wait;
        let sending = self.shared.writes.send(Job { write, answer, until });
        let late = |_| Error::Unavailable("the database does not keep up".to_owned());
        tokio::time::timeout_at(until, sending).await.map_err(late)?.map_err(|_| gone())?;
        // From here on the write may happen whether or not we hear of it.
        let lost = |_| Error::Unconfirmed("the journal's writer has ended".to_owned());
        written.await.map_err(lost)?
    }

    async fn put(&self, write: Write) -> Result<Written, Error> {
        match self.write(write).await? {
            Answer::Written(written) => Ok(written),
            _ => Err(another_answer()),
        }
    }

    async fn take_away(&self, write: Write) -> Result<usize, Error> {
        match self.write(write).await? {
            Answer::Forgotten(count) => Ok(count),
            _ => Err(another_answer()),
        }
    }

    /// The row of a key: its entry, or that it is forgotten.
    async fn by_key(&self, caller: &CallerName, key: &IdempotencyKey) -> Result<Option<Row>, Error> {
        let (caller, key) = (caller.as_str(), key.as_str());
        let parameters: &[Parameter<'_>] = &[(&caller, Type::TEXT), (&key, Type::TEXT)];
        Ok(self.shared.inner.read(rows::BY_KEY, parameters).await?.into_iter().next())
    }

    /// What was read, as it is sure to stay: nothing, if it was undone. A commit
    /// whose wait for the standby was ended, by a restart for example, can be
    /// seen and may yet be lost; one that sees it on the same server and is
    /// acknowledged shows that it is not. Only what is final is told as such.
    async fn lasting(&self, entry: Entry) -> Result<Option<Entry>, Error> {
        let entry = if entry.state.is_final() && !self.shared.inner.settings.postgres.without_standby {
            let unsure = |error: Error| Error::Unavailable(format!("what it holds may not last: {error}"));
            match self.write(Write::Lasting(entry.id)).await.map_err(unsure)? {
                Answer::Lasting(found) => found.map(|found| *found),
                _ => return Err(another_answer()),
            }
        } else {
            Some(entry)
        };
        if let Some(entry) = &entry {
            self.shared.inner.settled.keep(entry);
        }
        Ok(entry)
    }

    async fn one(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Option<Entry>, Error> {
        let found = self.shared.inner.read(sql, parameters).await?;
        found.first().map(|row| rows::entry(row, 0)).transpose()
    }
}

fn another_answer() -> Error {
    Error::Unconfirmed("an answer to another question".to_owned())
}

impl Journal for Postgres {
    async fn recall(&self, caller: &CallerName, key: &IdempotencyKey) -> Result<Option<Entry>, Error> {
        Ok(self.shared.inner.settled.find(caller, key, self.remembers_since()))
    }

    async fn find(&self, caller: &CallerName, key: &IdempotencyKey) -> Result<Option<Entry>, Error> {
        let settled = &self.shared.inner.settled;
        if let Some(entry) = settled.find(caller, key, self.remembers_since()) {
            return Ok(Some(entry));
        }
        match self.by_key(caller, key).await? {
            Some(row) if !get::<bool>(&row, 2)? => self.lasting(rows::entry(&row, 0)?).await,
            _ => Ok(None),
        }
    }

    async fn get(&self, id: OperationId) -> Result<Option<Entry>, Error> {
        match self.one(rows::BY_ID, &[(&rows::uuid(id), Type::UUID)]).await? {
            Some(entry) => self.lasting(entry).await,
            None => Ok(None),
        }
    }

    async fn insert(&self, entry: Entry) -> Result<Written, Error> {
        match self.put(Write::Insert(Box::new(entry))).await? {
            Written::KeyTaken(rival) => {
                let undone = || Error::Unavailable("what stood in its way was undone".to_owned());
                let rival = self.lasting(*rival).await?.ok_or_else(undone)?;
                Ok(Written::KeyTaken(Box::new(rival)))
            }
            written => Ok(written),
        }
    }

    async fn update(&self, entry: Entry) -> Result<Written, Error> {
        self.put(Write::Update(Box::new(entry))).await
    }

    async fn due(&self, now: Timestamp, most: usize) -> Result<Vec<Entry>, Error> {
        if let Some(error) = self.shared.inner.unfit() {
            // Without a clock that is right nothing is judged to be over.
            return Err(error);
        }
        // The damaged ones stay due: they must not crowd out the others.
        let known = self.shared.damaged.lock().unwrap_or_else(PoisonError::into_inner).len();
        let limit = i64::try_from(most.saturating_add(known)).unwrap_or(i64::MAX);
        let parameters: &[Parameter<'_>] = &[(&now.0, Type::INT8), (&limit, Type::INT8)];
        let due = self.shared.inner.read(rows::DUE, parameters).await?;
        let mut damaged = self.shared.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sound = Vec::new();
        for row in due {
            match rows::entry(&row, 0) {
                Ok(entry) => sound.push(entry),
                Err(error) => {
                    let id: Uuid = get(&row, 2)?;
                    if damaged.insert(id) {
                        tracing::error!(operation_id = %id, %error, "it cannot be read back: a person has to look");
                    }
                }
            }
        }
        sound.truncate(most);
        Ok(sound)
    }

    async fn open_on(&self, transaction: &TransactionId) -> Result<Option<Entry>, Error> {
        self.one(rows::OPEN_ON, &[(&transaction.as_str(), Type::TEXT)]).await
    }

    async fn list(
        &self,
        filter: &Filter,
        before: Option<OperationId>,
        most: usize,
    ) -> Result<Vec<Entry>, Error> {
        let (sql, values) = rows::listing(filter, before, most);
        let parameters: Vec<Parameter<'_>> = values.iter().map(rows::parameter).collect();
        let found = self.shared.inner.read(&sql, &parameters).await?;
        found.iter().map(|row| rows::entry(row, 0)).collect()
    }

    fn loss(&self) -> Option<Loss> {
        let Inner { settings, meta, clock, .. } = &*self.shared.inner;
        let quiet = |at: Timestamp| at + settings.terms.loss_quiet;
        if settings.postgres.without_standby {
            // Whatever was acknowledged may be lost, at any time.
            let quiet_until = meta.lost_at.map_or(Timestamp(0), quiet);
            return Some(Loss {
                at: Timestamp(i64::MAX),
                quiet_until,
                clock_leeway: settings.terms.key_clock_leeway,
            });
        }
        // Older keys than that are refused in any case.
        let at = meta.lost_at.filter(|at| clock.now() < *at + settings.terms.retention)?;
        Some(Loss { at, quiet_until: quiet(at), clock_leeway: settings.terms.key_clock_leeway })
    }

    async fn tombstone(&self, caller: &CallerName, key: &IdempotencyKey) -> Result<Option<Tombstone>, Error> {
        match self.by_key(caller, key).await? {
            Some(row) if get::<bool>(&row, 2)? => return Ok(Some(Tombstone { state: get(&row, 3)? })),
            Some(_) => return Ok(None),
            None => {}
        }
        let hash = hash_of_key(caller.as_str(), key.as_str());
        let found = self.shared.inner.read(rows::TOMBSTONE, &[(&hash, Type::BYTEA)]).await?;
        match found.first() {
            Some(row) => Ok(Some(Tombstone { state: get(row, 0)? })),
            None => Ok(None),
        }
    }

    async fn forget(&self, most: usize) -> Result<usize, Error> {
        let before = self.shared.inner.clock.now() - self.shared.inner.settings.terms.retention;
        let forgotten = self.take_away(Write::Forget(before, most)).await?;
        let left = most.saturating_sub(forgotten);
        let gone = if left > 0 { self.take_away(Write::Purge(before, left)).await? } else { 0 };
        Ok(forgotten + gone)
    }

    fn remembers_since(&self) -> Timestamp {
        let Inner { settings, meta, clock, .. } = &*self.shared.inner;
        // Where it came from it may have remembered less.
        (clock.now() - settings.terms.retention).max(meta.forgotten_before.unwrap_or(Timestamp(i64::MIN)))
    }

    async fn spent(&self, tally: &Tally) -> Result<i64, Error> {
        let Tally { day, caller, account, kind, currency } = tally;
        let parameters: &[Parameter<'_>] = &[
            (day, Type::INT8),
            (&caller.as_str(), Type::TEXT),
            (&account.as_str(), Type::TEXT),
            (&kind.as_str(), Type::TEXT),
            (&currency.as_str(), Type::TEXT),
        ];
        let found = self.shared.inner.read(counted::SPENT, parameters).await?;
        Ok(found.first().map(|row| get(row, 0)).transpose()?.unwrap_or_default())
    }

    fn changes(&self, id: OperationId) -> watch::Receiver<u64> {
        let changes = self.shared.inner.hub.subscribe(id);
        self.shared.inner.news.want(id);
        changes
    }

    async fn open_states(&self) -> Result<Vec<OpenState>, Error> {
        let found = self.shared.inner.read(rows::OPEN_STATES, NO_PARAMETERS).await?;
        let of = |row: &Row| {
            let count = u64::try_from(get::<i64>(row, 1)?).unwrap_or_default();
            Ok(OpenState { state: get(row, 0)?, count, since: Timestamp(get(row, 2)?) })
        };
        found.iter().map(of).collect()
    }

    async fn note(&self, notes: Vec<Record>) -> Result<(), Error> {
        self.put(Write::Note(notes)).await.map(|_| ())
    }

    fn waiting(&self) -> usize {
        self.shared.writes.max_capacity().saturating_sub(self.shared.writes.capacity())
    }

    fn head(&self) -> Option<Head> {
        self.shared.inner.head()
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn has_standby(&self) -> Option<bool> {
        Some(!self.shared.inner.settings.postgres.without_standby)
    }

    fn is_broken(&self) -> bool {
        self.shared.inner.is_broken()
    }

    async fn check(&self) -> Result<(), Error> {
        if let Some(error) = self.shared.inner.unfit() {
            return Err(error);
        }
        self.put(Write::Beat).await.map(|_| ())
    }
}
