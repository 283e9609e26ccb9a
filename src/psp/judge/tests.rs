//! One row per line of the rules: what is seen, and what it proves.

mod histories;
mod subsets;

use super::*;

const AMOUNT: i64 = 100;
/// Authorized in all.
const TOTAL: i64 = 500;

fn tag() -> Tag {
    Tag::derive(&"orders".parse().unwrap(), &"key-1".parse().unwrap())
}

/// Judges for the command of this kind, with nothing known from before.
fn verdict(kind: Kind, transaction: &Transaction) -> Verdict {
    knowing(kind, transaction, None, &[])
}

fn knowing(kind: Kind, transaction: &Transaction, accepted: Option<&str>, ignored: &[&str]) -> Verdict {
    let ignored: Vec<String> = ignored.iter().map(|id| (*id).to_owned()).collect();
    let tag = tag();
    let sought = Sought {
        kind,
        amount: (kind != Kind::Void).then_some(AMOUNT),
        tag: &tag,
        accepted_request_id: accepted,
        ignored_events: &ignored,
        mixed: false,
    };
    judge(&sought, transaction)
}

fn on(status: &str, events: &[Event]) -> Transaction {
    Transaction {
        id: "T12345678.465UfBENeLpkBvwmqfTC4k".to_owned(),
        status: status.to_owned(),
        currency: "NOK".to_owned(),
        product_type: "vipps".to_owned(),
        amount: TOTAL,
        merchant_reference: None,
        settlement_status: None,
        created_at: None,
        updated_at: None,
        items: Vec::new(),
        events: events.to_vec(),
    }
}

/// What the PSP would say of a transaction with these events.
fn shown(kind: Kind, events: &[Event]) -> Transaction {
    match kind {
        Kind::Refund => {
            let whole = Event { amount: Some(TOTAL), event_reference: None, ..ours(Kind::Capture) };
            on("CAPTURED", &[&[whole], events].concat())
        }
        Kind::Capture | Kind::Void => on("AUTHORIZED", events),
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Capture => "CAPTURE",
        Kind::Void => "VOID",
        Kind::Refund => "REFUND",
    }
}

/// A successful event of the command.
fn ours(kind: Kind) -> Event {
    let tag = tag();
    Event {
        name: name(kind).to_owned(),
        success: Some(true),
        amount: (kind != Kind::Void).then_some(AMOUNT),
        event_reference: (kind != Kind::Void).then(|| format!("order-1-{tag}")),
        user_agent: Some(format!("payops/0.1.0 operation/{tag}")),
        ..Event::default()
    }
}

/// The same by somebody else.
fn theirs(kind: Kind) -> Event {
    Event {
        event_reference: Some("somebody-else".to_owned()),
        user_agent: Some("backoffice".to_owned()),
        ..ours(kind)
    }
}

fn begun(kind: Kind, request_id: Option<&str>) -> Event {
    let name = format!("INITIATE_{}", name(kind));
    Event { name, request_id: request_id.map(str::to_owned), ..ours(kind) }
}

/// The end of what was begun under `request_id`, without a mark of its own.
fn end_of(kind: Kind, request_id: &str) -> Event {
    Event {
        event_reference: None,
        user_agent: None,
        correlation_request_id: Some(request_id.to_owned()),
        ..ours(kind)
    }
}

fn failed(event: Event, types: &[&str]) -> Event {
    let types = types.iter().map(|kind| (*kind).to_owned()).collect();
    let error = PspError { message: Some("said so".to_owned()), types, ..PspError::default() };
    Event { success: Some(false), error: Some(error), ..event }
}

fn corrected(event: Event, remaining_capture: i64, remaining_refund: i64) -> Event {
    Event { correction: Some(Correction { remaining_capture, remaining_refund }), ..event }
}

fn part(event: Event, amount: i64) -> Event {
    Event { amount: Some(amount), ..event }
}

/// The verdict in one word.
fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Proven(_) => "proven",
        Verdict::Accepted { partly: false, .. } => "accepted",
        Verdict::Accepted { partly: true, .. } => "partly",
        Verdict::Declined(_) => "declined",
        Verdict::FailedUnclearly { .. } => "failed unclearly",
        Verdict::Absent { .. } => "absent",
        Verdict::Contradicted(_) => "contradicted",
    }
}

