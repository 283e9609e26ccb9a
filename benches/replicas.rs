//! What many replicas on one PostgreSQL come to: `cargo bench --bench replicas`. Four of them against one, each with so
//! many operations under way as it may (`PAYOPS_IN_FLIGHT`, 16), in front of a PSP that takes 50 ms; and what an
//! operation costs the database, which syncs every commit and waits for its standby. `PAYOPS_SECONDS` says for how long
//! each is measured.
#![allow(
    missing_docs,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::float_arithmetic,
    clippy::print_stdout,
    reason = "a bench fails by panicking, and prints what it measured"
)]

#[path = "../tests/it/database.rs"]
mod database;
#[path = "../tests/it/place.rs"]
mod place;
#[path = "../tests/it/started.rs"]
mod started;
#[path = "../tests/it/support.rs"]
mod support;
#[path = "../tests/it/sandbox"]
mod sandbox {
    pub mod world;
}

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use payops::config::Postgres as Database;
use payops::grpc::pb::OperationState;
use payops::journal::{
    Journal as _, Terms, Written,
    entry::Entry,
    postgres::{Postgres, Settings},
};
use payops::payment::{Action, Amount, Capture, Command, Guards, Operation};
use serde_json::json;
use tokio::task::JoinSet;

use crate::database::{Cluster, name};
use crate::place::Place;
use crate::sandbox::world::World;
use crate::support::Caller;

const REPLICAS: usize = 4;
const PSP: Duration = Duration::from_millis(50);
/// The goal: nearly as many times as many.
const GOAL: f64 = 3.8;
/// A transaction's answer grows with what was done on it.
const CAPTURES_PER_TRANSACTION: usize = 20;
/// For the writer alone: more than one statement takes.
const WRITERS: usize = 1024;
/// How often each is measured: the best of them is the least disturbed.
const ROUNDS: usize = 3;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// What the database counts.
#[derive(Clone, Copy)]
struct Counted {
    statements: u64,
    commits: u64,
    wal_bytes: u64,
}

struct Bench {
    cluster: Cluster,
    world: Arc<World>,
    in_flight: usize,
    lasts: Duration,
}

impl Bench {
    async fn start() -> Self {
        let cluster = Cluster::start();
        for server in [&cluster.primary].into_iter().chain(&cluster.standby) {
            // Tests need no disk. A commit is a commit here; what each costs is not hidden by what a checkpoint adds.
            for setting in ["fsync = on", "max_wal_size = '8GB'", "checkpoint_timeout = '1h'"] {
                server.sql("postgres", &format!("ALTER SYSTEM SET {setting}"));
            }
            server.sql("postgres", "SELECT pg_reload_conf()");
        }
        cluster.primary.sql("postgres", "CHECKPOINT");
        let world = Arc::new(World::start().await);
        let delay = u64::try_from(PSP.as_millis()).unwrap();
        let slow =
            json!({"operation": "capture", "fault": "delayed_answer", "probability": 1, "delay_ms": delay});
        world.fault(slow).await;
        let in_flight = usize::try_from(number("PAYOPS_IN_FLIGHT", 16)).unwrap();
        Self { cluster, world, in_flight, lasts: Duration::from_secs(number("PAYOPS_SECONDS", 8)) }
    }

    fn database(&self) -> Database {
        let database = self.cluster.database();
        self.cluster.primary.sql(name(&database), "CREATE EXTENSION pg_stat_statements");
        database
    }

