//! One row per line of the comparison: what the PSP shows, what the journal
//! says, and what a person is told.

use std::collections::BTreeMap;

use super::*;
use crate::journal::entry::Change;
use crate::payment::{
    Amount, Capture, Command, Guards, Operation, Refund,
    outcome::{Decline, PspError, Reason, Sums},
};
use crate::psp::fake::transaction;

/// 2026-05-05T08:00:00Z.
const NOW: Timestamp = Timestamp(1_777_968_000_000);
const HOUR: std::time::Duration = std::time::Duration::from_hours(1);
const AMOUNT: i64 = 100;

fn times() -> Times {
    Times { known_since: NOW - HOUR * 48, settled_until: NOW - HOUR }
}

fn action(kind: Kind) -> Action {
    let amount = Amount::new(AMOUNT).unwrap();
    let (items, reference, metadata) = (Vec::new(), None, BTreeMap::new());
    match kind {
        Kind::Capture => {
            Action::Capture(Capture { amount, items, reference, metadata, final_capture: false })
        }
        Kind::Refund => {
            Action::Refund(Refund { amount, items, reference, metadata, reason: None, terminal_id: None })
        }
        Kind::Void => Action::Void,
    }
}

/// An entry that has been in this state for two hours.
fn entry(kind: Kind, key: &str, state: State) -> Entry {
    let command = Command {
        caller: "orders".parse().unwrap(),
        key: key.parse().unwrap(),
        operation: Operation {
            transaction: "T12345678.465UfBENeLpkBvwmqfTC4k".parse().unwrap(),
            action: action(kind),
        },
        guards: Guards::default(),
        permit: crate::payment::permit::Permit::default(),
        traced: None,
    };
    let at = NOW - HOUR * 2;
    let mut entry = Entry::start(&command, at, at, at);
    entry.state = state;
    entry
}

fn succeeded(amount: i64) -> State {
    State::Succeeded(Proof {
        event_id: None,
        amount,
        event_time: None,
        transaction_status: "CAPTURED".to_owned(),
        sums: Sums::default(),
        by_others: false,
    })
}

fn declined() -> State {
    let (reason, message, psp) = (Reason::Declined, "no".to_owned(), PspError::default());
    State::Declined(Box::new(Decline { reason, message, psp, transaction_status: None, sums: None }))
}

fn released() -> State {
    State::Released { why: "absent".to_owned() }
}

fn in_doubt() -> State {
    State::InDoubt { why: "no answer".to_owned(), pushback: false }
}

/// Two persons have ended it.
fn decided(entry: Entry) -> Entry {
    let by = Some("ben".parse().unwrap());
    let change = Change { at: NOW, attempt: 1, state: entry.state.as_str().to_owned(), why: None, by };
    Entry { history: vec![change], ..entry }
}

fn name(kind: Kind) -> String {
    kind.to_string().to_ascii_uppercase()
}

/// A successful event of the entry's, an hour and a half old.
fn event(entry: &Entry) -> Event {
    let (kind, tag) = (entry.operation.kind(), entry.tag());
    Event {
        id: Some("e-1".to_owned()),
        name: name(kind),
        success: Some(true),
        amount: (kind != Kind::Void).then_some(AMOUNT),
        event_reference: (kind != Kind::Void).then(|| format!("order-1-{tag}")),
        user_agent: Some(format!("payops/0.1.0 operation/{tag}")),
        system_name: Some("payops".to_owned()),
        created_at: Some("2026-05-05T06:30:00.000Z".to_owned()),
        ..Event::default()
    }
}

/// The same by somebody else.
fn theirs(kind: Kind) -> Event {
    Event {
        event_reference: Some("ORDER-1".to_owned()),
        user_agent: Some("backoffice".to_owned()),
        system_name: None,
        ..event(&entry(kind, "theirs", released()))
    }
}

fn corrected(event: Event, remaining_capture: i64, remaining_refund: i64) -> Event {
    Event { correction: Some(Correction { remaining_capture, remaining_refund }), ..event }
}

