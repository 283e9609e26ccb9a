//! payops: the payment-operations boundary. Internal services call one typed
//! gRPC service to capture, void and refund; payops forwards to Dintero, which
//! has no idempotency keys, and sees to it that money moves at most once per
//! key, that no answer is false, and that every operation ends.
//!
//! # The map, in the order in which a request passes
//!
//! ```text
//! HTTP/2 -> listener -> inbound (trace id, deadline, span)   | 405, 415: not gRPC
//!   auth                    headers -> Caller            | UNAUTHENTICATED, body never read
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
//! Beside that path: [`reconcile`] reads back what is in doubt, [`retention`]
//! forgets what is old, [`health`] tells the truth about readiness, [`sandbox`]
//! is a Dintero to try it with.
//! [`app`] is the one room that knows all the others.
//!
//! Absent on purpose: nothing repeats a POST; no transaction of the journal is
//! open while the PSP is called; nothing below [`grpc`] knows a message of the
//! wire; nothing above [`psp::dintero`] knows Dintero's JSON.

pub mod app;
pub mod listener;
pub mod inbound;
pub mod auth;
pub mod callers;
pub mod grpc;
pub mod health;
pub mod operations;
pub mod detach;
pub mod idempotency;
pub mod attempt;
pub mod conclude;
pub mod reconcile;
pub mod retention;
pub mod failure;
pub mod journal;
pub mod psp;
pub mod payment;
pub mod clock;
pub mod config;
pub mod telemetry;
pub mod sandbox;
