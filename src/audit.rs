//! What the audit is told beside the writes of operations: who was refused, and
//! what the configuration became. Nobody waits for it, and nobody fills a disk
//! by being refused: the first refusal of its kind is written within a second,
//! those like it in the same minute as one number, and of many kinds only how
//! many there were.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::journal::{
    Journal,
    audit::{Record, Refusal, hex},
};
use crate::metrics::Metrics;

/// What waits to be written; of more refusals only the number is kept.
const WAITING_MAX: usize = 1024;
/// Places that refusals leave for everything else.
const RESERVED: usize = 64;
/// Refusals of a minute that are not alike; of more only the number is kept.
const KINDS_MAX: usize = 64;
/// How often what waits is written.
const WRITTEN_EVERY: Duration = Duration::from_secs(1);
/// How long refusals are added up, and how often the log tells how far the audit
/// is.
const TOLD_EVERY: Duration = Duration::from_mins(1);

/// Where refusals and changes of the configuration are told.
#[derive(Clone)]
pub struct Audit {
    notes: mpsc::Sender<Record>,
    /// Refusals for which there was no place.
    missed: Arc<AtomicU64>,
    clock: Clock,
    metrics: Metrics,
}

/// What was told, on its way to the journal.
#[derive(Debug)]
pub struct Notes {
    told: mpsc::Receiver<Record>,
    missed: Arc<AtomicU64>,
    clock: Clock,
    waiting: Waiting,
}

#[derive(Debug, Default)]
struct Waiting {
    others: Vec<Record>,
    /// Of this minute. The count of each is what is not written yet.
    kinds: Vec<Kind>,
    /// Of other kinds.
    more: u64,
}

#[derive(Debug)]
struct Kind {
    refusal: Refusal,
    /// Its first record is still to be written.
    is_new: bool,
}

impl Audit {
    /// Nothing is written before [`Notes::run`].
    pub fn new(clock: Clock, metrics: Metrics) -> (Self, Notes) {
        let (notes, told) = mpsc::channel(WAITING_MAX);
        let missed = Arc::new(AtomicU64::new(0));
        let audit = Self { notes, missed: Arc::clone(&missed), clock: clock.clone(), metrics };
        (audit, Notes { told, missed, clock, waiting: Waiting::default() })
    }

    /// Somebody was refused just now.
    pub fn refused(&self, refusal: Refusal) {
        self.metrics.refused(refusal.reason.clone());
        let refusal = Refusal { at: self.clock.now(), count: 1, ..refusal };
        let has_place = self.notes.capacity() > RESERVED;
        if !has_place || self.notes.try_send(Record::Refusal(Box::new(refusal))).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A part of the configuration was read, and is in force or was refused.
    pub fn configured(&self, what: &str, sha256: &[u8], refused: Option<String>) {
        let (at, what, sha256) = (self.clock.now(), what.to_owned(), Some(hex(sha256)));
        // Files are looked at every few seconds: there is a place for that.
        drop(self.notes.try_send(Record::Configuration { at, what, sha256, refused }));
    }
}

impl Notes {
    /// Writes what is told, and tells the log how far the audit is, until
    /// `stop`, and once more then.
    pub async fn run<J: Journal>(mut self, journal: J, stop: CancellationToken) {
        let mut tick = tokio::time::interval(WRITTEN_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut logged, mut minute) = (None, Instant::now());
        loop {
            let stopped = stop.run_until_cancelled(tick.tick()).await.is_none();
            let is_over = stopped || minute.elapsed() >= TOLD_EVERY;
            self.write(&journal, is_over).await;
            if is_over {
                minute = Instant::now();
                let head = journal.head();
                if let Some(head) = head.filter(|head| Some(*head) != logged) {
                    tracing::info!(%head, "the head of the audit");
                }
                logged = head;
            }
            if stopped {
                return;
            }
        }
    }

    async fn write<J: Journal>(&mut self, journal: &J, minute_is_over: bool) {
        // Not more than there was: others may go on telling.
        for _ in 0..self.told.len() {
            match self.told.try_recv() {
                Ok(Record::Refusal(refusal)) => self.waiting.refuse(*refusal),
                Ok(other) => self.waiting.others.push(other),
                Err(_) => break,
            }
        }
        self.waiting.others.truncate(WAITING_MAX);
        self.waiting.more += self.missed.swap(0, Ordering::Relaxed);
        let records = self.waiting.records(&self.clock, minute_is_over);
        if !records.is_empty()
            && let Err(error) = journal.note(records).await
        {
            tracing::warn!(%error, "the audit could not be written: it is tried again");
            return;
        }
        self.waiting.written(minute_is_over);
    }
}

impl Waiting {
    fn refuse(&mut self, refusal: Refusal) {
        let kinds = self.kinds.len();
        match self.kinds.iter_mut().find(|known| known.refusal.is_like(&refusal)) {
            Some(Kind { refusal: known, .. }) => {
                if known.count == 0 {
                    (known.at, known.trace_id) = (refusal.at, refusal.trace_id);
                }
                known.count += refusal.count;
            }
            None if kinds < KINDS_MAX => self.kinds.push(Kind { refusal, is_new: true }),
            None => self.more += refusal.count,
        }
    }

