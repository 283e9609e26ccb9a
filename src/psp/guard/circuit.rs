//! A circuit breaker: opens where too many of the last requests failed, and
//! closes when one shows that it is over. A value of times that are handed in.

use std::{collections::VecDeque, time::Duration};

/// How many of the last requests count,
pub const WINDOW: usize = 20;
/// and for how long.
const REMEMBERED: Duration = Duration::from_mins(1);
/// How often the time for which it is open doubles, while nothing gets better.
const DOUBLINGS_MAX: u32 = 3;
/// When to ask again while somebody else's request is the test.
const PROBE_TAKES: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Clone, Debug)]
pub struct Circuit {
    settings: Settings,
    recent: VecDeque<(Duration, bool)>,
    state: State,
    /// How often it opened, one time after the other.
    opened: u32,
}

/// When it opens.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// So many of the last twenty requests failed; never where it is zero.
    pub failures: usize,
    /// And for how long, at first.
    pub open_for: Duration,
}

/// Whether requests are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// They are.
    Closed,
    /// None before then.
    Open {
        /// By the boot clock.
        until: Duration,
    },
    /// One request may try.
    Probing,
}

/// What a report changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is open now.
    Opened,
    /// It is closed again.
    Closed,
}

impl Circuit {
    /// A closed one.
    pub fn new(settings: Settings) -> Self {
        Self { settings, recent: VecDeque::new(), state: State::Closed, opened: 0 }
    }

    /// What it is now.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether one more request may be made, and whether it is the test of
    /// whether it is over; or when to ask again.
    pub fn admit(&mut self, now: Duration) -> Result<bool, Duration> {
        match self.state {
            State::Closed => Ok(false),
            State::Open { until } if now < until => Err(until.saturating_sub(now)),
            State::Open { .. } => {
                self.state = State::Probing;
                Ok(true)
            }
            State::Probing => Err(PROBE_TAKES),
        }
    }

    /// What became of a request: whether it works, and whether it was the test.
    pub fn report(&mut self, works: bool, probe: bool, now: Duration) -> Option<Change> {
        match self.state {
            State::Closed => {
                let old = |(at, _): &(Duration, bool)| now.saturating_sub(*at) > REMEMBERED;
                self.recent.retain(|one| !old(one));
                self.recent.push_back((now, works));
                if self.recent.len() > WINDOW {
                    self.recent.pop_front();
                }
                let failed = self.recent.iter().filter(|(_, works)| !works).count();
                let opens = self.settings.failures > 0 && failed >= self.settings.failures;
                opens.then(|| self.open(now))
            }
            // What left before it opened tells nothing new.
            _ if !probe => None,
            _ if works => {
                self.state = State::Closed;
                self.recent.clear();
                self.opened = 0;
                Some(Change::Closed)
            }
            _ => Some(self.open(now)),
        }
    }

    /// The test came to nothing: another one may be made.
    pub fn probe_lost(&mut self, now: Duration) {
        if self.state == State::Probing {
            self.state = State::Open { until: now };
        }
    }

    fn open(&mut self, now: Duration) -> Change {
        let open_for = self.settings.open_for.saturating_mul(1 << self.opened.min(DOUBLINGS_MAX));
        self.state = State::Open { until: now.saturating_add(open_for) };
        self.opened = self.opened.saturating_add(1);
        Change::Opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u32) -> Duration {
        SECOND * seconds
    }

    fn closed() -> Circuit {
        Circuit::new(Settings { failures: 10, open_for: 5 * SECOND })
    }

    /// Ten failures in the second 0.
    fn open() -> Circuit {
        let mut circuit = closed();
        let changes: Vec<_> = (0..10).filter_map(|_| circuit.report(false, false, at(0))).collect();
        assert_eq!(changes, [Change::Opened]);
        circuit
    }

    #[test]
    fn it_opens_when_half_of_the_last_twenty_failed_and_not_before() {
        let mut circuit = closed();
        for nth in 0..200 {
            assert_eq!(circuit.report(nth % 20 >= 9, false, at(0)), None, "nine in twenty");
            assert_eq!(circuit.admit(at(0)), Ok(false));
        }
        assert_eq!(open().admit(at(0)), Err(5 * SECOND));
        assert_eq!(open().admit(at(4)), Err(SECOND));
    }

    #[test]
    fn what_is_long_ago_does_not_count() {
        let mut circuit = closed();
        (0..9).for_each(|_| assert_eq!(circuit.report(false, false, at(0)), None));
        assert_eq!(circuit.report(false, false, at(61)), None);
        assert_eq!(circuit.state, State::Closed);
    }

    #[test]
    fn one_request_tries_and_the_others_wait_for_it() {
        let mut circuit = open();
        assert_eq!(circuit.admit(at(5)), Ok(true));
        assert_eq!(circuit.admit(at(5)), Err(PROBE_TAKES));
        assert_eq!(circuit.report(true, true, at(6)), Some(Change::Closed));
        assert_eq!(circuit.admit(at(6)), Ok(false));
        // All is forgotten: one more failure is no reason.
        assert_eq!(circuit.report(false, false, at(6)), None);
    }

    #[test]
    fn a_test_that_fails_keeps_it_open_for_longer_up_to_a_limit() {
        let mut circuit = open();
        let mut now = at(5);
        for open_for in [10, 20, 40, 40] {
            assert_eq!(circuit.admit(now), Ok(true));
            assert_eq!(circuit.report(false, true, now), Some(Change::Opened));
            assert_eq!(circuit.admit(now), Err(at(open_for)));
            now += at(open_for);
        }
    }

    #[test]
    fn a_test_that_was_never_made_is_made_by_the_next_one() {
        let mut circuit = open();
        assert_eq!(circuit.admit(at(5)), Ok(true));
        circuit.probe_lost(at(5));
        assert_eq!(circuit.admit(at(5)), Ok(true));
    }

    #[test]
    fn what_left_before_changes_nothing_while_it_is_open() {
        let mut circuit = open();
        assert_eq!(circuit.report(true, false, at(1)), None);
        assert_eq!(circuit.report(false, false, at(1)), None);
        assert_eq!(circuit.admit(at(1)), Err(4 * SECOND));
    }

    #[test]
    fn it_can_be_switched_off() {
        let mut circuit = Circuit::new(Settings { failures: 0, open_for: SECOND });
        assert!((0..100).all(|_| circuit.report(false, false, at(0)).is_none()));
        assert_eq!(circuit.state, State::Closed);
    }
}
