//! What can happen to an operation, and what the machine makes its next state
//! from.

use std::time::Duration;

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::journal::entry::{Finding, Proposal, Resolution};
use crate::payment::{
    id::CallerName,
    outcome::{Decline, Proof},
};

/// What can happen to an operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The same key comes again after a release (T2).
    Retried(Beginning),
    /// 401: attempt n was refused before anything was executed (A3), and
    /// attempt n+1 begins in its place (T3 and T2 in one write): meanwhile the
    /// operation is not over, and nobody takes its slot.
    TokenRefused(Beginning),
    /// Once more, although an earlier attempt is in doubt, because twice would
    /// be harmless (T12).
    Resent(Beginning),
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
    /// A person proposes how to end a review; nothing is decided yet.
    Proposed(Proposal),
    /// A second person confirmed it (T11).
    Resolved(Box<Resolution>),
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

/// What another attempt begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// Names its first write.
    pub nonce: Uuid,
    /// When its token is surely dead.
    pub fence_at: Timestamp,
    /// How long its sender may be alive.
    pub lease_until: Timestamp,
}

impl Event {
    /// A doubt, and no word from the PSP about what to do.
    pub fn doubted(why: impl Into<String>) -> Self {
        Self::Doubted { why: why.into(), pushback: false, retry_after: None }
    }

    /// How long the PSP wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Doubted { retry_after, .. } | Self::Looked { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// A fact is monotone: it holds whichever attempt is under way.
    pub fn is_fact(&self) -> bool {
        matches!(self, Self::Proven(_))
    }

    /// The person who decided it.
    pub(super) fn by(&self) -> Option<&CallerName> {
        match self {
            Self::Proposed(proposal) => Some(&proposal.by),
            Self::Resolved(resolution) => Some(&resolution.confirmed_by),
            _ => None,
        }
    }

    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Retried(_) => "retried",
            Self::TokenRefused(_) => "begun again with a new token",
            Self::Resent(_) => "sent again",
            Self::NotSent { .. } => "not sent",
            Self::Refused(_) => "refused",
            Self::Accepted { .. } => "accepted",
            Self::Doubted { .. } => "doubted",
            Self::Proven(_) => "proven",
            Self::NeverHappened { .. } => "found never to have happened",
            Self::Contradicted { .. } => "contradicted",
            Self::Proposed(_) => "proposed upon",
            Self::Resolved(_) => "resolved",
            Self::Looked { .. } => "looked at",
        }
    }
}
