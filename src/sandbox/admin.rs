//! The admin API under `/sandbox/v1/`: makes transactions, asks for faults, tells the truth.

mod transactions;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, RawQuery, State as Extracted};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post, put};
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::Account;
use super::faults;
use super::fields::{Fields, Invalid, required};
use super::state::{Core, State};
use super::token::{ACCOUNTS_MAX, Scopes};
use super::wire::Refusal;

/// What handlers share.
type Shared = Extracted<Arc<State>>;

/// The answer of an admin handler: a mistake names the field and the remedy.
type Reply = Result<Response, Invalid>;

/// The longest token life and delay: a year.
const SECONDS_MAX: u64 = 31_536_000;

/// The most entries of the ledger and of the request log.
const ENTRIES_MAX: u64 = 10_000_000;

/// The routes. Everything else under `/sandbox/` is answered with 404 and the list of what there is.
pub fn router() -> Router<Arc<State>> {
    Router::new()
        .merge(transactions::router())
        .route("/sandbox/v1/ledger", get(ledger))
        .route("/sandbox/v1/requests", get(requests).delete(forget_requests))
        .route("/sandbox/v1/faults", get(waiting).post(add_fault).delete(remove_faults))
        .route("/sandbox/v1/faults/{id}", delete(remove_fault))
        .route("/sandbox/v1/tokens/expire", post(expire_tokens))
        .route("/sandbox/v1/clients/{account}", put(rotate_client))
        .route("/sandbox/v1/settings", get(settings).put(change_settings))
        .route("/sandbox/v1/reset", post(reset))
        .route("/sandbox/v1/health", get(|| async { axum::Json(json!({ "status": "ok" })) }))
        .route("/sandbox", any(no_such_thing))
        .route("/sandbox/", any(no_such_thing))
        .route("/sandbox/{*rest}", any(no_such_thing))
        .layer(map_response(explain))
}

/// Gives the refusals of the HTTP library, such as a wrong method, the form of all others.
async fn explain(response: Response) -> Response {
    let status = response.status();
    let json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let problem = status.canonical_reason().map(str::to_owned);
    let remedy = match status {
        StatusCode::METHOD_NOT_ALLOWED => "send a method of the header Allow",
        _ => "send a path and a query that are escaped UTF-8",
    };
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_TYPE);
    parts.headers.remove(header::CONTENT_LENGTH);
    let mut explained = Invalid { status, problem, ..Invalid::new("request", remedy) }.into_response();
    parts.headers.extend(explained.headers().clone());
    *explained.headers_mut() = parts.headers;
    explained
}

/// Which part of a log is wanted.
struct Part {
    transaction: Option<String>,
    after: u64,
    limit: usize,
}

impl Part {
    fn read(query: Option<&str>) -> Result<Self, Invalid> {
        let mut fields = Fields::query(query);
        let transaction = fields.text("transaction")?;
        let (after, limit) = (fields.numeral("after", 0)?, fields.numeral("limit", ENTRIES_MAX)?);
        fields.finish()?; // a misspelt filter must not look like an empty ledger
        Ok(Self { transaction, after, limit: usize::try_from(limit).unwrap_or(usize::MAX) })
    }
}

async fn ledger(Extracted(state): Shared, RawQuery(query): RawQuery) -> Reply {
    let part = Part::read(query.as_deref())?;
    let effects: Vec<_> = {
        let core = state.lock();
        let effects = core.ledger.effects(part.transaction.as_deref());
        effects.filter(|effect| effect.sequence > part.after).take(part.limit).cloned().collect()
    };
    Ok(axum::Json(effects).into_response())
}

async fn requests(Extracted(state): Shared, RawQuery(query): RawQuery) -> Reply {
    let part = Part::read(query.as_deref())?;
    let entries: Vec<_> = {
        let core = state.lock();
        let entries = core.requests.entries(part.transaction.as_deref());
        entries.filter(|entry| entry.sequence > part.after).take(part.limit).cloned().collect()
    };
    Ok(axum::Json(entries).into_response())
}

async fn forget_requests(Extracted(state): Shared) -> StatusCode {
    state.lock().requests.clear();
    StatusCode::NO_CONTENT
}

async fn waiting(Extracted(state): Shared) -> Response {
    axum::Json(state.lock().faults.shown()).into_response()
}

async fn add_fault(Extracted(state): Shared, fields: Fields) -> Reply {
    let fault = faults::parse(fields)?;
    let id = state.lock().faults.add(fault);
    let id = required("faults", id, "too many wait; DELETE /sandbox/v1/faults first")?;
    Ok((StatusCode::CREATED, axum::Json(json!({ "id": id }))).into_response())
}

async fn remove_faults(Extracted(state): Shared) -> Response {
    removed(state.lock().faults.remove(None))
}

async fn remove_fault(Extracted(state): Shared, Path(id): Path<String>) -> Reply {
    let known = id.parse().ok().filter(|id| state.lock().faults.remove(Some(*id)) > 0);
    known.ok_or_else(|| {
        Invalid::not_found("id", "no such fault waits", "GET /sandbox/v1/faults lists those that do")
    })?;
    Ok(removed(1))
}

