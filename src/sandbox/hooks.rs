//! Webhooks `[D 10.1]`: subscriptions, what is sent to them, and what became of it. The sending itself is in `send`.

mod send;

pub use send::{client, send};

use std::collections::VecDeque;
use std::time::Duration;

use axum::body::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::StatusCode;
use jiff::Timestamp;
use reqwest::Url;
use serde::Serialize;
use serde_json::{Value, json};
use sha1::Sha1;

use super::faults::Hook;
use super::ledger::Transaction;
use super::random::Random;
use super::wire::{Object, Refusal, time};

/// How often a delivery is tried in all `[D 10.1]`.
const ATTEMPTS: usize = 5;

/// The most subscriptions of all accounts.
const SUBSCRIPTIONS_MAX: usize = 100;

/// The deliveries that are listed; the oldest go first.
const DELIVERIES_MAX: usize = 1_000;

/// After so many failed deliveries in a row a subscription is deleted. How many it takes is not documented.
const FAILURES_MAX: u32 = 20;

/// The first wait between two attempts; each further one is twice as long. The times are not documented.
const RETRY: Duration = Duration::from_secs(1);

/// The event that tells of a transaction.
const TRANSACTION: &str = "checkout_transaction";

/// All subscriptions.
#[derive(Debug)]
pub struct Hooks {
    /// The first wait between two attempts.
    pub retry: Duration,
    subscriptions: Vec<Subscription>,
    random: Random,
}

#[derive(Debug)]
struct Subscription {
    id: String,
    account: String,
    url: Url,
    secret: Option<String>,
    events: Vec<String>,
    active: bool,
    /// Failed deliveries in a row.
    failures: u32,
    deliveries: VecDeque<Record>,
}

/// A delivery as it is listed.
#[derive(Clone, Debug, Serialize)]
struct Record {
    /// `event-delivery`.
    id: String,
    event: &'static str,
    /// The transaction that it tells of.
    transaction: Option<String>,
    /// What was to go wrong with it.
    fault: Option<&'static str>,
    /// Each attempt, with the status that was answered, if any was.
    attempts: Vec<Attempt>,
}

#[derive(Clone, Debug, Serialize)]
struct Attempt {
    at: String,
    status: Option<u16>,
}

/// A delivery on its way.
#[derive(Debug)]
pub struct Delivery {
    subscription: String,
    id: String,
    event: &'static str,
    url: Url,
    body: Bytes,
    signature: Option<String>,
    /// How often it is delivered: twice is a duplicate.
    times: usize,
}

impl Hooks {
    /// Nobody has subscribed yet.
    pub fn new(seed: u64) -> Self {
        Self { retry: RETRY, subscriptions: Vec::new(), random: Random::new(seed ^ 0x0068_6f6f_6b73) }
    }

    /// Whether anybody is told of the account's transactions.
    pub fn has_listeners(&self, account: &str) -> bool {
        self.subscriptions.iter().any(|subscription| subscription.hears(account))
    }

    /// Answers `POST …/hooks/subscriptions`, and says what is to be sent for it: a ping.
    pub fn subscribe(&mut self, account: &str, body: &Object) -> Result<(Value, Vec<Delivery>), Refusal> {
        if self.subscriptions.len() >= SUBSCRIPTIONS_MAX {
            let message = format!("The sandbox keeps {SUBSCRIPTIONS_MAX} subscriptions; delete one");
            return Err(Refusal::bad_request(message));
        }
        let id = self.random.uuid();
        let subscription = Subscription::read(id, account, body).map_err(Refusal::bad_request)?;
        let (id, shown) = (subscription.id.clone(), subscription.shown());
        self.subscriptions.push(subscription);
        Ok((shown, self.ping(account, &id)?))
    }