    fn count(&self, database: &Database) -> Counted {
        let sql = "SELECT (SELECT coalesce(sum(calls), 0) FROM pg_stat_statements
                           WHERE query ~ 'payops.operations|pg_notify' AND query !~ 'next_read_at <=|pg_stat_statements'),
                          pg_snapshot_xmax(pg_current_snapshot()), pg_current_wal_lsn() - '0/0'";
        let line = self.cluster.primary.sql(name(database), sql);
        let numbers: Vec<u64> = line.split('|').map(|text| text.parse().unwrap()).collect();
        Counted { statements: numbers[0], commits: numbers[1], wal_bytes: numbers[2] }
    }

    /// Operations a second of so many replicas, and what the database counted meanwhile.
    async fn serve(&self, replicas: usize) -> (f64, u64, Counted) {
        let database = self.database();
        let places: Vec<_> = (0..replicas).map(|_| Place::in_front_of(Arc::clone(&self.world))).collect();
        let mut lives = Vec::new();
        for place in &places {
            place.on(&database);
            place.set("psp", &format!("in_flight_max = {}\n", self.in_flight));
            place.set("log", "level = \"warn\"\n");
            lives.push(place.serve().await);
        }
        let callers: Vec<_> =
            places.iter().flat_map(|place| (0..self.in_flight).map(|_| place.orders())).collect();
        let transactions = callers.iter().map(|_| transaction(&self.world));
        let transactions: Vec<_> = join_all(transactions).await;
        let done = Arc::new(AtomicU64::new(0));
        let mut calls = JoinSet::new();
        for (nth, (caller, transaction)) in callers.into_iter().zip(transactions).enumerate() {
            calls.spawn(call(Arc::clone(&self.world), caller, nth, transaction, Arc::clone(&done)));
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (before, from, began) = (self.count(&database), done.load(Relaxed), Instant::now());
        tokio::time::sleep(self.lasts).await;
        let (operations, took) = (done.load(Relaxed) - from, began.elapsed());
        let after = self.count(&database);
        calls.shutdown().await;
        let counted = Counted {
            statements: after.statements - before.statements,
            commits: after.commits - before.commits,
            wal_bytes: after.wal_bytes - before.wal_bytes,
        };
        (operations as f64 / took.as_secs_f64(), operations, counted)
    }

    /// Rows a second that so many writers put into the journal, of which each has so many to put at once; and how long
    /// one waits.
    async fn write(&self, writers: usize, at_once: usize) -> (f64, Duration) {
        let terms = Terms::beginning();
        let settings =
            Settings { postgres: self.database(), terms, audit: payops::journal::audit::Key::none() };
        let mut journals = Vec::new();
        for _ in 0..writers {
            journals.push(Postgres::open(&settings).await.unwrap());
        }
        let done = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for (journal, clock) in &journals {
            for _ in 0..at_once {
                let (journal, clock, done) = (journal.clone(), clock.clone(), Arc::clone(&done));
                tasks.spawn(async move {
                    loop {
                        let entry = recorded(clock.now());
                        assert_eq!(journal.insert(entry).await.unwrap(), Written::Done);
                        done.fetch_add(1, Relaxed);
                    }
                });
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (from, began) = (done.load(Relaxed), Instant::now());
        tokio::time::sleep(self.lasts / 2).await;
        let rows = (done.load(Relaxed) - from) as f64 / began.elapsed().as_secs_f64();
        tasks.shutdown().await;
        (rows, Duration::from_secs_f64((writers * at_once) as f64 / rows))
    }
}

async fn transaction(world: &World) -> String {
    world.make(json!({"payment_product_type": "vipps", "amount": 60_000})).await
}

/// One capture after the other, each under a key of its own.
async fn call(world: Arc<World>, caller: Caller, nth: usize, first: String, done: Arc<AtomicU64>) {
    let mut on = first;
    for n in 0.. {
        if n % CAPTURES_PER_TRANSACTION == CAPTURES_PER_TRANSACTION - 1 {
            on = transaction(&world).await;
        }
        let answer = caller.capture(&format!("key-{nth}-{n}"), &on, 100).await.unwrap();
        assert_eq!(answer.operation.state(), OperationState::Succeeded);
        done.fetch_add(1, Relaxed);
    }
}

/// A capture of which the first record is to be written.
fn recorded(now: payops::clock::Timestamp) -> Entry {
    let capture = Capture {
        amount: Amount::new(100).unwrap(),
        items: Vec::new(),
        reference: None,
        metadata: BTreeMap::new(),
        final_capture: false,
    };
    let id = uuid::Uuid::new_v4().simple().to_string();
    let command = Command {
        caller: "orders".parse().unwrap(),
        key: id.parse().unwrap(),
        operation: Operation {
            transaction: format!("T12345678.{}", &id[..22]).parse().unwrap(),
            action: Action::Capture(capture),
        },
        guards: Guards::default(),
        permit: payops::payment::permit::Permit::default(),
        traced: None,
    };
    Entry::start(&command, now, now + Duration::from_hours(4), now + Duration::from_secs(45))
}

#[tokio::main]
async fn main() {
    let bench = Bench::start().await;
    println!("{} operations under way for each replica, a PSP of {PSP:?}", bench.in_flight);
    let mut best = BTreeMap::new();
    for _ in 0..ROUNDS {
        for replicas in [1, REPLICAS] {
            let (rate, operations, counted) = bench.serve(replicas).await;
            let each = |count: u64| count as f64 / operations as f64;
            println!(
                "{replicas} replica(s): {rate:.0} operations/s; for each {:.2} statements, {:.2} commits, {:.0} bytes of WAL",
                each(counted.statements),
                each(counted.commits),
                each(counted.wal_bytes)
            );
            let best_rate = best.entry(replicas).or_insert(rate);
            *best_rate = rate.max(*best_rate);
        }
    }
    for (writers, at_once) in [(1, 1), (1, WRITERS), (REPLICAS, WRITERS)] {
        let (rows, wait) = bench.write(writers, at_once).await;
        println!("{writers} writer(s), {at_once} waiting for each: {rows:.0} rows/s, {wait:.2?} for one");
    }
    let ratio = best[&REPLICAS] / best[&1];
    println!("{REPLICAS} replicas do {ratio:.2} times as many operations as one; the goal is {GOAL}");
    assert!(ratio >= GOAL, "replicas are in each other's way");
}
