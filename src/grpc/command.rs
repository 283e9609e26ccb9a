//! Request, metadata and caller become a command, or a list of everything that
//! is wrong. Nothing below this file sees a message of the wire, a zero amount
//! or an empty key.

pub mod review;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    str::FromStr,
};

use tonic::metadata::MetadataMap;

use crate::grpc::pb;
use crate::grpc::violations::{Refused, Violations};
use crate::operations::Name;
use crate::payment::{
    Action, Amount, Caller, Capture, Command, Guards, Operation, Refund,
    id::{Currency, IdempotencyKey, Invalid, OperationId, TransactionId},
    item::{Decimal, DiscountLine, Group, Item, Split, Store},
    permit::Permit,
};

/// Most lines of an operation.
const ITEMS_MAX: usize = 500;
/// Most entries of the metadata.
const METADATA_MAX: usize = 20;
/// Most groups, discounts, splits or fee destinations of a line.
const PARTS_MAX: usize = 50;

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
    let items = items(request.items, request.amount, &mut wrong);
    let capture = Capture {
        amount: amount.unwrap_or(LEAST),
        items,
        reference: optional(&request.reference, "reference", &mut wrong),
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
    let items = items(request.items, request.amount, &mut wrong);
    if !request.terminal_id.is_empty() && !is_name(&request.terminal_id, 64) {
        wrong.add("terminal_id", "must be 1 to 64 letters, digits, '_', '.' or '-'");
    }
    let refund = Refund {
        amount: amount.unwrap_or(LEAST),
        items,
        reference: optional(&request.reference, "reference", &mut wrong),
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

fn amount(minor: i64, wrong: &mut Violations) -> Option<Amount> {
    let amount = Amount::new(minor);
    if amount.is_none() {
        wrong.add("amount", format!("must be 1 to 2147483647 minor units, not {minor}"));
    }
    amount
}

fn items(items: Vec<pb::Item>, amount: i64, wrong: &mut Violations) -> Vec<Item> {
    if items.len() > ITEMS_MAX {
        wrong.add("items", format!("must be at most {ITEMS_MAX}, not {}", items.len()));
        return Vec::new();
    }
    let sum: i64 = items.iter().fold(0, |sum, item| sum.saturating_add(item.amount));
    if !items.is_empty() && sum != amount {
        wrong.add("items", format!("must add up to amount: they are {sum}, and amount is {amount}"));
    }
    let mut seen = HashSet::new();
    for (index, item) in items.iter().enumerate() {
        if !item.line_id.is_empty() && !seen.insert(item.line_id.as_str()) {
            wrong.add(format!("items[{index}].line_id"), "must be unique among the items");
        }
    }
    items.into_iter().enumerate().map(|(index, wire)| item(wire, index, wrong)).collect()
}

fn item(wire: pb::Item, index: usize, wrong: &mut Violations) -> Item {
    let at = |field: &str| format!("items[{index}].{field}");
    let kind = match pb::ItemType::try_from(wire.r#type) {
        Ok(pb::ItemType::Unspecified) => None,
        Ok(pb::ItemType::Physical) => Some("physical"),
        Ok(pb::ItemType::Digital) => Some("digital"),
        Ok(pb::ItemType::Service) => Some("service"),
        Ok(pb::ItemType::GiftCard) => Some("gift_card"),
        Ok(pb::ItemType::Shipping) => Some("shipping"),
        Ok(pb::ItemType::Surcharge) => Some("surcharge"),
        Err(_) => {
            wrong.add(at("type"), "must be a value of ItemType");
            None
        }
    };
    line_amount(wire.amount, kind == Some("gift_card"), &at("amount"), wrong);
    if wire.vat_amount.is_some_and(|vat| i32::try_from(vat).is_err()) {
        wrong.add(at("vat_amount"), "must be within int32 minor units");
    }
    let vat_percent = decimal(&wire.vat_percent, &at("vat_percent"), wrong);
    if vat_percent.as_ref().is_some_and(|vat| vat.places() > 2) {
        wrong.add(at("vat_percent"), "must have at most two decimals");
    }
    let url = &wire.thumbnail_url;
    let https = url.starts_with("https://") && url.bytes().all(|b| b.is_ascii_graphic());
    if !(url.is_empty() || https) {
        wrong.add(at("thumbnail_url"), "must be an https URL");
    }
    let splits = splits(&wire.splits, &at("splits"), wrong);
    let fee_destinations = wire.fee_split.map(|fee| fee.destinations).unwrap_or_default();
    for destination in bounded(&fee_destinations, &at("fee_split.destinations"), wrong) {
        if !splits.iter().any(|split| split.payout_destination_id == *destination) {
            wrong.add(at("fee_split.destinations"), "must each appear among the splits");
        }
    }
    Item {
        line_id: named(wire.line_id, &at("line_id"), wrong),
        amount: wire.amount,
        id: text(wire.id, &at("id"), 128, wrong),
        description: text(wire.description, &at("description"), 500, wrong),
        quantity: decimal(&wire.quantity, &at("quantity"), wrong),
        vat_percent,
        vat_amount: wire.vat_amount,
        kind: kind.map(str::to_owned),
        groups: groups(wire.groups, &at("groups"), wrong),
        discount_lines: discounts(wire.discount_lines, &at("discount_lines"), wrong),
        splits,
        fee_destinations,
        store: wire.store.map(|wire| store(wire, &at("store"), wrong)),
        unit_volume: decimal(&wire.unit_volume, &at("unit_volume"), wrong),
        unit_weight: decimal(&wire.unit_weight, &at("unit_weight"), wrong),
        unit_dimensional_weight: decimal(
            &wire.unit_dimensional_weight,
            &at("unit_dimensional_weight"),
            wrong,
        ),
        thumbnail_url: text(wire.thumbnail_url, &at("thumbnail_url"), 1024, wrong),
    }
}

fn line_amount(amount: i64, gift_card: bool, field: &str, wrong: &mut Violations) {
    if amount == 0 || i32::try_from(amount).is_err() {
        wrong.add(field, "must be within int32 minor units and not zero");
    } else if amount < 0 && !gift_card {
        wrong.add(field, "may be negative only for a line of type ITEM_TYPE_GIFT_CARD");
    }
}

fn groups(wire: Vec<pb::ItemGroup>, field: &str, wrong: &mut Violations) -> Vec<Group> {
    bounded(&wire, field, wrong);
    wire.into_iter()
        .enumerate()
        .map(|(index, group)| Group {
            id: named(group.id, &format!("{field}[{index}].id"), wrong),
            name: text(group.name, &format!("{field}[{index}].name"), 255, wrong),
        })
        .collect()
}

fn discounts(wire: Vec<pb::DiscountLine>, field: &str, wrong: &mut Violations) -> Vec<DiscountLine> {
    const TYPES: &[&str] = &["customer", "periodic", "manual", "loyalty", "total", "employee", "external"];
    bounded(&wire, field, wrong);
    let discount = |(index, line): (usize, pb::DiscountLine)| {
        let at = |name: &str| format!("{field}[{index}].{name}");
        if line.amount.is_some_and(|amount| i32::try_from(amount).is_err()) {
            wrong.add(at("amount"), "must be within int32 minor units");
        }
        if !line.discount_type.is_empty() && !TYPES.contains(&line.discount_type.as_str()) {
            wrong.add(at("discount_type"), format!("must be one of {}", TYPES.join(", ")));
        }
        if line.line_id.is_some_and(|id| i32::try_from(id).is_err()) {
            wrong.add(at("line_id"), "must be within int32");
        }
        DiscountLine {
            amount: line.amount,
            percentage: decimal(&line.percentage, &at("percentage"), wrong),
            discount_type: Some(line.discount_type).filter(|kind| !kind.is_empty()),
            discount_id: text(line.discount_id, &at("discount_id"), 128, wrong),
            description: text(line.description, &at("description"), 500, wrong),
            line_id: line.line_id,
        }
    };
    wire.into_iter().enumerate().map(discount).collect()
}

fn splits(wire: &[pb::PayoutSplit], field: &str, wrong: &mut Violations) -> Vec<Split> {
    bounded(wire, field, wrong);
    wire.iter()
        .enumerate()
        .map(|(index, split)| {
            if split.amount == 0 || i32::try_from(split.amount).is_err() {
                let field = format!("{field}[{index}].amount");
                wrong.add(field, "must be within int32 minor units and not zero");
            }
            let field = format!("{field}[{index}].payout_destination_id");
            let payout_destination_id = named(split.payout_destination_id.clone(), &field, wrong);
            Split { payout_destination_id, amount: split.amount }
        })
        .collect()
}

fn store(wire: pb::Store, field: &str, wrong: &mut Violations) -> Store {
    Store {
        id: named(wire.id, &format!("{field}.id"), wrong),
        name: text(wire.name, &format!("{field}.name"), 255, wrong),
        terminal_id: text(wire.terminal_id, &format!("{field}.terminal_id"), 64, wrong),
        payout_destination_id: text(
            wire.payout_destination_id,
            &format!("{field}.payout_destination_id"),
            128,
            wrong,
        ),
    }
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

/// Text for people: bounded, without control characters; absent when empty.
fn text(text: String, field: &str, characters_max: usize, wrong: &mut Violations) -> Option<String> {
    if text.chars().count() > characters_max || text.chars().any(char::is_control) {
        wrong.add(
            field,
            format!("must be at most {characters_max} characters and hold no control characters"),
        );
    }
    Some(text).filter(|text| !text.is_empty())
}

/// An id of somebody else's making: required, bounded, visible.
fn named(id: String, field: &str, wrong: &mut Violations) -> String {
    if id.is_empty() {
        wrong.add(field, "is required");
    }
    text(id, field, 128, wrong).unwrap_or_default()
}

fn bounded<'a, T>(parts: &'a [T], field: &str, wrong: &mut Violations) -> &'a [T] {
    if parts.len() > PARTS_MAX {
        wrong.add(field, format!("must be at most {PARTS_MAX}, not {}", parts.len()));
    }
    parts
}

fn is_name(text: &str, characters_max: usize) -> bool {
    (1..=characters_max).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}
