//! What an operation counts towards what its caller may begin in a day.
//!
//! # Correctness
//!
//! It counts from the record with which an attempt begins, on the day of that
//! record, for ever that day. It counts in full while it may move money and
//! once it has, and not at all once nothing moved and nothing can. Each revision
//! says what counts now and what counted in the one before, so that whoever
//! writes it over that one knows by how much the day's sum changes; sum and
//! revision are written together or not at all.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::journal::entry::{Entry, State, is_default};
use crate::payment::{
    Kind,
    id::{AccountId, CallerName, Currency},
    permit::DayMax,
};

/// A day has so many milliseconds: by the clock of the journal there are no
/// leap seconds.
const DAY_MILLIS: i64 = 86_400_000;

/// What an operation that began under a limit of its day counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// The day (UTC), in days since 1970.
    pub day: i64,
    /// The transaction's currency.
    pub currency: Currency,
    /// The most that the day's sum may be with this.
    pub max: i64,
    /// What counts now, in minor units.
    pub amount: i64,
    /// What counted in the revision before.
    #[serde(default, skip_serializing_if = "is_default")]
    pub before: i64,
}

/// What is added up: what one caller has begun in a day, of one kind, on one
/// account, in one currency. Sums are locked in this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tally {
    /// The day (UTC), in days since 1970.
    pub day: i64,
    /// Whose.
    pub caller: CallerName,
    /// On which account.
    pub account: AccountId,
    /// Captures or refunds.
    pub kind: Kind,
    /// In minor units of which currency.
    pub currency: Currency,
}

/// The day of that time (UTC), in days since 1970.
pub fn day_of(at: Timestamp) -> i64 {
    at.0.div_euclid(DAY_MILLIS)
}

/// When that day is over.
pub fn end_of(day: i64) -> Timestamp {
    Timestamp(day.saturating_add(1).saturating_mul(DAY_MILLIS))
}

impl State {
    /// Whether it has moved money, or may.
    fn counts(&self) -> bool {
        !matches!(self, Self::Released { .. } | Self::Declined(_))
    }
}

impl Entry {
    /// The entry of an attempt that begins now, under a limit of its day or
    /// under none.
    #[must_use]
    pub fn under(self, day_max: Option<&DayMax>, now: Timestamp) -> Self {
        let limited = day_max.zip(self.operation.amount());
        let spent = limited.map(|(DayMax { currency, amount: max }, amount)| Spent {
            day: day_of(now),
            currency: currency.clone(),
            max: *max,
            amount: amount.minor(),
            before: 0,
        });
        Self { spent, ..self }
    }

    /// The sum that writing this revision changes, and by how much.
    pub fn counted(&self) -> Option<(Tally, i64)> {
        let Spent { amount, before, .. } = self.spent.as_ref()?;
        let more = amount.saturating_sub(*before);
        if more == 0 { None } else { self.tally().map(|tally| (tally, more)) }
    }

    /// The sum that the operation is part of, or was.
    pub fn tally(&self) -> Option<Tally> {
        let Spent { day, currency, .. } = self.spent.as_ref()?;
        Some(Tally {
            day: *day,
            caller: self.caller.clone(),
            account: self.operation.transaction.account(),
            kind: self.operation.kind(),
            currency: currency.clone(),
        })
    }

    /// The sum that it is part of, and what it counts there; none where that is
    /// of a day before `since`.
    pub fn counts_since(&self, since: i64) -> Option<(Tally, i64)> {
        let amount = self.spent.as_ref()?.amount;
        self.tally().filter(|tally| tally.day >= since && amount > 0).map(|tally| (tally, amount))
    }

    /// Whether the attempt that it begins would take the day's sum, which is
    /// `spent` now, beyond what it may be. A fact is counted whatever the sum is.
    pub fn is_beyond(&self, spent: i64) -> bool {
        let begins = self.state.is_sending();
        match (&self.spent, self.counted()) {
            (Some(Spent { max, .. }), Some((_, more))) if begins && more > 0 => {
                spent.saturating_add(more) > *max
            }
            _ => false,
        }
    }

    /// Counts what the state says, in place of what the revision before says.
    pub(super) fn count(&mut self) {
        let (counts, amount) = (self.state.counts(), self.operation.amount());
        if let Some(spent) = &mut self.spent {
            spent.amount = amount.filter(|_| counts).map_or(0, crate::payment::Amount::minor);
        }
    }
}

