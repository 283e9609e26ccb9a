//! Time, as something that is handed in. Two clocks, never mixed: the wall
//! clock dates what the journal keeps, the boot clock measures durations.

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
#[derive(Clone, Default)]
pub struct Clock(Option<Arc<Mutex<Manual>>>);

struct Manual {
    now: Timestamp,
    boot: Duration,
}

impl Clock {
    /// The machine's own clocks.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands until it is moved.
    pub fn manual(now: Timestamp) -> Self {
        Self(Some(Arc::new(Mutex::new(Manual { now, boot: Duration::from_secs(1_000) }))))
    }

    /// The wall clock. It may jump.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            None => Timestamp(millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())),
            Some(manual) => manual.lock().unwrap_or_else(PoisonError::into_inner).now,
        }
    }

    /// Time since boot, suspension included: `std::time::Instant` stands still
    /// while a machine sleeps, and a token does not.
    pub fn boot(&self) -> Duration {
        match &self.0 {
            None => {
                let time = clock_gettime(ClockId::Boottime);
                let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
                Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), nanos)
            }
            Some(manual) => manual.lock().unwrap_or_else(PoisonError::into_inner).boot,
        }
    }

    /// Moves a manual clock; the machine's own cannot be moved.
    pub fn advance(&self, by: Duration) {
        if let Some(manual) = &self.0 {
            let mut manual = manual.lock().unwrap_or_else(PoisonError::into_inner);
            manual.now = manual.now + by;
            manual.boot += by;
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Clock(manual)" } else { "Clock(system)" })
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

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
