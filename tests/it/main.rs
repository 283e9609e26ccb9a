//! One test binary; a module per capability.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

mod support;

mod abuse;
mod audit;
mod bad_input;
mod batch;
mod canary;
mod chaos;
mod chart;
mod client;
mod collector;
mod config;
mod connections;
mod console;
mod database;
mod contract;
mod doctor;
mod doubt;
mod egress;
mod exactly_once;
mod fleet;
mod frames;
mod guarantees;
mod identity;
mod journal;
mod kills;
mod metrics;
mod model;
mod money;
mod operations_cli;
mod ordeal;
mod overload;
mod pictures;
mod place;
mod policy;
mod process;
mod published;
mod readme;
mod recovery;
mod replicas;
mod review;
mod rolling;
mod rotation;
mod runbook;
mod sandbox;
mod seen;
mod serving;
mod started;
mod sweep;
mod threats;
mod tidy;
mod tls;
mod traces;
mod webhook;
