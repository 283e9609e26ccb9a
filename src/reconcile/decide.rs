//! What one read-back means for an open entry: a pure function of the entry,
//! the verdict and the time. Here absence becomes evidence, and only here.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::journal::entry::{Entry, Event, Finding, State, Streak};
use crate::payment::{
    Action,
    outcome::{Decline, Reason},
};
use crate::psp::{
    ReadError,
    judge::{Sought, Verdict, judge},
    rules::check,
    transaction::Transaction,
};

/// Empty reads that prove absence, once it can be proven.
const EMPTY_READS: u32 = 2;
/// Equal reads after which an unclear failure is believed.
const FAILED_READS: u32 = 3;
/// Reads in vain, one after the other, before a transaction is unreadable.
const UNREADABLE_READS: u32 = 10;

/// Attempts that are sent again before their doubt is over.
const RESENDS_MAX: u32 = 3;

/// The times that make evidence.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// A request that arrived is applied, visibly begun, or dead within this
    /// time (A4).
    pub settle_max: Duration,
    /// A read shows an event at most this long after it happened (A5).
    pub read_lag_max: Duration,
    /// Empty reads count as two when this far apart.
    pub absent_reads_apart: Duration,
    /// An unclear failure that stays the same is believed after this time, and
    /// not before an effect would have shown (A4, A5).
    pub failed_event_settles_after: Duration,
    /// Part of an amount for this long is a case for a person.
    pub partial_review_after: Duration,
    /// Accepted and not finished for this long is a case for a person.
    pub accepted_review_after: Duration,
    /// Unreadable for this long is a case for a person.
    pub unreadable_review_after: Duration,
    /// How long after the lease an attempt in doubt may be sent again, where
    /// twice is harmless (T12).
    pub resend_after: Duration,
    /// Whether that goes for captures too: nobody can raise an authorization.
    pub resend_captures: bool,
}

impl Rules {
    /// From then on a request that is not to be seen cannot take effect: every
    /// token is dead, what arrived before is applied or dead (A4), and reads
    /// have caught up (A5).
    fn for_good(&self, entry: &Entry) -> Timestamp {
        if wrong!(NoFence) {
            return Timestamp(0);
        }
        entry.fence_at + self.settle_max + self.read_lag_max
    }
}

/// Decides. `issued_at` is when the read was issued, not when it was answered.
pub fn decide(
    entry: &Entry,
    verdict: Result<Verdict, ReadError>,
    issued_at: Timestamp,
    rules: &Rules,
) -> Event {
    let in_review = matches!(entry.state, State::Review { .. });
    match verdict {
        // A proof ends everything; nothing else ends a review.
        Ok(Verdict::Proven(proof)) => Event::Proven(proof),
        Ok(_) if in_review => looked(Finding::Contradiction, issued_at),
        Ok(Verdict::Contradicted(why)) => Event::Contradicted { why },
        // Of a later attempt, perhaps because an earlier one is on its way.
        Ok(Verdict::Declined(_) | Verdict::FailedUnclearly { .. })
            if entry.resends > 0 && issued_at <= rules.for_good(entry) =>
        {
            looked(Finding::Absent, issued_at)
        }
        Ok(Verdict::Declined(decline)) => Event::Refused(decline),
        Ok(Verdict::Accepted { request_id, partly }) => accepted(entry, request_id, partly, issued_at, rules),
        Ok(Verdict::FailedUnclearly { error, events }) => {
            let streak = streak(entry, Finding::FailedUnclearly, issued_at);
            let stayed = issued_at.since(streak.since);
            // It may take effect like any request that arrived (A4), and reads
            // have to have caught up with that (A5).
            let would_show = stayed > rules.settle_max + rules.read_lag_max;
            if streak.count >= FAILED_READS && would_show && stayed >= rules.failed_event_settles_after {
                let said = error.message.as_deref().unwrap_or("no message").to_owned();
                return Event::Refused(Box::new(Decline {
                    reason: Reason::Declined,
                    message: format!("the PSP recorded a failure and nothing else since: {said}"),
                    psp: error,
                    transaction_status: None,
                    sums: None,
                }));
            }
            let finding = Finding::FailedUnclearly;
            Event::Looked { finding, at: issued_at, failed_events: events, retry_after: None }
        }
        Ok(Verdict::Absent { undetermined }) => absent(entry, undetermined, issued_at, rules),
        // Not read at all: our credentials, or the way to the PSP. No word of
        // the PSP's, and nothing that a person could decide.
        Err(error @ ReadError::NotSent(_)) => Event::Looked {
            finding: Finding::NotRead,
            at: issued_at,
            failed_events: Vec::new(),
            retry_after: error.retry_after(),
        },
        Err(error) => {
            let streak = streak(entry, Finding::Nothing, issued_at);
            if !in_review
                && streak.count >= UNREADABLE_READS
                && issued_at.since(streak.since) >= rules.unreadable_review_after
            {
                let hours = rules.unreadable_review_after.as_secs() / 3600;
                return Event::Contradicted { why: format!("unreadable for {hours} h: {error}") };
            }
            let (failed_events, retry_after) = (Vec::new(), error.retry_after());
            Event::Looked { finding: Finding::Nothing, at: issued_at, failed_events, retry_after }
        }
    }
}

