//! The books balance, whatever happens.

use proptest::prelude::*;

use super::*;
use crate::sandbox::failure::Failure;
use std::time::Duration;

#[derive(Clone, Debug)]
enum Step {
    Operate(Kind, i64, bool, Twist),
    Backoffice(Kind, i64),
    Complete(Outcome),
}

#[derive(Clone, Copy, Debug)]
enum Twist {
    None,
    Fails,
    Later,
    WithoutReference,
    Contradicting(bool),
}

impl Twist {
    fn manner(self) -> Manner {
        match self {
            Self::None => Manner::Plainly,
            Self::Fails => Manner::Fails(Failure::timed_out()),
            Self::Later => Manner::Later(Completion { outcome: Outcome::Never, after: Duration::ZERO }),
            Self::WithoutReference => Manner::WithoutReference,
            Self::Contradicting(success) => Manner::Contradicting(success),
        }
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Capture), Just(Kind::Refund), Just(Kind::Void)]
}

fn twists() -> impl Strategy<Value = Twist> {
    prop_oneof![
        4 => Just(Twist::None),
        1 => Just(Twist::Fails),
        2 => Just(Twist::Later),
        1 => Just(Twist::WithoutReference),
        1 => any::<bool>().prop_map(Twist::Contradicting),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (kinds(), 1..60_i64, any::<bool>(), twists())
            .prop_map(|(kind, amount, last, twist)| Step::Operate(kind, amount, last, twist)),
        1 => (kinds(), 1..60_i64).prop_map(|(kind, amount)| Step::Backoffice(kind, amount)),
        2 => prop_oneof![Just(Outcome::Done), Just(Outcome::Failed(Failure::timed_out()))].prop_map(Step::Complete),
    ]
}

fn products() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("dintero_psp.creditcard"), Just("vipps"), Just("klarna.klarna"), Just("kravia.invoice")]
}

fn order(id: &str, kind: Kind, amount: i64, final_capture: bool) -> Order {
    let source = Source::Api;
    Order { final_capture, source, reference: Some("r".to_owned()), ..Order::backoffice(id, kind, amount) }
}

proptest! {
    /// No history of operations captures more than is authorized, or refunds more than is captured; and the ledger,
    /// the sums and the successful events agree.
    #[test]
    fn the_books_balance(product_type in products(), steps in proptest::collection::vec(steps(), 0..40)) {
        let now = Timestamp::UNIX_EPOCH;
        let mut ledger = Ledger::new(1);
        let opening = Opening { product_type: product_type.to_owned(), ..Opening::card("T12345678", 100) };
        let id = ledger.open(opening, now).unwrap().id.clone();
        for step in steps {
            let before = ledger.get(&id).unwrap().clone();
            let outcome = match step {
                Step::Operate(kind, amount, last, twist) => {
                    ledger.operate(&order(&id, kind, amount, last), &twist.manner(), Duration::ZERO, now).map(drop)
                }
                Step::Backoffice(kind, amount) => {
                    ledger.operate(&Order::backoffice(&id, kind, amount), &Manner::Plainly, Duration::ZERO, now).map(drop)
                }
                Step::Complete(outcome) => ledger.complete(&id, None, &outcome, now).map(drop),
            };
            let after = ledger.get(&id).unwrap();
            if outcome.is_err() {
                prop_assert_eq!(before.truth(), after.truth(), "a refusal changes nothing");
            }
            prop_assert!(after.captured + after.released <= 100);
            prop_assert!(after.refunded <= after.captured);
            prop_assert!(after.capturable() >= 0 && after.refundable() >= 0);
            let moved = |kind: Kind| ledger.effects(Some(&id)).filter(|effect| effect.kind == kind)
                .map(|effect| effect.amount).sum::<i64>();
            prop_assert_eq!(moved(Kind::Capture), after.captured);
            prop_assert_eq!(moved(Kind::Refund), after.refunded);
            prop_assert_eq!(moved(Kind::Void), after.released);
            let shown = |name: &str| after.events.iter()
                .filter(|event| event["event"] == name)
                .filter(|event| (event["success"] == true) != event.contains_key("correction"))
                .filter_map(|event| event["amount"].as_i64()).sum::<i64>();
            prop_assert_eq!(shown("CAPTURE"), after.captured);
            prop_assert_eq!(shown("REFUND"), after.refunded);
        }
    }
}

/// Nothing is done beyond the events that are kept, and nothing moves then.
#[test]
fn a_history_has_an_end() {
    let now = Timestamp::UNIX_EPOCH;
    let mut ledger = Ledger::new(1);
    let id = ledger.open(Opening::card("T12345678", 100_000), now).unwrap().id.clone();
    let room = EVENTS_MAX - ledger.get(&id).unwrap().events.len();
    let capture = order(&id, Kind::Capture, 1, false);
    for _ in 0..room {
        ledger.operate(&capture, &Manner::Plainly, Duration::ZERO, now).unwrap();
    }
    let refusal = ledger.operate(&capture, &Manner::Plainly, Duration::ZERO, now).unwrap_err();
    assert!(refusal.message.contains("10000"), "{}", refusal.message);
    assert!(ledger.append_raw(&id, Object::new(), now).is_err());
    assert!(ledger.fail(&capture, &Failure::timed_out(), now).is_err());
    assert_eq!(usize::try_from(ledger.get(&id).unwrap().captured), Ok(room));
}

/// The status by the sums `[D 4.1]`, row by row.
#[test]
fn every_row_of_the_status_table_holds() {
    for (captured, refunded, released, status) in [
        (0, 0, 0, "AUTHORIZED"),
        (0, 0, 100, "AUTHORIZATION_VOIDED"),
        (40, 0, 0, "PARTIALLY_CAPTURED"),
        (40, 0, 60, "PARTIALLY_CAPTURED"),
        (100, 0, 0, "CAPTURED"),
        (100, 1, 0, "PARTIALLY_REFUNDED"),
        (100, 100, 0, "REFUNDED"),
        (40, 1, 0, "PARTIALLY_CAPTURED_REFUNDED"),
        (40, 40, 0, "PARTIALLY_CAPTURED_REFUNDED"),
    ] {
        let opening = Opening { captured, refunded, released, ..Opening::card("T12345678", 100) };
        assert_eq!(Transaction::status_of(&opening), status);
    }
}
