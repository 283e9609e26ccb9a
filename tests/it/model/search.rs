//! Breadth first through every state that can be reached, so that the first
//! broken rule comes with a shortest history.

use std::collections::{BTreeMap, HashMap, hash_map};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use payops::payment::Kind;

use super::check::{check, is_ended, is_quiet};
use super::real::{Real, Ticks};
use super::steps::{Step, Steps};
use super::world::{At, Net, World};
use super::{Broken, Scenario};

/// A hasher for small values that nobody chooses to our harm.
#[derive(Clone, Copy, Default)]
pub struct Mix(u64);
pub type Fast = BuildHasherDefault<Mix>;

const ODD: u64 = 0x517c_c1b7_2722_0a95;

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u8(*byte);
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.0 = (self.0.rotate_left(5) ^ u64::from(byte)).wrapping_mul(ODD);
    }

    fn write_i8(&mut self, byte: i8) {
        self.write_u8(byte.cast_unsigned());
    }

    fn write_isize(&mut self, word: isize) {
        self.0 = (self.0.rotate_left(5) ^ word.cast_unsigned() as u64).wrapping_mul(ODD);
    }
}

/// What a search found.
pub struct Found {
    pub states: usize,
    pub transitions: usize,
    pub depth: usize,
    /// States in which nothing moves, by what the entries came to.
    pub ends: BTreeMap<String, usize>,
    /// States in which something is sent again (T12).
    pub resent: usize,
    /// States from which no end can be reached.
    pub stuck: Option<String>,
    pub broke: Option<Counterexample>,
    pub took: Duration,
    /// Not every state was seen: the bound on their number was met.
    pub cut: bool,
}

/// A rule that was broken, and how.
pub struct Counterexample {
    pub rule: &'static str,
    pub depth: usize,
    pub trace: String,
}

pub fn search(scenario: &Scenario, broken: Option<Broken>, most: usize) -> Found {
    let begun = Instant::now();
    let times = broken.map_or_else(Ticks::default, Broken::times);
    let mut real = Real::new(scenario.kinds, scenario.attempts, times, scenario.resends);
    let mut steps = Steps { real: &mut real, scenario, broken, next: Vec::new(), within: None };
    let same = scenario.kinds[0] == scenario.kinds[1] && scenario.attempts[0] == scenario.attempts[1];
    let voids = scenario.kinds.map(|kind| kind == Kind::Void);
    let first = World { left: scenario.faults, ..World::default() };

    let mut known: HashMap<World, u32, Fast> = HashMap::default();
    let mut states = vec![first];
    let (mut parents, mut depths, mut edges) = (vec![0_u32], vec![0_u16], Vec::new());
    let mut broke = None;
    known.insert(first, 0);
    let mut at = 0;
    'search: while at < states.len() && states.len() < most {
        let world = states[at];
        let from = u32::try_from(at).unwrap();
        steps.from(&world);
        for (step, then, rule) in std::mem::take(&mut steps.next) {
            let rule = rule.or_else(|| check(&world, &then, voids));
            let then = then.canonical(same);
            let new = u32::try_from(states.len()).unwrap();
            let to = match known.entry(then) {
                hash_map::Entry::Occupied(seen) => *seen.get(),
                hash_map::Entry::Vacant(free) => {
                    free.insert(new);
                    states.push(then);
                    parents.push(from);
                    depths.push(depths[at] + 1);
                    new
                }
            };
            edges.push((to, from));
            if let Some(rule) = rule {
                let trace = trace(&mut steps, &states, &parents, at, (step, then), same);
                broke = Some(Counterexample { rule, depth: usize::from(depths[at]) + 1, trace });
                break 'search;
            }
        }
        at += 1;
    }

    let mut ends = BTreeMap::new();
    for world in states.iter().filter(|world| is_quiet(world)) {
        *ends.entry(ending(world)).or_insert(0) += 1;
    }
    let is_resent = |world: &&World| world.rows.iter().flatten().any(|row| row.at == At::Resent);
    let resent = states.iter().filter(is_resent).count();
    let cut = at < states.len();
    let stuck = (broke.is_none() && !cut).then(|| stuck(&states, &edges)).flatten();
    let stuck = stuck.map(|at| trace(&mut steps, &states, &parents, at, (Step::Tick, states[at]), same));
    let depth = usize::from(depths.iter().copied().max().unwrap_or(0));
    let (states, transitions) = (states.len(), edges.len());
    Found { states, transitions, depth, ends, resent, stuck, broke, took: begun.elapsed(), cut }
}

/// What became of the operations, in words.
fn ending(world: &World) -> String {
    let mut words: Vec<_> = world.rows.iter().map(|row| row.map(|row| row.at)).map(word).collect();
    words.sort_unstable();
    words.join(" + ")
}

fn word(at: Option<At>) -> String {
    at.map_or_else(|| "none".to_owned(), |at| format!("{at:?}"))
}

/// A state from which no end can be reached, if there is one.
fn stuck(states: &[World], edges: &[(u32, u32)]) -> Option<usize> {
    let place = |state: u32| usize::try_from(state).unwrap();
    // Edges by where they lead to.
    let mut starts = vec![0_u32; states.len() + 1];
    for (to, _) in edges {
        starts[place(*to) + 1] += 1;
    }
    for at in 1..starts.len() {
        starts[at] += starts[at - 1];
    }
    let mut free = starts.clone();
    let mut froms = vec![0_u32; edges.len()];
    for (to, from) in edges {
        froms[place(free[place(*to)])] = *from;
        free[place(*to)] += 1;
    }
    let mut good: Vec<bool> = states.iter().map(is_ended).collect();
    let mut next: Vec<usize> = (0..states.len()).filter(|at| good[*at]).collect();
    while let Some(at) = next.pop() {
        for from in &froms[place(starts[at])..place(starts[at + 1])] {
            if !std::mem::replace(&mut good[place(*from)], true) {
                next.push(place(*from));
            }
        }
    }
    good.iter().position(|good| !good)
}

/// The history up to a state and one step further, a line for each step.
fn trace(
    steps: &mut Steps<'_>,
    states: &[World],
    parents: &[u32],
    at: usize,
    last: (Step, World),
    same: bool,
) -> String {
    let mut path = vec![at];
    while let Some(&at) = path.last().filter(|at| **at != 0) {
        path.push(usize::try_from(parents[at]).unwrap());
    }
    path.reverse();
    let mut lines = Vec::new();
    for pair in path.windows(2) {
        steps.from(&states[pair[0]]);
        let step = steps.next.iter().find(|(_, then, _)| then.canonical(same) == states[pair[1]]).unwrap().0;
        lines.push(line(step, &states[pair[1]]));
    }
    lines.push(line(last.0, &last.1));
    lines.join("\n")
}

fn line(step: Step, then: &World) -> String {
    let rows = then.rows.map(|row| match row {
        Some(row) => format!("{:?} {}", row.at, row.attempt),
        None => "-".to_owned(),
    });
    let shots = then.shots.map(|shots| {
        shots.map(|shot| match (shot.net, shot.end) {
            (Net::Unsent, _) => "-".to_owned(),
            (net, None) => format!("{net:?}"),
            (_, Some(end)) => format!("{end:?}"),
        })
    });
    format!(
        "  {:<38} entries {}, requests {}",
        format!("{step:?}"),
        rows.join(" | "),
        shots.map(|s| s.join(" ")).join(" | ")
    )
}
