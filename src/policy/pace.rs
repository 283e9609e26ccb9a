//! How fast a caller may call and how much it may have under way, in this
//! process.
//!
//! A rate is kept as the time at which a caller that always calls at its rate
//! would call next: each call moves it on by one interval, and it may be ahead
//! of now by as many as a burst has. That is one number a caller, and exact.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::payment::id::CallerName;

/// From this size on, callers who do nothing are let go; then from twice as
/// many as are left.
const SWEEP_FROM: usize = 1024;

/// What a caller's rules say of it; none where they say nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// How fast.
    pub rate: Option<Rate>,
    /// How many calls at once, with what they left under way.
    pub in_flight_max: Option<u32>,
}

/// So many calls a second on average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// On average, at least 1.
    pub per_second: u32,
    /// At once, at least 1.
    pub burst: u32,
}

/// A caller calls too fast, or has too much under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Throttled {
    /// More than its rate.
    Rate {
        /// The rate.
        rate: Rate,
        /// When there is room for the next call.
        retry_after: Duration,
    },
    /// More at once than it may have.
    InFlight {
        /// The most.
        max: u32,
    },
}

/// All callers of this process.
#[derive(Clone)]
pub struct Paces(Arc<Shared>);

/// One call that is under way, until it is dropped.
#[derive(Debug)]
pub struct UnderWay {
    paces: Paces,
    caller: CallerName,
}

struct Shared {
    origin: Instant,
    callers: Mutex<Callers>,
}

struct Callers {
    usage: HashMap<CallerName, Usage>,
    sweep_from: usize,
}

#[derive(Clone, Copy, Default)]
struct Usage {
    /// When the next call would be due, since the origin.
    due: Duration,
    in_flight: u32,
}

impl Pace {
    /// What this one does not say, the other one does.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { rate: self.rate.or(other.rate), in_flight_max: self.in_flight_max.or(other.in_flight_max) }
    }
}

impl Default for Paces {
    fn default() -> Self {
        let callers = Callers { usage: HashMap::new(), sweep_from: SWEEP_FROM };
        Self(Arc::new(Shared { origin: Instant::now(), callers: Mutex::new(callers) }))
    }
}

impl Paces {
    /// Lets the caller call now, or says why not. A call that is refused counts
    /// for nothing.
    pub fn enter(&self, caller: &CallerName, pace: &Pace) -> Result<Option<UnderWay>, Throttled> {
        if *pace == Pace::default() {
            return Ok(None);
        }
        self.enter_at(caller, pace, self.0.origin.elapsed())
    }

    fn enter_at(
        &self,
        caller: &CallerName,
        pace: &Pace,
        now: Duration,
    ) -> Result<Option<UnderWay>, Throttled> {
        let mut callers = self.0.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut usage = callers.usage.get(caller).copied().unwrap_or_default();
        if let Some(max) = pace.in_flight_max
            && usage.in_flight >= max
        {
            return Err(Throttled::InFlight { max });
        }
        if let Some(rate) = pace.rate {
            usage.due = rate.next(usage.due, now)?;
        }
        usage.in_flight += 1;
        callers.usage.insert(caller.clone(), usage);
        callers.sweep(now);
        Ok(Some(UnderWay { paces: self.clone(), caller: caller.clone() }))
    }
}

impl Rate {
    /// When the call after this one is due, if this one may come now.
    fn next(self, due: Duration, now: Duration) -> Result<Duration, Throttled> {
        let interval = Duration::from_secs(1) / self.per_second.max(1);
        let due = due.max(now);
        let too_early = due.saturating_sub(now).saturating_sub(interval * self.burst.saturating_sub(1));
        if too_early.is_zero() {
            Ok(due + interval)
        } else {
            Err(Throttled::Rate { rate: self, retry_after: too_early })
        }
    }
}

impl Callers {
    /// Who has nothing under way and would be let in as at first is not kept.
    fn sweep(&mut self, now: Duration) {
        if self.usage.len() < self.sweep_from {
            return;
        }
        self.usage.retain(|_, usage| usage.in_flight > 0 || usage.due > now);
        self.sweep_from = SWEEP_FROM.max(2 * self.usage.len());
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut callers = self.paces.0.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(usage) = callers.usage.get_mut(&self.caller) {
            usage.in_flight = usage.in_flight.saturating_sub(1);
        }
    }
}

impl fmt::Debug for Paces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Paces")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(nth: u32) -> CallerName {
        format!("caller-{nth}").parse().unwrap()
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_rate_lets_a_burst_in_and_then_one_an_interval() {
        let paces = Paces::default();
        let rate = Rate { per_second: 10, burst: 3 };
        let pace = Pace { rate: Some(rate), in_flight_max: None };
        let enter = |caller, at| paces.enter_at(&name(caller), &pace, at).map(drop);
        let no = |retry_after| Err(Throttled::Rate { rate, retry_after: millis(retry_after) });
        for (at, due) in [
            (0, Ok(())),
            (0, Ok(())),
            (0, Ok(())),
            (0, no(100)),
            (99, no(1)),
            // What was refused did not count.
            (100, Ok(())),
            (100, no(100)),
            (350, Ok(())),
            (350, Ok(())),
            (350, no(50)),
            // However long it was idle, a burst is a burst.
            (60_000, Ok(())),
            (60_000, Ok(())),
            (60_000, Ok(())),
            (60_000, no(100)),
        ] {
            assert_eq!(enter(1, millis(at)), due, "{at}");
        }
        assert_eq!(enter(2, millis(60_000)), Ok(()), "another caller has a rate of its own");
    }

    #[test]
    fn so_many_are_under_way_and_no_more() {
        let paces = Paces::default();
        let pace = Pace { rate: None, in_flight_max: Some(2) };
        let enter = || paces.enter(&name(1), &pace);
        let (first, second) = (enter().unwrap(), enter().unwrap());
        assert_eq!(enter().err(), Some(Throttled::InFlight { max: 2 }));
        assert!(paces.enter(&name(2), &pace).is_ok());
        drop(first);
        let third = enter().unwrap();
        assert!(enter().is_err());
        drop((second, third));
        assert!(enter().is_ok());
    }

    #[test]
    fn who_does_nothing_takes_no_room() {
        let paces = Paces::default();
        let pace = Pace { rate: Some(Rate { per_second: 100, burst: 1 }), in_flight_max: Some(1) };
        let kept = paces.enter_at(&name(0), &pace, millis(0)).unwrap();
        for nth in 1..20_000 {
            drop(paces.enter_at(&name(nth), &pace, millis(u64::from(nth))).unwrap());
        }
        let known = paces.0.callers.lock().unwrap().usage.len();
        assert!(known <= 2 * SWEEP_FROM, "{known}");
        assert!(
            paces.enter_at(&name(0), &pace, millis(20_000)).is_err(),
            "who has something under way is kept"
        );
        drop(kept);
    }
}
