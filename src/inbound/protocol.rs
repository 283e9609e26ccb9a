//! What the protocol asks of a request before anything else looks at it, where
//! the gRPC library does not ask.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyStream, StreamBody};
use tokio::time::Instant;
use tonic::{Status, body::Body};

use crate::grpc::{
    limited::limited,
    violations::{Refused, Violations},
};

/// The RPCs that move money.
const MONEY: [&str; 3] = [
    "payops.v1.PaymentOperationsService/Capture",
    "payops.v1.PaymentOperationsService/Void",
    "payops.v1.PaymentOperationsService/Refund",
];

/// Bytes before each message: a flag and the length.
const PREFIX_BYTES: usize = 5;

/// Whether the RPC moves money.
pub fn is_money(method: &str) -> bool {
    MONEY.contains(&method)
}

/// The answer to what is not gRPC. It is plain HTTP: others would take a gRPC
/// error, whose HTTP status is 200, for success.
pub fn refusal(request: &Request<Body>) -> Option<Response<Body>> {
    if request.method() != Method::POST {
        let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "this port speaks gRPC: send POST\n");
        answer.headers_mut().insert(header::ALLOW, http::HeaderValue::from_static("POST"));
        return Some(answer);
    }
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or_default().to_ascii_lowercase();
    let bare = kind.split(';').next().unwrap_or_default().trim_end();
    if matches!(bare, "application/grpc" | "application/grpc+proto") {
        return None;
    }
    let text = "this port speaks gRPC: send content-type application/grpc\n";
    Some(plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, text))
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut answer = Response::new(Body::new(text.to_owned()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    answer
}

/// `grpc-timeout`: up to eight digits and a unit. One that cannot be read is
/// refused: its sender counts upon a deadline.
pub fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Refused> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    value.to_str().ok().and_then(parse_timeout).map(Some).ok_or_else(|| {
        let mut wrong = Violations::default();
        let remedy = "must be one to eight digits and a unit of H, M, S, m, u or n, such as 500m";
        wrong.add("metadata.grpc-timeout", remedy);
        wrong.into()
    })
}

fn parse_timeout(text: &str) -> Option<Duration> {
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

/// Every RPC of the contract takes one message and no trailers. The gRPC
/// library drops a second message without a word, and lets a trailer replace
/// metadata; which of two captures or keys is meant is not ours to guess.
///
/// It has to be here within `patience`: a message that never ends would hold
/// its place for ever.
pub fn one_message(request: Request<Body>, method: &str, patience: Duration) -> Request<Body> {
    if !method.starts_with("payops.") {
        return request;
    }
    request.map(|body| {
        let mut message = Framed::default();
        let frames = BodyStream::new(body).map(move |frame| message.check(frame?));
        let frames = limited(frames, Some(Instant::now() + patience), move || {
            let seconds = patience.as_secs_f32();
            Status::invalid_argument(format!("it was not complete within {seconds} s"))
        });
        Body::new(StreamBody::new(frames))
    })
}

/// The one message that a body may hold.
#[derive(Default)]
struct Framed {
    prefix: Vec<u8>,
    bytes: u64,
}

impl Framed {
    fn check(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Status> {
        match frame.data_ref() {
            Some(data) if !self.holds(data) => {
                Err(Status::invalid_argument("there is more than one message"))
            }
            Some(_) => Ok(frame),
            None => Err(Status::invalid_argument("there are trailers, which only an answer has")),
        }
    }

    /// Counts the next bytes; false once they are beyond the message.
    fn holds(&mut self, data: &[u8]) -> bool {
        let missing = PREFIX_BYTES.saturating_sub(self.prefix.len());
        self.prefix.extend(data.iter().take(missing));
        self.bytes += u64::try_from(data.len()).unwrap_or(u64::MAX);
        match *self.prefix.as_slice() {
            [_, a, b, c, d] => self.bytes <= 5 + u64::from(u32::from_be_bytes([a, b, c, d])),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(parse_timeout(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_body_holds_one_message_however_it_is_cut() {
        let body = [0, 0, 0, 0, 3, 7, 7, 7];
        for cut in 0..=body.len() {
            let mut message = Framed::default();
            let (first, rest) = body.split_at(cut);
            assert!(message.holds(first) && message.holds(rest), "{cut}");
            assert!(message.holds(&[]) && !message.holds(&[0]), "{cut}");
        }
    }
}
