//! One key's entry, and the state machine of `next`: every legal move on one
//! screen, and one arm for the rest.

mod event;
pub mod history;
mod lost;
pub mod reading;
pub mod spent;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::journal::audit::Made;
use crate::payment::{
    Command, Fingerprint, Operation, Traced, fresh,
    id::{CallerName, IdempotencyKey, OperationId, Tag},
    outcome::{Decline, Proof},
};

pub use self::event::{Beginning, Event};
pub use self::history::{Change, Decision, Proposal, Resolution, Resolved};
pub use self::reading::{Finding, Reading, Schedule, Streak};
pub use self::spent::{Spent, Tally};

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
    /// Rises with each write, from 1, by a step of chance: where writes that
    /// were never acknowledged are undone by a failover, what is written instead
    /// must not be taken for them.
    pub revision: u64,
    /// The revision that this one was made from: it is written only over that.
    #[serde(default, skip_serializing_if = "is_default")]
    pub follows: u64,
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
    /// How often an attempt was sent again although an earlier one was in
    /// doubt (T12).
    #[serde(default, skip_serializing_if = "is_default")]
    pub resends: u32,
    /// What it counts towards a limit of its day; none where it began under
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<Spent>,
    /// What reading back has shown so far.
    pub reading: Reading,
    /// A person's decision that waits for a second person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<Proposal>,
    /// Each change of the state, the first write included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Change>,
    /// The call that began the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traced: Option<Traced>,
    /// First write.
    pub created_at: Timestamp,
    /// Last change of state.
    pub updated_at: Timestamp,
    /// How this revision came about.
    #[serde(skip)]
    pub made: Made,
}

/// Where an operation stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Attempt n may have left; its sender may be alive. No earlier attempt can
    /// take effect.
    Started,
    /// Attempt n may have left, and an earlier attempt may yet take effect: no
    /// refusal of attempt n says anything about the operation (T12).
    Resent,
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
        use State::{Accepted, Declined, InDoubt, Released, Resent, Review, Started, Succeeded};
        Ok(Some(match (self, event) {
            (Released { .. }, Event::Retried(_)) => Started, // T2
            (Started, Event::TokenRefused(_)) => Started,    // T3, T2
            (Started, Event::NotSent { why }) => Released { why: why.clone() }, // T3
            (Started | Accepted | InDoubt { .. }, Event::Refused(decline)) => Declined(decline.clone()), // T4
            (Started | Resent | InDoubt { .. }, Event::Accepted { .. }) => Accepted, // T5
            (Started, Event::Doubted { why, pushback, .. }) => {
                InDoubt { why: why.clone(), pushback: *pushback }
            } // T6
            (
                Started | Resent | Accepted | InDoubt { .. } | Released { .. } | Review { .. },
                Event::Proven(proof),
            ) => Succeeded(proof.clone()), // T7
            (InDoubt { .. }, Event::NeverHappened { why }) => Released { why: why.clone() }, // T8
            (Started | Resent | Accepted | InDoubt { .. }, Event::Contradicted { why }) => {
                Review { why: why.clone() }
            } // T9
            // Somebody else voided afterwards: ours did not take effect, as was said.
            (Declined(_), Event::Proven(proof)) if proof.by_others => return Ok(None),
            (Declined(_), Event::Proven(_)) => {
                Review { why: "it took effect after it had been declined".to_owned() } // T10
            }
            (Review { .. }, Event::Resolved(resolution)) => resolution.outcome.state(), // T11
            (InDoubt { .. }, Event::Resent(_)) => Resent,                               // T12
            // Of the later attempt alone: the earlier one is as doubtful as before.
            (Resent, Event::NotSent { why } | Event::Doubted { why, .. }) => doubt(why),
            (Resent, Event::Refused(decline)) => doubt(&decline.message),
            // The same fact twice, or a look that settles nothing.
            (Succeeded(_), Event::Proven(_)) | (Accepted, Event::Accepted { .. }) => return Ok(None),
            (Accepted | InDoubt { .. } | Review { .. }, Event::Looked { .. })
            | (Review { .. }, Event::Proposed(_)) => self.clone(),
            (state, event) => return Err(Illegal { state: state.as_str(), event: event.as_str() }),
        }))
    }

    /// Whether the operation holds its transaction's slot.
    pub fn is_open(&self) -> bool {
        matches!(
            self,
            Self::Started | Self::Resent | Self::Accepted | Self::InDoubt { .. } | Self::Review { .. }
        )
    }

    /// Whether a sender may be alive: nobody else touches the operation before
    /// the lease ends.
    pub fn is_sending(&self) -> bool {
        matches!(self, Self::Started | Self::Resent)
    }

    /// Whether it is settled for good.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Succeeded(_) | Self::Declined(_))
    }

    /// Why it stands there, in a sentence for people.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::InDoubt { why, .. } | Self::Released { why } | Self::Review { why } => Some(why),
            Self::Started | Self::Resent | Self::Accepted | Self::Succeeded(_) | Self::Declined(_) => None,
        }
    }

    /// The word used in journals and logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Resent => "resent",
            Self::Accepted => "accepted",
            Self::InDoubt { .. } => "in_doubt",
            Self::Released { .. } => "released",
            Self::Succeeded(_) => "succeeded",
            Self::Declined(_) => "declined",
            Self::Review { .. } => "review",
        }
    }
}

