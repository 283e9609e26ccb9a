//! From an answer to an event, and the event into the journal. Answers that
//! are waited for and answers that come too late go through here.

use std::time::Duration;

use crate::clock::Clock;
use crate::failure::Failure;
use crate::journal::{
    self, Journal,
    entry::{Entry, Event, Schedule},
};
use crate::payment::{
    Kind,
    outcome::{Decline, Proof, PspError, Reason},
};
use crate::psp::{
    Psp, ReadError, Received,
    judge::{Sought, Verdict, judge},
    rules,
    transaction::Transaction,
};

/// How often and how patiently a result is written before giving up on it.
const WRITE_PAUSES: [Duration; 3] =
    [Duration::from_millis(20), Duration::from_millis(100), Duration::from_millis(500)];

/// Everything that is needed to conclude an attempt.
#[derive(Clone)]
pub struct Conclude<J, P> {
    /// Where it is written.
    pub journal: J,
    /// Who is asked why.
    pub psp: P,
    /// When it is.
    pub clock: Clock,
    /// When to read back what stays open.
    pub schedule: Schedule,
}

impl<J: Journal, P: Psp> Conclude<J, P> {
    /// Writes what the answer to the entry's attempt proves.
    pub async fn record(&self, entry: Entry, received: Received) -> Result<Entry, Failure> {
        let event = self.event(&entry, received).await;
        self.write(entry, &event).await
    }

    /// Writes an event, more than once if the journal is out of reach.
    pub async fn write(&self, entry: Entry, event: &Event) -> Result<Entry, Failure> {
        let mut pauses = WRITE_PAUSES.iter();
        loop {
            let now = self.clock.now();
            match journal::advance(&self.journal, entry.clone(), event, now, &self.schedule).await {
                // An older record came back: it knows nothing of this attempt.
                Ok(stored) if stored.nonce != entry.nonce && stored.attempt <= entry.attempt => {
                    return Err(Failure::Unrecorded(Box::new(entry)));
                }
                Ok(entry) => return Ok(entry),
                Err(journal::Error::Illegal(illegal)) => {
                    tracing::error!(operation_id = %entry.id, %illegal, "a defect: an impossible change of state");
                    return Err(Failure::Unrecorded(Box::new(entry)));
                }
                Err(error) => {
                    let Some(pause) = pauses.next() else {
                        tracing::error!(operation_id = %entry.id, %error, "a result could not be recorded");
                        return Err(Failure::Unrecorded(Box::new(entry)));
                    };
                    tokio::time::sleep(*pause).await;
                }
            }
        }
    }

    /// An answer that came after its caller had been freed. Only what is
    /// definite about it counts; the rest is known already.
    pub async fn late(&self, entry: Entry, received: Received) {
        let event = self.event(&entry, received).await;
        let definite = matches!(
            event,
            Event::Proven(_) | Event::Refused(_) | Event::Accepted { .. } | Event::Contradicted { .. }
        );
        if !definite {
            return;
        }
        let (id, attempt, nonce) = (entry.id, entry.attempt, entry.nonce);
        // The entry as it stood when the request left: in doubt since.
        let current = match self.journal.get(id).await {
            Ok(Some(current)) => current,
            _ => entry,
        };
        let of_another = current.nonce != nonce && !wrong!(JudgementWithoutAttempt);
        if of_another && !event.is_fact() {
            return;
        }
        let Ok(next) = current.state.next(&event) else {
            journal::page_disputed(&current, &event);
            return;
        };
        let by_others = matches!(&event, Event::Proven(proof) if proof.by_others);
        if of_another && next.is_some() && !by_others {
            tracing::error!(
                operation_id = %id, attempt,
                "an attempt took effect after it had been given up: an assumption about the PSP broke"
            );
        }
        match self.write(current, &event).await {
            Ok(entry) => {
                tracing::info!(operation_id = %id, state = entry.state.as_str(), "a late answer was recorded");
            }
            Err(error) => tracing::warn!(operation_id = %id, %error, "a late answer was not recorded"),
        }
    }

    async fn event(&self, entry: &Entry, received: Received) -> Event {
        match self.understood(entry, received).await {
            // Perhaps because an earlier attempt took effect: reads decide.
            Event::Refused(decline) if entry.resends > 0 => Event::doubted(decline.message),
            event => event,
        }
    }

    async fn understood(&self, entry: &Entry, received: Received) -> Event {
        match received {
            Received::NotSent(why) => Event::NotSent { why },
            Received::Unauthorized => Event::NotSent { why: "the PSP refused the token".to_owned() },
            Received::Refused(error) => self.explain(entry, error).await,
            Received::Pushback { http_status, retry_after } => Event::Doubted {
                why: format!("the PSP answered HTTP {http_status}"),
                pushback: true,
                retry_after,
            },
            Received::Answered { transaction, accepted_request_id } => {
                answered(entry, &transaction, accepted_request_id)
            }
            Received::Unknown(why) => Event::doubted(why),
        }
    }

