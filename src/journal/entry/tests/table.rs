//! The state machine as its specification: a row for each event, a column for
//! each state, and every cell written out. An event or a state that is new
//! does not compile here before it has its row or its column.

use super::*;

/// What a cell says. "-" is illegal, "=" is no change at all, "stays" is a
/// change of what is known and not of the state; a word is the state after it.
const COLUMNS: [&str; 9] = [
    "started",
    "accepted",
    "in_doubt",
    "pushed_back",
    "released",
    "succeeded",
    "declined",
    "review",
    "resent",
];

#[rustfmt::skip]
const TABLE: &[(&str, [&str; 9])] = &[
    //                  started      accepted     in_doubt     pushed_back  released     succeeded    declined     review       resent
    ("retried",        ["-",         "-",         "-",         "-",         "started",   "-",         "-",         "-", "-"]),        // T2
    ("token_refused",  ["started",   "-",         "-",         "-",         "-",         "-",         "-",         "-", "-"]),        // T3, T2
    ("not_sent",       ["released",  "-",         "-",         "-",         "-",         "-",         "-",         "-", "in_doubt"]),        // T3
    ("refused",        ["declined",  "declined",  "declined",  "declined",  "-",         "-",         "-",         "-", "in_doubt"]),        // T4
    ("accepted",       ["accepted",  "=",         "accepted",  "accepted",  "-",         "-",         "-",         "-", "accepted"]),        // T5
    ("doubted",        ["in_doubt",  "-",         "-",         "-",         "-",         "-",         "-",         "-", "in_doubt"]),        // T6
    ("pushback",       ["pushed_back", "-",       "-",         "-",         "-",         "-",         "-",         "-", "in_doubt"]),        // T6
    ("proven",         ["succeeded", "succeeded", "succeeded", "succeeded", "succeeded", "=",         "review",    "succeeded", "succeeded"]),// T7, T10
    ("done_by_others", ["succeeded", "succeeded", "succeeded", "succeeded", "succeeded", "=",         "=",         "succeeded", "succeeded"]),// T7
    ("never_happened", ["-",         "-",         "released",  "released",  "-",         "-",         "-",         "-", "-"]),        // T8
    ("contradicted",   ["review",    "review",    "review",    "review",    "-",         "-",         "-",         "-", "review"]),        // T9
    ("proposed",       ["-",         "-",         "-",         "-",         "-",         "-",         "-",         "stays",     "-"]),
    ("resolved_succeeded", ["-",     "-",         "-",         "-",         "-",         "-",         "-",         "succeeded", "-"]),        // T11
    ("resolved_declined",  ["-",     "-",         "-",         "-",         "-",         "-",         "-",         "declined",  "-"]),        // T11
    ("resolved_released",  ["-",     "-",         "-",         "-",         "-",         "-",         "-",         "released",  "-"]),        // T11
    ("resent",         ["-",         "-",         "resent",    "resent",    "-",         "-",         "-",         "-",         "-"]),        // T12
    ("looked",         ["-",         "stays",     "stays",     "stays",     "-",         "-",         "-",         "stays", "-"]),
];

fn column(state: &State) -> &'static str {
    match state {
        State::InDoubt { pushback: true, .. } => "pushed_back",
        State::Started
        | State::Resent
        | State::Accepted
        | State::InDoubt { .. }
        | State::Released { .. }
        | State::Succeeded(_)
        | State::Declined(_)
        | State::Review { .. } => state.as_str(),
    }
}

fn row(event: &Event) -> &'static str {
    match event {
        Event::Retried { .. } => "retried",
        Event::TokenRefused { .. } => "token_refused",
        Event::NotSent { .. } => "not_sent",
        Event::Refused(_) => "refused",
        Event::Accepted { .. } => "accepted",
        Event::Doubted { pushback: false, .. } => "doubted",
        Event::Doubted { pushback: true, .. } => "pushback",
        Event::Proven(proof) if proof.by_others => "done_by_others",
        Event::Proven(_) => "proven",
        Event::NeverHappened { .. } => "never_happened",
        Event::Contradicted { .. } => "contradicted",
        Event::Proposed(_) => "proposed",
        Event::Resolved(resolution) => match resolution.outcome {
            Resolved::Succeeded(_) => "resolved_succeeded",
            Resolved::Declined(_) => "resolved_declined",
            Resolved::Released => "resolved_released",
        },
        Event::Resent { .. } => "resent",
        Event::Looked { .. } => "looked",
    }
}

