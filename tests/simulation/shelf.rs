//! The journal of a simulation: what is durable is here, whatever happens to
//! the processes. The rules are those of the trait, and every write is checked.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Timestamp;
use crate::journal::audit::{Head, Record};
use crate::journal::entry::{Entry, Event, Schedule, Tally};
use crate::journal::{Error, Filter, Journal, Loss, OpenState, Tombstone, Written};
use crate::payment::id::{CallerName, IdempotencyKey, OperationId, TransactionId};

use super::line::nap;
use super::point::{Life, Point};
use super::world::{now, wall};

/// What is durable.
#[derive(Default)]
pub(super) struct Store {
    pub rows: BTreeMap<OperationId, Entry>,
    keys: BTreeMap<(CallerName, IdempotencyKey), OperationId>,
    open: BTreeMap<TransactionId, OperationId>,
    tombstones: BTreeMap<(CallerName, IdempotencyKey), Tombstone>,
    pub loss: Option<Loss>,
    /// Each write with what was there before, the latest last.
    log: Vec<(u64, OperationId, Option<Entry>)>,
    /// Writes that can be seen and were not acknowledged, with what was there
    /// before: until a later one is, a failover undoes them.
    unsure: Vec<(OperationId, Option<Entry>)>,
    /// Whether its standby is out of its reach: nothing is acknowledged.
    pub alone: bool,
    changes: BTreeMap<OperationId, Vec<watch::Sender<u64>>>,
}

/// One process's journal.
#[derive(Clone)]
pub(super) struct Shelf {
    pub life: Life,
}

impl Store {
    pub(super) fn put(&mut self, entry: Entry) {
        let before = self.rows.insert(entry.id, entry.clone());
        self.log.push((now(), entry.id, before));
        self.keys.insert((entry.caller.clone(), entry.key.clone()), entry.id);
        self.slot(&entry.operation.transaction.clone());
        // One each: a shared one wakes its listeners in an order of its own.
        for changes in self.changes.get(&entry.id).into_iter().flatten() {
            changes.send_replace(entry.revision);
        }
    }

    fn slot(&mut self, transaction: &TransactionId) {
        let open =
            self.rows.values().find(|row| row.state.is_open() && row.operation.transaction == *transaction);
        match open.map(|row| row.id) {
            Some(id) => self.open.insert(transaction.clone(), id),
            None => self.open.remove(transaction),
        };
    }

    fn on(&self, transaction: &TransactionId) -> Option<&Entry> {
        self.open.get(transaction).and_then(|id| self.rows.get(id))
    }

    fn insert(&mut self, entry: Entry) -> Written {
        let key = (entry.caller.clone(), entry.key.clone());
        if let Some(other) = self.keys.get(&key).and_then(|id| self.rows.get(id)) {
            let same = other.nonce == entry.nonce;
            return if same { Written::Done } else { Written::KeyTaken(Box::new(other.clone())) };
        }
        if let Some(tombstone) = self.tombstones.get(&key) {
            return Written::Forgotten(tombstone.clone());
        }
        if let Some(other) = self.on(&entry.operation.transaction) {
            return Written::Busy(Box::new(other.clone()));
        }
        if let Some(spent) = self.beyond(&entry) {
            return Written::Beyond { spent };
        }
        self.put(entry);
        Written::Done
    }

    /// What counts of a day, by the rows themselves.
    pub(super) fn spent(&self, tally: &Tally) -> i64 {
        let counted = self.rows.values().filter(|row| row.tally().as_ref() == Some(tally));
        counted.filter_map(|row| row.spent.as_ref()).map(|spent| spent.amount).sum()
    }

    fn beyond(&self, entry: &Entry) -> Option<i64> {
        let spent = self.spent(&entry.tally()?);
        entry.is_beyond(spent).then_some(spent)
    }

    fn update(&mut self, entry: Entry) -> Written {
        if self.rows.get(&entry.id).is_none_or(|row| row.revision != entry.follows) {
            return Written::Stale;
        }
        if entry.state.is_open()
            && let Some(other) = self.on(&entry.operation.transaction)
            && other.id != entry.id
        {
            return Written::Busy(Box::new(other.clone()));
        }
        if let Some(spent) = self.beyond(&entry) {
            return Written::Beyond { spent };
        }
        self.put(entry);
        Written::Done
    }

    /// A new owner of an embedded journal: whoever was sending is dead.
    pub(super) fn take_over(&mut self, at: Timestamp, schedule: &Schedule) {
        let sending: Vec<_> = self.rows.values().filter(|row| row.state.is_sending()).cloned().collect();
        for entry in sending {
            let event = Event::doubted("payops ended while the attempt was under way");
            if let Ok(Some(mut next)) = entry.after(&event, at, schedule) {
                next.reading.next_at = Some(at);
                self.put(next);
            }
        }
    }

