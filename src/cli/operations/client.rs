//! The connection to a boundary, and what its refusals mean to a person.

use std::{fmt::Write as _, time::Duration};

use tonic::{Code, Request, Status, Streaming, transport::Channel};
use tonic_types::StatusExt as _;

use crate::cli::boundary::{Authorization, Boundary};
use crate::cli::{EXIT_REFUSED, EXIT_UNAVAILABLE, Failed};
use crate::grpc::pb::{self, operation_review_service_client::OperationReviewServiceClient};

/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The PSP's history of one transaction may be long.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// The review service, as one person.
pub(super) struct Reviews {
    client: OperationReviewServiceClient<Channel>,
    authorization: Authorization,
}

impl Reviews {
    pub(super) async fn connect(boundary: &Boundary) -> Result<Self, Failed> {
        let (channel, authorization) = boundary.connect().await?;
        let client = OperationReviewServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        Ok(Self { client, authorization })
    }

    pub(super) async fn list(
        &mut self,
        message: pb::ListOperationsRequest,
    ) -> Result<pb::ListOperationsResponse, Failed> {
        let request = self.request(message, Some(ANSWER_TIMEOUT));
        Ok(self.client.list_operations(request).await.map_err(|status| refused(&status))?.into_inner())
    }

    pub(super) async fn evidence(mut self, id: String) -> Result<pb::GetOperationEvidenceResponse, Failed> {
        let message = pb::GetOperationEvidenceRequest { operation_id: id };
        let request = self.request(message, Some(ANSWER_TIMEOUT));
        Ok(self.client.get_operation_evidence(request).await.map_err(|status| refused(&status))?.into_inner())
    }

    /// Without a deadline: an operation may take days.
    pub(super) async fn watch(
        mut self,
        id: String,
    ) -> Result<Streaming<pb::WatchOperationRecordResponse>, Failed> {
        let request = self.request(pb::WatchOperationRecordRequest { operation_id: id }, None);
        Ok(self.client.watch_operation_record(request).await.map_err(|status| refused(&status))?.into_inner())
    }

    pub(super) async fn resolve(
        mut self,
        message: pb::ResolveOperationRequest,
    ) -> Result<pb::ResolveOperationResponse, Failed> {
        let request = self.request(message, Some(ANSWER_TIMEOUT));
        Ok(self.client.resolve_operation(request).await.map_err(|status| refused(&status))?.into_inner())
    }

    fn request<M>(&self, message: M, timeout: Option<Duration>) -> Request<M> {
        self.authorization.request(message, timeout)
    }
}

/// What the boundary said, and what to do now.
pub(super) fn refused(status: &Status) -> Failed {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone());
    let name = reason.clone().unwrap_or_else(|| format!("{:?}", status.code()));
    let mut why = format!("{name}: {}", status.message());
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    if violations.len() > 1 {
        for violation in violations {
            // Writing to a String cannot fail.
            _ = write!(why, "\n  {} {}", violation.field, violation.description);
        }
    }
    if let Some(remedy) = remedy(reason.as_deref(), status.code()) {
        _ = write!(why, "\n  {remedy}");
    }
    if let Some(request) = details.request_info().filter(|info| !info.request_id.is_empty()) {
        _ = write!(why, "\n  trace id {}", request.request_id);
    }
    let code = match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Cancelled => {
            EXIT_UNAVAILABLE
        }
        _ => EXIT_REFUSED,
    };
    Failed::new(why, code)
}

fn remedy(reason: Option<&str>, code: Code) -> Option<&'static str> {
    Some(match reason {
        Some("CREDENTIALS_MISSING" | "CREDENTIALS_INVALID") => {
            "give the token of a person who may review, by --token-file or PAYOPS_TOKEN, or its certificate"
        }
        Some("CREDENTIALS_EXPIRED") => "get a new token",
        Some("RPC_NOT_ALLOWED") => "ask the operators for review = true at your name",
        Some("OPERATION_NOT_FOUND") => "`payops operations list` shows what there is",
        Some("OPERATION_NOT_IN_REVIEW" | "PROPOSAL_MISMATCH") => {
            "`payops operations show` tells how it stands now, and what waits for a second person"
        }
        Some("SECOND_PERSON_REQUIRED") => {
            "let another person look at it and confirm it, with a token of their own"
        }
        Some("EVIDENCE_CONTRADICTS") => {
            "look at `payops operations show` once more; only if both of you know better: --override-evidence"
        }
        Some(
            "JOURNAL_UNAVAILABLE" | "ISSUER_UNAVAILABLE" | "OVERLOADED" | "DRAINING" | "DEADLINE_EXCEEDED",
        ) => "try again in a moment",
        Some(_) => return None,
        None if code == Code::Unimplemented => "the address is not one of a payops with this service",
        None if code == Code::Unavailable => "the connection broke: try again in a moment",
        None => return None,
    })
}