/// Every state, in the order of the columns.
fn all_states() -> Vec<State> {
    let mut states = states();
    states.insert(3, State::InDoubt { why: "HTTP 429".to_owned(), pushback: true });
    states
}

/// Every event, each with what tells it from the state it meets.
fn all_events() -> Vec<Event> {
    let why = || "what the event says".to_owned();
    let another = Proof { amount: 7, ..proof() };
    let no = Decline { message: why(), ..*decline() };
    let mut events = vec![
        retried(LATER),
        token_refused(LATER),
        Event::NotSent { why: why() },
        Event::Refused(Box::new(no)),
        accepted("r"),
        Event::Accepted { request_id: None },
        Event::doubted(why()),
        Event::Doubted { why: why(), pushback: true, retry_after: None },
        Event::Proven(another),
        Event::Proven(Proof { by_others: true, ..proof() }),
        Event::NeverHappened { why: why() },
        Event::Contradicted { why: why() },
        Event::Proposed(proposal()),
        resolved(Resolved::Succeeded(proof())),
        resolved(Resolved::Declined(decline())),
        resolved(Resolved::Released),
        resent(LATER),
    ];
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
    events.extend(findings.map(|finding| looked(finding, NOW, &["e1"])));
    events
}

/// The cell, in the words of the table and with what the state has to carry.
fn expected(cell: &str, state: &State, event: &Event) -> Result<Option<State>, ()> {
    let said = match event {
        Event::NotSent { why }
        | Event::NeverHappened { why }
        | Event::Contradicted { why }
        | Event::Doubted { why, .. } => why.clone(),
        _ => "it took effect after it had been declined".to_owned(),
    };
    // Of an attempt that was sent again: the earlier one is as doubtful as before.
    let said = match (state, event) {
        (State::Resent, Event::Refused(decline)) => {
            format!("sent again, and an earlier attempt is in doubt as before: {}", decline.message)
        }
        (State::Resent, Event::NotSent { .. } | Event::Doubted { .. }) => {
            format!("sent again, and an earlier attempt is in doubt as before: {said}")
        }
        (_, Event::Resolved(_)) => "a review by two persons found that it did not take effect".to_owned(),
        _ => said,
    };
    Ok(Some(match (cell, event) {
        ("-", _) => return Err(()),
        ("resent", _) => State::Resent,
        ("=", _) => return Ok(None),
        ("stays", _) => state.clone(),
        ("started", _) => State::Started,
        ("accepted", _) => State::Accepted,
        ("in_doubt", _) => State::InDoubt { why: said, pushback: false },
        ("pushed_back", _) => State::InDoubt { why: said, pushback: true },
        ("released", _) => State::Released { why: said },
        ("review", _) => State::Review { why: said },
        ("succeeded", Event::Resolved(_)) => State::Succeeded(proof()),
        ("declined", Event::Resolved(_)) => State::Declined(decline()),
        ("succeeded", Event::Proven(proof)) => State::Succeeded(proof.clone()),
        ("declined", Event::Refused(decline)) => State::Declined(decline.clone()),
        (cell, event) => panic!("{cell} cannot come of {event:?}"),
    }))
}

fn cell(state: &State, event: &Event) -> &'static str {
    let row = row(event);
    let (_, cells) = TABLE.iter().find(|(name, _)| *name == row).unwrap_or_else(|| panic!("no row {row}"));
    let place = COLUMNS.iter().position(|name| *name == column(state)).unwrap();
    cells[place]
}

