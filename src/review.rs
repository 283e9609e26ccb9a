//! For people: all operations, the evidence of both sides, and reviews that
//! two persons end where evidence cannot (T11). It reads the PSP and writes to
//! the journal; it sends nothing that could move money.
//!
//! # Correctness
//!
//! A proof is stronger than any decision: the PSP is read once more at the
//! confirmation, and what that read proves is recorded instead. A decision is
//! written only over the proposal that was confirmed, and only onto a review.

pub mod evidence;

use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::conclude::{Conclude, sought};
use crate::journal::{
    self, Filter, Journal,
    entry::{Decision, Entry, Event, Proposal, Resolution, Resolved, State},
    follow::follow,
};
use crate::payment::{
    fresh,
    id::{CallerName, OperationId},
};
use crate::psp::{NotSent, Psp, ReadError, judge::Verdict};
use crate::review::evidence::{Seen, against};

/// The handle.
#[derive(Clone)]
pub struct Reviews<J, P> {
    conclude: Conclude<J, P>,
    /// How long after the fence an attempt may still take effect or show.
    settles: Duration,
    stopping: CancellationToken,
}

/// Some operations, the youngest first.
#[derive(Debug)]
pub struct Page {
    /// At most as many as were asked for.
    pub entries: Vec<Entry>,
    /// The last of them, where more follow.
    pub next: Option<OperationId>,
}

/// Both sides of one operation.
#[derive(Debug)]
pub struct Evidence {
    /// Our side.
    pub entry: Entry,
    /// When the PSP was read.
    pub read_at: Timestamp,
    /// From then on no attempt can take effect or show for the first time.
    pub quiet_at: Timestamp,
    /// The PSP's side, or why it is missing.
    pub seen: Result<Seen, ReadError>,
}

/// One person's step towards the end of a review.
#[derive(Clone, Debug)]
pub struct Step {
    /// Of which operation.
    pub id: OperationId,
    /// Who.
    pub by: CallerName,
    /// Why.
    pub reason: String,
    /// The call in which it is taken.
    pub trace_id: Option<String>,
}

/// What a confirmation led to.
#[derive(Debug)]
pub struct Confirmed {
    /// The operation as it stands now.
    pub entry: Entry,
    /// The PSP's events proved success, which was recorded instead.
    pub by_proof: bool,
}

/// Why a reviewer is not given what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such operation.
    #[error("no such operation")]
    Unknown,
    /// Only a review is decided by persons.
    #[error("the operation is not in review")]
    NotInReview(Box<Entry>),
    /// Another proposal, or none, waits for a second person.
    #[error("the proposal is not the one that waits")]
    ProposalMismatch(OperationId),
    /// The one who proposed it cannot confirm it.
    #[error("a second person has to confirm it")]
    SecondPersonRequired(OperationId),
    /// The decision goes against what the PSP shows.
    #[error("the evidence contradicts the decision: {why}")]
    EvidenceContradicts {
        /// Of which operation.
        id: OperationId,
        /// What was to be decided.
        decision: Decision,
        /// What the evidence is.
        why: String,
    },
    /// The journal could not be used; whether the step was recorded, the
    /// operation shows.
    #[error("the journal cannot be used")]
    Journal(#[source] journal::Error),
}

impl<J: Journal, P: Psp> Reviews<J, P> {
    /// Reviews of what `conclude` concludes. An attempt may take effect or show
    /// for `settles` after its token is dead.
    pub fn new(conclude: Conclude<J, P>, settles: Duration, stopping: CancellationToken) -> Self {
        Self { conclude, settles, stopping }
    }

    /// Operations that fit the filter, from below `before` on.
    pub async fn list(
        &self,
        filter: &Filter,
        before: Option<OperationId>,
        most: usize,
    ) -> Result<Page, Refusal> {
        // One more than asked for tells whether there are more.
        let listed = self.conclude.journal.list(filter, before, most.saturating_add(1)).await;
        let mut entries = listed.map_err(Refusal::Journal)?;
        let more = entries.len() > most;
        entries.truncate(most);
        let next = entries.last().filter(|_| more).map(|entry| entry.id);
        Ok(Page { entries, next })
    }

    /// Both sides of an operation. The PSP is read for it.
    pub async fn evidence(&self, id: OperationId) -> Result<Evidence, Refusal> {
        let entry = self.entry(id).await?;
        Ok(self.held_against_the_psp(entry).await)
    }

    /// One person proposes how to end a review. Replaces an earlier proposal.
    pub async fn propose(&self, step: Step, decision: Decision) -> Result<Entry, Refusal> {
        let mut entry = self.in_review(step.id).await?;
        let Step { id, by, reason, trace_id } = step;
        entry.made.trace_id = trace_id;
        let at = self.conclude.clock.now();
        let proposal = Proposal { id: fresh::uuid_v4(), decision, reason, by, at };
        let written = self.write(entry, &Event::Proposed(proposal.clone())).await?;
        if written.proposal.as_ref() != Some(&proposal) {
            return Err(Refusal::NotInReview(Box::new(written)));
        }
        tracing::info!(
            operation_id = %id, transaction_id = %written.operation.transaction, person = %proposal.by,
            decision = decision.as_str(), reason = proposal.reason, proposal_id = %proposal.id,
            "a person proposes how to end a review"
        );
        Ok(written)
    }

