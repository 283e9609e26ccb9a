//! The simulated PSP: the truth. It shares nothing with the client but Dintero's
//! JSON. Facts as in the notes, [D n].

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Value, json};

use super::dice::Dice;
use super::plan::Rates;

/// A request that arrived takes effect within this time or never (A4), in ms.
pub(super) const SETTLES: u64 = 35_000;
/// A read shows what happened at most this much later (A5), in ms.
pub(super) const LAGS: u64 = 15_000;

/// An event of a transaction.
#[derive(Clone, Debug)]
pub(super) struct Event {
    at: u64,
    name: &'static str,
    success: Option<bool>,
    amount: i64,
    reference: Option<String>,
    agent: Option<String>,
    request: String,
    correlation: Option<String>,
    error: Option<(&'static str, &'static str)>,
    correction: Option<(i64, i64)>,
    id: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Transaction {
    pub id: String,
    pub authorized: i64,
    pub events: Vec<Event>,
}

/// Money that moved.
#[derive(Clone, Debug)]
pub(super) struct Effect {
    pub transaction: String,
    pub kind: &'static str,
    pub amount: i64,
    /// The mark of the command; none for others' doings.
    pub tag: Option<String>,
    /// When the request that caused it was written.
    pub written_at: u64,
}

/// A POST as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Post {
    pub transaction: String,
    pub kind: &'static str,
    pub amount: i64,
    pub reference: Option<String>,
    pub tag: String,
    pub agent: String,
    pub bearer: String,
    pub written_at: u64,
}

/// What the PSP does with a POST that it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    Done,
    Declined,
    /// "timed out", and nothing happened, or it happens after all.
    FailedUnclearly {
        and_yet: bool,
    },
    /// 202; it ends later.
    Accepted,
    /// In two events, the second one later.
    Split,
}

/// An answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub body: Value,
    pub headers: Vec<(&'static str, String)>,
}

#[derive(Default)]
pub(super) struct Psp {
    pub transactions: BTreeMap<String, Transaction>,
    pub effects: Vec<Effect>,
    tokens: BTreeMap<String, u64>,
    names: u64,
}

impl Psp {
    pub(super) fn open(&mut self, number: usize, authorized: i64) -> String {
        let id = format!("T12345678.sim{number}");
        let initial = |name, amount| Event {
            at: 0,
            name,
            success: Some(true),
            amount,
            reference: Some("order-77".to_owned()),
            agent: None,
            request: format!("open{number}{name}"),
            correlation: None,
            error: None,
            correction: None,
            id: 0,
        };
        // Words outside the specification's list occur [D 5.1].
        let events = vec![initial("INITIATE", 0), initial("AUTHORIZE", authorized)];
        self.transactions.insert(id.clone(), Transaction { id: id.clone(), authorized, events });
        id
    }

    pub(super) fn token(&mut self, now: u64, life: u64) -> String {
        self.names += 1;
        let token = format!("token{}", self.names);
        self.tokens.insert(token.clone(), now + life);
        token
    }

    /// A3: nothing is executed for a token that is dead on arrival.
    pub(super) fn admits(&self, bearer: &str, now: u64) -> bool {
        self.tokens.get(bearer).is_some_and(|until| now < *until)
    }

    /// The token is refused from now on.
    pub(super) fn revoke(&mut self, bearer: &str) {
        self.tokens.remove(bearer);
    }

    /// Decides how a POST goes.
    pub(super) fn course(dice: &mut Dice, rates: &Rates, kind: &str) -> Course {
        if dice.happens(rates.declined) {
            Course::Declined
        } else if dice.happens(rates.failed_unclearly) {
            Course::FailedUnclearly { and_yet: dice.happens(500) }
        } else if dice.happens(rates.accepted) {
            Course::Accepted
        } else if kind == "refund" && dice.happens(rates.split) {
            Course::Split
        } else {
            Course::Done
        }
    }

