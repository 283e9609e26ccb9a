//! One row, until its end is definite: the same key again and again, never a new one.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Response, Status, transport::Channel};
use tonic_types::StatusExt as _;

use crate::cli::batch::{
    pace::Pace,
    rows::{Call, Row},
};
use crate::cli::boundary::Authorization;
use crate::grpc::pb::{self, payment_operations_service_client::PaymentOperationsServiceClient};

/// How long one call may take; payops goes on without it.
const CALL_TIMEOUT: Duration = Duration::from_mins(1);
/// How long a call that is under way is waited for when the run stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// The pauses before a call is repeated, where the boundary asks for none.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// Proven by the PSP.
    Succeeded,
    /// Would be sent; nothing was.
    Valid,
    /// A definite no.
    Refused,
    /// Two persons have to decide.
    InReview,
    /// The PSP accepted it, and has not finished.
    Pending,
    /// It may have happened.
    Unknown,
    /// Nothing was asked.
    NotTried,
}

/// The end of a row, or how far it came.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) outcome: Outcome,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) operation_id: String,
    /// Calls.
    pub(super) calls: u32,
    /// It had happened before this run.
    pub(super) replayed: bool,
}

/// Who calls, and for how long.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) channel: Channel,
    pub(super) authorization: Authorization,
    pub(super) validate_only: bool,
    /// How long a row is asked for.
    pub(super) patience: Duration,
    /// No more calls are begun.
    pub(super) stop: CancellationToken,
}

/// What an answer means for the row.
#[derive(Clone, Copy)]
enum Next {
    End(Outcome),
    /// Ask again under the same key; what it is until then.
    Again(Outcome),
}

impl Outcome {
    /// The word of the result file.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "SUCCEEDED",
            Self::Valid => "VALID",
            Self::Refused => "REFUSED",
            Self::InReview => "IN_REVIEW",
            Self::Pending => "PENDING",
            Self::Unknown => "UNKNOWN",
            Self::NotTried => "NOT_TRIED",
        }
    }

    pub(super) fn is_definite(self) -> bool {
        matches!(self, Self::Succeeded | Self::Valid | Self::Refused)
    }
}

impl End {
    pub(super) fn not_tried(message: &str) -> Self {
        let (reason, operation_id) = (String::new(), String::new());
        Self {
            outcome: Outcome::NotTried,
            reason,
            message: message.to_owned(),
            operation_id,
            calls: 0,
            replayed: false,
        }
    }

    /// Takes down what was said; whether that is the end.
    fn note(&mut self, status: &Status, next: Next) -> bool {
        let details = status.get_error_details();
        let info = details.error_info();
        self.reason = info.map_or_else(|| format!("{:?}", status.code()), |info| info.reason.clone());
        status.message().clone_into(&mut self.message);
        if let Some(id) = status.metadata().get("operation-id").and_then(|id| id.to_str().ok()) {
            id.clone_into(&mut self.operation_id);
        }
        let (Next::End(outcome) | Next::Again(outcome)) = next;
        // What may have happened does not become undone because the next call was not let in.
        if outcome.is_definite() || outcome == Outcome::InReview || self.outcome == Outcome::NotTried {
            self.outcome = outcome;
        }
        matches!(next, Next::End(_))
    }
}

