//! What the audit is told beside the writes of operations: who was refused, and
//! what the configuration became. Nobody waits for it, so a refusal costs no
//! write of its own: those of a second that are alike make one record.

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

/// What waits to be written; of more refusals only the number is kept.
const WAITING_MAX: usize = 1024;
/// Places that refusals leave for everything else.
const RESERVED: usize = 64;
/// Refusals of a second that are not alike; of more only the number is kept.
const KINDS_MAX: usize = 64;
/// How often what waits is written.
const WRITTEN_EVERY: Duration = Duration::from_secs(1);
/// How often the log tells how far the audit is.
const TOLD_EVERY: Duration = Duration::from_mins(1);

/// Where refusals and changes of the configuration are told.
#[derive(Clone, Debug)]
pub struct Audit {
    notes: mpsc::Sender<Record>,
    /// Refusals for which there was no place.
    missed: Arc<AtomicU64>,
    clock: Clock,
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
    refusals: Vec<Refusal>,
    /// More of them.
    more: u64,
}

impl Audit {
    /// Nothing is written before [`Notes::run`].
    pub fn new(clock: Clock) -> (Self, Notes) {
        let (notes, told) = mpsc::channel(WAITING_MAX);
        let missed = Arc::new(AtomicU64::new(0));
        let audit = Self { notes, missed: Arc::clone(&missed), clock: clock.clone() };
        (audit, Notes { told, missed, clock, waiting: Waiting::default() })
    }

    /// Somebody was refused just now.
    pub fn refused(&self, refusal: Refusal) {
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
        let mut logged = (None, Instant::now());
        loop {
            let stopped = stop.run_until_cancelled(tick.tick()).await.is_none();
            self.write(&journal).await;
            let head = journal.head();
            if stopped || logged.1.elapsed() >= TOLD_EVERY {
                if let Some(head) = head.filter(|head| Some(*head) != logged.0) {
                    tracing::info!(%head, "the head of the audit");
                }
                logged = (head, Instant::now());
            }
            if stopped {
                return;
            }
        }
    }

    async fn write<J: Journal>(&mut self, journal: &J) {
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
        let records = self.waiting.records(&self.clock);
        if records.is_empty() {
            return;
        }
        match journal.note(records).await {
            Ok(()) => self.waiting = Waiting::default(),
            Err(error) => tracing::warn!(%error, "the audit could not be written: it is tried again"),
        }
    }
}

impl Waiting {
    fn refuse(&mut self, refusal: Refusal) {
        let kinds = self.refusals.len();
        match self.refusals.iter_mut().find(|known| known.is_like(&refusal)) {
            Some(known) => known.count += refusal.count,
            None if kinds < KINDS_MAX => self.refusals.push(refusal),
            None => self.more += refusal.count,
        }
    }

    fn records(&self, clock: &Clock) -> Vec<Record> {
        let refusals = self.refusals.iter().cloned().map(|refusal| Record::Refusal(Box::new(refusal)));
        let more = (self.more > 0).then(|| {
            let why = "there were too many at once to tell them one by one".to_owned();
            let refusal = Refusal { at: clock.now(), count: self.more, why, ..Refusal::default() };
            Record::Refusal(Box::new(refusal))
        });
        self.others.iter().cloned().chain(refusals).chain(more).collect()
    }
}

impl Refusal {
    /// Whether it differs from the other by its time and its call alone.
    fn is_like(&self, other: &Self) -> bool {
        let Self { at, trace_id, count, .. } = self;
        *self == Self { at: *at, trace_id: trace_id.clone(), count: *count, ..other.clone() }
    }
}
