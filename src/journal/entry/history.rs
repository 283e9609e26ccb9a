//! What happened to an operation, for people: each change of its state, and
//! what persons decided about it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::journal::entry::State;
use crate::payment::{
    id::CallerName,
    outcome::{Decline, Proof},
};

/// Most changes that an entry keeps: the first one, and the latest.
pub const CHANGES_MAX: usize = 64;

/// One change of an operation's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When it was written.
    pub at: Timestamp,
    /// The attempt that it belongs to.
    pub attempt: u32,
    /// The state since then, in the word of journals.
    pub state: String,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The person who decided it; none where the evidence did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<CallerName>,
}

/// What a person decides about an operation in review.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It took effect.
    Succeeded,
    /// It did not take effect and will not.
    Declined,
    /// It did not take effect; the same key may run again.
    Released,
}

/// A decision that waits for a second person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Names the proposal: the second person confirms what was seen.
    pub id: Uuid,
    /// What is to become of the operation.
    pub decision: Decision,
    /// Why.
    pub reason: String,
    /// Who proposes it.
    pub by: CallerName,
    /// When.
    pub at: Timestamp,
}

/// A decision that a second person confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// What was proposed.
    pub proposal: Proposal,
    /// The second person.
    pub confirmed_by: CallerName,
    /// Why that person agrees.
    pub reason: String,
    /// What the decision goes against, or could not be held against: the
    /// evidence, as it was at that time.
    pub against: Option<String>,
    /// What the operation becomes.
    pub outcome: Resolved,
}

/// What an operation becomes by a person's decision, with what the PSP showed
/// at that time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// See [`Decision::Succeeded`].
    Succeeded(Proof),
    /// See [`Decision::Declined`].
    Declined(Box<Decline>),
    /// See [`Decision::Released`].
    Released,
}

impl Decision {
    /// The word used in journals and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Declined => "declined",
            Self::Released => "released",
        }
    }
}

impl Proposal {
    /// What and why, in a sentence.
    pub(super) fn why(&self) -> String {
        format!("proposes {}: {}", self.decision.as_str(), self.reason)
    }
}

impl Resolved {
    /// Where the operation stands then. What it says there is the caller's to
    /// read: who decided and why is in the history alone.
    pub(super) fn state(&self) -> State {
        match self {
            Self::Succeeded(proof) => State::Succeeded(proof.clone()),
            Self::Declined(decline) => State::Declined(decline.clone()),
            Self::Released => State::Released {
                why: "a review by two persons found that it did not take effect".to_owned(),
            },
        }
    }
}

impl Resolution {
    /// Both persons and both reasons, in a sentence.
    pub fn why(&self) -> String {
        let Self { proposal, confirmed_by, reason, against, .. } = self;
        let why = format!("{}: {}; confirmed by {confirmed_by}: {reason}", proposal.by, proposal.reason);
        match against {
            Some(evidence) => format!("{why}; although {evidence}"),
            None => why,
        }
    }
}

/// Adds a change; the first one stays, and of the rest the latest.
pub(super) fn append(history: &mut Vec<Change>, change: Change) {
    if history.len() >= CHANGES_MAX {
        history.remove(1);
    }
    history.push(change);
}
