//! One transaction: its state, its sums, and how Dintero shows it `[D 4]`.

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{EVENTS_MAX, Kind, Order};
use crate::sandbox::products::{self, Rules};
use crate::sandbox::random::Random;
use crate::sandbox::wire::{Event, Item, Object, Refusal, time};

/// How a transaction comes into being.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The account that owns it.
    pub account: String,
    /// Its id; made up when absent.
    pub id: Option<String>,
    /// `payment_product_type`.
    pub product_type: String,
    /// ISO 4217.
    pub currency: String,
    /// Minor units authorized.
    pub amount: i64,
    /// Minor units captured so far.
    pub captured: i64,
    /// Minor units refunded so far.
    pub refunded: i64,
    /// Minor units voided so far.
    pub released: i64,
    /// A status in which nothing can be done: `INITIATED`, `ON_HOLD`, `DECLINED`, `FAILED` or `UNKNOWN`.
    pub blocked: Option<String>,
    /// The lines of the order.
    pub items: Vec<Item>,
    /// The session's `order.event_reference` `[D 5.3]`.
    pub default_reference: Option<String>,
    /// The merchant's references.
    pub merchant_reference: Option<String>,
    /// The second one, which `PUT` changes.
    pub merchant_reference_2: Option<String>,
    /// The session's id; made up when absent.
    pub session_id: Option<String>,
    /// The card's behaviour.
    pub test_card: Option<TestCard>,
    /// The authorization has expired.
    pub expired: bool,
    /// When it was created; now, when absent.
    pub created_at: Option<Timestamp>,
}

/// A card of Dintero's test data on which one operation times out `[D 9]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestCard {
    /// The operation that times out; none for the cards that are always good.
    pub times_out: Option<Kind>,
}

impl TestCard {
    /// The behaviour of a card number; blanks do not matter. `None` for a number that is not in the test data.
    pub fn numbered(number: &str) -> Option<Self> {
        let digits: String = number.chars().filter(|letter| !letter.is_whitespace()).collect();
        let times_out = match digits.as_str() {
            "4000000000000002" | "5200000000000007" => None,
            "4100000000000019" | "5100000000000016" => Some(Kind::Capture),
            "4100000000000027" | "5100000000000024" => Some(Kind::Refund),
            "4100000000000043" | "5100000000000040" => Some(Kind::Void),
            _ => return None,
        };
        Some(Self { times_out })
    }
}

/// An accepted operation that is not finished.
#[derive(Clone, Debug)]
pub struct Open {
    /// The `request_id` of its `INITIATE_` event.
    pub request_id: String,
    /// What was asked.
    pub order: Order,
    /// Minor units that it holds.
    pub amount: i64,
}

/// What GET shows instead of the truth, and until when.
#[derive(Clone, Debug)]
pub struct Lag {
    /// GET shows the truth from here on.
    pub until: Instant,
    /// The transaction as it was.
    pub shown: Value,
}

/// A transaction.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// `<account>.<22 letters and digits>`.
    pub id: String,
    /// How it came into being; `amount` and `items` change with a new authorization.
    pub opening: Opening,
    /// Minor units captured.
    pub captured: i64,
    /// Minor units refunded.
    pub refunded: i64,
    /// Minor units voided.
    pub released: i64,
    /// What is released does not count towards the status `[D 12 #8]`.
    pub released_counts_as_captured: bool,
    /// A status in which nothing can be done.
    pub blocked: Option<String>,
    /// Captures fail although the status is AUTHORIZED `[D 12 #10]`.
    pub expired: bool,
    /// A pre-authorization that was made final `[D 3.8]`.
    pub authorization_locked: bool,
    /// Accepted and not finished.
    pub open: Vec<Open>,
    /// Lines moved so far: kind, line, minor units.
    pub lines: Vec<(Kind, String, i64)>,
    /// As shown, in the order they were appended.
    pub events: Vec<Object>,
    /// When money was captured.
    pub captured_at: Vec<Timestamp>,
    /// When money was refunded.
    pub refunded_at: Vec<Timestamp>,
    /// The opening's time.
    pub created_at: Timestamp,
    /// The last change's time.
    pub updated_at: Timestamp,
    /// Set while GET lags behind.
    pub lag: Option<Lag>,
    session_id: String,
}

