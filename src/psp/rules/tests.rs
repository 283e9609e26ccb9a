//! The products' rules and the sums, before anything is sent.

use std::collections::BTreeMap;

use super::*;
use crate::payment::{Amount, Capture, Refund, item::Item};
use crate::psp::transaction::{Event, Line};

const TOTAL: i64 = 29_990;

/// A transaction with a chair (26090) and shipping (3900).
fn on(product: &str, status: &str, events: &[(&str, i64)]) -> Transaction {
    let line =
        |id: &str, amount| Line { line_id: id.to_owned(), amount, id: None, description: None, kind: None };
    let event = |(name, amount): &(&str, i64)| Event {
        name: (*name).to_owned(),
        success: Some(true),
        amount: Some(*amount),
        ..Event::default()
    };
    Transaction {
        id: "T12345678.465UfBENeLpkBvwmqfTC4k".to_owned(),
        status: status.to_owned(),
        currency: "NOK".to_owned(),
        product_type: product.to_owned(),
        amount: TOTAL,
        merchant_reference: None,
        settlement_status: None,
        created_at: None,
        updated_at: None,
        items: vec![line("1", 26_090), line("ship-1", 3_900)],
        events: events.iter().map(event).collect(),
    }
}

fn authorized(product: &str) -> Transaction {
    on(product, "AUTHORIZED", &[])
}

fn partly_captured(product: &str) -> Transaction {
    on(product, "PARTIALLY_CAPTURED", &[("CAPTURE", 10_000)])
}

fn captured(product: &str) -> Transaction {
    on(product, "CAPTURED", &[("CAPTURE", TOTAL)])
}

fn operation(action: Action) -> Operation {
    Operation { transaction: "T12345678.465UfBENeLpkBvwmqfTC4k".parse().unwrap(), action }
}

fn item(line_id: &str, amount: i64, quantity: Option<&str>) -> Item {
    Item { quantity: quantity.map(|text| text.parse().unwrap()), ..Item::line(line_id, amount) }
}

fn capture_of(amount: i64, items: Vec<Item>, final_capture: bool) -> Operation {
    let amount = Amount::new(amount).unwrap();
    let metadata = BTreeMap::new();
    operation(Action::Capture(Capture { amount, items, reference: None, metadata, final_capture }))
}

fn capture(amount: i64) -> Operation {
    capture_of(amount, Vec::new(), false)
}

fn refund_of(amount: i64, items: Vec<Item>, terminal_id: Option<&str>) -> Operation {
    operation(Action::Refund(Refund {
        amount: Amount::new(amount).unwrap(),
        items,
        reference: None,
        reason: None,
        metadata: BTreeMap::new(),
        terminal_id: terminal_id.map(str::to_owned),
    }))
}

fn refund(amount: i64) -> Operation {
    refund_of(amount, Vec::new(), None)
}

fn void() -> Operation {
    operation(Action::Void)
}

/// Why not, or none.
fn no(operation: &Operation, on: &Transaction) -> Option<Reason> {
    check(operation, on).err().map(|decline| decline.reason)
}

use Reason::{AmountExceedsRemaining, ProductRule, TransactionState};

