//! The answer on its way to the caller, and what may become of it.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use futures::stream;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::faults::Delivery;
use super::line::{Connection, End};
use super::wire::{Object, Refusal};

/// What is to be answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// Headers beyond the content type.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Value,
}

impl Answer {
    /// A body, and nothing special.
    pub fn of(status: StatusCode, body: Value) -> Self {
        Self { status, headers: Vec::new(), body }
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::of(refusal.status, refusal.body())
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body)).into_response();
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

/// Ends the connection before the first byte of the answer. With `reset` by RST, else by FIN.
pub fn lose(connection: &Connection, reset: bool) -> Response {
    connection.cut_after(0, if reset { End::Reset } else { End::Close });
    StatusCode::NO_CONTENT.into_response() // never leaves
}

/// Sends the answer as the fault has it. The status is absent when no answer leaves.
pub async fn deliver(answer: Answer, fault: Delivery, connection: &Connection) -> (Response, Option<u16>) {
    let response = match fault {
        Delivery::Lost(reset) => return (lose(connection, reset), None),
        Delivery::Delayed(delay) => {
            tokio::time::sleep(delay).await;
            answer.into_response()
        }
        Delivery::Error { status, code, message } => Refusal::new(status, &code, message).into_response(),
        Delivery::UnknownEnumValues => Answer { body: strange(answer.body), ..answer }.into_response(),
        Delivery::Html(status) => html(status),
        Delivery::ResetAtByte(byte) => {
            connection.cut_after(byte, End::Reset);
            answer.into_response()
        }
        Delivery::HugeBody(bytes) => body(answer.status, huge(bytes), bytes),
        Delivery::TruncatedJson => {
            let text = answer.body.to_string();
            let half = Bytes::from(text).slice(..answer.body.to_string().len() / 2);
            let length = half.len();
            body(answer.status, Body::from(half), length)
        }
        Delivery::SlowDrip { bytes, pause } => {
            let text = Bytes::from(answer.body.to_string());
            let length = text.len();
            body(answer.status, drip(text, bytes, pause), length)
        }
    };
    let status = response.status().as_u16();
    (response, Some(status))
}

fn html(status: StatusCode) -> Response {
    let page = "<!DOCTYPE html><html><head><title>Proxy</title></head><body><h1>Proxy</h1></body></html>";
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

fn body(status: StatusCode, body: Body, length: usize) -> Response {
    let headers =
        [(header::CONTENT_TYPE, "application/json".to_owned()), (header::CONTENT_LENGTH, length.to_string())];
    (status, headers, body).into_response()
}

/// A JSON string of `bytes` bytes that is never in memory as a whole.
fn huge(bytes: usize) -> Body {
    const CHUNK: usize = 64 * 1_024;
    let chunk = Bytes::from(vec![b' '; CHUNK]);
    let pieces = stream::unfold(bytes, move |left| {
        let piece = chunk.slice(..left.min(CHUNK));
        async move { (left > 0).then(|| (Ok::<_, Infallible>(piece.clone()), left.saturating_sub(piece.len()))) }
    });
    Body::from_stream(pieces)
}

fn drip(text: Bytes, bytes: usize, pause: Duration) -> Body {
    let pieces = stream::unfold(text, move |mut text| async move {
        if text.is_empty() {
            return None;
        }
        tokio::time::sleep(pause).await;
        let piece = text.split_to(bytes.min(text.len()));
        Some((Ok::<_, Infallible>(piece), text))
    });
    Body::from_stream(pieces)
}

/// The transaction, or each of a list, with names and values that no documentation knows.
fn strange(body: Value) -> Value {
    match body {
        Value::Array(list) => Value::Array(list.into_iter().map(strange).collect()),
        Value::Object(transaction) if transaction.contains_key("events") => strange_transaction(transaction),
        other => other,
    }
}

fn strange_transaction(mut transaction: Object) -> Value {
    if let Some(Value::Array(events)) = transaction.get_mut("events") {
        for event in events.iter_mut().filter_map(Value::as_object_mut) {
            event.insert("sandbox_new_field".to_owned(), json!({ "nested": [1, "two", null] }));
        }
        events.push(json!({
            "id": "sandbox-new-event",
            "event": "SANDBOX_NEW_EVENT",
            "transaction_status": "SANDBOX_NEW_STATUS",
            "success": true,
            "amount": 1,
            "error": null,
        }));
    }
    for (name, value) in [
        ("status", "SANDBOX_NEW_STATUS"),
        ("payment_product", "sandbox_new"),
        ("payment_product_type", "sandbox_new.product"),
        ("settlement_status", "SANDBOX_NEW_SETTLEMENT"),
        ("sandbox_new_field", "sandbox"),
    ] {
        transaction.insert(name.to_owned(), value.into());
    }
    Value::Object(transaction)
}