impl Opening {
    /// An authorized card payment of `amount` minor units NOK.
    pub fn card(account: &str, amount: i64) -> Self {
        Self {
            account: account.to_owned(),
            id: None,
            product_type: "dintero_psp.creditcard".to_owned(),
            currency: "NOK".to_owned(),
            amount,
            captured: 0,
            refunded: 0,
            released: 0,
            blocked: None,
            items: Vec::new(),
            default_reference: None,
            merchant_reference: None,
            merchant_reference_2: None,
            session_id: None,
            test_card: None,
            expired: false,
            created_at: None,
        }
    }
}

impl Transaction {
    pub(super) fn open(id: String, opening: Opening, random: &mut Random, now: Timestamp) -> Self {
        let created_at = opening.created_at.unwrap_or(now);
        let made_up = format!("{}.{}", opening.account, random.alphanumeric(22));
        let mut transaction = Self {
            id,
            captured: 0,
            refunded: 0,
            released: 0,
            released_counts_as_captured: false,
            blocked: Some("INITIATED".to_owned()),
            expired: opening.expired,
            authorization_locked: false,
            open: Vec::new(),
            lines: Vec::new(),
            events: Vec::new(),
            captured_at: Vec::new(),
            refunded_at: Vec::new(),
            created_at,
            updated_at: created_at,
            lag: None,
            session_id: opening.session_id.clone().unwrap_or(made_up),
            opening,
        };
        transaction.write_history(random);
        transaction
    }

    /// Appends the events that lead to the opening's state.
    fn write_history(&mut self, random: &mut Random) {
        let opening = self.opening.clone();
        self.append_history("INITIALIZE", None, true, random);
        self.blocked = opening.blocked;
        if self.blocked.as_deref() != Some("INITIATED") {
            let success = !matches!(self.blocked.as_deref(), Some("DECLINED" | "FAILED"));
            self.append_history("AUTHORIZE", Some(opening.amount), success, random);
        }
        if opening.captured > 0 {
            self.captured = opening.captured;
            self.captured_at.push(self.created_at);
            self.append_history("CAPTURE", Some(opening.captured), true, random);
        }
        if opening.released > 0 {
            self.released = opening.released;
            self.append_history("VOID", None, true, random);
        }
        if opening.refunded > 0 {
            self.refunded = opening.refunded;
            self.refunded_at.push(self.created_at);
            self.append_history("REFUND", Some(opening.refunded), true, random);
        }
    }

    fn append_history(&mut self, name: &str, amount: Option<i64>, success: bool, random: &mut Random) {
        let whole = name == "CAPTURE" && amount == Some(self.opening.amount);
        let event = Event {
            id: random.uuid(),
            event: name,
            transaction_status: self.status(),
            success,
            amount,
            items: if whole { Item::values(&self.opening.items) } else { Vec::new() },
            event_reference: self.opening.default_reference.clone().filter(|_| amount.is_some()),
            error: (!success).then(|| json!({ "message": "Declined", "type": ["DECLINED"] })),
            request_id: random.uuid(),
            created_at: time(self.created_at),
            ..Event::default()
        };
        self.events.push(event.object());
    }

    /// The rules of its payment product.
    pub fn rules(&self) -> Rules {
        products::rules(&self.opening.product_type)
    }

    /// The status, derived from the sums as in `[D 4.1]`.
    pub fn status(&self) -> String {
        let kept = if self.released_counts_as_captured { self.released } else { 0 };
        let sums = (self.opening.amount, self.captured, self.refunded, self.released);
        derive(self.blocked.as_deref(), sums, kept, !self.captured_at.is_empty())
    }

    /// The status that an opening leads to.
    pub fn status_of(opening: &Opening) -> String {
        let sums = (opening.amount, opening.captured, opening.refunded, opening.released);
        derive(opening.blocked.as_deref(), sums, 0, opening.captured > 0)
    }

    /// Minor units that a capture may still take; accepted captures and voids are set aside.
    pub fn capturable(&self) -> i64 {
        let held = self.held(Kind::Capture) + self.held(Kind::Void);
        self.opening.amount - self.captured - self.released - held
    }

    /// Minor units that a refund may still give back; accepted refunds are set aside.
    pub fn refundable(&self) -> i64 {
        self.captured - self.refunded - self.held(Kind::Refund)
    }

    /// Minor units that a void would release.
    pub fn voidable(&self) -> i64 {
        if self.captured == 0 || self.rules().void_remainder { self.capturable() } else { 0 }
    }