    /// The PSP has no catalogue of error codes [D 8]; its transaction is the
    /// evidence. A refusal that left a successful event of ours is a success.
    async fn explain(&self, entry: &Entry, error: PspError) -> Event {
        let transaction = match self.psp.read(&entry.operation.transaction).await {
            Ok(transaction) => Some(transaction),
            // A void is refused also when it is done already: only a read can
            // tell. A transaction that does not exist was not voided.
            Err(why) if entry.operation.kind() == Kind::Void && why != ReadError::NotFound => {
                return Event::Doubted {
                    why: format!("the PSP refused, and the transaction could not be read: {why}"),
                    pushback: true,
                    retry_after: why.retry_after(),
                };
            }
            Err(why) => {
                tracing::debug!(operation_id = %entry.id, %why, "a refusal could not be explained");
                None
            }
        };
        if let Some(transaction) = &transaction {
            match judge(&sought(entry, &entry.tag()), transaction) {
                Verdict::Proven(proof) => return Event::Proven(proof),
                Verdict::Contradicted(why) => return Event::Contradicted { why },
                Verdict::Accepted { request_id, .. } => return Event::Accepted { request_id },
                Verdict::Declined(_) | Verdict::FailedUnclearly { .. } | Verdict::Absent { .. } => {}
            }
        }
        Event::Refused(Box::new(decline(entry, error, transaction.as_ref())))
    }
}

/// What to look for on behalf of an entry.
pub fn sought<'a>(entry: &'a Entry, tag: &'a crate::payment::id::Tag) -> Sought<'a> {
    Sought {
        kind: entry.operation.kind(),
        amount: entry.operation.amount().map(crate::payment::Amount::minor),
        tag,
        accepted_request_id: entry.accepted_request_id.as_deref(),
        ignored_events: &entry.ignored_events,
        mixed: entry.resends > 0,
    }
}

fn answered(entry: &Entry, transaction: &Transaction, accepted_request_id: Option<String>) -> Event {
    if transaction.id != entry.operation.transaction.as_str() {
        return Event::doubted("the answer is about another transaction");
    }
    let tag = entry.tag();
    let accepted = accepted_request_id.as_deref();
    let verdict = judge(&Sought { accepted_request_id: accepted, ..sought(entry, &tag) }, transaction);
    let is_taken_for_yes = match accepted {
        Some(_) => wrong!(AcceptedIsYes),
        None => wrong!(OkIsYes),
    };
    if is_taken_for_yes {
        return Event::Proven(Proof {
            event_id: None,
            amount: entry.operation.amount().map_or(0, crate::payment::Amount::minor),
            event_time: None,
            transaction_status: transaction.status.clone(),
            sums: transaction.sums(),
            by_others: false,
        });
    }
    match verdict {
        Verdict::Proven(proof) => Event::Proven(proof),
        Verdict::Declined(decline) => Event::Refused(decline),
        Verdict::Contradicted(why) => Event::Contradicted { why },
        Verdict::Accepted { request_id, .. } => {
            Event::Accepted { request_id: accepted_request_id.or(request_id) }
        }
        // 202 with an id is the PSP's word that it has begun [D 3.6].
        Verdict::Absent { .. } if accepted.is_some() => Event::Accepted { request_id: accepted_request_id },
        Verdict::Absent { .. } => Event::doubted("the PSP answered without an event of this operation"),
        Verdict::FailedUnclearly { error, .. } => {
            let said = error.message.unwrap_or_else(|| "no message".to_owned());
            Event::doubted(format!("the PSP recorded a failure that may not be one: {said}"))
        }
    }
}

fn decline(entry: &Entry, error: PspError, transaction: Option<&Transaction>) -> Decline {
    let said = error.message.clone().unwrap_or_else(|| "no message".to_owned());
    let status = error.http_status.unwrap_or_default();
    let explained = transaction.and_then(|on| rules::check(&entry.operation, on).err());
    let (reason, message) = match explained {
        Some(why) => (why.reason, why.message),
        None if status == 404 && transaction.is_none() => {
            (Reason::TransactionNotFound, "the PSP knows no such transaction".to_owned())
        }
        None => (Reason::Declined, format!("the PSP refused with HTTP {status}: {said}")),
    };
    Decline {
        reason,
        message,
        psp: error,
        transaction_status: transaction.map(|on| on.status.clone()),
        sums: transaction.map(Transaction::sums),
    }
}

#[cfg(test)]
mod tests;
