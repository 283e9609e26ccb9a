//! The configuration: one TOML file plus the environment, validated as a whole.
