//! Dintero's JSON and nothing else. What is sent is exact; what comes back is
//! read leniently: unknown fields, statuses and event names do no harm, `null`
//! is absence. A field of a wrong *type* makes the whole answer unusable:
//! half-understood evidence is worse than none.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::payment::{
    Action, Operation,
    id::{Tag, TransactionId},
    item::{Decimal, Item},
    outcome::PspError,
};
use crate::psp::transaction::{Correction, Event, Line, Transaction};

/// Longest text of the PSP that is kept.
const TEXT_MAX: usize = 500;

/// The request body; a void has none [D 3.3].
pub fn body(operation: &Operation, tag: &Tag) -> Option<Value> {
    let (amount, items, metadata) = match &operation.action {
        Action::Capture(capture) => (capture.amount, &capture.items, &capture.metadata),
        Action::Refund(refund) => (refund.amount, &refund.items, &refund.metadata),
        Action::Void => return None,
    };
    let mut body = Map::new();
    body.insert("amount".into(), amount.minor().into());
    if !items.is_empty() {
        body.insert("items".into(), items.iter().map(item).collect());
    }
    body.insert("metadata".into(), ext(metadata, tag));
    let reference = operation.event_reference(tag);
    match &operation.action {
        Action::Capture(capture) => {
            body.insert("capture_reference".into(), reference.into());
            if capture.final_capture {
                body.insert("final_capture".into(), true.into());
            }
        }
        Action::Refund(refund) => {
            body.insert("refund_reference".into(), reference.into());
            put(&mut body, "reason", refund.reason.as_deref());
            put(&mut body, "terminal_id", refund.terminal_id.as_deref());
        }
        Action::Void => {}
    }
    Some(Value::Object(body))
}

/// Reads a transaction.
pub fn transaction(body: &[u8]) -> Result<Transaction, String> {
    // serde_json's message may repeat what it read, and that may be personal:
    // only the place is told.
    let read: WireTransaction = serde_json::from_slice(body)
        .map_err(|error| format!("not a transaction (line {}, column {})", error.line(), error.column()))?;
    Ok(read.into())
}

/// Reads a list of transactions, as far as their ids: a bare array [D 6.2].
pub fn ids(body: &[u8]) -> Result<Vec<TransactionId>, String> {
    let read: Vec<WireId> = serde_json::from_slice(body)
        .map_err(|error| format!("not a list (line {}, column {})", error.line(), error.column()))?;
    let ids = read.into_iter().map(|WireId { id }| id.parse());
    ids.collect::<Result<_, _>>().map_err(|_| "an id in the list is none of a transaction".to_owned())
}

/// Reads an error body [D 8]; none if it is not one.
pub fn error(body: &[u8], http_status: u16) -> Option<PspError> {
    let WireErrorBody { error } = serde_json::from_slice(body).ok()?;
    Some(PspError { http_status: Some(http_status), ..error.into() })
}

fn ext(metadata: &BTreeMap<String, String>, tag: &Tag) -> Value {
    let entries = metadata.iter().map(|(key, value)| (format!("ext_{key}"), Value::from(value.as_str())));
    // Belt and braces: whether metadata comes back is unknown [D 12 #13].
    entries.chain([("ext_operation_id".to_owned(), Value::from(tag.as_str()))]).collect::<Map<_, _>>().into()
}

fn item(item: &Item) -> Value {
    let mut line = Map::new();
    line.insert("line_id".into(), item.line_id.as_str().into());
    line.insert("amount".into(), item.amount.into());
    put(&mut line, "id", item.id.as_deref());
    put(&mut line, "description", item.description.as_deref());
    put_number(&mut line, "quantity", item.quantity.as_ref());
    put_number(&mut line, "vat", item.vat_percent.as_ref());
    put(&mut line, "vat_amount", item.vat_amount);
    put(&mut line, "type", item.kind.as_deref());
    put(&mut line, "thumbnail_url", item.thumbnail_url.as_deref());
    put_number(&mut line, "unit_volume", item.unit_volume.as_ref());
    put_number(&mut line, "unit_weight", item.unit_weight.as_ref());
    put_number(&mut line, "unit_dimensional_weight", item.unit_dimensional_weight.as_ref());
    if !item.groups.is_empty() {
        let groups = item.groups.iter().map(|group| {
            let mut object = Map::new();
            put(&mut object, "id", Some(group.id.as_str()));
            put(&mut object, "name", group.name.as_deref());
            Value::Object(object)
        });
        line.insert("groups".into(), groups.collect());
    }
    if !item.discount_lines.is_empty() {
        let discounts = item.discount_lines.iter().map(|discount| {
            let mut object = Map::new();
            put(&mut object, "amount", discount.amount);
            put_number(&mut object, "percentage", discount.percentage.as_ref());
            put(&mut object, "discount_type", discount.discount_type.as_deref());
            put(&mut object, "discount_id", discount.discount_id.as_deref());
            put(&mut object, "description", discount.description.as_deref());
            put(&mut object, "line_id", discount.line_id);
            Value::Object(object)
        });
        line.insert("discount_lines".into(), discounts.collect());
    }
    if !item.splits.is_empty() {
        let splits = item.splits.iter().map(
            |split| json!({"payout_destination_id": split.payout_destination_id, "amount": split.amount}),
        );
        line.insert("splits".into(), splits.collect());
    }
    if !item.fee_destinations.is_empty() {
        let fee = json!({"type": "proportional", "destinations": item.fee_destinations});
        line.insert("fee_split".into(), fee);
    }
    if let Some(store) = &item.store {
        let mut object = Map::new();
        put(&mut object, "id", Some(store.id.as_str()));
        put(&mut object, "name", store.name.as_deref());
        put(&mut object, "terminal_id", store.terminal_id.as_deref());
        put(&mut object, "payout_destination_id", store.payout_destination_id.as_deref());
        line.insert("store".into(), object.into());
    }
    Value::Object(line)
}