    /// What is to be sent for `POST …/subscriptions/{id}/ping`.
    pub fn ping(&mut self, account: &str, id: &str) -> Result<Vec<Delivery>, Refusal> {
        let delivery = self.random.uuid();
        let subscription = self.find(account, id)?;
        // Only that it comes is documented, not what is in it.
        let body = json!({ "account_id": account, "event": "ping", "event_delivery": delivery });
        let sent = subscription.active.then(|| subscription.send(delivery, "ping", None, &body, None));
        Ok(sent.flatten().into_iter().collect())
    }

    /// Answers `GET …/subscriptions/{id}/deliveries`: the newest first.
    pub fn deliveries(&mut self, account: &str, id: &str) -> Result<Value, Refusal> {
        let deliveries = &self.find(account, id)?.deliveries;
        Ok(json!(deliveries.iter().rev().collect::<Vec<_>>()))
    }

    /// Answers `DELETE …/subscriptions/{id}`.
    pub fn unsubscribe(&mut self, account: &str, id: &str) -> Result<Value, Refusal> {
        let shown = self.find(account, id)?.shown();
        self.subscriptions.retain(|subscription| subscription.id != id);
        Ok(shown)
    }

    /// What is to be sent because a transaction has changed.
    pub fn changed(
        &mut self,
        transaction: &Transaction,
        fault: Option<(Hook, &'static str)>,
    ) -> Vec<Delivery> {
        let account = &transaction.opening.account;
        let mut due = Vec::new();
        for subscription in self.subscriptions.iter_mut().filter(|one| one.hears(account)) {
            let id = self.random.uuid();
            let body = message(transaction, &id);
            due.extend(subscription.send(id, TRANSACTION, Some(&transaction.id), &body, fault));
        }
        due
    }

    /// Notes what an attempt was answered.
    fn attempted(&mut self, delivery: &Delivery, status: Option<u16>, now: Timestamp) {
        let subscription = self.subscriptions.iter_mut().find(|one| one.id == delivery.subscription);
        let records = subscription.into_iter().flat_map(|one| one.deliveries.iter_mut());
        for record in records.filter(|record| record.id == delivery.id) {
            record.attempts.push(Attempt { at: time(now), status });
        }
    }

    /// Deletes a subscription that keeps failing `[D 10.1]`.
    fn ended(&mut self, delivery: &Delivery, delivered: bool) {
        let mut subscriptions = self.subscriptions.iter_mut();
        let Some(subscription) = subscriptions.find(|one| one.id == delivery.subscription) else { return };
        subscription.failures = if delivered { 0 } else { subscription.failures + 1 };
        if subscription.failures >= FAILURES_MAX {
            tracing::warn!(subscription = subscription.id, "a subscription kept failing and is deleted");
            let id = subscription.id.clone();
            self.subscriptions.retain(|subscription| subscription.id != id);
        }
    }

    fn find(&mut self, account: &str, id: &str) -> Result<&mut Subscription, Refusal> {
        let mut subscriptions = self.subscriptions.iter_mut();
        let missing = || Refusal::new(StatusCode::NOT_FOUND, "NOT FOUND", "Subscription not found");
        subscriptions.find(|one| one.account == account && one.id == id).ok_or_else(missing)
    }
}

impl Subscription {
    /// Reads the body of a new subscription. `fields` and `insecure_ssl` change nothing here; Dintero refuses local
    /// URLs, and a simulator that did so would be of no use.
    fn read(id: String, account: &str, body: &Object) -> Result<Self, String> {
        let config = body.get("config").and_then(Value::as_object).ok_or("config is required")?;
        let url = config.get("url").and_then(Value::as_str).and_then(|url| Url::parse(url).ok());
        let url =
            url.filter(|url| matches!(url.scheme(), "http" | "https")).ok_or("config.url must be a URL")?;
        let secret = match config.get("secret") {
            None | Some(Value::Null) => None,
            Some(secret) => {
                if secret.get("type").and_then(Value::as_str) != Some("HMAC-SHA1") {
                    return Err("config.secret.type must be HMAC-SHA1; the sandbox knows no other".to_owned());
                }
                let value = secret.get("value").and_then(Value::as_str).filter(|value| !value.is_empty());
                Some(value.ok_or("config.secret.value must be a string")?.to_owned())
            }
        };
        let events = body.get("events").and_then(Value::as_array).ok_or("events must be an array")?;
        let events: Option<Vec<String>> =
            events.iter().map(|event| event.as_str().map(str::to_owned)).collect();
        let events = events.filter(|events| !events.is_empty()).ok_or("events must be an array of names")?;
        let active = body.get("active").and_then(Value::as_bool).unwrap_or(true);
        let (account, deliveries) = (account.to_owned(), VecDeque::new());
        Ok(Self { id, account, url, secret, events, active, failures: 0, deliveries })
    }

