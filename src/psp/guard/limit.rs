//! How many requests may be under way towards one account: half as many at
//! each sign that it is too much, one more after each round without any.

use std::time::Duration;

/// Signs within this time are one: they answer requests of the same moment.
const HALVED_EVERY: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Clone, Debug)]
pub struct Limit {
    most: usize,
    now: usize,
    /// Answers since it last grew.
    taken: usize,
    halved_at: Option<Duration>,
}

impl Limit {
    /// At most `most`, and so many at first.
    pub fn new(most: usize) -> Self {
        Self { most, now: most, taken: 0, halved_at: None }
    }

    /// So many.
    pub fn get(&self) -> usize {
        self.now
    }

    /// A request was taken.
    pub fn taken(&mut self) {
        if self.now >= self.most {
            return;
        }
        self.taken = self.taken.saturating_add(1);
        if self.taken >= self.now {
            self.taken = 0;
            self.now = self.now.saturating_add(1);
        }
    }

    /// A request was turned away: it was too much.
    pub fn too_much(&mut self, now: Duration) {
        if self.halved_at.is_some_and(|at| now.saturating_sub(at) < HALVED_EVERY) {
            return;
        }
        self.halved_at = Some(now);
        self.taken = 0;
        self.now = (self.now / 2).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_halves_at_a_sign_and_grows_by_one_a_round() {
        let mut limit = Limit::new(16);
        limit.too_much(Duration::from_secs(1));
        assert_eq!(limit.get(), 8);
        (0..7).for_each(|_| limit.taken());
        assert_eq!(limit.get(), 8);
        limit.taken();
        assert_eq!(limit.get(), 9);
        (0..1000).for_each(|_| limit.taken());
        assert_eq!(limit.get(), 16, "never above what is allowed");
    }

    #[test]
    fn many_signs_of_one_moment_are_one_and_something_is_always_let_through() {
        let mut limit = Limit::new(16);
        (0..10).for_each(|_| limit.too_much(Duration::from_secs(1)));
        assert_eq!(limit.get(), 8);
        (2..20).for_each(|second| limit.too_much(Duration::from_secs(second)));
        assert_eq!(limit.get(), 1);
    }
}