impl Spent {
    /// The same in the next revision.
    pub(super) fn successor(&self) -> Self {
        Self { before: self.amount, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::entry::{Beginning, Event, Schedule};
    use crate::payment::outcome::{Decline, Proof, PspError, Reason, Sums};

    const NOON: Timestamp = Timestamp(20_000 * DAY_MILLIS + DAY_MILLIS / 2);

    fn limited() -> Entry {
        let text = include_str!("../../../tests/it/journal/entries-0.1.jsonl").lines().next().unwrap();
        let entry: Entry = serde_json::from_str(text).unwrap();
        assert!(entry.spent.is_none() && entry.counted().is_none(), "of a time without limits");
        let entry = Entry { state: State::Started, ..entry };
        let day_max = DayMax { currency: "NOK".parse().unwrap(), amount: 100_000 };
        entry.under(Some(&day_max), NOON)
    }

    /// What counts, and by how much the sum changes.
    fn counts(entry: &Entry) -> (i64, i64) {
        (entry.spent.as_ref().unwrap().amount, entry.counted().map_or(0, |(_, more)| more))
    }

    fn after(entry: &Entry, event: &Event) -> Entry {
        let schedule =
            Schedule { first: Vec::new(), then: std::time::Duration::from_secs(1), jitter_percent: 0 };
        entry.after(event, NOON, &schedule).unwrap().unwrap()
    }

    #[test]
    fn a_day_is_from_midnight_to_midnight() {
        for (at, day) in [(-1, -1), (0, 0), (DAY_MILLIS - 1, 0), (DAY_MILLIS, 1), (NOON.0, 20_000)] {
            assert_eq!(day_of(Timestamp(at)), day);
        }
        assert_eq!(end_of(20_000), Timestamp(20_001 * DAY_MILLIS));
        assert_eq!(day_of(end_of(20_000)), 20_001);
    }

    #[test]
    fn what_may_move_counts_and_each_revision_says_what_it_changes() {
        let start = limited();
        let all = start.operation.amount().unwrap().minor();
        let why = || "why".to_owned();
        let decline = Decline {
            reason: Reason::Declined,
            message: why(),
            psp: PspError::default(),
            transaction_status: None,
            sums: None,
        };
        let proof = Event::Proven(Proof {
            event_id: None,
            amount: all,
            event_time: None,
            transaction_status: "CAPTURED".to_owned(),
            sums: Sums::default(),
            by_others: false,
        });
        let beginning = Beginning { nonce: uuid::Uuid::nil(), fence_at: NOON, lease_until: NOON };
        assert_eq!(counts(&start), (all, all));
        let doubted = after(&start, &Event::doubted("why"));
        let looked = Event::Looked {
            finding: crate::journal::entry::Finding::Absent,
            at: NOON,
            failed_events: Vec::new(),
            retry_after: None,
        };
        for (entry, event, due) in [
            (&start, Event::NotSent { why: why() }, (0, -all)),
            (&start, Event::Refused(Box::new(decline.clone())), (0, -all)),
            (&start, Event::Accepted { request_id: None }, (all, 0)),
            (&start, proof.clone(), (all, 0)),
            (&start, Event::TokenRefused(beginning), (all, 0)),
            (&start, Event::Contradicted { why: why() }, (all, 0)),
            (&doubted, looked, (all, 0)),
            (&doubted, Event::Resent(beginning), (all, 0)),
            (&doubted, Event::NeverHappened { why: why() }, (0, -all)),
            (&doubted, Event::Refused(Box::new(decline.clone())), (0, -all)),
        ] {
            assert_eq!(counts(&after(entry, &event)), due, "{event:?}");
        }
        let released = after(&start, &Event::NotSent { why: why() });
        assert_eq!(counts(&after(&released, &proof)), (all, all), "it took effect after all");
        let declined = after(&start, &Event::Refused(Box::new(decline)));
        assert_eq!(counts(&after(&declined, &proof)), (all, all), "this, too");
        // A loss changes nothing of what counts.
        assert_eq!(counts(&start.after_loss(NOON, NOON).unwrap()), (all, 0));

        // Again, on a day of its own, or without a limit.
        let again = after(&released, &Event::Retried(beginning));
        let limit = DayMax { currency: "NOK".parse().unwrap(), amount: all };
        let tomorrow = again.clone().under(Some(&limit), end_of(20_000));
        assert_eq!((counts(&tomorrow), tomorrow.tally().unwrap().day), ((all, all), 20_001));
        assert!(!tomorrow.is_beyond(0) && tomorrow.is_beyond(1));
        assert_eq!(again.under(None, NOON).spent, None);
    }

    #[test]
    fn only_what_begins_can_be_beyond_the_limit() {
        let start = limited();
        let all = start.operation.amount().unwrap().minor();
        assert!(
            !start.is_beyond(100_000 - all) && start.is_beyond(100_001 - all) && start.is_beyond(i64::MAX)
        );
        let doubted = after(&start, &Event::doubted("why"));
        assert!(!doubted.is_beyond(i64::MAX), "it is counted already");
    }
}
