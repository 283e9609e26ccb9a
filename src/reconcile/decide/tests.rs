//! When absence, failure and silence are believed, and when a person is asked.

mod exhaustive;

use std::collections::BTreeMap;

use super::*;
use crate::journal::entry::Schedule;
use crate::payment::{
    Action, Amount, Capture, Command, Guards, Operation,
    outcome::{Proof, PspError, Sums},
};
use crate::psp::NotSent;

const START: Timestamp = Timestamp(1_000_000_000_000);
const TOKEN: Duration = Duration::from_hours(4);

const RULES: Rules = Rules {
    settle_max: Duration::from_mins(15),
    read_lag_max: Duration::from_mins(5),
    absent_reads_apart: Duration::from_secs(10),
    failed_event_settles_after: Duration::from_mins(15),
    partial_review_after: Duration::from_mins(15),
    accepted_review_after: Duration::from_hours(7 * 24),
    unreadable_review_after: Duration::from_hours(24),
    resend_after: Duration::from_mins(2),
    resend_captures: false,
};

/// After it no request of ours can take effect, and reads have caught up.
fn for_good() -> Timestamp {
    START + TOKEN + RULES.settle_max + RULES.read_lag_max
}

fn in_state(state: State) -> Entry {
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
    let entry = Entry::start(&command, START, START + TOKEN, START + Duration::from_secs(45));
    Entry { state, ..entry }
}

fn in_doubt(pushback: bool) -> Entry {
    in_state(State::InDoubt { why: "lost".to_owned(), pushback })
}

fn in_review() -> Entry {
    in_state(State::Review { why: "twice".to_owned() })
}

const ABSENT: Verdict = Verdict::Absent { undetermined: false };
const PARTLY: Verdict = Verdict::Accepted { request_id: None, partly: true };
const PENDING: Verdict = Verdict::Accepted { request_id: None, partly: false };

fn failed_unclearly() -> Verdict {
    let error = PspError { message: Some("Operation timed out".to_owned()), ..PspError::default() };
    Verdict::FailedUnclearly { error, events: vec!["e1".to_owned()] }
}

fn unreadable() -> ReadError {
    ReadError::Unreadable("HTTP 500".to_owned())
}

fn proven() -> Verdict {
    Verdict::Proven(Proof {
        event_id: None,
        amount: 1,
        event_time: None,
        transaction_status: "CAPTURED".to_owned(),
        sums: Sums::default(),
        by_others: false,
    })
}

/// When it was issued, and what it showed.
type Read = (Timestamp, Result<Verdict, ReadError>);

/// What the last of these reads, each at its time, comes to.
fn reads(entry: &Entry, reads: &[Read]) -> Event {
    let schedule = Schedule { first: Vec::new(), then: Duration::from_secs(1), jitter_percent: 0 };
    let mut entry = entry.clone();
    let mut last = None;
    for (at, verdict) in reads {
        let event = decide(&entry, verdict.clone(), *at, &RULES);
        if let Some(event) = &last {
            assert!(matches!(event, Event::Looked { .. } | Event::Accepted { .. }), "ended early: {event:?}");
        }
        if let Ok(Some(next)) = entry.after(&event, *at, &schedule) {
            entry = next;
        }
        last = Some(event);
    }
    last.unwrap()
}

