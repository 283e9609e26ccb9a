//! How long calls take to their answer, and what they are told.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use tokio::time::Instant;
use tonic::{Code, body::Body};
use tower::{Layer, Service};

use crate::metrics::Metrics;

/// Makes [`Calls`] services.
#[derive(Clone)]
pub struct CallsLayer(pub Metrics);

/// Measures each call.
#[derive(Clone)]
pub struct Calls<S> {
    metrics: Metrics,
    inner: S,
}

/// The RPCs that have a name of their own; whatever else is called is `other`.
const RPCS: [&str; 10] = [
    "payops.v1.PaymentOperationsService/Capture",
    "payops.v1.PaymentOperationsService/Void",
    "payops.v1.PaymentOperationsService/Refund",
    "payops.v1.PaymentOperationsService/GetTransaction",
    "payops.v1.PaymentOperationsService/GetOperation",
    "payops.v1.PaymentOperationsService/WatchOperation",
    "payops.v1.OperationReviewService/ListOperations",
    "payops.v1.OperationReviewService/GetOperationEvidence",
    "payops.v1.OperationReviewService/WatchOperationRecord",
    "payops.v1.OperationReviewService/ResolveOperation",
];

impl<S> Layer<S> for CallsLayer {
    type Service = Calls<S>;

    fn layer(&self, inner: S) -> Calls<S> {
        Calls { metrics: self.0.clone(), inner }
    }
}

impl<S, B> Service<Request<Body>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let began = Instant::now();
        let path = request.uri().path().trim_start_matches('/');
        let rpc = RPCS.into_iter().find(|rpc| *rpc == path).unwrap_or("other");
        let metrics = self.metrics.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            // An error is in the head; what is still to come begins well.
            let status =
                answer.headers().get("grpc-status").map(|status| Code::from_bytes(status.as_bytes()));
            metrics.call(rpc, word(status.unwrap_or(Code::Ok)), began.elapsed());
            Ok(answer)
        })
    }
}

/// As gRPC writes it.
fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
