//! Both sides of an operation, as messages of the contract.

use super::{event, operation, status, sums, time};
use crate::clock::Timestamp;
use crate::grpc::pb;
use crate::journal::entry::{Change, Decision, Entry, Finding, Proposal};
use crate::payment::{Kind, id::Tag};
use crate::psp::{
    judge::{Mark, Verdict},
    transaction::Event,
};
use crate::review::{Evidence, evidence::Seen};

/// Our side, without its history.
pub fn listed(entry: &Entry, quiet_at: Timestamp) -> pb::OperationRecord {
    let reading = &entry.reading;
    let streak = reading.streak;
    pb::OperationRecord {
        operation: Some(operation(entry)),
        caller: entry.caller.to_string(),
        idempotency_key: entry.key.as_str().to_owned(),
        tag: entry.tag().to_string(),
        accepted_request_id: entry.accepted_request_id.clone().unwrap_or_default(),
        resends: number(entry.resends),
        lease_expire_time: Some(time(entry.lease_until)),
        fence_time: Some(time(entry.fence_at)),
        quiet_time: Some(time(quiet_at)),
        read_back: Some(pb::ReadBack {
            reads: number(reading.made),
            next_read_time: reading.next_at.map(time),
            finding: streak.map(|streak| finding(streak.finding).to_owned()).unwrap_or_default(),
            equal_reads: streak.map_or(0, |streak| number(streak.count)),
            equal_since_time: streak.map(|streak| time(streak.since)),
        }),
        proposal: entry.proposal.as_ref().map(proposal),
        history: Vec::new(),
    }
}

/// Our side.
pub fn record(entry: &Entry, quiet_at: Timestamp) -> pb::OperationRecord {
    let history = entry.history.iter().map(change).collect();
    pb::OperationRecord { history, ..listed(entry, quiet_at) }
}

/// Both sides.
pub fn evidence(evidence: &Evidence) -> pb::GetOperationEvidenceResponse {
    let Evidence { entry, read_at, quiet_at, seen } = evidence;
    let record = Some(record(entry, *quiet_at));
    match seen {
        Ok(seen) => pb::GetOperationEvidenceResponse {
            record,
            psp: Some(psp(entry, *read_at, seen)),
            psp_unread_reason: String::new(),
            verdict: verdict(&seen.verdict).into(),
            verdict_reason: why(seen, read_at > quiet_at),
        },
        Err(error) => pb::GetOperationEvidenceResponse {
            record,
            psp: None,
            psp_unread_reason: chain(error),
            verdict: pb::EvidenceVerdict::Unspecified.into(),
            verdict_reason: "the PSP could not be read, which proves nothing".to_owned(),
        },
    }
}

fn psp(entry: &Entry, read_at: Timestamp, seen: &Seen) -> pb::PspEvidence {
    let on = &seen.transaction;
    let tag = entry.tag();
    let kind = entry.operation.kind();
    let events = on.events.iter().zip(&seen.marks).map(|(shown, mark)| pb::EvidenceEvent {
        event: Some(event(shown)),
        ours: mark.is_some(),
        mark: match mark {
            None => pb::EvidenceMark::Unspecified,
            Some(Mark::Tag) => pb::EvidenceMark::Tag,
            Some(Mark::RequestId) => pb::EvidenceMark::RequestId,
        }
        .into(),
        why: whose(kind, shown, *mark, &tag),
        undecided: shown.success.is_none(),
        of_earlier_attempt: shown.id.as_ref().is_some_and(|id| entry.ignored_events.contains(id)),
        request_id: shown.request_id.clone().unwrap_or_default(),
        correlation_request_id: shown.correlation_request_id.clone().unwrap_or_default(),
    });
    pb::PspEvidence {
        read_time: Some(time(read_at)),
        status: status(&on.status).into(),
        status_raw: on.status.clone(),
        currency_code: on.currency.clone(),
        payment_product_type: on.product_type.clone(),
        merchant_reference: on.merchant_reference.clone().unwrap_or_default(),
        sums: Some(sums(&on.sums())),
        moved: seen.moved,
        events: events.collect(),
    }
}

fn whose(kind: Kind, event: &Event, mark: Option<Mark>, tag: &Tag) -> String {
    match (mark, kind) {
        (Some(Mark::Tag), Kind::Void) => format!("its user agent carries the tag {tag}"),
        (Some(Mark::Tag), _) => format!("its reference ends in the tag {tag}"),
        (Some(Mark::RequestId), _) => "it names the PSP's id of the accepted request".to_owned(),
        (None, _) if event.name.trim_start_matches("INITIATE_") != kind.as_str().to_uppercase() => {
            format!("it is no {kind}")
        }
        (None, Kind::Void) => "its user agent does not carry the tag".to_owned(),
        (None, _) => "its reference does not end in the tag".to_owned(),
    }
}

