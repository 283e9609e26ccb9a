//! The one place that picks codes. Every error that a caller can see is made
//! here, with the details of the contract: `ErrorInfo`, `BadRequest`,
//! `PreconditionFailure`, `RetryInfo`, `RequestInfo`.

mod credentials;
mod policy;
mod refusal;
mod review;

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::failure::Failure;
use crate::grpc::pb;
use crate::grpc::render;
use crate::grpc::violations::{Refused, Violations};
use crate::idempotency::Answered;
use crate::journal::{self, entry::Entry, entry::State};
use crate::payment::{
    id::{CallerName, OperationId},
    outcome::{Decline, Reason},
};
use crate::psp::NotSent;

pub use self::credentials::{Credentials, unauthenticated};
pub use self::policy::{denied, throttled};
use self::policy::{told_beyond, told_denied};
pub use self::refusal::{reason, refusal, rpc_of};
pub use self::review::{no_reviewer, review};

const DOMAIN: &str = "payops.v1";

/// Most fields that a message names; the details list more.
const NAMED_MAX: usize = 10;

/// One error in the making.
struct Told {
    code: Code,
    reason: &'static str,
    message: String,
    metadata: HashMap<String, String>,
    details: ErrorDetails,
    retry_after: Option<Duration>,
    operation: Option<OperationId>,
}

