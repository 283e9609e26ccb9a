//! Request, metadata and caller become a command, or a list of everything that
//! is wrong. Nothing below this file sees a message of the wire, a zero amount
//! or an empty key.

mod lines;
pub mod review;

use std::{
    collections::{BTreeMap, HashMap},
    str::FromStr,
};

use tonic::metadata::MetadataMap;

use crate::grpc::pb;
use crate::grpc::violations::{Refused, Violations};
use crate::operations::Name;
use crate::payment::{
    Action, Amount, Caller, Capture, Command, Guards, Operation, Refund,
    card::is_card_number_in,
    id::{Currency, IdempotencyKey, Invalid, OperationId, Reference, TransactionId},
    item::Decimal,
    permit::Permit,
};

/// Most entries of the metadata.
const METADATA_MAX: usize = 20;

/// What is said of a text with a card's number in it, and never the number.
const NO_CARD_NUMBER: &str =
    "must not hold the number of a card: leave it out, the transaction id names the payment";

/// What a money RPC asks for.
#[derive(Debug)]
pub struct Asked {
    /// The command.
    pub command: Command,
    /// Check and send nothing.
    pub validate_only: bool,
    /// PENDING is answer enough.
    pub pending_suffices: bool,
}

/// The fields that all three have.
struct Common<'a> {
    transaction_id: &'a str,
    currency_code: &'a str,
    expected_remaining: Option<i64>,
    validate_only: bool,
    pending_suffices: bool,
}

/// `CaptureRequest`.
pub fn capture(
    request: pb::CaptureRequest,
    metadata: &MetadataMap,
    caller: &Caller,
    serves: impl Fn(&TransactionId) -> bool,
) -> Result<Asked, Refused> {
    let mut wrong = Violations::default();
    let amount = amount(request.amount, &mut wrong);
    let items = lines::items(request.items, request.amount, &mut wrong);
    let capture = Capture {
        amount: amount.unwrap_or(LEAST),
        items,
        reference: reference(&request.reference, &mut wrong),
        metadata: extra(request.metadata, &mut wrong),
        final_capture: request.final_capture,
    };
    let common = Common {
        transaction_id: &request.transaction_id,
        currency_code: &request.currency_code,
        expected_remaining: request.expected_remaining,
        validate_only: request.validate_only,
        pending_suffices: request.r#async,
    };
    assemble(&common, Action::Capture(capture), metadata, caller, serves, wrong)
}

/// `VoidRequest`.
pub fn void(
    request: &pb::VoidRequest,
    metadata: &MetadataMap,
    caller: &Caller,
    serves: impl Fn(&TransactionId) -> bool,
) -> Result<Asked, Refused> {
    let common = Common {
        transaction_id: &request.transaction_id,
        currency_code: &request.currency_code,
        expected_remaining: request.expected_remaining,
        validate_only: request.validate_only,
        pending_suffices: request.r#async,
    };
    assemble(&common, Action::Void, metadata, caller, serves, Violations::default())
}

/// `RefundRequest`.
pub fn refund(
    request: pb::RefundRequest,
    metadata: &MetadataMap,
    caller: &Caller,
    serves: impl Fn(&TransactionId) -> bool,
) -> Result<Asked, Refused> {
    let mut wrong = Violations::default();
    let amount = amount(request.amount, &mut wrong);
    let items = lines::items(request.items, request.amount, &mut wrong);
    if !request.terminal_id.is_empty() && !is_name(&request.terminal_id, 64) {
        wrong.add("terminal_id", "must be 1 to 64 letters, digits, '_', '.' or '-'");
    }
    let refund = Refund {
        amount: amount.unwrap_or(LEAST),
        items,
        reference: reference(&request.reference, &mut wrong),
        reason: text(request.reason, "reason", 255, &mut wrong),
        metadata: extra(request.metadata, &mut wrong),
        terminal_id: Some(request.terminal_id).filter(|id| !id.is_empty()),
    };
    let common = Common {
        transaction_id: &request.transaction_id,
        currency_code: &request.currency_code,
        expected_remaining: request.expected_remaining,
        validate_only: request.validate_only,
        pending_suffices: request.r#async,
    };
    assemble(&common, Action::Refund(refund), metadata, caller, serves, wrong)
}