fn finding(event: &Event) -> Option<Finding> {
    match event {
        Event::Looked { finding, .. } => Some(*finding),
        _ => None,
    }
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[test]
fn nothing_to_be_seen_is_believed_only_after_the_fence_and_twice() {
    let (doubt, end) = (in_doubt(false), for_good());
    let absent = |at: Timestamp| (at, Ok(ABSENT));
    let cases: Vec<(&str, Vec<Read>, Option<Finding>)> = vec![
        ("at once", vec![absent(START + s(60))], Some(Finding::Absent)),
        (
            "often before the fence",
            (1..100).map(|n| absent(START + s(60) * n)).collect(),
            Some(Finding::Absent),
        ),
        ("after the token, before it is settled", vec![absent(START + TOKEN + s(1))], Some(Finding::Absent)),
        ("at the fence itself", vec![absent(end), absent(end)], Some(Finding::Absent)),
        ("once after the fence", vec![absent(end + ms(1))], Some(Finding::AbsentForGood)),
        (
            "twice, too close together",
            vec![absent(end + ms(1)), absent(end + s(10))],
            Some(Finding::AbsentForGood),
        ),
        ("twice, far enough apart", vec![absent(end + ms(1)), absent(end + ms(10_001))], None),
        ("once before, once after", vec![absent(end), absent(end + s(20))], Some(Finding::AbsentForGood)),
        (
            "many close together, then one far enough from the first",
            vec![absent(end + ms(1)), absent(end + s(4)), absent(end + s(8)), absent(end + s(12))],
            None,
        ),
        (
            "an unreadable one in between",
            vec![absent(end + ms(1)), (end + s(11), Err(unreadable())), absent(end + s(22))],
            Some(Finding::AbsentForGood),
        ),
        (
            "twice again after an unreadable one",
            vec![(end + s(1), Err(unreadable())), absent(end + s(2)), absent(end + s(12))],
            None,
        ),
        (
            "a failure in between",
            vec![absent(end + ms(1)), (end + s(11), Ok(failed_unclearly())), absent(end + s(22))],
            Some(Finding::AbsentForGood),
        ),
        (
            "a clock that went back",
            vec![absent(end + s(100)), absent(end + s(50))],
            Some(Finding::AbsentForGood),
        ),
    ];
    for (seen, history, expected) in cases {
        let event = reads(&doubt, &history);
        assert_eq!(finding(&event), expected, "{seen}: {event:?}");
        assert_eq!(matches!(event, Event::NeverHappened { .. }), expected.is_none(), "{seen}: {event:?}");
    }
}

#[test]
fn a_later_token_moves_the_fence() {
    let doubt = Entry { fence_at: START + TOKEN * 2, ..in_doubt(false) };
    let late = for_good() + s(60);
    let event = reads(&doubt, &[(late, Ok(ABSENT)), (late + s(60), Ok(ABSENT))]);
    assert_eq!(finding(&event), Some(Finding::Absent));
}

#[test]
fn after_a_pushback_two_empty_reads_are_enough() {
    let doubt = in_doubt(true);
    let absent = |after: Duration| (START + after, Ok(ABSENT));
    assert_eq!(finding(&reads(&doubt, &[absent(s(2))])), Some(Finding::AbsentForGood));
    let close = reads(&doubt, &[absent(s(2)), absent(ms(11_999))]);
    assert_eq!(finding(&close), Some(Finding::AbsentForGood));
    let apart = reads(&doubt, &[absent(s(2)), absent(s(12))]);
    assert!(matches!(apart, Event::NeverHappened { .. }), "{apart:?}");
    let broken = [absent(s(2)), (START + s(7), Err(unreadable())), absent(s(12))];
    assert_eq!(finding(&reads(&doubt, &broken)), Some(Finding::AbsentForGood));
}

#[test]
fn absence_is_never_believed_where_the_psp_itself_does_not_know() {
    let unknown = |at| (at, Ok(Verdict::Absent { undetermined: true }));
    for pushback in [true, false] {
        let doubt = in_doubt(pushback);
        let before = reads(&doubt, &[unknown(START + s(2)), unknown(START + s(60)), unknown(for_good())]);
        assert_eq!(finding(&before), Some(Finding::Absent), "{pushback}");
        let after = reads(&doubt, &[unknown(START + s(2)), unknown(for_good() + ms(1))]);
        assert!(matches!(after, Event::Contradicted { .. }), "{after:?}");
        // What it said before it knew does not count towards two.
        let known = reads(&doubt, &[unknown(START + s(2)), (for_good() + ms(1), Ok(ABSENT))]);
        assert_eq!(finding(&known), Some(Finding::AbsentForGood));
    }
}

#[test]
fn nothing_to_be_seen_of_what_was_accepted_proves_nothing() {
    let accepted = in_state(State::Accepted);
    let late = for_good() + s(60);
    let event = reads(&accepted, &[(late, Ok(ABSENT)), (late + s(60), Ok(ABSENT))]);
    assert_eq!(finding(&event), Some(Finding::Absent));
}

#[test]
fn an_unclear_failure_is_believed_after_three_equal_reads_and_once_an_effect_would_have_shown() {
    let failed = |after: Duration| (START + after, Ok(failed_unclearly()));
    let shown = RULES.settle_max + RULES.read_lag_max + ms(1);
    assert!(shown > RULES.failed_event_settles_after, "the longer one decides");
    for entry in [in_doubt(false), in_doubt(true), in_state(State::Accepted)] {
        let cases: Vec<(&str, Vec<Read>, bool)> = vec![
            ("once", vec![failed(s(2))], false),
            ("twice and the time", vec![failed(s(2)), failed(s(2) + shown)], false),
            (
                "three times, too soon",
                vec![failed(s(2)), failed(s(9)), failed(s(1) + ms(999) + shown)],
                false,
            ),
            ("three times and the time", vec![failed(s(2)), failed(s(9)), failed(s(2) + shown)], true),
            (
                "an unreadable one in between",
                vec![failed(s(2)), failed(s(9)), (START + s(20), Err(unreadable())), failed(s(2) + shown)],
                false,
            ),
        ];
        for (seen, history, believed) in cases {
            let event = reads(&entry, &history);
            assert_eq!(matches!(event, Event::Refused(_)), believed, "{seen}: {event:?}");
            if let Event::Looked { failed_events, .. } = &event {
                assert_eq!(failed_events, &["e1"], "the next attempt has to know them");
            }
        }
    }
    // Where the time that was set is the longer one, it decides.
    let rules = Rules { failed_event_settles_after: shown * 2, ..RULES };
    let streak = Streak { finding: Finding::FailedUnclearly, since: START, last: START, count: 2 };
    let mut doubt = in_doubt(false);
    doubt.reading.streak = Some(streak);
    for (after, believed) in [((shown * 2).saturating_sub(ms(1)), false), (shown * 2, true)] {
        let event = decide(&doubt, Ok(failed_unclearly()), START + after, &rules);
        assert_eq!(matches!(event, Event::Refused(_)), believed, "{after:?}: {event:?}");
    }
}

#[test]
fn a_part_of_the_amount_is_pending_and_after_a_quarter_of_an_hour_a_persons_case() {
    let part = |after: Duration| (START + after, Ok(PARTLY));
    let quarter = RULES.partial_review_after;
    assert!(matches!(reads(&in_doubt(false), &[part(s(2))]), Event::Accepted { .. }));
    let accepted = in_state(State::Accepted);
    let soon = reads(&accepted, &[part(s(2)), part(s(1) + quarter)]);
    assert_eq!(finding(&soon), Some(Finding::Partly));
    let late = reads(&accepted, &[part(s(2)), part(s(2) + quarter)]);
    assert!(matches!(late, Event::Contradicted { .. }), "{late:?}");
    let grew = reads(&accepted, &[part(s(2)), (START + quarter, Ok(proven()))]);
    assert!(matches!(grew, Event::Proven(_)));
}

#[test]
fn what_is_accepted_for_a_week_is_a_persons_case() {
    let week = RULES.accepted_review_after;
    let accepted = in_state(State::Accepted);
    for verdict in [PENDING, PARTLY, ABSENT] {
        let soon = decide(&accepted, Ok(verdict.clone()), START + week.saturating_sub(ms(1)), &RULES);
        assert!(matches!(soon, Event::Looked { .. }), "{verdict:?}: {soon:?}");
        let late = decide(&accepted, Ok(verdict.clone()), START + week, &RULES);
        assert!(matches!(late, Event::Contradicted { .. }), "{verdict:?}: {late:?}");
    }
}

#[test]
fn what_is_unreadable_for_a_day_is_a_persons_case() {
    let day = RULES.unreadable_review_after;
    for error in [unreadable(), ReadError::NotFound, ReadError::Forbidden] {
        let read = |after: Duration| (START + after, Err(error.clone()));
        // Nine reads, and the last one that long after the first.
        let until = |last: Duration| {
            [2, 4, 6, 8, 10, 12, 14, 16, 18].map(|at| read(s(at))).into_iter().chain([read(last)])
        };
        for entry in [in_doubt(false), in_state(State::Accepted)] {
            let soon = reads(&entry, &until(s(1) + day).collect::<Vec<_>>());
            assert_eq!(finding(&soon), Some(Finding::Nothing), "{error}");
            let few = reads(&entry, &until(s(2) + day).skip(1).collect::<Vec<_>>());
            assert_eq!(finding(&few), Some(Finding::Nothing), "{error}: nine are not enough");
            let late = reads(&entry, &until(s(2) + day).collect::<Vec<_>>());
            assert!(matches!(late, Event::Contradicted { .. }), "{error}: {late:?}");
            let seen =
                (START + s(17), Ok(if matches!(entry.state, State::Accepted) { PENDING } else { ABSENT }));
            let mut broken: Vec<_> = until(s(2) + day).collect();
            broken.insert(8, seen);
            assert_eq!(
                finding(&reads(&entry, &broken)),
                Some(Finding::Nothing),
                "{error}: it was readable meanwhile"
            );
        }
    }
}

#[test]
fn a_read_that_is_turned_away_says_when_to_come_back() {
    let wait = Duration::from_secs(30);
    let limited = ReadError::NotSent(NotSent::RateLimited { retry_after: wait });
    for entry in [in_doubt(false), in_state(State::Accepted), in_review()] {
        let event = decide(&entry, Err(limited.clone()), START, &RULES);
        assert!(
            matches!(event, Event::Looked { retry_after: Some(after), .. } if after == wait),
            "{event:?}"
        );
        let event = decide(&entry, Err(unreadable()), START, &RULES);
        assert!(matches!(event, Event::Looked { retry_after: None, .. }), "{event:?}");
    }
}

#[test]
fn a_review_is_ended_by_a_proof_and_by_nothing_else() {
    let late = for_good() + Duration::from_hours(30 * 24);
    let decline = Box::new(Decline {
        reason: Reason::Declined,
        message: "no".to_owned(),
        psp: PspError::default(),
        transaction_status: None,
        sums: None,
    });
    let verdicts = [
        ABSENT,
        PENDING,
        PARTLY,
        failed_unclearly(),
        Verdict::Declined(decline),
        Verdict::Contradicted("twice".to_owned()),
    ];
    for verdict in verdicts {
        let history = [(late, Ok(verdict.clone())), (late + s(60), Ok(verdict.clone()))];
        assert_eq!(finding(&reads(&in_review(), &history)), Some(Finding::Contradiction), "{verdict:?}");
    }
    let unread = [(late, Err(unreadable())), (late + Duration::from_hours(48), Err(unreadable()))];
    assert_eq!(finding(&reads(&in_review(), &unread)), Some(Finding::Nothing));
    assert!(matches!(reads(&in_review(), &[(late, Ok(proven()))]), Event::Proven(_)));
}

#[test]
fn what_is_definite_needs_no_second_look() {
    let decline = Box::new(Decline {
        reason: Reason::Declined,
        message: "no".to_owned(),
        psp: PspError::default(),
        transaction_status: None,
        sums: None,
    });
    for entry in [in_doubt(false), in_doubt(true), in_state(State::Accepted)] {
        let event = |verdict| decide(&entry, Ok(verdict), START, &RULES);
        assert!(matches!(event(proven()), Event::Proven(_)));
        assert!(matches!(event(Verdict::Declined(decline.clone())), Event::Refused(_)));
        assert!(matches!(event(Verdict::Contradicted("twice".to_owned())), Event::Contradicted { .. }));
    }
}

/// Our credentials were wrong for a weekend, or payops was down: that is no word of the PSP's.
#[test]
fn what_was_not_read_does_not_make_a_transaction_unreadable() {
    let unreachable = || Err(ReadError::NotSent(NotSent::Unreachable("no route".to_owned())));
    let schedule =
        Schedule { first: vec![Duration::from_secs(2)], then: Duration::from_mins(5), jitter_percent: 0 };
    let mut entry = in_doubt(false);
    for n in 0..20 {
        let at = START + RULES.unreadable_review_after * n;
        let event = decide(&entry, unreachable(), at, &RULES);
        assert!(matches!(event, Event::Looked { finding: Finding::NotRead, .. }), "{event:?}");
        entry = entry.after(&event, at, &schedule).unwrap().unwrap();
    }
}
