//! What differs between a transaction's events and the entries on it: a pure
//! function.
//!
//! # Correctness
//!
//! The entries are read after the transaction: an entry is written before its
//! request leaves, so whatever the transaction shows has its entry by then.

use crate::clock::Timestamp;
use crate::conclude::sought;
use crate::journal::entry::{Entry, State};
use crate::payment::{
    Action, Kind,
    id::{OperationId, Tag},
    outcome::Proof,
};
use crate::psp::{
    SYSTEM_NAME,
    judge::{Verdict, judge, marks},
    transaction::{Correction, Event, Transaction},
};

/// Longest text of the PSP that is repeated.
const TEXT_MAX: usize = 64;

/// From when on, and until when, the two books can be held against each other.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The entry of an event before then may be forgotten.
    pub known_since: Timestamp,
    /// An entry that changed after then may be ahead of what a read shows.
    pub settled_until: Timestamp,
}

/// A difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incident {
    /// The PSP shows what no entry owns.
    Unowned {
        /// What it shows.
        why: String,
    },
    /// The PSP does not show what an entry says.
    Differs {
        /// The entry's.
        operation: OperationId,
        /// How.
        why: String,
    },
    /// An operation took effect that was declined or given up: a fact.
    Late {
        /// The entry's.
        operation: OperationId,
        /// What shows it.
        proof: Proof,
    },
}

/// Compares a transaction with all entries on it.
pub fn compare(on: &Transaction, entries: &[Entry], times: Times) -> Vec<Incident> {
    let mut incidents: Vec<Incident> = unowned(on, entries, times).collect();
    incidents.extend(entries.iter().filter_map(|entry| check(on, entry, times)));
    let settled = |entry: &&Entry| matches!(entry.state, State::Succeeded(_)) && !is_decided(entry);
    let last = entries.iter().filter(settled).map(|entry| entry.updated_at).max();
    if incidents.is_empty() && last.is_some_and(|last| last <= times.settled_until) && is_withdrawn(on) {
        let why = "a correction takes back what successful events show".to_owned();
        incidents.push(Incident::Unowned { why });
    }
    incidents
}

/// How many of the transaction's events are of this boundary's making.
pub fn count_ours(on: &Transaction) -> usize {
    on.events.iter().filter(|event| is_ours(event)).count()
}

/// What took effect, or has begun, in this boundary's name and is no entry's.
fn unowned(on: &Transaction, entries: &[Entry], times: Times) -> impl Iterator<Item = Incident> {
    let owned: Vec<Vec<bool>> = entries.iter().map(|entry| owned_by(entry, on)).collect();
    let is_owned = move |place: usize| owned.iter().any(|owned| owned.get(place) == Some(&true));
    let events = on.events.iter().enumerate();
    events
        .filter(move |(place, event)| {
            has_effect(event, on)
                && is_ours_or_begun_by_us(event, on)
                && !is_owned(*place)
                && times.knows(event)
        })
        .map(|(_, event)| Incident::Unowned { why: format!("{}, and no operation owns it", shown(event)) })
}

/// Which events are the entry's, in their order.
fn owned_by(entry: &Entry, on: &Transaction) -> Vec<bool> {
    let tag = entry.tag();
    let marks = marks(&sought(entry, &tag), on);
    // A final capture may release the rest in an event of its own [D 12 #8].
    let releases = matches!(&entry.operation.action, Action::Capture(capture) if capture.final_capture);
    let of_release = |event: &Event| releases && event.name == "VOID" && event.names(&tag);
    on.events.iter().zip(marks).map(|(event, mark)| mark.is_some() || of_release(event)).collect()
}

/// Whether money moved by it, or may yet. A beginning that has ended is told by
/// its end.
fn has_effect(event: &Event, on: &Transaction) -> bool {
    let (begins, name) = match event.name.strip_prefix("INITIATE_") {
        Some(name) => (true, name),
        None => (false, event.name.as_str()),
    };
    let ended = || {
        event.request_id.is_some()
            && on.events.iter().any(|end| end.correlation_request_id == event.request_id)
    };
    matches!(name, "CAPTURE" | "REFUND" | "VOID") && event.success != Some(false) && !(begins && ended())
}

fn is_ours(event: &Event) -> bool {
    let agent = event.user_agent.as_deref().and_then(|agent| agent.split(['/', ' ']).next());
    agent == Some(SYSTEM_NAME)
        || event.system_name.as_deref() == Some(SYSTEM_NAME)
        || event.event_reference.as_deref().is_some_and(Tag::is_form_of)
}