    /// The last writes are gone: back to how it was at `then`. Those who come
    /// after know that, and what left under a lost attempt may land for `fence`.
    pub(super) fn lose_since(&mut self, then: u64, fence: Duration, quiet: Duration, leeway: Duration) {
        while let Some((at, id, before)) = self.log.pop() {
            if at < then {
                self.log.push((at, id, before));
                break;
            }
            match before {
                Some(before) => {
                    self.rows.insert(id, before);
                }
                None => {
                    if let Some(gone) = self.rows.remove(&id) {
                        self.keys.remove(&(gone.caller, gone.key));
                    }
                }
            }
        }
        self.unsure.clear();
        let at = wall();
        for row in self.rows.values_mut() {
            if let Some(next) = row.after_loss(at, at + fence) {
                *row = next;
            }
            // Whoever still has a view from before writes over nothing.
            row.revision += 1_000;
        }
        let transactions: Vec<_> = self
            .open
            .keys()
            .cloned()
            .chain(self.rows.values().map(|r| r.operation.transaction.clone()))
            .collect();
        for transaction in transactions {
            self.slot(&transaction);
        }
        self.loss = Some(Loss { at, quiet_until: at + quiet, clock_leeway: leeway });
    }

    /// Another server takes over. It has what was acknowledged.
    pub(super) fn fail_over(&mut self) -> usize {
        self.alone = false;
        let undone = self.unsure.len();
        while let Some((id, before)) = self.unsure.pop() {
            // What is restored later was acknowledged.
            if let Some(last) = self.log.iter().rposition(|(_, of, _)| *of == id) {
                self.log.remove(last);
            }
            let gone = match before {
                Some(before) => self.rows.insert(id, before),
                None => self.rows.remove(&id).inspect(|gone| {
                    self.keys.remove(&(gone.caller.clone(), gone.key.clone()));
                }),
            };
            if let Some(gone) = gone {
                self.slot(&gone.operation.transaction);
            }
        }
        undone
    }

    /// Forgets settled entries that are older; a key without a date of its own
    /// leaves a tombstone.
    pub(super) fn forget(&mut self, before: Timestamp) -> usize {
        let old: Vec<_> = self
            .rows
            .values()
            .filter(|row| !row.state.is_open() && row.updated_at < before)
            .cloned()
            .collect();
        for row in &old {
            self.rows.remove(&row.id);
            let key = (row.caller.clone(), row.key.clone());
            self.keys.remove(&key);
            let dated = row.key.minted_at().is_some_and(|at| at < before.0);
            if !dated && !wrong!(ForgottenEarly) {
                self.tombstones.insert(key, Tombstone { state: row.state.as_str().to_owned() });
            }
        }
        self.log.retain(|(_, id, _)| old.iter().all(|row| row.id != *id));
        self.unsure.retain(|(id, _)| old.iter().all(|row| row.id != *id));
        old.len()
    }
}

enum Write {
    Insert,
    Update,
}

impl Shelf {
    async fn write(&self, entry: Entry, write: Write) -> Result<Written, Error> {
        let sim = &self.life.sim;
        let begins = entry.state.is_sending();
        self.life.point(if begins { Point::BeforeRecord } else { Point::BeforeJudgement }).await;
        nap(sim, 30).await;
        let result = sim.with(|world| self.commit(world, entry, &write));
        nap(sim, 10).await;
        self.life.point(if begins { Point::Recorded } else { Point::Judged }).await;
        result
    }

    fn commit(&self, world: &mut super::world::World, entry: Entry, write: &Write) -> Result<Written, Error> {
        // On its way when the process died: it may arrive or not; but never at
        // a journal that somebody else owns by now.
        let late = !self.life.is_alive();
        let embedded = world.plan.replicas == 1;
        if late && (embedded && !world.is_latest(&self.life) || world.dice.happens(500)) {
            return Err(Error::Unavailable("dead".to_owned()));
        }
        if world.happens("journal down", |rates| rates.journal_down) {
            return Err(Error::Unavailable("no space".to_owned()));
        }
        let unconfirmed =
            world.store.alone || world.happens("commit unconfirmed", |rates| rates.journal_unconfirmed);
        if unconfirmed && embedded {
            // A journal of which nobody knows what it holds ends its process.
            world.kill(&self.life);
        }
        if unconfirmed && world.dice.happens(500) {
            return Err(Error::Unconfirmed("connection lost".to_owned()));
        }
        let before = world.store.rows.get(&entry.id).cloned();
        let written = match write {
            Write::Insert => world.store.insert(entry.clone()),
            Write::Update => world.store.update(entry.clone()),
        };
        match (unconfirmed, &written) {
            (false, Written::Done) => world.store.unsure.clear(),
            (true, Written::Done) => world.store.unsure.push((entry.id, before.clone())),
            _ => {}
        }
        if written == Written::Done {
            world.note("written", entry.revision, u64::from(entry.attempt));
            world.on_recorded(&self.life, before.as_ref(), &entry);
        }
        if unconfirmed { Err(Error::Unconfirmed("connection lost".to_owned())) } else { Ok(written) }
    }

