//! The bridge to what is modelled: entries are made, changed, judged and
//! decided upon by the functions that the service itself runs. What they
//! answered once is remembered.

use std::{collections::HashMap, time::Duration};

use payops::clock::Timestamp;
use payops::conclude::sought;
use payops::journal::Loss;
use payops::journal::entry::{Beginning, Entry, Event, Finding, Reading, Schedule, State, Streak};
use payops::payment::{
    Command, Kind,
    outcome::{Decline, Proof, PspError, Reason, Sums},
};
use payops::psp::{
    judge::{Sought, Verdict, judge},
    rules,
};
use payops::reconcile::decide::{Rules, decide, may_resend};
use uuid::Uuid;

use super::ledger::{AMOUNT, TOTAL, attempt_of, command, request_id, transaction};
use super::search::Fast;
use super::world::{ATTEMPTS, Answer, At, Ev, Found, KEYS, LAG, PAST, Row, Run, SETTLE, Stamp, TOKEN};

/// Now, whenever that is.
const NOW: Timestamp = Timestamp(1_000_000_000_000);
const TICK: Duration = Duration::from_hours(1);
/// No history of the model takes that long.
const NEVER: Duration = Duration::from_hours(1_000_000);

pub struct Real {
    commands: [Command; KEYS],
    starts: [Entry; KEYS],
    attempts: [u8; KEYS],
    rules: Rules,
    schedule: Schedule,
    applied: HashMap<(u8, Row, Ev, i8), Applied, Fast>,
    read: HashMap<(u8, Row, u32), (Ev, bool), Fast>,
    answered: HashMap<(u8, Row, u32, Answer), Ev, Fast>,
    checked: HashMap<(u8, u32, bool), Check, Fast>,
}

type Applied = Result<Option<Row>, Illegal>;

/// A move that the state machine does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Illegal;

/// What a look before the first write allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    Send,
    Found(Ev),
    Refused,
}

/// The times of the rules, in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    pub settle: i8,
    pub lag: i8,
}

impl Default for Ticks {
    fn default() -> Self {
        Self { settle: SETTLE, lag: LAG }
    }
}

fn ticks(count: i8) -> Duration {
    TICK * u32::try_from(count).unwrap()
}

fn at(tick: i8) -> Timestamp {
    Timestamp(NOW.0 + i64::from(tick) * 3_600_000)
}

fn tick_of(at: Timestamp) -> i8 {
    i8::try_from((at.0 - NOW.0) / 3_600_000).unwrap().max(PAST)
}

impl Real {
    pub fn new(kinds: [Kind; KEYS], attempts: [u8; KEYS], times: Ticks, resends: bool) -> Self {
        let commands = [0, 1].map(|key: usize| command(key, kinds[key]));
        let starts = [0, 1].map(|key: usize| Entry::start(&commands[key], NOW, NOW, NOW));
        let rules = Rules {
            settle_max: ticks(times.settle),
            read_lag_max: ticks(times.lag),
            // Far less than a tick.
            absent_reads_apart: Duration::ZERO,
            failed_event_settles_after: Duration::ZERO,
            partial_review_after: NEVER,
            accepted_review_after: NEVER,
            unreadable_review_after: NEVER,
            resend_after: if resends { Duration::ZERO } else { NEVER },
            resend_captures: resends,
        };
        let schedule = Schedule { first: Vec::new(), then: Duration::ZERO, jitter_percent: 0 };
        let (applied, read, answered, checked) = Default::default();
        Self { commands, starts, attempts, rules, schedule, applied, read, answered, checked }
    }

    fn kind(&self, key: u8) -> Kind {
        self.commands[usize::from(key)].operation.kind()
    }

    /// The first write of a key (T1).
    pub fn start(&self, key: u8, stamp: Stamp) -> Row {
        let lease_until = at(i8::from(stamp.leased));
        let entry = Entry::start(&self.commands[usize::from(key)], NOW, at(stamp.fence), lease_until);
        row(&entry, 0, self.attempts[usize::from(key)])
    }

