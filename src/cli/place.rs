//! Where a journal is, as it is said on the command line.

use std::path::PathBuf;

use clap::Args;

use crate::cli::{EXIT_CONFIGURATION, Failed};
use crate::config::{self, Config, Source};

/// Where the journal is.
#[derive(Debug, Args)]
pub struct Place {
    /// The configuration file (or PAYOPS_CONFIG)
    #[arg(long)]
    config: Option<PathBuf>,
    /// The folder of an embedded journal, where there is no configuration
    #[arg(long, conflicts_with = "config")]
    directory: Option<PathBuf>,
}

/// A journal, wherever it is.
pub(super) enum Journal {
    Embedded(PathBuf),
    Postgres(Box<config::Postgres>),
}

impl Place {
    /// The journal, and the source of the audit's keys where there is one.
    pub(super) fn journal(&self) -> Result<(Journal, Option<Source>), Failed> {
        if let Some(directory) = &self.directory {
            return Ok((Journal::Embedded(directory.clone()), None));
        }
        let config = configured(self.config.as_deref())?;
        let journal = match config.journal.postgres {
            Some(database) => Journal::Postgres(Box::new(database)),
            None => Journal::Embedded(config.journal.directory),
        };
        Ok((journal, config.audit.key))
    }

    /// The folder of an embedded journal.
    pub(super) fn directory(&self) -> Result<PathBuf, Failed> {
        match self.journal()?.0 {
            Journal::Embedded(directory) => Ok(directory),
            Journal::Postgres(_) => {
                let why = "the journal is in PostgreSQL: look after it with PostgreSQL's own tools";
                Err(Failed::new(why, EXIT_CONFIGURATION))
            }
        }
    }
}

/// The configuration of that file, or of the environment.
pub(super) fn configured(file: Option<&std::path::Path>) -> Result<Config, Failed> {
    Config::from_path(file, crate::config::variables()).map_err(|mistakes| {
        Failed::new(format!("the configuration is not usable:\n{mistakes}"), EXIT_CONFIGURATION)
    })
}
