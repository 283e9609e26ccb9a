//! `POST …/authorization` `[D 3.8]`: a new total, an extension, or an on-hold transaction let go.

use http::StatusCode;
use jiff::Timestamp;

use super::{Ledger, Transaction};
use crate::sandbox::products::Authorization;
use crate::sandbox::wire::{Event, Item, Refusal, time};

/// What the request says.
#[derive(Clone, Debug, Default)]
pub struct Authorize {
    /// The new total in minor units.
    pub amount: Option<i64>,
    /// The new lines.
    pub items: Vec<Item>,
    /// No further change.
    pub final_authorization: bool,
    /// The caller's reference.
    pub reference: Option<String>,
    /// The API client.
    pub created_by: String,
}

impl Ledger {
    /// Changes the authorization and appends an `AUTHORIZE` event.
    pub fn authorize(&mut self, id: &str, request: Authorize, now: Timestamp) -> Result<(), Refusal> {
        let ids = (self.random.uuid(), self.random.uuid());
        let transaction = self.get_mut(id)?;
        transaction.room_for_events()?;
        check(transaction, &request)?;
        if let Some(amount) = request.amount {
            transaction.opening.amount = amount;
        }
        if !request.items.is_empty() {
            transaction.opening.items.clone_from(&request.items);
        }
        transaction.authorization_locked |= request.final_authorization;
        transaction.blocked = None;
        transaction.expired = false;
        transaction.updated_at = now;
        let event = Event {
            id: ids.0,
            event: "AUTHORIZE",
            transaction_status: transaction.status(),
            success: true,
            amount: Some(transaction.opening.amount),
            items: Item::values(&request.items),
            event_reference: request.reference.or_else(|| transaction.opening.default_reference.clone()),
            request_id: ids.1,
            created_by: Some(request.created_by),
            created_at: time(now),
            ..Event::default()
        };
        transaction.events.push(event.object());
        self.changed(id, "authorization");
        Ok(())
    }
}

fn check(transaction: &Transaction, request: &Authorize) -> Result<(), Refusal> {
    let rule = transaction.rules().authorization;
    let old = transaction.opening.amount;
    let on_hold = transaction.blocked.as_deref() == Some("ON_HOLD");
    if rule == Authorization::External && on_hold {
        return Ok(());
    }
    let open =
        transaction.blocked.is_none() && transaction.capturable() > 0 && !transaction.authorization_locked;
    if rule == Authorization::External || !open {
        // The documented 409; which cases earn it is not said.
        let message = format!("Transaction is {}", transaction.status());
        return Err(Refusal::new(StatusCode::CONFLICT, "CONFLICT", message));
    }
    let sum: i64 = request.items.iter().map(|item| item.amount).sum();
    let problem = match (rule, request.amount) {
        (Authorization::None, _) => Some("The payment product has no authorization to change"),
        (_, Some(amount)) if amount < transaction.captured => Some("Amount is less than what is captured"),
        (Authorization::Klarna, Some(amount)) if !transaction.opening.items.is_empty() && sum != amount => {
            Some("items is required, and must amount to the new total")
        }
        (Authorization::Preauthorization, None) => Some("amount is required"),
        (Authorization::Preauthorization, Some(amount)) if amount <= old && !request.final_authorization => {
            Some("Amount must be larger than the authorized one")
        }
        _ => None,
    };
    problem.map_or(Ok(()), |problem| Err(Refusal::bad_request(problem)))
}
