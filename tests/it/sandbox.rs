//! The simulator of Dintero, over real HTTP: every documented behaviour, every assumption, every fault.
//!
//! A doc comment cites the section of the project's notes on Dintero's API that a test rests on; section 12 holds the
//! assumptions.

pub mod world;

mod admin;
mod command;
mod docs;
mod documented;
mod faults;
mod marks;
mod misapplied;
mod operations;
mod products;
mod reading;
mod tokens;
pub mod webhooks;
