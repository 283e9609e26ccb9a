//! What a change of state does to an entry; the state machine itself is in `table`.

mod table;

use std::collections::BTreeMap;

use proptest::prelude::*;

use std::time::Duration;

use super::*;
use crate::payment::{
    Action, Amount, Capture, Guards,
    outcome::{PspError, Reason, Sums},
};

const NOW: Timestamp = Timestamp(1_000_000);
const LATER: Timestamp = Timestamp(2_000_000);

fn schedule() -> Schedule {
    let first = [2, 5, 10].map(Duration::from_secs).to_vec();
    Schedule { first, then: Duration::from_mins(5), jitter_percent: 20 }
}

fn entry() -> Entry {
    let capture = Capture {
        amount: Amount::LEAST,
        items: Vec::new(),
        reference: None,
        metadata: BTreeMap::new(),
        final_capture: false,
    };
    let command = Command {
        caller: "orders".parse().unwrap(),
        key: "key-1".parse().unwrap(),
        operation: Operation {
            transaction: "T12345678.465UfBENeLpkBvwmqfTC4k".parse().unwrap(),
            action: Action::Capture(capture),
        },
        guards: Guards::default(),
        permit: crate::payment::permit::Permit::default(),
        traced: None,
    };
    Entry::start(&command, NOW, NOW + Duration::from_hours(4), NOW + Duration::from_secs(45))
}

fn in_state(state: State) -> Entry {
    Entry { state, ..entry() }
}

fn after(entry: &Entry, event: &Event) -> Entry {
    entry.after(event, LATER, &schedule()).unwrap().unwrap()
}

fn proof() -> Proof {
    Proof {
        event_id: None,
        amount: 1,
        event_time: None,
        transaction_status: "CAPTURED".to_owned(),
        sums: Sums::default(),
        by_others: false,
    }
}

fn decline() -> Box<Decline> {
    Box::new(Decline {
        reason: Reason::Declined,
        message: "no".to_owned(),
        psp: PspError::default(),
        transaction_status: None,
        sums: None,
    })
}

fn in_doubt() -> State {
    State::InDoubt { why: "lost".to_owned(), pushback: false }
}

fn states() -> Vec<State> {
    let why = || "because".to_owned();
    vec![
        State::Started,
        State::Accepted,
        in_doubt(),
        State::Released { why: why() },
        State::Succeeded(proof()),
        State::Declined(decline()),
        State::Review { why: why() },
        State::Resent,
    ]
}

fn retried(fence_at: Timestamp) -> Event {
    Event::Retried(Beginning {
        nonce: Uuid::new_v4(),
        fence_at,
        lease_until: LATER + Duration::from_secs(45),
    })
}

fn token_refused(fence_at: Timestamp) -> Event {
    Event::TokenRefused(Beginning {
        nonce: Uuid::new_v4(),
        fence_at,
        lease_until: LATER + Duration::from_secs(45),
    })
}

fn resent(fence_at: Timestamp) -> Event {
    Event::Resent(Beginning { nonce: Uuid::new_v4(), fence_at, lease_until: LATER + Duration::from_secs(45) })
}

fn proposal() -> Proposal {
    Proposal {
        id: Uuid::from_u128(7),
        decision: Decision::Released,
        reason: "the PSP's support says so".to_owned(),
        by: "anna".parse().unwrap(),
        at: LATER,
    }
}

fn resolved(outcome: Resolved) -> Event {
    let (confirmed_by, reason) = ("bo".parse().unwrap(), "I asked too".to_owned());
    Event::Resolved(Box::new(Resolution {
        proposal: proposal(),
        confirmed_by,
        reason,
        against: None,
        outcome,
    }))
}

fn looked(finding: Finding, at: Timestamp, failed_events: &[&str]) -> Event {
    let failed_events = failed_events.iter().map(|id| (*id).to_owned()).collect();
    Event::Looked { finding, at, failed_events, retry_after: None }
}

fn accepted(id: &str) -> Event {
    Event::Accepted { request_id: Some(id.to_owned()) }
}

#[test]
fn what_is_sent_again_stays_as_doubtful_as_before_whatever_becomes_of_the_second_sending() {
    let doubted = in_state(in_doubt());
    let again = after(&doubted, &resent(NOW));
    assert_eq!((again.attempt, again.resends, &again.state), (2, 1, &State::Resent));
    // The tokens of both are dead only when the later one is.
    assert_eq!(again.fence_at, doubted.fence_at);
    for event in [Event::NotSent { why: "no".into() }, Event::Refused(decline()), Event::doubted("lost")] {
        let doubted = after(&again, &event);
        assert!(matches!(doubted.state, State::InDoubt { pushback: false, .. }), "{event:?}");
        assert_eq!(doubted.resends, 1);
    }
    // The next retry after a release has nothing to do with it.
    let released = after(&in_state(in_doubt()), &Event::NeverHappened { why: "fence".into() });
    assert_eq!(after(&Entry { resends: 3, ..released }, &retried(LATER)).resends, 0);
}

