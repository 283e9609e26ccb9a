//! The transactions that exist at start, so that the first minute needs no set-up.

use jiff::Timestamp;
use serde_json::json;

use super::ledger::{Ledger, Opening};
use super::wire::{Item, Object};

/// A transaction that exists at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demo {
    /// The transaction's id.
    pub id: &'static str,
    /// Its `payment_product_type`.
    pub product_type: &'static str,
    /// ISO 4217.
    pub currency: &'static str,
    /// Minor units authorized.
    pub amount: i64,
    /// Minor units captured at start.
    pub captured: i64,
    /// Its lines: id, minor units, description, type.
    pub lines: &'static [(&'static str, i64, &'static str, &'static str)],
    /// What it is good for.
    pub purpose: &'static str,
}

const CHAIR_AND_SHIPPING: &[(&str, i64, &str, &str)] =
    &[("1", 26_090, "Chair", "physical"), ("ship-1", 3_900, "Shipping", "shipping")];
const ONE_LINE: &[(&str, i64, &str, &str)] = &[("1", 29_990, "Chair", "physical")];

const CARD: &str = "dintero_psp.creditcard";

/// The transactions that exist at start when [`super::Settings::demo_transactions`] is on.
pub const DEMO_TRANSACTIONS: &[Demo] = &[
    demo(
        "T12345678.demoCard00000000000001",
        CARD,
        0,
        CHAIR_AND_SHIPPING,
        "a card to capture, in full or in part",
    ),
    demo("T12345678.demoCard00000000000002", CARD, 0, CHAIR_AND_SHIPPING, "a card to void"),
    demo(
        "T12345678.demoCard00000000000003",
        CARD,
        0,
        CHAIR_AND_SHIPPING,
        "a card to break: try a fault on it",
    ),
    demo("T12345678.demoCard00000000000004", CARD, 0, CHAIR_AND_SHIPPING, "a card for two callers at once"),
    demo("T12345678.demoCard00000000000005", CARD, 0, CHAIR_AND_SHIPPING, "one more card"),
    demo("T12345678.demoCardOneLine0000001", CARD, 0, ONE_LINE, "a card with one line, as in the guide"),
    demo("T12345678.demoCardCaptured000001", CARD, 29_990, CHAIR_AND_SHIPPING, "a captured card to refund"),
    demo("T12345678.demoVipps0000000000001", "vipps", 0, CHAIR_AND_SHIPPING, "void after a part capture"),
    demo(
        "T12345678.demoKlarna000000000001",
        "klarna.klarna",
        0,
        CHAIR_AND_SHIPPING,
        "a new total, or void of the rest",
    ),
    demo(
        "T12345678.demoInstabank000000001",
        "instabank.finance",
        0,
        CHAIR_AND_SHIPPING,
        "items are required",
    ),
    Demo {
        currency: "SEK",
        ..demo(
            "T12345678.demoSwish0000000000001",
            "swish.swish",
            29_990,
            CHAIR_AND_SHIPPING,
            "captured at once; refunds are accepted and end later",
        )
    },
    demo("T12345678.demoCollector000000001", "collector.invoice", 0, CHAIR_AND_SHIPPING, "whole lines only"),
    demo(
        "T12345678.demoInPerson0000000001",
        "seitatech.in_person",
        29_990,
        CHAIR_AND_SHIPPING,
        "captured; a refund needs a terminal and ends later",
    ),
    demo(
        "T12345678.demoPayex0000000000001",
        "payex.creditcard",
        0,
        CHAIR_AND_SHIPPING,
        "void after a part capture",
    ),
];

const fn demo(
    id: &'static str,
    product_type: &'static str,
    captured: i64,
    lines: &'static [(&'static str, i64, &'static str, &'static str)],
    purpose: &'static str,
) -> Demo {
    Demo { id, product_type, currency: "NOK", amount: 29_990, captured, lines, purpose }
}

/// Opens them all.
pub fn open_all(ledger: &mut Ledger, now: Timestamp) {
    for (place, demo) in DEMO_TRANSACTIONS.iter().enumerate() {
        let account = demo.id.split('.').next().unwrap_or_default();
        let opening = Opening {
            id: Some(demo.id.to_owned()),
            product_type: demo.product_type.to_owned(),
            currency: demo.currency.to_owned(),
            captured: demo.captured,
            items: demo.lines.iter().map(line).collect(),
            merchant_reference: Some(format!("DEMO-{}", place + 1)),
            ..Opening::card(account, demo.amount)
        };
        if let Err(problem) = ledger.open(opening, now) {
            tracing::error!(problem, "a demo transaction could not be opened"); // the list is constant and tested
        }
    }
}

fn line(&(line_id, amount, description, kind): &(&str, i64, &str, &str)) -> Item {
    let fields = json!({
        "id": format!("sku-{line_id}"),
        "line_id": line_id,
        "description": description,
        "quantity": 1,
        "amount": amount,
        "vat": 25,
        "vat_amount": amount / 5,
        "type": kind,
    });
    let fields = match fields {
        serde_json::Value::Object(fields) => fields,
        _ => Object::new(),
    };
    Item { line_id: line_id.to_owned(), amount, fields }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_demo_has_an_id_of_the_documented_form_and_lines_that_add_up() {
        for demo in DEMO_TRANSACTIONS {
            let (account, suffix) = demo.id.split_once('.').unwrap();
            assert_eq!(account, "T12345678");
            assert_eq!(suffix.len(), 22, "{}", demo.id);
            assert!(suffix.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{}", demo.id);
            assert_eq!(demo.lines.iter().map(|line| line.1).sum::<i64>(), demo.amount, "{}", demo.id);
        }
    }

    #[test]
    fn all_demos_open() {
        let mut ledger = Ledger::new(1);
        open_all(&mut ledger, Timestamp::now());
        assert_eq!(ledger.newest_first().count(), DEMO_TRANSACTIONS.len());
    }
}
