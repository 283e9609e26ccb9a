//! What can happen to a request on the way and at the PSP. All of it is
//! allowed by the assumptions A2 to A6, and nothing else is.

use super::steps::{Step, Steps};
use super::world::{Answer, End, KEYS, Net, Shot, Shown, World};

/// What this PSP does besides carrying out.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is there or not, in any mixture")]
pub struct Behaviour {
    /// 202, and the end later.
    pub begins: bool,
    /// A failed event that says no.
    pub declines: bool,
    /// 400 and the like.
    pub refuses: bool,
    /// A failed event that excludes nothing, and perhaps an effect after it.
    pub unclear: bool,
    /// 409 and 429.
    pub pushes_back: bool,
    /// 401 while the token lives.
    pub unauthorized: bool,
    /// It applies what arrived up to a tick later.
    pub settles: bool,
    /// It shows what happened up to a tick later.
    pub lags: bool,
}

impl Steps<'_> {
    pub fn request(&mut self, world: &World, key: usize, attempt: usize) {
        let shot = world.shots[key][attempt];
        let step = Step::Request { key, attempt };
        match shot.net {
            Net::Unsent => return,
            Net::Flying | Net::Delayed => {
                if world.left.losses > 0 {
                    let mut lost = *world;
                    lost.left.losses -= 1;
                    lost.shots[key][attempt] = Shot { net: Net::Over, token: 0, ..shot };
                    self.push(step, lost);
                }
                if shot.net == Net::Flying && world.left.delays > 0 {
                    let mut late = *world;
                    late.left.delays -= 1;
                    late.shots[key][attempt].net = Net::Delayed;
                    self.push(step, late);
                }
                if shot.token < 0 {
                    // A3.
                    self.becomes(world, step, over(shot, Some(Answer::Unauthorized)));
                } else {
                    let arrived = Shot { token: 0, ..shot };
                    if self.scenario.psp.settles {
                        self.becomes(world, step, Shot { net: Net::Arrived(0), ..arrived });
                    }
                    self.carry_out(world, step, arrived);
                }
            }
            Net::Arrived(_) => {
                self.carry_out(world, step, shot);
            }
            Net::Begun => self.end(world, step, shot, None),
            Net::Uncertain(_) => {
                self.becomes(world, step, over(shot, shot.answer));
                if self.allows(world, key) {
                    self.becomes(world, step, self.ended(shot, End::Success, shot.answer));
                }
            }
            Net::Over => {}
        }
        self.shows(world, step, shot);
    }

    /// A hidden event is seen.
    fn shows(&mut self, world: &World, step: Step, shot: Shot) {
        let hidden = |shown: Shown| matches!(shown, Shown::Hidden(_));
        if hidden(shot.begun) {
            self.becomes(world, step, Shot { begun: Shown::Seen, ..shot });
        }
        if hidden(shot.unclear) {
            self.becomes(world, step, Shot { unclear: Shown::Seen, ..shot });
        }
        if hidden(shot.end_shown) {
            self.becomes(world, step, Shot { end_shown: Shown::Seen, ..shot });
        }
    }

    /// A request that arrived in time: whatever the PSP may do with it.
    fn carry_out(&mut self, world: &World, step: Step, shot: Shot) {
        let psp = self.scenario.psp;
        let Step::Request { key, .. } = step else { return };
        if !self.allows(world, key) {
            self.becomes(world, step, over(shot, Some(Answer::Refused)));
            return;
        }
        self.end(world, step, shot, Some(()));
        let hidden = self.hidden();
        for (does, then) in [
            (psp.begins, Shot { net: Net::Begun, begun: hidden, answer: Some(Answer::Accepted), ..shot }),
            (
                psp.unclear,
                Shot { net: Net::Uncertain(0), unclear: hidden, answer: Some(Answer::Unclear), ..shot },
            ),
            (psp.refuses, over(shot, Some(Answer::Refused))),
            (psp.pushes_back, over(shot, Some(Answer::Pushback))),
            (psp.unauthorized, over(shot, Some(Answer::Unauthorized))),
        ] {
            if does {
                self.becomes(world, step, then);
            }
        }
    }

    /// It takes effect or fails clearly, and says so to who still waits for its answer.
    fn end(&mut self, world: &World, step: Step, shot: Shot, answers: Option<()>) {
        let Step::Request { key, .. } = step else { return };
        let allowed = self.allows(world, key);
        let ends = [(End::Success, allowed), (End::Failure, self.scenario.psp.declines || !allowed)];
        for (end, possible) in ends {
            if possible {
                let answer = answers.map(|()| Answer::Done(end)).or(shot.answer);
                self.becomes(world, step, self.ended(shot, end, answer));
            }
        }
    }

    fn ended(&self, shot: Shot, end: End, answer: Option<Answer>) -> Shot {
        Shot { end: Some(end), end_shown: self.hidden(), ..over(shot, answer) }
    }

    fn hidden(&self) -> Shown {
        if self.scenario.psp.lags { Shown::Hidden(0) } else { Shown::Seen }
    }

    fn allows(&self, world: &World, key: usize) -> bool {
        self.real.psp_allows(u8::try_from(key).unwrap(), world.effects())
    }

    fn becomes(&mut self, world: &World, step: Step, shot: Shot) {
        let Step::Request { key, attempt } = step else { return };
        let mut then = *world;
        then.shots[key][attempt] = shot;
        self.push(step, then);
    }
}

fn over(shot: Shot, answer: Option<Answer>) -> Shot {
    Shot { net: Net::Over, token: 0, answer, ..shot }
}

const _: () = assert!(KEYS == 2, "the PSP's guard is written for two keys");