impl Told {
    fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            metadata: HashMap::new(),
            details: ErrorDetails::new(),
            retry_after: None,
            operation: None,
        }
    }

    fn with(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    fn retry(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The operation that the error is about, of this caller.
    fn about(self, entry: &Entry) -> Self {
        self.of(Some(entry.id)).with("state", render::state_word(&entry.state))
    }

    /// The operation of the key, where there is one.
    fn of(mut self, operation: Option<OperationId>) -> Self {
        self.operation = operation;
        match operation {
            Some(id) => self.with("operation_id", id),
            None => self,
        }
    }

    fn safe_to_use_new_key(self, safe: bool) -> Self {
        self.with("safe_to_use_new_key", safe)
    }

    fn into_status(self, trace_id: &str) -> Status {
        let Self { code, reason, message, metadata, mut details, retry_after, operation } = self;
        details.set_error_info(reason, DOMAIN, metadata);
        if let Some(after) = retry_after {
            details.set_retry_info(Some(after));
        }
        if !trace_id.is_empty() {
            details.set_request_info(trace_id, "");
        }
        let mut metadata = MetadataMap::new();
        // Negative: do not retry. The same as RetryInfo otherwise.
        let pushback = retry_after.map_or(-1, |after| i64::try_from(after.as_millis()).unwrap_or(i64::MAX));
        put(&mut metadata, "grpc-retry-pushback-ms", &pushback.to_string());
        if let Some(id) = operation {
            put(&mut metadata, "operation-id", &id.to_string());
        }
        Status::with_error_details_and_metadata(code, message, details, metadata)
    }
}

/// Marks an answer with its operation, and whether it is a repeat.
pub fn mark(metadata: &mut MetadataMap, answered: &Answered) {
    put(metadata, "operation-id", &answered.entry.id.to_string());
    put(metadata, "idempotency-replayed", if answered.replayed { "true" } else { "false" });
}

/// The answer to a money RPC: OK only for what is proven or accepted.
pub fn outcome(answered: &Answered, trace_id: &str) -> Result<pb::Operation, Status> {
    let entry = &answered.entry;
    let told = match &entry.state {
        State::Succeeded(_) | State::Accepted => return Ok(render::operation(entry)),
        State::Declined(decline) => declined(decline).about(entry).safe_to_use_new_key(true),
        State::Started | State::Resent => in_progress(Some(entry)),
        State::InDoubt { why, .. } => {
            let message = format!("the outcome is not known yet ({why}); retry with the same key only");
            Told::new(Code::Aborted, "OUTCOME_UNKNOWN", message)
                .about(entry)
                .retry(Duration::from_secs(2))
                .safe_to_use_new_key(false)
        }
        State::Review { why } => {
            let message = format!("a person has to decide ({why}); do not use a new key");
            Told::new(Code::Aborted, "IN_REVIEW", message)
                .about(entry)
                .retry(Duration::from_mins(5))
                .safe_to_use_new_key(false)
        }
        State::Released { why } => {
            // The attempt is over and nothing was or can be done: run again.
            let message = format!("nothing was done ({why}); retry with the same key");
            Told::new(Code::Unavailable, "PSP_UNREACHABLE", message)
                .about(entry)
                .retry(Duration::from_secs(1))
                .safe_to_use_new_key(true)
        }
    };
    let mut status = told.into_status(trace_id);
    mark(status.metadata_mut(), answered);
    Err(status)
}

/// A money RPC that has no operation to show for an answer, as `asker` may
/// know it: of others' operations that they are there, and no more.
pub fn money(failure: &Failure, asker: Option<&CallerName>, trace_id: &str) -> Status {
    // Whether another key is safe is a question to the journal. Where it was
    // not asked, an earlier call with this key may have moved money: not safe.
    let told = match failure {
        Failure::KeyReused(operation) => Told::new(
            Code::AlreadyExists,
            "IDEMPOTENCY_KEY_REUSED",
            "the idempotency key belongs to a command with another meaning; one intention, one key",
        )
        .of(*operation)
        .safe_to_use_new_key(false),
        Failure::Busy(other) => busy(other, asker).retry(Duration::from_secs(2)).safe_to_use_new_key(true),
        Failure::Refused(decline, operation) => declined(decline).of(*operation).safe_to_use_new_key(true),
        Failure::NotSent(why, operation) => not_sent(why).of(*operation).safe_to_use_new_key(true),
        // Its key has been looked up, or its transaction: nothing of it has begun.
        Failure::Denied(denied, operation) => told_denied(denied).of(*operation).safe_to_use_new_key(true),
        Failure::Beyond(beyond, operation) => told_beyond(beyond).of(*operation).safe_to_use_new_key(true),
        Failure::InProgress(entry) => in_progress(entry.as_deref()),
        Failure::Journal(error) => journal(error).safe_to_use_new_key(false),
        Failure::Unrecorded(entry) => Told::new(
            Code::Aborted,
            "OUTCOME_UNKNOWN",
            "the result could not be recorded; retry with the same key only",
        )
        .about(entry)
        .retry(Duration::from_secs(2))
        .safe_to_use_new_key(false),
        Failure::JournalLost { retry_after } => Told::new(
            Code::Unavailable,
            "JOURNAL_UNAVAILABLE",
            "the journal was lost, and what was sent before may still take effect; retry with the same key. \
             A UUIDv7 key minted after the loss need not wait",
        )
        .retry(*retry_after)
        .safe_to_use_new_key(false),
        Failure::KeyExpired(state) => key_expired(state.as_deref()).safe_to_use_new_key(false),
        Failure::Draining => draining().safe_to_use_new_key(false),
        Failure::UnknownOperation | Failure::DeadlineExceeded | Failure::Internal => {
            internal().safe_to_use_new_key(false)
        }
    };
    told.into_status(trace_id)
}

fn busy(open: &Entry, asker: Option<&CallerName>) -> Told {
    let told = |message: &str| Told::new(Code::Aborted, "TRANSACTION_BUSY", message);
    if asker != Some(&open.caller) {
        return told("another caller's operation is open on the transaction; retry when it is settled");
    }
    let (kind, id) = (open.operation.kind(), open.id);
    told(&format!("{kind} {id} is open on the transaction; retry when it is settled"))
        .with("open_operation_id", id)
        .with("open_operation_state", render::state_word(&open.state))
}

fn key_expired(state: Option<&str>) -> Told {
    let message = "the idempotency key is older than what is kept: it may have moved money and is not run again; \
                   look at the transaction before you choose a new key";
    let told = Told::new(Code::FailedPrecondition, "IDEMPOTENCY_KEY_EXPIRED", message);
    match state {
        Some(state) => told.with("state", state.to_uppercase()),
        None => told,
    }
}

/// An RPC that only looks.
pub fn read(failure: &Failure, trace_id: &str) -> Status {
    let told = match failure {
        Failure::UnknownOperation => {
            unknown("this caller has no such operation; a call that was refused before sending leaves none")
        }
        Failure::DeadlineExceeded => {
            Told::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "the deadline passed during the read")
        }
        Failure::Refused(decline, _) => declined(decline),
        Failure::NotSent(why, _) => not_sent(why),
        Failure::Journal(error) => journal(error),
        Failure::Draining => draining(),
        Failure::Denied(denied, _) => told_denied(denied),
        Failure::Beyond(beyond, _) => told_beyond(beyond),
        Failure::KeyReused(_)
        | Failure::Busy(_)
        | Failure::InProgress(_)
        | Failure::JournalLost { .. }
        | Failure::KeyExpired(_)
        | Failure::Unrecorded(_)
        | Failure::Internal => internal(),
    };
    told.into_status(trace_id)
}

