//! Reading back: what the reads so far agree upon, and when the next is due.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::payment::id::OperationId;

/// What a read that settles nothing showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Nothing of ours, while a request could still arrive.
    Absent,
    /// Nothing of ours, when no request can take effect any more.
    AbsentForGood,
    /// Begun, not finished.
    Pending,
    /// Part of the amount.
    Partly,
    /// Failed in a way that does not exclude an effect.
    FailedUnclearly,
    /// The PSP's answer could not be used: no evidence at all.
    Nothing,
    /// The PSP was not asked: it, or a token for it, could not be had.
    NotRead,
    /// The contradiction is still there.
    Contradiction,
}

/// Reading back: how often, when next, and what the last reads agree upon.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Reads since the state last changed.
    pub made: u32,
    /// When to look next; none when there is nothing to look for.
    pub next_at: Option<Timestamp>,
    /// The PSP asked not to be read before then, whoever waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// The run of equal findings that the last read belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streak: Option<Streak>,
    /// Failed events of ours seen so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_events: Vec<String>,
}

/// Equal findings, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streak {
    /// What they showed.
    pub finding: Finding,
    /// The first one was issued then.
    pub since: Timestamp,
    /// The last one was issued then.
    pub last: Timestamp,
    /// How many.
    pub count: u32,
}

/// When to read back: short waits first, then long ones, each spread a little
/// so that a thousand doubts of one moment do not come back in one moment.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The first waits.
    pub first: Vec<Duration>,
    /// Every further wait.
    pub then: Duration,
    /// Each wait is shortened or lengthened by up to this part of it, percent.
    pub jitter_percent: u8,
}

impl Reading {
    pub(super) fn look(&mut self, finding: Finding, at: Timestamp, failed_events: &[String]) {
        self.made = self.made.saturating_add(1);
        for event in failed_events {
            if !self.failed_events.contains(event) {
                self.failed_events.push(event.clone());
            }
        }
        self.streak = Some(match self.streak {
            Some(streak) if streak.finding == finding => {
                Streak { last: at.max(streak.last), count: streak.count.saturating_add(1), ..streak }
            }
            _ => Streak { finding, since: at, last: at, count: 1 },
        });
    }
}

impl Schedule {
    /// When to look after `made` looks in vain. The spread comes from the
    /// operation's id, so that the same history gives the same times.
    pub fn next(&self, id: OperationId, made: u32, now: Timestamp) -> Timestamp {
        let index = usize::try_from(made).unwrap_or(usize::MAX);
        let wait = self.first.get(index).copied().unwrap_or(self.then);
        let entropy =
            id.as_bytes().iter().skip(8).fold(u32::from(self.jitter_percent) + made, |sum, byte| {
                sum.wrapping_mul(31).wrapping_add(u32::from(*byte))
            });
        let span = u32::from(self.jitter_percent) * 2;
        let percent = (100 + entropy % (span + 1)).saturating_sub(u32::from(self.jitter_percent));
        now + wait.saturating_mul(percent) / 100
    }
}