#[test]
fn what_a_state_allows() {
    let card = "dintero_psp.creditcard";
    let rows: Vec<(Transaction, [Option<Reason>; 3])> = vec![
        // capture, void, refund of 100
        (authorized(card), [None, None, Some(TransactionState)]),
        (partly_captured(card), [None, Some(ProductRule), None]),
        (captured(card), [Some(AmountExceedsRemaining), Some(TransactionState), None]),
        (
            on(card, "PARTIALLY_CAPTURED_REFUNDED", &[("CAPTURE", 10_000), ("REFUND", 500)]),
            [None, Some(ProductRule), None],
        ),
        (
            on(card, "PARTIALLY_REFUNDED", &[("CAPTURE", TOTAL), ("REFUND", 500)]),
            [Some(AmountExceedsRemaining), Some(TransactionState), None],
        ),
        (
            on(card, "REFUNDED", &[("CAPTURE", TOTAL), ("REFUND", TOTAL)]),
            [Some(AmountExceedsRemaining), Some(TransactionState), Some(AmountExceedsRemaining)],
        ),
        (on(card, "AUTHORIZATION_VOIDED", &[("VOID", 0)]), [Some(TransactionState); 3]),
        (on(card, "AUTHORIZATION_VOIDED", &[]), [Some(TransactionState); 3]),
        (on(card, "INITIATED", &[]), [Some(TransactionState); 3]),
        (on(card, "ON_HOLD", &[]), [Some(TransactionState); 3]),
        (on(card, "DECLINED", &[]), [Some(TransactionState); 3]),
        (on(card, "FAILED", &[]), [Some(TransactionState); 3]),
        // The PSP does not know: nothing may happen by itself.
        (on(card, "UNKNOWN", &[]), [Some(TransactionState); 3]),
        (on(card, "UNKNOWN", &[("CAPTURE", 10_000)]), [Some(TransactionState); 3]),
        // The rest was released: by whatever status, nothing is left.
        (
            on("vipps", "CAPTURED", &[("CAPTURE", 10_000), ("VOID", 0)]),
            [Some(AmountExceedsRemaining), Some(TransactionState), None],
        ),
        (
            on("vipps", "PARTIALLY_CAPTURED", &[("CAPTURE", 10_000), ("VOID", 0)]),
            [Some(AmountExceedsRemaining), Some(TransactionState), None],
        ),
        // A status that nobody knows: the sums decide.
        (on(card, "NEWS_OF_TOMORROW", &[]), [None, None, Some(TransactionState)]),
    ];
    for (transaction, expected) in rows {
        let found = [capture(100), void(), refund(100)].map(|operation| no(&operation, &transaction));
        assert_eq!(found, expected, "{} {:?}", transaction.status, transaction.events);
    }
}

#[test]
fn an_amount_is_at_most_what_remains() {
    let part = on("vipps", "PARTIALLY_CAPTURED_REFUNDED", &[("CAPTURE", 10_000), ("REFUND", 4_000)]);
    assert_eq!(no(&capture(TOTAL - 10_000), &part), None);
    assert_eq!(no(&capture(TOTAL - 9_999), &part), Some(AmountExceedsRemaining));
    assert_eq!(no(&refund(6_000), &part), None);
    assert_eq!(no(&refund(6_001), &part), Some(AmountExceedsRemaining));
    // A failed event, one that says neither, and one of another kind move nothing.
    let mut odd = authorized("vipps");
    for (name, success) in [("CAPTURE", Some(false)), ("CAPTURE", None), ("INITIATE_CAPTURE", Some(true))] {
        let (name, amount) = (name.to_owned(), Some(TOTAL));
        odd.events.push(Event { name, success, amount, ..Event::default() });
    }
    assert_eq!(no(&capture(TOTAL), &odd), None);
    assert_eq!(no(&refund(1), &odd), Some(TransactionState));
}

#[test]
fn after_a_part_capture_only_some_products_release_the_rest() {
    let products = [
        ("payex.creditcard", true),
        ("payex.mobilepay", true),
        ("payex.vipps", true),
        ("payex.applepay", true),
        ("payex.clicktopay", true),
        ("payex.googlepay", true),
        ("vipps", true),
        ("klarna.klarna", true),
        ("klarna.billie", true),
        ("payex.swish", false),
        ("dintero_psp.creditcard", false),
        ("dintero_psp.vipps", false),
        ("collector.invoice", false),
        ("instabank.finance", false),
        ("santander.debit_account", false),
        ("klarna.checkout", false),
        ("", false),
    ];
    for (product, releases) in products {
        let expected = (!releases).then_some(ProductRule);
        assert_eq!(no(&void(), &partly_captured(product)), expected, "{product}");
        assert_eq!(no(&void(), &authorized(product)), None, "{product}: nothing captured yet");
    }
    let told = check(&void(), &partly_captured("dintero_psp.creditcard")).unwrap_err();
    assert!(told.message.contains("final_capture"), "{}", told.message);
}

#[test]
fn a_final_capture_exists_for_dinteros_own_products_only() {
    for (product, expected) in [
        ("dintero_psp.creditcard", None),
        ("dintero_psp.vipps", None),
        ("vipps", Some(ProductRule)),
        ("klarna.klarna", Some(ProductRule)),
        ("dintero.external", Some(ProductRule)),
    ] {
        assert_eq!(no(&capture_of(100, vec![], true), &authorized(product)), expected, "{product}");
        assert_eq!(no(&capture(100), &authorized(product)), None, "{product}");
    }
}

#[test]
fn swish_is_captured_at_once_and_can_only_be_refunded() {
    // With and without a capture event of its own.
    for transaction in [captured("swish.swish"), on("swish.swish", "CAPTURED", &[])] {
        assert_eq!(no(&capture(1), &transaction), Some(ProductRule));
        assert_eq!(no(&void(), &transaction), Some(ProductRule));
        assert_eq!(no(&refund(TOTAL), &transaction), None);
        assert_eq!(no(&refund(TOTAL + 1), &transaction), Some(AmountExceedsRemaining));
    }
}