fn removed(count: usize) -> Response {
    axum::Json(json!({ "removed": count })).into_response()
}

async fn expire_tokens(Extracted(state): Shared, mut fields: Fields) -> Reply {
    let account = fields.text("account")?;
    fields.finish()?;
    let expired = state.lock().tokens.expire(account.as_deref());
    Ok(axum::Json(json!({ "expired": expired })).into_response())
}

/// Gives an account new credentials, or opens the account. Tokens stay valid `[D 12 #25]`.
async fn rotate_client(Extracted(state): Shared, Path(id): Path<String>, mut fields: Fields) -> Reply {
    if !transactions::is_account(&id) {
        return Err(Invalid::new("account", "put T or P and eight digits in the path"));
    }
    let client_id = required("client_id", fields.text("client_id")?, "send the new client id")?;
    let client_secret = required("client_secret", fields.text("client_secret")?, "send the new secret")?;
    let scopes = Scopes::read(fields.value("scopes"))?;
    fields.finish()?;
    if !state.lock().tokens.put_client(Account { id, client_id, client_secret }, scopes) {
        return Err(Invalid::new("account", format!("there are {ACCOUNTS_MAX}; POST /sandbox/v1/reset")));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn settings(Extracted(state): Shared) -> Response {
    axum::Json(shown(&state.lock())).into_response()
}

async fn change_settings(Extracted(state): Shared, mut fields: Fields) -> Reply {
    let mut core = state.lock();
    let entries = |count: usize| u64::try_from(count).unwrap_or(ENTRIES_MAX);
    let life = fields.count("token_life_seconds", core.tokens.life.as_secs(), SECONDS_MAX)?;
    let later = u64::try_from(core.later.as_millis()).unwrap_or(SECONDS_MAX);
    let later = fields.count("asynchronous_delay_ms", later, SECONDS_MAX * 1_000)?;
    let retry = u64::try_from(core.hooks.retry.as_millis()).unwrap_or(SECONDS_MAX);
    let retry = fields.count("webhook_retry_ms", retry, SECONDS_MAX * 1_000)?;
    let requests_max = fields.count("requests_max", entries(core.requests.max), ENTRIES_MAX)?;
    let mut behaviour = core.ledger.behaviour.clone();
    let ledger_max = fields.count("ledger_max", entries(behaviour.ledger_max), ENTRIES_MAX)?;
    for (name, switch) in [
        ("echo_metadata", &mut behaviour.echo_metadata),
        ("completion_repeats_reference", &mut behaviour.completion_repeats_reference),
        ("void_completion_correlates", &mut behaviour.void_completion_correlates),
        ("released_counts_as_captured", &mut behaviour.released_counts_as_captured),
        ("final_capture_adds_void_event", &mut behaviour.final_capture_adds_void_event),
    ] {
        *switch = fields.flag(name)?.unwrap_or(*switch);
    }
    fields.finish()?;
    behaviour.ledger_max = usize::try_from(ledger_max).unwrap_or(behaviour.ledger_max);
    core.ledger.behaviour = behaviour;
    core.requests.max = usize::try_from(requests_max).unwrap_or(core.requests.max);
    core.tokens.life = Duration::from_secs(life);
    core.later = Duration::from_millis(later);
    core.hooks.retry = Duration::from_millis(retry);
    Ok(axum::Json(shown(&core)).into_response())
}

fn shown(core: &Core) -> Value {
    let behaviour = &core.ledger.behaviour;
    json!({
        "token_life_seconds": core.tokens.life.as_secs(),
        "asynchronous_delay_ms": u64::try_from(core.later.as_millis()).unwrap_or(u64::MAX),
        "webhook_retry_ms": u64::try_from(core.hooks.retry.as_millis()).unwrap_or(u64::MAX),
        "echo_metadata": behaviour.echo_metadata,
        "completion_repeats_reference": behaviour.completion_repeats_reference,
        "void_completion_correlates": behaviour.void_completion_correlates,
        "released_counts_as_captured": behaviour.released_counts_as_captured,
        "final_capture_adds_void_event": behaviour.final_capture_adds_void_event,
        "ledger_max": behaviour.ledger_max,
        "requests_max": core.requests.max,
    })
}

async fn reset(Extracted(state): Shared) -> StatusCode {
    state.reset();
    StatusCode::NO_CONTENT
}

async fn no_such_thing() -> Response {
    let there_is =
        "transactions, ledger, requests, faults, tokens/expire, clients/{account}, settings, reset, health";
    Invalid::not_found("path", "no such resource", format!("under /sandbox/v1/ there is {there_is}"))
        .into_response()
}

impl From<Refusal> for Invalid {
    /// The books' refusal of something an admin asked for.
    fn from(refusal: Refusal) -> Self {
        let remedy = "GET /sandbox/v1/transactions/{id} shows what it allows, under sandbox";
        Self { problem: Some(refusal.message), ..Self::new("transaction", remedy) }
    }
}
