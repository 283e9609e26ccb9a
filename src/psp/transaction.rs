//! A transaction as far as payops looks at it. Customer data is not here, so
//! it cannot leak.

use crate::payment::{
    id::Tag,
    outcome::{PspError, Sums},
};

/// A payment at the PSP [D 4].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The PSP's id.
    pub id: String,
    /// The status, in the PSP's word.
    pub status: String,
    /// ISO 4217.
    pub currency: String,
    /// Such as `dintero_psp.creditcard`.
    pub product_type: String,
    /// What is authorized in all, in minor units. Can change [D 3.8].
    pub amount: i64,
    /// The merchant's reference.
    pub merchant_reference: Option<String>,
    /// `NOT_SETTLED` and so on.
    pub settlement_status: Option<String>,
    /// ISO 8601.
    pub created_at: Option<String>,
    /// ISO 8601.
    pub updated_at: Option<String>,
    /// The order's lines.
    pub items: Vec<Line>,
    /// The history, as listed.
    pub events: Vec<Event>,
}

/// A line of the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The line's id.
    pub line_id: String,
    /// The line's total in minor units.
    pub amount: i64,
    /// SKU.
    pub id: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// The PSP's word for the kind of line.
    pub kind: Option<String>,
}

/// An entry in the history [D 5.1].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The PSP's id of the event.
    pub id: Option<String>,
    /// `CAPTURE`, `INITIATE_REFUND` and so on; unknown words occur.
    pub name: String,
    /// Whether it took effect; absent says neither.
    pub success: Option<bool>,
    /// Minor units.
    pub amount: Option<i64>,
    /// The reference that was sent, or the session's default [D 5.3].
    pub event_reference: Option<String>,
    /// The PSP's id of the request.
    pub request_id: Option<String>,
    /// Links a completing event to its initiating one [D 3.6].
    pub correlation_request_id: Option<String>,
    /// Who sent the request: the only echo of a void [D 5.2].
    pub user_agent: Option<String>,
    /// The system that sent the request, as it introduced itself [D 2.5].
    pub system_name: Option<String>,
    /// Why it did not take effect.
    pub error: Option<PspError>,
    /// What the PSP corrected the state to.
    pub correction: Option<Correction>,
    /// The transaction's status after the event.
    pub transaction_status: Option<String>,
    /// ISO 8601.
    pub created_at: Option<String>,
}

/// How the PSP repaired the state after a failed operation [D 5.1]; minor units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correction {
    /// Can still be captured.
    pub remaining_capture: i64,
    /// Can still be refunded.
    pub remaining_refund: i64,
}

impl Event {
    /// When, as far as its text says so.
    pub fn time(&self) -> Option<jiff::Timestamp> {
        self.created_at.as_deref()?.parse().ok()
    }

    /// Whether its user agent names the tag: the only mark of a void [D 5.2].
    pub fn names(&self, tag: &Tag) -> bool {
        let agent = self.user_agent.as_deref().unwrap_or_default();
        agent.split([' ', '/']).any(|word| word == tag.as_str())
    }
}

impl Transaction {
    /// The sums over all successful events [D 5.4]. INITIATE_ events are not
    /// counted, they would count twice.
    pub fn sums(&self) -> Sums {
        self.sums_of(self.events.iter())
    }

    /// The sums as they were with the event, one of these. The order of events is
    /// not promised: they are put in order by their times, and by their places
    /// only where those are equal or missing [D 12 #19].
    pub fn sums_with(&self, last: &Event) -> Sums {
        let at = self.events.iter().position(|event| std::ptr::eq(event, last)).unwrap_or_default();
        let until =
            self.events.iter().enumerate().filter(|(place, event)| match (event.time(), last.time()) {
                (Some(its), Some(that)) if its != that => its < that,
                _ => *place <= at,
            });
        self.sums_of(until.map(|(_, event)| event))
    }

    /// The sums over some of the events.
    fn sums_of<'a>(&self, events: impl Iterator<Item = &'a Event>) -> Sums {
        let (mut captured, mut refunded, mut released) = (0_i64, 0_i64, false);
        for event in events.filter(|event| event.success == Some(true)) {
            let amount = event.amount.unwrap_or_default();
            match event.name.as_str() {
                "CAPTURE" => captured = captured.saturating_add(amount),
                "REFUND" => refunded = refunded.saturating_add(amount),
                "VOID" => released = true,
                _ => {}
            }
        }
        let captured_in_full = matches!(self.status.as_str(), "CAPTURED" | "REFUNDED" | "PARTIALLY_REFUNDED");
        let shows_capture =
            self.events.iter().any(|event| event.name == "CAPTURE" && event.success == Some(true));
        if captured_in_full && !shows_capture {
            // Products that capture at once may show no capture of their own.
            captured = self.amount;
        }
        let unpaid = matches!(
            self.status.as_str(),
            "INITIATED" | "DECLINED" | "FAILED" | "AUTHORIZATION_VOIDED" | "ON_HOLD"
        );
        // After a final capture or a void of the rest the status is either one
        // [D 12 #8]; what remains is nothing then.
        let capturable = if released || unpaid || captured_in_full {
            0
        } else {
            self.amount.saturating_sub(captured).max(0)
        };
        Sums {
            authorized: self.amount,
            captured,
            refunded,
            capturable,
            refundable: captured.saturating_sub(refunded).max(0),
        }
    }

    /// Whether the authorization is released, in whole or what was left of it.
    pub fn is_released(&self) -> bool {
        self.status == "AUTHORIZATION_VOIDED"
            || self.events.iter().any(|event| event.name == "VOID" && event.success == Some(true))
    }
}
