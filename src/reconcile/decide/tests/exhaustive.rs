//! Every state, every verdict, every time and every run of earlier reads: what
//! each may come to, said as conditions that are necessary and sufficient.

use super::*;
use crate::journal::entry::Reading;

fn decline() -> Box<Decline> {
    Box::new(Decline {
        reason: Reason::Declined,
        message: "no".to_owned(),
        psp: PspError::default(),
        transaction_status: None,
        sums: None,
    })
}

fn all_states() -> Vec<State> {
    let why = || "because".to_owned();
    let Verdict::Proven(proof) = proven() else { unreachable!() };
    vec![
        State::Accepted,
        State::InDoubt { why: why(), pushback: false },
        State::InDoubt { why: why(), pushback: true },
        State::Review { why: why() },
        State::Started,
        State::Released { why: why() },
        State::Succeeded(proof),
        State::Declined(decline()),
    ]
}

fn all_verdicts() -> Vec<Result<Verdict, ReadError>> {
    vec![
        Ok(proven()),
        Ok(PENDING),
        Ok(PARTLY),
        Ok(Verdict::Declined(decline())),
        Ok(failed_unclearly()),
        Ok(ABSENT),
        Ok(Verdict::Absent { undetermined: true }),
        Ok(Verdict::Contradicted("twice".to_owned())),
        Err(unreadable()),
        Err(ReadError::NotFound),
        Err(ReadError::Forbidden),
        Err(ReadError::NotSent(NotSent::Overloaded)),
    ]
}

/// Before, at and after each bound, counted from the start.
fn all_times() -> Vec<Timestamp> {
    let end = for_good().since(START);
    let week = RULES.accepted_review_after;
    [s(2), TOKEN, end, end + ms(1), week.saturating_sub(ms(1)), week, week + end]
        .map(|after| START + after)
        .to_vec()
}

/// No earlier read, or a run of equal ones that began this long ago.
fn all_streaks(now: Timestamp) -> Vec<Option<Streak>> {
    let findings = [
        Finding::Absent,
        Finding::AbsentForGood,
        Finding::Pending,
        Finding::Partly,
        Finding::FailedUnclearly,
        Finding::Nothing,
        Finding::NotRead,
        Finding::Contradiction,
    ];
    let shown = RULES.settle_max + RULES.read_lag_max + ms(1);
    let set = RULES.failed_event_settles_after;
    let bounds = [RULES.absent_reads_apart, set, shown, RULES.unreadable_review_after];
    let ages = bounds.into_iter().flat_map(|bound| [bound.saturating_sub(ms(1)), bound]);
    let ages: Vec<i64> = ages.map(|age| i64::try_from(age.as_millis()).unwrap()).collect();
    let mut streaks = vec![None];
    for finding in findings {
        for age in &ages {
            for count in [1, 2, 8, 9, 10] {
                let since = Timestamp(now.0 - age);
                streaks.push(Some(Streak { finding, since, last: since, count }));
            }
        }
    }
    streaks
}

/// Whether the reads before this one, and this one, showed the same for that long and that often.
fn held(
    streak: Option<Streak>,
    finding: Finding,
    reads: u32,
    for_at_least: Duration,
    now: Timestamp,
) -> bool {
    match streak.filter(|streak| streak.finding == finding) {
        Some(streak) => streak.count + 1 >= reads && now.since(streak.since) >= for_at_least,
        None => reads <= 1 && for_at_least.is_zero(),
    }
}

/// The one word for what a read comes to.
fn word(event: &Event) -> &'static str {
    match event {
        Event::Proven(_) => "proven",
        Event::Refused(_) => "refused",
        Event::Accepted { .. } => "accepted",
        Event::NeverHappened { .. } => "never happened",
        Event::Contradicted { .. } => "contradicted",
        Event::Looked { .. } => "looked",
        other => panic!("a read cannot come to {other:?}"),
    }
}

