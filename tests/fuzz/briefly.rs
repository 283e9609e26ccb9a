//! Each target for a moment: on its seeds, and on mutations of them that are
//! the same at each run.

use std::{fs, time::Instant};

use super::{TARGETS, Target};

/// How many mutations each target gets.
const MUTATIONS: u64 = 3_000;

/// How many inputs mutations are made of.
const SEEDS_MAX: usize = 4_000;

/// The longest input.
const BYTES_MAX: usize = 4096;

/// Splitmix64: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).unwrap();
        usize::try_from(self.throw() % end).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.throw().to_le_bytes()[0]
    }
}

/// One to four small changes: a byte, a bit, a piece left out, repeated, or of another seed.
fn mutated(seeds: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut data = seeds[dice.below(seeds.len())].clone();
    for _ in 0..=dice.below(4) {
        let (from, to) = (dice.below(data.len() + 1), dice.below(data.len() + 1));
        let (from, to) = (from.min(to), from.max(to));
        match dice.below(6) {
            0 if from < data.len() => data[from] = dice.byte(),
            1 if from < data.len() => data[from] ^= 1 << dice.below(8),
            2 => drop(data.drain(from..to)),
            3 => {
                let piece = data[from..to].to_vec();
                data.splice(from..from, piece);
            }
            4 => {
                let other = &seeds[dice.below(seeds.len())];
                let start = dice.below(other.len() + 1);
                data.splice(from..to, other[start..].iter().copied());
            }
            _ => data.insert(from, dice.byte()),
        }
        data.truncate(BYTES_MAX);
    }
    data
}

/// The seeds of a target: a file of its name, cut at lines of dashes.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let path = format!("{}/tests/fuzz/seeds/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.split("\n----\n").map(|seed| seed.trim_end_matches('\n').as_bytes().to_vec()).collect()
}

/// Tells what was being read where a target fails.
struct Read<'a>(&'static str, &'a [u8]);

impl Drop for Read<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} fails on {:?}", self.0, String::from_utf8_lossy(self.1));
            eprintln!("which is {:02x?}", self.1);
        }
    }
}

/// Runs a target on its seeds and on mutations; says on how many.
fn try_out((name, target): Target, seconds: Option<u64>) -> u64 {
    let mut seeds = seeds(name);
    if name == "command" {
        seeds = seeds.iter().map(|seed| bytes(seed)).collect();
    }
    assert!(seeds.len() > 1, "{name}");
    for seed in &seeds {
        let _read = Read(name, seed);
        target(seed);
    }
    // The same ones at each short run, others at each long one.
    let mut dice = Dice(seconds.map_or(7, |_| uuid::Uuid::new_v4().as_u64_pair().0));
    let begun = Instant::now();
    let mut count = 0;
    while seconds.map_or(count < MUTATIONS, |seconds| begun.elapsed().as_secs() < seconds) {
        let data = mutated(&seeds, &mut dice);
        let _read = Read(name, &data);
        target(&data);
        count += 1;
        // What is built upon what was built comes further.
        if count % 64 == 0 && seeds.len() < SEEDS_MAX {
            seeds.push(data.clone());
        }
    }
    count
}

/// `PAYOPS_FUZZ_SECONDS` is how long each goes on, all of them at once.
#[test]
fn every_target_bears_its_seeds_and_mutations_of_them() {
    let seconds = std::env::var("PAYOPS_FUZZ_SECONDS").ok().map(|seconds| seconds.parse().unwrap());
    std::thread::scope(|scope| {
        let running = TARGETS.map(|target| (target.0, scope.spawn(move || try_out(target, seconds))));
        for (name, running) in running {
            println!("{name}: {} inputs", running.join().unwrap());
        }
    });
}

/// Messages of the wire are written as hexadecimal digits.
fn bytes(hex: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .iter()
        .filter_map(|digit| char::from(*digit).to_digit(16))
        .map(|d| u8::try_from(d).unwrap())
        .collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