    /// The entry after an event: none where nothing changes, and an error
    /// where the move is illegal.
    pub fn after(&mut self, key: u8, before: Row, ev: Ev, age: i8) -> Applied {
        if let Some(after) = self.applied.get(&(key, before, ev, age)) {
            return *after;
        }
        let after = self.entry(key, before).after(&event(key, ev, age), NOW, &self.schedule);
        let most = self.attempts[usize::from(key)];
        let after = after.map(|after| after.map(|after| row(&after, before.shot, most))).map_err(|_| Illegal);
        self.applied.insert((key, before, ev, age), after);
        after
    }

    /// What a read that shows this comes to, and whether it allows to send again.
    pub fn read(&mut self, key: u8, seen: Row, shows: u32) -> (Ev, bool) {
        if let Some(read) = self.read.get(&(key, seen, shows)) {
            return *read;
        }
        let entry = self.entry(key, seen);
        let tag = entry.tag();
        let transaction = transaction(&self.commands, shows);
        let verdict = judge(&sought(&entry, &tag), &transaction);
        let event = decide(&entry, Ok(verdict), NOW, &self.rules);
        let read = (ev(&event), may_resend(&entry, &event, &transaction, NOW, &self.rules));
        self.read.insert((key, seen, shows), read);
        read
    }

    /// What the answer to the entry's attempt comes to, where the answer, or
    /// after a refusal the PSP, shows this. As in `conclude`.
    pub fn answer(&mut self, key: u8, sent: Row, shows: u32, answer: Answer) -> Ev {
        if let Some(ev) = self.answered.get(&(key, sent, shows, answer)) {
            return *ev;
        }
        let entry = self.entry(key, sent);
        let tag = entry.tag();
        let transaction = transaction(&self.commands, shows);
        let nth = sent.shot;
        let id = request_id(key, usize::from(nth));
        let named = |id: Option<String>| Ev::Accepted { named: id.as_deref().map(attempt_of) };
        let ev = match answer {
            Answer::Unauthorized => Ev::NotSent,
            Answer::Pushback => Ev::PushedBack,
            Answer::Refused => match judge(&sought(&entry, &tag), &transaction) {
                Verdict::Proven(_) => Ev::Proven,
                Verdict::Contradicted(_) => Ev::Contradicted,
                Verdict::Accepted { request_id, .. } => named(request_id),
                Verdict::Declined(_) | Verdict::FailedUnclearly { .. } | Verdict::Absent { .. } => {
                    Ev::Refused
                }
            },
            Answer::Done(_) | Answer::Unclear | Answer::Accepted => {
                let accepted = (answer == Answer::Accepted).then_some(id.as_str());
                let sought = Sought { accepted_request_id: accepted, ..sought(&entry, &tag) };
                match judge(&sought, &transaction) {
                    Verdict::Proven(_) => Ev::Proven,
                    Verdict::Declined(_) => Ev::Refused,
                    Verdict::Contradicted(_) => Ev::Contradicted,
                    Verdict::Accepted { request_id, .. } => named(accepted.map(str::to_owned).or(request_id)),
                    Verdict::Absent { .. } if accepted.is_some() => Ev::Accepted { named: Some(nth) },
                    Verdict::Absent { .. } | Verdict::FailedUnclearly { .. } => Ev::Doubted,
                }
            }
        };
        // Perhaps because an earlier attempt took effect: reads decide.
        let ev = if ev == Ev::Refused && entry.resends > 0 { Ev::Doubted } else { ev };
        self.answered.insert((key, sent, shows, answer), ev);
        ev
    }

