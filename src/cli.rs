//! The larger commands, one module each.

pub mod journal;