/// Of 500 minor units, after a capture of them all where `kind` needs one.
fn on(kind: Kind, events: Vec<Event>) -> Transaction {
    let whole = Event { amount: Some(500), ..theirs(Kind::Capture) };
    match kind {
        Kind::Refund => transaction("CAPTURED", [vec![whole], events].concat()),
        Kind::Capture | Kind::Void => transaction("AUTHORIZED", events),
    }
}

/// Each incident in a word.
fn words(incidents: &[Incident]) -> Vec<&'static str> {
    let word = |incident: &Incident| match incident {
        Incident::Unowned { .. } => "unowned",
        Incident::Differs { .. } => "differs",
        Incident::Late { .. } => "late",
    };
    incidents.iter().map(word).collect()
}

#[track_caller]
fn is(what: &str, on: &Transaction, entries: &[Entry], expected: &[&str]) {
    let incidents = compare(on, entries, times());
    assert_eq!(words(&incidents), expected, "{what}: {incidents:?}");
}

#[test]
fn what_agrees_is_quiet() {
    for kind in [Kind::Capture, Kind::Refund, Kind::Void] {
        let own = entry(kind, "k", succeeded(if kind == Kind::Void { 0 } else { AMOUNT }));
        is("one of ours, one of theirs", &on(kind, vec![event(&own)]), std::slice::from_ref(&own), &[]);
        is("nothing at all", &on(kind, vec![]), &[], &[]);
        is("theirs alone", &on(kind, vec![theirs(kind)]), &[], &[]);
        for state in [declined(), released()] {
            let own = entry(kind, "k", state);
            is("nothing was to happen", &on(kind, vec![]), &[own], &[]);
        }
    }
    // The PSP splits an amount in two, and its end carries no mark.
    let own = entry(Kind::Refund, "k", succeeded(AMOUNT));
    let half = Event { amount: Some(AMOUNT / 2), ..event(&own) };
    is("two halves", &on(Kind::Refund, vec![half.clone(), half]), std::slice::from_ref(&own), &[]);
    let begun = Event { name: "INITIATE_REFUND".to_owned(), request_id: Some("r".to_owned()), ..event(&own) };
    let end = Event { correlation_request_id: Some("r".to_owned()), ..theirs(Kind::Refund) };
    is("begun and ended", &on(Kind::Refund, vec![begun, end]), &[own], &[]);
}

#[test]
fn an_effect_in_our_name_that_no_entry_owns_is_an_incident() {
    let kind = Kind::Capture;
    let own = entry(kind, "k", succeeded(AMOUNT));
    let of_nobody = event(&entry(kind, "lost", released()));
    let by = |user_agent: Option<&str>, system_name: Option<&str>, reference: Option<&str>| Event {
        user_agent: user_agent.map(str::to_owned),
        system_name: system_name.map(str::to_owned),
        event_reference: reference.map(str::to_owned),
        ..of_nobody.clone()
    };
    for (what, stranger, expected) in [
        ("all marks", of_nobody.clone(), &["unowned"][..]),
        ("the agent alone", by(Some("payops/9.9"), None, None), &["unowned"]),
        ("the system alone", by(None, Some("payops"), None), &["unowned"]),
        ("a tag alone", by(None, None, Some("abcdefghij234")), &["unowned"]),
        ("a tag behind a reference", by(None, None, Some("order-1-abcdefghij234")), &["unowned"]),
        ("a longer word", by(None, None, Some("abcdefghij2345")), &[]),
        ("capitals", by(None, None, Some("order-ABCDEFGHIJ234")), &[]),
        ("another program", by(Some("payopsy/1"), Some("payopsy"), Some("ORDER-1")), &[]),
        ("it failed", Event { success: Some(false), ..of_nobody.clone() }, &[]),
        ("it says neither", Event { success: None, ..of_nobody.clone() }, &["unowned"]),
        ("no effect", Event { name: "AUTHORIZE".to_owned(), ..of_nobody.clone() }, &[]),
        ("begun", Event { name: "INITIATE_CAPTURE".to_owned(), ..of_nobody.clone() }, &["unowned"]),
        ("a void", Event { name: "VOID".to_owned(), ..of_nobody.clone() }, &["unowned"]),
    ] {
        let on = on(kind, vec![event(&own), stranger]);
        is(what, &on, std::slice::from_ref(&own), expected);
    }
    let begun =
        Event { name: "INITIATE_CAPTURE".to_owned(), request_id: Some("r".to_owned()), ..of_nobody.clone() };
    let end = Event { correlation_request_id: Some("r".to_owned()), ..theirs(kind) };
    is("an end without a mark is told once", &on(kind, vec![begun.clone(), end.clone()]), &[], &["unowned"]);
    let failed = Event { success: Some(false), ..end };
    is("a beginning that failed", &on(kind, vec![begun, failed]), &[], &[]);
    // Of another transaction's key, or sent under a key but without its reference.
    let without = Event { event_reference: Some("ORDER-1".to_owned()), ..event(&own) };
    is("without its reference", &on(kind, vec![event(&own), without]), &[own], &["unowned"]);
}