fn specified(
    state: &State,
    verdict: &Result<Verdict, ReadError>,
    streak: Option<Streak>,
    now: Timestamp,
) -> &'static str {
    let held = |finding, reads, time| held(streak, finding, reads, time, now);
    let past_fence = now > for_good();
    let old = now.since(START) >= RULES.accepted_review_after;
    let doubt = match state {
        State::InDoubt { pushback, .. } => Some(*pushback),
        _ => None,
    };
    let reviewed = matches!(state, State::Review { .. });
    match verdict {
        Ok(Verdict::Proven(_)) => "proven",
        _ if reviewed => "looked",
        Ok(Verdict::Declined(_)) => "refused",
        Ok(Verdict::Contradicted(_)) => "contradicted",
        Ok(Verdict::FailedUnclearly { .. }) => {
            // An effect may settle and be shown late (A4, A5): longer here than the time that is set.
            let shown = RULES.settle_max + RULES.read_lag_max + ms(1);
            if held(Finding::FailedUnclearly, 3, shown) { "refused" } else { "looked" }
        }
        Ok(Verdict::Accepted { .. }) if *state != State::Accepted => "accepted",
        Ok(Verdict::Accepted { partly, .. }) => {
            let parts = *partly && held(Finding::Partly, 1, RULES.partial_review_after);
            if parts || old { "contradicted" } else { "looked" }
        }
        Ok(Verdict::Absent { undetermined: true }) if doubt.is_some() => {
            if past_fence {
                "contradicted"
            } else {
                "looked"
            }
        }
        Ok(Verdict::Absent { .. }) => match doubt {
            Some(pushback) => {
                let twice = held(Finding::AbsentForGood, 2, RULES.absent_reads_apart);
                if (pushback || past_fence) && twice { "never happened" } else { "looked" }
            }
            None => {
                if old {
                    "contradicted"
                } else {
                    "looked"
                }
            }
        },
        Err(ReadError::NotSent(_)) => "looked",
        Err(_) => {
            if held(Finding::Nothing, 10, RULES.unreadable_review_after) {
                "contradicted"
            } else {
                "looked"
            }
        }
    }
}

#[test]
fn in_every_case_a_read_comes_to_what_the_rules_say() {
    let (mut cases, mut seen) = (0_u32, std::collections::BTreeMap::new());
    for state in all_states() {
        let read_back = matches!(state, State::Accepted | State::InDoubt { .. } | State::Review { .. });
        let mut entry = in_state(state.clone());
        for now in all_times() {
            for streak in all_streaks(now) {
                entry.reading = Reading { streak, ..Reading::default() };
                for verdict in all_verdicts() {
                    let event = decide(&entry, verdict.clone(), now, &RULES);
                    cases += 1;
                    *seen.entry(word(&event)).or_insert(0_u32) += 1;
                    let what = || format!("{}, {verdict:?}, {now:?}, {streak:?}: {event:?}", state.as_str());
                    if read_back {
                        assert_eq!(word(&event), specified(&state, &verdict, streak, now), "{}", what());
                        assert!(state.next(&event).is_ok(), "an illegal move: {}", what());
                    }
                    // Whatever it is asked about: a yes and a no need the PSP's word, absence a doubt.
                    let shows = |of: fn(&Verdict) -> bool| verdict.as_ref().is_ok_and(of);
                    match &event {
                        Event::Proven(_) => assert!(shows(|v| matches!(v, Verdict::Proven(_))), "{}", what()),
                        Event::Refused(_) => assert!(
                            shows(|v| matches!(v, Verdict::Declined(_) | Verdict::FailedUnclearly { .. })),
                            "{}",
                            what()
                        ),
                        Event::NeverHappened { .. } => {
                            assert!(matches!(state, State::InDoubt { .. }), "{}", what());
                            assert!(shows(|v| *v == ABSENT), "{}", what());
                        }
                        Event::Looked { at, .. } => assert_eq!(*at, now, "{}", what()),
                        _ => {}
                    }
                }
            }
        }
    }
    println!("decide: {cases} cases, {seen:?}");
    assert_eq!(seen.len(), 6, "everything that a read can come to occurs");
}
