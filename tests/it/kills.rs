//! The program is killed and stopped at random moments, under load, in front of a PSP that loses, delays, refuses and
//! lies, and lives on. Callers retry, hang up, give up and come back. Afterwards every answer that any of them ever got
//! is held against the PSP's ledger and the journal.
//!
//! `PAYOPS_KILLS` and `PAYOPS_OPERATIONS` say how much of it, `KILLS_SEED` which. docs/guarantees.md has the command for
//! the long one.

mod books;
mod callers;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use payops::{journal::embedded::stats, sandbox::Settings};
use rustix::process::Signal;
use serde_json::json;
use tokio::process::Child;

use crate::chaos::money_faults;
use crate::place::{Place, TOKEN, ended, signal};
use crate::sandbox::world::World;

const CALLERS: u64 = 128;
/// Operations go to the youngest transactions, so many of them.
const TRANSACTIONS: usize = 320;
const OPERATIONS_PER_TRANSACTION: usize = 12;

/// The same seed, the same choices; what the machine makes of them differs.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64, number: u64) -> Self {
        Self((seed << 16 ^ number).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// From `from` to below `to`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        // The upper half: the lower bits of a small state follow a pattern.
        from + (crate::chaos::next(&mut self.0) >> 32) % (to - from)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.between(0, n) == 0
    }

    async fn pause(&mut self, from: u64, to: u64) {
        tokio::time::sleep(Duration::from_millis(self.between(from, to))).await;
    }
}

/// What all who take part know.
pub struct Run {
    place: Place,
    seed: u64,
    kills_wanted: usize,
    operations_wanted: usize,
    kills: AtomicUsize,
    /// Operations that were begun, and those of which a caller knows the end.
    begun: AtomicUsize,
    over: AtomicUsize,
    transactions: Mutex<Vec<String>>,
    /// How often which answer was given.
    heard: Mutex<BTreeMap<String, usize>>,
}

impl Run {
    async fn new() -> Self {
        let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
        let seed = std::env::var("KILLS_SEED").map_or_else(
            |_| u64::from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos()),
            |seed| seed.parse().unwrap(),
        );
        println!("KILLS_SEED={seed}");
        let settings = Settings { seed, token_life: Duration::from_secs(3), ..Settings::default() };
        let place = Place::in_front_of(World::start_with(settings).await);
        let hash = payops::callers::token_hash;
        let callers =
            [("orders", TOKEN, false), ("anna", "token-of-anna", true)].map(|(name, token, review)| {
                let hash = hash(token);
                format!("[[caller]]\nname = \"{name}\"\ntoken_sha256 = [\"{hash}\"]\nreview = {review}\n")
            });
        place.write("callers.toml", &callers.concat());
        // What the PSP is granted is longer than what its faults take, also where a core is busy; otherwise as short
        // as it can be.
        place.set("psp", "connect_timeout = \"400ms\"\nattempt_timeout = \"500ms\"\nlate_answer_timeout = \"2s\"\nin_flight_max = 128\n");
        place.set(
            "exactly_once",
            "send_window = \"400ms\"\nlease_grace = \"200ms\"\ntoken_life_min = \"1s\"\nsettle_max = \"1500ms\"\n\
             read_lag_max = \"1s\"\nabsent_reads_apart = \"100ms\"\nresend_after = \"1s\"\nresend_captures = true\n",
        );
        place.set(
            "read_back",
            "schedule = [\"20ms\", \"100ms\", \"200ms\"]\nthen_every = \"400ms\"\nin_flight_max = 32\n",
        );
        place.set("log", "level = \"warn\"\n");
        Self {
            place,
            seed,
            kills_wanted: number("PAYOPS_KILLS", 25),
            operations_wanted: number("PAYOPS_OPERATIONS", 1_500),
            kills: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            over: AtomicUsize::new(0),
            transactions: Mutex::default(),
            heard: Mutex::default(),
        }
    }

    async fn arm(&self) {
        for fault in money_faults() {
            self.place.world.fault(fault).await;
        }
        for fault in ["internal_error", "html_instead_of_json"] {
            self.place.world.fault(json!({"operation": "get", "fault": fault, "probability": 0.05})).await;
        }
        for fault in ["internal_error", "answer_lost_after_applying", "unauthorized_once"] {
            self.place.world.fault(json!({"operation": "token", "fault": fault, "probability": 0.01})).await;
        }
    }

    /// Makes one more transaction: part of it is captured already, so that there is something to refund.
    async fn authorize(&self, dice: &mut Dice) {
        let product = ["vipps", "dintero_psp.creditcard", "payex.creditcard"];
        let product = product[usize::try_from(dice.between(0, 3)).unwrap()];
        let made = json!({"payment_product_type": product, "amount": 60_000, "captured": 20_000});
        let id = self.place.world.make(made).await;
        self.transactions.lock().unwrap().push(id);
    }

    fn enough(&self) -> bool {
        self.over.load(Relaxed) >= self.operations_wanted && self.kills.load(Relaxed) >= self.kills_wanted
    }

    fn hear(&self, what: String) {
        *self.heard.lock().unwrap().entry(what).or_default() += 1;
    }
}