fn accepted(
    entry: &Entry,
    request_id: Option<String>,
    partly: bool,
    issued_at: Timestamp,
    rules: &Rules,
) -> Event {
    if !matches!(entry.state, State::Accepted) {
        return Event::Accepted { request_id };
    }
    let finding = if partly { Finding::Partly } else { Finding::Pending };
    let streak = streak(entry, finding, issued_at);
    if partly && issued_at.since(streak.since) >= rules.partial_review_after {
        return Event::Contradicted { why: "only part of the amount has moved".to_owned() };
    }
    too_long(entry, issued_at, rules).unwrap_or_else(|| looked(finding, issued_at))
}

/// Nothing of ours is to be seen. That proves something only when no request
/// of ours can take effect any more, and never as long as the PSP itself does
/// not know how the transaction stands.
fn absent(entry: &Entry, undetermined: bool, issued_at: Timestamp, rules: &Rules) -> Event {
    let State::InDoubt { pushback, .. } = entry.state else {
        return too_long(entry, issued_at, rules).unwrap_or_else(|| looked(Finding::Absent, issued_at));
    };
    let for_good = rules.for_good(entry);
    if wrong!(AbsenceIsNo) {
        return Event::NeverHappened { why: "it is not to be seen".to_owned() };
    }
    if undetermined {
        return if issued_at > for_good {
            let why = "no event of this operation, and the PSP does not know the transaction's status";
            Event::Contradicted { why: why.to_owned() }
        } else {
            looked(Finding::Absent, issued_at)
        };
    }
    let finding = if pushback || issued_at > for_good { Finding::AbsentForGood } else { Finding::Absent };
    let streak = streak(entry, finding, issued_at);
    if finding == Finding::AbsentForGood
        && streak.count >= EMPTY_READS
        && issued_at.since(streak.since) >= rules.absent_reads_apart
    {
        let what =
            if pushback { "the PSP pushed back" } else { "every token that could carry it has expired" };
        return Event::NeverHappened { why: format!("{what}, and {} reads show nothing", streak.count) };
    }
    looked(finding, issued_at)
}

/// Whether an attempt in doubt may be sent again (T12), on a read that was
/// issued at `issued_at` and shows nothing of ours. A void that lands twice
/// voids once. Of two captures the second finds too little left, if both do not
/// fit together and nobody raises the authorization. Two refunds may well fit.
pub fn may_resend(
    entry: &Entry,
    event: &Event,
    on: &Transaction,
    issued_at: Timestamp,
    rules: &Rules,
) -> bool {
    let absent = matches!(event, Event::Looked { finding: Finding::Absent, .. });
    let doubted = matches!(entry.state, State::InDoubt { pushback: false, .. });
    let harmless = match &entry.operation.action {
        Action::Void => true,
        Action::Capture(capture) => {
            rules.resend_captures && capture.amount.minor().saturating_mul(2) > on.sums().capturable
        }
        Action::Refund(refund) => {
            wrong!(RefundResent) && refund.amount.minor().saturating_mul(2) > on.sums().refundable
        }
    };
    absent
        && doubted
        && harmless
        && entry.resends < RESENDS_MAX
        && issued_at >= entry.lease_until + rules.resend_after
        && on.status != "UNKNOWN"
        // Not even a failure of an earlier attempt.
        && judge(&Sought::of(&entry.command(), &entry.tag()), on) == (Verdict::Absent { undetermined: false })
        && check(&entry.operation, on).is_ok()
}

fn too_long(entry: &Entry, issued_at: Timestamp, rules: &Rules) -> Option<Event> {
    let since = issued_at.since(entry.updated_at);
    (since >= rules.accepted_review_after).then(|| {
        let hours = rules.accepted_review_after.as_secs() / 3600;
        Event::Contradicted { why: format!("accepted by the PSP and not finished for {hours} h") }
    })
}

/// The run of equal findings, this one included.
fn streak(entry: &Entry, finding: Finding, at: Timestamp) -> Streak {
    match entry.reading.streak {
        Some(streak) if streak.finding == finding => {
            Streak { last: at, count: streak.count.saturating_add(1), ..streak }
        }
        _ => Streak { finding, since: at, last: at, count: 1 },
    }
}

fn looked(finding: Finding, at: Timestamp) -> Event {
    Event::Looked { finding, at, failed_events: Vec::new(), retry_after: None }
}

#[cfg(test)]
mod tests;
