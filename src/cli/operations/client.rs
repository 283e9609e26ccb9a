//! The connection to a boundary, and what its refusals mean to a person.

use std::{fmt::Write as _, fs, path::PathBuf, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};
use tonic::{
    Code, Request, Status, Streaming,
    metadata::AsciiMetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_types::StatusExt as _;

use crate::cli::operations::Asking;
use crate::cli::{EXIT_CONFIGURATION, EXIT_REFUSED, EXIT_UNAVAILABLE, Failed};
use crate::config::Source;
use crate::grpc::pb::{self, operation_review_service_client::OperationReviewServiceClient};

/// Where a boundary is by default.
const ADDRESS: &str = "http://127.0.0.1:50051";
/// How long a connection and one answer may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The PSP's history of one transaction may be long.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// The review service, as one person.
pub(super) struct Reviews {
    client: OperationReviewServiceClient<Channel>,
    /// None where a certificate says who asks.
    authorization: Option<AsciiMetadataValue>,
}

impl Reviews {
    pub(super) async fn connect(asking: &Asking) -> Result<Self, Failed> {
        let authorization = token(asking)?.map(|token| authorization(&token)).transpose()?;
        let variable = std::env::var("PAYOPS_ADDRESS").ok();
        let address = asking.address.clone().or(variable).unwrap_or_else(|| ADDRESS.to_owned());
        let endpoint = endpoint(&address, asking)?;
        let channel = endpoint.connect().await.map_err(|error| {
            let why = causes(&error);
            Failed::new(format!("cannot reach {address}: {why}; does payops serve there?"), EXIT_UNAVAILABLE)
        })?;
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
        let mut request = Request::new(message);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        request
    }
}

fn authorization(token: &SecretString) -> Result<AsciiMetadataValue, Failed> {
    let wrong =
        |_| Failed::new("the token is not one: it holds other than visible ASCII", EXIT_CONFIGURATION);
    let mut value: AsciiMetadataValue = format!("Bearer {}", token.expose_secret()).parse().map_err(wrong)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Never an argument: every user of the machine can read those. None where a
/// certificate takes its place.
fn token(asking: &Asking) -> Result<Option<SecretString>, Failed> {
    if let Some(file) = &asking.token_file {
        return Source::File(file.clone()).read().map(Some).map_err(|error| {
            let why = format!("--token-file {}: cannot be read: {error}", file.display());
            Failed::new(why, EXIT_CONFIGURATION)
        });
    }
    match std::env::var("PAYOPS_TOKEN") {
        Ok(token) if !token.is_empty() => Ok(Some(token.into())),
        _ if asking.certificate_file.is_some() => Ok(None),
        _ => Err(Failed::new(
            "no token: name a file by --token-file, or set PAYOPS_TOKEN; or show a certificate by --certificate-file. \
             `payops token new --name NAME --review` makes one",
            EXIT_CONFIGURATION,
        )),
    }
}

fn endpoint(address: &str, asking: &Asking) -> Result<Endpoint, Failed> {
    let unusable = |why: String| Failed::new(why, EXIT_CONFIGURATION);
    let secure = address.starts_with("https://");
    if !secure && !address.starts_with("http://") {
        return Err(unusable(format!(
            "{address} is no address: write http:// or https://, a host and a port"
        )));
    }
    let endpoint = Endpoint::from_shared(address.to_owned())
        .map_err(|error| unusable(format!("{address} is no address: {error}")))?
        .connect_timeout(CONNECT_TIMEOUT);
    if !secure {
        let options = [("--ca-file", &asking.ca_file), ("--certificate-file", &asking.certificate_file)];
        return match options.iter().find(|(_, file)| file.is_some()) {
            None => Ok(endpoint),
            Some((option, _)) => Err(unusable(format!("{option} is for https://, and {address} is not"))),
        };
    }
    let read = |option: &str, file: &PathBuf| {
        fs::read(file).map_err(|error| unusable(format!("{option} {}: {error}", file.display())))
    };
    let mut tls = match &asking.ca_file {
        None => ClientTlsConfig::new().with_native_roots(),
        Some(file) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("--ca-file", file)?)),
    };
    if let (Some(certificate), Some(key)) = (&asking.certificate_file, &asking.key_file) {
        tls = tls
            .identity(Identity::from_pem(read("--certificate-file", certificate)?, read("--key-file", key)?));
    }
    endpoint.tls_config(tls).map_err(|error| unusable(causes(&error)))
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

/// An error with all that caused it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_told = cause.to_string();
        // Some layers repeat what is below them.
        if !told.contains(&cause_told) {
            told = format!("{told}: {cause_told}");
        }
        source = cause.source();
    }
    told
}
