//! What the PSP shows of one operation, and what speaks against a decision:
//! pure functions.

use crate::journal::entry::Decision;
use crate::payment::{
    Kind,
    outcome::{Decline, Proof, PspError, Reason, Sums},
};
use crate::psp::{
    judge::{Mark, Sought, Verdict, judge, marks},
    transaction::{Event, Transaction},
};
use crate::review::Evidence;

/// The PSP's side of an operation.
#[derive(Clone, Debug)]
pub struct Seen {
    /// As it was read.
    pub transaction: Transaction,
    /// By what each of its events is recognised as the operation's.
    pub marks: Vec<Option<Mark>>,
    /// What the operation's own successful events moved, in minor units.
    pub moved: i64,
    /// Whether an event of the operation took effect.
    pub took_effect: bool,
    /// What all of it proves.
    pub verdict: Verdict,
}

impl Seen {
    /// What a transaction shows of what is sought.
    pub fn of(sought: &Sought<'_>, transaction: Transaction) -> Self {
        let marks = marks(sought, &transaction);
        let verdict = judge(sought, &transaction);
        let done: Vec<&Event> = done(&transaction, &marks).collect();
        let moved = done.iter().filter_map(|event| event.amount).fold(0_i64, i64::saturating_add);
        // A void is done whoever brought it about.
        let released = sought.kind == Kind::Void && transaction.is_released();
        let took_effect = released || !done.is_empty();
        Self {
            moved: if sought.kind == Kind::Void { 0 } else { moved },
            took_effect,
            marks,
            verdict,
            transaction,
        }
    }
}

/// What speaks against the decision; none where nothing does. That nothing of
/// the operation is to be seen speaks against success, and against failure only
/// as long as something may yet arrive.
pub fn against(decision: Decision, evidence: &Evidence) -> Option<String> {
    let succeeded = decision == Decision::Succeeded;
    match &evidence.seen {
        Ok(seen) if succeeded => {
            (!seen.took_effect).then(|| "the PSP shows no successful event of the operation".to_owned())
        }
        Ok(seen) if seen.took_effect => Some(match evidence.entry.operation.amount() {
            Some(asked) => format!(
                "the PSP shows that {} minor units moved, where {} were asked for",
                seen.moved,
                asked.minor()
            ),
            None => "the PSP shows that the authorization was released".to_owned(),
        }),
        Ok(Seen { verdict: Verdict::Accepted { .. }, .. }) => {
            Some("the PSP has begun the operation and not finished it".to_owned())
        }
        _ if succeeded => None,
        _ => (evidence.read_at <= evidence.quiet_at).then(|| {
            let seconds = evidence.quiet_at.since(evidence.read_at).as_secs();
            format!("an attempt may still take effect or show within {seconds} s")
        }),
    }
}

/// The proof of a success that persons decided: what the PSP showed, as far as
/// it could be read.
pub fn proof(seen: Option<&Seen>) -> Proof {
    let Some(seen) = seen else {
        return Proof {
            event_id: None,
            amount: 0,
            event_time: None,
            transaction_status: String::new(),
            sums: Sums::default(),
            by_others: false,
        };
    };
    let first = done(&seen.transaction, &seen.marks).next();
    Proof {
        event_id: first.and_then(|event| event.id.clone()),
        amount: seen.moved,
        event_time: first.and_then(|event| event.created_at.clone()),
        transaction_status: seen.transaction.status.clone(),
        sums: seen.transaction.sums(),
        by_others: false,
    }
}

/// The decline that persons decided. Who they are and why is in the history:
/// that is not the caller's to know.
pub fn decline(seen: Option<&Seen>) -> Decline {
    let psp = match seen.map(|seen| &seen.verdict) {
        Some(Verdict::Declined(decline)) => decline.psp.clone(),
        Some(Verdict::FailedUnclearly { error, .. }) => error.clone(),
        _ => PspError::default(),
    };
    Decline {
        reason: Reason::Declined,
        message: "a review by two persons found that it did not take effect and will not".to_owned(),
        psp,
        transaction_status: seen.map(|seen| seen.transaction.status.clone()),
        sums: seen.map(|seen| seen.transaction.sums()),
    }
}

/// The operation's own events that took effect.
fn done<'a>(transaction: &'a Transaction, marks: &'a [Option<Mark>]) -> impl Iterator<Item = &'a Event> {
    let ours = transaction.events.iter().zip(marks).filter(|(_, mark)| mark.is_some());
    ours.map(|(event, _)| event)
        .filter(|event| event.success == Some(true) && !event.name.starts_with("INITIATE_"))
}

#[cfg(test)]
mod tests;