/// A request that cannot become a command: every violation at once.
pub fn invalid(refused: Refused, trace_id: &str, money: bool) -> Status {
    told_invalid(Code::InvalidArgument, refused, money).into_status(trace_id)
}

/// A message that the gRPC library itself could not take.
pub fn unreadable(why: &str, trace_id: &str, money: bool) -> Status {
    let why = why.chars().take(200).collect::<String>();
    let mut wrong = Violations::default();
    wrong.add("message", format!("cannot be read: {why}"));
    invalid(wrong.into(), trace_id, money)
}

/// A message in an encoding that is not taken here. The code is gRPC's own.
pub fn encoding(trace_id: &str, money: bool) -> Status {
    let mut wrong = Violations::default();
    wrong.add("metadata.grpc-encoding", "must be absent or identity: messages are not compressed here");
    told_invalid(Code::Unimplemented, wrong.into(), money).into_status(trace_id)
}

fn told_invalid(code: Code, refused: Refused, money: bool) -> Told {
    let Refused { reason, violations, unlisted } = refused;
    let message = match violations.as_slice() {
        [only] if unlisted == 0 => format!("{} {}", only.field, only.description),
        several => {
            let named = several.iter().take(NAMED_MAX).map(|violation| violation.field.as_str());
            let named = named.collect::<Vec<&str>>();
            let all = several.len() + unlisted;
            let told = format!("{all} things are wrong: {}", named.join(", "));
            match all - named.len() {
                0 => told,
                more => format!("{told} and {more} more"),
            }
        }
    };
    let mut told = Told::new(code, reason, message);
    if money {
        // The journal was not asked: the key may belong to a command that has
        // run, and this be its retry with a mistake.
        told = told.safe_to_use_new_key(false);
    }
    told.details.set_bad_request(violations);
    told
}

fn declined(decline: &Decline) -> Told {
    let code = match decline.reason {
        Reason::TransactionNotFound => Code::NotFound,
        _ => Code::FailedPrecondition,
    };
    let message = brief(&decline.message, 300);
    let mut told = Told::new(code, decline.reason.as_str(), message.clone());
    if let Some(status) = &decline.transaction_status {
        told = told.with("transaction_status", status);
    }
    if let Some(sums) = &decline.sums {
        told = told
            .with("capturable", sums.capturable)
            .with("refundable", sums.refundable)
            .with("captured", sums.captured)
            .with("refunded", sums.refunded);
    }
    let psp = &decline.psp;
    let texts = [
        ("psp_http_status", psp.http_status.map(|status| status.to_string())),
        ("psp_code", psp.code.clone()),
        ("psp_message", psp.message.clone()),
        ("psp_result_code", psp.result_code.clone()),
        ("psp_type", Some(psp.types.join(",")).filter(|types| !types.is_empty())),
        ("psp_retry_codes", Some(psp.retry_codes.join(",")).filter(|codes| !codes.is_empty())),
        ("psp_retry_after", psp.retry_after.clone()),
    ];
    for (key, value) in texts {
        if let Some(value) = value {
            told = told.with(key, brief(&value, 150));
        }
    }
    if code == Code::FailedPrecondition {
        told.details.add_precondition_failure_violation(decline.reason.as_str(), "transaction", message);
    }
    told
}

