//! The JSON that Dintero speaks: error bodies `[D 8]`, items `[D 3.4]` and events `[D 5.1]`.

use std::collections::HashSet;

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// A JSON object.
pub type Object = Map<String, Value>;

/// The largest `int32`: the bound of every amount in a request `[D 1]`.
pub const INT32_MAX: i64 = 2_147_483_647;

/// A request that is answered with an error body, and did nothing unless its maker says otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// `error.code`. Only `NOT FOUND` is documented; the others follow its form `[D 12 #4]`.
    pub code: String,
    /// `error.message`.
    pub message: String,
}

impl Refusal {
    /// The answer to a malformed request and, `[D 12 #5]`, to one that the transaction's state or sums do not allow.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BAD REQUEST", message)
    }

    /// No such transaction `[D 3.5]`.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT FOUND", "Transaction not found")
    }

    /// Any other refusal.
    pub fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into() }
    }

    /// The documented error body.
    pub fn body(&self) -> Value {
        json!({ "error": { "code": self.code, "message": self.message, "errors": [] } })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, axum::Json(self.body())).into_response()
    }
}

/// A line of the order, or of an operation. All fields are kept as they came.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Names the line within the transaction.
    pub line_id: String,
    /// Minor units, VAT and discounts included; negative for gift cards `[D 3.4]`.
    pub amount: i64,
    /// Everything that was sent for the line.
    pub fields: Object,
}

impl Item {
    /// Reads the `items` of a request. `line_id` and `amount` are required and line ids are unique `[D 3.4]`.
    pub fn list(value: Option<&Value>) -> Result<Vec<Item>, String> {
        let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(Vec::new()) };
        let list = value.as_array().ok_or("items must be an array of objects")?;
        let mut items: Vec<Item> = Vec::with_capacity(list.len());
        let mut ids = HashSet::with_capacity(list.len());
        for (place, value) in list.iter().enumerate() {
            let fields = value.as_object().ok_or(format!("items[{place}] must be an object"))?;
            let line_id = fields.get("line_id").and_then(Value::as_str).filter(|id| !id.is_empty());
            let line_id = line_id.ok_or(format!("items[{place}].line_id must be a string"))?.to_owned();
            let amount =
                fields.get("amount").and_then(Value::as_i64).filter(|amount| amount.abs() <= INT32_MAX);
            let amount = amount.ok_or(format!("items[{place}].amount must be an int32"))?;
            if !ids.insert(line_id.clone()) {
                return Err(format!("items[{place}].line_id {line_id} occurs twice"));
            }
            if !fields.get("splits").is_none_or(splits_are_valid) {
                return Err(format!(
                    "items[{place}].splits must be an array of payout_destination_id and amount"
                ));
            }
            items.push(Item { line_id, amount, fields: fields.clone() });
        }
        Ok(items)
    }

    /// Whether the session left to the capture who is paid: its `splits` are there and empty `[D 3.7]`.
    pub fn splits_are_open(&self) -> bool {
        self.fields.get("splits").and_then(Value::as_array).is_some_and(Vec::is_empty)
    }

    /// Whether it says who is paid.
    pub fn has_splits(&self) -> bool {
        self.fields.get("splits").and_then(Value::as_array).is_some_and(|splits| !splits.is_empty())
    }

    /// The items as they came.
    pub fn values(items: &[Item]) -> Vec<Value> {
        items.iter().map(|item| Value::Object(item.fields.clone())).collect()
    }
}

/// Only the form of splits is looked at, as at Dintero `[D 3.7]`.
fn splits_are_valid(splits: &Value) -> bool {
    let valid = |split: &Value| {
        let amount = split.get("amount").and_then(Value::as_i64);
        split.get("payout_destination_id").is_some_and(Value::is_string)
            && amount.is_some_and(|amount| amount.abs() <= INT32_MAX)
    };
    splits.is_null() || splits.as_array().is_some_and(|splits| splits.iter().all(valid))
}

/// An event as Dintero shows it `[D 5.1]`.
#[expect(clippy::struct_field_names, reason = "the names are Dintero's")]
#[derive(Debug, Default, Serialize)]
pub struct Event<'a> {
    /// The event's own id.
    pub id: String,
    /// `CAPTURE`, `INITIATE_CAPTURE` and so on.
    pub event: &'a str,
    /// The transaction's status after this event.
    pub transaction_status: String,
    /// Whether the operation took effect, before any `correction`.
    pub success: bool,
    /// Minor units; captured or refunded. Absent on a void.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<i64>,
    /// The lines of the operation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Value>,
    /// The caller's reference, or the session's default `[D 5.3]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_reference: Option<String>,
    /// Present only when the sandbox is told to echo it `[D 12 #13]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Object>,
    /// Only when `success` is false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Value>,
    /// How the state was repaired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correction: Option<Value>,
    /// Made by the server.
    pub request_id: String,
    /// The `request_id` of the `INITIATE_` event that this one completes `[D 3.6]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_request_id: Option<String>,
    /// The echo of some request headers, user agent included `[D 5.2]`.
    #[serde(skip_serializing_if = "Object::is_empty")]
    pub request_headers: Object,
    /// The API client or the Backoffice user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// ISO 8601, UTC, milliseconds.
    pub created_at: String,
}

impl Event<'_> {
    /// The event as an object.
    pub fn object(&self) -> Object {
        match serde_json::to_value(self) {
            Ok(Value::Object(object)) => object,
            _ => Object::new(), // a struct of strings and integers always becomes an object
        }
    }
}

/// ISO 8601 in UTC with milliseconds, as in Dintero's examples.
pub fn time(at: Timestamp) -> String {
    format!("{at:.3}")
}
