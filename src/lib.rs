//! payops: the payment-operations boundary. Internal services call one typed
//! gRPC service to capture, void and refund; payops forwards to Dintero, which
//! has no idempotency keys, and sees to it that money moves at most once per
//! key, that no answer is false, and that every operation ends.
//!
//! # The map, in the order in which a request passes
//!
//! ```text
//! HTTP/2 -> listener (TLS) -> inbound (trace id, deadline, span)   | 405, 415: not gRPC
//!   auth                    headers, certificate -> Caller   | UNAUTHENTICATED, body never read
//!     generated server      frames -> CaptureRequest
//!       grpc::Adapter       request + metadata + Caller -> Command   | INVALID_ARGUMENT
//!         operations        one stack of typed tower services:
//!           detach            runs on when the caller hangs up
//!           idempotency       replay, join, or run
//!           load shed, concurrency limit
//!           attempt           check, record, send once, record
//!             timeout           bounds the wait, not the effect
//!             psp::dintero      Command -> HTTPS -> evidence
//!       grpc::status        outcome or failure -> answer
//! ```
//!
//! Beside that path: [`issuer`] verifies for [`auth`] the tokens that others
//! signed, [`reconcile`] reads back what is in doubt, [`webhook`]
//! makes it read at once what the PSP says has changed, [`sweep`] compares the
//! journal with the PSP's list, [`retention`] forgets what is old, [`review`]
//! shows persons what it cannot decide and lets two of them, [`health`] tells the truth about readiness, [`sandbox`] is a Dintero to
//! try it with. [`cli`] is for people at a terminal, and [`app`] the one room
//! that knows all the others.
//!
//! Absent on purpose: nothing repeats a POST; no transaction of the journal is
//! open while the PSP is called; nothing below [`grpc`] knows a message of the
//! wire; nothing above [`psp::dintero`] knows Dintero's JSON.

/// Whether a wrong design is switched on: only the tests of the simulation can,
/// to see that it would be caught. Anywhere else this is `false`.
macro_rules! wrong {
    ($design:ident) => {{
        #[cfg(test)]
        {
            crate::wrong::is_on(crate::wrong::Design::$design)
        }
        #[cfg(not(test))]
        {
            false
        }
    }};
}

pub mod app;
pub mod listener;
pub mod inbound;
pub mod audit;
pub mod auth;
pub mod callers;
pub mod policy;
pub mod issuer;
pub mod grpc;
pub mod health;
pub mod operations;
pub mod detach;
pub mod idempotency;
pub mod attempt;
pub mod conclude;
pub mod reconcile;
pub mod sweep;
pub mod webhook;
pub mod review;
pub mod retention;
pub mod failure;
pub mod journal;
pub mod psp;
pub mod payment;
pub mod clock;
pub mod config;
pub mod metrics;
pub mod telemetry;
pub mod trace;
pub mod cli;
pub mod sandbox;

#[cfg(any(test, fuzzing))]
#[path = "../tests/fuzz/targets.rs"]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a target fails by panicking")]
mod fuzz;
#[cfg(fuzzing)]
pub use crate::fuzz::run as fuzz_target;

#[cfg(test)]
#[path = "../tests/simulation.rs"]
#[allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::items_after_statements,
    clippy::needless_pass_by_value,
    clippy::collapsible_match,
    clippy::duration_suboptimal_units,
    reason = "a test fails by panicking, and a model is written for its readers"
)]
mod simulation;
#[cfg(test)]
#[path = "../tests/simulation/wrong.rs"]
mod wrong;