    fn hears(&self, account: &str) -> bool {
        self.active && self.account == account && self.events.iter().any(|event| event == TRANSACTION)
    }

    /// As it is answered; the secret's value is not told.
    fn shown(&self) -> Value {
        let secret = self.secret.as_ref().map(|_| json!({ "type": "HMAC-SHA1" }));
        json!({
            "id": self.id,
            "active": self.active,
            "events": self.events,
            "config": { "url": self.url.as_str(), "content_type": "application/json", "secret": secret },
        })
    }

    /// Writes a delivery down, and gives it unless it is to be lost.
    fn send(
        &mut self,
        id: String,
        event: &'static str,
        transaction: Option<&str>,
        body: &Value,
        fault: Option<(Hook, &'static str)>,
    ) -> Option<Delivery> {
        let (hook, fault) = fault.unzip();
        let (transaction, attempts) = (transaction.map(str::to_owned), Vec::new());
        self.deliveries.push_back(Record { id: id.clone(), event, transaction, fault, attempts });
        if self.deliveries.len() > DELIVERIES_MAX {
            self.deliveries.pop_front();
        }
        let body = Bytes::from(body.to_string());
        let wrong = matches!(hook, Some(Hook::WrongSignature)).then_some("not the secret");
        let signature = self.secret.as_deref().map(|secret| sign(wrong.unwrap_or(secret), &body));
        let times = match hook {
            Some(Hook::Lost) => return None,
            Some(Hook::Duplicated) => 2,
            _ => 1,
        };
        Some(Delivery {
            subscription: self.id.clone(),
            id,
            event,
            url: self.url.clone(),
            body,
            signature,
            times,
        })
    }
}

/// The body: the members that are guaranteed, and `status`. The events are not in it `[D 12 #24]`.
fn message(transaction: &Transaction, delivery: &str) -> Value {
    let opening = &transaction.opening;
    let mut shown = json!({
        "id": transaction.id,
        "session_id": transaction.session_id(),
        "merchant_reference": opening.merchant_reference.as_deref().unwrap_or_default(),
        "status": transaction.status(),
        "created_at": time(transaction.created_at),
        "updated_at": time(transaction.updated_at),
    });
    if let (Some(shown), Some(reference)) = (shown.as_object_mut(), &opening.merchant_reference_2) {
        shown.insert("merchant_reference_2".to_owned(), reference.clone().into());
    }
    json!({
        "account_id": opening.account, "event": TRANSACTION, "event_delivery": delivery, "transaction": shown,
    })
}

/// Hex HMAC-SHA1 of the raw body `[D 10.1]`.
fn sign(secret: &str, body: &[u8]) -> String {
    let Ok(mut hmac) = Hmac::<Sha1>::new_from_slice(secret.as_bytes()) else {
        return String::new(); // a key of any length will do
    };
    hmac.update(body);
    hmac.finalize().into_bytes().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example that was computed for `[D 10.1]`.
    #[test]
    fn the_signature_is_the_documented_one() {
        let body = br#"{"account_id":"T12345678","event":"checkout_transaction"}"#;
        assert_eq!(sign("whsec_example", body), "3898d2af30aa4793c407460bbcd67f4af346f02b");
    }
}
