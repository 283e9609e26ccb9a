//! How long the PSP takes, by what is asked of it and what it answers.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use opentelemetry::{KeyValue, trace::SpanKind};
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::psp::dintero::transport::{Transport, TransportError};
use crate::trace::Tracer;

/// The same transport, measured.
#[derive(Clone)]
pub struct MeasuredTransport<T> {
    transport: T,
    metrics: Metrics,
    tracer: Tracer,
}

impl<T: Transport> MeasuredTransport<T> {
    /// Measures each exchange, and shows it in the trace of the call that it is
    /// made for.
    pub fn new(transport: T, metrics: Metrics, tracer: Tracer) -> Self {
        Self { transport, metrics, tracer }
    }
}

impl<T: Transport> Transport for MeasuredTransport<T> {
    async fn send(
        &self,
        mut request: Request<Bytes>,
        patience: Duration,
    ) -> Result<Response<Bytes>, TransportError> {
        let ((what, name), began) = (what(request.method(), request.uri().path()), Instant::now());
        let mut span = self.tracer.begin(name, SpanKind::Client, || attributes(&request));
        span.inject(request.headers_mut());
        let answer = self.transport.send(request, patience).await;
        let result = match &answer {
            Ok(answer) => {
                let code = answer.status();
                span.set(KeyValue::new("http.response.status_code", i64::from(code.as_u16())));
                if code.is_client_error() || code.is_server_error() {
                    span.fail(code.as_str().to_owned());
                }
                status(code.as_u16())
            }
            Err(TransportError::NotSent(_)) => "not_sent",
            Err(TransportError::Unknown(_)) => "no_answer",
        };
        if answer.is_err() {
            span.fail(result);
        }
        self.metrics.psp_request(what, result, began.elapsed(), Some(span.place()));
        answer
    }
}

/// Statuses that are shown by themselves.
const STATUSES: [(u16, &str); 15] = [
    (200, "200"),
    (201, "201"),
    (202, "202"),
    (204, "204"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (409, "409"),
    (422, "422"),
    (429, "429"),
    (500, "500"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
];

/// A status, or what kind of one it is.
fn status(status: u16) -> &'static str {
    let kind = match status / 100 {
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "other",
    };
    STATUSES.into_iter().find(|(known, _)| *known == status).map_or(kind, |(_, word)| word)
}

fn attributes(request: &Request<Bytes>) -> Vec<KeyValue> {
    let uri = request.uri();
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
    vec![
        KeyValue::new("http.request.method", request.method().as_str().to_owned()),
        KeyValue::new("server.address", uri.host().unwrap_or_default().to_owned()),
        KeyValue::new("server.port", i64::from(port)),
        KeyValue::new("url.full", uri.to_string()),
    ]
}

/// What is asked, by the end of the path: in a word, and as the method with what
/// stands for the path in all such requests.
fn what(method: &Method, path: &str) -> (&'static str, &'static str) {
    let last = path.rsplit('/').next().unwrap_or_default();
    match (method, last) {
        (&Method::POST, "capture") => ("capture", "POST /transactions/{id}/capture"),
        (&Method::POST, "void") => ("void", "POST /transactions/{id}/void"),
        (&Method::POST, "refund") => ("refund", "POST /transactions/{id}/refund"),
        (&Method::POST, "token") => ("token", "POST /accounts/{id}/auth/token"),
        (&Method::GET, "transactions") => ("list", "GET /transactions"),
        (&Method::GET, _) => ("read", "GET /transactions/{id}"),
        _ => ("other", "HTTP"),
    }
}