#[test]
fn instabank_wants_lines_with_quantities() {
    let cases = [
        (vec![], Some(ProductRule)),
        (vec![item("1", 26_090, None)], Some(ProductRule)),
        (vec![item("1", 26_090, Some("1")), item("ship-1", 3_900, None)], Some(ProductRule)),
        (vec![item("1", 26_090, Some("1"))], None),
    ];
    for (items, expected) in cases {
        let captured_operation = capture_of(26_090, items.clone(), false);
        assert_eq!(no(&captured_operation, &authorized("instabank.finance")), expected, "{items:?}");
        let refunded = refund_of(26_090, items.clone(), None);
        assert_eq!(no(&refunded, &captured("instabank.finance")), expected, "{items:?}");
    }
}

#[test]
fn walley_captures_whole_lines() {
    let walley = authorized("collector.invoice");
    assert_eq!(no(&capture(TOTAL), &walley), None, "all that is left");
    assert_eq!(no(&capture(26_090), &walley), Some(ProductRule), "a part without lines");
    assert_eq!(no(&capture_of(26_090, vec![item("1", 26_090, None)], false), &walley), None);
    assert_eq!(no(&capture_of(10_000, vec![item("1", 10_000, None)], false), &walley), Some(ProductRule));
    // The same at another product is no question.
    assert_eq!(no(&capture_of(10_000, vec![item("1", 10_000, None)], false), &authorized("vipps")), None);
}

#[test]
fn an_in_person_refund_needs_its_terminal() {
    let terminal = captured("seitatech.in_person");
    assert_eq!(no(&refund(100), &terminal), Some(ProductRule));
    assert_eq!(no(&refund_of(100, vec![], Some("T1")), &terminal), None);
    assert_eq!(no(&refund(100), &captured("vipps")), None);
}

#[test]
fn a_line_has_to_be_one_of_the_transactions() {
    let stranger = || vec![item("1", 50, None), item("2", 50, None)];
    assert_eq!(no(&capture_of(100, stranger(), false), &authorized("vipps")), Some(ProductRule));
    assert_eq!(no(&refund_of(100, stranger(), None), &captured("vipps")), Some(ProductRule));
    let told = check(&refund_of(100, stranger(), None), &captured("vipps")).unwrap_err();
    assert!(told.message.contains("\"2\""), "{}", told.message);
}

#[test]
fn a_guard_compares_the_currency_and_what_remains() {
    let part = on("vipps", "PARTIALLY_CAPTURED_REFUNDED", &[("CAPTURE", 10_000), ("REFUND", 4_000)]);
    let guards = |currency: Option<&str>, expected_remaining| Guards {
        currency: currency.map(|text| text.parse().unwrap()),
        expected_remaining,
    };
    let cases = [
        (capture(1), guards(None, None), None),
        (capture(1), guards(Some("NOK"), Some(TOTAL - 10_000)), None),
        (void(), guards(Some("NOK"), Some(TOTAL - 10_000)), None),
        (refund(1), guards(Some("NOK"), Some(6_000)), None),
        (refund(1), guards(Some("SEK"), Some(6_000)), Some(Reason::CurrencyMismatch)),
        (refund(1), guards(None, Some(TOTAL - 10_000)), Some(Reason::RemainingMismatch)),
        (capture(1), guards(None, Some(6_000)), Some(Reason::RemainingMismatch)),
        (void(), guards(None, Some(0)), Some(Reason::RemainingMismatch)),
    ];
    for (operation, guards, expected) in cases {
        let found = check_guards(&operation, &guards, &part).err().map(|decline| decline.reason);
        assert_eq!(found, expected, "{} {guards:?}", operation.kind());
    }
}

#[test]
fn a_refusal_tells_the_status_and_the_sums() {
    let told = check(&capture(TOTAL), &partly_captured("vipps")).unwrap_err();
    assert_eq!(told.transaction_status.as_deref(), Some("PARTIALLY_CAPTURED"));
    let sums = told.sums.unwrap();
    assert_eq!((sums.authorized, sums.captured, sums.capturable), (TOTAL, 10_000, TOTAL - 10_000));
    assert_eq!((sums.refunded, sums.refundable), (0, 10_000));
}
