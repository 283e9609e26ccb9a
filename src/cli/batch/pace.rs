//! How many calls are under way: more while the boundary takes them, half as many when it asks for less.

use std::sync::{Mutex, PoisonError};

use tokio::{
    sync::Notify,
    time::{Duration, Instant},
};

/// What a run begins with.
const FIRST: u32 = 4;
/// Refusals that come together count as one.
const TOGETHER: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Pace {
    state: Mutex<State>,
    freed: Notify,
    most: u32,
}

#[derive(Debug)]
struct State {
    under_way: u32,
    allowed: u32,
    /// Calls that were taken since `allowed` changed.
    taken: u32,
    lowered: Option<Instant>,
}

/// A call that is under way.
pub(super) struct Place<'a>(&'a Pace);

impl Pace {
    pub(super) fn new(most: u32) -> Self {
        let most = most.max(1);
        let state = State { under_way: 0, allowed: FIRST.min(most), taken: 0, lowered: None };
        Self { state: Mutex::new(state), freed: Notify::new(), most }
    }

    /// Waits for a place.
    pub(super) async fn place(&self) -> Place<'_> {
        loop {
            let freed = self.freed.notified();
            if self.take() {
                return Place(self);
            }
            freed.await;
        }
    }

    fn take(&self) -> bool {
        let mut state = self.lock();
        let free = state.under_way < state.allowed;
        if free {
            state.under_way += 1;
        }
        free
    }

    /// The boundary took a call: one more after as many as there are.
    pub(super) fn taken(&self) {
        let mut state = self.lock();
        state.taken += 1;
        if state.taken >= state.allowed && state.allowed < self.most {
            (state.allowed, state.taken) = (state.allowed + 1, 0);
            drop(state);
            self.freed.notify_one();
        }
    }

    /// The boundary asked for less.
    pub(super) fn pushed_back(&self, now: Instant) {
        let mut state = self.lock();
        if state.lowered.is_none_or(|lowered| now.duration_since(lowered) > TOGETHER) {
            (state.allowed, state.taken) = ((state.allowed / 2).max(1), 0);
            state.lowered = Some(now);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.lock().under_way -= 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_while_calls_are_taken_and_halves_once_for_refusals_that_come_together() {
        let pace = Pace::new(16);
        let allowed = || pace.lock().allowed;
        for _ in 0..1_000 {
            pace.taken();
        }
        assert_eq!(allowed(), 16);
        let now = Instant::now();
        pace.pushed_back(now);
        pace.pushed_back(now + TOGETHER / 2);
        assert_eq!(allowed(), 8);
        for nth in 2..20 {
            pace.pushed_back(now + TOGETHER * nth);
        }
        assert_eq!(allowed(), 1);
    }

    #[tokio::test]
    async fn a_place_that_is_left_goes_to_the_next() {
        let pace = Pace::new(1);
        let first = pace.place().await;
        let mut second = Box::pin(pace.place());
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        drop(second.await);
    }
}
