//! What the PSP's evidence proves about one command: a pure function, the same
//! for the answer to a POST and for a read.
//!
//! # Correctness
//!
//! An event that is seen is proof. An event that is not seen proves nothing
//! here: whether absence may be believed is a matter of time, not of this
//! function. Nothing is ever matched by amount, by order or by "the last one".

use crate::payment::{
    Command, Kind,
    id::Tag,
    outcome::{Decline, Proof, PspError, Reason},
};
use crate::psp::transaction::{Correction, Event, Transaction};

/// What to look for.
#[derive(Clone, Debug)]
pub struct Sought<'a> {
    /// Capture, void or refund.
    pub kind: Kind,
    /// Minor units; none for a void.
    pub amount: Option<i64>,
    /// The command's mark.
    pub tag: &'a Tag,
    /// The PSP's id of an accepted request [D 3.6].
    pub accepted_request_id: Option<&'a str>,
    /// Failed events of earlier attempts: they say nothing about this one.
    pub ignored_events: &'a [String],
    /// There may be events of more than one attempt (T12, or an attempt that
    /// a lost journal knew): the failure of one is not the end of another.
    pub mixed: bool,
}

/// What the evidence proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It took effect.
    Proven(Proof),
    /// The PSP has begun and not finished.
    Accepted {
        /// The PSP's id of the accepted request, where there is one.
        request_id: Option<String>,
        /// Part of the amount has moved already.
        partly: bool,
    },
    /// It did not take effect and will not.
    Declined(Box<Decline>),
    /// It failed in a way that does not exclude an effect ("timed out").
    FailedUnclearly {
        /// What the PSP said.
        error: PspError,
        /// The events that failed.
        events: Vec<String>,
    },
    /// Nothing of ours is to be seen.
    Absent {
        /// The PSP itself does not know how the transaction stands: then
        /// absence can never be believed.
        undetermined: bool,
    },
    /// The evidence contradicts itself or the command.
    Contradicted(String),
}

impl<'a> Sought<'a> {
    /// What a fresh command looks for. If there is anything, it is of attempts
    /// that nobody remembers.
    pub fn of(command: &Command, tag: &'a Tag) -> Self {
        Self {
            kind: command.operation.kind(),
            amount: command.operation.amount().map(crate::payment::Amount::minor),
            tag,
            accepted_request_id: None,
            ignored_events: &[],
            mixed: true,
        }
    }
}

/// By what an event is recognised as the command's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It carries the command's tag.
    Tag,
    /// It names the PSP's id of the command's accepted request [D 3.6].
    RequestId,
}

/// By what each event is recognised as the command's, in the events' order:
/// those that [`judge`] counts, and those that they complete.
pub fn marks(sought: &Sought<'_>, transaction: &Transaction) -> Vec<Option<Mark>> {
    let name = match sought.kind {
        Kind::Capture => "CAPTURE",
        Kind::Void => "VOID",
        Kind::Refund => "REFUND",
    };
    let begins = |event: &Event| event.name.strip_prefix("INITIATE_") == Some(name);
    let by_id = |event: &Event, id: Option<&str>| {
        if marked(sought, event) { Some(Mark::Tag) } else { accepted(sought, id).then_some(Mark::RequestId) }
    };
    let begun: Vec<&str> = transaction
        .events
        .iter()
        .filter(|event| begins(event) && by_id(event, event.request_id.as_deref()).is_some())
        .filter_map(|event| event.request_id.as_deref())
        .collect();
    let mark = |event: &Event| match event.correlation_request_id.as_deref() {
        _ if begins(event) => by_id(event, event.request_id.as_deref()),
        _ if event.name != name => None,
        Some(id) if begun.contains(&id) && !marked(sought, event) => Some(Mark::RequestId),
        id => by_id(event, id),
    };
    transaction.events.iter().map(mark).collect()
}

/// Judges the transaction.
pub fn judge(sought: &Sought<'_>, transaction: &Transaction) -> Verdict {
    match (sought.kind, sought.amount) {
        (Kind::Capture, Some(amount)) => judge_amount(sought, "CAPTURE", amount, transaction),
        (Kind::Refund, Some(amount)) => judge_amount(sought, "REFUND", amount, transaction),
        (Kind::Void, None) => judge_void(sought, transaction),
        // A command cannot be built like this; never a success if it were.
        _ => Verdict::Contradicted("the command and its amount do not fit".into()),
    }
}

