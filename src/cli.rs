//! What people do from a terminal: with a boundary that runs, as a client of its
//! contract like any other, and with a journal. Tables for people, JSON for
//! programs.

pub mod audit;
pub mod batch;
mod boundary;
pub mod doctor;
pub mod journal;
pub mod operations;
mod place;
pub mod policy;

use std::io::{self, IsTerminal as _, Write as _};

/// The boundary said no.
pub const EXIT_REFUSED: u8 = 1;
/// The boundary could not be reached, or was not there to the end.
pub const EXIT_UNAVAILABLE: u8 = 69;
/// What is needed to ask is missing or wrong: a token, a certificate.
pub const EXIT_CONFIGURATION: u8 = 78;

/// How an answer is printed.
#[derive(Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    #[default]
    Table,
    Json,
}

/// Why a command ended badly.
#[derive(Debug)]
pub struct Failed {
    /// What to tell.
    pub why: String,
    /// The exit code.
    pub code: u8,
}

impl Failed {
    fn new(why: impl Into<String>, code: u8) -> Self {
        Self { why: why.into(), code }
    }
}

/// Prints; false once nobody reads any more.
fn print(text: &str) -> Result<bool, Failed> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failed::new(format!("cannot print: {error}"), EXIT_UNAVAILABLE)),
    }
}

/// JSON for a terminal: indented, with a newline at its end.
fn json_text(value: &serde_json::Value) -> Result<String, Failed> {
    let text = serde_json::to_string_pretty(value);
    let text = text.map_err(|error| Failed::new(format!("a defect: {error}"), EXIT_UNAVAILABLE))?;
    Ok(format!("{text}\n"))
}

/// Tells people something that is no result.
fn remark(text: &str) {
    // If stderr is gone there is nobody to tell.
    drop(writeln!(io::stderr(), "payops: {text}"));
}

/// Whether to colour: only for a person at a terminal who does not mind.
fn colours() -> bool {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !plain
}
