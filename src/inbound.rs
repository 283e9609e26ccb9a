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

use http::{Request, Response};
use opentelemetry::trace::FutureExt as _;
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
        let place = tracer.call(request.headers(), rpc);
        let metrics = metrics.clone();
        let answer = {
            let _here = place.clone().attach();
            self.answer(request, began)
        };
        let measured = async move {
            let answer = answer.await?;
            // An error is in the head; what is still to come begins well.
            let status = answer.headers().get("grpc-status");
            let code = status.map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()));
            metrics.call(
                rpc.unwrap_or("other"),
                names::word(code),
                began.elapsed(),
                trace::current().as_ref(),
            );
            trace::answered(names::word(code), names::is_failure(code));
            Ok(answer)
        };
        Box::pin(measured.with_context(place))
    }
}

impl<S> Received<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + 'static,
    S::Future: Send + 'static,
    S::Error: Send,
{
    /// In the context of the call.
    fn answer(
        &mut self,
        mut request: Request<Body>,
        now: Instant,
    ) -> impl Future<Output = Result<Response<Body>, S::Error>> + Send + use<S> {
        let traced = trace::current().as_ref().map_or_else(Traced::fresh, trace::traced);
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
        let refused = protocol::refusal(&request);
        let timeout = protocol::timeout(request.headers());
        let deadline = timeout.as_ref().ok().copied().flatten().map(|timeout| now + timeout);
        let refused = refused.or_else(|| {
            Some(match timeout {
                Err(malformed) => status::invalid(malformed, &trace_id, money).into_http(),
                // Nobody waits for this read. A command is begun all the same: a
                // deadline bounds the wait, never whether the operation happens.
                Ok(_) if deadline.is_some_and(|deadline| deadline <= now) && !money => {
                    too_late(&trace_id, false).into_http()
                }
                Ok(_) => return None,
            })
        });
        let answer = match refused {
            Some(refused) => Err(refused),
            None => {
                request.extensions_mut().insert(Inbound { trace_id: trace_id.clone(), traced, deadline });
                let request = protocol::one_message(request, &method, self.layer.message_timeout);
                Ok(span.in_scope(|| self.inner.call(request)))
            }
        };
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
            let answer = match answer {
                Ok(answer) => answer,
                Err(refused) => return Ok(refused),
            };
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
        answered.instrument(span)
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