    /// What is final is told as a later write finds it that is acknowledged.
    async fn lasting(&self, entry: Entry) -> Result<Option<Entry>, Error> {
        if !entry.state.is_final() {
            return Ok(Some(entry));
        }
        nap(&self.life.sim, 30).await;
        self.life.sim.with(|world| {
            if world.store.alone {
                return Err(Error::Unavailable("it may not last".to_owned()));
            }
            world.store.unsure.clear();
            Ok(world.store.rows.get(&entry.id).cloned())
        })
    }

    async fn if_any(&self, found: Option<Entry>) -> Result<Option<Entry>, Error> {
        match found {
            Some(entry) => self.lasting(entry).await,
            None => Ok(None),
        }
    }

    async fn look<R>(&self, read: impl FnOnce(&Store) -> R) -> Result<R, Error> {
        self.life.point(Point::Look).await;
        nap(&self.life.sim, 3).await;
        self.life.sim.with(|world| {
            if world.happens("journal down", |rates| rates.journal_down) {
                return Err(Error::Unavailable("no connection".to_owned()));
            }
            Ok(read(&world.store))
        })
    }
}

impl Journal for Shelf {
    async fn recall(&self, caller: &CallerName, key: &IdempotencyKey) -> Result<Option<Entry>, Error> {
        // What many processes share costs a look, as in a database.
        let embedded = self.life.sim.with(|world| world.plan.replicas == 1);
        if embedded { self.find(caller, key).await } else { Ok(None) }
    }

    async fn find(&self, caller: &CallerName, key: &IdempotencyKey) -> Result<Option<Entry>, Error> {
        let key = (caller.clone(), key.clone());
        let found =
            self.look(|store| store.keys.get(&key).and_then(|id| store.rows.get(id)).cloned()).await?;
        self.if_any(found).await
    }

    async fn get(&self, id: OperationId) -> Result<Option<Entry>, Error> {
        let found = self.look(|store| store.rows.get(&id).cloned()).await?;
        self.if_any(found).await
    }

    async fn insert(&self, entry: Entry) -> Result<Written, Error> {
        match self.write(entry, Write::Insert).await? {
            Written::KeyTaken(rival) => {
                let undone = || Error::Unavailable("what stood in its way was undone".to_owned());
                let rival = self.lasting(*rival).await?.ok_or_else(undone)?;
                Ok(Written::KeyTaken(Box::new(rival)))
            }
            written => Ok(written),
        }
    }

    async fn update(&self, entry: Entry) -> Result<Written, Error> {
        self.write(entry, Write::Update).await
    }

    async fn due(&self, at: Timestamp, most: usize) -> Result<Vec<Entry>, Error> {
        self.look(|store| {
            let mut due: Vec<_> = store
                .rows
                .values()
                .filter(|row| row.reading.next_at.is_some_and(|next| next <= at))
                .collect();
            due.sort_by_key(|row| row.reading.next_at);
            due.into_iter().take(most).cloned().collect()
        })
        .await
    }

    async fn open_on(&self, transaction: &TransactionId) -> Result<Option<Entry>, Error> {
        self.look(|store| store.on(transaction).cloned()).await
    }

    async fn list(&self, _: &Filter, _: Option<OperationId>, _: usize) -> Result<Vec<Entry>, Error> {
        Err(Error::Unavailable("nobody lists here".to_owned()))
    }

    fn is_shared(&self) -> bool {
        self.life.sim.with(|world| world.plan.replicas > 1)
    }

    fn loss(&self) -> Option<Loss> {
        self.life.sim.with(|world| world.store.loss)
    }

    async fn tombstone(&self, caller: &CallerName, key: &IdempotencyKey) -> Result<Option<Tombstone>, Error> {
        let key = (caller.clone(), key.clone());
        self.look(|store| store.tombstones.get(&key).cloned()).await
    }

    async fn forget(&self, _: usize) -> Result<usize, Error> {
        // The world does that, for all replicas.
        Ok(0)
    }

    async fn spent(&self, tally: &Tally) -> Result<i64, Error> {
        self.look(|store| store.spent(tally)).await
    }

    fn remembers_since(&self) -> Timestamp {
        let retention = self.life.sim.with(|world| world.plan.retention);
        retention.map_or(Timestamp(i64::MIN), |kept| {
            Timestamp(wall().0 - i64::try_from(kept.as_millis()).unwrap())
        })
    }

    fn changes(&self, id: OperationId) -> watch::Receiver<u64> {
        self.life.sim.with(|world| {
            let (changes, listener) = watch::channel(0);
            world.store.changes.entry(id).or_default().push(changes);
            listener
        })
    }

    async fn open_states(&self) -> Result<Vec<OpenState>, Error> {
        Err(Error::Unavailable("nobody counts here".to_owned()))
    }

    async fn note(&self, _: Vec<Record>) -> Result<(), Error> {
        Ok(())
    }

    fn head(&self) -> Option<Head> {
        None
    }

    async fn check(&self) -> Result<(), Error> {
        Ok(())
    }
}