impl Entry {
    /// The first attempt of a command (T1).
    pub fn start(command: &Command, now: Timestamp, fence_at: Timestamp, lease_until: Timestamp) -> Self {
        let mut entry = Self {
            id: OperationId::new(),
            caller: command.caller.clone(),
            key: command.key.clone(),
            fingerprint: command.operation.fingerprint(),
            operation: command.operation.clone(),
            state: State::Started,
            attempt: 1,
            revision: 1,
            follows: 0,
            nonce: fresh::uuid_v4(),
            fence_at,
            lease_until,
            accepted_request_id: None,
            ignored_events: Vec::new(),
            resends: 0,
            spent: None,
            reading: Reading { next_at: Some(lease_until), ..Reading::default() },
            proposal: None,
            history: Vec::new(),
            traced: command.traced.clone(),
            created_at: now,
            updated_at: now,
            made: Made { event: "begun", at: Some(now), ..Made::default() },
        };
        entry.remember(None, None, now);
        entry
    }

    /// The entry after `event`; none where nothing changes.
    pub fn after(&self, event: &Event, now: Timestamp, schedule: &Schedule) -> Result<Option<Self>, Illegal> {
        let Some(state) = self.state.next(event)? else { return Ok(self.named(event, now)) };
        if let Event::Resolved(resolution) = event
            && self.proposal.as_ref() != Some(&resolution.proposal)
        {
            // Two persons decide the same thing, or nothing.
            return Err(Illegal { state: self.state.as_str(), event: "resolved otherwise than proposed" });
        }
        let mut next = Self { state, ..self.successor(event.as_str(), now) };
        next.made.by = event.by().cloned();
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
            Event::Proposed(proposal) => {
                next.remember(Some(proposal.why()), event.by(), now);
                next.proposal = Some(proposal.clone());
                return Ok(Some(next));
            }
            Event::Retried(beginning) | Event::TokenRefused(beginning) | Event::Resent(beginning) => {
                next.attempt = self.attempt.saturating_add(1);
                next.nonce = beginning.nonce;
                // Tokens of earlier attempts may outlive the new one.
                next.fence_at = self.fence_at.max(beginning.fence_at);
                next.lease_until = beginning.lease_until;
                next.accepted_request_id = None;
                next.ignored_events.extend(self.reading.failed_events.iter().cloned());
                // Whoever runs again after a release owes nothing to the past.
                next.resends = match event {
                    Event::Resent(_) => self.resends.saturating_add(1),
                    Event::Retried(_) => 0,
                    _ => self.resends,
                };
            }
            Event::Accepted { request_id } => next.accepted_request_id.clone_from(request_id),
            _ => {}
        }
        next.updated_at = now;
        next.proposal = None;
        next.count();
        let why = match event {
            Event::Resolved(resolution) => Some(resolution.why()),
            _ => next.state.why().map(str::to_owned),
        };
        next.remember(why, event.by(), now);
        let failed_events = self.reading.failed_events.clone();
        next.reading = Reading { not_before, failed_events, ..Reading::default() };
        next.reading.next_at = match next.state {
            State::Started | State::Resent => Some(next.lease_until),
            State::Accepted | State::InDoubt { .. } | State::Review { .. } => {
                Some(schedule.next(self.id, 0, now)).max(not_before)
            }
            State::Released { .. } | State::Succeeded(_) | State::Declined(_) => None,
        };
        Ok(Some(next))
    }

    /// A read showed the beginning, and only a late answer tells the PSP's id of
    /// it: without the id its end might never be recognised [D 3.6].
    fn named(&self, event: &Event, now: Timestamp) -> Option<Self> {
        let Event::Accepted { request_id: Some(id) } = event else { return None };
        let accepted_request_id = Some(id.clone());
        (self.state == State::Accepted && self.accepted_request_id.is_none())
            .then(|| Self { accepted_request_id, ..self.successor(event.as_str(), now) })
    }

    /// The same in its next revision, which that event makes.
    fn successor(&self, event: &'static str, now: Timestamp) -> Self {
        let revision = self.revision.saturating_add(fresh::step());
        let spent = self.spent.as_ref().map(Spent::successor);
        let before = Some(self.state.as_str());
        let made = Made { event, at: Some(now), before, by: None, ..self.made.clone() };
        Self { revision, follows: self.revision, spent, made, ..self.clone() }
    }

    /// Adds to the history what the entry is now.
    fn remember(&mut self, why: Option<String>, by: Option<&CallerName>, now: Timestamp) {
        let change = Change {
            at: now,
            attempt: self.attempt,
            state: self.state.as_str().to_owned(),
            why,
            by: by.cloned(),
        };
        history::append(&mut self.history, change);
    }

    /// The command that this entry was made for, without its guards.
    pub fn command(&self) -> Command {
        Command {
            caller: self.caller.clone(),
            key: self.key.clone(),
            operation: self.operation.clone(),
            guards: crate::payment::Guards::default(),
            permit: crate::payment::permit::Permit::default(),
            traced: self.traced.clone(),
        }
    }

    /// The mark by which the PSP's events are recognised as this entry's.
    pub fn tag(&self) -> Tag {
        Tag::derive(&self.caller, &self.key)
    }
}

fn doubt(why: &str) -> State {
    let why = format!("sent again, and an earlier attempt is in doubt as before: {why}");
    State::InDoubt { why, pushback: false }
}

/// Whether it goes without saying.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests;