/// The end of what has begun may carry no mark [D 12 #12].
fn is_ours_or_begun_by_us(event: &Event, on: &Transaction) -> bool {
    let begun = |begun: &Event| {
        begun.request_id.is_some() && begun.request_id == event.correlation_request_id && is_ours(begun)
    };
    is_ours(event) || on.events.iter().any(begun)
}

/// Compares one entry with what the transaction shows of it. What is open is
/// being read back.
fn check(on: &Transaction, entry: &Entry, times: Times) -> Option<Incident> {
    let operation = entry.id;
    let tag = entry.tag();
    let verdict = judge(&sought(entry, &tag), on);
    let moved = moved(entry, on);
    let is_settled = entry.updated_at <= times.settled_until;
    match (&entry.state, verdict) {
        (State::Succeeded(_), Verdict::Proven(_)) => None,
        (State::Succeeded(proof), verdict) => {
            // Two persons have seen that, and decided.
            let known = is_decided(entry) && moved.unwrap_or_default() == proof.amount;
            let why = match verdict {
                Verdict::Contradicted(why) => why,
                Verdict::Accepted { partly: true, .. } => {
                    let (moved, asked) = (moved.unwrap_or_default(), proof.amount);
                    format!("it succeeded with {asked} minor units, and the PSP shows {moved}")
                }
                _ => "it succeeded, and the PSP shows no event of it".to_owned(),
            };
            (is_settled && !known).then_some(Incident::Differs { operation, why })
        }
        // Of a void only an event of its own: others may have released what it
        // did not.
        (State::Declined(_) | State::Released { .. }, Verdict::Proven(proof)) => {
            moved.map(|_| Incident::Late { operation, proof })
        }
        (State::Declined(_) | State::Released { .. }, verdict) => {
            let why = match verdict {
                Verdict::Contradicted(why) if moved.is_some() => why,
                Verdict::Accepted { .. } if entry.operation.kind() != Kind::Void || moved.is_some() => {
                    "the PSP shows a part or a beginning of it".to_owned()
                }
                _ => return None,
            };
            let why = format!("it was {}: {why}", entry.state.as_str());
            (is_settled && !is_decided(entry)).then_some(Incident::Differs { operation, why })
        }
        _ => None,
    }
}

/// What the entry's own successful events moved; none without such an event.
fn moved(entry: &Entry, on: &Transaction) -> Option<i64> {
    let own = on.events.iter().zip(owned_by(entry, on));
    let done = own
        .filter(|(event, own)| *own && event.success == Some(true) && !event.name.starts_with("INITIATE_"));
    done.map(|(event, _)| event.amount.unwrap_or_default()).reduce(i64::saturating_add)
}

/// Whether two persons ended it.
fn is_decided(entry: &Entry) -> bool {
    entry.history.last().is_some_and(|change| change.by.is_some())
}

/// Whether a correction, on whatever event, leaves less done than the successful
/// events up to it show. More authorized since then is no withdrawal.
fn is_withdrawn(on: &Transaction) -> bool {
    let takes_back = |correction: Correction, sums: crate::payment::outcome::Sums| {
        correction.remaining_refund != sums.refundable
            || correction.remaining_capture > sums.authorized.saturating_sub(sums.captured)
    };
    on.events.iter().any(|event| {
        let Some(correction) = event.correction else { return false };
        takes_back(correction, on.sums_with(event)) && takes_back(correction, on.sums())
    })
}

impl Times {
    /// Whether the entry of an event would be known. An event without a time is
    /// not excused by its age.
    fn knows(self, event: &Event) -> bool {
        event.time().is_none_or(|at| Timestamp(at.as_millisecond()) >= self.known_since)
    }
}

/// An event, for people.
fn shown(event: &Event) -> String {
    let short = |text: &str| text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect::<String>();
    let part = |name: &str, text: Option<&str>| {
        text.map(|text| format!(", {name} {}", short(text))).unwrap_or_default()
    };
    let amount = event.amount.map(|amount| format!(" of {amount} minor units")).unwrap_or_default();
    format!(
        "{}{amount}{}{}{}{}",
        short(&event.name),
        part("reference", event.event_reference.as_deref()),
        part("by", event.user_agent.as_deref()),
        part("event", event.id.as_deref()),
        part("at", event.created_at.as_deref()),
    )
}

#[cfg(test)]
mod tests;
