//! One HTTP exchange: written at most once, answered within bounds.

use std::{error::Error as _, future::Future, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};

use crate::config::Psp as Settings;

/// Carries one request to the PSP.
pub trait Transport: Clone + Send + Sync + 'static {
    /// Writes the request once and reads the whole answer, within `patience`.
    fn send(
        &self,
        request: Request<Bytes>,
        patience: Duration,
    ) -> impl Future<Output = Result<Response<Bytes>, TransportError>> + Send;
}

/// There is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// Provably no byte of the request was processed.
    #[error("not sent: {0}")]
    NotSent(String),
    /// The request may have been read and acted upon.
    #[error("no usable answer: {0}")]
    Unknown(String),
}

/// The transport over reqwest.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
    answer_bytes_max: usize,
}

impl Http {
    /// A client with no hidden retries, no redirects, no proxy and bounds on
    /// everything.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        let mut builder = reqwest::Client::builder()
            // reqwest by itself repeats a POST after REFUSED_STREAM or GOAWAY.
            .retry(reqwest::retry::never())
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(settings.connect_timeout)
            // Shorter than what servers and load balancers keep: a connection
            // that dies under a request leaves a payment in doubt.
            .pool_idle_timeout(Duration::from_secs(20))
            .tcp_keepalive(Duration::from_secs(15))
            .http2_keep_alive_interval(Duration::from_secs(15))
            .http2_keep_alive_timeout(Duration::from_secs(10));
        if let Some(path) = &settings.ca_file {
            let pem = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
            let roots = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            for root in roots {
                builder = builder.add_root_certificate(root);
            }
        }
        let client = builder.build().map_err(|error| describe(&error))?;
        Ok(Self { client, answer_bytes_max: settings.answer_bytes_max })
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, TransportError> {
        let request = reqwest::Request::try_from(request)
            .map_err(|error| TransportError::NotSent(describe(&error.without_url())))?;
        let mut answer = self.client.execute(request).await.map_err(classify)?;
        let mut response = Response::builder().status(answer.status());
        if let Some(headers) = response.headers_mut() {
            *headers = answer.headers().clone();
        }
        let mut body = BytesMut::new();
        while let Some(chunk) =
            answer.chunk().await.map_err(|error| TransportError::Unknown(describe(&error.without_url())))?
        {
            if body.len().saturating_add(chunk.len()) > self.answer_bytes_max {
                return Err(TransportError::Unknown("the answer is too long".to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        response.body(body.freeze()).map_err(|error| TransportError::Unknown(error.to_string()))
    }
}

impl Transport for Http {
    async fn send(
        &self,
        request: Request<Bytes>,
        patience: Duration,
    ) -> Result<Response<Bytes>, TransportError> {
        match tokio::time::timeout(patience, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(TransportError::Unknown(format!("no answer within {} s", patience.as_secs()))),
        }
    }
}

/// Only these are provably unsent: the connection was never made, or the HTTP/2
/// server said that it did not process the stream. "Connection closed before
/// message completed" is not among them: the server may have acted.
fn classify(error: reqwest::Error) -> TransportError {
    let error = error.without_url();
    let why = describe(&error);
    if error.is_connect() || error.is_builder() || refused_stream(&error) {
        TransportError::NotSent(why)
    } else {
        TransportError::Unknown(why)
    }
}

fn refused_stream(error: &reqwest::Error) -> bool {
    causes(error).filter_map(|error| error.downcast_ref::<h2::Error>()).any(|error| {
        error.is_remote() && error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
    })
}

/// The error with its causes, without the URL.
fn describe(error: &reqwest::Error) -> String {
    causes(error).fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |&error| error.source())
}
