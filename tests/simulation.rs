//! The proof by simulation: the real layers, journal logic, client logic and
//! reconciler of one or more processes run in one thread under virtual time,
//! against simulated callers, network, disk and PSP. Every fault is drawn from
//! the seed; the same seed gives the same history, bit by bit.
//!
//! `PAYOPS_SEEDS=1000000 cargo test --profile simulation --lib simulation -- --nocapture`
//! runs as many histories as you like, from number `PAYOPS_FROM` on.

#[path = "simulation/backlog.rs"]
mod backlog;
#[path = "simulation/callers.rs"]
mod callers;
#[path = "simulation/checker.rs"]
mod checker;
#[path = "simulation/dice.rs"]
mod dice;
#[path = "simulation/line.rs"]
mod line;
#[path = "simulation/plan.rs"]
mod plan;
#[path = "simulation/point.rs"]
mod point;
#[path = "simulation/proof.rs"]
mod proof;
#[path = "simulation/psp.rs"]
mod psp;
#[path = "simulation/shelf.rs"]
mod shelf;
#[path = "simulation/stage.rs"]
mod stage;
#[path = "simulation/world.rs"]
mod world;
