//! Capture, refund, void `[D 3.1]` `[D 3.2]` `[D 3.3]`, and the two requests that change a transaction otherwise.

use http::StatusCode;
use serde_json::Value;

use super::{Performed, Received, authorize};
use crate::sandbox::deliver::Answer;
use crate::sandbox::faults::{Application, Fault};
use crate::sandbox::ledger::{Authorize, Done, Kind, Lag, Manner, Order, Source, Transaction};
use crate::sandbox::state::{Core, Now};
use crate::sandbox::token::Bearer;
use crate::sandbox::wire::{INT32_MAX, Item, Object, Refusal};

/// The headers that events echo `[D 5.2]`: as they came, at any length `[D 12 #14]`.
const ECHOED: [&str; 6] = [
    "dintero-system-name",
    "dintero-system-version",
    "dintero-system-plugin-name",
    "dintero-system-plugin-version",
    "user-agent",
    "dintero-checkout-instance-id",
];

/// Carries out a money operation as the waiting faults have it.
pub fn perform(
    core: &mut Core,
    received: &Received,
    kind: Kind,
    transaction: &str,
    now: Now,
) -> Result<Performed, Refusal> {
    let bearer = authorize(core, received, transaction, now)?;
    let before = core.ledger.get(transaction)?.shown(now.instant);
    let order = order(core, received, &bearer, kind, transaction)?;

    let strike = core.faults.take(kind.name(), Some(transaction), |fault| match fault {
        Fault::Application(application) => Some(application.clone()),
        _ => None,
    });
    let (application, name) = strike.unzip();
    let mut performed = carry_out(core, &order, application, now);
    performed.faults.extend(name);

    let lag = core.faults.take(kind.name(), Some(transaction), |fault| match fault {
        Fault::ReadLag(delay) => Some(*delay),
        _ => None,
    });
    if let Some((delay, name)) = lag {
        core.ledger.get_mut(transaction)?.lag = Some(Lag { until: now.instant + delay, shown: before });
        performed.faults.push(name);
    }
    Ok(performed)
}

fn carry_out(core: &mut Core, order: &Order, application: Option<Application>, now: Now) -> Performed {
    let mut answered_failure = StatusCode::OK;
    let manner = match application {
        None => Manner::Plainly,
        Some(Application::Fails { failure, status }) => {
            answered_failure = status;
            Manner::Fails(failure)
        }
        Some(Application::Declined { status, code, failure, leave_failed_event }) => {
            let left = leave_failed_event.then(|| core.ledger.fail(order, &failure, now.wall));
            drop(left); // the transaction exists, so the event is there
            return Performed::plain(Refusal::new(status, &code, failure.message).into());
        }
        Some(Application::AcceptedThen(completion)) => Manner::Later(completion),
        Some(Application::WrongAmount(amount)) => Manner::WrongAmount(amount),
        Some(Application::Contradicting(success)) => Manner::Contradicting(success),
        Some(Application::WithoutReference) => Manner::WithoutReference,
        Some(Application::BackofficeCaptureBefore(amount)) => {
            let before = Order::backoffice(&order.transaction, Kind::Capture, amount);
            if let Err(refusal) = core.ledger.operate(&before, &Manner::Plainly, core.later, now.wall) {
                tracing::warn!(message = refusal.message, "Backoffice could not capture first");
            }
            Manner::Plainly
        }
        Some(Application::Duplicate(answer_first)) => {
            let first = once(core, order, &Manner::Plainly, now);
            let repeated = Order { source: Source::Middlebox, ..order.clone() };
            let mut second = once(core, &repeated, &Manner::Plainly, now);
            second.accepted.extend(first.accepted);
            return if answer_first { Performed { answer: first.answer, ..second } } else { second };
        }
    };
    let mut performed = once(core, order, &manner, now);
    if !answered_failure.is_success() && performed.answer.status.is_success() {
        let message = if let Manner::Fails(failure) = manner { failure.message } else { String::new() };
        performed.answer = Refusal::new(answered_failure, "ERROR", message).into();
    } else if performed.answer.status == StatusCode::OK {
        performed.answer.status = answered_failure;
    }
    performed
}

fn once(core: &mut Core, order: &Order, manner: &Manner, now: Now) -> Performed {
    match core.ledger.operate(order, manner, core.later, now.wall) {
        Err(refusal) => Performed::plain(refusal.into()),
        Ok(done) => {
            let body = core.ledger.get(&order.transaction).map(Transaction::truth);
            performed(order, done, body.unwrap_or_default())
        }
    }
}

fn performed(order: &Order, done: Done, body: Value) -> Performed {
    let Some(completion) = done.accepted else { return Performed::plain(Answer::of(StatusCode::OK, body)) };
    let answer = Answer {
        headers: vec![("event-request-id", done.request_id.clone())], // [D 3.6]
        ..Answer::of(StatusCode::ACCEPTED, body)
    };
    let accepted = vec![(order.transaction.clone(), done.request_id, completion)];
    Performed { accepted, ..Performed::plain(answer) }
}