    /// A second person confirms a proposal. `although` allows a decision that
    /// goes against the evidence.
    ///
    /// # Cancel safety
    ///
    /// Whoever stops waiting may leave the decision recorded, or not: the
    /// operation shows it.
    pub async fn confirm(&self, step: Step, proposal: Uuid, although: bool) -> Result<Confirmed, Refusal> {
        let mut entry = self.in_review(step.id).await?;
        entry.made.trace_id.clone_from(&step.trace_id);
        confirmable(&entry, proposal, &step.by)?;
        let evidence = self.held_against_the_psp(entry).await;
        if let Ok(Seen { verdict: Verdict::Proven(proof), .. }) = &evidence.seen {
            let entry = self.write(evidence.entry, &Event::Proven(proof.clone())).await?;
            tracing::info!(
                operation_id = %entry.id, transaction_id = %entry.operation.transaction,
                person = %step.by, reason = step.reason, state = entry.state.as_str(),
                "a review was ended by proof while a person confirmed a decision"
            );
            return Ok(Confirmed { entry, by_proof: true });
        }
        // It may have changed during the read.
        let mut entry = self.in_review(step.id).await?;
        entry.made.trace_id = step.trace_id;
        let proposal = confirmable(&entry, proposal, &step.by)?;
        let decision = proposal.decision;
        let contradicted = against(decision, &evidence);
        if let Some(why) = contradicted.clone().filter(|_| !although) {
            return Err(Refusal::EvidenceContradicts { id: step.id, decision, why });
        }
        let overridden = contradicted.is_some();
        let unread = evidence.seen.as_ref().err().map(|why| format!("the PSP's side was not read: {why}"));
        let resolution = Resolution {
            against: contradicted.or(unread),
            outcome: outcome(decision, &evidence),
            proposal,
            confirmed_by: step.by,
            reason: step.reason,
        };
        let why = resolution.why();
        let event = Event::Resolved(Box::new(resolution.clone()));
        let entry = self.write(entry, &event).await?;
        let last = entry.history.last();
        if last.is_none_or(|change| change.why.as_ref() != Some(&why)) {
            // Somebody was faster: proof, or another person.
            return Err(match entry.state {
                State::Review { .. } => Refusal::ProposalMismatch(entry.id),
                _ => Refusal::NotInReview(Box::new(entry)),
            });
        }
        let Resolution { proposal, confirmed_by, .. } = resolution;
        tracing::warn!(
            operation_id = %entry.id, transaction_id = %entry.operation.transaction,
            proposed_by = %proposal.by, %confirmed_by, state = entry.state.as_str(), why, overridden,
            "two persons ended a review"
        );
        Ok(Confirmed { entry, by_proof: false })
    }

    /// The entry now, and after each change of its state and each step of a
    /// person. Ends when nothing more will come by itself, or when the boundary
    /// stops.
    pub async fn watch(
        &self,
        id: OperationId,
    ) -> Result<impl Stream<Item = Result<Entry, Refusal>> + Send + use<J, P>, Refusal> {
        self.entry(id).await?;
        let Conclude { journal, .. } = &self.conclude;
        let changes = follow(journal.clone(), id, self.stopping.clone(), |entry| {
            (entry.state.as_str(), entry.attempt, entry.history.last().cloned())
        });
        Ok(changes.map(|entry| entry.map_err(Refusal::Journal)?.ok_or(Refusal::Unknown)))
    }

    /// From then on no attempt of the entry can take effect or show.
    pub fn quiet_at(&self, entry: &Entry) -> Timestamp {
        entry.fence_at + self.settles
    }

    async fn entry(&self, id: OperationId) -> Result<Entry, Refusal> {
        self.conclude.journal.get(id).await.map_err(Refusal::Journal)?.ok_or(Refusal::Unknown)
    }

    async fn in_review(&self, id: OperationId) -> Result<Entry, Refusal> {
        let entry = self.entry(id).await?;
        match entry.state {
            State::Review { .. } => Ok(entry),
            _ => Err(Refusal::NotInReview(Box::new(entry))),
        }
    }

    async fn held_against_the_psp(&self, entry: Entry) -> Evidence {
        let read_at = self.conclude.clock.now();
        let read = match entry.reading.not_before {
            // The PSP asked to be left alone, whoever waits.
            Some(at) if at > read_at => {
                let retry_after = at.since(read_at);
                Err(ReadError::NotSent(NotSent::RateLimited { retry_after }))
            }
            _ => self.conclude.psp.read(&entry.operation.transaction).await,
        };
        let tag = entry.tag();
        let seen = read.map(|transaction| Seen::of(&sought(&entry, &tag), transaction));
        Evidence { read_at, quiet_at: self.quiet_at(&entry), seen, entry }
    }

    async fn write(&self, entry: Entry, event: &Event) -> Result<Entry, Refusal> {
        let Conclude { journal, clock, schedule, .. } = &self.conclude;
        journal::advance(journal, entry, event, clock.now(), schedule).await.map_err(Refusal::Journal)
    }
}

/// The proposal, if it is the one that waits and this person may confirm it.
fn confirmable(entry: &Entry, id: Uuid, by: &CallerName) -> Result<Proposal, Refusal> {
    let waiting = entry.proposal.as_ref().filter(|proposal| proposal.id == id);
    let proposal = waiting.ok_or(Refusal::ProposalMismatch(entry.id))?;
    if proposal.by == *by {
        return Err(Refusal::SecondPersonRequired(entry.id));
    }
    Ok(proposal.clone())
}

/// What a decision makes of the operation: with what the PSP shows, where it
/// could be read.
fn outcome(decision: Decision, evidence: &Evidence) -> Resolved {
    match decision {
        Decision::Succeeded => Resolved::Succeeded(evidence::proof(evidence.seen.as_ref().ok())),
        Decision::Declined => Resolved::Declined(Box::new(evidence::decline(evidence.seen.as_ref().ok()))),
        Decision::Released => Resolved::Released,
    }
}