#[test]
fn the_history_tells_each_change_and_who_decided_it() {
    let review = after(&entry(), &Event::Contradicted { why: "too much moved".to_owned() });
    let proposed = after(&review, &Event::Proposed(proposal()));
    assert!(proposed.proposal.is_some() && proposed.state == review.state);
    let other = after(&review, &Event::Proposed(Proposal { id: Uuid::from_u128(8), ..proposal() }));
    for unlike in [&review, &other] {
        assert!(
            unlike.after(&resolved(Resolved::Released), LATER, &schedule()).is_err(),
            "nobody proposed that"
        );
    }
    let ended = after(&proposed, &resolved(Resolved::Released));
    assert_eq!(ended.proposal, None);
    let told: Vec<_> = ended
        .history
        .iter()
        .map(|change| (change.state.as_str(), change.by.as_ref().map(CallerName::as_str)))
        .collect();
    let expected = [("started", None), ("review", None), ("review", Some("anna")), ("released", Some("bo"))];
    assert_eq!(told, expected);
    let why = ended.history.last().unwrap().why.as_deref();
    assert_eq!(why, Some("anna: the PSP's support says so; confirmed by bo: I asked too"));
}

#[test]
fn the_history_keeps_its_beginning_and_its_end_within_bounds() {
    let mut released = after(&entry(), &Event::NotSent { why: "refused".to_owned() });
    for _ in 0..100 {
        let started = after(&released, &retried(LATER));
        released = after(&started, &Event::NotSent { why: "refused".to_owned() });
    }
    assert_eq!(released.history.len(), history::CHANGES_MAX);
    assert_eq!(released.history.first().unwrap().at, NOW);
    assert_eq!(released.history.last().unwrap().attempt, 101);
}

#[test]
fn an_illegal_move_says_which() {
    let illegal = State::Succeeded(proof()).next(&Event::Refused(decline())).unwrap_err();
    assert_eq!(illegal.to_string(), "an operation that is succeeded cannot be refused");
}

#[test]
fn what_is_open_holds_the_slot_and_what_is_final_does_not() {
    let open: Vec<_> = states().iter().filter(|s| s.is_open()).map(State::as_str).collect();
    assert_eq!(open, ["started", "accepted", "in_doubt", "review", "resent"]);
    let settled: Vec<_> = states().iter().filter(|s| s.is_final()).map(State::as_str).collect();
    assert_eq!(settled, ["succeeded", "declined"]);
}

#[test]
fn a_doubt_remembers_whether_the_psp_pushed_back() {
    for pushback in [true, false] {
        let event = Event::Doubted { why: "HTTP 429".to_owned(), pushback, retry_after: None };
        let state = State::InDoubt { why: "HTTP 429".to_owned(), pushback };
        assert_eq!(after(&entry(), &event).state, state);
    }
}

#[test]
fn a_retry_is_another_attempt_and_keeps_the_latest_fence() {
    let released = Entry {
        accepted_request_id: Some("r".to_owned()),
        reading: Reading { failed_events: vec!["e1".to_owned()], ..Reading::default() },
        ..in_state(State::Released { why: "absent".to_owned() })
    };
    let event = retried(NOW);
    let again = after(&released, &event);
    assert_eq!(again.attempt, 2);
    assert_eq!(again.fence_at, released.fence_at, "an earlier token may outlive the new one");
    assert_eq!(again.accepted_request_id, None);
    assert_eq!(again.ignored_events, ["e1"]);
    assert_ne!(again.nonce, released.nonce);
    assert_eq!(again.reading.next_at, Some(again.lease_until));
    let far = LATER + Duration::from_hours(24);
    assert_eq!(after(&released, &retried(far)).fence_at, far);
}

