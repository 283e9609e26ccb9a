//! One state of the model: what the journal holds, what is at the PSP and on
//! the way there, what each replica is about to do, and what callers were told.
//! Everything is small, and times are ticks relative to now, so that histories
//! which can only go on alike are one state.

/// Keys, and attempts of each.
pub const KEYS: usize = 2;
pub const ATTEMPTS: usize = 3;
/// What is left of a fresh token, in ticks: it is still good in its last one.
pub const TOKEN: i8 = 1;
/// A4 and A5: one tick each.
pub const SETTLE: i8 = 1;
pub const LAG: i8 = 1;
/// Before it a time is past whatever is asked of it.
pub const PAST: i8 = -(SETTLE + LAG + 1);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct World {
    /// The journal.
    pub rows: [Option<Row>; KEYS],
    /// Each key's requests, by attempt: on the way, at the PSP, answered.
    pub shots: [[Shot; ATTEMPTS]; KEYS],
    pub replicas: [Replica; 2],
    /// The definite answer that a caller was given.
    pub told: [Option<At>; KEYS],
    /// An older copy of the journal, which may come back.
    pub copy: Option<[Option<Row>; KEYS]>,
    /// The journal was lost: ticks until keys of before may be sent.
    pub lost: Option<i8>,
    /// What may still go wrong.
    pub left: Faults,
}

/// How often each thing goes wrong at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Faults {
    pub crashes: u8,
    /// A request or an answer that takes as long as it likes.
    pub delays: u8,
    /// A request or an answer that never arrives.
    pub losses: u8,
    /// The journal is lost: an older copy comes back, or nothing does.
    pub journals: u8,
}

/// An entry of the journal: what decides anything in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    pub at: At,
    pub attempt: u8,
    /// The request of this attempt: an older journal counts attempts anew.
    pub shot: u8,
    /// As it came back after a loss: the key may have run again since.
    pub old: bool,
    /// From now to the fence.
    pub fence: i8,
    /// Whether the sender's lease runs.
    pub leased: bool,
    /// Of which attempt the PSP's id of the accepted request is stored.
    pub accepted: Option<u8>,
    /// How often it was sent again in doubt (T12).
    pub resends: u8,
    /// Failed events of earlier attempts, a bit for each attempt.
    pub ignored: u8,
    /// Failed events seen, a bit for each attempt.
    pub failed: u8,
    pub streak: Option<Run>,
}

/// The state of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum At {
    Started,
    Resent,
    Accepted,
    InDoubt,
    PushedBack,
    Released,
    Succeeded,
    Declined,
    Review,
}

/// Equal findings in a row, of the two kinds that are ever believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    pub found: Found,
    /// From now to the first of them.
    pub since: i8,
    pub count: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Found {
    AbsentForGood,
    FailedUnclearly,
}

/// One attempt's request, from the first byte to the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shot {
    pub net: Net,
    /// What is left of the token that it carries.
    pub token: i8,
    /// The INITIATE_ event.
    pub begun: Shown,
    /// A failed event that excludes nothing.
    pub unclear: Shown,
    /// The event that ends it.
    pub end: Option<End>,
    pub end_shown: Shown,
    pub answer: Option<Answer>,
    /// The answer takes as long as it likes.
    pub answer_delayed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Net {
    #[default]
    Unsent,
    /// Arrives before time passes.
    Flying,
    /// Arrives when it likes.
    Delayed,
    /// Arrived this many ticks ago, and neither applied nor dead.
    Arrived(u8),
    /// Accepted: ends when the PSP likes.
    Begun,
    /// Recorded as failed this many ticks ago, and may have an effect yet.
    Uncertain(u8),
    /// Nothing more comes of it.
    Over,
}

/// Whether reads show an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shown {
    /// It has not happened.
    #[default]
    Not,
    /// It happened this many ticks ago, and reads lag.
    Hidden(u8),
    Seen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    Success,
    Failure,
}

/// An answer on its way back. What it shows is what was there when it left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// 200, with the event that ended it.
    Done(End),
    /// 200, with a failed event that excludes nothing.
    Unclear,
    /// 202, with the request's id.
    Accepted,
    /// 400 and the like.
    Refused,
    /// 401.
    Unauthorized,
    /// 429 and the like.
    Pushback,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Replica {
    pub call: Option<Call>,
    /// Still hears the answer to this attempt of this key.
    pub listens: Option<(u8, u8)>,
    pub reader: Option<Reader>,
}

