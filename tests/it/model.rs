//! The protocol, exhaustively: every history of two replicas, two keys on one
//! transaction, crashes, a lost and a late message, driven through the real pure
//! functions. The same search has to find what is wrong with broken protocols.

mod check;
mod ledger;
mod psp;
mod real;
mod record;
mod reduce;
mod search;
mod steps;
mod world;

use payops::payment::Kind::{self, Capture, Refund, Void};

use self::psp::Behaviour;
use self::real::Ticks;
use self::search::search;
use self::world::{Faults, KEYS};

/// Most states of one search.
const STATES_MAX: usize = 3_000_000;

/// What is searched.
pub struct Scenario {
    pub kinds: [Kind; KEYS],
    /// How often each key may be sent; a key without attempts is not called.
    pub attempts: [u8; KEYS],
    pub faults: Faults,
    /// Reads under way at once.
    pub readers: usize,
    pub psp: Behaviour,
}

/// A protocol that looks right and is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    SendFirst,
    NoFence,
    NoCas,
    NoAttempt,
    NoNonce,
    NoSlot,
    ResendAfterLease,
    AbsenceIsNo,
    SilenceIsNo,
    AcceptedIsDone,
    AnswerFirst,
    TokenAtSend,
    /// The rules forget that what arrived may settle later (A4).
    NoSettling,
    /// The rules forget that reads lag (A5).
    NoLag,
}

impl Broken {
    /// The times of the rules under this protocol.
    pub fn times(self) -> Ticks {
        match self {
            Self::NoSettling => Ticks { settle: 0, ..Ticks::default() },
            Self::NoLag => Ticks { lag: 0, ..Ticks::default() },
            _ => Ticks::default(),
        }
    }
}

const PLAIN: Behaviour = Behaviour {
    begins: false,
    declines: false,
    refuses: false,
    unclear: false,
    pushes_back: false,
    unauthorized: false,
    settles: false,
    lags: false,
};

fn scenario(kinds: [Kind; KEYS], attempts: [u8; KEYS], faults: (u8, u8, u8), psp: Behaviour) -> Scenario {
    let (crashes, delays, losses) = faults;
    Scenario { kinds, attempts, faults: Faults { crashes, delays, losses }, readers: 1, psp }
}

#[test]
fn no_history_of_two_replicas_breaks_a_rule_and_every_one_can_end() {
    let lags = Behaviour { lags: true, ..PLAIN };
    let moody = Behaviour { begins: true, declines: true, ..PLAIN };
    let slow = Behaviour { settles: true, lags: true, ..PLAIN };
    let scenarios = [
        ("captures, two keys, two crashes", scenario([Capture, Capture], [1, 1], (2, 0, 0), PLAIN)),
        ("refunds, two keys, a late message", scenario([Refund, Refund], [1, 1], (1, 1, 0), PLAIN)),
        ("capture, again after a release", scenario([Capture, Capture], [2, 0], (1, 1, 0), PLAIN)),
        ("refund, a lost message, reads that lag", scenario([Refund, Refund], [2, 0], (1, 0, 1), lags)),
        ("capture, 202 and declines", scenario([Capture, Capture], [1, 0], (2, 1, 0), moody)),
        ("captures, two crashes, a late message", scenario([Capture, Capture], [1, 1], (2, 1, 0), PLAIN)),
        ("refunds, two crashes, a late one, settling", scenario([Refund, Refund], [1, 1], (2, 1, 0), slow)),
        ("void and capture, two crashes, a late one", scenario([Void, Capture], [1, 1], (2, 1, 0), PLAIN)),
        ("void and capture", scenario([Void, Capture], [1, 1], (1, 0, 0), PLAIN)),
    ];
    let mut ended = std::collections::BTreeSet::new();
    for (name, scenario) in scenarios {
        let found = search(&scenario, None, STATES_MAX);
        println!(
            "{name}: {} states, {} transitions, depth {}, {:.1} s; ends {:?}",
            found.states,
            found.transitions,
            found.depth,
            found.took.as_secs_f32(),
            found.ends
        );
        if let Some(broke) = found.broke {
            panic!("{name}: {} after {} steps\n{}", broke.rule, broke.depth, broke.trace);
        }
        assert!(!found.cut, "{name}: more than {STATES_MAX} states");
        assert!(found.stuck.is_none(), "{name}: no end can be reached from\n{}", found.stuck.unwrap());
        ended.extend(
            found.ends.into_keys().flat_map(|end| end.split(" + ").map(str::to_owned).collect::<Vec<_>>()),
        );
    }
    for good in ["Succeeded", "Declined", "Released"] {
        assert!(ended.contains(good), "{good} is never reached: {ended:?}");
    }
}

#[test]
fn the_search_finds_what_is_wrong_with_broken_protocols() {
    let alone = || scenario([Capture, Capture], [2, 0], (1, 1, 0), PLAIN);
    let begins = || {
        scenario([Capture, Capture], [1, 0], (1, 0, 0), Behaviour { begins: true, declines: true, ..PLAIN })
    };
    let slow = || {
        let psp = Behaviour { settles: true, lags: true, ..PLAIN };
        scenario([Refund, Refund], [2, 0], (1, 1, 1), psp)
    };
    for (broken, scenario) in [
        (Broken::NoSettling, slow()),
        (Broken::NoLag, slow()),
        (Broken::TokenAtSend, alone()),
        (Broken::NoCas, alone()),
        (Broken::NoAttempt, alone()),
        (Broken::NoNonce, alone()),
        (Broken::AnswerFirst, alone()),
        (Broken::SendFirst, alone()),
        (Broken::NoFence, alone()),
        (Broken::ResendAfterLease, alone()),
        (Broken::AbsenceIsNo, alone()),
        (Broken::SilenceIsNo, alone()),
        (Broken::AcceptedIsDone, begins()),
        (Broken::NoSlot, self::scenario([Capture, Capture], [1, 1], (0, 0, 0), PLAIN)),
    ] {
        let found = search(&scenario, Some(broken), STATES_MAX);
        let states = found.states;
        let broke = found.broke.unwrap_or_else(|| panic!("{broken:?} is not caught in {states} states"));
        println!("{broken:?}: {} in {} steps, {} states", broke.rule, broke.depth, states);
    }
}
