//! What is logged, and how.

use std::path::PathBuf;

use tracing_subscriber::filter::LevelFilter;

use crate::config::reader::Reader;

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct Log {
    /// How a line is written.
    pub format: LogFormat,
    /// `off`, `error`, `warn`, `info`, `debug` or `trace`; with `target=level` for parts, separated by commas.
    pub level: String,
    /// A file with a level that holds instead, and that is followed.
    pub level_file: Option<PathBuf>,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl Log {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            format: reader.log_format("log.format", LogFormat::Auto),
            level: reader.text("log.level", "info", checked_level),
            level_file: reader.path("log.level_file"),
        }
    }
}

/// Whether a log level is one. Stricter than the filter it is for, which takes a misspelt level for the name of a module and logs nothing.
pub fn checked_level(text: &str) -> Result<(), (&'static str, &'static str)> {
    let is_level = |level: &str| !level.is_empty() && level.parse::<LevelFilter>().is_ok();
    let is_directive = |part: &str| match part.trim().rsplit_once('=') {
        Some((target, level)) => !target.is_empty() && is_level(level),
        None => is_level(part.trim()),
    };
    if text.split(',').all(is_directive) {
        Ok(())
    } else {
        Err((
            "is not a log level",
            "write off, error, warn, info, debug or trace, or such as \"info,payops=debug\"",
        ))
    }
}