/// A caller's call, at the point that it has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    pub key: u8,
    pub point: Point,
    /// The entry as this call knows it.
    pub view: View,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Point {
    /// The request is complete; W1 comes next.
    Ready(Prepared),
    /// W1 is durable and the send window was met; the bytes come next.
    Sending { token: i8 },
    /// The bytes have left.
    Waiting,
    /// The first token was refused, the second is there; its W1 comes next.
    Again(Prepared),
    /// A read allows to send again what is in doubt (T12); its W1 comes next.
    Resend(Prepared),
    /// A result is known; W2 comes next.
    Writing(Ev),
}

/// A complete request that is not yet recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prepared {
    /// What is left of its token.
    pub token: i8,
    /// Whether the send window has passed since.
    pub late: bool,
    /// What a look found: nothing will be sent.
    pub found: Option<Ev>,
}

impl Prepared {
    /// A request that can be sent at once.
    pub const NOW: Self = Self { token: TOKEN, late: false, found: None };
}

/// An entry as somebody read it: none, where the key had none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct View {
    pub row: Option<Row>,
    /// Nobody has written the entry since.
    pub fresh: bool,
}

/// A read of the PSP that is decided and not yet written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reader {
    pub key: u8,
    pub view: View,
    pub ev: Ev,
    /// Ticks since the read was issued.
    pub age: i8,
    /// It allows to send again (T12).
    pub again: bool,
}

/// What can happen to an entry, as the model tells it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ev {
    Retried(Stamp),
    TokenRefused(Stamp),
    Resent(Stamp),
    NotSent,
    Refused,
    /// With the id of an attempt's request, or without.
    Accepted {
        named: Option<u8>,
    },
    Doubted,
    PushedBack,
    Proven,
    NeverHappened,
    Contradicted,
    /// What it found, if that is ever believed, and the failed events it saw.
    Looked {
        found: Option<Found>,
        failed: u8,
    },
}

/// What an attempt's first write says of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    pub fence: i8,
    pub leased: bool,
}

impl At {
    pub fn is_open(self) -> bool {
        !matches!(self, Self::Released | Self::Succeeded | Self::Declined)
    }

    pub fn is_sending(self) -> bool {
        matches!(self, Self::Started | Self::Resent)
    }
}

impl Shown {
    /// Time passes: hidden for its own tick and one more.
    fn tick(&mut self) {
        *self = match *self {
            Self::Hidden(0) => Self::Hidden(1),
            Self::Hidden(_) => Self::Seen,
            same => same,
        };
    }
}

impl Shot {
    /// Whether it may take effect yet.
    pub fn is_live(&self) -> bool {
        match self.net {
            Net::Flying | Net::Delayed => self.token >= 0,
            Net::Arrived(_) | Net::Begun | Net::Uncertain(_) => true,
            Net::Unsent | Net::Over => false,
        }
    }

    pub fn took_effect(&self) -> bool {
        self.end == Some(End::Success)
    }
}

impl Row {
    fn tick(&mut self) {
        self.fence = (self.fence - 1).max(PAST);
        self.leased = false;
        if let Some(run) = &mut self.streak {
            run.since = (run.since - 1).max(PAST);
        }
    }
}

impl World {
    /// Whether time may pass: nothing is overdue that is not allowed to be.
    pub fn may_tick(&self) -> bool {
        self.shots.iter().flatten().all(|shot| !matches!(shot.net, Net::Arrived(1) | Net::Uncertain(1)))
    }

