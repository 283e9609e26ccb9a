//! Everything that can happen next: the protocol of `idempotency`, `attempt`,
//! `conclude` and `reconcile` as small steps, cut wherever another replica, a
//! crash or the passing of time can come between.

use super::real::{Check, Real};
use super::world::{
    ATTEMPTS, At, Call, Ev, KEYS, Net, PAST, Point, Prepared, Reader, Replica, Row, Stamp, TOKEN, View, World,
};
use super::{Broken, Scenario};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A caller asks; the key is looked up, the request built.
    Find {
        replica: usize,
        key: usize,
    },
    /// W1.
    Record {
        replica: usize,
    },
    /// The first byte leaves.
    Send {
        replica: usize,
    },
    /// The call stops waiting.
    TimeOut {
        replica: usize,
    },
    /// W2, and the caller's answer.
    Write {
        replica: usize,
    },
    /// The lease is over: the entry becomes one in doubt.
    TakeOver {
        key: usize,
    },
    /// The PSP is read, and what that means decided.
    Read {
        replica: usize,
        key: usize,
    },
    /// What the read means is written.
    WriteRead {
        replica: usize,
    },
    Crash {
        replica: usize,
    },
    /// Something happens to a request, at the PSP or on the way.
    Request {
        key: usize,
        attempt: usize,
    },
    /// Its answer arrives, is lost, or is late.
    Answer {
        key: usize,
        attempt: usize,
    },
    /// The journal is copied.
    Copy,
    /// The journal is lost.
    Lose,
    Tick,
}

/// How long keys of before a loss are not sent: as long as a request may act.
const QUIET: i8 = TOKEN - PAST;

/// A step, where it leads, and the rule that it broke by itself.
pub type Next = (Step, World, Option<&'static str>);

pub struct Steps<'a> {
    pub real: &'a mut Real,
    pub scenario: &'a Scenario,
    pub broken: Option<Broken>,
    pub next: Vec<Next>,
    /// The step that the steps of a message are part of.
    pub within: Option<Step>,
}