/// `GetTransactionRequest`.
pub fn transaction(
    request: &pb::GetTransactionRequest,
    serves: impl Fn(&TransactionId) -> bool,
) -> Result<TransactionId, Refused> {
    let mut wrong = Violations::default();
    let id = transaction_id(&request.transaction_id, serves, &mut wrong);
    wrong.unless(id)
}

/// `GetOperationRequest`.
pub fn get_operation(request: pb::GetOperationRequest) -> Result<Name, Refused> {
    use pb::get_operation_request::Name as Wire;
    match request.name {
        Some(Wire::OperationId(id)) => by_id(&id),
        Some(Wire::IdempotencyKey(key)) => by_key(&key),
        None => nameless(),
    }
}

/// `WatchOperationRequest`.
pub fn watch_operation(request: pb::WatchOperationRequest) -> Result<Name, Refused> {
    use pb::watch_operation_request::Name as Wire;
    match request.name {
        Some(Wire::OperationId(id)) => by_id(&id),
        Some(Wire::IdempotencyKey(key)) => by_key(&key),
        None => nameless(),
    }
}

/// Stands in for an amount that is wrong; the command is never built then.
const LEAST: Amount = Amount::LEAST;

fn assemble(
    common: &Common<'_>,
    action: Action,
    metadata: &MetadataMap,
    caller: &Caller,
    serves: impl Fn(&TransactionId) -> bool,
    mut wrong: Violations,
) -> Result<Asked, Refused> {
    let key = idempotency_key(metadata, &mut wrong);
    let transaction = transaction_id(common.transaction_id, serves, &mut wrong);
    let code = Some(common.currency_code).filter(|code| !code.is_empty());
    let currency = code.and_then(|code| {
        let parsed = code.parse::<Currency>();
        parsed.map_err(|invalid| wrong.add("currency_code", invalid.to_string())).ok()
    });
    if common.expected_remaining.is_some_and(i64::is_negative) {
        wrong.add("expected_remaining", "must not be negative; leave it out where it is not known");
    }
    let guards = Guards { currency, expected_remaining: common.expected_remaining };
    let caller = caller.name.clone();
    let command = key.zip(transaction).map(|(key, transaction)| Command {
        caller,
        key,
        operation: Operation { transaction, action },
        guards,
        permit: Permit::default(),
        traced: None,
    });
    Ok(Asked {
        command: wrong.unless(command)?,
        validate_only: common.validate_only,
        pending_suffices: common.pending_suffices,
    })
}

fn idempotency_key(metadata: &MetadataMap, wrong: &mut Violations) -> Option<IdempotencyKey> {
    const FIELD: &str = "metadata.idempotency-key";
    let mut values = metadata.get_all("idempotency-key").iter();
    let Some(value) = values.next() else {
        wrong.because("IDEMPOTENCY_KEY_MISSING");
        wrong.add(FIELD, "is required: make one for each intention, best a UUIDv7, and repeat it on retries");
        return None;
    };
    let parsed = value.to_str().ok().and_then(|text| text.parse().ok());
    let remedy = format!("must be {}, given once", IdempotencyKey::RULE);
    if values.next().is_some() {
        wrong.because("IDEMPOTENCY_KEY_INVALID");
        wrong.add(FIELD, remedy);
        return None;
    }
    if parsed.is_none() {
        wrong.because("IDEMPOTENCY_KEY_INVALID");
        wrong.add(FIELD, remedy);
    }
    parsed
}

fn transaction_id(
    text: &str,
    serves: impl Fn(&TransactionId) -> bool,
    wrong: &mut Violations,
) -> Option<TransactionId> {
    let id = required::<TransactionId>(text, "transaction_id", wrong)?;
    if serves(&id) {
        return Some(id);
    }
    let account = id.account();
    wrong.add("transaction_id", format!("is of account {account}, which this boundary does not serve"));
    None
}

