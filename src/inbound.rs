//! The first layer of every request: its trace id, its deadline, its span; and
//! the last of every response: what the transport itself refused is told in
//! the same terms as everything else.

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

use crate::grpc::status;

/// What every request carries in its extensions.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// 32 hexadecimal digits: the caller's (W3C `traceparent`), or a new one.
    pub trace_id: String,
    /// When the caller stops waiting; none when it did not say.
    pub deadline: Option<Instant>,
}

/// Makes [`Traced`] services.
#[derive(Clone, Copy, Debug)]
pub struct InboundLayer;

/// See the module.
#[derive(Clone, Debug)]
pub struct Traced<S>(S);

impl<S> Layer<S> for InboundLayer {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Traced<S> {
        Traced(inner)
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
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The deadline counts from here, not from when the future is polled.
        let deadline = timeout(request.headers()).map(|timeout| Instant::now() + timeout);
        let trace_id = trace_id(request.headers()).unwrap_or_else(new_trace_id);
        let method = request.uri().path().trim_start_matches('/').to_owned();
        let span = tracing::info_span!(
            "rpc",
            method,
            trace_id,
            caller = tracing::field::Empty,
            operation_id = tracing::field::Empty
        );
        request.extensions_mut().insert(Inbound { trace_id: trace_id.clone(), deadline });
        let answer = span.in_scope(|| self.0.call(request));
        Box::pin(async move { Ok(complete(answer.await?, &method, &trace_id)) }.instrument(span))
    }
}

/// Adds to a bare status of the gRPC library the details that callers of this
/// boundary can rely upon. Those of our own have them already.
fn complete(answer: Response<Body>, method: &str, trace_id: &str) -> Response<Body> {
    let headers = answer.headers();
    if !headers.contains_key("grpc-status") || headers.contains_key("grpc-status-details-bin") {
        return answer;
    }
    let Some(bare) = Status::from_header_map(headers) else { return answer };
    let told = match bare.code() {
        Code::Ok => return answer,
        Code::Unimplemented if bare.message().is_empty() => {
            let message =
                format!("there is no method {method} here; list what there is by server reflection");
            Status::unimplemented(message)
        }
        // Raised before any handler ran, by what the caller sent.
        Code::Internal | Code::OutOfRange | Code::InvalidArgument | Code::Unknown
            if method.starts_with("payops.") =>
        {
            status::unreadable(bare.message(), trace_id)
        }
        _ => return answer,
    };
    told.into_http()
}

/// `grpc-timeout`: up to eight digits and a unit.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount.saturating_mul(3600)),
        "M" => Duration::from_secs(amount.saturating_mul(60)),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// The trace id of a W3C `traceparent` of version 00.
fn trace_id(headers: &HeaderMap) -> Option<String> {
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
    fn a_timeout_has_eight_digits_at_most_and_a_unit() {
        for (text, expected) in [
            ("5S", Some(Duration::from_secs(5))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("123456789m", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("5s", None),
        ] {
            assert_eq!(timeout(&header("grpc-timeout", text)), expected, "{text:?}");
        }
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
