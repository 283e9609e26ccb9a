//! Every subset of an alphabet of events, against the rules said another way:
//! not what is looked for among the events, but what each event means.

use super::*;

/// What one event means for the command whose mark is sought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    /// It moved this much for us.
    Moved(i64),
    /// It moved this much, for whoever began `r`.
    MovedFor(&'static str, i64),
    /// It moved something for us and does not say how much.
    MovedUntold,
    /// It failed for us, and says so clearly (a decline, a fitting correction).
    No,
    /// It failed for us, and may have taken effect.
    Unclear,
    /// It failed for us in an earlier attempt.
    Earlier,
    /// It failed clearly for whoever began `r`.
    NoFor(&'static str),
    /// It failed for us, with a correction that does not fit the sums.
    Misfit,
    /// It says neither yes nor no, for us.
    Neither,
    /// We began, under this id.
    Begun(&'static str),
    /// It is not ours, whatever it looks like.
    Foreign,
}

/// A letter of the alphabet: an event and its meaning.
type Letter = (Event, Means);

/// Ids of accepted requests that are stored in the entry.
const KNOWN: [Option<&str>; 2] = [None, Some("r")];

fn alphabet(kind: Kind) -> Vec<Letter> {
    let fitting = if kind == Kind::Capture { (TOTAL, 0) } else { (0, TOTAL) };
    let old = Event { id: Some("old".to_owned()), ..failed(ours(kind), &["DECLINED"]) };
    let letters = vec![
        // The first in time: nothing had moved by then.
        (corrected(failed(ours(kind), &["ERROR"]), fitting.0, fitting.1), Means::No),
        (ours(kind), Means::Moved(AMOUNT)),
        (part(ours(kind), 40), Means::Moved(40)),
        (part(ours(kind), 60), Means::Moved(60)),
        (end_of(kind, "r"), Means::MovedFor("r", AMOUNT)),
        (Event { amount: None, ..ours(kind) }, Means::MovedUntold),
        (failed(ours(kind), &["INSUFFICIENT_FUNDS"]), Means::No),
        (failed(ours(kind), &["ERROR"]), Means::Unclear),
        (old, Means::Earlier),
        (failed(end_of(kind, "r"), &["DECLINED"]), Means::NoFor("r")),
        (corrected(failed(ours(kind), &["ERROR"]), 1, 1), Means::Misfit),
        (Event { success: None, ..ours(kind) }, Means::Neither),
        (begun(kind, Some("r")), Means::Begun("r")),
        (begun(kind, Some("s")), Means::Begun("s")),
        (theirs(kind), Means::Foreign),
        (Event { name: "NEWS".to_owned(), ..ours(kind) }, Means::Foreign),
    ];
    // At times, so that their places do not matter [D 12 #19].
    let timed = |(nth, (event, means)): (usize, Letter)| {
        let created_at = Some(format!("2026-05-04T10:00:{nth:02}Z"));
        (Event { created_at, ..event }, means)
    };
    letters.into_iter().enumerate().map(timed).collect()
}

fn subset(alphabet: &[Letter], mask: u32) -> Vec<Letter> {
    let chosen = alphabet.iter().enumerate().filter(|(nth, _)| mask >> nth & 1 == 1);
    chosen.map(|(_, letter)| letter.clone()).collect()
}

fn events(letters: &[Letter]) -> Vec<Event> {
    letters.iter().map(|(event, _)| event.clone()).collect()
}

/// The rules of a capture and of a refund, from the meanings alone.
fn specified(letters: &[Letter], known: Option<&str>) -> &'static str {
    let has = |means: Means| letters.iter().any(|(_, other)| *other == means);
    let count = |of: &dyn Fn(Means) -> bool| letters.iter().filter(|(_, means)| of(*means)).count();
    let is_ours =
        |id: &str| known == Some(id) || letters.iter().any(|(_, m)| matches!(m, Means::Begun(b) if *b == id));
    let moved: i64 = letters
        .iter()
        .map(|(_, means)| match means {
            Means::Moved(amount) => *amount,
            Means::MovedFor(id, amount) if is_ours(id) => *amount,
            _ => 0,
        })
        .sum();
    if has(Means::MovedUntold) || has(Means::Misfit) || moved > AMOUNT {
        return "contradicted";
    }
    if moved == AMOUNT {
        return "proven";
    }
    if moved > 0 {
        return "partly";
    }
    // A beginning ends by name, or by any end of ours that names none.
    let ended = |id: &str| {
        letters.iter().any(|(_, m)| matches!(m, Means::MovedFor(r, _) | Means::NoFor(r) if *r == id))
    };
    let waiting = count(&|m| matches!(m, Means::Begun(id) if !ended(id)));
    let nameless = count(&|m| matches!(m, Means::No | Means::Unclear | Means::Neither));
    if waiting > nameless || has(Means::Neither) {
        return "accepted";
    }
    let clear = has(Means::No) || (has(Means::NoFor("r")) && is_ours("r"));
    match (clear, has(Means::Unclear)) {
        (_, true) => "failed unclearly",
        (true, false) => "declined",
        (false, false) => "absent",
    }
}

#[test]
fn in_every_subset_the_verdict_is_the_one_that_the_meanings_give() {
    let (mut cases, mut seen) = (0_u32, std::collections::BTreeMap::new());
    for kind in MONEY {
        let alphabet = alphabet(kind);
        let foreign = alphabet.iter().enumerate().filter(|(_, (_, means))| *means == Means::Foreign);
        let foreign: u32 = foreign.map(|(nth, _)| 1 << nth).sum();
        for known in KNOWN {
            let word_of =
                |events: &[Event]| word(&knowing(kind, &shown_before(kind, events), known, &["old"]));
            let mut words = Vec::new();
            for mask in 0..1_u32 << alphabet.len() {
                let letters = subset(&alphabet, mask);
                let mut events = events(&letters);
                let word = word_of(&events);
                words.push(word);
                cases += 1;
                *seen.entry(word).or_insert(0_u32) += 1;
                let what =
                    || format!("{kind}, {known:?}: {:?}", letters.iter().map(|(_, m)| m).collect::<Vec<_>>());
                assert_eq!(word, specified(&letters, known), "{}", what());
                assert_eq!(
                    word,
                    words[usize::try_from(mask & !foreign).unwrap()],
                    "foreign events decide: {}",
                    what()
                );
                rules_hold(word, &letters, known, &what);
                // Other orders, for a part of them: all orders of small ones are in `histories`.
                if mask % 8 == 3 {
                    events.reverse();
                    assert_eq!(word, word_of(&events), "the order decides: {}", what());
                    let middle = events.len() / 2;
                    events.rotate_left(middle);
                    assert_eq!(word, word_of(&events), "the order decides: {}", what());
                    cases += 2;
                }
            }
        }
    }
    println!("judge, capture and refund: {cases} cases, {seen:?}");
    assert_eq!(seen.len(), 7, "every verdict occurs");
}

/// What a wrong answer would be, whatever the rest of the rules.
fn rules_hold(word: &str, letters: &[Letter], known: Option<&str>, what: &dyn Fn() -> String) {
    let any = |of: &dyn Fn(&Means) -> bool| letters.iter().any(|(_, means)| of(means));
    let succeeded = any(&|m| matches!(m, Means::Moved(_) | Means::MovedFor(..)));
    match word {
        "proven" | "partly" => assert!(succeeded, "no success of ours: {}", what()),
        "declined" => {
            assert!(!any(&|m| matches!(m, Means::Moved(_) | Means::MovedUntold)), "it moved: {}", what());
            assert!(
                known != Some("r") || !any(&|m| matches!(m, Means::MovedFor(..))),
                "it moved: {}",
                what()
            );
            assert!(!any(&|m| matches!(m, Means::Neither | Means::Unclear)), "not yet clear: {}", what());
        }
        "absent" => assert!(
            !any(&|m| matches!(
                m,
                Means::Moved(_) | Means::No | Means::Unclear | Means::Begun(_) | Means::Neither
            )),
            "something of ours is there: {}",
            what()
        ),
        _ => {}
    }
}

/// As `shown`, with what was captured before a refund dated before all else.
fn shown_before(kind: Kind, events: &[Event]) -> Transaction {
    let mut transaction = shown(kind, events);
    if kind == Kind::Refund {
        transaction.events[0].created_at = Some("2026-05-01T00:00:00Z".to_owned());
    }
    transaction
}

/// What one event means for a void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OfVoid {
    /// The authorization, or the rest of it, is released, by whomever.
    Released,
    /// A release that was taken back.
    TakenBack,
    No,
    Unclear,
    Earlier,
    NoFor(&'static str),
    Neither,
    Misfit,
    /// Somebody began: it may be released any time.
    BegunByUs(&'static str),
    BegunByAnother(&'static str),
    Captured(i64),
    Foreign,
}

fn void_alphabet() -> Vec<(Event, OfVoid)> {
    let void = || ours(Kind::Void);
    let old = Event { id: Some("old".to_owned()), ..failed(void(), &["DECLINED"]) };
    let others = Event { user_agent: Some("backoffice".to_owned()), ..begun(Kind::Void, Some("q")) };
    let captured = |amount| part(theirs(Kind::Capture), amount);
    vec![
        (void(), OfVoid::Released),
        (theirs(Kind::Void), OfVoid::Released),
        (corrected(void(), TOTAL, 0), OfVoid::TakenBack),
        (failed(void(), &["DECLINED"]), OfVoid::No),
        (failed(void(), &["ERROR"]), OfVoid::Unclear),
        (old, OfVoid::Earlier),
        (failed(end_of(Kind::Void, "r"), &["DECLINED"]), OfVoid::NoFor("r")),
        (failed(end_of(Kind::Void, "q"), &["DECLINED"]), OfVoid::NoFor("q")),
        (Event { success: None, ..void() }, OfVoid::Neither),
        (corrected(failed(void(), &["ERROR"]), 1, 1), OfVoid::Misfit),
        (begun(Kind::Void, Some("r")), OfVoid::BegunByUs("r")),
        (others, OfVoid::BegunByAnother("q")),
        (captured(200), OfVoid::Captured(200)),
        (captured(300), OfVoid::Captured(300)),
        (failed(theirs(Kind::Void), &["DECLINED"]), OfVoid::Foreign),
        (Event { name: "NEWS".to_owned(), ..void() }, OfVoid::Foreign),
    ]
}

/// The rules of a void, from the meanings alone.
fn specified_void(letters: &[OfVoid], status: &str, known: Option<&str>) -> &'static str {
    let has = |means: OfVoid| letters.contains(&means);
    let voided = status == "AUTHORIZATION_VOIDED";
    if !voided && has(OfVoid::TakenBack) {
        return "contradicted";
    }
    if voided || has(OfVoid::Released) || has(OfVoid::TakenBack) {
        return "proven";
    }
    let nameless = has(OfVoid::No) || has(OfVoid::Unclear) || has(OfVoid::Misfit);
    let waits = |begun: OfVoid, id| has(begun) && !has(OfVoid::NoFor(id)) && !nameless;
    if waits(OfVoid::BegunByUs("r"), "r") || waits(OfVoid::BegunByAnother("q"), "q") {
        return "accepted";
    }
    if has(OfVoid::Misfit) {
        return "contradicted";
    }
    let no =
        has(OfVoid::No) || (has(OfVoid::NoFor("r")) && (known == Some("r") || has(OfVoid::BegunByUs("r"))));
    let all_captured = has(OfVoid::Captured(200)) && has(OfVoid::Captured(300));
    match (has(OfVoid::Neither), has(OfVoid::Unclear), no, all_captured) {
        (true, ..) => "accepted",
        (_, true, ..) => "failed unclearly",
        (_, _, true, _) | (.., true) => "declined",
        _ => "absent",
    }
}

#[test]
fn in_every_subset_the_verdict_about_a_void_is_the_one_that_the_meanings_give() {
    let alphabet = void_alphabet();
    let (mut cases, mut seen) = (0_u32, std::collections::BTreeMap::new());
    for (status, known) in [("AUTHORIZED", None), ("AUTHORIZED", Some("r")), ("AUTHORIZATION_VOIDED", None)] {
        for mask in 0..1_u32 << alphabet.len() {
            let chosen = alphabet.iter().enumerate().filter(|(nth, _)| mask >> nth & 1 == 1);
            let (mut events, letters): (Vec<Event>, Vec<OfVoid>) =
                chosen.map(|(_, (event, means))| (event.clone(), *means)).unzip();
            let judged = |events: &[Event]| word(&knowing(Kind::Void, &on(status, events), known, &["old"]));
            let word = judged(&events);
            cases += 1;
            *seen.entry(word).or_insert(0_u32) += 1;
            assert_eq!(word, specified_void(&letters, status, known), "{status}, {known:?}: {letters:?}");
            if mask % 8 == 3 {
                events.reverse();
                assert_eq!(word, judged(&events), "the order decides: {status}, {known:?}: {letters:?}");
                cases += 1;
            }
        }
    }
    println!("judge, void: {cases} cases, {seen:?}");
    assert_eq!(seen.len(), 6, "every verdict but a part occurs");
}
