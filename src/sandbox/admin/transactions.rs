//! Transactions: made, looked at, and changed behind the API client's back.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State as Extracted};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Reply, Shared};
use crate::sandbox::failure::Failure;
use crate::sandbox::fields::{Fields, Invalid, required};
use crate::sandbox::hooks;
use crate::sandbox::ledger::{Kind, Manner, Opening, Order, Outcome, TestCard, Transaction};
use crate::sandbox::products::rules;
use crate::sandbox::state::{Core, Now, State};
use crate::sandbox::wire::{INT32_MAX, Item, Refusal};

/// Statuses in which nothing can be done.
const BLOCKED: [&str; 5] = ["INITIATED", "ON_HOLD", "DECLINED", "FAILED", "UNKNOWN"];

const STATUSES: [&str; 12] = [
    "INITIATED",
    "ON_HOLD",
    "DECLINED",
    "FAILED",
    "UNKNOWN",
    "AUTHORIZED",
    "AUTHORIZATION_VOIDED",
    "CAPTURED",
    "PARTIALLY_CAPTURED",
    "PARTIALLY_CAPTURED_REFUNDED",
    "REFUNDED",
    "PARTIALLY_REFUNDED",
];

/// The routes of transactions.
pub fn router() -> Router<Arc<State>> {
    Router::new()
        .route("/sandbox/v1/transactions", post(create).get(list))
        .route("/sandbox/v1/transactions/{id}", get(show))
        .route("/sandbox/v1/transactions/{id}/events", post(append_event))
        .route("/sandbox/v1/transactions/{id}/backoffice", post(backoffice))
        .route("/sandbox/v1/transactions/{id}/complete", post(complete))
        .route("/sandbox/v1/transactions/{id}/expire", post(expire))
}

