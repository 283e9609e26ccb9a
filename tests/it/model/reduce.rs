//! What keeps the number of states small: states that can only go on alike are
//! made one.

use super::world::{ATTEMPTS, At, Ev, KEYS, Net, PAST, Point, Row, View, World};

impl Row {
    /// Two entries that differ in nothing else go on alike. `most` is the last
    /// attempt that the model makes of the key.
    pub fn without_what_decides_nothing(self, most: u8) -> Self {
        let at = self.at;
        if matches!(at, At::Succeeded | At::Declined) || (at == At::Released && self.shot + 1 >= most) {
            return self.attempt_alone();
        }
        // Every token is of one life: the next one outlives those before it.
        // Once sent again (T12), nothing but proof counts before the fence.
        let resends = if matches!(at, At::Review | At::Released) { 0 } else { self.resends };
        let over = matches!(at, At::Accepted | At::Review | At::Released) && resends == 0;
        let fence = if over { PAST } else { self.fence };
        let leased = self.leased && at.is_sending();
        let accepted = self.accepted.filter(|_| at.is_open());
        Self { fence, leased, accepted, resends, ..self }
    }

    /// All that counts of a view once the entry has been written by another.
    pub fn attempt_alone(self) -> Self {
        let Self { at, attempt, shot, old, .. } = self;
        let (fence, leased, accepted, resends, ignored, failed, streak) = (PAST, false, None, 0, 0, 0, None);
        Self { at, attempt, shot, old, fence, leased, accepted, resends, ignored, failed, streak }
    }
}

impl World {
    /// Forgets what cannot make a difference any more.
    pub fn forget(&mut self, views_age: bool) {
        for key in 0..KEYS {
            for attempt in 0..ATTEMPTS {
                if self.shots[key][attempt].answer.is_some() && self.hears(key, attempt).is_none() {
                    self.shots[key][attempt].answer = None;
                    self.shots[key][attempt].answer_delayed = false;
                }
            }
            // A definite answer that is stored for good: see S9.
            if self.told[key].is_some() && self.told[key] == self.rows[key].map(|row| row.at) {
                self.told[key] = None;
            }
        }
        let (rows, shots) = (self.rows, self.shots);
        for replica in &mut self.replicas {
            replica.listens = replica.listens.filter(|(key, attempt)| {
                let shot = shots[usize::from(*key)][usize::from(*attempt)];
                let answers = matches!(shot.net, Net::Flying | Net::Delayed | Net::Arrived(_));
                answers || shot.answer.is_some()
            });
            if !views_age {
                continue;
            }
            let overtaken = |view: View, key: u8| {
                let stored = rows[usize::from(key)].map(|row| row.attempt);
                !view.fresh && view.row.map(|row| row.attempt) != stored
            };
            replica.call = replica.call.filter(|call| match call.point {
                Point::Ready(_) => call.view.fresh,
                Point::Writing(Ev::Proven) | Point::Sending { .. } | Point::Waiting => true,
                Point::Writing(_) | Point::Again(_) | Point::Resend(_) => !overtaken(call.view, call.key),
            });
            replica.reader = replica.reader.filter(|reader| {
                reader.ev == Ev::Proven || reader.again || !overtaken(reader.view, reader.key)
            });
        }
    }

    /// The one that stands for both orders of the replicas, and for both of
    /// the keys where they are of one kind.
    pub fn canonical(mut self, same_kind: bool) -> Self {
        self.replicas.sort_unstable();
        if !same_kind {
            return self;
        }
        let mut other = self;
        other.rows.swap(0, 1);
        other.shots.swap(0, 1);
        other.told.swap(0, 1);
        other.copy.iter_mut().for_each(|rows| rows.swap(0, 1));
        for replica in &mut other.replicas {
            replica.call.iter_mut().for_each(|call| call.key ^= 1);
            replica.listens.iter_mut().for_each(|(key, _)| *key ^= 1);
            replica.reader.iter_mut().for_each(|reader| reader.key ^= 1);
        }
        other.replicas.sort_unstable();
        self.min(other)
    }
}