    pub fn tick(&mut self) {
        for row in self.rows.iter_mut().chain(self.copy.iter_mut().flatten()).flatten() {
            row.tick();
        }
        self.lost = self.lost.map(|quiet| (quiet - 1).max(0));
        for shot in self.shots.iter_mut().flatten() {
            match &mut shot.net {
                Net::Delayed => shot.token = (shot.token - 1).max(-1),
                Net::Arrived(age) | Net::Uncertain(age) => *age += 1,
                _ => {}
            }
            for shown in [&mut shot.begun, &mut shot.unclear, &mut shot.end_shown] {
                shown.tick();
            }
        }
        for replica in &mut self.replicas {
            if let Some(call) = &mut replica.call {
                match &mut call.point {
                    Point::Ready(prepared) | Point::Again(prepared) | Point::Resend(prepared) => {
                        // Nothing will be sent with it: how late it is makes no difference.
                        prepared.token = TOKEN - 1;
                        prepared.late = true;
                    }
                    Point::Sending { token } => *token = (*token - 1).max(-1),
                    Point::Waiting | Point::Writing(_) => {}
                }
                call.view.row.iter_mut().for_each(Row::tick);
            }
            if let Some(reader) = &mut replica.reader {
                reader.age = (reader.age + 1).min(-PAST);
                reader.view.row.iter_mut().for_each(Row::tick);
            }
        }
    }

    /// A message that arrives before anything else happens.
    pub fn on_time(&self) -> Option<(usize, usize)> {
        let all = (0..KEYS).flat_map(|key| (0..ATTEMPTS).map(move |attempt| (key, attempt)));
        all.into_iter().find(|(key, attempt)| {
            let shot = self.shots[*key][*attempt];
            shot.net == Net::Flying || (shot.answer.is_some() && !shot.answer_delayed)
        })
    }

    /// The replica that hears the answer, and whether its call still waits.
    pub fn hears(&self, key: usize, attempt: usize) -> Option<(usize, bool)> {
        self.replicas.iter().enumerate().find_map(|(nth, replica)| {
            let waits = replica.call.is_some_and(|call| {
                let its = call.view.row.map(|row| usize::from(row.shot));
                call.point == Point::Waiting && usize::from(call.key) == key && its == Some(attempt)
            });
            let listens =
                replica.listens.is_some_and(|(k, a)| (usize::from(k), usize::from(a)) == (key, attempt));
            (waits || listens).then_some((nth, waits))
        })
    }

    /// Whether another key's operation holds the transaction.
    pub fn is_busy(&self, key: usize) -> bool {
        self.rows[1 - key].is_some_and(|row| row.at.is_open())
    }

    /// The next request of the key: none before it was sent or recorded.
    pub fn free(&self, key: usize) -> u8 {
        let sent = self.shots[key].iter().rposition(|shot| shot.net != Net::Unsent);
        let sent = sent.map_or(0, |nth| u8::try_from(nth + 1).unwrap());
        self.rows[key].map_or(0, |row| row.shot + 1).max(sent)
    }

    /// How many effects each key has had.
    pub fn effects(&self) -> [usize; KEYS] {
        self.shots.map(|shots| shots.iter().filter(|shot| shot.took_effect()).count())
    }

    /// What the PSP shows of every request, five bits for each: all that has
    /// happened, or what reads show.
    pub fn shows(&self, all: bool) -> u32 {
        let mut shows = 0;
        for shot in self.shots.iter().flatten() {
            let seen = |shown: Shown| shown == Shown::Seen || (all && shown != Shown::Not);
            let end = match shot.end {
                Some(End::Success) if seen(shot.end_shown) => 1,
                Some(End::Failure) if seen(shot.end_shown) => 2,
                _ => 0,
            };
            let bits = [shot.begun != Shown::Not, seen(shot.begun), seen(shot.unclear)];
            shows = bits.into_iter().fold(shows, |shows, bit| shows << 1 | u32::from(bit)) << 2 | end;
        }
        shows
    }

    /// The same, with what an answer to the request itself showed.
    pub fn answer_shows(&self, key: usize, attempt: usize, answer: Answer) -> u32 {
        let mut then = *self;
        let shot = &mut then.shots[key][attempt];
        *shot = match answer {
            Answer::Done(end) => Shot { end: Some(end), end_shown: Shown::Seen, ..Shot::default() },
            Answer::Unclear => Shot { unclear: Shown::Seen, ..Shot::default() },
            Answer::Accepted => Shot { begun: Shown::Seen, ..Shot::default() },
            Answer::Refused | Answer::Unauthorized | Answer::Pushback => Shot::default(),
        };
        then.shows(true)
    }
}
