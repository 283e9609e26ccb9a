//! What is run, and what must come of it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::payment::Kind;
use crate::wrong::{Design, switch};

use super::plan::{Bias, Blow, Directed, Plan};
use super::point::Point;
use super::world::{Report, run};

/// Histories in an ordinary run of the tests, in a debug build; `tests/run`
/// asks for twenty thousand in an optimized one.
const SEEDS: u64 = 150;

/// Most histories within which a wrong design has to be caught.
const CAUGHT_WITHIN: u64 = 60_000;

/// The sum of many histories.
#[derive(Default)]
struct Sum {
    seeds: u64,
    failures: Vec<(u64, Vec<String>)>,
    stats: BTreeMap<&'static str, u64>,
    moves: BTreeMap<(&'static str, &'static str), u64>,
    effects: u64,
    hash: u64,
}

impl Sum {
    fn add(&mut self, seed: u64, report: Report) {
        self.seeds += 1;
        self.effects += report.effects as u64;
        self.hash ^= super::dice::mix(report.hash ^ seed);
        for (name, count) in report.stats {
            *self.stats.entry(name).or_default() += count;
        }
        for (name, count) in report.moves {
            *self.moves.entry(name).or_default() += count;
        }
        if !report.violations.is_empty() {
            self.failures.push((seed, report.violations));
        }
    }
}

/// All histories of `seeds`, on all cores; ends early after some failures.
fn many(seeds: std::ops::Range<u64>, plan: impl Fn(u64) -> Plan + Sync) -> Sum {
    let next = AtomicU64::new(seeds.start);
    let sum = Mutex::new(Sum::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || sum.lock().unwrap().failures.len() >= 5 {
                        return;
                    }
                    let report = run(plan(seed));
                    sum.lock().unwrap().add(seed, report);
                }
            });
        }
    });
    sum.into_inner().unwrap()
}

/// One after the other, until the first failure.
fn first_failure(seeds: std::ops::Range<u64>, plan: impl Fn(u64) -> Plan) -> Sum {
    let mut sum = Sum::default();
    for seed in seeds {
        let report = run(plan(seed));
        sum.add(seed, report);
        if !sum.failures.is_empty() {
            break;
        }
    }
    sum
}

/// To the terminal itself: a run's figures are part of its evidence.
pub(super) fn say(text: &str) {
    let mut out = std::io::stderr().lock();
    drop(writeln!(out, "{text}"));
}

/// How many histories are asked for.
fn seeds() -> u64 {
    std::env::var("PAYOPS_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEEDS)
}

fn told(failures: &[(u64, Vec<String>)]) -> String {
    let lines = failures.iter().map(|(seed, violations)| format!("seed {seed}: {}", violations.join("; ")));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn no_history_breaks_an_invariant() {
    let began = Instant::now();
    let from = std::env::var("PAYOPS_FROM").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let sum = many(from..from + seeds(), Plan::of);
    let rate = u128::from(sum.seeds) * 1_000 / began.elapsed().as_millis().max(1);
    say(&format!(
        "simulation: {} histories, {rate} a second, {} effects, hash {:016x}",
        sum.seeds, sum.effects, sum.hash
    ));
    for (name, count) in &sum.stats {
        say(&format!("  {name}: {count}"));
    }
    for ((from, to), count) in &sum.moves {
        say(&format!("  {from} -> {to}: {count}"));
    }
    assert!(sum.failures.is_empty(), "{}", told(&sum.failures));
}

/// For whoever looks at one history: `PAYOPS_SEED=7 PAYOPS_TELL=1`.
#[test]
fn one_history() {
    let seed = std::env::var("PAYOPS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let plan = Plan::of(seed);
    if std::env::var_os("PAYOPS_TELL").is_some() {
        say(&format!("{plan:#?}"));
    }
    let report = run(plan);
    assert!(report.violations.is_empty(), "{}", told(&[(seed, report.violations)]));
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 0..seeds().min(200) {
        let (one, other) = (run(Plan::of(seed)), run(Plan::of(seed)));
        assert_eq!(one.hash, other.hash, "seed {seed}");
        assert_eq!(one.stats, other.stats, "seed {seed}");
    }
}

/// Without a fault nothing is ever in doubt.
#[test]
fn without_faults_every_call_is_answered_at_once() {
    for seed in 0..100 {
        let report = run(Plan::calm(seed));
        assert!(report.violations.is_empty(), "{}", told(&[(seed, report.violations)]));
        let doubts = report.stats.get("reply: in doubt").copied().unwrap_or_default();
        assert!(!report.moves.keys().any(|(_, to)| *to == "in_doubt"), "seed {seed}: {doubts} doubts");
    }
}

/// Each of the seventeen wrong designs, inside the real code, is caught.
#[test]
fn every_wrong_design_is_caught() {
    // A short run has to catch those that show at once, a long run all.
    let (within, most_missed) = if seeds() > SEEDS { (CAUGHT_WITHIN, 0) } else { (SEEDS, 5) };
    let mut missed = Vec::new();
    for design in Design::ALL {
        let plan = |seed| {
            switch(Some(design));
            match design {
                Design::TokenAtSend => Plan::biased(seed, Bias::LateToken),
                Design::RefundResent => Plan::biased(seed, Bias::Refunds),
                Design::JudgementWithoutAttempt => Plan::biased(seed, Bias::LateJudgement),
                _ => Plan::of(seed),
            }
        };
        let sum = first_failure(0..within, plan);
        match sum.failures.first() {
            Some((seed, violations)) => {
                let seeds = sum.seeds;
                say(&format!("{design:?}: caught after {seeds} histories (seed {seed}): {}", violations[0]));
            }
            None => missed.push(design),
        }
    }
    switch(None);
    assert!(missed.len() <= most_missed, "not caught within {within} histories: {missed:?}");
}

/// And the right one is not, under the same bias.
#[test]
fn the_biased_histories_hold_for_the_right_design() {
    for bias in [Bias::LateToken, Bias::Refunds, Bias::LateJudgement] {
        let sum = many(0..seeds().min(5_000), |seed| Plan::biased(seed, bias));
        assert!(sum.failures.is_empty(), "{bias:?}: {}", told(&sum.failures));
        say(&format!("{bias:?}: {} histories, {} effects", sum.seeds, sum.effects));
    }
}

/// Crash and pause at each of the eleven points between the first record and
/// the reply, for each kind, alone and with a second key on the transaction.
#[test]
fn at_every_point_a_crash_and_a_pause_end_well() {
    let mut histories = 0;
    for kind in [Kind::Capture, Kind::Void, Kind::Refund] {
        for point in Point::MATRIX {
            for blow in [Blow::Crash, Blow::Pause(10_000), Blow::Pause(1_500_000)] {
                for second_key in [false, true] {
                    for replicas in [1, 2] {
                        let directed = Some(Directed { point, blow, second_key });
                        let calm = Plan::calm(histories);
                        let plan = Plan {
                            replicas,
                            directed,
                            kind: Some(kind),
                            transactions: 1,
                            callers: 2,
                            trouble: 30_000,
                            ..calm
                        };
                        let report = run(plan);
                        let named =
                            format!("{kind} {point:?} {blow:?} second key {second_key} replicas {replicas}");
                        assert!(report.violations.is_empty(), "{named}: {:?}", report.violations);
                        let hits = report.stats.get("crash").or(report.stats.get("pause")).copied();
                        assert_eq!(hits, Some(1), "{named}: it was hit");
                        histories += 1;
                    }
                }
            }
        }
    }
    say(&format!("crash matrix: {histories} histories"));
}