#[test]
fn the_id_of_an_accepted_request_is_learned_late_and_never_changes() {
    let nameless = in_state(State::Accepted);
    let named = after(&nameless, &accepted("r"));
    let (revision, follows) = (named.revision, nameless.revision);
    let accepted_request_id = Some("r".to_owned());
    let expected = Entry { revision, follows, accepted_request_id, ..nameless.clone() };
    assert_eq!(named, expected);
    for (entry, event) in [
        (&named, accepted("other")),
        (&named, accepted("r")),
        (&nameless, Event::Accepted { request_id: None }),
    ] {
        assert_eq!(entry.after(&event, LATER, &schedule()).unwrap(), None, "{event:?}");
    }
}

#[test]
fn a_change_of_state_starts_the_reading_anew_and_forgets_no_failure() {
    let looked_at = Reading {
        made: 7,
        next_at: Some(LATER),
        not_before: None,
        streak: Some(Streak { finding: Finding::Absent, since: NOW, last: NOW, count: 7 }),
        failed_events: vec!["e1".to_owned()],
    };
    let doubtful = Entry { reading: looked_at, ..in_state(in_doubt()) };
    let next = after(&doubtful, &accepted("r"));
    assert_eq!((next.reading.made, next.reading.streak), (0, None));
    assert_eq!(next.reading.failed_events, ["e1"]);
    assert_eq!(next.updated_at, LATER);
    assert_eq!(next.accepted_request_id.as_deref(), Some("r"));
}

#[test]
fn an_open_entry_is_read_again_and_a_closed_one_is_not() {
    let cases = [
        (Event::doubted("lost"), true),
        (accepted("r"), true),
        (Event::Contradicted { why: "twice".to_owned() }, true),
        (Event::NotSent { why: "no route".to_owned() }, false),
        (Event::Refused(decline()), false),
        (Event::Proven(proof()), false),
    ];
    for (event, read_again) in cases {
        let next = after(&entry(), &event);
        assert_eq!(next.reading.next_at.is_some_and(|at| at > LATER), read_again, "{event:?}");
    }
}

#[test]
fn a_look_that_settles_nothing_is_remembered() {
    let mut doubtful = in_state(in_doubt());
    let looks = [
        (Finding::Absent, 10, &["e1"][..], (1, 10, 10)),
        (Finding::Absent, 20, &["e2", "e1"], (2, 10, 20)),
        // Clocks may jump: the last is the latest.
        (Finding::Absent, 15, &[], (3, 10, 20)),
        (Finding::Nothing, 30, &[], (1, 30, 30)),
        (Finding::Absent, 40, &[], (1, 40, 40)),
    ];
    for (nth, (finding, at, failed, (count, since, last))) in looks.into_iter().enumerate() {
        let next = after(&doubtful, &looked(finding, Timestamp(at), failed));
        let (since, last) = (Timestamp(since), Timestamp(last));
        assert_eq!(next.reading.streak, Some(Streak { finding, since, last, count }), "look {nth}");
        assert_eq!(next.reading.made, doubtful.reading.made + 1);
        assert!(next.revision > doubtful.revision && next.follows == doubtful.revision);
        assert_eq!(next.updated_at, doubtful.updated_at, "no change of state");
        doubtful = next;
    }
    assert_eq!(doubtful.reading.failed_events, ["e1", "e2"]);
}

#[test]
fn the_psp_is_not_read_before_it_wants_to_be() {
    let wait = Duration::from_mins(3);
    let pushed = Event::Doubted { why: "HTTP 429".to_owned(), pushback: true, retry_after: Some(wait) };
    let limited = |retry_after| Event::Looked {
        finding: Finding::Nothing,
        at: LATER,
        failed_events: Vec::new(),
        retry_after,
    };
    for next in [after(&entry(), &pushed), after(&in_state(in_doubt()), &limited(Some(wait)))] {
        assert_eq!(next.reading.not_before, Some(LATER + wait));
        assert_eq!(next.reading.next_at, Some(LATER + wait));
        // A change of state, or a look that brings nothing new, lifts it not.
        for event in [accepted("r"), limited(None), limited(Some(Duration::from_secs(1)))] {
            let then = after(&next, &event);
            assert_eq!(then.reading.not_before, Some(LATER + wait), "{event:?}");
            assert!(then.reading.next_at >= then.reading.not_before);
        }
        // Its time does.
        let over = next.after(&limited(None), LATER + wait, &schedule()).unwrap().unwrap();
        assert_eq!(over.reading.not_before, None);
    }
    // A wait shorter than the schedule's changes nothing.
    let soon = after(&in_state(in_doubt()), &limited(Some(Duration::from_millis(1))));
    let plain = after(&in_state(in_doubt()), &limited(None));
    assert!(soon.reading.next_at > Some(LATER + Duration::from_secs(3)), "{soon:?} {plain:?}");
}

