//! Time, as something that is handed in. The wall clock dates what the journal
//! keeps and is read once, at the start; how much time has passed since, the
//! boot clock tells.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A point in time: milliseconds since 1970 by the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

/// Tells the time; a test moves it by hand.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    /// The machine's own: what both clocks showed when this one was made.
    System {
        now: Timestamp,
        boot: Duration,
    },
    Manual(Arc<Mutex<Manual>>),
    /// The virtual time of a simulation, and what the clock showed at its start.
    #[cfg(test)]
    Simulated {
        now: Timestamp,
        start: tokio::time::Instant,
    },
}

struct Manual {
    now: Timestamp,
    boot: Duration,
}

impl Clock {
    /// The machine's own clocks.
    pub fn system() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(Source::System { now: Timestamp(millis(wall)), boot: since_boot() })
    }

    /// A clock that stands until it is moved.
    pub fn manual(now: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(Mutex::new(Manual { now, boot: Duration::from_secs(1_000) }))))
    }

    /// A clock that shows `now` and then follows the runtime's virtual time.
    #[cfg(test)]
    pub(crate) fn simulated(now: Timestamp) -> Self {
        Self(Source::Simulated { now, start: tokio::time::Instant::now() })
    }

    /// The wall clock as it was when this clock was made, and the time since
    /// then. Somebody who sets the machine's clock moves no fence: a jump
    /// forward would make absence a proof too early.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System { now, boot } => *now + since_boot().saturating_sub(*boot),
            Source::Manual(manual) => manual.lock().unwrap_or_else(PoisonError::into_inner).now,
            #[cfg(test)]
            Source::Simulated { now, start } => *now + start.elapsed(),
        }
    }

    /// Time since boot, suspension included: `std::time::Instant` stands still
    /// while a machine sleeps, and a token does not.
    pub fn boot(&self) -> Duration {
        match &self.0 {
            Source::System { .. } => since_boot(),
            Source::Manual(manual) => manual.lock().unwrap_or_else(PoisonError::into_inner).boot,
            #[cfg(test)]
            Source::Simulated { start, .. } => start.elapsed(),
        }
    }

    /// Moves a manual clock; the machine's own cannot be moved.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(manual) = &self.0 {
            let mut manual = manual.lock().unwrap_or_else(PoisonError::into_inner);
            manual.now = manual.now + by;
            manual.boot += by;
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Source::System { .. } => "Clock(system)",
            Source::Manual(_) => "Clock(manual)",
            #[cfg(test)]
            Source::Simulated { .. } => "Clock(simulated)",
        })
    }
}

impl Timestamp {
    /// How long after `earlier`; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or_default())
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }
}

impl std::ops::Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }
}

fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), nanos)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock made at half of the time since boot, whose machine has been set to another date since.
    #[test]
    fn the_time_that_passes_is_told_by_the_boot_clock_alone() {
        let boot = since_boot();
        let clock = Clock(Source::System { now: Timestamp(1_000), boot: boot / 2 });
        let passed = clock.now().since(Timestamp(1_000));
        assert!(passed.abs_diff(boot / 2) < Duration::from_mins(1), "{passed:?} of {boot:?}");
    }

    #[test]
    fn a_new_clock_shows_the_machines_time() {
        let wall = Timestamp(millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap()));
        let shown = Clock::system().now();
        assert!(shown.since(wall).max(wall.since(shown)) < Duration::from_mins(1), "{shown:?} at {wall:?}");
    }
}
