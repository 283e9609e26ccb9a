use std::time::Duration;

use super::*;
use crate::clock::Timestamp;
use crate::conclude::sought;
use crate::journal::entry::Entry;
use crate::payment::{Action, Amount, Capture, Command, Guards, Operation};
use crate::psp::{ReadError, fake::transaction};

const NOW: Timestamp = Timestamp(1_000_000);

fn entry(action: Action) -> Entry {
    let command = Command {
        caller: "orders".parse().unwrap(),
        key: "key-1".parse().unwrap(),
        operation: Operation { transaction: "T12345678.465UfBENeLpkBvwmqfTC4k".parse().unwrap(), action },
        guards: Guards::default(),
        permit: crate::payment::permit::Permit::default(),
        traced: None,
    };
    Entry::start(&command, NOW, NOW, NOW)
}

fn capture() -> Entry {
    entry(Action::Capture(Capture {
        amount: Amount::new(100).unwrap(),
        items: Vec::new(),
        reference: None,
        metadata: std::collections::BTreeMap::new(),
        final_capture: false,
    }))
}

/// An event of the capture, or of somebody else.
fn event(name: &str, ours: bool, success: Option<bool>, amount: i64) -> Event {
    let reference = if ours { capture().tag().to_string() } else { "backoffice".to_owned() };
    Event {
        name: name.to_owned(),
        success,
        amount: Some(amount),
        event_reference: Some(reference),
        request_id: Some("r-1".to_owned()),
        ..Event::default()
    }
}

/// Both sides, while an attempt may still arrive or afterwards.
fn evidence(entry: Entry, seen: Result<(&str, Vec<Event>), ReadError>, quiet: bool) -> Evidence {
    let tag = entry.tag();
    let seen = seen.map(|(status, events)| Seen::of(&sought(&entry, &tag), transaction(status, events)));
    let read_at = if quiet { NOW + Duration::from_secs(61) } else { NOW };
    Evidence { entry, read_at, quiet_at: NOW + Duration::from_mins(1), seen }
}

type Row = (&'static str, Evidence, [Option<&'static str>; 3]);

/// The words that speak against the decisions SUCCEEDED, DECLINED and RELEASED; none where nothing does.
#[test]
fn what_is_seen_speaks_against_what_it_contradicts_and_absence_only_while_something_may_arrive() {
    let doubled = || vec![event("CAPTURE", true, Some(true), 100); 2];
    let begun = || vec![event("INITIATE_CAPTURE", true, Some(true), 100)];
    let failed = || vec![event("CAPTURE", true, Some(false), 100)];
    let theirs = || vec![event("CAPTURE", false, Some(true), 100)];
    let unread = || Err(ReadError::Forbidden);
    let on = |events| Ok(("AUTHORIZED", events));
    let moved = Some("200 minor units moved, where 100 were asked for");
    let started = Some("begun the operation and not finished");
    let none = Some("no successful event");
    let early = Some("may still take effect or show within 60 s");
    let rows: Vec<Row> = vec![
        ("doubled", evidence(capture(), on(doubled()), true), [None, moved, moved]),
        ("doubled, early", evidence(capture(), on(doubled()), false), [None, moved, moved]),
        ("begun", evidence(capture(), on(begun()), true), [none, started, started]),
        ("failed", evidence(capture(), on(failed()), true), [none, None, None]),
        ("failed, early", evidence(capture(), on(failed()), false), [none, early, early]),
        ("another's", evidence(capture(), on(theirs()), true), [none, None, None]),
        ("nothing, early", evidence(capture(), on(vec![]), false), [none, early, early]),
        ("unread", evidence(capture(), unread(), true), [None, None, None]),
        ("unread, early", evidence(capture(), unread(), false), [None, early, early]),
        (
            "voided",
            evidence(entry(Action::Void), Ok(("AUTHORIZATION_VOIDED", vec![])), true),
            [None, Some("was released"), Some("was released")],
        ),
        ("not voided", evidence(entry(Action::Void), on(vec![]), true), [none, None, None]),
    ];
    for (name, evidence, due) in rows {
        let decisions = [Decision::Succeeded, Decision::Declined, Decision::Released];
        for (decision, due) in decisions.into_iter().zip(due) {
            let told = against(decision, &evidence);
            match (&told, due) {
                (None, None) => {}
                (Some(told), Some(due)) => assert!(told.contains(due), "{name}, {decision:?}: {told}"),
                _ => panic!("{name}, {decision:?}: {told:?}"),
            }
        }
    }
}

#[test]
fn a_decision_keeps_what_was_read_and_is_empty_where_nothing_was() {
    let doubled = vec![event("CAPTURE", true, Some(true), 100), event("CAPTURE", true, Some(true), 100)];
    let seen = evidence(capture(), Ok(("PARTIALLY_CAPTURED", doubled)), true).seen.unwrap();
    let shown = proof(Some(&seen));
    assert_eq!((shown.amount, shown.sums.captured), (200, 200));
    assert_eq!(shown.transaction_status, "PARTIALLY_CAPTURED");
    assert_eq!(decline(Some(&seen)).sums.unwrap().captured, 200);
    let empty = proof(None);
    assert_eq!((empty.event_id, empty.amount, empty.transaction_status.as_str()), (None, 0, ""));
    assert_eq!(decline(None).sums, None);
}
