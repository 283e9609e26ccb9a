//! payops: the payment-operations boundary.

pub mod config;
pub mod sandbox;
