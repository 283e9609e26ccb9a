//! What reviewers ask for.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{optional, required, text};
use crate::clock::Timestamp;
use crate::grpc::pb;
use crate::grpc::violations::{Refused, Violations};
use crate::journal::{Filter, entry::Decision};
use crate::payment::{
    Caller,
    id::{CallerName, OperationId},
};
use crate::review::Step;

/// Operations of a page that does not say.
const PAGE_DEFAULT: usize = 50;
/// Most operations of a page, whatever it says.
const PAGE_MAX: usize = 200;
/// Longest reason, in characters.
const REASON_MAX: usize = 500;
/// What a filter leaves in a page token.
const FILTER_BYTES: usize = 8;

/// Which page of which operations.
#[derive(Debug)]
pub struct Listing {
    /// Which.
    pub filter: Filter,
    /// From below this one on.
    pub before: Option<OperationId>,
    /// Most of one page.
    pub most: usize,
    mark: [u8; FILTER_BYTES],
}

/// What a person does about a review.
#[derive(Debug)]
pub enum Resolve {
    /// Proposes.
    Propose(Step, Decision),
    /// Confirms this proposal, perhaps although the evidence contradicts it.
    Confirm(Step, Uuid, bool),
}

impl Listing {
    /// The token of the page that begins below `next`.
    pub fn token(&self, next: OperationId) -> String {
        URL_SAFE_NO_PAD.encode([next.as_bytes().as_slice(), &self.mark].concat())
    }
}

/// `ListOperationsRequest`.
pub fn list(request: &pb::ListOperationsRequest) -> Result<Listing, Refused> {
    let mut wrong = Violations::default();
    let mark = mark(request);
    let most = match usize::try_from(request.page_size) {
        Ok(0) => PAGE_DEFAULT,
        Ok(size) => size.min(PAGE_MAX),
        Err(_) => {
            wrong.add("page_size", "must not be negative; 0 is 50, and more than 200 is 200");
            PAGE_DEFAULT
        }
    };
    let states = request.states.iter().enumerate().flat_map(|(index, state)| {
        let words = words(*state);
        if words.is_empty() {
            wrong.add(format!("states[{index}]"), "must be a state that is recorded, such as IN_REVIEW");
        }
        words
    });
    let states = states.copied().collect();
    let filter = Filter {
        states,
        account: optional(&request.account_id, "account_id", &mut wrong),
        transaction: optional(&request.transaction_id, "transaction_id", &mut wrong),
        caller: optional::<CallerName>(&request.caller, "caller", &mut wrong),
        from: time(request.create_time_from, "create_time_from", &mut wrong),
        until: time(request.create_time_until, "create_time_until", &mut wrong),
    };
    if let (Some(from), Some(until)) = (filter.from, filter.until)
        && from >= until
    {
        wrong.add("create_time_until", "must be after create_time_from");
    }
    let before = before(&request.page_token, mark, &mut wrong);
    wrong.unless(Some(Listing { filter, before, most, mark }))
}

/// The id of an operation, whoever's it is.
pub fn operation_id(id: &str) -> Result<OperationId, Refused> {
    let mut wrong = Violations::default();
    let id = required(id, "operation_id", &mut wrong);
    wrong.unless(id)
}