fn judge_amount(sought: &Sought<'_>, name: &str, amount: i64, transaction: &Transaction) -> Verdict {
    let marks = marks(sought, transaction);
    let marked = transaction.events.iter().zip(marks).filter_map(|(event, mark)| mark.map(|_| event));
    let (ours, begun): (Vec<&Event>, Vec<&Event>) = marked.partition(|event| event.name == name);

    let done: Vec<&Event> = ours.iter().copied().filter(|event| event.success == Some(true)).collect();
    if done.iter().any(|event| event.amount.is_none()) {
        return Verdict::Contradicted("a successful event of this operation has no amount".into());
    }
    let sum = done.iter().filter_map(|event| event.amount).fold(0_i64, i64::saturating_add);
    if sum > amount {
        return Verdict::Contradicted(format!("{sum} minor units moved where {amount} were asked for"));
    }
    if ours.iter().any(|event| event.correction.is_some_and(|c| !fits(c, event, transaction))) {
        return Verdict::Contradicted("a correction does not fit the sums of the events".into());
    }
    if sum == amount {
        return Verdict::Proven(proof(&done, sum, transaction));
    }
    // Each beginning waits for one end: the one that names it, or else one that
    // carries our mark and names none, if only one attempt can have left it.
    let named = begun.iter().filter(|begun| {
        begun.request_id.is_some()
            && ours.iter().any(|event| event.correlation_request_id == begun.request_id)
    });
    let nameless = ours.iter().filter(|event| may_end(sought, event));
    let unfinished = begun.len() > named.count().saturating_add(nameless.count());
    if sum > 0 || unfinished || ours.iter().any(|event| undecided(event)) {
        let request_id = begun.iter().find_map(|event| event.request_id.clone());
        return Verdict::Accepted { request_id, partly: sum > 0 };
    }
    judge_failed(sought, &ours, transaction)
}

fn judge_void(sought: &Sought<'_>, transaction: &Transaction) -> Verdict {
    let events = |name: &'static str| transaction.events.iter().filter(move |event| event.name == name);
    let done: Vec<&Event> = events("VOID").filter(|event| event.success == Some(true)).collect();
    let taken_back = |event: &Event| event.correction.is_some_and(|c| c.remaining_capture > 0);
    if transaction.status != "AUTHORIZATION_VOIDED" && done.iter().any(|event| taken_back(event)) {
        return Verdict::Contradicted("a correction takes a successful void back".into());
    }
    if transaction.is_released() {
        // The state that was asked for; whoever brought it about.
        let mut perhaps_ours =
            transaction.events.iter().zip(marks(sought, transaction)).filter(|(event, mark)| {
                event.name == "VOID"
                    && event.success == Some(true)
                    && (mark.is_some() || event.user_agent.is_none())
            });
        let by_others = !done.is_empty() && perhaps_ours.next().is_none();
        return Verdict::Proven(Proof { by_others, ..proof(&done, 0, transaction) });
    }
    let finished = |begun: &Event| {
        begun.request_id.is_some()
            && events("VOID").any(|event| event.correlation_request_id == begun.request_id)
    };
    if let Some(begun) = events("INITIATE_VOID").find(|begun| !finished(begun)) {
        // A failed void of ours that names no beginning may be its end.
        let ended = events("VOID")
            .any(|event| event.success == Some(false) && marked(sought, event) && may_end(sought, event));
        if !ended {
            return Verdict::Accepted { request_id: begun.request_id.clone(), partly: false };
        }
    }
    let ours = transaction.events.iter().zip(marks(sought, transaction));
    let ours: Vec<&Event> =
        ours.filter(|(event, mark)| event.name == "VOID" && mark.is_some()).map(|(event, _)| event).collect();
    if ours.iter().any(|event| event.correction.is_some_and(|c| !fits(c, event, transaction))) {
        return Verdict::Contradicted("a correction does not fit the sums of the events".into());
    }
    if ours.iter().any(|event| undecided(event)) {
        return Verdict::Accepted { request_id: None, partly: false };
    }
    let verdict = judge_failed(sought, &ours, transaction);
    let sums = transaction.sums();
    if matches!(verdict, Verdict::Absent { .. }) && sums.captured > 0 && sums.capturable == 0 {
        return Verdict::Declined(Box::new(Decline {
            reason: Reason::TransactionState,
            message: format!("nothing is left to void: the transaction is {}", transaction.status),
            psp: PspError::default(),
            transaction_status: Some(transaction.status.clone()),
            sums: Some(sums),
        }));
    }
    verdict
}