/// What was done to the program.
#[derive(Default)]
struct Toll {
    kills: usize,
    /// Of them, before it served.
    at_start: usize,
    stops: usize,
    long_stops: usize,
    /// From the start of the process to its first answer.
    starts: Vec<Duration>,
    /// For each kill of a process that served: entries under way, and entries open in any way.
    under_way: Vec<u64>,
    open: Vec<u64>,
}

/// Kills and stops one life after the other, until all is done. Gives the last life, which is left alone.
async fn torment(run: Arc<Run>) -> (Child, Toll) {
    let place = &run.place;
    let mut dice = Dice::new(run.seed, 1 << 15);
    let mut toll = Toll::default();
    loop {
        let began = Instant::now();
        let mut life = place.begin(&mut place.command());
        let is_last = run.enough();
        let early = !is_last && toll.kills > 0 && dice.one_in(10);
        if early {
            dice.pause(0, 150).await;
        } else {
            while place.health().await.is_none() {
                assert!(began.elapsed() < Duration::from_secs(30), "it does not serve: {}", place.log());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            toll.starts.push(began.elapsed());
            place.no_longer_new();
        }
        if is_last {
            return (life, toll);
        }
        if !early && dice.one_in(4) {
            dice.pause(20, 200).await;
            signal(&life, Signal::STOP);
            toll.stops += 1;
            // Past the end of attempts and leases, sometimes past the life of a token.
            match dice.between(0, 10) {
                0 => dice.pause(3_500, 4_500).await,
                1..4 => dice.pause(700, 1_500).await,
                _ => dice.pause(5, 300).await,
            }
            toll.long_stops += usize::from(began.elapsed() > Duration::from_secs(3));
            signal(&life, Signal::CONT);
        }
        if !early {
            dice.pause(100, 1_000).await;
        }
        signal(&life, Signal::KILL);
        assert!(!ended(&mut life).await.success(), "it was killed");
        toll.kills = run.kills.fetch_add(1, Relaxed) + 1;
        if early {
            toll.at_start += 1;
            continue;
        }
        let states = stats(&place.path("journal")).unwrap().states;
        let count =
            |states_wanted: &[&str]| states_wanted.iter().filter_map(|state| states.get(*state)).sum::<u64>();
        toll.under_way.push(count(&["started", "resent"]));
        toll.open.push(count(&["started", "resent", "accepted", "in_doubt", "review"]));
    }
}

fn median<T: Ord + Copy>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_every_answer_was_true_and_every_key_had_one_effect_at_most() {
    let run = Arc::new(Run::new().await);
    let began = Instant::now();
    let mut dice = Dice::new(run.seed, 1 << 14);
    for _ in 0..TRANSACTIONS {
        run.authorize(&mut dice).await;
    }
    run.arm().await;
    let tormented = tokio::spawn(torment(Arc::clone(&run)));
    let callers = (0..CALLERS).map(|number| tokio::spawn(callers::call(Arc::clone(&run), number)));
    // The first who fails ends it.
    let (asked, (mut last, toll)) = tokio::try_join!(try_join_all(callers), tormented).unwrap();
    let asked: Vec<_> = asked.into_iter().flatten().collect();
    run.place.world.clear_faults().await;
    let journal = books::settled(&run.place).await;
    let effects = books::compare(&run, &asked, &journal).await;

    signal(&last, Signal::KILL);
    assert!(!ended(&mut last).await.success());
    let sound = payops::journal::embedded::check(&run.place.path("journal")).unwrap();
    assert_eq!(usize::try_from(sound.entries).unwrap(), journal.len());
    let log = run.place.log();
    let alarms: Vec<_> =
        log.lines().filter(|line| line.contains("ERROR") || line.contains("was lost")).collect();
    assert!(alarms.is_empty(), "{alarms:#?}");

    let busy = toll.under_way.iter().filter(|count| **count > 0).count();
    println!(
        "{} kills ({} while starting), {} stops ({} long); {} of {} lives were killed with operations under way \
         (median {}, {} open)",
        toll.kills,
        toll.at_start,
        toll.stops,
        toll.long_stops,
        busy,
        toll.under_way.len(),
        median(&toll.under_way),
        median(&toll.open),
    );
    println!(
        "{} operations, {effects} effects, {} recorded, in {:?}; from start to first answer {:?} (median), {:?} (longest)",
        asked.len(),
        journal.len(),
        began.elapsed(),
        median(&toll.starts),
        toll.starts.iter().max().unwrap(),
    );
    for (answer, times) in &*run.heard.lock().unwrap() {
        println!("  {times:>7}  {answer}");
    }
    assert!(toll.kills >= run.kills_wanted && asked.len() >= run.operations_wanted);
    assert!(busy * 2 > toll.under_way.len(), "most were killed idle: nothing was tried");
    assert!(effects * 3 > asked.len(), "little moved: nothing was tried");
}