    /// What is to be written now.
    fn records(&self, clock: &Clock, minute_is_over: bool) -> Vec<Record> {
        let due = |kind: &&Kind| kind.refusal.count > 0 && (kind.is_new || minute_is_over);
        let refusals = self.kinds.iter().filter(due).map(|kind| kind.refusal.clone());
        let more = (self.more > 0 && minute_is_over).then(|| Refusal {
            at: clock.now(),
            count: self.more,
            why: "there were too many kinds in a minute to tell them one by one".to_owned(),
            ..Refusal::default()
        });
        let refusals = refusals.chain(more).map(|refusal| Record::Refusal(Box::new(refusal)));
        self.others.iter().cloned().chain(refusals).collect()
    }

    /// That was written.
    fn written(&mut self, minute_is_over: bool) {
        self.others.clear();
        if minute_is_over {
            *self = Self::default();
        }
        for kind in self.kinds.iter_mut().filter(|kind| kind.is_new) {
            (kind.refusal.count, kind.is_new) = (0, false);
        }
    }
}

impl Refusal {
    /// Whether it differs from the other by its time and its call alone.
    fn is_like(&self, other: &Self) -> bool {
        let Self { at, trace_id, count, .. } = self;
        *self == Self { at: *at, trace_id: trace_id.clone(), count: *count, ..other.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn refusal(rpc: &str) -> Refusal {
        Refusal { at: Timestamp(1), rpc: rpc.to_owned(), count: 1, ..Refusal::default() }
    }

    /// The RPC and the count of each record.
    fn told(waiting: &Waiting, minute_is_over: bool) -> Vec<(String, u64)> {
        let records = waiting.records(&Clock::manual(Timestamp(2)), minute_is_over);
        let told = records.into_iter().filter_map(|record| match record {
            Record::Refusal(refusal) => Some((refusal.rpc, refusal.count)),
            _ => None,
        });
        told.collect()
    }

    #[test]
    fn the_first_of_a_kind_is_told_at_once_and_those_like_it_with_the_minute() {
        let mut waiting = Waiting::default();
        waiting.refuse(refusal("Capture"));
        waiting.refuse(Refusal { at: Timestamp(2), trace_id: Some("t".to_owned()), ..refusal("Capture") });
        assert_eq!(told(&waiting, false), [("Capture".to_owned(), 2)]);
        waiting.written(false);
        assert_eq!(told(&waiting, false), []);
        for _ in 0..1_000 {
            waiting.refuse(refusal("Capture"));
        }
        waiting.refuse(refusal("Refund"));
        assert_eq!(told(&waiting, false), [("Refund".to_owned(), 1)]);
        waiting.written(false);
        assert_eq!(told(&waiting, true), [("Capture".to_owned(), 1_000)]);
        waiting.written(true);
        assert_eq!(told(&waiting, true), []);
        // What could not be written is told with what follows.
        waiting.refuse(refusal("Capture"));
        waiting.refuse(refusal("Capture"));
        assert_eq!(told(&waiting, false), [("Capture".to_owned(), 2)]);
    }

    #[test]
    fn of_very_many_kinds_only_the_number_is_told() {
        let mut waiting = Waiting::default();
        for nth in 0..KINDS_MAX + 7 {
            waiting.refuse(refusal(&format!("rpc {nth}")));
        }
        let all = told(&waiting, true);
        assert_eq!((all.len(), all.last()), (KINDS_MAX + 1, Some(&(String::new(), 7))));
    }

    #[tokio::test]
    async fn a_flood_of_refusals_leaves_room_for_the_configuration_and_is_counted() {
        let (audit, mut notes) = Audit::new(
            Clock::manual(Timestamp(1)),
            Metrics::new(None, opentelemetry_sdk::Resource::builder_empty().build()).unwrap(),
        );
        for _ in 0..10 * WAITING_MAX {
            audit.refused(refusal("Capture"));
        }
        audit.configured("callers.file", &[1], None);
        let mut last = None;
        let mut places = 0;
        while let Ok(record) = notes.told.try_recv() {
            places += 1;
            last = Some(record);
        }
        assert!(matches!(last, Some(Record::Configuration { .. })));
        let missed = notes.missed.load(Ordering::Relaxed);
        assert_eq!(u64::try_from(places - 1).unwrap() + missed, 10 * u64::try_from(WAITING_MAX).unwrap());
    }
}