/// Reads the body `[D 3.1]` `[D 3.2]`. References and the reason have any length `[D 12 #15]`. Fields that are not known are tolerated, and so is any body of a void.
fn order(
    core: &Core,
    received: &Received,
    bearer: &Bearer,
    kind: Kind,
    transaction: &str,
) -> Result<Order, Refusal> {
    let echoed = ECHOED.iter().filter_map(|name| Some(((*name).to_owned(), received.header(name)?.into())));
    let order = Order {
        transaction: transaction.to_owned(),
        kind,
        amount: 0,
        reference: None,
        items: Vec::new(),
        final_capture: false,
        terminal_id: None,
        metadata: Object::new(),
        source: Source::Api,
        user_agent: received.header("user-agent"),
        request_headers: echoed.collect(),
        created_by: bearer.client_id.clone(),
    };
    if kind == Kind::Void {
        return Ok(order);
    }
    let zero_amount = core.ledger.get(transaction)?.rules().zero_amount;
    read(order, &received.body, zero_amount).map_err(Refusal::bad_request)
}

fn read(order: Order, body: &[u8], zero_amount: bool) -> Result<Order, String> {
    let body = object(body)?;
    let least = i64::from(!zero_amount); // [D 12 #17]
    let amount = body.get("amount").and_then(Value::as_i64);
    let amount = amount.filter(|amount| (least..=INT32_MAX).contains(amount));
    let reference = if order.kind == Kind::Capture { "capture_reference" } else { "refund_reference" };
    let final_capture = match body.get("final_capture") {
        None | Some(Value::Null) => false,
        Some(value) => value.as_bool().ok_or("final_capture must be a boolean")?,
    };
    text(&body, "reason")?;
    Ok(Order {
        amount: amount.ok_or_else(|| format!("amount must be an int32 from {least}"))?,
        reference: text(&body, reference)?,
        items: Item::list(body.get("items"))?,
        final_capture: final_capture && order.kind == Kind::Capture,
        terminal_id: text(&body, "terminal_id")?,
        metadata: metadata(body.get("metadata"))?,
        ..order
    })
}

/// `PUT …/transactions/{id}`: `merchant_reference_2` is the only field that can be changed `[D 3.8]`.
pub fn update(core: &mut Core, received: &Received, transaction: &str, now: Now) -> Result<Value, Refusal> {
    let body = object(&received.body).map_err(Refusal::bad_request)?;
    let reference = text(&body, "merchant_reference_2").map_err(Refusal::bad_request)?;
    let changed = core.ledger.get_mut(transaction)?;
    changed.opening.merchant_reference_2 = reference;
    changed.updated_at = now.wall;
    let shown = changed.truth();
    core.ledger.changed(transaction, "update");
    Ok(shown)
}

/// `POST …/transactions/{id}/authorization` `[D 3.8]`.
pub fn authorization(
    core: &mut Core,
    received: &Received,
    bearer: &Bearer,
    transaction: &str,
    now: Now,
) -> Result<Value, Refusal> {
    let request = read_authorization(&received.body, bearer).map_err(Refusal::bad_request)?;
    core.ledger.authorize(transaction, request, now.wall)?;
    Ok(core.ledger.get(transaction)?.truth())
}

fn read_authorization(body: &[u8], bearer: &Bearer) -> Result<Authorize, String> {
    let body = if body.is_empty() { Object::new() } else { object(body)? };
    let amount = match body.get("amount") {
        None | Some(Value::Null) => None,
        Some(amount) => {
            let amount = amount.as_i64().filter(|amount| (1..=INT32_MAX).contains(amount));
            Some(amount.ok_or("amount must be an int32 from 1")?)
        }
    };
    Ok(Authorize {
        amount,
        items: Item::list(body.get("items"))?,
        final_authorization: body.get("final_authorization").and_then(Value::as_bool).unwrap_or(false),
        reference: text(&body, "reference")?,
        created_by: bearer.client_id.clone(),
    })
}

fn object(body: &[u8]) -> Result<Object, String> {
    serde_json::from_slice(body).map_err(|_| "The body must be a JSON object".to_owned())
}

fn text(body: &Object, name: &str) -> Result<Option<String>, String> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("{name} must be a string")),
    }
}

/// Keys start with `ext_` and have 128 characters at most, values are strings of 256 at most `[D 3.1]`.
fn metadata(value: Option<&Value>) -> Result<Object, String> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(Object::new()) };
    let metadata = value.as_object().ok_or("metadata must be an object")?;
    for (key, value) in metadata {
        if !key.starts_with("ext_") || key.chars().count() > 128 {
            return Err(format!(
                "metadata: the key {key} must start with ext_ and have 128 characters at most"
            ));
        }
        if value.as_str().is_none_or(|text| text.chars().count() > 256) {
            return Err(format!("metadata: {key} must be a string of 256 characters at most"));
        }
    }
    Ok(metadata.clone())
}
