//! The first layer of every request: its place in a trace, its deadline, its
//! span; and the last of every response: what the transport itself refused is
//! told in the same terms as everything else, and what was told is measured.

pub(crate) mod protocol;

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::{Either, ready};
use http::{Request, Response};
use opentelemetry::trace::{FutureExt as _, TraceContextExt as _};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument as _;

use crate::failure::Failure;
use crate::grpc::{Inbound, names, status};
use crate::metrics::Metrics;
use crate::payment::Traced;
use crate::trace::{self, Tracer};

/// Makes [`Received`] services.
#[derive(Clone)]
pub struct InboundLayer {
    /// How long a message may take to arrive.
    message_timeout: Duration,
    tracer: Tracer,
    metrics: Metrics,
}

impl InboundLayer {
    /// Measures into `metrics`, and begins spans with `tracer`.
    pub fn new(message_timeout: Duration, metrics: &Metrics, tracer: &Tracer) -> Self {
        Self { message_timeout, tracer: tracer.clone(), metrics: metrics.clone() }
    }
}

/// See the module.
#[derive(Clone)]
pub struct Received<S> {
    inner: S,
    layer: InboundLayer,
}

impl<S> Layer<S> for InboundLayer {
    type Service = Received<S>;

    fn layer(&self, inner: S) -> Received<S> {
        Received { inner, layer: self.clone() }
    }
}

impl<S> Service<Request<Body>> for Received<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + 'static,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // Deadlines count from here, not from when the future is polled.
        let began = Instant::now();
        let InboundLayer { tracer, metrics, .. } = &self.layer;
        let rpc = names::rpc(request.uri().path());
        let context = tracer.call(request.headers(), rpc);
        let place = context.span().span_context().clone();
        let metrics = metrics.clone();
        let answer = self.answer(request, began, trace::traced(&place));
        let measured = async move {
            let answer = answer.await?;
            // An error is in the head; what is still to come begins well.
            let status = answer.headers().get("grpc-status");
            let code = status.map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()));
            metrics.call(rpc.unwrap_or("other"), names::word(code), began.elapsed(), &place);
            trace::answered(names::word(code), names::is_failure(code));
            Ok(answer)
        };
        Box::pin(measured.with_context(context))
    }
}

impl<S> Received<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + 'static,
    S::Future: Send + 'static,
    S::Error: Send,
{
    /// The answer to a call that has that place in its trace.
    fn answer(
        &mut self,
        mut request: Request<Body>,
        now: Instant,
        traced: Traced,
    ) -> impl Future<Output = Result<Response<Body>, S::Error>> + Send + use<S> {
        let trace_id = traced.trace_id().to_owned();
        let method = request.uri().path().trim_start_matches('/').to_owned();
        let span = tracing::info_span!(
            "rpc",
            method,
            trace_id,
            caller = tracing::field::Empty,
            operation_id = tracing::field::Empty
        );
        let money = protocol::is_money(&method);
        let refused = |answer| Either::Left(ready(Ok(answer)));
        if let Some(refusal) = protocol::refusal(&request) {
            return refused(refusal);
        }
        let deadline = match protocol::timeout(request.headers()) {
            Ok(timeout) => timeout.map(|timeout| now + timeout),
            Err(malformed) => return refused(status::invalid(malformed, &trace_id, money).into_http()),
        };
        if deadline.is_some_and(|deadline| deadline <= now) && !money {
            // Nobody waits for this read. A command is begun all the same: a
            // deadline bounds the wait, never whether the operation happens.
            return refused(too_late(&trace_id, false).into_http());
        }
        request.extensions_mut().insert(Inbound { traced, deadline });
        let request = protocol::one_message(request, &method, self.layer.message_timeout);
        let answer = span.in_scope(|| self.inner.call(request));
        // Ours alone: that of the gRPC library would say CANCELLED, which meshes
        // retry.
        let late = deadline.map(|deadline| {
            let timer = tokio::time::sleep_until(deadline);
            // Timers run up to a millisecond late; what has passed has passed.
            async move {
                if Instant::now() < deadline {
                    timer.await;
                }
            }
        });
        let answered = async move {
            let answer = match late {
                Some(late) => tokio::select! {
                    biased;
                    answer = answer => answer?,
                    () = late => return Ok(too_late(&trace_id, money).into_http()),
                },
                None => answer.await?,
            };
            Ok(complete(answer, &method, &trace_id))
        };
        Either::Right(answered.instrument(span))
    }
}

/// The caller's deadline passed before there was an answer. What was begun
/// goes on: it runs as a task of its own.
fn too_late(trace_id: &str, money: bool) -> Status {
    if money {
        status::money(&Failure::InProgress(None), None, trace_id)
    } else {
        status::read(&Failure::DeadlineExceeded, trace_id)
    }
}

/// Adds to a bare status of the gRPC library the details that callers of this
/// boundary can rely upon. Those of our own have them already.
fn complete(answer: Response<Body>, method: &str, trace_id: &str) -> Response<Body> {
    const ACCEPTED: &str = "grpc-accept-encoding";
    let headers = answer.headers();
    if !headers.contains_key("grpc-status") || headers.contains_key("grpc-status-details-bin") {
        return answer;
    }
    let Some(bare) = Status::from_header_map(headers) else { return answer };
    let money = protocol::is_money(method);
    match bare.code() {
        Code::Unimplemented if bare.message().is_empty() => {
            let method: String = method.chars().take(200).collect();
            let message =
                format!("there is no method /{method} here; list what there is by server reflection");
            Status::unimplemented(message).into_http()
        }
        Code::Unimplemented if headers.contains_key(ACCEPTED) => {
            let mut told = status::encoding(trace_id, money).into_http();
            // The protocol wants the encodings to be named.
            if let Some(accepted) = headers.get(ACCEPTED) {
                told.headers_mut().insert(ACCEPTED, accepted.clone());
            }
            told
        }
        // Raised before any handler ran, by what the caller sent.
        Code::Internal | Code::OutOfRange | Code::InvalidArgument | Code::Unknown => {
            status::unreadable(bare.message(), trace_id, money).into_http()
        }
        _ => answer,
    }
}