/// People do put more than an order's number there.
fn reference(text: &str, wrong: &mut Violations) -> Option<Reference> {
    if is_card_number_in(text) {
        wrong.add("reference", NO_CARD_NUMBER);
    }
    optional(text, "reference", wrong)
}

fn amount(minor: i64, wrong: &mut Violations) -> Option<Amount> {
    let amount = Amount::new(minor);
    if amount.is_none() {
        wrong.add("amount", format!("must be 1 to 2147483647 minor units, not {minor}"));
    }
    amount
}

/// The caller's metadata; the PSP wants `ext_` before each key, and 128
/// characters at most with it [D 3.1].
fn extra(metadata: HashMap<String, String>, wrong: &mut Violations) -> BTreeMap<String, String> {
    if metadata.len() > METADATA_MAX {
        wrong.add("metadata", format!("must have at most {METADATA_MAX} entries, not {}", metadata.len()));
        return BTreeMap::new();
    }
    let metadata: BTreeMap<String, String> = metadata.into_iter().collect();
    for (key, value) in &metadata {
        // The name of the field would tell the number.
        if is_card_number_in(key) {
            wrong.add("metadata", NO_CARD_NUMBER);
            continue;
        }
        let field = || format!("metadata[{:?}]", key.chars().take(40).collect::<String>());
        if !is_name(key, 124) {
            wrong.add(field(), "key must be 1 to 124 letters, digits, '_', '.' or '-'");
        } else if key == "operation_id" {
            wrong.add(field(), "key is used by payops itself; choose another");
        } else if key.starts_with("ext_") {
            wrong.add(field(), "key must come without ext_, which payops puts before it");
        }
        if value.chars().count() > 256 || value.chars().any(char::is_control) {
            wrong.add(field(), "value must be at most 256 characters and hold no control characters");
        }
        if is_card_number_in(value) {
            wrong.add(field(), format!("value {NO_CARD_NUMBER}"));
        }
    }
    metadata
}

fn by_id(text: &str) -> Result<Name, Refused> {
    let mut wrong = Violations::default();
    let id = required::<OperationId>(text, "operation_id", &mut wrong);
    wrong.unless(id.map(Name::Id))
}

fn by_key(text: &str) -> Result<Name, Refused> {
    let mut wrong = Violations::default();
    let key = required::<IdempotencyKey>(text, "idempotency_key", &mut wrong);
    wrong.unless(key.map(Name::Key))
}

fn nameless() -> Result<Name, Refused> {
    let mut wrong = Violations::default();
    wrong.add("name", "is required: give operation_id or idempotency_key");
    wrong.unless(None)
}

fn required<T: FromStr<Err = Invalid>>(text: &str, field: &str, wrong: &mut Violations) -> Option<T> {
    if text.is_empty() {
        wrong.add(field, "is required");
        return None;
    }
    text.parse().map_err(|invalid: Invalid| wrong.add(field, invalid.to_string())).ok()
}

fn optional<T: FromStr<Err = Invalid>>(text: &str, field: &str, wrong: &mut Violations) -> Option<T> {
    if text.is_empty() { None } else { required(text, field, wrong) }
}

fn decimal(text: &str, field: &str, wrong: &mut Violations) -> Option<Decimal> {
    optional(text, field, wrong)
}

/// Text for people: as [`short`], and without the number of a card.
fn text(text: String, field: &str, characters_max: usize, wrong: &mut Violations) -> Option<String> {
    if is_card_number_in(&text) {
        wrong.add(field, NO_CARD_NUMBER);
    }
    short(text, field, characters_max, wrong)
}

/// Bounded text without control characters; absent when empty.
fn short(text: String, field: &str, characters_max: usize, wrong: &mut Violations) -> Option<String> {
    if text.chars().count() > characters_max || text.chars().any(char::is_control) {
        wrong.add(
            field,
            format!("must be at most {characters_max} characters and hold no control characters"),
        );
    }
    Some(text).filter(|text| !text.is_empty())
}

fn is_name(text: &str, characters_max: usize) -> bool {
    (1..=characters_max).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}