#[test]
fn every_cell_of_the_table_holds_and_there_is_no_other() {
    let (states, events) = (all_states(), all_events());
    assert_eq!(states.iter().map(column).collect::<Vec<_>>(), COLUMNS);
    let mut rows: Vec<_> = events.iter().map(row).collect();
    rows.dedup();
    assert_eq!(rows, TABLE.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    let mut cases = 0;
    for event in &events {
        for state in &states {
            let next = state.next(event).map_err(|_| ());
            assert_eq!(next, expected(cell(state, event), state, event), "{} and {event:?}", state.as_str());
            cases += 1;
        }
    }
    println!("State::next: {cases} cases, {} cells", TABLE.len() * COLUMNS.len());
    assert_eq!(cases, events.len() * COLUMNS.len());
}

/// What the table says in single cells, said once as rules.
#[test]
fn what_is_settled_stays_and_what_is_closed_opens_only_to_try_again_or_to_be_reviewed() {
    for state in all_states() {
        for event in all_events() {
            let Ok(Some(next)) = state.next(&event) else { continue };
            let seen = format!("{} and {event:?}", state.as_str());
            assert!(!matches!(state, State::Succeeded(_)), "a success never changes: {seen}");
            if state.is_final() {
                assert!(event.is_fact() && matches!(next, State::Review { .. }), "T10 alone: {seen}");
            }
            let decided = matches!(event, Event::Resolved(_));
            if matches!(next, State::Succeeded(_)) {
                assert!(event.is_fact() || decided, "nothing but a fact or two persons: {seen}");
            }
            if matches!(state, State::Review { .. }) && next != state {
                assert!(event.is_fact() || decided, "a proof or two persons end a review: {seen}");
            }
            match (state.is_open(), next.is_open()) {
                (false, true) => {
                    assert!(["retried", "proven", "done_by_others"].contains(&row(&event)), "{seen}");
                }
                (true, false) => assert!(
                    decided
                        || ["not_sent", "refused", "proven", "done_by_others", "never_happened"]
                            .contains(&row(&event)),
                    "{seen}"
                ),
                // A closed entry that stays closed was proven after its release.
                (false, false) => assert!(event.is_fact(), "{seen}"),
                (true, true) => {}
            }
        }
    }
}

/// The attempt, its fence and its lease change only where another attempt begins.
#[test]
fn in_every_cell_the_entry_keeps_what_it_must() {
    let mut cases = 0;
    for state in all_states() {
        for event in all_events() {
            for known in [None, Some("known".to_owned())] {
                cases += 1;
                let before = Entry { accepted_request_id: known, ..in_state(state.clone()) };
                let Ok(Some(after)) = before.after(&event, LATER, &schedule()) else { continue };
                let seen = format!("{} and {event:?}", state.as_str());
                let begins = after.state.is_sending();
                assert!(after.revision > before.revision && after.follows == before.revision, "{seen}");
                assert_eq!(after.attempt, before.attempt + u32::from(begins), "{seen}");
                assert_eq!(after.nonce != before.nonce, begins, "{seen}");
                assert!(after.fence_at >= before.fence_at, "{seen}");
                assert_eq!(after.reading.next_at.is_some(), after.state.is_open(), "{seen}");
                if !begins {
                    let kept =
                        |entry: &Entry| (entry.fence_at, entry.lease_until, entry.ignored_events.clone());
                    assert_eq!(kept(&after), kept(&before), "{seen}");
                }
                let same = Entry {
                    state: after.state.clone(),
                    attempt: after.attempt,
                    revision: after.revision,
                    follows: after.follows,
                    nonce: after.nonce,
                    fence_at: after.fence_at,
                    lease_until: after.lease_until,
                    accepted_request_id: after.accepted_request_id.clone(),
                    ignored_events: after.ignored_events.clone(),
                    reading: after.reading.clone(),
                    resends: after.resends,
                    proposal: after.proposal.clone(),
                    history: after.history.clone(),
                    updated_at: after.updated_at,
                    ..before
                };
                assert_eq!(after, same, "who asked what, and when, never changes: {seen}");
            }
        }
    }
    println!("Entry::after: {cases} cases");
}
