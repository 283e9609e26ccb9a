//! Entries and transactions as messages of the contract.

pub mod review;

use prost_types::Timestamp as WireTime;

use crate::clock::Timestamp;
use crate::grpc::pb;
use crate::journal::entry::{Entry, State};
use crate::payment::{
    Command, Kind, Operation,
    id::Reference,
    outcome::{Decline, Proof, Sums},
};
use crate::psp::transaction::{Event, Line, Transaction};

/// What is known of an operation.
pub fn operation(entry: &Entry) -> pb::Operation {
    let (proof, decline) = match &entry.state {
        State::Succeeded(proof) => (Some(self::proof(proof)), None),
        State::Declined(decline) => (None, Some(self::decline(decline))),
        _ => (None, None),
    };
    pb::Operation {
        operation_id: entry.id.to_string(),
        state: state(&entry.state).into(),
        attempt: i32::try_from(entry.attempt).unwrap_or(i32::MAX),
        event_reference: match entry.operation.kind() {
            Kind::Void => String::new(),
            Kind::Capture | Kind::Refund => entry.operation.event_reference(&entry.tag()),
        },
        create_time: Some(time(entry.created_at)),
        update_time: Some(time(entry.updated_at)),
        proof,
        decline,
        note: entry.state.why().unwrap_or_default().to_owned(),
        ..asked(&entry.operation)
    }
}

/// The answer to `validate_only`: nothing was sent, nothing recorded.
pub fn validated(command: &Command) -> pb::Operation {
    let event_reference = match command.operation.kind() {
        Kind::Void => String::new(),
        Kind::Capture | Kind::Refund => command.operation.event_reference(&command.tag()),
    };
    pb::Operation {
        state: pb::OperationState::Validated.into(),
        event_reference,
        ..asked(&command.operation)
    }
}

/// The PSP's transaction.
pub fn transaction(read: &Transaction) -> pb::Transaction {
    pb::Transaction {
        transaction_id: read.id.clone(),
        status: status(&read.status).into(),
        status_raw: read.status.clone(),
        currency_code: read.currency.clone(),
        payment_product_type: read.product_type.clone(),
        merchant_reference: read.merchant_reference.clone().unwrap_or_default(),
        sums: Some(sums(&read.sums())),
        items: read.items.iter().map(line).collect(),
        events: read.events.iter().map(event).collect(),
        settlement_status: read.settlement_status.clone().unwrap_or_default(),
        create_time: read.created_at.as_deref().and_then(psp_time),
        update_time: read.updated_at.as_deref().and_then(psp_time),
    }
}

fn asked(operation: &Operation) -> pb::Operation {
    let kind = match operation.kind() {
        Kind::Capture => pb::OperationKind::Capture,
        Kind::Void => pb::OperationKind::Void,
        Kind::Refund => pb::OperationKind::Refund,
    };
    pb::Operation {
        kind: kind.into(),
        transaction_id: operation.transaction.to_string(),
        amount: operation.amount().map_or(0, crate::payment::Amount::minor),
        reference: operation.reference().map(Reference::to_string).unwrap_or_default(),
        ..pb::Operation::default()
    }
}

fn state(state: &State) -> pb::OperationState {
    match state {
        State::Started | State::Resent => pb::OperationState::Started,
        State::Accepted => pb::OperationState::Pending,
        State::InDoubt { .. } => pb::OperationState::InDoubt,
        State::Released { .. } => pb::OperationState::Released,
        State::Succeeded(_) => pb::OperationState::Succeeded,
        State::Declined(_) => pb::OperationState::Declined,
        State::Review { .. } => pb::OperationState::InReview,
    }
}

/// The state in the contract's word, such as `IN_DOUBT`.
pub fn state_word(entry_state: &State) -> &'static str {
    let name = state(entry_state).as_str_name();
    name.strip_prefix("OPERATION_STATE_").unwrap_or(name)
}

fn proof(proof: &Proof) -> pb::Proof {
    pb::Proof {
        event_id: proof.event_id.clone().unwrap_or_default(),
        amount: proof.amount,
        event_time: proof.event_time.as_deref().and_then(psp_time),
        transaction_status: status(&proof.transaction_status).into(),
        transaction_status_raw: proof.transaction_status.clone(),
        sums: Some(sums(&proof.sums)),
    }
}

fn decline(decline: &Decline) -> pb::Decline {
    let psp = &decline.psp;
    pb::Decline {
        reason: decline.reason.as_str().to_owned(),
        message: decline.message.clone(),
        psp_http_status: psp.http_status.map_or(0, i32::from),
        psp_code: psp.code.clone().unwrap_or_default(),
        psp_message: psp.message.clone().unwrap_or_default(),
        psp_types: psp.types.clone(),
        psp_result_code: psp.result_code.clone().unwrap_or_default(),
        psp_retry_codes: psp.retry_codes.clone(),
        sums: decline.sums.as_ref().map(sums),
    }
}

fn sums(sums: &Sums) -> pb::TransactionSums {
    pb::TransactionSums {
        authorized: sums.authorized,
        captured: sums.captured,
        refunded: sums.refunded,
        capturable: sums.capturable,
        refundable: sums.refundable,
    }
}

fn line(line: &Line) -> pb::TransactionItem {
    pb::TransactionItem {
        line_id: line.line_id.clone(),
        amount: line.amount,
        id: line.id.clone().unwrap_or_default(),
        description: line.description.clone().unwrap_or_default(),
        r#type: line.kind.clone().unwrap_or_default(),
    }
}

fn event(event: &Event) -> pb::TransactionEvent {
    let error = event.error.clone().unwrap_or_default();
    pb::TransactionEvent {
        event_id: event.id.clone().unwrap_or_default(),
        event: event.name.clone(),
        success: event.success == Some(true),
        amount: event.amount.unwrap_or_default(),
        event_reference: event.event_reference.clone().unwrap_or_default(),
        transaction_status_raw: event.transaction_status.clone().unwrap_or_default(),
        event_time: event.created_at.as_deref().and_then(psp_time),
        error_message: error.message.unwrap_or_default(),
        error_types: error.types,
    }
}

/// The PSP's word as the enum; a word it does not have stays beside it, raw.
fn status(word: &str) -> pb::TransactionStatus {
    pb::TransactionStatus::from_str_name(&format!("TRANSACTION_STATUS_{word}")).unwrap_or_default()
}

fn time(at: Timestamp) -> WireTime {
    let nanos = i32::try_from(at.0.rem_euclid(1000).saturating_mul(1_000_000)).unwrap_or_default();
    WireTime { seconds: at.0.div_euclid(1000), nanos }
}

fn psp_time(text: &str) -> Option<WireTime> {
    let at: jiff::Timestamp = text.parse().ok()?;
    let (seconds, nanos) = (at.as_second(), at.subsec_nanosecond());
    // jiff rounds towards zero before 1970; the wire counts nanos upwards.
    if nanos < 0 {
        return Some(WireTime { seconds: seconds - 1, nanos: nanos + 1_000_000_000 });
    }
    Some(WireTime { seconds, nanos })
}