impl Caller {
    /// Calls until the end is definite, patience is over, or the run stops.
    pub(super) async fn settle(&self, row: &Row, pace: &Pace) -> End {
        let until = Instant::now() + self.patience;
        let mut end = End::not_tried("the run was stopped");
        let mut pause = PAUSE_FIRST;
        while !self.stop.is_cancelled() {
            let place = tokio::select! {
                place = pace.place() => place,
                () = self.stop.cancelled() => break,
            };
            end.calls += 1;
            let answer = tokio::select! {
                answer = self.call(row) => answer,
                () = self.given_up() => {
                    (end.outcome, end.message) = (Outcome::Unknown, "the run was stopped before the answer".to_owned());
                    return end;
                }
            };
            drop(place);
            let asked_pause = match answer {
                Ok(response) => {
                    pace.taken();
                    let replayed =
                        response.metadata().get("idempotency-replayed").is_some_and(|told| told == "true");
                    let operation = response.into_inner();
                    end.outcome = of(operation.state());
                    end.replayed = replayed && end.calls == 1;
                    (end.reason, end.message, end.operation_id) =
                        (String::new(), operation.note, operation.operation_id);
                    if end.outcome.is_definite() {
                        return end;
                    }
                    None
                }
                Err(status) => {
                    if matches!(status.code(), Code::ResourceExhausted | Code::Unavailable) {
                        pace.pushed_back(Instant::now());
                    } else {
                        pace.taken();
                    }
                    let next = judged(&status);
                    if end.note(&status, next) {
                        return end;
                    }
                    pushback(&status)
                }
            };
            let wait = asked_pause.map_or(pause, |asked| asked.max(pause).min(PAUSE_MAX));
            if Instant::now() + wait > until {
                return end;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => (),
                () = self.stop.cancelled() => break,
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
        end
    }

    /// The run has stopped, and a while ago.
    async fn given_up(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(STOP_TIMEOUT).await;
    }

    async fn call(&self, row: &Row) -> Result<Response<pb::Operation>, Status> {
        let mut client = PaymentOperationsServiceClient::new(self.channel.clone());
        let (key, validate_only) = (row.key(), self.validate_only);
        // What ends later is asked for again, and keeps no other row from its call meanwhile.
        match row.call.clone() {
            Call::Capture(message) => {
                let message = pb::CaptureRequest { validate_only, r#async: true, ..message };
                let answer = client.capture(self.keyed(message, &key)?).await?;
                Ok(answer.map(|answer| answer.operation.unwrap_or_default()))
            }
            Call::Void(message) => {
                let message = pb::VoidRequest { validate_only, r#async: true, ..message };
                let answer = client.void(self.keyed(message, &key)?).await?;
                Ok(answer.map(|answer| answer.operation.unwrap_or_default()))
            }
            Call::Refund(message) => {
                let message = pb::RefundRequest { validate_only, r#async: true, ..message };
                let answer = client.refund(self.keyed(message, &key)?).await?;
                Ok(answer.map(|answer| answer.operation.unwrap_or_default()))
            }
        }
    }

    fn keyed<M>(&self, message: M, key: &str) -> Result<tonic::Request<M>, Status> {
        let mut request = self.authorization.request(message, Some(CALL_TIMEOUT));
        let key = key.parse().map_err(|_| Status::invalid_argument("the key is no header"))?;
        request.metadata_mut().insert("idempotency-key", key);
        Ok(request)
    }
}

fn of(state: pb::OperationState) -> Outcome {
    match state {
        pb::OperationState::Succeeded => Outcome::Succeeded,
        pb::OperationState::Validated => Outcome::Valid,
        pb::OperationState::Pending => Outcome::Pending,
        pb::OperationState::InReview => Outcome::InReview,
        _ => Outcome::Unknown,
    }
}

/// By the code, and by the reason where that says more.
fn judged(status: &Status) -> Next {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.as_str()).unwrap_or_default();
    match (status.code(), reason) {
        (_, "IN_REVIEW") => Next::End(Outcome::InReview),
        // It may have happened so long ago that nobody remembers.
        (_, "IDEMPOTENCY_KEY_EXPIRED") => Next::End(Outcome::Unknown),
        (
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange,
            _,
        ) => Next::End(Outcome::Refused),
        // Not let in: that says nothing of what an earlier run may have done.
        (Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented, _) => {
            Next::End(Outcome::NotTried)
        }
        // Nothing was sent.
        (Code::Unavailable | Code::ResourceExhausted | Code::Aborted, "TRANSACTION_BUSY")
        | (Code::ResourceExhausted, _) => Next::Again(Outcome::NotTried),
        (Code::Unavailable, reason) if !reason.is_empty() => Next::Again(Outcome::NotTried),
        _ => Next::Again(Outcome::Unknown),
    }
}

/// How long the boundary asks to wait.
fn pushback(status: &Status) -> Option<Duration> {
    let asked = status.metadata().get("grpc-retry-pushback-ms")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(asked))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn refused(code: Code, reason: &str) -> Status {
        let details = ErrorDetails::with_error_info(reason, "payops", HashMap::<String, String>::new());
        Status::with_error_details(code, "why", details)
    }

    /// What a row is after these answers, and whether it was over with the last one.
    fn after(answers: &[(Code, &str)]) -> (Outcome, bool) {
        let mut end = End::not_tried("");
        let mut over = false;
        for (code, reason) in answers {
            let status = refused(*code, reason);
            over = end.note(&status, judged(&status));
        }
        (end.outcome, over)
    }

    #[test]
    fn an_answer_is_an_end_only_where_it_is_definite() {
        use Outcome::{InReview, NotTried, Refused, Unknown};
        for (code, reason, outcome, over) in [
            (Code::FailedPrecondition, "DECLINED", Refused, true),
            (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED", Refused, true),
            (Code::NotFound, "TRANSACTION_NOT_FOUND", Refused, true),
            (Code::FailedPrecondition, "IDEMPOTENCY_KEY_EXPIRED", Unknown, true),
            (Code::Aborted, "IN_REVIEW", InReview, true),
            (Code::PermissionDenied, "DAILY_LIMIT", NotTried, true),
            (Code::Unauthenticated, "CREDENTIALS_EXPIRED", NotTried, true),
            (Code::Aborted, "OUTCOME_UNKNOWN", Unknown, false),
            (Code::Aborted, "OPERATION_IN_PROGRESS", Unknown, false),
            (Code::Aborted, "TRANSACTION_BUSY", NotTried, false),
            (Code::ResourceExhausted, "OVERLOADED", NotTried, false),
            (Code::Unavailable, "DRAINING", NotTried, false),
            // A connection that broke: nobody knows what arrived.
            (Code::Unavailable, "", Unknown, false),
            (Code::Unknown, "", Unknown, false),
            (Code::DeadlineExceeded, "", Unknown, false),
            (Code::Internal, "PSP_CREDENTIALS_REJECTED", Unknown, false),
        ] {
            assert_eq!(after(&[(code, reason)]), (outcome, over), "{code:?} {reason}");
        }
    }

    #[test]
    fn what_may_have_happened_stays_so_until_something_definite_is_said() {
        let unknown = (Code::Aborted, "OUTCOME_UNKNOWN");
        for later in [
            (Code::Unavailable, "DRAINING"),
            (Code::ResourceExhausted, "CALLER_RATE_LIMIT"),
            (Code::PermissionDenied, "RPC_NOT_ALLOWED"),
            (Code::Unauthenticated, "CREDENTIALS_EXPIRED"),
        ] {
            assert_eq!(after(&[unknown, later]).0, Outcome::Unknown, "{later:?}");
        }
        assert_eq!(after(&[unknown, (Code::FailedPrecondition, "DECLINED")]), (Outcome::Refused, true));
    }
}