#[test]
fn an_entry_that_an_earlier_payops_stored_is_understood() {
    let stored = serde_json::to_value(in_state(in_doubt())).unwrap();
    assert_eq!(stored["reading"].get("not_before"), None, "absent as long as nobody asked to wait");
    let read: Entry = serde_json::from_value(stored).unwrap();
    assert_eq!(read.reading.not_before, None);
    let asked = Reading { not_before: Some(LATER), ..Reading::default() };
    let waiting = Entry { reading: asked, ..entry() };
    let again: Entry = serde_json::from_str(&serde_json::to_string(&waiting).unwrap()).unwrap();
    assert_eq!(again, waiting);
}

fn any_event() -> impl Strategy<Value = Event> {
    let why = || "because".to_owned();
    prop_oneof![
        (0..10_000_000_i64).prop_map(|at| retried(Timestamp(at))),
        Just(Event::NotSent { why: why() }),
        Just(Event::Refused(decline())),
        Just(accepted("r")),
        Just(Event::doubted("lost")),
        Just(Event::Proven(proof())),
        Just(Event::NeverHappened { why: why() }),
        Just(Event::Contradicted { why: why() }),
        (0..10_i64).prop_map(|at| looked(Finding::Absent, Timestamp(at), &["e1"])),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_counters_rise_and_the_fence_never_falls(
        events in prop::collection::vec(any_event(), 0..60),
    ) {
        let mut entry = entry();
        for event in events {
            // What is illegal or no news is not written.
            let Ok(Some(next)) = entry.after(&event, LATER, &schedule()) else { continue };
            prop_assert!(next.revision > entry.revision && next.follows == entry.revision);
            let retried = matches!(event, Event::Retried { .. });
            prop_assert_eq!(next.attempt, entry.attempt + u32::from(retried));
            prop_assert!(next.fence_at >= entry.fence_at);
            prop_assert_eq!(next.tag(), entry.tag());
            prop_assert_eq!(
                (next.id, &next.key, next.fingerprint, &next.operation),
                (entry.id, &entry.key, entry.fingerprint, &entry.operation)
            );
            prop_assert!(!matches!(entry.state, State::Succeeded(_)), "a success never changes");
            entry = next;
        }
    }

    #[test]
    fn waits_stay_within_their_spread_and_follow_from_the_operation(made in 0_u32..100, jitter in 0_u8..=50) {
        let schedule = Schedule { jitter_percent: jitter, ..schedule() };
        let id = OperationId::new();
        let wait = schedule.next(id, made, NOW).since(NOW);
        prop_assert_eq!(schedule.next(id, made, NOW).since(NOW), wait);
        let nominal = schedule.first.get(usize::try_from(made).unwrap()).copied().unwrap_or(schedule.then);
        let percent = u32::from(jitter);
        prop_assert!(wait >= nominal * (100 - percent) / 100, "{wait:?}");
        prop_assert!(wait <= nominal * (100 + percent) / 100, "{wait:?}");
    }
}

#[test]
fn operations_of_one_moment_are_not_read_in_one_moment() {
    let waits: std::collections::BTreeSet<_> =
        (0..50).map(|_| schedule().next(OperationId::new(), 5, NOW)).collect();
    assert!(waits.len() > 10, "{waits:?}");
}

/// Where the attempt was sent again in what was lost, a failure may be of the later attempt alone.
#[test]
fn after_a_loss_an_attempt_counts_as_one_that_may_have_been_sent_again() {
    let doubt = || State::InDoubt { why: String::new(), pushback: true };
    let fence = NOW + Duration::from_hours(24);
    for state in [State::Started, doubt()] {
        assert_eq!(in_state(state).after_loss(LATER, fence).unwrap().resends, 1);
    }
    let again = Entry { resends: 2, ..in_state(doubt()) };
    assert_eq!(again.after_loss(LATER, fence).unwrap().resends, 2);
    assert_eq!(in_state(State::Accepted).after_loss(LATER, fence).unwrap().resends, 0);
}

/// Whoever dated an entry may have been ahead of whoever dated the loss.
#[test]
fn an_entry_that_is_dated_soon_after_a_loss_may_be_one_from_before() {
    let (at, leeway) = (Timestamp(1_000_000), Duration::from_secs(10));
    let loss = crate::journal::Loss { at, quiet_until: at, clock_leeway: leeway };
    for (later, hidden) in [(0, true), (10_000, true), (10_001, false)] {
        assert_eq!(loss.may_hide_more(Timestamp(at.0 + later)), hidden, "{later} ms after it");
    }
}
