//! Where spans wait for their export. The one who exports is woken once for a
//! batch: to wake it for each span costs more than all the rest of tracing.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use opentelemetry_sdk::trace::SpanData;
use tokio::sync::Notify;

#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<VecDeque<SpanData>>,
    /// Beyond them nothing is taken.
    spans_max: usize,
    batch_max: usize,
    batch_is_there: Notify,
}

impl Queue {
    pub(super) fn new(spans_max: usize, batch_max: usize) -> Self {
        Self { waiting: Mutex::default(), spans_max, batch_max, batch_is_there: Notify::new() }
    }

    /// Whether there was room.
    pub(super) fn push(&self, span: SpanData) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= self.spans_max {
            return false;
        }
        waiting.push_back(span);
        if waiting.len() == self.batch_max {
            self.batch_is_there.notify_one();
        }
        true
    }

    /// Waits for a batch, but not for longer than that.
    pub(super) async fn gather(&self, delay: Duration) {
        // What is there already may be more than a batch.
        let is_there = |waiting: &VecDeque<SpanData>| waiting.len() >= self.batch_max;
        if !is_there(&self.waiting.lock().unwrap_or_else(PoisonError::into_inner)) {
            drop(tokio::time::timeout(delay, self.batch_is_there.notified()).await);
        }
    }

    /// The next batch. Empty when nothing waits.
    pub(super) fn batch(&self) -> Vec<SpanData> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.len().min(self.batch_max);
        waiting.drain(..count).collect()
    }
}