fn verdict(verdict: &Verdict) -> pb::EvidenceVerdict {
    match verdict {
        Verdict::Proven(_) => pb::EvidenceVerdict::Proven,
        Verdict::Accepted { .. } => pb::EvidenceVerdict::Begun,
        Verdict::Declined(_) => pb::EvidenceVerdict::Declined,
        Verdict::FailedUnclearly { .. } => pb::EvidenceVerdict::FailedUnclearly,
        Verdict::Absent { .. } => pb::EvidenceVerdict::Absent,
        Verdict::Contradicted(_) => pb::EvidenceVerdict::Contradicted,
    }
}

fn why(seen: &Seen, quiet: bool) -> String {
    match &seen.verdict {
        Verdict::Proven(proof) if proof.amount > 0 => {
            format!("its own events moved {} minor units, as asked for", proof.amount)
        }
        Verdict::Proven(_) => "the authorization is released, as asked for".to_owned(),
        Verdict::Accepted { partly: true, .. } => {
            format!("its own events moved {} minor units, a part of what was asked for", seen.moved)
        }
        Verdict::Accepted { .. } => "the PSP has begun it and not finished it".to_owned(),
        Verdict::Declined(decline) => decline.message.clone(),
        Verdict::FailedUnclearly { error, .. } => format!(
            "the PSP recorded a failure that does not exclude an effect: {}",
            error.message.as_deref().unwrap_or("no message")
        ),
        Verdict::Absent { undetermined: true } => {
            "no event is its own, and the PSP does not know how the transaction stands".to_owned()
        }
        Verdict::Absent { .. } if quiet => {
            "no event is its own, and no attempt can take effect or show any more".to_owned()
        }
        Verdict::Absent { .. } => "no event is its own, which proves nothing yet".to_owned(),
        Verdict::Contradicted(why) => why.clone(),
    }
}

fn proposal(proposal: &Proposal) -> pb::OperationProposal {
    pb::OperationProposal {
        proposal_id: proposal.id.to_string(),
        decision: match proposal.decision {
            Decision::Succeeded => pb::OperationDecision::Succeeded,
            Decision::Declined => pb::OperationDecision::Declined,
            Decision::Released => pb::OperationDecision::Released,
        }
        .into(),
        reason: proposal.reason.clone(),
        proposed_by: proposal.by.to_string(),
        propose_time: Some(time(proposal.at)),
    }
}

fn change(change: &Change) -> pb::OperationChange {
    pb::OperationChange {
        change_time: Some(time(change.at)),
        attempt: number(change.attempt),
        state: state(&change.state).into(),
        note: change.why.clone().unwrap_or_default(),
        changed_by: change.by.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

/// The contract's state for the journal's word.
fn state(word: &str) -> pb::OperationState {
    match word {
        "started" | "resent" => pb::OperationState::Started,
        "accepted" => pb::OperationState::Pending,
        "in_doubt" => pb::OperationState::InDoubt,
        "released" => pb::OperationState::Released,
        "succeeded" => pb::OperationState::Succeeded,
        "declined" => pb::OperationState::Declined,
        "review" => pb::OperationState::InReview,
        _ => pb::OperationState::Unspecified,
    }
}

fn finding(finding: Finding) -> &'static str {
    match finding {
        Finding::Absent => "nothing of it is to be seen, and a request could still arrive",
        Finding::AbsentForGood => "nothing of it is to be seen, and no request can arrive any more",
        Finding::Pending => "begun, not finished",
        Finding::Partly => "part of the amount has moved",
        Finding::FailedUnclearly => "failed in a way that does not exclude an effect",
        Finding::Nothing => "the PSP's answer could not be used",
        Finding::NotRead => "the PSP was not reached",
        Finding::Contradiction => "not proven: the review goes on",
    }
}

fn number(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// An error with all that caused it: each layer says only its own.
fn chain(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        told = format!("{told}: {cause}");
        source = cause.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::entry::State;

    #[test]
    fn every_word_of_the_journal_has_a_state() {
        let proof = crate::review::evidence::proof(None);
        let why = String::new;
        let states = [
            State::Started,
            State::Resent,
            State::Accepted,
            State::InDoubt { why: why(), pushback: false },
            State::Released { why: why() },
            State::Succeeded(proof),
            State::Declined(Box::new(crate::review::evidence::decline(None))),
            State::Review { why: why() },
        ];
        for of in states {
            assert_eq!(state(of.as_str()), super::super::state(&of), "{}", of.as_str());
        }
    }
}
