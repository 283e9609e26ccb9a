//! `payops journal`: for whoever looks after the journal. A payops that runs on
//! it goes on; only an export wants it stopped.

use std::path::{Path, PathBuf};

use crate::cli::{
    EXIT_CONFIGURATION, EXIT_UNAVAILABLE, Failed,
    place::{Place, configured},
    print,
};
use crate::clock::Timestamp;
use crate::config::{self, Config};
use crate::journal::{
    audit::Key,
    embedded::{self, Checked, Stats},
    postgres::{self, Imported},
    transfer::Sum,
};
use clap::Subcommand;

/// Look after the journal
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a copy of the journal, running or not, to a new file
    ///
    /// To restore it, put it as journal.sqlite into an empty folder and start: what came after it is lost, and payops
    /// takes care of that.
    Backup {
        /// The file; it must not be there yet
        file: PathBuf,
        /// Where the journal is.
        #[command(flatten)]
        place: Place,
    },
    /// Write the journal of a stopped payops to a new file, to move it to PostgreSQL
    ///
    /// From then on no payops starts on the folder: two journals of one account would each send.
    Export {
        /// The file; it must not be there yet
        #[arg(required_unless_present = "undo")]
        file: Option<PathBuf>,
        /// The file was imported nowhere: let the folder be the journal again
        #[arg(long, conflicts_with = "file")]
        undo: bool,
        /// Where the journal is.
        #[command(flatten)]
        place: Place,
    },
    /// Take such a file into an empty journal in PostgreSQL, all of it or nothing
    ///
    /// The same file again changes nothing.
    Import {
        /// The file
        file: PathBuf,
        /// The configuration file (or PAYOPS_CONFIG)
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// Check all that a start checks
    Check {
        /// Where the journal is.
        #[command(flatten)]
        place: Place,
    },
    /// Count operations by state, and show sizes and generation
    Stats {
        /// Where the journal is.
        #[command(flatten)]
        place: Place,
    },
}

/// Carries it out.
pub async fn run(command: &Command) -> Result<(), Failed> {
    let text = answer(command).await?;
    print(&text).map(|_| ())
}

async fn answer(command: &Command) -> Result<String, Failed> {
    Ok(match command {
        Command::Backup { file, place } => {
            let Checked { entries, .. } = embedded::backup(&place.directory()?, file).map_err(told)?;
            format!("{}: {entries} operations, checked and synced\n", file.display())
        }
        Command::Export { file: Some(file), place, .. } => {
            let Sum { entries, tombstones, .. } =
                embedded::export(&place.directory()?, file).map_err(told)?;
            format!(
                "{}: {entries} operations and {tombstones} tombstones, checked and synced\n",
                file.display()
            )
        }
        Command::Export { file: None, place, .. } => {
            embedded::take_back(&place.directory()?).map_err(told)?;
            "The folder may be used again.\n".to_owned()
        }
        Command::Import { file, config } => {
            let (database, key) = database(config.as_deref())?;
            let Imported { sum, again } = postgres::import(&database, &key, file).await.map_err(told)?;
            let so =
                if again { "had been imported before; nothing was changed" } else { "are in the journal" };
            format!("{} operations and {} tombstones {so}\n", sum.entries, sum.tombstones)
        }
        Command::Check { place } => {
            let Checked { entries, in_use } = embedded::check(&place.directory()?).map_err(told)?;
            let log = if in_use { " (in use: all but its log was checked)" } else { "" };
            format!("The journal is sound: {entries} operations{log}\n")
        }
        Command::Stats { place } => table(&embedded::stats(&place.directory()?).map_err(told)?),
    })
}

/// The database that the configuration names, and the key of its audit.
fn database(config: Option<&Path>) -> Result<(config::Postgres, Key), Failed> {
    let Config { journal, audit, .. } = configured(config)?;
    let missing = || {
        let why = "journal.postgres.url: is missing; a journal is imported into PostgreSQL";
        Failed::new(why, EXIT_CONFIGURATION)
    };
    let keys = Key::configured(&audit).map_err(told)?;
    Ok((journal.postgres.ok_or_else(missing)?, keys.into_iter().next().unwrap_or_else(Key::none)))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn told(error: crate::journal::Error) -> Failed {
    Failed::new(error.to_string(), EXIT_UNAVAILABLE)
}

fn table(stats: &Stats) -> String {
    let mut rows: Vec<(String, String)> =
        stats.states.iter().map(|(state, count)| (state.clone(), count.to_string())).collect();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    row("tombstones", stats.tombstones.to_string());
    row("oldest", stats.oldest.map_or_else(none, date));
    row("oldest open", stats.oldest_open.map_or_else(none, date));
    row("file bytes", format!("{} ({} free)", stats.file_bytes, stats.free_bytes));
    row("log bytes", stats.log_bytes.to_string());
    row("generation", stats.generation.to_string());
    row("lost", stats.lost_at.map_or_else(|| "never".to_owned(), date));
    row("backup", if stats.is_backup { "yes, never opened" } else { "no" }.to_owned());
    row("moved", if stats.is_moved { "yes, exported" } else { "no" }.to_owned());
    row("in use", if stats.in_use { "yes" } else { "no" }.to_owned());
    let lines = rows.iter().map(|(name, value)| format!("{name:12}  {value}\n"));
    lines.collect()
}

fn none() -> String {
    "none".to_owned()
}

fn date(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| at.0.to_string(), |at| at.to_string())
}
