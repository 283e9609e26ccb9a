//! Dintero's webhook [D 10.1]: a hint, never proof. It tells that a transaction
//! has changed; payops then reads the transaction, and believes what it reads.
//!
//! What anybody can send to this address is bounded in size, time and number,
//! and nothing of it is looked at before its signature fits. The signature
//! covers the body alone, so that headers decide nothing about a transaction.

mod seen;
mod signature;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, body::Body, extract::State, routing::post};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::{net::TcpListener, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config;
use crate::listener::http1;
use crate::payment::id::{AccountId, TransactionId};
use crate::webhook::seen::Seen;

/// The longest body that is looked at. Dintero's has some hundred bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// What is read of a longer one, and thrown away: whoever is cut off while
/// sending does not hear the answer.
const DISCARDED_BYTES_MAX: usize = 1024 * 1024;
/// The last deliveries that are recognised when they come again.
const DELIVERIES_KEPT: usize = 4096;
/// A wrong secret is told of at most this often, however many notice.
const COMPLAIN_EVERY: Duration = Duration::from_mins(1);

/// The event that tells of a transaction [D 10.1].
const TRANSACTION_EVENT: &str = "checkout_transaction";

/// Receives deliveries and passes on what they hint at.
pub struct Receiver<H> {
    settings: config::Webhook,
    /// Transactions of other accounts are none of our business.
    accounts: Vec<AccountId>,
    hint: H,
    seen: Mutex<Seen>,
    complained: Mutex<Option<Instant>>,
}

impl<H: Fn(TransactionId) + Send + Sync + 'static> Receiver<H> {
    /// Calls `hint` with each transaction that a genuine delivery tells of. It
    /// must return at once.
    pub fn new(settings: config::Webhook, accounts: Vec<AccountId>, hint: H) -> Self {
        let seen = Mutex::new(Seen::new(DELIVERIES_KEPT));
        Self { settings, accounts, hint, seen, complained: Mutex::default() }
    }

    /// Serves until `stop` is cancelled; what has begun then is finished.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends every connection.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let limits = http1::Limits {
            connections_max: self.settings.connections_max,
            message_timeout: self.settings.message_timeout,
        };
        http1::serve(listener, self.router(), limits, stop).await;
    }

    fn router(self) -> Router {
        let path = self.settings.path.clone();
        Router::new().route(&path, post(receive::<H>)).with_state(Arc::new(self))
    }

    /// What is answered. Anything but a success is a failure to Dintero, which
    /// sends it again, up to five times in all, and deletes a subscription
    /// that keeps failing [D 10.1]: what is genuine and not for us succeeds.
    pub(crate) async fn answer(&self, headers: &HeaderMap, body: Body) -> StatusCode {
        let read = tokio::time::timeout(self.settings.message_timeout, whole(body)).await;
        let body = match read {
            Err(_) => return StatusCode::REQUEST_TIMEOUT,
            Ok(Err(status)) => return status,
            Ok(Ok(body)) => body,
        };
        match self.is_genuine(headers, &body).await {
            Ok(true) => {}
            Ok(false) => return StatusCode::UNAUTHORIZED,
            Err(status) => return status,
        }
        let Ok(message) = serde_json::from_slice::<Value>(&body) else {
            return StatusCode::BAD_REQUEST;
        };
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let text = |name: &str| message.get(name).and_then(Value::as_str).or_else(|| header(name));
        if text("event") != Some(TRANSACTION_EVENT) {
            return StatusCode::OK;
        }
        let id = message.pointer("/transaction/id").and_then(Value::as_str);
        let Some(transaction) = id.and_then(|id| id.parse::<TransactionId>().ok()) else {
            tracing::warn!("a webhook of the PSP names no transaction");
            return StatusCode::OK;
        };
        // The body's name for the delivery is signed, the header's is not.
        let signed = message.get("event_delivery").and_then(Value::as_str);
        let delivery = signed.or_else(|| header("event-delivery")).and_then(|id| id.parse::<Uuid>().ok());
        let again =
            delivery.is_some_and(|id| !self.seen.lock().unwrap_or_else(PoisonError::into_inner).remember(id));
        if again || !self.accounts.contains(&transaction.account()) {
            return StatusCode::OK;
        }
        tracing::debug!(transaction_id = %transaction, "the PSP says that a transaction has changed");
        (self.hint)(transaction);
        StatusCode::OK
    }

    /// Whether one of the secrets signed it. They are read anew each time: a
    /// rotated file needs no restart.
    async fn is_genuine(&self, headers: &HeaderMap, body: &[u8]) -> Result<bool, StatusCode> {
        let Some(given) = headers.get("event-signature").and_then(|value| signature::parse(value.as_bytes()))
        else {
            return Ok(false);
        };
        let source = self.settings.secret.clone();
        let secrets =
            tokio::task::spawn_blocking(move || source.map(|source| source.read_list()).transpose());
        let secrets = match secrets.await.map_err(io::Error::other).flatten() {
            Ok(secrets) => secrets.unwrap_or_default(),
            Err(error) => {
                self.complain(format_args!("the secret of webhook.secret_file cannot be read: {error}"));
                return Err(StatusCode::SERVICE_UNAVAILABLE);
            }
        };
        let genuine = signature::fits(&given, body, &secrets);
        if !genuine {
            self.complain(format_args!("a webhook was refused: no secret of webhook.secret_file signed it"));
        }
        Ok(genuine)
    }

    fn complain(&self, why: std::fmt::Arguments<'_>) {
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            *complained = Some(Instant::now());
            tracing::warn!("{why}");
        }
    }
}

async fn receive<H: Fn(TransactionId) + Send + Sync + 'static>(
    State(receiver): State<Arc<Receiver<H>>>,
    request: Request<Body>,
) -> StatusCode {
    let (parts, body) = request.into_parts();
    receiver.answer(&parts.headers, body).await
}

/// The body, if it is not too long and arrives whole.
async fn whole(mut body: Body) -> Result<Vec<u8>, StatusCode> {
    let (mut kept, mut length) = (Vec::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| StatusCode::BAD_REQUEST)?;
        let Ok(bytes) = frame.into_data() else { continue };
        length = length.saturating_add(bytes.len());
        if length <= BODY_BYTES_MAX {
            kept.extend_from_slice(&bytes);
        } else if length > DISCARDED_BYTES_MAX {
            break;
        }
    }
    if length > BODY_BYTES_MAX { Err(StatusCode::PAYLOAD_TOO_LARGE) } else { Ok(kept) }
}

#[cfg(test)]
mod tests;
