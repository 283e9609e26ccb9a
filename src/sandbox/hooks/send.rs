//! Deliveries on their way: posted, and posted again, up to five times in all `[D 10.1]`.

use std::sync::Arc;
use std::time::Duration;

use http::header;

use super::{ATTEMPTS, Delivery};
use crate::sandbox::state::{Now, State};

/// How long an answer is waited for. The documentation says 60 s and 120 s.
const TIMEOUT: Duration = Duration::from_mins(1);

/// The documented beginning, and an end of our own.
const USER_AGENT: &str = "Dintero-Hook/sandbox";

/// Sends deliveries, each by itself: in which order they arrive is not promised.
pub fn send(state: &Arc<State>, deliveries: Vec<Delivery>) {
    for delivery in deliveries {
        let sender = Arc::clone(state);
        state.run(async move { deliver(&sender, &delivery).await });
    }
}

/// A client for webhooks: it follows no redirect and repeats nothing by itself.
pub fn client() -> Option<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .timeout(TIMEOUT);
    builder.build().inspect_err(|error| tracing::warn!(%error, "the sandbox cannot send webhooks")).ok()
}

async fn deliver(state: &State, delivery: &Delivery) {
    let Some(client) = state.client() else { return };
    let mut delivered = false;
    for _ in 0..delivery.times {
        delivered = attempts(state, client, delivery).await;
    }
    state.lock().hooks.ended(delivery, delivered);
}

async fn attempts(state: &State, client: &reqwest::Client, delivery: &Delivery) -> bool {
    let mut pause = state.lock().hooks.retry;
    for attempt in 1..=ATTEMPTS {
        let status = post(client, delivery).await;
        state.lock().hooks.attempted(delivery, status, Now::read().wall);
        // Anything outside of the 200 range is a failure, redirects included.
        if status.is_some_and(|status| (200..300).contains(&status)) {
            return true;
        }
        if attempt < ATTEMPTS {
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2);
        }
    }
    false
}

async fn post(client: &reqwest::Client, delivery: &Delivery) -> Option<u16> {
    let mut request = client
        .post(delivery.url.clone())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, USER_AGENT)
        .header("event", delivery.event)
        .header("event-delivery", &delivery.id)
        .body(delivery.body.clone());
    if let Some(signature) = &delivery.signature {
        request = request.header("event-signature", signature);
    }
    Some(request.send().await.ok()?.status().as_u16())
}
