//! One key's entry, and the state machine of `next`: every legal move on one
//! screen, and one arm for the rest.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::payment::{
    Command, Fingerprint, Operation,
    id::{CallerName, IdempotencyKey, OperationId, Tag},
    outcome::{Decline, Proof},
};

/// Everything that is remembered of one command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Names the operation for ever.
    pub id: OperationId,
    /// Whose it is: the scope of the key.
    pub caller: CallerName,
    /// The caller's name for the intention.
    pub key: IdempotencyKey,
    /// The meaning; another meaning under the same key is refused.
    pub fingerprint: Fingerprint,
    /// What is asked of the PSP.
    pub operation: Operation,
    /// Where it stands.
    pub state: State,
    /// Counts the sendings, from 1. A judgement about attempt n changes
    /// nothing once attempt n+1 has begun.
    pub attempt: u32,
    /// Counts the writes, from 1: a change is written only over the revision
    /// that it was made from.
    pub revision: u64,
    /// Names the attempt's first write, so that repeating it is recognised.
    pub nonce: Uuid,
    /// From then on the PSP refuses the token of every attempt so far (A3).
    pub fence_at: Timestamp,
    /// Until then the sender may still be waiting for its answer.
    pub lease_until: Timestamp,
    /// The PSP's id of the accepted request [D 3.6].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_request_id: Option<String>,
    /// Failed events of earlier attempts: they say nothing about this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored_events: Vec<String>,
    /// What reading back has shown so far.
    pub reading: Reading,
    /// First write.
    pub created_at: Timestamp,
    /// Last change of state.
    pub updated_at: Timestamp,
}

/// Where an operation stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Attempt n may have left; its sender may be alive.
    Started,
    /// The PSP accepted and has not finished.
    Accepted,
    /// Attempt n may or may not have taken effect.
    InDoubt {
        /// What happened, for people.
        why: String,
        /// The PSP pushed back (409, 429): two empty reads are enough.
        #[serde(default)]
        pushback: bool,
    },
    /// No attempt had or can have an effect; the key may run again.
    Released {
        /// Why, for people.
        why: String,
    },
    /// Proven. Final.
    Succeeded(Proof),
    /// Refused. Final.
    Declined(Box<Decline>),
    /// Contradictory evidence; a person decides.
    Review {
        /// The contradiction.
        why: String,
    },
}

/// What can happen to an operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The same key comes again after a release (T2).
    Retried {
        /// The new attempt's first write.
        nonce: Uuid,
        /// When its token is surely dead.
        fence_at: Timestamp,
        /// How long its sender may be alive.
        lease_until: Timestamp,
    },
    /// 401: attempt n was refused before anything was executed (A3), and
    /// attempt n+1 begins in its place (T3 and T2 in one write): meanwhile the
    /// operation is not over, and nobody takes its slot.
    TokenRefused {
        /// The new attempt's first write.
        nonce: Uuid,
        /// When its token is surely dead.
        fence_at: Timestamp,
        /// How long its sender may be alive.
        lease_until: Timestamp,
    },
    /// No byte of the attempt left (T3).
    NotSent {
        /// Why.
        why: String,
    },
    /// A definite no (T4).
    Refused(Box<Decline>),
    /// The PSP has begun (T5).
    Accepted {
        /// The PSP's id of the accepted request.
        request_id: Option<String>,
    },
    /// The answer is ambiguous, or none came (T6).
    Doubted {
        /// What happened.
        why: String,
        /// The PSP pushed back (409, 429).
        pushback: bool,
        /// How long the PSP wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// A fact: the PSP's own events show the effect (T7, T10).
    Proven(Proof),
    /// No attempt took effect, and none can any more (T8).
    NeverHappened {
        /// What shows it.
        why: String,
    },
    /// The evidence contradicts itself (T9).
    Contradicted {
        /// The contradiction.
        why: String,
    },
    /// A read that changed nothing but what is known.
    Looked {
        /// What it showed.
        finding: Finding,
        /// When the read was issued.
        at: Timestamp,
        /// Failed events of ours that it showed.
        failed_events: Vec<String>,
        /// How long the PSP wants to be left alone.
        retry_after: Option<Duration>,
    },
}

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

/// A move that the state machine does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an operation that is {state} cannot be {event}")]
pub struct Illegal {
    state: &'static str,
    event: &'static str,
}

impl State {
    /// The state after `event`; none where it stays as it is. Everything that
    /// is not listed is illegal.
    pub fn next(&self, event: &Event) -> Result<Option<Self>, Illegal> {
        use State::{Accepted, Declined, InDoubt, Released, Review, Started, Succeeded};
        Ok(Some(match (self, event) {
            (Released { .. }, Event::Retried { .. }) => Started, // T2
            (Started, Event::TokenRefused { .. }) => Started,    // T3, T2
            (Started, Event::NotSent { why }) => Released { why: why.clone() }, // T3
            (Started | Accepted | InDoubt { .. }, Event::Refused(decline)) => Declined(decline.clone()), // T4
            (Started | InDoubt { .. }, Event::Accepted { .. }) => Accepted, // T5
            (Started, Event::Doubted { why, pushback, .. }) => {
                InDoubt { why: why.clone(), pushback: *pushback }
            } // T6
            (Started | Accepted | InDoubt { .. } | Released { .. } | Review { .. }, Event::Proven(proof)) => {
                Succeeded(proof.clone())
            } // T7
            (InDoubt { .. }, Event::NeverHappened { why }) => Released { why: why.clone() }, // T8
            (Started | Accepted | InDoubt { .. }, Event::Contradicted { why }) => Review { why: why.clone() }, // T9
            (Declined(_), Event::Proven(_)) => {
                Review { why: "it took effect after it had been declined".to_owned() } // T10
            }
            // The same fact twice, or a look that settles nothing.
            (Succeeded(_), Event::Proven(_)) | (Accepted, Event::Accepted { .. }) => return Ok(None),
            (Accepted | InDoubt { .. } | Review { .. }, Event::Looked { .. }) => self.clone(),
            (state, event) => return Err(Illegal { state: state.as_str(), event: event.as_str() }),
        }))
    }

