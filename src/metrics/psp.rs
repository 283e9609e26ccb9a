//! How long the PSP takes, by what is asked of it and what it answers.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::psp::dintero::transport::{Transport, TransportError};

/// The same transport, measured.
#[derive(Clone)]
pub struct MeasuredTransport<T> {
    transport: T,
    metrics: Metrics,
}

impl<T: Transport> MeasuredTransport<T> {
    /// Measures each exchange.
    pub fn new(transport: T, metrics: Metrics) -> Self {
        Self { transport, metrics }
    }
}

impl<T: Transport> Transport for MeasuredTransport<T> {
    async fn send(
        &self,
        request: Request<Bytes>,
        patience: Duration,
    ) -> Result<Response<Bytes>, TransportError> {
        let (what, began) = (what(request.method(), request.uri().path()), Instant::now());
        let answer = self.transport.send(request, patience).await;
        let result = match &answer {
            Ok(answer) => status(answer.status().as_u16()),
            Err(TransportError::NotSent(_)) => "not_sent",
            Err(TransportError::Unknown(_)) => "no_answer",
        };
        self.metrics.psp_request(what, result, began.elapsed());
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

/// What is asked, by the end of the path.
fn what(method: &Method, path: &str) -> &'static str {
    let last = path.rsplit('/').next().unwrap_or_default();
    match (method, last) {
        (&Method::POST, "capture") => "capture",
        (&Method::POST, "void") => "void",
        (&Method::POST, "refund") => "refund",
        (&Method::POST, "token") => "token",
        (&Method::GET, "transactions") => "list",
        (&Method::GET, _) => "read",
        _ => "other",
    }
}
