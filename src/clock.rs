//! Time, as something that is handed in. The wall clock dates what the journal
//! keeps and is read once, at the start; how much time has passed since, the
//! boot clock tells. Where more than one process writes the journal, the wall
//! clock is the database's, the only one that they share: see
//! [`Clock::following`].

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A point in time: milliseconds since 1970 by the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
    Following(Arc<Mutex<Followed>>),
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

struct Followed {
    /// What the other clock showed at the least, and our boot clock then.
    now: Timestamp,
    boot: Duration,
    /// What was shown last: time does not go back.
    shown: Timestamp,
}

/// What another clock showed.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// The time.
    pub now: Timestamp,
    /// The time since boot here when its answer had come.
    pub boot: Duration,
}

/// How far the other clock may be from where it is expected before it counts
/// as set by hand.
const FOLLOW_MAX: Duration = Duration::from_secs(2);
/// The longest answer that is used.
pub const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Two clocks may part by this much of the time that passes: 1 in 5,000, more
/// than the worst quartz.
const DRIFT_PARTS: u32 = 5_000;

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

    /// A clock that follows another one, which is asked again and again: what
    /// processes write for each other is dated by one clock, never by each
    /// machine's own.
    ///
    /// # Correctness
    ///
    /// What it shows is the least that the other clock can be at: the other
    /// clock's answer, which is older when it comes than when it was made, and
    /// what the boot clock says has passed since. So whoever judges that a time
    /// is over judges late, never early; whoever writes a time that must not
    /// end early starts from [`Clock::latest`], which the other clock, and
    /// every clock that follows it, has not passed.
    pub fn following(shown: Shown) -> Self {
        let followed = Followed { now: shown.now, boot: shown.boot, shown: shown.now };
        Self(Source::Following(Arc::new(Mutex::new(followed))))
    }

    /// Follows the other clock to where it is now. By how much it is away from
    /// where it should be, if that is too much to be drift: then somebody set
    /// it, and it is not followed.
    pub fn follow(&self, shown: Shown) -> Result<(), Duration> {
        let Source::Following(followed) = &self.0 else { return Ok(()) };
        let mut followed = followed.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = shown.boot.saturating_sub(followed.boot);
        let expected = followed.now + passed;
        let away = shown.now.since(expected).max(expected.since(shown.now));
        if away > FOLLOW_MAX + passed / DRIFT_PARTS {
            return Err(away);
        }
        followed.now = shown.now;
        followed.boot = shown.boot;
        Ok(())
    }

    /// The latest that it can be by any clock that dates the same journal.
    pub fn latest(&self) -> Timestamp {
        match &self.0 {
            Source::Following(_) => self.now() + FOLLOW_MAX + ANSWER_MAX,
            _ => self.now(),
        }
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
            Source::Following(followed) => {
                let mut followed = followed.lock().unwrap_or_else(PoisonError::into_inner);
                let now = followed.now + since_boot().saturating_sub(followed.boot);
                followed.shown = followed.shown.max(now);
                followed.shown
            }
            #[cfg(test)]
            Source::Simulated { now, start } => *now + start.elapsed(),
        }
    }

    /// Time since boot, suspension included: `std::time::Instant` stands still
    /// while a machine sleeps, and a token does not.
    pub fn boot(&self) -> Duration {
        match &self.0 {
            Source::System { .. } | Source::Following(_) => since_boot(),
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
            Source::Following(_) => "Clock(following)",
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
    fn a_clock_that_follows_another_never_goes_back_and_does_not_follow_a_leap() {
        let boot = since_boot();
        let shown =
            |now: i64, after: u64| Shown { now: Timestamp(now), boot: boot + Duration::from_secs(after) };
        let clock = Clock::following(Shown { now: Timestamp(1_000_000), boot });
        let first = clock.now();
        assert!(first >= Timestamp(1_000_000) && clock.latest() >= first + Duration::from_secs(3));
        // A second behind is drift, and time stands still until it has caught up.
        assert_eq!(clock.follow(shown(1_009_000, 10)), Ok(()));
        assert_eq!(clock.now().since(first), clock.now().since(first));
        assert!(clock.now() >= first);
        for leap in [1_009_000 + 3_600_000, 1_009_000 - 5_000] {
            assert!(clock.follow(shown(leap, 10)).is_err(), "{leap}");
        }
        // After a long silence more may be drift.
        assert_eq!(clock.follow(shown(1_009_000 + 100_005_000, 100_010)), Ok(()));
    }

    #[test]
    fn a_new_clock_shows_the_machines_time() {
        let wall = Timestamp(millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap()));
        let shown = Clock::system().now();
        assert!(shown.since(wall).max(wall.since(shown)) < Duration::from_mins(1), "{shown:?} at {wall:?}");
    }
}
