//! A journal that measures what is asked of it.

use opentelemetry::{KeyValue, trace::SpanKind};
use tokio::{sync::watch, time::Instant};

use crate::clock::Timestamp;
use crate::journal::{
    Error, Filter, Journal, Loss, OpenState, Tombstone, Written,
    audit::{Head, Record},
    entry::{Entry, Tally},
};
use crate::metrics::Metrics;
use crate::payment::id::{AccountId, CallerName, IdempotencyKey, OperationId, TransactionId};
use crate::trace::{self, Tracer};

/// The same journal, measured.
#[derive(Clone)]
pub struct Metered<J> {
    journal: J,
    metrics: Metrics,
    tracer: Tracer,
    system: &'static str,
}

impl<J: Journal> Metered<J> {
    /// Measures what is asked of a journal, and shows what is written in the
    /// trace of the call that it is written for.
    pub fn new(journal: J, metrics: Metrics, tracer: Tracer) -> Self {
        if let Some(standby) = journal.has_standby() {
            metrics.standby(standby);
        }
        let system = if journal.is_shared() { "postgresql" } else { "sqlite" };
        Self { journal, metrics, tracer, system }
    }

    async fn written(
        &self,
        (what, name): (&'static str, &'static str),
        change: Change,
        write: impl Future<Output = Result<Written, Error>> + Send,
    ) -> Result<Written, Error> {
        let mut span = self.tracer.begin(name, SpanKind::Client, || {
            vec![
                KeyValue::new("db.system.name", self.system),
                KeyValue::new("db.operation.name", what),
                KeyValue::new("db.collection.name", "operations"),
                KeyValue::new(trace::STATE, change.to),
            ]
        });
        let began = Instant::now();
        let result = write.await;
        let word = word(&result, written);
        match &result {
            Ok(Written::Done) => {}
            Ok(_) => span.set(KeyValue::new("payops.journal.result", word)),
            Err(_) => span.fail(word),
        }
        self.metrics.journal(what, word, began.elapsed(), Some(span.place()));
        self.changed(&change, &result);
        result
    }

    /// Counts a change once it is written: over all replicas each is written once.
    fn changed(&self, change: &Change, result: &Result<Written, Error>) {
        if !matches!(result, Ok(Written::Done)) {
            return;
        }
        if let "begun" | "retried" | "token_refused" | "resent" = change.event {
            self.metrics.attempt(change.kind, change.event);
        }
        if change.from != Some(change.to) {
            self.metrics.changed(change);
        }
    }

    async fn measured<R>(
        &self,
        what: &'static str,
        work: impl Future<Output = Result<R, Error>> + Send,
        result: impl FnOnce(&R) -> &'static str + Send,
    ) -> Result<R, Error> {
        let began = Instant::now();
        let done = work.await;
        self.metrics.journal(what, word(&done, result), began.elapsed(), None);
        done
    }
}

fn word<R>(done: &Result<R, Error>, result: impl FnOnce(&R) -> &'static str) -> &'static str {
    match done {
        Ok(done) => result(done),
        Err(Error::Unconfirmed(_)) => "unconfirmed",
        Err(_) => "failed",
    }
}

/// A change of an operation's state.
pub(super) struct Change {
    pub(super) event: &'static str,
    pub(super) kind: &'static str,
    pub(super) account: AccountId,
    /// None for the first write.
    pub(super) from: Option<&'static str>,
    pub(super) to: &'static str,
}

impl Change {
    fn of(entry: &Entry) -> Self {
        Self {
            event: entry.made.event,
            kind: entry.operation.kind().as_str(),
            account: entry.operation.transaction.account(),
            from: entry.made.before,
            to: entry.state.as_str(),
        }
    }
}

fn written(written: &Written) -> &'static str {
    match written {
        Written::Done => "done",
        Written::KeyTaken(_) => "key_taken",
        Written::Busy(_) => "transaction_busy",
        Written::Stale => "stale",
        Written::Forgotten(_) | Written::Expired => "key_expired",
        Written::Beyond { .. } => "daily_limit",
    }
}

fn read<R>(_: &R) -> &'static str {
    "done"
}

impl<J: Journal> Journal for Metered<J> {
    async fn find(&self, caller: &CallerName, key: &IdempotencyKey) -> Result<Option<Entry>, Error> {
        self.measured("read", self.journal.find(caller, key), read).await
    }

    async fn recall(&self, caller: &CallerName, key: &IdempotencyKey) -> Result<Option<Entry>, Error> {
        self.journal.recall(caller, key).await
    }

    async fn get(&self, id: OperationId) -> Result<Option<Entry>, Error> {
        self.measured("read", self.journal.get(id), read).await
    }

    async fn insert(&self, entry: Entry) -> Result<Written, Error> {
        let change = Change::of(&entry);
        self.written(("insert", "insert operations"), change, self.journal.insert(entry)).await
    }

    async fn update(&self, entry: Entry) -> Result<Written, Error> {
        let change = Change::of(&entry);
        self.written(("update", "update operations"), change, self.journal.update(entry)).await
    }

    async fn due(&self, now: Timestamp, most: usize) -> Result<Vec<Entry>, Error> {
        self.measured("due", self.journal.due(now, most), read).await
    }

    async fn open_on(&self, transaction: &TransactionId) -> Result<Option<Entry>, Error> {
        self.measured("read", self.journal.open_on(transaction), read).await
    }

    async fn list(
        &self,
        filter: &Filter,
        before: Option<OperationId>,
        most: usize,
    ) -> Result<Vec<Entry>, Error> {
        self.measured("list", self.journal.list(filter, before, most), read).await
    }

    fn loss(&self) -> Option<Loss> {
        self.journal.loss()
    }

    async fn tombstone(&self, caller: &CallerName, key: &IdempotencyKey) -> Result<Option<Tombstone>, Error> {
        self.measured("read", self.journal.tombstone(caller, key), read).await
    }

    async fn forget(&self, most: usize) -> Result<usize, Error> {
        self.measured("forget", self.journal.forget(most), read).await
    }

    async fn spent(&self, tally: &Tally) -> Result<i64, Error> {
        self.measured("read", self.journal.spent(tally), read).await
    }

    fn remembers_since(&self) -> Timestamp {
        self.journal.remembers_since()
    }

    fn changes(&self, id: OperationId) -> watch::Receiver<u64> {
        self.journal.changes(id)
    }

    async fn open_states(&self) -> Result<Vec<OpenState>, Error> {
        self.measured("read", self.journal.open_states(), read).await
    }

    async fn note(&self, notes: Vec<Record>) -> Result<(), Error> {
        self.measured("note", self.journal.note(notes), read).await
    }

    fn waiting(&self) -> usize {
        self.journal.waiting()
    }

    fn head(&self) -> Option<Head> {
        self.journal.head()
    }

    fn is_shared(&self) -> bool {
        self.journal.is_shared()
    }

    fn has_standby(&self) -> Option<bool> {
        self.journal.has_standby()
    }

    fn is_broken(&self) -> bool {
        self.journal.is_broken()
    }

    async fn check(&self) -> Result<(), Error> {
        self.measured("check", self.journal.check(), read).await
    }
}
