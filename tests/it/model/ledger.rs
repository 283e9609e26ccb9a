//! The transaction that the PSP would show, and the commands that act upon it.

use std::collections::BTreeMap;

use payops::payment::{Action, Amount, Capture, Command, Guards, Kind, Operation, Refund, outcome::PspError};
use payops::psp::transaction::{self, Transaction};

use super::world::{ATTEMPTS, KEYS};

/// What each capture and each refund moves of `TOTAL`: one key's, twice, fits
/// into it, so that doing it twice is not hidden by the PSP's own guard.
pub const AMOUNT: i64 = 40;
pub const TOTAL: i64 = 100;

/// The PSP's id of an attempt's request.
pub fn request_id(key: u8, attempt: usize) -> String {
    format!("r{key}{attempt}")
}

/// The attempt whose request this is the PSP's id of.
pub fn attempt_of(request_id: &str) -> u8 {
    request_id.as_bytes()[2] - b'0'
}

/// The transaction that shows this: see `World::shows`.
pub fn transaction(commands: &[Command; KEYS], shows: u32) -> Transaction {
    let refunds = commands.iter().any(|command| command.operation.kind() == Kind::Refund);
    let event = |name: &str, amount, success| transaction::Event {
        name: name.to_owned(),
        success: Some(success),
        amount,
        ..transaction::Event::default()
    };
    let mut events = Vec::new();
    if refunds {
        events.push(event("CAPTURE", Some(TOTAL), true));
    }
    for nth in 0..KEYS * ATTEMPTS {
        let key = u8::try_from(nth / ATTEMPTS).unwrap();
        let bits = shows >> (5 * (KEYS * ATTEMPTS - 1 - nth)) & 31;
        let command = &commands[usize::from(key)];
        let name = command.operation.kind().as_str().to_uppercase();
        let amount = command.operation.amount().map(Amount::minor);
        let marked = |event: transaction::Event| transaction::Event {
            event_reference: amount.map(|_| command.operation.event_reference(&command.tag())),
            user_agent: Some(format!("payops operation/{}", command.tag())),
            ..event
        };
        let id = request_id(key, nth % ATTEMPTS);
        if bits & 8 != 0 {
            let begun = marked(event(&format!("INITIATE_{name}"), amount, true));
            events.push(transaction::Event { request_id: Some(id.clone()), ..begun });
        }
        if bits & 4 != 0 {
            let failed = marked(event(&name, amount, false));
            let error = PspError { types: vec!["ERROR".to_owned()], ..PspError::default() };
            let id = Some(format!("f{key}{}", nth % ATTEMPTS));
            events.push(transaction::Event { error: Some(error), id, ..failed });
        }
        if bits & 3 != 0 {
            let end = event(&name, amount, bits & 3 == 1);
            // What was begun ends by name alone.
            let end = if bits & 16 == 0 {
                marked(end)
            } else {
                transaction::Event { correlation_request_id: Some(id), ..end }
            };
            let types = vec!["DECLINED".to_owned()];
            let error = (bits & 3 == 2).then(|| PspError { types, ..PspError::default() });
            events.push(transaction::Event { error, ..end });
        }
    }
    of_events(events, refunds)
}

fn of_events(events: Vec<transaction::Event>, refunds: bool) -> Transaction {
    let sum = |name: &str| -> i64 {
        let done = events.iter().filter(|event| event.name == name && event.success == Some(true));
        done.map(|event| event.amount.unwrap_or(1)).sum()
    };
    let status = match (sum("VOID"), sum("CAPTURE"), sum("REFUND")) {
        (1.., 0, _) => "AUTHORIZATION_VOIDED",
        (_, 0, _) => "AUTHORIZED",
        (_, TOTAL.., 0) => "CAPTURED",
        (_, TOTAL.., _) => "PARTIALLY_REFUNDED",
        _ => "PARTIALLY_CAPTURED",
    };
    assert!(!refunds || sum("CAPTURE") == TOTAL);
    Transaction {
        id: "T12345678.model".to_owned(),
        status: status.to_owned(),
        currency: "NOK".to_owned(),
        product_type: "vipps".to_owned(),
        amount: TOTAL,
        merchant_reference: None,
        settlement_status: None,
        created_at: None,
        updated_at: None,
        items: Vec::new(),
        events,
    }
}

/// What a key asks for.
pub fn command(key: usize, kind: Kind) -> Command {
    let amount = Amount::new(AMOUNT).unwrap();
    let (items, reference, metadata) = (Vec::new(), None, BTreeMap::new());
    let action = match kind {
        Kind::Capture => {
            Action::Capture(Capture { amount, items, reference, metadata, final_capture: false })
        }
        Kind::Void => Action::Void,
        Kind::Refund => {
            Action::Refund(Refund { amount, items, reference, reason: None, metadata, terminal_id: None })
        }
    };
    Command {
        caller: "orders".parse().unwrap(),
        key: format!("key-{key}").parse().unwrap(),
        operation: Operation { transaction: "T12345678.model".parse().unwrap(), action },
        guards: Guards::default(),
        permit: payops::payment::permit::Permit::default(),
        traced: None,
    }
}
