//! What an answer comes to, and how a result is written: `conclude` and
//! `journal::advance`, each as one step.

use super::Broken;
use super::real::Illegal;
use super::steps::{Step, Steps};
use super::world::{Answer, At, Ev, Point, Prepared, Row, View, World};

impl Steps<'_> {
    /// The answer to an attempt reaches its sender, goes astray, or takes long.
    pub fn answer(&mut self, world: &World, key: usize, attempt: usize) {
        let shot = world.shots[key][attempt];
        let Some(answer) = shot.answer else { return };
        let step = Step::Answer { key, attempt };
        let mut heard = *world;
        heard.shots[key][attempt].answer = None;
        heard.shots[key][attempt].answer_delayed = false;
        if world.left.losses > 0 {
            let mut lost = heard;
            lost.left.losses -= 1;
            self.push(step, lost);
        }
        if world.left.delays > 0 && !shot.answer_delayed {
            let mut late = *world;
            late.left.delays -= 1;
            late.shots[key][attempt].answer_delayed = true;
            self.push(step, late);
        }
        let Some((replica, waits)) = world.hears(key, attempt) else { return };
        // A refusal is explained by a read, the rest by the answer itself.
        let shows = match answer {
            Answer::Refused => world.shows(false),
            _ => world.answer_shows(key, attempt, answer),
        };
        let stored = world.rows[key].unwrap();
        let shot = u8::try_from(attempt).unwrap();
        let of = u8::try_from(key).unwrap();
        let of_stored = usize::from(stored.shot) == attempt;
        let accepted = stored.accepted.filter(|_| of_stored);
        let resends = if of_stored && !self.is(Broken::ResentAnswer) { stored.resends } else { 0 };
        let row = Row { shot, accepted, resends, ..stored };
        let mut ev = self.real.answer(of, row, shows, answer);
        if answer == Answer::Accepted && self.is(Broken::AcceptedIsDone) {
            ev = Ev::Proven;
        }
        if !waits {
            heard.replicas[replica].listens = None;
            let broke = self.late(&mut heard, key, shot, ev);
            return self.push_checked(step, heard, broke);
        }
        let Some(mut call) = world.replicas[replica].call else { return };
        call.point = match answer {
            Answer::Unauthorized
                if world.free(key) < self.scenario.attempts[key]
                    && call.view.row.unwrap().at == At::Started =>
            {
                Point::Again(Prepared::NOW)
            }
            _ => Point::Writing(ev),
        };
        if self.is(Broken::AnswerFirst) && ev == Ev::Proven {
            heard.told[key] = Some(At::Succeeded);
        }
        heard.replicas[replica].call = Some(call);
        self.push(step, heard);
    }

    /// An answer after the call's patience: as in `conclude`.
    fn late(&mut self, then: &mut World, key: usize, shot: u8, ev: Ev) -> Option<&'static str> {
        let definite = matches!(ev, Ev::Proven | Ev::Refused | Ev::Accepted { .. } | Ev::Contradicted);
        let current = then.rows[key].unwrap();
        let of_another = current.shot != shot && ev != Ev::Proven && !self.is(Broken::NoAttempt);
        let illegal = self.after(u8::try_from(key).unwrap(), current, ev, 0).is_err();
        if !definite || of_another || illegal {
            return None;
        }
        self.advance(then, key, View { row: Some(current), fresh: true }, ev, 0).err()
    }

    /// `journal::advance`, to its end: the entry as it is stored then, and
    /// whether this wrote it.
    pub fn advance(
        &mut self,
        then: &mut World,
        key: usize,
        view: View,
        ev: Ev,
        age: i8,
    ) -> Result<(Row, bool), &'static str> {
        let of = u8::try_from(key).unwrap();
        let seen = view.row.unwrap();
        let mut next = match self.after(of, seen, ev, age) {
            Ok(Some(next)) => next,
            Ok(None) => return Ok((seen, false)),
            Err(Illegal) => return Err("a move that is impossible even by one's own view"),
        };
        if !view.fresh && !self.is(Broken::NoCas) {
            let current = then.rows[key].unwrap();
            if current.attempt != seen.attempt && ev != Ev::Proven && !self.is(Broken::NoAttempt) {
                return Ok((current, false));
            }
            match self.after(of, current, ev, age) {
                Ok(Some(again)) => next = again,
                Ok(None) | Err(Illegal) => return Ok((current, false)),
            }
        }
        if next.at.is_open() && then.is_busy(key) && !self.is(Broken::NoSlot) {
            return Err("what happened cannot be recorded: the slot is taken");
        }
        if matches!(ev, Ev::TokenRefused(_) | Ev::Resent(_)) {
            next.shot = then.free(key);
        }
        self.store(then, key, next);
        Ok((next, true))
    }

    fn after(&mut self, key: u8, row: Row, ev: Ev, age: i8) -> Result<Option<Row>, Illegal> {
        let row = match row.at {
            At::Resent if self.is(Broken::ResentAnswer) => Row { at: At::Started, ..row },
            _ => row,
        };
        self.real.after(key, row, ev, age)
    }

    pub fn store(&self, then: &mut World, key: usize, row: Row) {
        then.rows[key] = Some(row);
        let keep = self.is(Broken::NoCas);
        let age = |view: &mut View| {
            view.fresh = false;
            if !keep {
                view.row = view.row.map(Row::attempt_alone);
            }
        };
        for replica in &mut then.replicas {
            replica.call.iter_mut().filter(|c| usize::from(c.key) == key).for_each(|c| age(&mut c.view));
            replica.reader.iter_mut().filter(|r| usize::from(r.key) == key).for_each(|r| age(&mut r.view));
        }
    }
}
