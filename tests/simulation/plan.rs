//! What one seed's history consists of: how many replicas, which commands, and
//! how often each fault happens. Swarm testing: in each history about half of
//! the faults are switched off, so that the rare ones are not drowned.

use std::time::Duration;

use super::dice::Dice;
use super::point::Point;

/// How often each fault happens, in permille of its occasions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rates {
    // Between us and the PSP.
    pub connect_refused: u32,
    pub request_lost: u32,
    pub request_delayed: u32,
    pub answer_lost: u32,
    pub answer_incomplete: u32,
    pub answer_delayed: u32,
    pub answer_garbled: u32,
    // The PSP.
    pub token_refused: u32,
    pub token_endpoint_down: u32,
    pub pushback: u32,
    pub server_error_before: u32,
    pub server_error_after: u32,
    pub declined: u32,
    pub failed_unclearly: u32,
    pub accepted: u32,
    pub split: u32,
    pub slow: u32,
    pub read_fails: u32,
    pub read_lags: u32,
    pub others: u32,
    /// Somebody in between sends a POST twice (a breach of A2).
    pub repeated: u32,
    // Ourselves.
    pub crash: u32,
    pub pause: u32,
    pub stall: u32,
    // The journal.
    pub journal_down: u32,
    pub journal_unconfirmed: u32,
    /// Another server takes over, without what was never acknowledged.
    pub failover: u32,
}

/// One history.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub seed: u64,
    /// One owns an embedded journal; several share one.
    pub replicas: usize,
    pub rates: Rates,
    pub transactions: usize,
    pub callers: usize,
    pub intentions: usize,
    /// How long faults happen, in ms.
    pub trouble: u64,
    pub token_life: Duration,
    /// Acknowledged writes are lost once, at this time.
    pub loss_at: Option<u64>,
    pub resend_captures: bool,
    /// Wall clocks of machines differ by up to this, in ms.
    pub skew: u64,
    /// Retention, where keys are forgotten within the history.
    pub retention: Option<Duration>,
    /// What happens at a chosen point, where the history is directed.
    pub directed: Option<Directed>,
    /// What the history leans towards, for a design that hardly ever shows.
    pub bias: Option<Bias>,
    /// The first command of a directed history.
    pub kind: Option<crate::payment::Kind>,
}

/// What a history leans towards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bias {
    /// Long pauses near W1, and requests that get lost.
    LateToken,
    /// Refunds that arrive late, while others capture more.
    Refunds,
    /// Long pauses before a judgement is written, and attempts that are soon
    /// over.
    LateJudgement,
}

/// At the first passing of `point`, `blow` happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Directed {
    pub point: Point,
    pub blow: Blow,
    pub second_key: bool,
}

/// What happens to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blow {
    /// It is gone, and comes back as a new one.
    Crash,
    /// It stands still for this long, in ms.
    Pause(u64),
}

impl Plan {
    pub(super) fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x5eed_5eed);
        let mut rate = |of: &[u32]| if dice.bits().is_multiple_of(2) { 0 } else { dice.pick(of) };
        let often = &[10, 40, 150, 300][..];
        let seldom = &[3, 10, 40][..];
        let rates = Rates {
            connect_refused: rate(often),
            request_lost: rate(often),
            request_delayed: rate(often),
            answer_lost: rate(often),
            answer_incomplete: rate(often),
            answer_delayed: rate(often),
            answer_garbled: rate(often),
            token_refused: rate(seldom),
            token_endpoint_down: rate(seldom),
            pushback: rate(often),
            server_error_before: rate(often),
            server_error_after: rate(often),
            declined: rate(often),
            failed_unclearly: rate(often),
            accepted: rate(often),
            split: rate(often),
            slow: rate(often),
            read_fails: rate(often),
            read_lags: rate(often),
            others: rate(often),
            repeated: 0,
            crash: rate(seldom),
            pause: rate(seldom),
            stall: rate(often),
            journal_down: rate(seldom),
            journal_unconfirmed: rate(seldom),
            // From dice of its own: no other draw depends on it.
            failover: Dice::new(seed ^ 0xfa11_0e45).pick(&[0, 0, 100, 400]),
        };
        let repeated = if dice.happens(40) { dice.pick(&[50, 300]) } else { 0 };
        let replicas = dice.pick(&[1, 1, 2, 3]);
        let trouble = dice.between(20_000, 400_000);
        Self {
            seed,
            replicas,
            rates: Rates { repeated, ..rates },
            transactions: dice.pick(&[1, 1, 2, 3]),
            callers: dice.pick(&[1, 2, 2, 4]),
            intentions: dice.pick(&[2, 3, 4, 6, 9]),
            trouble,
            token_life: Duration::from_secs(dice.pick(&[60, 180, 600])),
            loss_at: dice.happens(150).then(|| dice.between(5_000, trouble)),
            resend_captures: dice.happens(500),
            skew: dice.pick(&[0, 0, 3_000, 10_000]),
            retention: dice.happens(100).then_some(Duration::from_secs(900)),
            directed: None,
            bias: None,
            kind: None,
        }
    }

    /// Without any fault: what is left is the order of things.
    pub(super) fn calm(seed: u64) -> Self {
        let plan = Self::of(seed);
        Self { rates: Rates::default(), loss_at: None, skew: 0, retention: None, ..plan }
    }

    /// Leaning towards what one wrong design needs.
    pub(super) fn biased(seed: u64, bias: Bias) -> Self {
        let rates = match bias {
            Bias::LateToken => Rates { pause: 150, request_lost: 200, ..Rates::default() },
            Bias::Refunds => Rates { request_delayed: 300, others: 600, ..Rates::default() },
            Bias::LateJudgement => {
                Rates { pause: 150, pushback: 300, request_delayed: 300, ..Rates::default() }
            }
        };
        let token_life = Duration::from_secs(match bias {
            Bias::LateToken => 60,
            Bias::Refunds | Bias::LateJudgement => 600,
        });
        let plan = Self::of(seed);
        Self { rates, replicas: 2, loss_at: None, retention: None, token_life, bias: Some(bias), ..plan }
    }
}