fn put(object: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object.insert(name.to_owned(), value.into());
    }
}

/// A decimal as a JSON number. At most fifteen digits, so that even a reader
/// who holds numbers in binary sees the same decimal.
fn put_number(object: &mut Map<String, Value>, name: &str, value: Option<&Decimal>) {
    put(
        object,
        name,
        value.and_then(|value| serde_json::from_str::<serde_json::Number>(value.as_str()).ok()),
    );
}

#[derive(Deserialize)]
struct WireId {
    id: String,
}

#[derive(Deserialize)]
struct WireTransaction {
    id: String,
    status: String,
    currency: String,
    amount: i64,
    payment_product_type: Option<String>,
    merchant_reference: Option<String>,
    settlement_status: Option<String>,
    created_at: Option<String>,
    updated_at: Option<String>,
    #[serde(default)]
    items: Option<Vec<WireLine>>,
    #[serde(default)]
    events: Option<Vec<WireEvent>>,
}

#[derive(Deserialize)]
struct WireLine {
    // Text in the specification; numbers occur in shops' data.
    line_id: Option<Value>,
    amount: Option<i64>,
    id: Option<String>,
    description: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct WireEvent {
    id: Option<String>,
    event: Option<String>,
    success: Option<bool>,
    amount: Option<i64>,
    event_reference: Option<String>,
    request_id: Option<String>,
    correlation_request_id: Option<String>,
    request_headers: Option<WireHeaders>,
    error: Option<WireError>,
    correction: Option<WireCorrection>,
    transaction_status: Option<String>,
    created_at: Option<String>,
}

#[derive(Default, Deserialize)]
struct WireHeaders {
    #[serde(rename = "user-agent")]
    user_agent: Option<String>,
    #[serde(rename = "dintero-system-name")]
    system_name: Option<String>,
}

#[derive(Deserialize)]
struct WireCorrection {
    remaining_capture_amount: i64,
    remaining_refund_amount: i64,
}

#[derive(Deserialize)]
struct WireErrorBody {
    error: WireError,
}

#[derive(Deserialize)]
struct WireError {
    message: Option<String>,
    code: Option<Value>,
    #[serde(rename = "type")]
    types: Option<Value>,
    result_code: Option<Value>,
    retry_policy: Option<WireRetryPolicy>,
}

#[derive(Deserialize)]
struct WireRetryPolicy {
    retry_codes: Option<Vec<String>>,
    retry_after: Option<String>,
}

impl From<WireTransaction> for Transaction {
    fn from(wire: WireTransaction) -> Self {
        Self {
            id: wire.id,
            status: wire.status,
            currency: wire.currency,
            product_type: wire.payment_product_type.unwrap_or_default(),
            amount: wire.amount,
            merchant_reference: wire.merchant_reference,
            settlement_status: wire.settlement_status,
            created_at: wire.created_at,
            updated_at: wire.updated_at,
            items: wire.items.unwrap_or_default().into_iter().map(Line::from).collect(),
            events: wire.events.unwrap_or_default().into_iter().map(Event::from).collect(),
        }
    }
}

impl From<WireLine> for Line {
    fn from(wire: WireLine) -> Self {
        Self {
            line_id: wire.line_id.as_ref().map(text).unwrap_or_default(),
            amount: wire.amount.unwrap_or_default(),
            id: wire.id,
            description: wire.description,
            kind: wire.kind,
        }
    }
}

impl From<WireEvent> for Event {
    fn from(wire: WireEvent) -> Self {
        let headers = wire.request_headers.unwrap_or_default();
        Self {
            id: wire.id,
            name: wire.event.unwrap_or_default(),
            success: wire.success,
            amount: wire.amount,
            event_reference: wire.event_reference,
            request_id: wire.request_id,
            correlation_request_id: wire.correlation_request_id,
            user_agent: headers.user_agent,
            system_name: headers.system_name,
            error: wire.error.map(PspError::from),
            correction: wire.correction.map(|correction| Correction {
                remaining_capture: correction.remaining_capture_amount,
                remaining_refund: correction.remaining_refund_amount,
            }),
            transaction_status: wire.transaction_status,
            created_at: wire.created_at,
        }
    }
}

impl From<WireError> for PspError {
    fn from(wire: WireError) -> Self {
        let (retry_codes, retry_after) =
            wire.retry_policy.map(|policy| (policy.retry_codes, policy.retry_after)).unwrap_or_default();
        Self {
            http_status: None,
            code: wire.code.as_ref().map(text),
            message: wire.message.as_deref().map(short),
            types: match wire.types {
                Some(Value::Array(types)) => types.iter().take(16).map(text).collect(),
                Some(Value::Null) | None => Vec::new(),
                Some(single) => vec![text(&single)],
            },
            result_code: wire.result_code.as_ref().map(text),
            retry_codes: retry_codes.unwrap_or_default().iter().take(16).map(|code| short(code)).collect(),
            retry_after: retry_after.as_deref().map(short),
        }
    }
}

/// Opaque values as text: a code may be a number one day.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => short(text),
        other => short(&other.to_string()),
    }
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect()
}