impl Steps<'_> {
    /// Every step from here.
    pub fn from(&mut self, world: &World) {
        self.next.clear();
        for replica in 0..2 {
            self.calls(world, replica);
            self.reads(world, replica);
            let idle = world.replicas[replica] == Replica::default();
            if world.left.crashes > 0 && !idle {
                let mut then = *world;
                then.left.crashes -= 1;
                then.replicas[replica] = Replica::default();
                self.push(Step::Crash { replica }, then);
            }
        }
        for key in 0..KEYS {
            if let Some(row) = world.rows[key].filter(|row| row.at.is_sending() && !row.leased) {
                let mut then = *world;
                let view = View { row: Some(row), fresh: true };
                let broke = self.advance(&mut then, key, view, Ev::Doubted, 0).err();
                self.push_checked(Step::TakeOver { key }, then, broke);
            }
            for attempt in 0..ATTEMPTS {
                self.request(world, key, attempt);
                self.answer(world, key, attempt);
            }
        }
        self.journal(world);
        if world.may_tick() {
            let mut then = *world;
            then.tick();
            if then != *world {
                self.push(Step::Tick, then);
            }
        }
    }

    /// Its owners end, and find an older copy, or nothing. This is noticed:
    /// callers are told so for as long as a request of before may take effect,
    /// and what they were told before counts no more than what the PSP shows.
    fn journal(&mut self, world: &World) {
        if world.left.journals == 0 {
            return;
        }
        if world.copy.is_none() && world.rows.iter().any(Option::is_some) {
            self.push(Step::Copy, World { copy: Some(world.rows), ..*world });
        }
        let mut then = World { lost: Some(QUIET), copy: None, told: Default::default(), ..*world };
        then.left.journals -= 1;
        then.replicas = Default::default();
        then.rows = world.copy.unwrap_or_default();
        for (key, row) in (0_u8..).zip(&mut then.rows) {
            if let Some(row) = row.as_mut().filter(|_| !self.is(Broken::LossUnnoticed)) {
                *row = Row { leased: false, ..self.real.lost(key, *row) };
            }
        }
        self.push(Step::Lose, then);
    }

    pub fn push(&mut self, step: Step, then: World) {
        self.push_checked(step, then, None);
    }

    /// What is on time is not waited for: a request that is not delayed is at
    /// the PSP and its answer with its sender in the same step. Nobody else
    /// could tell the difference; whoever waits, waits before or after.
    pub fn push_checked(&mut self, step: Step, mut then: World, broke: Option<&'static str>) {
        let views_age = !matches!(self.broken, Some(Broken::NoCas | Broken::NoAttempt | Broken::NoNonce));
        then.forget(views_age);
        let step = self.within.unwrap_or(step);
        let on_time = then.on_time().filter(|_| broke.is_none());
        let Some((key, attempt)) = on_time else { return self.next.push((step, then, broke)) };
        let outer = self.within.replace(step);
        if then.shots[key][attempt].net == Net::Flying {
            self.request(&then, key, attempt);
        } else {
            self.answer(&then, key, attempt);
        }
        self.within = outer;
    }

    pub fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    fn calls(&mut self, world: &World, replica: usize) {
        let Some(call) = world.replicas[replica].call else {
            for key in 0..KEYS {
                self.find(world, replica, key);
            }
            return;
        };
        let key = usize::from(call.key);
        let mut then = *world;
        match call.point {
            Point::Ready(prepared) => self.record(world, replica, call, prepared),
            Point::Again(prepared) | Point::Resend(prepared) => {
                let stamp = self.stamp(prepared);
                let again = matches!(call.point, Point::Again(_));
                let ev = if again { Ev::TokenRefused(stamp) } else { Ev::Resent(stamp) };
                let broke = match self.advance(&mut then, key, call.view, ev, 0) {
                    // Told apart by the nonce: another replica may have begun this attempt.
                    Ok((row, ours)) if ours || (row.at == At::Started && self.is(Broken::NoNonce)) => {
                        launch(&mut then, replica, call, row, prepared);
                        None
                    }
                    Ok((row, _)) => {
                        finish(&mut then, replica, row);
                        None
                    }
                    Err(broke) => Some(broke),
                };
                self.push_checked(Step::Record { replica }, then, broke);
            }
            Point::Sending { token } => {
                let token = if self.is(Broken::TokenAtSend) { TOKEN } else { token };
                let broke = send(&mut then, key, call.view.row.unwrap(), token);
                then.replicas[replica].call = Some(Call { point: Point::Waiting, ..call });
                self.push_checked(Step::Send { replica }, then, broke);
            }
            Point::Waiting => {
                let ev = if self.is(Broken::SilenceIsNo) { Ev::Refused } else { Ev::Doubted };
                then.replicas[replica].call = Some(Call { point: Point::Writing(ev), ..call });
                then.replicas[replica].listens = Some((call.key, call.view.row.unwrap().shot));
                self.push(Step::TimeOut { replica }, then);
            }
            Point::Writing(ev) => {
                let broke = match self.advance(&mut then, key, call.view, ev, 0) {
                    Ok((row, _)) => {
                        finish(&mut then, replica, row);
                        None
                    }
                    Err(broke) => Some(broke),
                };
                self.push_checked(Step::Write { replica }, then, broke);
            }
        }
    }

    /// What a caller's call begins with. A call that only answers with what is
    /// stored changes nothing.
    fn find(&mut self, world: &World, replica: usize, key: usize) {
        let prior = match world.rows[key] {
            _ if world.free(key) >= self.scenario.attempts[key] => return,
            None => None,
            Some(row) => match row.at {
                At::Released => Some(row),
                At::InDoubt if self.is(Broken::ResendAfterLease) => Some(Row { at: At::Released, ..row }),
                _ => return,
            },
        };
        let of = u8::try_from(key).unwrap();
        let unknown = prior.map_or_else(|| self.real.may_be_forgotten(of), |row| row.old);
        let quiet = world.lost.filter(|_| unknown && !self.is(Broken::LossUnnoticed));
        if quiet.is_some_and(|quiet| quiet > 0) && !self.is(Broken::NoQuiet) {
            return;
        }
        let found = match self.real.check(of, world.shows(false), quiet.is_some()) {
            Check::Send => None,
            Check::Found(ev) => Some(ev),
            Check::Refused => return,
        };
        let point = Point::Ready(Prepared { found, ..Prepared::NOW });
        let mut then = *world;
        then.replicas[replica].call = Some(Call { key: of, point, view: View { row: prior, fresh: true } });
        self.push(Step::Find { replica, key }, then);
    }

    fn stamp(&self, prepared: Prepared) -> Stamp {
        let fence = if self.is(Broken::NoFence) { PAST } else { prepared.token };
        Stamp { fence, leased: !prepared.late }
    }

    fn record(&mut self, world: &World, replica: usize, call: Call, prepared: Prepared) {
        let key = usize::from(call.key);
        let mut then = *world;
        if self.is(Broken::SendFirst) {
            let attempt = usize::from(world.free(key));
            if then.shots[key][attempt].net == Net::Unsent {
                let broke = send_nth(&mut then, key, attempt, prepared.token);
                self.push_checked(Step::Send { replica }, then, broke);
                return;
            }
        }
        let stamp = self.stamp(prepared);
        then.replicas[replica].call = None;
        let busy = world.is_busy(key) && !self.is(Broken::NoSlot);
        let taken = match call.view.row {
            None => world.rows[key].is_some(),
            Some(_) => !call.view.fresh && !self.is(Broken::NoCas),
        };
        if busy || taken {
            self.push(Step::Record { replica }, then);
            return;
        }
        let mut row = match call.view.row {
            None => self.real.start(call.key, stamp),
            Some(prior) => match self.real.after(call.key, prior, Ev::Retried(stamp), 0) {
                Ok(Some(row)) => row,
                _ => return self.push(Step::Record { replica }, then),
            },
        };
        row.shot = world.free(key);
        self.store(&mut then, key, row);
        launch(&mut then, replica, call, row, prepared);
        self.push(Step::Record { replica }, then);
    }

    fn reads(&mut self, world: &World, replica: usize) {
        if let Some(reader) = world.replicas[replica].reader {
            let mut then = *world;
            then.replicas[replica].reader = None;
            let key = usize::from(reader.key);
            let written = self.advance(&mut then, key, reader.view, reader.ev, reader.age);
            if let Ok((row, _)) = written
                && reader.again
                && row.at == At::InDoubt
                && then.free(key) < self.scenario.attempts[key]
            {
                // A replica that is busy leaves it to the other one.
                let (point, view) = (Point::Resend(Prepared::NOW), View { row: Some(row), fresh: true });
                then.replicas[replica].call.get_or_insert(Call { key: reader.key, point, view });
            }
            let broke = written.err();
            self.push_checked(Step::WriteRead { replica }, then, broke);
            return;
        }
        if world.replicas.iter().filter(|replica| replica.reader.is_some()).count() >= self.scenario.readers {
            return;
        }
        for key in 0..KEYS {
            let Some(row) = world.rows[key].filter(|row| row.at.is_open() && !row.at.is_sending()) else {
                continue;
            };
            let of = u8::try_from(key).unwrap();
            let resends = if self.is(Broken::ResentEvent) { 0 } else { row.resends };
            let (mut ev, mut again) = self.real.read(of, Row { resends, ..row }, world.shows(false));
            if matches!(ev, Ev::Looked { found: None, .. }) && row.at == At::InDoubt {
                if self.is(Broken::AbsenceIsNo) {
                    ev = Ev::NeverHappened;
                }
                again |= self.is(Broken::ResendAnything);
            }
            again &= world.free(key) < self.scenario.attempts[key];
            // A look that brings nothing new is of no consequence.
            if !again && matches!(ev, Ev::Looked { .. }) && self.real.after(of, row, ev, 0) == Ok(Some(row)) {
                continue;
            }
            let mut then = *world;
            let view = View { row: Some(row), fresh: true };
            then.replicas[replica].reader = Some(Reader { key: of, view, ev, age: 0, again });
            self.push(Step::Read { replica, key }, then);
        }
    }
}

