//! What an ordeal of the program is made of, whichever journal it has: callers under load, a PSP that loses, delays,
//! refuses and lies, and, at the end, three books that must agree.
//!
//! `PAYOPS_KILLS` and `PAYOPS_OPERATIONS` say how much of it, `KILLS_SEED` which.

pub mod books;
pub mod callers;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::future::try_join_all;
use payops::sandbox::Settings;
use serde_json::json;

use crate::chaos::money_faults;
use crate::ordeal::callers::Asked;
use crate::place::{Place, TOKEN};
use crate::sandbox::world::World;
use crate::support::ALLOW_ALL;

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

    /// One of them.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[usize::try_from(self.between(0, all.len().try_into().unwrap())).unwrap()]
    }

    pub async fn pause(&mut self, from: u64, to: u64) {
        tokio::time::sleep(Duration::from_millis(self.between(from, to))).await;
    }
}

/// How much is asked for where the environment does not say.
pub struct Least {
    pub kills: usize,
    pub operations: usize,
    pub callers: u64,
    /// How long everything may take to settle once nothing goes wrong any more.
    pub settles: Duration,
}

/// What all who take part know.
pub struct Run {
    /// Processes of the program, in front of one PSP and on one journal.
    pub places: Vec<Place>,
    pub seed: u64,
    pub kills_wanted: usize,
    pub operations_wanted: usize,
    callers: u64,
    settles: Duration,
    pub kills: AtomicUsize,
    /// Operations that were begun, and those of which a caller knows the end.
    begun: AtomicUsize,
    over: AtomicUsize,
    transactions: Mutex<Vec<String>>,
    /// How often which answer was given.
    heard: Mutex<BTreeMap<String, usize>>,
}

impl Run {
    pub async fn new(processes: usize, least: Least) -> Self {
        let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
        let seed = std::env::var("KILLS_SEED").map_or_else(
            |_| u64::from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos()),
            |seed| seed.parse().unwrap(),
        );
        println!("KILLS_SEED={seed}");
        let settings = Settings { seed, token_life: Duration::from_secs(3), ..Settings::default() };
        let world = Arc::new(World::start_with(settings).await);
        let places: Vec<_> = (0..processes).map(|_| place(&world)).collect();
        Self {
            places,
            seed,
            kills_wanted: number("PAYOPS_KILLS", least.kills),
            operations_wanted: number("PAYOPS_OPERATIONS", least.operations),
            callers: least.callers,
            settles: least.settles,
            kills: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            over: AtomicUsize::new(0),
            transactions: Mutex::default(),
            heard: Mutex::default(),
        }
    }

    pub fn world(&self) -> &World {
        &self.places[0].world
    }

    /// Makes what callers ask for, and a PSP that fails.
    pub async fn prepare(&self) {
        let mut dice = Dice::new(self.seed, 1 << 14);
        for _ in 0..TRANSACTIONS {
            self.authorize(&mut dice).await;
        }
        for fault in money_faults() {
            self.world().fault(fault).await;
        }
        for fault in ["internal_error", "html_instead_of_json"] {
            self.world().fault(json!({"operation": "get", "fault": fault, "probability": 0.05})).await;
        }
        for fault in ["internal_error", "answer_lost_after_applying", "unauthorized_once"] {
            self.world().fault(json!({"operation": "token", "fault": fault, "probability": 0.01})).await;
        }
    }

    /// Everything that callers asked for, each with its last word. The first who fails ends it.
    pub async fn ask(self: &Arc<Self>) -> Vec<Asked> {
        let callers = (0..self.callers).map(|number| tokio::spawn(callers::call(Arc::clone(self), number)));
        try_join_all(callers).await.unwrap().into_iter().flatten().collect()
    }

    /// Makes one more transaction: part of it is captured already, so that there is something to refund.
    async fn authorize(&self, dice: &mut Dice) {
        let product = dice.pick(&["vipps", "dintero_psp.creditcard", "payex.creditcard"]);
        let made = json!({"payment_product_type": product, "amount": 60_000, "captured": 20_000});
        let id = self.world().make(made).await;
        self.transactions.lock().unwrap().push(id);
    }

    pub fn enough(&self) -> bool {
        self.over.load(Relaxed) >= self.operations_wanted && self.kills.load(Relaxed) >= self.kills_wanted
    }

    /// Whether so much harm was done for what callers have had done so far: all of it is to be spread over all of that.
    pub fn is_ahead(&self, harm: usize) -> bool {
        harm * self.operations_wanted > self.over.load(Relaxed) * self.kills_wanted
    }

    fn hear(&self, what: String) {
        *self.heard.lock().unwrap().entry(what).or_default() += 1;
    }

    pub fn print_answers(&self) {
        for (answer, times) in &*self.heard.lock().unwrap() {
            println!("  {times:>7}  {answer}");
        }
    }

    /// What no process may have said: a defect, a case for a person, a loss that was none.
    pub fn alarms(&self) -> Vec<String> {
        let logs = self.places.iter().map(Place::log);
        let lines: Vec<_> = logs.flat_map(|log| log.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
        lines.into_iter().filter(|line| line.contains("ERROR") || line.contains("journal was lost")).collect()
    }
}

/// A process of the program with the shortest times at which nothing that happens here breaks an assumption.
fn place(world: &Arc<World>) -> Place {
    let place = Place::in_front_of(Arc::clone(world));
    let hash = payops::callers::token_hash;
    let callers = [("orders", TOKEN, false), ("anna", "token-of-anna", true)].map(|(name, token, review)| {
        let hash = hash(token);
        format!("[[caller]]\nname = \"{name}\"\ntoken_sha256 = [\"{hash}\"]\nreview = {review}\n{ALLOW_ALL}")
    });
    place.write("callers.toml", &callers.concat());
    // What the PSP is granted is longer than what its faults take, also where a core is busy; otherwise as short
    // as it can be.
    place.set("psp", "connect_timeout = \"400ms\"\nattempt_timeout = \"500ms\"\nlate_answer_timeout = \"2s\"\nin_flight_max = 128\n");
    place.set(
        "exactly_once",
        "send_window = \"400ms\"\nlease_grace = \"500ms\"\ntoken_life_min = \"1s\"\nsettle_max = \"1500ms\"\n\
         read_lag_max = \"1s\"\nabsent_reads_apart = \"100ms\"\nresend_after = \"1s\"\nresend_captures = true\n",
    );
    place.set(
        "read_back",
        "schedule = [\"20ms\", \"100ms\", \"200ms\"]\nthen_every = \"400ms\"\nin_flight_max = 32\n",
    );
    place.set("log", "level = \"warn\"\n");
    place
}

pub fn median<T: Ord + Copy>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2]
}