/// `ResolveOperationRequest`.
pub fn resolve(request: pb::ResolveOperationRequest, caller: &Caller) -> Result<Resolve, Refused> {
    use pb::resolve_operation_request::Step as Wire;
    let mut wrong = Violations::default();
    let id = required::<OperationId>(&request.operation_id, "operation_id", &mut wrong);
    if request.reason.trim().is_empty() {
        wrong.add("reason", "is required: say in 1 to 500 characters why, for those who will ask");
    }
    let reason = text(request.reason, "reason", REASON_MAX, &mut wrong).unwrap_or_default();
    let by = caller.name.clone();
    let step = id.map(|id| Step { id, by, reason, trace_id: None });
    let resolve = match request.step {
        Some(Wire::Decision(decision)) => {
            let decision = self::decision(decision);
            if decision.is_none() {
                wrong.add("decision", "must be SUCCEEDED, DECLINED or RELEASED");
            }
            if request.override_evidence {
                wrong.add("override_evidence", "belongs to the confirmation: leave it out of a proposal");
            }
            step.zip(decision).map(|(step, decision)| Resolve::Propose(step, decision))
        }
        Some(Wire::ProposalId(id)) => {
            let proposal = Uuid::try_parse(&id).ok();
            if proposal.is_none() {
                wrong.add("proposal_id", "must be the id of a proposal, as the operation shows it");
            }
            let although = request.override_evidence;
            step.zip(proposal).map(|(step, proposal)| Resolve::Confirm(step, proposal, although))
        }
        None => {
            wrong.add("step", "is required: give decision to propose, or proposal_id to confirm");
            None
        }
    };
    wrong.unless(resolve)
}

fn decision(wire: i32) -> Option<Decision> {
    match pb::OperationDecision::try_from(wire).ok()? {
        pb::OperationDecision::Unspecified => None,
        pb::OperationDecision::Succeeded => Some(Decision::Succeeded),
        pb::OperationDecision::Declined => Some(Decision::Declined),
        pb::OperationDecision::Released => Some(Decision::Released),
    }
}

/// The journal's words for a state of the contract; none for one that is never
/// recorded.
fn words(wire: i32) -> &'static [&'static str] {
    match pb::OperationState::try_from(wire) {
        Ok(pb::OperationState::Started) => &["started", "resent"],
        Ok(pb::OperationState::Pending) => &["accepted"],
        Ok(pb::OperationState::InDoubt) => &["in_doubt"],
        Ok(pb::OperationState::Released) => &["released"],
        Ok(pb::OperationState::Succeeded) => &["succeeded"],
        Ok(pb::OperationState::Declined) => &["declined"],
        Ok(pb::OperationState::InReview) => &["review"],
        Ok(pb::OperationState::Unspecified | pb::OperationState::Validated) | Err(_) => &[],
    }
}

/// The first millisecond that is not before the time: what is recorded has no
/// finer times.
fn time(wire: Option<prost_types::Timestamp>, field: &str, wrong: &mut Violations) -> Option<Timestamp> {
    // 0001-01-01 to 9999-12-31, as timestamp.proto has it.
    const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    let prost_types::Timestamp { seconds, nanos } = wire?;
    if !SECONDS.contains(&seconds) || !(0..1_000_000_000).contains(&nanos) {
        wrong.add(field, "must be a valid timestamp of the years 1 to 9999");
        return None;
    }
    let millis = i64::from(nanos).saturating_add(999_999) / 1_000_000;
    Some(Timestamp(seconds.saturating_mul(1000).saturating_add(millis)))
}

/// Where the page begins, if its token was given for this filter.
fn before(token: &str, mark: [u8; FILTER_BYTES], wrong: &mut Violations) -> Option<OperationId> {
    if token.is_empty() {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).unwrap_or_default();
    let begins = bytes.split_first_chunk::<16>().map(|(id, rest)| (Uuid::from_bytes(*id), rest));
    match begins {
        Some((id, rest)) if rest == mark => id.to_string().parse().ok(),
        Some((_, rest)) if rest.len() == FILTER_BYTES => {
            wrong.add(
                "page_token",
                "was given for another filter: keep every other field, or begin anew without it",
            );
            None
        }
        _ => {
            wrong.add("page_token", "must be the next_page_token of an answer, or empty");
            None
        }
    }
}

/// What makes two listings the same but for their pages.
fn mark(request: &pb::ListOperationsRequest) -> [u8; FILTER_BYTES] {
    let mut filter = pb::ListOperationsRequest { page_size: 0, page_token: String::new(), ..request.clone() };
    filter.states.sort_unstable();
    filter.states.dedup();
    let hash = Sha256::digest(filter.encode_to_vec());
    std::array::from_fn(|index| hash.get(index).copied().unwrap_or_default())
}
