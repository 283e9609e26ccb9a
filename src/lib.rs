//! payops: the payment-operations boundary.

pub mod callers;
pub mod config;
pub mod sandbox;