/// Only failures are left, or nothing.
fn judge_failed(sought: &Sought<'_>, ours: &[&Event], transaction: &Transaction) -> Verdict {
    let failed: Vec<&Event> = ours
        .iter()
        .copied()
        .filter(|event| event.success == Some(false))
        .filter(|event| !ignored(sought, event))
        .collect();
    let Some(last) = failed.last() else {
        return Verdict::Absent { undetermined: transaction.status == "UNKNOWN" };
    };
    let error = last.error.clone().unwrap_or_default();
    let definite = |event: &Event| event.correction.is_some() || event.error.as_ref().is_some_and(is_decline);
    if failed.iter().all(|event| definite(event)) {
        let said = error.message.as_deref().unwrap_or("no message");
        Verdict::Declined(Box::new(Decline {
            reason: Reason::Declined,
            message: format!("the PSP recorded a failed {}: {said}", sought.kind),
            psp: error,
            transaction_status: Some(transaction.status.clone()),
            sums: Some(transaction.sums()),
        }))
    } else {
        let events = failed.iter().filter_map(|event| event.id.clone()).collect();
        Verdict::FailedUnclearly { error, events }
    }
}

/// Whether the event carries the command's mark. A capture or refund carries it
/// in its reference; a void has only the user agent [D 5.2].
fn marked(sought: &Sought<'_>, event: &Event) -> bool {
    if wrong!(MatchByAmount) {
        return event.amount == sought.amount;
    }
    match sought.kind {
        Kind::Capture | Kind::Refund => {
            event.event_reference.as_deref().is_some_and(|reference| sought.tag.marks(reference))
        }
        Kind::Void => event.names(sought.tag),
    }
}

/// A failed event of an earlier attempt says nothing about this one.
fn ignored(sought: &Sought<'_>, event: &Event) -> bool {
    event.id.as_ref().is_some_and(|id| sought.ignored_events.contains(id))
}

/// Whether an event that names no beginning may be the end of one.
fn may_end(sought: &Sought<'_>, event: &Event) -> bool {
    event.correlation_request_id.is_none() && !ignored(sought, event) && !sought.mixed
}

/// An event of ours that says neither yes nor no: something is there, so it is
/// not absent, and it may take effect yet.
fn undecided(event: &Event) -> bool {
    event.success.is_none()
}

fn accepted(sought: &Sought<'_>, request_id: Option<&str>) -> bool {
    request_id.is_some() && request_id == sought.accepted_request_id
}

/// `error.type` values that say no, as opposed to "it went wrong" [D 5.1].
fn is_decline(error: &PspError) -> bool {
    const DECLINES: &[&str] = &[
        "DECLINED",
        "PICK_UP_CARD",
        "INVALID_MERCHANT",
        "INVALID_TRANSACTION",
        "INVALID_AMOUNT",
        "INSUFFICIENT_FUNDS",
        "CLOSED_ACCOUNT",
        "EXPIRED_CARD",
        "EXCEEDS_APPROVAL_LIMIT",
        "EXCEEDS_WITHDRAWAL_FREQUENCY_LIMIT",
        "RESTRICTED_CARD",
        "PIN_REQUIRED",
        "FAILED_VERIFICATION",
        "ADDITIONAL_VERIFICATION_REQUIRED",
    ];
    error.types.iter().any(|kind| DECLINES.contains(&kind.as_str()))
}

/// Whether the correction agrees with the events: with those up to its own, or
/// with all that are there now.
fn fits(correction: Correction, of: &Event, transaction: &Transaction) -> bool {
    let agrees = |sums: crate::payment::outcome::Sums| {
        let open = sums.authorized.saturating_sub(sums.captured);
        let captures =
            correction.remaining_capture == sums.capturable || correction.remaining_capture == open;
        captures && correction.remaining_refund == sums.refundable
    };
    agrees(transaction.sums()) || agrees(transaction.sums_with(of))
}

fn proof(done: &[&Event], amount: i64, transaction: &Transaction) -> Proof {
    let first = done.first();
    Proof {
        event_id: first.and_then(|event| event.id.clone()),
        amount,
        event_time: first.and_then(|event| event.created_at.clone()),
        transaction_status: transaction.status.clone(),
        sums: transaction.sums(),
        by_others: false,
    }
}

#[cfg(test)]
mod tests;