    /// Whether the operation holds its transaction's slot.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Started | Self::Accepted | Self::InDoubt { .. } | Self::Review { .. })
    }

    /// Whether it is settled for good.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Succeeded(_) | Self::Declined(_))
    }

    /// The word used in journals and logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Accepted => "accepted",
            Self::InDoubt { .. } => "in_doubt",
            Self::Released { .. } => "released",
            Self::Succeeded(_) => "succeeded",
            Self::Declined(_) => "declined",
            Self::Review { .. } => "review",
        }
    }
}

impl Event {
    /// A doubt, and no word from the PSP about what to do.
    pub fn doubted(why: impl Into<String>) -> Self {
        Self::Doubted { why: why.into(), pushback: false, retry_after: None }
    }

    /// How long the PSP wants to be left alone.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Doubted { retry_after, .. } | Self::Looked { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// A fact is monotone: it holds whichever attempt is under way.
    pub fn is_fact(&self) -> bool {
        matches!(self, Self::Proven(_))
    }

    fn as_str(&self) -> &'static str {
        match self {
            Self::Retried { .. } => "retried",
            Self::TokenRefused { .. } => "begun again with a new token",
            Self::NotSent { .. } => "not sent",
            Self::Refused(_) => "refused",
            Self::Accepted { .. } => "accepted",
            Self::Doubted { .. } => "doubted",
            Self::Proven(_) => "proven",
            Self::NeverHappened { .. } => "found never to have happened",
            Self::Contradicted { .. } => "contradicted",
            Self::Looked { .. } => "looked at",
        }
    }
}

impl Entry {
    /// The first attempt of a command (T1).
    pub fn start(command: &Command, now: Timestamp, fence_at: Timestamp, lease_until: Timestamp) -> Self {
        Self {
            id: OperationId::new(),
            caller: command.caller.clone(),
            key: command.key.clone(),
            fingerprint: command.operation.fingerprint(),
            operation: command.operation.clone(),
            state: State::Started,
            attempt: 1,
            revision: 1,
            nonce: Uuid::new_v4(),
            fence_at,
            lease_until,
            accepted_request_id: None,
            ignored_events: Vec::new(),
            reading: Reading { next_at: Some(lease_until), ..Reading::default() },
            created_at: now,
            updated_at: now,
        }
    }

    /// The entry after `event`; none where nothing changes.
    pub fn after(&self, event: &Event, now: Timestamp, schedule: &Schedule) -> Result<Option<Self>, Illegal> {
        let Some(state) = self.state.next(event)? else { return Ok(self.named(event)) };
        let mut next = Self { state, revision: self.revision.saturating_add(1), ..self.clone() };
        let asked = event.retry_after().map(|wait| now + wait);
        let not_before = self.reading.not_before.max(asked).filter(|at| *at > now);
        match event {
            Event::Looked { finding, at, failed_events, .. } => {
                next.reading.look(*finding, *at, failed_events);
                let scheduled = schedule.next(self.id, next.reading.made, now);
                next.reading.next_at = Some(scheduled).max(not_before);
                next.reading.not_before = not_before;
                return Ok(Some(next));
            }
            Event::Retried { nonce, fence_at, lease_until }
            | Event::TokenRefused { nonce, fence_at, lease_until } => {
                next.attempt = self.attempt.saturating_add(1);
                next.nonce = *nonce;
                // Tokens of earlier attempts may outlive the new one.
                next.fence_at = self.fence_at.max(*fence_at);
                next.lease_until = *lease_until;
                next.accepted_request_id = None;
                next.ignored_events.extend(self.reading.failed_events.iter().cloned());
            }
            Event::Accepted { request_id } => next.accepted_request_id.clone_from(request_id),
            _ => {}
        }
        next.updated_at = now;
        let failed_events = self.reading.failed_events.clone();
        next.reading = Reading { not_before, failed_events, ..Reading::default() };
        next.reading.next_at = match next.state {
            State::Started => Some(next.lease_until),
            State::Accepted | State::InDoubt { .. } | State::Review { .. } => {
                Some(schedule.next(self.id, 0, now)).max(not_before)
            }
            State::Released { .. } | State::Succeeded(_) | State::Declined(_) => None,
        };
        Ok(Some(next))
    }

    /// A read showed the beginning, and only a late answer tells the PSP's id of
    /// it: without the id its end might never be recognised [D 3.6].
    fn named(&self, event: &Event) -> Option<Self> {
        let Event::Accepted { request_id: Some(id) } = event else { return None };
        let accepted_request_id = Some(id.clone());
        (self.state == State::Accepted && self.accepted_request_id.is_none()).then(|| Self {
            accepted_request_id,
            revision: self.revision.saturating_add(1),
            ..self.clone()
        })
    }

    /// The mark by which the PSP's events are recognised as this entry's.
    pub fn tag(&self) -> Tag {
        Tag::derive(&self.caller, &self.key)
    }
}

impl Reading {
    fn look(&mut self, finding: Finding, at: Timestamp, failed_events: &[String]) {
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

#[cfg(test)]
mod tests;
