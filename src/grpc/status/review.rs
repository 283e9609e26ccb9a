//! What reviewers are refused, and those who are none.

use super::{Code, Duration, Status, Told, journal, unknown};
use crate::grpc::render;
use crate::review::Refusal;

/// Somebody who is known and may not.
pub fn no_reviewer(path: &str, trace_id: Option<&str>) -> Status {
    let service = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let message = format!(
        "this caller may not call {service}: whoever is to review needs review = true in the callers file"
    );
    Told::new(Code::PermissionDenied, "RPC_NOT_ALLOWED", message)
        .with("permission", "review")
        .into_status(trace_id.unwrap_or_default())
}

/// A reviewer's call that led to nothing.
pub fn review(refusal: &Refusal, trace_id: &str) -> Status {
    let told = match refusal {
        Refusal::Unknown => unknown("there is no operation of this id"),
        Refusal::NotInReview(entry) => {
            let state = render::state_word(&entry.state);
            let message = format!("the operation is {state}: only what is IN_REVIEW is decided by persons");
            let mut told = Told::new(Code::FailedPrecondition, "OPERATION_NOT_IN_REVIEW", message.clone());
            told.details.add_precondition_failure_violation("OPERATION_NOT_IN_REVIEW", "operation", message);
            told.about(entry)
        }
        Refusal::ProposalMismatch(id) => {
            let message = "this proposal does not wait for a second person: another one replaced it, or it ended; \
                           look at the operation again before you confirm";
            let mut told = Told::new(Code::FailedPrecondition, "PROPOSAL_MISMATCH", message);
            told.details.add_precondition_failure_violation("PROPOSAL_MISMATCH", "proposal", message);
            told.of(Some(*id))
        }
        Refusal::SecondPersonRequired(id) => {
            let message = "you proposed this yourself: a second person has to confirm it";
            Told::new(Code::PermissionDenied, "SECOND_PERSON_REQUIRED", message).of(Some(*id))
        }
        Refusal::EvidenceContradicts { id, decision, why } => {
            let message = format!(
                "{why}: that contradicts {}; nothing was decided. If both of you know better, confirm again with \
                 override_evidence",
                decision.as_str().to_uppercase()
            );
            let mut told = Told::new(Code::FailedPrecondition, "EVIDENCE_CONTRADICTS", message.clone());
            told.details.add_precondition_failure_violation("EVIDENCE_CONTRADICTS", "evidence", message);
            told.of(Some(*id)).with("decision", decision.as_str().to_uppercase())
        }
        Refusal::Journal(journal::Error::Unconfirmed(_)) => Told::new(
            Code::Unavailable,
            "JOURNAL_UNAVAILABLE",
            "the journal did not confirm the record; look at the operation before you repeat this",
        )
        .retry(Duration::from_secs(1)),
        Refusal::Journal(error) => super::journal(error),
    };
    told.into_status(trace_id)
}
