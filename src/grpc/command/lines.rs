//! The lines of a capture or refund.
//!
//! Text for people holds no card's number. Ids of somebody else's making are
//! not looked at: the number of an article may well have the form of a card's.

use std::collections::HashSet;

use crate::grpc::command::{decimal, short, text};
use crate::grpc::pb;
use crate::grpc::violations::Violations;
use crate::payment::item::{DiscountLine, Group, Item, Split, Store};

/// Most lines of an operation.
const ITEMS_MAX: usize = 500;
/// Most groups, discounts, splits or fee destinations of a line.
const PARTS_MAX: usize = 50;

pub(super) fn items(items: Vec<pb::Item>, amount: i64, wrong: &mut Violations) -> Vec<Item> {
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
        id: short(wire.id, &at("id"), 128, wrong),
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
        thumbnail_url: short(wire.thumbnail_url, &at("thumbnail_url"), 1024, wrong),
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
            discount_id: short(line.discount_id, &at("discount_id"), 128, wrong),
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
        terminal_id: short(wire.terminal_id, &format!("{field}.terminal_id"), 64, wrong),
        payout_destination_id: short(
            wire.payout_destination_id,
            &format!("{field}.payout_destination_id"),
            128,
            wrong,
        ),
    }
}

/// An id of somebody else's making: required, bounded, visible.
fn named(id: String, field: &str, wrong: &mut Violations) -> String {
    if id.is_empty() {
        wrong.add(field, "is required");
    }
    short(id, field, 128, wrong).unwrap_or_default()
}

fn bounded<'a, T>(parts: &'a [T], field: &str, wrong: &mut Violations) -> &'a [T] {
    if parts.len() > PARTS_MAX {
        wrong.add(field, format!("must be at most {PARTS_MAX}, not {}", parts.len()));
    }
    parts
}