fn not_sent(error: &NotSent) -> Told {
    match error {
        NotSent::Unreachable(why) => {
            let message = format!("the PSP cannot be reached, nothing was sent: {why}");
            Told::new(Code::Unavailable, "PSP_UNREACHABLE", message).retry(Duration::from_secs(1))
        }
        NotSent::RateLimited { retry_after } => Told::new(
            Code::Unavailable,
            "PSP_RATE_LIMITED",
            format!("the PSP asks to wait {} s, nothing was sent", retry_after.as_secs()),
        )
        .retry((*retry_after).max(Duration::from_millis(500))),
        NotSent::CircuitOpen { retry_after } => Told::new(
            Code::Unavailable,
            "PSP_CIRCUIT_OPEN",
            "most requests to the PSP fail at present, nothing was sent",
        )
        .retry((*retry_after).max(Duration::from_millis(500))),
        NotSent::CredentialsRejected(_) => Told::new(
            Code::Internal,
            "PSP_CREDENTIALS_REJECTED",
            "the PSP refuses the credentials of this boundary, nothing was sent; its operators have to mend them",
        ),
        NotSent::Overloaded => {
            Told::new(Code::ResourceExhausted, "OVERLOADED", "too much is under way, nothing was sent")
                .retry(Duration::from_millis(500))
        }
        NotSent::WindowMissed => Told::new(
            Code::Unavailable,
            "PSP_UNREACHABLE",
            "the boundary was too slow to send safely, nothing was sent",
        )
        .retry(Duration::from_secs(1)),
        NotSent::UnknownAccount => internal(),
    }
}

fn in_progress(entry: Option<&Entry>) -> Told {
    let told = |message| Told::new(Code::Aborted, "OPERATION_IN_PROGRESS", message);
    let told = match entry {
        Some(entry) => {
            told("the operation is under way and goes on; retry with the same key only, or watch it")
                .about(entry)
        }
        None => {
            told("the operation may be under way; retry with the same key only, or ask for it by its key")
        }
    };
    told.retry(Duration::from_secs(1)).safe_to_use_new_key(false)
}

fn journal(error: &journal::Error) -> Told {
    match error {
        journal::Error::Unavailable(_) => Told::new(
            Code::Unavailable,
            "JOURNAL_UNAVAILABLE",
            "the journal cannot be used; this call sent nothing",
        )
        .retry(Duration::from_secs(1)),
        // This call may have left a record, and nothing else.
        journal::Error::Unconfirmed(_) => Told::new(
            Code::Unavailable,
            "JOURNAL_UNAVAILABLE",
            "the journal did not confirm the record; this call sent nothing",
        )
        .retry(Duration::from_secs(1)),
        journal::Error::Corrupt(_) | journal::Error::Illegal(_) => internal(),
    }
}

fn unknown(message: &str) -> Told {
    Told::new(Code::NotFound, "OPERATION_NOT_FOUND", message)
}

fn draining() -> Told {
    Told::new(Code::Unavailable, "DRAINING", "the boundary is stopping; this call sent nothing")
        .retry(Duration::from_millis(200))
}

fn internal() -> Told {
    Told::new(
        Code::Internal,
        "INTERNAL",
        "a defect of the boundary; its operators can find it by the trace id",
    )
}

/// Words of the PSP, cut: an error travels in headers, of which common clients
/// take 8 KiB. The operation itself shows the whole.
fn brief(text: &str, characters_max: usize) -> String {
    match text.char_indices().nth(characters_max) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn put(metadata: &mut MetadataMap, name: &'static str, value: &str) {
    if let Ok(value) = value.parse() {
        metadata.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payment::outcome::PspError;

    /// What the PSP says must not make an answer that common clients cannot take (8 KiB of headers).
    #[test]
    fn a_decline_fits_into_the_headers_that_clients_take() {
        let said = "å".repeat(500);
        let decline = Decline {
            reason: Reason::Declined,
            message: format!("the PSP refused with HTTP 400: {said}"),
            psp: PspError {
                http_status: Some(400),
                message: Some(said),
                code: Some("invalid_items".into()),
                ..PspError::default()
            },
            transaction_status: Some("AUTHORIZED".into()),
            sums: None,
        };
        let size = |failure: Failure| {
            let answer: http::Response<tonic::body::Body> =
                money(&failure, None, &"0".repeat(32)).into_http();
            answer.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum::<usize>()
        };
        let plain = size(Failure::Refused(Box::new(decline.clone()), None));
        let mut worst = decline;
        worst.psp.types = vec!["T".repeat(500); 16];
        worst.psp.retry_codes = vec!["R".repeat(500); 16];
        let worst = size(Failure::Refused(Box::new(worst), None));
        assert!(plain <= 8192 && worst <= 8192, "500 letters: {plain} bytes; with types: {worst} bytes");
    }
}
