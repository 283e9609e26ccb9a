//! Dintero's side: routes, and the stages that each request passes.

mod list;
mod money;
mod route;

use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Value, json};

use self::route::{Call, HooksCall, route};
use super::deliver::{Answer, deliver, lose};
use super::faults::{Admission, Delivery, Fault};
use super::fields::{BODY_MAX, BODY_TIMEOUT};
use super::hooks::{self, Delivery as WebhookDelivery};
use super::ledger::Completion;
use super::line::Connection;
use super::requests::Entry;
use super::state::{Core, Now, State};
use super::token::{Bearer, fingerprint};
use super::wire::{Object, Refusal, time};

/// A request of an API client.
#[derive(Clone, Debug)]
struct Received {
    /// Its number in the log.
    sequence: u64,
    call: Call,
    /// The account in the path of the newer base `[D 12 #23]`.
    account: Option<String>,
    query: Vec<(String, String)>,
    headers: HeaderMap,
    method: Method,
    path: String,
    body: Bytes,
}

/// A request that passed Dintero's books.
struct Performed {
    answer: Answer,
    /// Accepted operations, to be ended later: transaction, request id, how.
    accepted: Vec<(String, String, Completion)>,
    /// What is to be sent to subscribers.
    webhooks: Vec<WebhookDelivery>,
    faults: Vec<&'static str>,
}

/// Answers any request outside the admin API. The work goes on when the caller hangs up `[D 12 #7]`.
pub async fn serve(
    axum::extract::State(state): axum::extract::State<Arc<State>>,
    Extension(connection): Extension<Connection>,
    request: Request<Body>,
) -> Response {
    let work = tokio::spawn(async move { answer(&state, &connection, request).await });
    work.await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

async fn answer(state: &Arc<State>, connection: &Connection, request: Request<Body>) -> Response {
    let mut received = match receive(request).await {
        Ok(received) => received,
        Err(refusal) => return refusal.into_response(),
    };
    received.sequence = state.lock().requests.receive(received.entry());

    // Admission: what never reaches the books.
    let admission = received.take(state, |fault| match fault {
        Fault::Admission(admission) => Some(admission.clone()),
        _ => None,
    });
    if let Some(admission) = admission {
        return received.turn_away(state, connection, admission);
    }

    // Application.
    let answer = received.apply(state);

    // Delivery.
    let delivery = received.take(state, |fault| match fault {
        Fault::Delivery(delivery) => Some(delivery.clone()),
        _ => None,
    });
    let (response, status) = match delivery {
        Some(Delivery::Lost(reset)) => (lose(connection, reset), None),
        Some(delivery) => deliver(answer, delivery, connection).await,
        None => {
            let status = answer.status.as_u16();
            (answer.into_response(), Some(status))
        }
    };
    state.lock().requests.change(received.sequence, |entry| entry.status = status);
    response
}

async fn receive(request: Request<Body>) -> Result<Received, Refusal> {
    let (parts, body) = request.into_parts();
    let body = tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, BODY_MAX)).await;
    let body = body.ok().and_then(Result::ok);
    let body = body.ok_or_else(|| Refusal::bad_request("The body cannot be read"))?;
    let path = parts.uri.path().to_owned();
    let (call, account) = route(&parts.method, &path);
    let query = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let query = query.into_owned().collect();
    Ok(Received {
        sequence: 0,
        call,
        account,
        query,
        headers: parts.headers,
        method: parts.method,
        path,
        body,
    })
}

impl Received {
    fn header(&self, name: &str) -> Option<String> {
        Some(self.headers.get(name)?.to_str().ok()?.to_owned())
    }

    fn entry(&self) -> Entry {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let reference =
            ["capture_reference", "refund_reference"].iter().find_map(|name| body.get(name)?.as_str());
        Entry {
            at: time(Now::read().wall),
            method: self.method.to_string(),
            path: self.path.clone(),
            operation: self.call.name(),
            transaction: self.call.transaction().map(str::to_owned),
            reference: reference.map(str::to_owned),
            token_fingerprint: fingerprint(&self.headers),
            traceparent: self.header("traceparent"),
            user_agent: self.header("user-agent"),
            ..Entry::default()
        }
    }

    /// Takes the fault that strikes this request in a stage, and notes it in the log.
    fn take<T>(&self, state: &State, pick: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        let mut core = state.lock();
        let (fault, name) = core.faults.take(self.call.name(), self.call.transaction(), pick)?;
        core.requests.change(self.sequence, |entry| entry.faults.push(name.to_owned()));
        Some(fault)
    }

    /// Answers a request that does not reach the books, or not yet.
    fn turn_away(self, state: &Arc<State>, connection: &Connection, admission: Admission) -> Response {
        let sequence = self.sequence;
        let answer = match admission {
            Admission::Lost(reset) => return lose(connection, reset),
            Admission::Refused { status, code, message } => Refusal::new(status, &code, message).into(),
            Admission::RateLimited { retry_after, http_date } => rate_limited(retry_after, http_date),
            Admission::Redirect { status, location } => {
                let location = location.unwrap_or_else(|| self.path.clone());
                let answer = Answer::of(status, json!({}));
                Answer { headers: vec![("location", location)], ..answer }
            }
            Admission::Delayed { delay, answer } => {
                state.put_off(delay, move |state| {
                    // The token is checked here, at the time of arrival.
                    let late = self.apply(state).status.as_u16();
                    state.lock().requests.change(sequence, |entry| entry.status_late = Some(late));
                });
                let Some(status) = answer else { return lose(connection, false) };
                Refusal::new(status, "GATEWAY", "The request is on its way").into()
            }
        };
        state.lock().requests.change(sequence, |entry| entry.status = Some(answer.status.as_u16()));
        answer.into_response()
    }