#[test]
fn what_may_be_forgotten_is_no_incident() {
    let stranger = event(&entry(Kind::Capture, "lost", released()));
    for (created_at, expected) in [
        (Some("2026-05-03T08:00:00.000Z"), &["unowned"][..]),
        (Some("2026-05-03T07:59:59.999Z"), &[]),
        (Some("2020-01-01T00:00:00Z"), &[]),
        // An age that is not told excuses nothing.
        (Some("the day before yesterday"), &["unowned"]),
        (None, &["unowned"]),
    ] {
        let stranger = Event { created_at: created_at.map(str::to_owned), ..stranger.clone() };
        is(&format!("{created_at:?}"), &on(Kind::Capture, vec![stranger]), &[], expected);
    }
}

#[test]
fn a_success_whose_effect_is_not_to_be_seen_is_an_incident_once_reads_have_caught_up() {
    for kind in [Kind::Capture, Kind::Refund, Kind::Void] {
        let own = entry(kind, "k", succeeded(if kind == Kind::Void { 0 } else { AMOUNT }));
        let mut seen = vec![
            ("nothing", vec![]),
            ("a failure", vec![Event { success: Some(false), ..event(&own) }]),
            ("taken back", vec![corrected(event(&own), 500, if kind == Kind::Refund { 500 } else { 0 })]),
        ];
        if kind != Kind::Void {
            seen.extend([
                ("somebody else's", vec![theirs(kind)]),
                ("a part", vec![Event { amount: Some(AMOUNT - 1), ..event(&own) }]),
                ("more", vec![Event { amount: Some(AMOUNT + 1), ..event(&own) }]),
                ("twice", vec![event(&own), event(&own)]),
            ]);
        }
        for (what, events) in seen {
            let on = on(kind, events);
            is(&format!("{kind}: {what}"), &on, std::slice::from_ref(&own), &["differs"]);
            let young = Entry { updated_at: NOW - HOUR / 2, ..own.clone() };
            is(&format!("{kind}: {what}, just now"), &on, &[young], &[]);
            let open = entry(kind, "k", in_doubt());
            is(&format!("{kind}: {what}, open"), &on, &[open], &[]);
        }
    }
}

#[test]
fn a_difference_that_two_persons_have_seen_is_quiet_as_long_as_it_stays() {
    let doubled = decided(entry(Kind::Capture, "k", succeeded(2 * AMOUNT)));
    let once = event(&doubled);
    for (count, expected) in [(2, &[][..]), (3, &["differs"])] {
        let on = on(Kind::Capture, vec![once.clone(); count]);
        is(&format!("{count} times"), &on, std::slice::from_ref(&doubled), expected);
    }
    let none = decided(entry(Kind::Capture, "k", declined()));
    let part = Event { amount: Some(AMOUNT / 2), ..event(&none) };
    is("a part, declined by persons", &on(Kind::Capture, vec![part]), &[none], &[]);
}