const MONEY: [Kind; 2] = [Kind::Capture, Kind::Refund];

/// What is seen, its events for a capture and for a refund, and the verdict.
type Seen<'a> = (&'a str, fn(Kind) -> Vec<Event>, &'a str);

#[track_caller]
fn rows(rows: &[Seen<'_>]) {
    for (seen, events, expected) in rows {
        for kind in MONEY {
            let verdict = verdict(kind, &shown(kind, &events(kind)));
            assert_eq!(word(&verdict), *expected, "{kind}: {seen}: {verdict:?}");
        }
    }
}

#[test]
fn a_successful_event_that_is_ours_proves_and_nothing_else_does() {
    rows(&[
        ("nothing", |_| vec![], "absent"),
        ("the mark behind the caller's reference", |kind| vec![ours(kind)], "proven"),
        (
            "the mark alone",
            |kind| vec![Event { event_reference: Some(tag().to_string()), ..ours(kind) }],
            "proven",
        ),
        ("the end of what we began", |kind| vec![begun(kind, Some("r")), end_of(kind, "r")], "proven"),
        ("the end before the beginning", |kind| vec![end_of(kind, "r"), begun(kind, Some("r"))], "proven"),
        ("two parts that make the whole", |kind| vec![part(ours(kind), 30), part(ours(kind), 70)], "proven"),
        (
            "two parts of what we began",
            |kind| vec![begun(kind, Some("r")), part(end_of(kind, "r"), 30), part(end_of(kind, "r"), 70)],
            "proven",
        ),
        ("another's, of the same amount", |kind| vec![theirs(kind)], "absent"),
        (
            "another's, with the session's default reference",
            |kind| vec![Event { event_reference: Some("ORDER-123".to_owned()), ..theirs(kind) }],
            "absent",
        ),
        ("no reference at all", |kind| vec![Event { event_reference: None, ..theirs(kind) }], "absent"),
        (
            "our mark as a beginning",
            |kind| vec![Event { event_reference: Some(format!("{}-1", tag())), ..ours(kind) }],
            "absent",
        ),
        (
            "our mark in the middle",
            |kind| vec![Event { event_reference: Some(format!("a-{}-b", tag())), ..ours(kind) }],
            "absent",
        ),
        (
            "our mark run together with something",
            |kind| vec![Event { event_reference: Some(format!("a{}", tag())), ..ours(kind) }],
            "absent",
        ),
        (
            "our user agent without the mark in the reference",
            |kind| vec![Event { event_reference: None, ..ours(kind) }],
            "absent",
        ),
        (
            "our mark on an event of another kind",
            |kind| {
                let other = if kind == Kind::Capture { Kind::Refund } else { Kind::Capture };
                vec![Event { name: name(other).to_owned(), success: Some(false), ..ours(kind) }]
            },
            "absent",
        ),
        (
            "our mark on an event that nobody knows",
            |kind| vec![Event { name: "REVERSAL".to_owned(), ..ours(kind) }],
            "absent",
        ),
        ("the end of what another began", |kind| vec![end_of(kind, "r")], "absent"),
    ]);
}

#[test]
fn the_sum_has_to_be_the_amount() {
    rows(&[
        ("twice", |kind| vec![ours(kind), ours(kind)], "contradicted"),
        ("one too much", |kind| vec![part(ours(kind), 101)], "contradicted"),
        ("one too little", |kind| vec![part(ours(kind), 99)], "partly"),
        (
            "a part, and the rest failed",
            |kind| vec![part(ours(kind), 30), failed(part(ours(kind), 70), &["DECLINED"])],
            "partly",
        ),
        ("a part and another's", |kind| vec![part(ours(kind), 30), part(theirs(kind), 70)], "partly"),
        ("success without an amount", |kind| vec![Event { amount: None, ..ours(kind) }], "contradicted"),
        ("an INITIATE_ counts for nothing", |kind| vec![begun(kind, Some("r")), ours(kind)], "proven"),
        (
            "a sum beyond all numbers",
            |kind| vec![part(ours(kind), i64::MAX), part(ours(kind), i64::MAX)],
            "contradicted",
        ),
    ]);
}

#[test]
fn what_was_begun_is_accepted_until_each_beginning_has_its_end() {
    rows(&[
        ("begun", |kind| vec![begun(kind, Some("r"))], "accepted"),
        ("begun without an id", |kind| vec![begun(kind, None)], "accepted"),
        (
            "begun, and another's ended",
            |kind| vec![begun(kind, Some("r")), end_of(kind, "other")],
            "accepted",
        ),
        (
            "begun, and ended under its name",
            |kind| vec![begun(kind, Some("r")), failed(end_of(kind, "r"), &["DECLINED"])],
            "declined",
        ),
        (
            "begun, and ended with our mark and no name",
            |kind| vec![begun(kind, Some("r")), failed(ours(kind), &["DECLINED"])],
            "declined",
        ),
        (
            "begun twice and ended once, by name",
            |kind| {
                let end = failed(end_of(kind, "a"), &["DECLINED"]);
                vec![begun(kind, Some("a")), begun(kind, Some("b")), end]
            },
            "accepted",
        ),
        (
            "begun twice and ended once, without a name",
            |kind| {
                let end = failed(ours(kind), &["DECLINED"]);
                vec![begun(kind, Some("a")), begun(kind, Some("b")), end]
            },
            "accepted",
        ),
        (
            "an event of ours that says neither yes nor no",
            |kind| vec![Event { success: None, ..ours(kind) }],
            "accepted",
        ),
        (
            "an end that says neither yes nor no",
            |kind| vec![begun(kind, Some("r")), Event { success: None, ..end_of(kind, "r") }],
            "accepted",
        ),
        (
            "one no, and one that says neither",
            |kind| vec![failed(ours(kind), &["DECLINED"]), Event { success: None, ..ours(kind) }],
            "accepted",
        ),
    ]);
}

#[test]
fn a_failure_is_a_decline_only_if_it_says_so() {
    for kind in MONEY {
        for decline in ["DECLINED", "INSUFFICIENT_FUNDS", "EXPIRED_CARD", "CLOSED_ACCOUNT", "RESTRICTED_CARD"]
        {
            let verdict = verdict(kind, &shown(kind, &[failed(ours(kind), &[decline])]));
            let Verdict::Declined(decline) = verdict else { panic!("{kind} {decline}: {verdict:?}") };
            assert_eq!(decline.reason, Reason::Declined);
            assert_eq!(decline.psp.message.as_deref(), Some("said so"));
        }
    }
    rows(&[
        ("an error", |kind| vec![failed(ours(kind), &["ERROR"])], "failed unclearly"),
        ("unknown", |kind| vec![failed(ours(kind), &["UNKNOWN"])], "failed unclearly"),
        ("an error further on", |kind| vec![failed(ours(kind), &["ISSUER_ERROR"])], "failed unclearly"),
        ("a type that nobody knows", |kind| vec![failed(ours(kind), &["NEWS"])], "failed unclearly"),
        ("no type", |kind| vec![failed(ours(kind), &[])], "failed unclearly"),
        ("no error at all", |kind| vec![Event { success: Some(false), ..ours(kind) }], "failed unclearly"),
        (
            "one clear, one not",
            |kind| vec![failed(ours(kind), &["DECLINED"]), failed(ours(kind), &["ERROR"])],
            "failed unclearly",
        ),
        ("another's failure", |kind| vec![failed(theirs(kind), &["DECLINED"])], "absent"),
        ("a failure, then a success", |kind| vec![failed(ours(kind), &["ERROR"]), ours(kind)], "proven"),
    ]);
}

#[test]
fn a_correction_is_believed_where_it_fits_the_sums_and_is_a_persons_case_where_not() {
    // Nothing is captured: all of it remains.
    let untouched = |event: Event| shown(Kind::Capture, &[event]);
    let timed_out = || failed(ours(Kind::Capture), &["ERROR"]);
    let cases = [
        ("failed, nothing moved", untouched(corrected(timed_out(), TOTAL, 0)), "declined"),
        ("failed, and it moved", untouched(corrected(timed_out(), TOTAL - AMOUNT, AMOUNT)), "contradicted"),
        ("done", untouched(corrected(ours(Kind::Capture), TOTAL - AMOUNT, AMOUNT)), "proven"),
        ("done, and taken back", untouched(corrected(ours(Kind::Capture), TOTAL, 0)), "contradicted"),
        ("another's correction", untouched(corrected(theirs(Kind::Capture), TOTAL, 0)), "absent"),
    ];
    for (seen, transaction, expected) in cases {
        let verdict = verdict(Kind::Capture, &transaction);
        assert_eq!(word(&verdict), expected, "{seen}: {verdict:?}");
    }
    let refunds = [
        ("nothing moved", corrected(failed(ours(Kind::Refund), &["ERROR"]), 0, TOTAL), "declined"),
        ("it moved", corrected(failed(ours(Kind::Refund), &["ERROR"]), 0, TOTAL - AMOUNT), "contradicted"),
        ("done", corrected(ours(Kind::Refund), 0, TOTAL - AMOUNT), "proven"),
        ("done, and taken back", corrected(ours(Kind::Refund), 0, TOTAL), "contradicted"),
    ];
    for (seen, event, expected) in refunds {
        let verdict = verdict(Kind::Refund, &shown(Kind::Refund, &[event]));
        assert_eq!(word(&verdict), expected, "{seen}: {verdict:?}");
    }
}

#[test]
fn a_correction_is_compared_with_what_had_happened_by_then() {
    let failed = corrected(failed(ours(Kind::Capture), &["ERROR"]), TOTAL, 0);
    let others = part(theirs(Kind::Capture), TOTAL);
    let at = |event: &Event, at: &str| Event { created_at: Some(at.to_owned()), ..event.clone() };
    let by_place = [failed.clone(), others.clone()];
    let by_time = [at(&others, "2026-05-04T12:00:00.000+02:00"), at(&failed, "2026-05-04T09:00:00.000Z")];
    for events in [&by_place, &by_time] {
        assert_eq!(word(&verdict(Kind::Capture, &on("CAPTURED", events))), "declined", "{events:?}");
    }
    let after_it = [at(&others, "2026-05-04T08:00:00Z"), at(&failed, "2026-05-04T09:00:00Z")];
    assert_eq!(word(&verdict(Kind::Capture, &on("CAPTURED", &after_it))), "contradicted");
}

#[test]
fn an_accepted_request_is_recognised_by_the_id_that_the_psp_gave_it() {
    for kind in MONEY {
        let judged = |events: &[Event]| knowing(kind, &shown(kind, events), Some("r"), &[]);
        // The completing event has neither mark nor beginning.
        assert_eq!(word(&judged(&[end_of(kind, "r")])), "proven");
        assert_eq!(word(&judged(&[end_of(kind, "other")])), "absent");
        assert_eq!(word(&judged(&[failed(end_of(kind, "r"), &["DECLINED"])])), "declined");
        // The beginning has lost its reference.
        let begun = Event { event_reference: None, ..begun(kind, Some("r")) };
        let expected = Verdict::Accepted { request_id: Some("r".to_owned()), partly: false };
        assert_eq!(judged(std::slice::from_ref(&begun)), expected);
        assert_eq!(word(&judged(&[begun, end_of(kind, "r")])), "proven");
        // An event without any id is not the one that is sought.
        assert_eq!(word(&judged(&[Event { event_reference: None, ..ours(kind) }])), "absent");
    }
}

/// What a reviewer is shown as ours is what the verdict counts.
#[test]
fn each_event_is_recognised_by_its_mark_or_by_the_request_that_it_completes() {
    for kind in [Kind::Capture, Kind::Void, Kind::Refund] {
        let unmarked = |event: Event| Event { event_reference: None, user_agent: None, ..event };
        let events = [
            begun(kind, Some("r-1")),
            unmarked(end_of(kind, "r-1")),
            unmarked(end_of(kind, "r-2")),
            unmarked(end_of(kind, "r-3")),
            ours(kind),
            theirs(kind),
            Event { name: "AUTHORIZE".to_owned(), ..ours(kind) },
            unmarked(begun(kind, Some("r-2"))),
        ];
        let tag = tag();
        let sought = Sought {
            kind,
            amount: (kind != Kind::Void).then_some(AMOUNT),
            tag: &tag,
            accepted_request_id: Some("r-2"),
            ignored_events: &[],
            mixed: false,
        };
        let [by_tag, by_id] = [Some(Mark::Tag), Some(Mark::RequestId)];
        let expected = [by_tag, by_id, by_id, None, by_tag, None, None, by_id];
        assert_eq!(marks(&sought, &on("AUTHORIZED", &events)), expected, "{kind}");
    }
}

#[test]
fn failures_of_earlier_attempts_say_nothing_about_this_one() {
    for kind in [Kind::Capture, Kind::Refund, Kind::Void] {
        let old = Event { id: Some("old".to_owned()), ..failed(ours(kind), &["DECLINED"]) };
        let judged = |events: &[Event]| word(&knowing(kind, &shown(kind, events), None, &["old"]));
        assert_eq!(judged(std::slice::from_ref(&old)), "absent", "{kind}");
        // It does not end what the new attempt began.
        assert_eq!(judged(&[old.clone(), begun(kind, Some("r"))]), "accepted", "{kind}");
        assert_eq!(judged(&[old.clone(), failed(ours(kind), &["DECLINED"])]), "declined", "{kind}");
        assert_eq!(judged(&[old, ours(kind)]), "proven", "{kind}");
    }
}

#[test]
fn of_several_attempts_the_failure_of_one_is_not_the_end_of_another() {
    for kind in [Kind::Capture, Kind::Refund, Kind::Void] {
        let tag = tag();
        let sought = Sought {
            kind,
            amount: (kind != Kind::Void).then_some(AMOUNT),
            tag: &tag,
            accepted_request_id: None,
            ignored_events: &[],
            mixed: true,
        };
        let judged = |events: &[Event]| word(&judge(&sought, &shown(kind, events)));
        let failure = failed(ours(kind), &["DECLINED"]);
        assert_eq!(judged(std::slice::from_ref(&failure)), "declined", "{kind}");
        assert_eq!(judged(&[begun(kind, Some("r")), failure.clone()]), "accepted", "{kind}");
        let named = failed(end_of(kind, "r"), &["DECLINED"]);
        assert_eq!(judged(&[begun(kind, Some("r")), failure, named]), "declined", "{kind}");
    }
}

#[test]
fn absence_is_marked_where_the_psp_itself_does_not_know() {
    for kind in [Kind::Capture, Kind::Refund, Kind::Void] {
        for (status, undetermined) in
            [("UNKNOWN", true), ("AUTHORIZED", false), ("NEWS_OF_TOMORROW", false), ("", false)]
        {
            assert_eq!(verdict(kind, &on(status, &[])), Verdict::Absent { undetermined }, "{kind} {status}");
        }
    }
}

#[test]
fn a_proof_names_the_event_and_what_moved() {
    let first =
        Event { id: Some("e1".to_owned()), created_at: Some("then".to_owned()), ..ours(Kind::Capture) };
    let events = [part(first, 30), part(ours(Kind::Capture), 70)];
    let Verdict::Proven(proof) = verdict(Kind::Capture, &on("PARTIALLY_CAPTURED", &events)) else { panic!() };
    assert_eq!((proof.event_id.as_deref(), proof.amount), (Some("e1"), AMOUNT));
    assert_eq!(proof.event_time.as_deref(), Some("then"));
    assert_eq!((proof.sums.captured, proof.sums.capturable), (AMOUNT, TOTAL - AMOUNT));
}

#[test]
fn a_void_is_proven_by_the_state_that_was_asked_for() {
    let void = || ours(Kind::Void);
    let captured = || part(theirs(Kind::Capture), 200);
    let cases: Vec<(&str, Transaction, &str)> = vec![
        ("voided, by whomever", on("AUTHORIZATION_VOIDED", &[]), "proven"),
        ("voided, and ours failed", on("AUTHORIZATION_VOIDED", &[failed(void(), &["ERROR"])]), "proven"),
        ("another's void", on("AUTHORIZED", &[theirs(Kind::Void)]), "proven"),
        ("the rest is void", on("PARTIALLY_CAPTURED", &[captured(), void()]), "proven"),
        ("the rest is void, by its status captured", on("CAPTURED", &[captured(), void()]), "proven"),
        ("nothing", on("AUTHORIZED", &[]), "absent"),
        ("a part is captured", on("PARTIALLY_CAPTURED", &[captured()]), "absent"),
        ("begun", on("AUTHORIZED", &[begun(Kind::Void, Some("r"))]), "accepted"),
        (
            "begun by another",
            on("AUTHORIZED", &[Event { user_agent: None, ..begun(Kind::Void, Some("r")) }]),
            "accepted",
        ),
        (
            "begun, and declined under its name",
            on("AUTHORIZED", &[begun(Kind::Void, Some("r")), failed(end_of(Kind::Void, "r"), &["DECLINED"])]),
            "declined",
        ),
        (
            "begun, and declined with our mark",
            on("AUTHORIZED", &[begun(Kind::Void, Some("r")), failed(void(), &["DECLINED"])]),
            "declined",
        ),
        ("declined", on("AUTHORIZED", &[failed(void(), &["DECLINED"])]), "declined"),
        ("failed unclearly", on("AUTHORIZED", &[failed(void(), &["ERROR"])]), "failed unclearly"),
        ("another's failure", on("AUTHORIZED", &[failed(theirs(Kind::Void), &["DECLINED"])]), "absent"),
        ("neither yes nor no", on("AUTHORIZED", &[Event { success: None, ..void() }]), "accepted"),
        (
            "failed, and corrected to nothing moved",
            on("AUTHORIZED", &[corrected(failed(void(), &["ERROR"]), TOTAL, 0)]),
            "declined",
        ),
        (
            "failed, and corrected to released",
            on("AUTHORIZED", &[corrected(failed(void(), &["ERROR"]), 0, 0)]),
            "contradicted",
        ),
        ("done, and taken back", on("AUTHORIZED", &[corrected(void(), TOTAL, 0)]), "contradicted"),
        ("done, and confirmed", on("AUTHORIZED", &[corrected(void(), 0, 0)]), "proven"),
        ("captured in full meanwhile", on("CAPTURED", &[part(captured(), TOTAL)]), "declined"),
        ("captured at once", on("CAPTURED", &[]), "declined"),
        ("refunded meanwhile", on("REFUNDED", &[part(captured(), TOTAL)]), "declined"),
        ("the PSP does not know", on("UNKNOWN", &[captured()]), "absent"),
    ];
    for (seen, transaction, expected) in cases {
        let verdict = verdict(Kind::Void, &transaction);
        assert_eq!(word(&verdict), expected, "{seen}: {verdict:?}");
    }
    let Verdict::Declined(decline) = verdict(Kind::Void, &on("CAPTURED", &[])) else { panic!() };
    assert_eq!(decline.reason, Reason::TransactionState);
    let known = on("AUTHORIZED", &[failed(end_of(Kind::Void, "r"), &["DECLINED"])]);
    assert_eq!(word(&knowing(Kind::Void, &known, Some("r"), &[])), "declined");
    assert_eq!(word(&knowing(Kind::Void, &known, Some("other"), &[])), "absent");
}

#[test]
fn a_void_by_somebody_else_is_told_from_ours() {
    let unmarked = || Event { user_agent: None, ..ours(Kind::Void) };
    let failed = || failed(ours(Kind::Void), &["ERROR"]);
    let cases = [
        ("ours", vec![ours(Kind::Void)], false),
        ("theirs", vec![theirs(Kind::Void)], true),
        ("theirs, after a failure of ours", vec![failed(), theirs(Kind::Void)], true),
        ("theirs and ours", vec![theirs(Kind::Void), ours(Kind::Void)], false),
        ("the event does not say whose", vec![unmarked()], false),
        ("only the status says so", vec![], false),
    ];
    for (seen, events, by_others) in cases {
        let verdict = verdict(Kind::Void, &on("AUTHORIZATION_VOIDED", &events));
        let Verdict::Proven(proof) = verdict else { panic!("{seen}: {verdict:?}") };
        assert_eq!(proof.by_others, by_others, "{seen}");
    }
}
