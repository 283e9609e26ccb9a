//! The `payops` command.

fn main() {}
