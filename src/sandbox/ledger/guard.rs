//! What a transaction allows: states, sums, lines and the rules of its product.
//!
//! Every refusal here is a 400. That, and most of the rules for lines, is an assumption `[D 12 #5]` `[D 12 #16]`.

use super::{Kind, Order, Source, Transaction};
use crate::sandbox::products::Items;
use crate::sandbox::wire::{Item, Refusal};

/// How many minor units the order moves, or why it may not.
pub fn guard(transaction: &Transaction, order: &Order) -> Result<i64, Refusal> {
    let amount = judge(transaction, order).map_err(Refusal::bad_request)?;
    Ok(amount)
}

fn judge(transaction: &Transaction, order: &Order) -> Result<i64, String> {
    if transaction.blocked.is_some() {
        return Err(format!("Transaction is {}", transaction.status()));
    }
    match order.kind {
        Kind::Capture => capture(transaction, order)?,
        Kind::Refund => refund(transaction, order)?,
        Kind::Void => return void(transaction),
    }
    if order.source != Source::Backoffice {
        lines(transaction, order)?;
    }
    Ok(order.amount)
}

fn capture(transaction: &Transaction, order: &Order) -> Result<(), String> {
    let rules = transaction.rules();
    if rules.captured_at_once {
        return Err("The payment product captures by itself".to_owned()); // [D 3.7]
    }
    if transaction.expired {
        return Err("The authorization has expired".to_owned()); // [D 12 #10]
    }
    if order.final_capture && !rules.final_capture {
        // Documented for dintero_psp only [D 3.1]; that others refuse it is an assumption.
        return Err("final_capture is not supported by the payment product".to_owned());
    }
    if transaction.authorization_is_gone() {
        return Err(format!("Transaction is {}", transaction.status()));
    }
    bounded(order.amount, transaction.capturable(), "remaining authorized")
}

fn refund(transaction: &Transaction, order: &Order) -> Result<(), String> {
    if transaction.rules().refund_terminal
        && order.source != Source::Backoffice
        && order.terminal_id.is_none()
    {
        return Err("terminal_id is required for the payment product".to_owned()); // [D 3.2]
    }
    if transaction.captured == 0 && transaction.captured_at.is_empty() {
        return Err(format!("Transaction is {}", transaction.status()));
    }
    // No limit by time or balance [D 12 #26].
    bounded(order.amount, transaction.refundable(), "remaining captured")
}

fn void(transaction: &Transaction) -> Result<i64, String> {
    let rules = transaction.rules();
    let zero = rules.zero_amount && transaction.opening.amount == 0 && transaction.captured_at.is_empty();
    if rules.captured_at_once {
        return Err("The payment product has no authorization to void".to_owned()); // [D 3.7]
    }
    if transaction.captured > 0 && !rules.void_remainder {
        return Err("The payment product cannot void after a capture".to_owned()); // [D 3.3]
    }
    if transaction.voidable() <= 0 && !zero {
        // Fully captured, or voided before [D 12 #27].
        return Err(format!("Nothing is left to void, transaction is {}", transaction.status()));
    }
    Ok(transaction.voidable())
}

fn bounded(amount: i64, remaining: i64, of: &str) -> Result<(), String> {
    if amount > remaining {
        return Err(format!("Amount {amount} exceeds the {of} amount {remaining}"));
    }
    Ok(())
}

fn lines(transaction: &Transaction, order: &Order) -> Result<(), String> {
    let rule = transaction.rules().items;
    let needs_splits = |line: &&Item| order.kind == Kind::Capture && line.splits_are_open();
    if order.items.is_empty() {
        if transaction.opening.items.iter().any(|line| needs_splits(&line)) {
            return Err("items is required: splits come with the capture".to_owned()); // [D 3.7]
        }
        let remaining = match order.kind {
            Kind::Refund => transaction.refundable(),
            Kind::Capture | Kind::Void => transaction.capturable(),
        };
        return match rule {
            Items::Required => Err("items is required for the payment product".to_owned()), // [D 3.7]
            Items::WholeLines if order.amount != remaining => {
                Err("items is required: the payment product moves whole lines".to_owned())
            }
            Items::Optional | Items::WholeLines => Ok(()),
        };
    }
    let sum: i64 = order.items.iter().map(|item| item.amount).sum();
    if sum != order.amount {
        return Err(format!("invalid_items: items amount to {sum}, not to {}", order.amount));
    }
    for item in &order.items {
        let line_id = &item.line_id;
        let line = transaction.opening.items.iter().find(|line| &line.line_id == line_id);
        let line = line.ok_or_else(|| format!("invalid_items: no line {line_id} in the transaction"))?;
        if needs_splits(&line) && !item.has_splits() {
            return Err(format!("invalid_items: line {line_id} needs splits")); // [D 3.7]
        }
        let left = line.amount - transaction.line_moved(order.kind, line_id);
        let exceeds = if line.amount < 0 { item.amount < left } else { item.amount > left };
        if exceeds {
            return Err(format!("invalid_items: {left} is left of line {line_id}, not {}", item.amount));
        }
        match rule {
            Items::Required if !item.fields.contains_key("quantity") => {
                return Err(format!("invalid_items: line {line_id} needs a quantity"));
            }
            Items::WholeLines if item.amount != line.amount => {
                return Err(format!("invalid_items: line {line_id} moves as a whole, {}", line.amount));
            }
            _ => (),
        }
    }
    Ok(())
}

impl Transaction {
    fn authorization_is_gone(&self) -> bool {
        let final_capture_is_open = self.open.iter().any(|open| open.order.final_capture);
        self.released > 0 || final_capture_is_open || (self.capturable() <= 0 && self.opening.amount > 0)
    }
}
