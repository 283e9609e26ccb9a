//! The first layer of every request: its trace id, its deadline, its span; and
//! the last of every response: what the transport itself refused is told in
//! the same terms as everything else.

pub(crate) mod protocol;

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument as _;

use crate::failure::Failure;
use crate::grpc::{Inbound, status};

/// Makes [`Traced`] services.
#[derive(Clone, Copy, Debug)]
pub struct InboundLayer {
    /// How long a message may take to arrive.
    pub message_timeout: Duration,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Traced<S> {
    inner: S,
    message_timeout: Duration,
}

impl<S> Layer<S> for InboundLayer {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Traced<S> {
        Traced { inner, message_timeout: self.message_timeout }
    }
}

impl<S> Service<Request<Body>> for Traced<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The deadline counts from here, not from when the future is polled.
        let now = Instant::now();
        let trace_id = trace_id(request.headers()).unwrap_or_else(new_trace_id);
        let method = request.uri().path().trim_start_matches('/').to_owned();
        let span = tracing::info_span!(
            "rpc",
            method,
            trace_id,
            caller = tracing::field::Empty,
            operation_id = tracing::field::Empty
        );
        let money = protocol::is_money(&method);
        if let Some(refusal) = protocol::refusal(&request) {
            return Box::pin(async { Ok(refusal) });
        }
        let deadline = match protocol::timeout(request.headers()) {
            Ok(timeout) => timeout.map(|timeout| now + timeout),
            Err(malformed) => {
                let refusal = status::invalid(malformed, &trace_id, money);
                return Box::pin(async move { Ok(refusal.into_http()) });
            }
        };
        if deadline.is_some_and(|deadline| deadline <= now) && !money {
            // Nobody waits for this read. A command is begun all the same: a
            // deadline bounds the wait, never whether the operation happens.
            return Box::pin(async move { Ok(too_late(&trace_id, false).into_http()) });
        }
        request.extensions_mut().insert(Inbound { trace_id: trace_id.clone(), deadline });
        let request = protocol::one_message(request, &method, self.message_timeout);
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
        Box::pin(answered.instrument(span))
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

/// The trace id of a W3C `traceparent` of version 00.
pub(crate) fn trace_id(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let valid = hex(version, 2) && version != "ff" && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
    (valid && trace.bytes().any(|b| b != b'0')).then(|| trace.to_owned())
}

fn new_trace_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn a_trace_id_is_taken_only_from_a_valid_traceparent() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let valid = format!("00-{trace}-00f067aa0ba902b7-01");
        assert_eq!(trace_id(&header("traceparent", &valid)).as_deref(), Some(trace));
        for wrong in [
            "",
            "00-4bf9-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(trace_id(&header("traceparent", wrong)), None, "{wrong:?}");
        }
    }
}
