//! What telemetry costs: `cargo bench --bench telemetry`. The same load on the same program without it, with every span
//! exported to a real collector, and with a collector that is down, hangs or refuses; CPU of the process per call, calls a
//! second, the time of one, and memory, each as a ratio within one round. payops has a processor of its own, and everybody
//! else the other one. `PAYOPS_SECONDS` says for how long each is
//! measured, `PAYOPS_ROUNDS` how often.
#![allow(
    missing_docs,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    clippy::float_arithmetic,
    clippy::print_stdout,
    reason = "a bench fails by panicking, and prints what it measured"
)]

#[path = "../tests/it/collector.rs"]
mod collector;
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
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    net::TcpListener,
    process::{Child, Command},
    task::JoinSet,
};

use crate::collector::Collector;
use crate::place::Place;
use crate::sandbox::world::World;
use crate::support::{capture, free_address};

/// Calls under way at once.
const CALLERS: usize = 32;
/// A transaction's answer grows with what was done on it.
const CAPTURES_PER_TRANSACTION: i64 = 20;
/// The goal: CPU per call with every span exported, against none.
const GOAL: f64 = 1.10;

#[derive(Clone, Copy, PartialEq)]
enum Telemetry {
    Off,
    On,
    Down,
    Hanging,
    Refusing,
}

impl Telemetry {
    const ALL: [(Self, &str); 5] = [
        (Self::Off, "off"),
        (Self::On, "on, every span"),
        (Self::Down, "collector down"),
        (Self::Hanging, "collector hangs"),
        (Self::Refusing, "collector refuses"),
    ];
}

#[derive(Clone, Copy, Debug)]
struct Measured {
    cpu_per_call: f64,
    calls_per_second: f64,
    median: f64,
    memory: f64,
}

struct Bench {
    world: Arc<World>,
    collector: Collector,
    mute: SocketAddr,
    sullen: SocketAddr,
    lasts: Duration,
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

impl Bench {
    async fn start() -> Self {
        let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mute = hanging.local_addr().unwrap();
        // For as long as the bench runs.
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = hanging.accept().await {
                held.push(stream);
            }
        });
        let refuses = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sullen = refuses.local_addr().unwrap();
        let refusing = axum::Router::new().fallback(|| async { http::StatusCode::SERVICE_UNAVAILABLE });
        tokio::spawn(async move { axum::serve(refuses, refusing).await });
        let lasts = Duration::from_secs(number("PAYOPS_SECONDS", 5));
        Self {
            world: Arc::new(World::start().await),
            collector: Collector::start().await,
            mute,
            sullen,
            lasts,
        }
    }

    async fn measure(&self, telemetry: Telemetry, round: u64) -> Measured {
        let place = Place::in_front_of(Arc::clone(&self.world));
        place.set("log", "level = \"warn\"\n");
        // On a processor of its own: what the others do costs it nothing.
        let mut command = Command::new("taskset");
        command.args([
            "-c",
            "0",
            place::PAYOPS,
            "serve",
            "--config",
            place.path("payops.toml").to_str().unwrap(),
        ]);
        command.env_clear().env("PATH", std::env::var("PATH").unwrap()).kill_on_drop(true);
        let endpoint = match telemetry {
            Telemetry::Off => None,
            Telemetry::On => Some(self.collector.http.clone()),
            Telemetry::Down => Some(free_address().to_string()),
            Telemetry::Hanging => Some(self.mute.to_string()),
            Telemetry::Refusing => Some(self.sullen.to_string()),
        };
        if let Some(endpoint) = endpoint {
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{endpoint}"));
        }
        let life = place.serve_by(&mut command).await;
        self.load(&place, round, Duration::from_secs(1), "warm").await;
        let (before, began) = (cpu(&life), Instant::now());
        let mut times = self.load(&place, round, self.lasts, "measured").await;
        let (spent, took) = (cpu(&life) - before, began.elapsed().as_secs_f64());
        times.sort_unstable();
        Measured {
            cpu_per_call: spent / times.len() as f64,
            calls_per_second: times.len() as f64 / took,
            median: times[times.len() / 2].as_secs_f64(),
            memory: memory(&life),
        }
    }

    /// The time of each call.
    async fn load(&self, place: &Place, round: u64, lasts: Duration, key: &'static str) -> Vec<Duration> {
        let until = Instant::now() + lasts;
        let mut callers = JoinSet::new();
        for nth in 0..CALLERS {
            let (caller, world) = (place.orders(), Arc::clone(&self.world));
            callers.spawn(async move {
                let mut times = Vec::new();
                let mut card = String::new();
                for count in 0_i64.. {
                    if Instant::now() >= until {
                        break;
                    }
                    if count % CAPTURES_PER_TRANSACTION == 0 {
                        card = world.card().await;
                    }
                    let key = format!("{key}-{round}-{nth}-{count}");
                    let began = Instant::now();
                    caller.capture_with(&key, capture(&card, 1)).await.unwrap();
                    times.push(began.elapsed());
                }
                times
            });
        }
        callers.join_all().await.concat()
    }
}

/// Seconds of processor that the process has used.
fn cpu(life: &Child) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", life.id().unwrap())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    // What Linux says everywhere.
    ticks / 100.0
}

/// The most memory that it has held, in MiB.
fn memory(life: &Child) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", life.id().unwrap())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

#[tokio::main]
async fn main() {
    let mine = std::process::id().to_string();
    let pinned = Command::new("taskset").args(["-a", "-c", "-p", "1", &mine]).output().await.unwrap();
    assert!(pinned.status.success(), "two processors are needed");
    let bench = Bench::start().await;
    let mut rounds: Vec<Vec<Measured>> = Vec::new();
    for round in 0..number("PAYOPS_ROUNDS", 7) {
        // None is always the first.
        let mut measured = [None; Telemetry::ALL.len()];
        for nth in 0..measured.len() {
            let nth = (nth + usize::try_from(round).unwrap()) % measured.len();
            measured[nth] = Some(bench.measure(Telemetry::ALL[nth].0, round).await);
        }
        rounds.push(measured.map(Option::unwrap).to_vec());
    }
    println!("{CALLERS} callers, {} rounds of {} s each; medians", rounds.len(), bench.lasts.as_secs());
    println!(
        "| Telemetry | CPU per call, ms | against off | calls/s | against on | median, ms | against on | memory, MiB |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let ratio = |of: usize, to: usize, value: fn(&Measured) -> f64| {
        median(rounds.iter().map(|round| value(&round[of]) / value(&round[to])).collect())
    };
    let value = |of: usize, value: fn(&Measured) -> f64| {
        median(rounds.iter().map(|round| value(&round[of])).collect())
    };
    for (nth, (_, name)) in Telemetry::ALL.into_iter().enumerate() {
        println!(
            "| {name} | {:.3} | {:.3} | {:.0} | {:.3} | {:.2} | {:.3} | {:.0} |",
            value(nth, |m| m.cpu_per_call) * 1e3,
            ratio(nth, 0, |m| m.cpu_per_call),
            value(nth, |m| m.calls_per_second),
            ratio(nth, 1, |m| m.calls_per_second),
            value(nth, |m| m.median) * 1e3,
            ratio(nth, 1, |m| m.median),
            value(nth, |m| m.memory),
        );
    }
    let cost = ratio(1, 0, |m| m.cpu_per_call);
    println!("every span exported costs {cost:.3} of the processor of none; the goal is {GOAL:.2}");
}