#[test]
fn an_effect_of_what_was_over_is_a_fact() {
    for kind in [Kind::Capture, Kind::Refund, Kind::Void] {
        for state in [declined(), released()] {
            let own = entry(kind, "k", state);
            let late = on(kind, vec![event(&own)]);
            is("its own event", &late, std::slice::from_ref(&own), &["late"]);
            // A fact needs no time to settle.
            let young = Entry { updated_at: NOW, ..own.clone() };
            is("its own event, just now", &late, &[young], &["late"]);
            is("not its own", &on(kind, vec![theirs(kind)]), std::slice::from_ref(&own), &[]);
            if kind == Kind::Void {
                continue;
            }
            for (what, events) in [
                ("a part", vec![Event { amount: Some(1), ..event(&own) }]),
                ("twice", vec![event(&own), event(&own)]),
                ("begun", vec![Event { name: format!("INITIATE_{}", name(kind)), ..event(&own) }]),
            ] {
                is(what, &on(kind, events), std::slice::from_ref(&own), &["differs"]);
            }
            // The correction that came with a refusal, and more authorized since.
            let failed = Event { success: Some(false), ..event(&own) };
            let refused = on(kind, vec![corrected(failed, 7, 7)]);
            is("a failure and its correction", &refused, &[own], &[]);
        }
    }
    // Others released what a void did not, and what a later one did.
    let (first, later) = (entry(Kind::Void, "a", released()), entry(Kind::Void, "b", succeeded(0)));
    let mut released = on(Kind::Void, vec![event(&later)]);
    "AUTHORIZATION_VOIDED".clone_into(&mut released.status);
    is("another one's void", &released, &[first, later], &[]);
}

#[test]
fn a_correction_on_whatever_event_that_takes_a_success_back_is_an_incident() {
    let own = entry(Kind::Capture, "k", succeeded(AMOUNT));
    let later = Event {
        name: "CAPTURE".to_owned(),
        success: Some(false),
        created_at: Some("2026-05-05T06:45:00.000Z".to_owned()),
        ..Event::default()
    };
    for (what, remaining, expected) in [
        ("all is open again", (500, 0), &["unowned"][..]),
        ("nothing can be given back", (400, 0), &["unowned"]),
        ("as it is", (400, 100), &[]),
        // Something was authorized since.
        ("less was authorized", (300, 100), &[]),
    ] {
        let on = on(Kind::Capture, vec![event(&own), corrected(later.clone(), remaining.0, remaining.1)]);
        is(what, &on, std::slice::from_ref(&own), expected);
        let young = Entry { updated_at: NOW, ..own.clone() };
        is("just now", &on, &[young], &[]);
        is("nothing of ours", &on, &[decided(own.clone())], &[]);
    }
    // It fitted what was there then, and something was given back since.
    let refund = Event {
        amount: Some(50),
        created_at: Some("2026-05-05T06:50:00.000Z".to_owned()),
        ..theirs(Kind::Refund)
    };
    let on = on(Kind::Capture, vec![event(&own), corrected(later, 400, 100), refund]);
    is("fitted then", &on, &[own], &[]);
}

#[test]
fn a_final_capture_owns_the_release_of_the_rest() {
    let mut own = entry(Kind::Capture, "k", succeeded(AMOUNT));
    let release = Event { name: "VOID".to_owned(), amount: None, event_reference: None, ..event(&own) };
    let on = on(Kind::Capture, vec![event(&own), release]);
    is("a plain one", &on, std::slice::from_ref(&own), &["unowned"]);
    if let Action::Capture(capture) = &mut own.operation.action {
        capture.final_capture = true;
    }
    is("a final one", &on, &[own], &[]);
}

#[test]
fn a_person_is_told_which_event_it_is_and_no_more_than_that() {
    let stranger = event(&entry(Kind::Capture, "lost", released()));
    let long = Event { event_reference: Some(format!("{}\n-abcdefghij234", "x".repeat(5_000))), ..stranger };
    let incidents = compare(&on(Kind::Capture, vec![long]), &[], times());
    let [Incident::Unowned { why }] = &incidents[..] else { panic!("{incidents:?}") };
    assert!(why.starts_with("CAPTURE of 100 minor units, reference xxx"), "{why}");
    assert!(why.contains("event e-1") && why.contains("2026-05-05T06:30") && why.len() < 400, "{why}");
}