    /// Why the transaction does not allow it, if so.
    pub(super) fn objection(&self, post: &Post) -> Option<&'static str> {
        let Some(transaction) = self.transactions.get(&post.transaction) else { return Some("no such") };
        let (captured, refunded, voided) = transaction.sums();
        let open = if voided { 0 } else { transaction.authorized - captured };
        match post.kind {
            "capture" if post.amount > open => Some("amount exceeds what is authorized"),
            "refund" if post.amount > captured - refunded => Some("amount exceeds what is captured"),
            "void" if open == 0 => Some("nothing to void"),
            _ => None,
        }
    }

    /// Moves the money, all of it or a part, and says so in an event.
    pub(super) fn apply(
        &mut self,
        now: u64,
        post: &Post,
        amount: i64,
        correlation: Option<&str>,
        named: bool,
    ) {
        self.effects.push(Effect {
            transaction: post.transaction.clone(),
            kind: post.kind,
            amount,
            tag: (!post.tag.is_empty()).then(|| post.tag.clone()),
            written_at: post.written_at,
        });
        let mut event = self.event(now, post, event_name(post.kind), Some(true));
        event.amount = amount;
        event.correlation = correlation.map(str::to_owned);
        if !named {
            (event.reference, event.agent) = (None, None);
        }
        self.push(&post.transaction, event);
    }

    /// An event that says that it failed.
    pub(super) fn fail(
        &mut self,
        now: u64,
        post: &Post,
        correlation: Option<&str>,
        error: (&'static str, &'static str),
        corrected: bool,
    ) {
        let mut event = self.event(now, post, event_name(post.kind), Some(false));
        event.correlation = correlation.map(str::to_owned);
        event.error = Some(error);
        if corrected && let Some(transaction) = self.transactions.get(&post.transaction) {
            let (captured, refunded, voided) = transaction.sums();
            let open = if voided { 0 } else { transaction.authorized - captured };
            event.correction = Some((open, captured - refunded));
        }
        self.push(&post.transaction, event);
    }

    /// Says that it has begun; the id under which it will end.
    pub(super) fn begin(&mut self, now: u64, post: &Post) -> String {
        let name = match post.kind {
            "capture" => "INITIATE_CAPTURE",
            "refund" => "INITIATE_REFUND",
            _ => "INITIATE_VOID",
        };
        let event = self.event(now, post, name, Some(true));
        let id = event.request.clone();
        self.push(&post.transaction, event);
        id
    }

    fn event(&mut self, at: u64, post: &Post, name: &'static str, success: Option<bool>) -> Event {
        self.names += 1;
        Event {
            at,
            name,
            success,
            amount: post.amount,
            reference: post.reference.clone(),
            agent: Some(post.agent.clone()),
            request: format!("request{}", self.names),
            correlation: None,
            error: None,
            correction: None,
            id: self.names,
        }
    }

    fn push(&mut self, transaction: &str, event: Event) {
        if let Some(transaction) = self.transactions.get_mut(transaction) {
            transaction.events.push(event);
        }
    }

    /// The transaction as it was at `at`, in Dintero's JSON.
    pub(super) fn show(&self, transaction: &str, at: u64) -> Option<Value> {
        let transaction = self.transactions.get(transaction)?;
        let events: Vec<_> = transaction.events.iter().filter(|event| event.at <= at).cloned().collect();
        let seen = Transaction { events, ..transaction.clone() };
        Some(json!({
            "id": seen.id,
            "status": seen.status(),
            "currency": "NOK",
            "amount": seen.authorized,
            "payment_product_type": "payex.creditcard",
            "events": seen.events.iter().map(Event::json).collect::<Vec<_>>(),
        }))
    }
}

impl Transaction {
    fn sums(&self) -> (i64, i64, bool) {
        let sum = |name: &str| -> i64 {
            let done = self.events.iter().filter(|e| e.name == name && e.success == Some(true));
            done.map(|event| event.amount).sum()
        };
        let voided = self.events.iter().any(|e| e.name == "VOID" && e.success == Some(true));
        (sum("CAPTURE"), sum("REFUND"), voided)
    }

    /// [D 4.1]
    fn status(&self) -> &'static str {
        let (captured, refunded, voided) = self.sums();
        match (captured, refunded) {
            (0, _) if voided => "AUTHORIZATION_VOIDED",
            (0, _) => "AUTHORIZED",
            (c, 0) if c < self.authorized => "PARTIALLY_CAPTURED",
            (_, 0) => "CAPTURED",
            (c, r) if r == c && c == self.authorized => "REFUNDED",
            (c, _) if c < self.authorized => "PARTIALLY_CAPTURED_REFUNDED",
            _ => "PARTIALLY_REFUNDED",
        }
    }
}

impl Event {
    fn json(&self) -> Value {
        let millis = i64::try_from(1_700_000_000_000 + self.at).unwrap();
        let at = jiff::Timestamp::from_millisecond(millis).unwrap().to_string();
        let mut event = json!({
            "id": format!("event{}", self.id),
            "event": self.name,
            "success": self.success,
            "amount": self.amount,
            "event_reference": self.reference,
            "request_id": self.request,
            "correlation_request_id": self.correlation,
            "created_at": at,
        });
        if let Some(agent) = &self.agent {
            event["request_headers"] = json!({"user-agent": agent});
        }
        if let Some((kind, message)) = self.error {
            event["error"] = json!({"message": message, "type": [kind]});
        }
        if let Some((capture, refund)) = self.correction {
            event["correction"] = json!({
                "status": "AUTHORIZED", "remaining_capture_amount": capture,
                "remaining_refund_amount": refund, "remaining_void_amount": capture,
            });
        }
        event
    }
}

fn event_name(kind: &str) -> &'static str {
    match kind {
        "capture" => "CAPTURE",
        "refund" => "REFUND",
        _ => "VOID",
    }
}