    /// Minor units of a line that captures or refunds took, accepted ones included.
    pub fn line_moved(&self, kind: Kind, line_id: &str) -> i64 {
        let done = self.lines.iter().filter(|(of, line, _)| *of == kind && line == line_id);
        let open = self.open.iter().filter(|open| open.order.kind == kind);
        let open = open.flat_map(|open| &open.order.items).filter(|item| item.line_id == line_id);
        done.map(|(_, _, amount)| *amount).sum::<i64>() + open.map(|item| item.amount).sum::<i64>()
    }

    fn held(&self, kind: Kind) -> i64 {
        self.open.iter().filter(|open| open.order.kind == kind).map(|open| open.amount).sum()
    }

    /// Refuses what would make the history longer than the sandbox keeps it. No limit of Dintero's is known.
    pub fn room_for_events(&self) -> Result<(), Refusal> {
        if self.events.len() < EVENTS_MAX {
            return Ok(());
        }
        let message = format!("The sandbox keeps {EVENTS_MAX} events of a transaction; take another one");
        Err(Refusal::bad_request(message))
    }

    /// The status that GET shows at this moment.
    pub fn status_shown(&self, now: Instant) -> String {
        let lagging = self.lag.as_ref().filter(|lag| now < lag.until);
        let shown = lagging.and_then(|lag| lag.shown.get("status")?.as_str());
        shown.map_or_else(|| self.status(), str::to_owned)
    }

    /// A `correction` that tells the present state `[D 5.1]`.
    pub fn correction(&self) -> Value {
        json!({
            "status": self.status(),
            "remaining_capture_amount": self.capturable().max(0),
            "remaining_refund_amount": self.refundable().max(0),
            "remaining_void_amount": self.voidable().max(0),
        })
    }

    /// What GET shows at this moment.
    pub fn shown(&self, now: Instant) -> Value {
        match &self.lag {
            Some(lag) if now < lag.until => lag.shown.clone(),
            _ => self.truth(),
        }
    }

    /// The transaction as Dintero shows it `[D 4]`, without lag and with all its events `[D 12 #20]`.
    pub fn truth(&self) -> Value {
        let opening = &self.opening;
        let mut object = json!({
            "id": self.id,
            "session_id": self.session_id,
            "payment_product": products::product(&opening.product_type),
            "payment_product_type": opening.product_type,
            "amount": opening.amount,
            "currency": opening.currency,
            "status": self.status(),
            "channel": "ecommerce",
            "settlement_status": "NOT_SETTLED",
            "created_at": time(self.created_at),
            "updated_at": time(self.updated_at),
            "items": Item::values(&opening.items),
            "events": self.events,
        });
        let references = [
            ("merchant_reference", opening.merchant_reference.clone().map(Value::from)),
            ("merchant_reference_2", opening.merchant_reference_2.clone().map(Value::from)),
            ("metadata", opening.default_reference.as_ref().map(|own| json!({ "event_reference": own }))),
        ];
        if let Some(object) = object.as_object_mut() {
            let present = references.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
            object.extend(present);
        }
        object
    }

    /// The transaction as it was before its last event.
    pub fn before_last_event(&self) -> Value {
        let mut shown = self.truth();
        let Some(object) = shown.as_object_mut() else { return shown };
        let mut events = self.events.clone();
        events.pop();
        if let Some(status) = events.last().and_then(|event| event.get("transaction_status")) {
            object.insert("status".to_owned(), status.clone());
        }
        if let Some(at) = events.last().and_then(|event| event.get("created_at")) {
            object.insert("updated_at".to_owned(), at.clone());
        }
        object.insert("events".to_owned(), json!(events));
        shown
    }

    /// The session's id.
    pub fn session_id(&self) -> &str {
        &self.session_id
    }
}

/// The status by the sums `[D 4.1]`: authorized, captured, refunded and released minor units. `kept` is the part of
/// the released that counts as captured.
fn derive(blocked: Option<&str>, sums: (i64, i64, i64, i64), kept: i64, was_captured: bool) -> String {
    if let Some(status) = blocked {
        return status.to_owned();
    }
    let (amount, captured, refunded, released) = sums;
    let full = captured >= amount - kept;
    let status = if captured == 0 && released > 0 {
        "AUTHORIZATION_VOIDED"
    } else if !was_captured {
        "AUTHORIZED"
    } else if refunded == 0 {
        if full { "CAPTURED" } else { "PARTIALLY_CAPTURED" }
    } else if !full {
        "PARTIALLY_CAPTURED_REFUNDED" // also when all that was captured is refunded [D 12 #9]
    } else if refunded >= captured {
        "REFUNDED"
    } else {
        "PARTIALLY_REFUNDED"
    };
    status.to_owned()
}