/// `T` or `P` and eight digits `[D 1]`.
pub fn is_account(id: &str) -> bool {
    let digits = id.strip_prefix(['T', 'P']);
    digits.is_some_and(|digits| digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

async fn create(Extracted(state): Shared, fields: Fields) -> Reply {
    let (shown, webhooks) = {
        let mut core = state.lock();
        let default_account = core.tokens.first_account().map(str::to_owned);
        let (opening, now) = (opening(fields, default_account)?, Now::read());
        let created = core.ledger.open(opening, now.wall).map_err(|problem| Invalid::new("id", problem))?;
        (raw(created), core.announce(now))
    };
    hooks::send(&state, webhooks);
    Ok((StatusCode::CREATED, axum::Json(shown)).into_response())
}

async fn list(Extracted(state): Shared) -> Response {
    let core = state.lock();
    let all: Vec<Value> =
        core.ledger.newest_first().map(|transaction| transaction.id.clone().into()).collect();
    axum::Json(all).into_response()
}

async fn show(Extracted(state): Shared, Path(id): Path<String>) -> Reply {
    show_in(&state.lock(), &id)
}

async fn append_event(Extracted(state): Shared, Path(id): Path<String>, fields: Fields) -> Reply {
    let event = fields.object().clone();
    if event.is_empty() {
        return Err(Invalid::new("body", "send the event as a JSON object"));
    }
    changed(&state, &id, |core| core.ledger.append_raw(&id, event, Now::read().wall))
}

async fn backoffice(Extracted(state): Shared, Path(id): Path<String>, mut fields: Fields) -> Reply {
    let kind = fields.choice("kind", &["capture", "refund", "void"])?.and_then(Kind::named);
    let kind = required("kind", kind, "send capture, refund or void")?;
    let amount = fields.integer("amount", 1..=INT32_MAX)?;
    fields.finish()?;
    let amount = if kind == Kind::Void { 0 } else { required("amount", amount, "send minor units")? };
    let order = Order::backoffice(&id, kind, amount);
    let now = Now::read().wall;
    let mut accepted = None;
    let reply = changed(&state, &id, |core| {
        let later = core.later;
        let done = core.ledger.operate(&order, &Manner::Plainly, later, now)?;
        accepted = done.accepted.map(|completion| (done.request_id, completion));
        Ok(())
    })?;
    if let Some((request_id, completion)) = accepted {
        state.put_off_completion(id, request_id, completion);
    }
    Ok(reply)
}

async fn complete(Extracted(state): Shared, Path(id): Path<String>, mut fields: Fields) -> Reply {
    let outcome = match fields.choice("outcome", &["done", "failed"])? {
        Some("failed") => Outcome::Failed(Failure::read(&mut fields, Failure::timed_out())?),
        _ => Outcome::Done,
    };
    fields.finish()?;
    changed(&state, &id, |core| core.ledger.complete(&id, None, &outcome, Now::read().wall).map(drop))
}

async fn expire(Extracted(state): Shared, Path(id): Path<String>) -> Reply {
    changed(&state, &id, |core| {
        core.ledger.get_mut(&id)?.expired = true;
        Ok(())
    })
}

/// Changes a transaction and shows it.
fn changed(
    state: &Arc<State>,
    id: &str,
    change: impl FnOnce(&mut Core) -> Result<(), Refusal>,
) -> Result<Response, Invalid> {
    let (reply, webhooks) = {
        let mut core = state.lock();
        if core.ledger.get(id).is_ok() {
            change(&mut core)?;
        }
        (show_in(&core, id), core.announce(Now::read()))
    };
    hooks::send(state, webhooks);
    reply
}

fn show_in(core: &Core, id: &str) -> Reply {
    let missing = |_| {
        let remedy = "GET /sandbox/v1/transactions lists all";
        Invalid::not_found("transaction", "there is none of this id", remedy)
    };
    let transaction = core.ledger.get(id).map_err(missing)?;
    Ok(axum::Json(raw(transaction)).into_response())
}

/// The transaction as it truly is, without lag, with what Dintero does not show.
fn raw(transaction: &Transaction) -> Value {
    let mut shown = transaction.truth();
    let open = transaction
        .open
        .iter()
        .map(|open| json!({ "request_id": open.request_id, "kind": open.order.kind, "amount": open.amount }));
    let books = json!({
        "captured": transaction.captured,
        "refunded": transaction.refunded,
        "voided": transaction.released,
        "capturable": transaction.capturable(),
        "refundable": transaction.refundable(),
        "expired": transaction.expired,
        "open": open.collect::<Vec<_>>(),
        "lagging": transaction.lag.as_ref().is_some_and(|lag| Now::read().instant < lag.until),
    });
    if let Some(shown) = shown.as_object_mut() {
        shown.insert("sandbox".to_owned(), books);
    }
    shown
}

fn opening(mut fields: Fields, default_account: Option<String>) -> Result<Opening, Invalid> {
    let id = fields.text("id")?;
    let prefix = id.as_deref().and_then(|id| id.split('.').next()).map(str::to_owned);
    let account = fields.text("account")?.or(prefix).or(default_account);
    let account =
        required("account", account.filter(|account| is_account(account)), "send T or P and eight digits")?;
    check_id(id.as_deref(), &account)?;
    let product_type = fields.text("payment_product_type")?;
    let product_type = product_type.unwrap_or_else(|| "dintero_psp.creditcard".to_owned());
    let items =
        Item::list(fields.value("items").as_ref()).map_err(|problem| Invalid::new("items", problem))?;
    let sum = items.iter().map(|item| item.amount).sum::<i64>();
    let least = i64::from(!rules(&product_type).zero_amount);
    let amount = fields.integer("amount", least..=INT32_MAX)?;
    if amount.is_none() && !items.is_empty() && !(least..=INT32_MAX).contains(&sum) {
        return Err(Invalid::new("items", format!("send amounts that add up to {least} to {INT32_MAX}")));
    }
    let amount = amount.or((!items.is_empty()).then_some(sum));
    let amount = required("amount", amount, "send minor units, or items that add up to them")?;
    let test_card = fields.text("test_card")?;
    let test_card = test_card.map(|number| {
        let card = TestCard::numbered(&number);
        card.ok_or_else(|| {
            Invalid::new("test_card", "send a number of Dintero's test data, see docs/sandbox.md")
        })
    });
    let created_at = fields.text("created_at")?;
    let created_at = created_at.map(|text| {
        text.parse::<Timestamp>().map_err(|_| Invalid::new("created_at", "send ISO 8601 with a zone"))
    });
    let mut opening = Opening {
        id,
        product_type,
        currency: fields.text("currency")?.unwrap_or_else(|| "NOK".to_owned()),
        items,
        default_reference: fields.text("event_reference")?,
        merchant_reference: fields.text("merchant_reference")?,
        merchant_reference_2: fields.text("merchant_reference_2")?,
        session_id: fields.text("session_id")?,
        test_card: test_card.transpose()?,
        created_at: created_at.transpose()?,
        expired: fields.flag("expired")?.unwrap_or(false),
        ..Opening::card(&account, amount)
    };
    read_state(&mut fields, &mut opening)?;
    fields.finish()?;
    Ok(opening)
}

fn check_id(id: Option<&str>, account: &str) -> Result<(), Invalid> {
    let Some(id) = id else { return Ok(()) };
    let suffix = id.strip_prefix(account).and_then(|rest| rest.strip_prefix('.'));
    let plain = suffix.is_some_and(|suffix| {
        (1..=64).contains(&suffix.len()) && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric())
    });
    if plain {
        Ok(())
    } else {
        Err(Invalid::new("id", format!("send {account}. and letters and digits, 22 as a rule")))
    }
}

/// Sums and status. A status implies the sums that are not given, and must fit those that are.
fn read_state(fields: &mut Fields, opening: &mut Opening) -> Result<(), Invalid> {
    let amount = opening.amount;
    let status = fields.choice("status", &STATUSES)?;
    let implied = match status {
        Some("CAPTURED") => (amount, 0, 0),
        Some("REFUNDED") => (amount, amount, 0),
        Some("AUTHORIZATION_VOIDED") => (0, 0, amount),
        None if rules(&opening.product_type).captured_at_once => (amount, 0, 0),
        _ => (0, 0, 0),
    };
    opening.captured = fields.integer("captured", 0..=amount)?.unwrap_or(implied.0);
    let captured = opening.captured;
    opening.refunded = fields.integer("refunded", 0..=captured)?.unwrap_or(implied.1.min(captured));
    opening.released =
        fields.integer("voided", 0..=amount - captured)?.unwrap_or(implied.2.min(amount - captured));
    opening.blocked = status.filter(|status| BLOCKED.contains(status)).map(str::to_owned);
    let Some(status) = status else { return Ok(()) };
    let derived = Transaction::status_of(opening);
    if derived != status {
        let remedy = format!("captured, refunded and voided say {derived}; send sums that fit {status}");
        return Err(Invalid::new("status", remedy));
    }
    Ok(())
}