    /// The look before a void, and before a key that a lost journal may have
    /// known; nothing else looks. As in `attempt`.
    pub fn check(&mut self, key: u8, shows: u32, forgotten: bool) -> Check {
        let is_void = self.kind(key) == Kind::Void;
        if !is_void && !forgotten {
            return Check::Send;
        }
        if let Some(check) = self.checked.get(&(key, shows, forgotten)) {
            return *check;
        }
        let command = &self.commands[usize::from(key)];
        let (tag, transaction) = (command.tag(), transaction(&self.commands, shows));
        let found = match judge(&Sought::of(command, &tag), &transaction) {
            Verdict::Proven(_) => Some(Ev::Proven),
            Verdict::Accepted { request_id, .. } => {
                Some(Ev::Accepted { named: request_id.as_deref().map(attempt_of) })
            }
            Verdict::Contradicted(_) => Some(Ev::Contradicted),
            Verdict::Declined(_) if is_void && transaction.sums().capturable == 0 => None,
            Verdict::Declined(_) => Some(Ev::Refused),
            Verdict::FailedUnclearly { .. } => Some(Ev::Doubted),
            Verdict::Absent { .. } => None,
        };
        let check = match found {
            Some(ev) if forgotten => Check::Found(ev),
            Some(Ev::Proven) if transaction.status == "AUTHORIZATION_VOIDED" => Check::Found(Ev::Proven),
            _ if rules::check(&command.operation, &transaction).is_ok() => Check::Send,
            _ => Check::Refused,
        };
        self.checked.insert((key, shows, forgotten), check);
        check
    }

    /// Whether a lost journal may have known the key.
    pub fn may_be_forgotten(&self, key: u8) -> bool {
        let loss = Loss { at: NOW, quiet_until: NOW, clock_leeway: Duration::ZERO };
        !loss.is_before(&self.commands[usize::from(key)].key, NOW)
    }

    /// What an entry of an older journal becomes, once that is noticed.
    pub fn lost(&self, key: u8, kept: Row) -> Row {
        let most = self.attempts[usize::from(key)];
        match self.entry(key, kept).after_loss(NOW, at(TOKEN)) {
            Some(entry) => row(&entry, kept.shot, most),
            None => Row { old: kept.at == At::Released, ..kept },
        }
    }

    /// Whether the PSP itself would carry out one more of this kind.
    pub fn psp_allows(&self, key: u8, effects: [usize; KEYS]) -> bool {
        let of = |kind: Kind| -> usize {
            (0_u8..).zip(effects).filter(|(other, _)| self.kind(*other) == kind).map(|(_, count)| count).sum()
        };
        let moved = |kind| AMOUNT * i64::try_from(of(kind)).unwrap();
        match self.kind(key) {
            Kind::Capture => of(Kind::Void) == 0 && moved(Kind::Capture) + AMOUNT <= TOTAL,
            Kind::Refund => moved(Kind::Refund) + AMOUNT <= TOTAL,
            Kind::Void => of(Kind::Void) == 0,
        }
    }

    fn entry(&self, key: u8, row: Row) -> Entry {
        let streak = row.streak.map(|run| {
            let finding = match run.found {
                Found::AbsentForGood => Finding::AbsentForGood,
                Found::FailedUnclearly => Finding::FailedUnclearly,
            };
            Streak { finding, since: at(run.since), last: at(run.since), count: u32::from(run.count) }
        });
        let why = String::new;
        Entry {
            state: match row.at {
                At::Started => State::Started,
                At::Resent => State::Resent,
                At::Accepted => State::Accepted,
                At::InDoubt => State::InDoubt { why: why(), pushback: false },
                At::PushedBack => State::InDoubt { why: why(), pushback: true },
                At::Released => State::Released { why: why() },
                At::Succeeded => State::Succeeded(proof()),
                At::Declined => State::Declined(decline()),
                At::Review => State::Review { why: why() },
            },
            attempt: u32::from(row.attempt),
            fence_at: at(row.fence),
            lease_until: at(i8::from(row.leased)),
            accepted_request_id: row.accepted.map(|nth| request_id(key, usize::from(nth))),
            resends: u32::from(row.resends),
            ignored_events: failed_ids(key, row.ignored),
            reading: Reading { streak, failed_events: failed_ids(key, row.failed), ..Reading::default() },
            ..self.starts[usize::from(key)].clone()
        }
    }
}

fn failed_ids(key: u8, attempts: u8) -> Vec<String> {
    let chosen = (0..ATTEMPTS).filter(|attempt| attempts >> attempt & 1 == 1);
    chosen.map(|attempt| format!("f{key}{attempt}")).collect()
}

fn failed_bits(ids: &[String]) -> u8 {
    ids.iter().fold(0, |bits, id| bits | 1 << (id.as_bytes()[2] - b'0'))
}

