//! What the transaction itself says about an operation: sums, state, guards
//! and the rules of the payment products [D 3.7]. Used before sending wherever
//! a read is made anyway, and afterwards to explain a refusal in typed words.

use crate::payment::{
    Action, Guards, Kind, Operation,
    outcome::{Decline, PspError, Reason},
};
use crate::psp::transaction::Transaction;

/// The products whose remainder can be voided after a part capture [D 3.3].
const VOID_AFTER_PART_CAPTURE: &[&str] = &[
    "payex.creditcard",
    "payex.mobilepay",
    "payex.vipps",
    "payex.applepay",
    "payex.clicktopay",
    "payex.googlepay",
    "vipps",
    "klarna.klarna",
    "klarna.billie",
];

/// Checks the guards that the caller set.
pub fn check_guards(operation: &Operation, guards: &Guards, on: &Transaction) -> Result<(), Box<Decline>> {
    if let Some(currency) = &guards.currency
        && currency.as_str() != on.currency
    {
        let message = format!("the transaction is in {}, not in {currency}", on.currency);
        return Err(no(Reason::CurrencyMismatch, message, on));
    }
    let sums = on.sums();
    let (remains, verb) = match operation.kind() {
        Kind::Capture => (sums.capturable, "captured"),
        Kind::Void => (sums.capturable, "released"),
        Kind::Refund => (sums.refundable, "refunded"),
    };
    match guards.expected_remaining {
        Some(expected) if expected != remains => Err(no(
            Reason::RemainingMismatch,
            format!("{remains} minor units can still be {verb}, not {expected}"),
            on,
        )),
        _ => Ok(()),
    }
}

/// Checks the operation against the transaction.
pub fn check(operation: &Operation, on: &Transaction) -> Result<(), Box<Decline>> {
    if on.status == "UNKNOWN" {
        // The PSP does not know either: nothing may happen by itself [D 4.1].
        let done = match operation.kind() {
            Kind::Capture => "captured",
            Kind::Void => "voided",
            Kind::Refund => "refunded",
        };
        return Err(state(done, on));
    }
    match &operation.action {
        Action::Capture(capture) => {
            check_capture(operation, capture.amount.minor(), capture.final_capture, on)
        }
        Action::Void => check_void(on),
        Action::Refund(refund) => {
            check_refund(operation, refund.amount.minor(), refund.terminal_id.is_some(), on)
        }
    }
}

fn check_capture(
    operation: &Operation,
    amount: i64,
    final_capture: bool,
    on: &Transaction,
) -> Result<(), Box<Decline>> {
    if on.product_type.starts_with("swish.") {
        return Err(rule("Swish payments are captured at once; there is nothing to capture", on));
    }
    let sums = on.sums();
    if sums.capturable == 0 && sums.captured == 0 {
        return Err(state("captured", on));
    }
    if amount > sums.capturable {
        let message =
            format!("{amount} minor units were asked for and {} can still be captured", sums.capturable);
        return Err(no(Reason::AmountExceedsRemaining, message, on));
    }
    if final_capture && !on.product_type.starts_with("dintero_psp.") {
        return Err(rule("final_capture exists only for dintero_psp products", on));
    }
    check_items(operation, on)?;
    if on.product_type.starts_with("collector.") && !whole_lines(operation, amount, sums.capturable, on) {
        return Err(rule("Walley (collector) captures whole lines only", on));
    }
    Ok(())
}

fn check_void(on: &Transaction) -> Result<(), Box<Decline>> {
    let sums = on.sums();
    if on.product_type.starts_with("swish.") {
        return Err(rule("Swish payments are captured at once; refund instead", on));
    }
    if sums.capturable == 0 {
        return Err(state("voided", on));
    }
    if sums.captured > 0 && !VOID_AFTER_PART_CAPTURE.contains(&on.product_type.as_str()) {
        let message = if on.product_type.starts_with("dintero_psp.") {
            "after a part capture this product cannot be voided; capture the last part with final_capture"
        } else {
            "after a part capture this product cannot be voided"
        };
        return Err(rule(message, on));
    }
    Ok(())
}

fn check_refund(
    operation: &Operation,
    amount: i64,
    has_terminal: bool,
    on: &Transaction,
) -> Result<(), Box<Decline>> {
    let sums = on.sums();
    if sums.captured == 0 {
        return Err(state("refunded", on));
    }
    if amount > sums.refundable {
        let message =
            format!("{amount} minor units were asked for and {} can still be refunded", sums.refundable);
        return Err(no(Reason::AmountExceedsRemaining, message, on));
    }
    if on.product_type == "seitatech.in_person" && !has_terminal {
        return Err(rule("an in-person refund needs terminal_id and the cardholder", on));
    }
    check_items(operation, on)
}

/// Lines must exist on the transaction [D 12 #16]; Instabank wants them, with
/// quantities [D 3.7].
fn check_items(operation: &Operation, on: &Transaction) -> Result<(), Box<Decline>> {
    let items = operation.items();
    if on.product_type.starts_with("instabank")
        && (items.is_empty() || items.iter().any(|item| item.quantity.is_none()))
    {
        return Err(rule("Instabank needs items, each with line_id, quantity and amount", on));
    }
    match items.iter().find(|item| !on.items.iter().any(|line| line.line_id == item.line_id)) {
        Some(item) => Err(rule(&format!("the transaction has no line {:?}", item.line_id), on)),
        None => Ok(()),
    }
}

fn whole_lines(operation: &Operation, amount: i64, capturable: i64, on: &Transaction) -> bool {
    let items = operation.items();
    let whole = |line_id: &str, amount: i64| {
        on.items.iter().any(|line| line.line_id == line_id && line.amount == amount)
    };
    if items.is_empty() { amount == capturable } else { items.iter().all(|i| whole(&i.line_id, i.amount)) }
}

fn state(done: &str, on: &Transaction) -> Box<Decline> {
    no(Reason::TransactionState, format!("a transaction that is {} cannot be {done}", on.status), on)
}

fn rule(message: &str, on: &Transaction) -> Box<Decline> {
    no(Reason::ProductRule, format!("{}: {message}", on.product_type), on)
}

fn no(reason: Reason, message: String, on: &Transaction) -> Box<Decline> {
    Box::new(Decline {
        reason,
        message,
        psp: PspError::default(),
        transaction_status: Some(on.status.clone()),
        sums: Some(on.sums()),
    })
}

#[cfg(test)]
mod tests;