/// After W1: the bytes leave, unless it is too late or there is nothing to send.
fn launch(then: &mut World, replica: usize, call: Call, row: Row, prepared: Prepared) {
    let sent = then.shots[usize::from(call.key)][usize::from(row.shot)].net != Net::Unsent;
    let point = match prepared {
        Prepared { found: Some(ev), .. } => Point::Writing(ev),
        // Only where the bytes leave before the record.
        _ if sent => Point::Waiting,
        Prepared { late: true, .. } => Point::Writing(Ev::NotSent),
        Prepared { token, .. } => Point::Sending { token: token.max(-1) },
    };
    then.replicas[replica].call = Some(Call { point, view: View { row: Some(row), fresh: true }, ..call });
}

/// The caller has its answer: what is stored.
fn finish(then: &mut World, replica: usize, row: Row) {
    let Some(call) = then.replicas[replica].call.take() else { return };
    if matches!(row.at, At::Succeeded | At::Declined) {
        then.told[usize::from(call.key)] = Some(row.at);
    }
}

/// The first byte of an attempt leaves; what that breaks is said.
fn send(then: &mut World, key: usize, row: Row, token: i8) -> Option<&'static str> {
    let broke = send_nth(then, key, usize::from(row.shot), token);
    // T12.
    broke.filter(|broke| *broke != EARLIER_LIVES || row.at != At::Resent)
}

const EARLIER_LIVES: &str = "S12: sent while an earlier attempt may still take effect";

fn send_nth(then: &mut World, key: usize, attempt: usize, token: i8) -> Option<&'static str> {
    let recorded = then.rows[key].is_some_and(|row| usize::from(row.shot) >= attempt);
    let earlier_lives = then.shots[key][..attempt].iter().any(|shot| shot.is_live() || shot.took_effect());
    let shot = &mut then.shots[key][attempt];
    let again = shot.net != Net::Unsent;
    shot.net = Net::Flying;
    shot.token = token;
    if again {
        return Some("S7: an attempt was sent twice");
    }
    if !recorded {
        return Some("S6: sent without a record");
    }
    earlier_lives.then_some(EARLIER_LIVES)
}