fn proof() -> Proof {
    let (event_id, event_time, transaction_status) = (None, None, String::new());
    Proof {
        event_id,
        amount: AMOUNT,
        event_time,
        transaction_status,
        sums: Sums::default(),
        by_others: false,
    }
}

fn decline() -> Box<Decline> {
    let (message, psp) = (String::new(), PspError::default());
    Box::new(Decline { reason: Reason::Declined, message, psp, transaction_status: None, sums: None })
}

fn row(entry: &Entry, shot: u8, most: u8) -> Row {
    let streak = entry.reading.streak.and_then(|streak| {
        let (found, most) = found(streak.finding).map(|found| (found, 3))?;
        let count = u8::try_from(streak.count.min(most)).unwrap();
        Some(Run { found, since: tick_of(streak.since), count })
    });
    let row = Row {
        at: match &entry.state {
            State::Started => At::Started,
            State::Resent => At::Resent,
            State::Accepted => At::Accepted,
            State::InDoubt { pushback: false, .. } => At::InDoubt,
            State::InDoubt { pushback: true, .. } => At::PushedBack,
            State::Released { .. } => At::Released,
            State::Succeeded(_) => At::Succeeded,
            State::Declined(_) => At::Declined,
            State::Review { .. } => At::Review,
        },
        attempt: u8::try_from(entry.attempt).unwrap(),
        shot,
        old: false,
        fence: tick_of(entry.fence_at),
        leased: entry.lease_until > NOW,
        accepted: entry.accepted_request_id.as_deref().map(attempt_of),
        resends: u8::try_from(entry.resends).unwrap(),
        ignored: failed_bits(&entry.ignored_events),
        failed: failed_bits(&entry.reading.failed_events),
        streak,
    };
    row.without_what_decides_nothing(most)
}

fn found(finding: Finding) -> Option<Found> {
    match finding {
        Finding::AbsentForGood => Some(Found::AbsentForGood),
        Finding::FailedUnclearly => Some(Found::FailedUnclearly),
        _ => None,
    }
}

fn ev(event: &Event) -> Ev {
    match event {
        Event::Refused(_) => Ev::Refused,
        Event::Accepted { request_id } => Ev::Accepted { named: request_id.as_deref().map(attempt_of) },
        Event::Proven(_) => Ev::Proven,
        Event::NeverHappened { .. } => Ev::NeverHappened,
        Event::Contradicted { .. } => Ev::Contradicted,
        Event::Looked { finding, failed_events, .. } => {
            Ev::Looked { found: found(*finding), failed: failed_bits(failed_events) }
        }
        other => panic!("a read cannot come to {other:?}"),
    }
}

fn event(key: u8, ev: Ev, age: i8) -> Event {
    let why = String::new;
    let beginning = |stamp: Stamp| Beginning {
        nonce: Uuid::nil(),
        fence_at: at(stamp.fence),
        lease_until: at(i8::from(stamp.leased)),
    };
    match ev {
        Ev::Retried(of) => Event::Retried(beginning(of)),
        Ev::TokenRefused(of) => Event::TokenRefused(beginning(of)),
        Ev::Resent(of) => Event::Resent(beginning(of)),
        Ev::NotSent => Event::NotSent { why: why() },
        Ev::Refused => Event::Refused(decline()),
        Ev::Accepted { named } => {
            Event::Accepted { request_id: named.map(|nth| request_id(key, usize::from(nth))) }
        }
        Ev::Doubted => Event::doubted(why()),
        Ev::PushedBack => Event::Doubted { why: why(), pushback: true, retry_after: None },
        Ev::Proven => Event::Proven(proof()),
        Ev::NeverHappened => Event::NeverHappened { why: why() },
        Ev::Contradicted => Event::Contradicted { why: why() },
        Ev::Looked { found, failed } => {
            let finding = match found {
                Some(Found::AbsentForGood) => Finding::AbsentForGood,
                Some(Found::FailedUnclearly) => Finding::FailedUnclearly,
                None => Finding::Absent,
            };
            Event::Looked { finding, at: at(-age), failed_events: failed_ids(key, failed), retry_after: None }
        }
    }
}