    /// Carries the request out, now.
    fn apply(&self, state: &Arc<State>) -> Answer {
        let performed = {
            let mut core = state.lock();
            let now = Now::read();
            let mut performed = perform(&mut core, self, now);
            performed.webhooks.extend(core.announce(now));
            let noted = performed.faults.iter().map(|name| (*name).to_owned());
            core.requests.change(self.sequence, |entry| entry.faults.extend(noted));
            performed
        };
        for (transaction, request_id, completion) in performed.accepted {
            state.put_off_completion(transaction, request_id, completion);
        }
        hooks::send(state, performed.webhooks);
        performed.answer
    }
}

fn rate_limited(retry_after: u64, http_date: bool) -> Answer {
    let mut wait = retry_after.to_string();
    if http_date {
        let ahead = jiff::SignedDuration::from_secs(i64::try_from(retry_after).unwrap_or(0));
        let at = Now::read().wall.checked_add(ahead).unwrap_or(Now::read().wall);
        let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
        wait = printer.timestamp_to_rfc9110_string(&at).unwrap_or(wait);
    }
    let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TOO MANY REQUESTS", "Too many requests");
    Answer { headers: vec![("retry-after", wait)], ..refusal.into() }
}

/// Dintero's books answer.
fn perform(core: &mut Core, received: &Received, now: Now) -> Performed {
    if let Call::Money { kind, transaction } = &received.call {
        return money::perform(core, received, *kind, transaction, now)
            .unwrap_or_else(|refusal| Performed::plain(refusal.into()));
    }
    if let Call::Hooks(call) = &received.call {
        return answer_hooks(core, received, call, now)
            .unwrap_or_else(|refusal| Performed::plain(refusal.into()));
    }
    Performed::plain(answer_plainly(core, received, now).unwrap_or_else(Answer::from))
}

fn answer_plainly(core: &mut Core, received: &Received, now: Now) -> Result<Answer, Refusal> {
    let body = match &received.call {
        Call::Token { account } => {
            core.tokens.issue(account, &received.headers, &received.body, now.instant)?
        }
        Call::Unknown => return Err(Refusal::new(StatusCode::NOT_FOUND, "NOT FOUND", "No such resource")),
        Call::List => {
            let bearer = authenticate(core, received, now)?;
            list::list(&core.ledger, &bearer, &received.query, now)?
        }
        Call::Get { transaction } => {
            authorize(core, received, transaction, now)?;
            let shown = core.ledger.get(transaction)?.shown(now.instant);
            list::include(shown, &received.query)
        }
        Call::Update { transaction } => {
            authorize(core, received, transaction, now)?;
            money::update(core, received, transaction, now)?
        }
        Call::Authorization { transaction } => {
            let bearer = authorize(core, received, transaction, now)?;
            money::authorization(core, received, &bearer, transaction, now)?
        }
        Call::Money { .. } | Call::Hooks(_) => return Err(Refusal::not_found()), // answered elsewhere
    };
    Ok(Answer::of(StatusCode::OK, body))
}

/// Subscriptions. Statuses and bodies of the answers are not documented.
fn answer_hooks(
    core: &mut Core,
    received: &Received,
    call: &HooksCall,
    now: Now,
) -> Result<Performed, Refusal> {
    let account = authenticate(core, received, now)?.account;
    let (status, body, webhooks) = match call {
        HooksCall::Subscribe => {
            let body = serde_json::from_slice::<Object>(&received.body);
            let body = body.map_err(|_| Refusal::bad_request("The body must be a JSON object"))?;
            let (shown, ping) = core.hooks.subscribe(&account, &body)?;
            (StatusCode::CREATED, shown, ping)
        }
        HooksCall::Unsubscribe(id) => (StatusCode::OK, core.hooks.unsubscribe(&account, id)?, Vec::new()),
        HooksCall::Ping(id) => (StatusCode::OK, json!({}), core.hooks.ping(&account, id)?),
        HooksCall::Deliveries(id) => (StatusCode::OK, core.hooks.deliveries(&account, id)?, Vec::new()),
    };
    Ok(Performed { webhooks, ..Performed::plain(Answer::of(status, body)) })
}

/// Whom the token speaks for; 403 where the path names another account.
fn authenticate(core: &Core, received: &Received, now: Now) -> Result<Bearer, Refusal> {
    let bearer = core.tokens.bearer(&received.headers, now.instant)?;
    match &received.account {
        Some(account) if *account != bearer.account => Err(another_account()),
        _ if received.call.may(bearer.scopes) => Ok(bearer),
        // 403 is documented, and which scopes are needed; that the one follows from the other is not said.
        _ => Err(Refusal::new(StatusCode::FORBIDDEN, "FORBIDDEN", "The scope of the token does not suffice")),
    }
}

/// As [`authenticate`], and the transaction belongs to the account `[D 12 #22]`.
fn authorize(core: &Core, received: &Received, transaction: &str, now: Now) -> Result<Bearer, Refusal> {
    let bearer = authenticate(core, received, now)?;
    let owner = transaction.split('.').next().unwrap_or_default();
    if owner == bearer.account { Ok(bearer) } else { Err(another_account()) }
}

fn another_account() -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "FORBIDDEN", "The token is for another account")
}

impl Performed {
    fn plain(answer: Answer) -> Self {
        Self { answer, accepted: Vec::new(), webhooks: Vec::new(), faults: Vec::new() }
    }
}
