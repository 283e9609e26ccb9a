//! `payops audit`: whether audit and journal are what was written, and the audit
//! for somebody else's eyes. A payops that runs on them goes on.

use std::{
    io::{self, BufWriter, Write as _},
    path::PathBuf,
};

use clap::Subcommand;

use crate::cli::{
    EXIT_CONFIGURATION, EXIT_REFUSED, EXIT_UNAVAILABLE, Failed,
    place::{Journal, Place},
    print,
};
use crate::config::{self, Source};
use crate::journal::{
    Error,
    audit::{
        Head, Key,
        archive::line,
        verify::{Report, Stored, Verifier},
    },
    embedded, postgres,
};

/// Look after the audit
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Find every record, and every entry of the journal, that is not what was written; exits with 1 if there is one
    Verify {
        /// A head that the log told: the chain has to be at least as long, and the same so far. Any number of them
        #[arg(long, value_name = "CHAIN:BATCH:LINK")]
        head: Vec<Head>,
        /// A file that was exported, with chains that are no longer in the journal. Any number of them
        #[arg(long, value_name = "FILE")]
        archive: Vec<PathBuf>,
        /// A file with the keys, one a line, instead of `audit.key_file`
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
        /// Chains that were written before there was a key are sound, too
        #[arg(long)]
        also_without_key: bool,
        /// Where the journal is.
        #[command(flatten)]
        place: Place,
    },
    /// Print every record as a line of JSON, with its place and what holds it there
    Export {
        /// Where the journal is.
        #[command(flatten)]
        place: Place,
    },
}

/// Carries it out.
pub async fn run(command: &Command) -> Result<(), Failed> {
    match command {
        Command::Verify { head, archive, key_file, also_without_key, place } => {
            let (journal, configured) = place.journal()?;
            let key = key_file.clone().map(Source::File).or(configured);
            let mut keys = Key::configured(&config::Audit { key })
                .map_err(|error| Failed::new(error.to_string(), EXIT_CONFIGURATION))?;
            if *also_without_key {
                keys.push(Key::none());
            }
            let keyed = keys.iter().all(Key::is_secret);
            let mut verifier = Verifier::new(keys);
            for head in head {
                verifier.expect(*head, "the log");
            }
            for file in archive {
                verifier.archive(file.clone());
            }
            let report = match journal {
                Journal::Embedded(directory) => embedded::verify(&directory, verifier),
                Journal::Postgres(database) => postgres::verify(&database, verifier).await,
            };
            told(&report.map_err(failed)?, keyed)
        }
        Command::Export { place } => {
            let mut out = BufWriter::new(io::stdout().lock());
            let mut write = |stored: &Stored<'_>| {
                let line = line(stored).map_err(io::Error::from);
                let written = line.and_then(|line| out.write_all(line.as_bytes()));
                written.map_err(|error| Error::Unavailable(error.to_string()))
            };
            let (journal, _) = place.journal()?;
            match journal {
                Journal::Embedded(directory) => embedded::records(&directory, write),
                Journal::Postgres(database) => postgres::records(&database, &mut write).await,
            }
            .and_then(|()| out.flush().map_err(|error| Error::Unavailable(error.to_string())))
            .map_err(failed)
        }
    }
}

fn told(report: &Report, keyed: bool) -> Result<(), Failed> {
    let Report { findings, found, records, chains, operations } = report;
    let all = format!("{records} records in {chains} chains, {operations} operations");
    if *found == 0 {
        let unkeyed =
            "; chains without a key of their own are held together for whoever does not know payops";
        return print(&format!("The audit is sound: {all}{}\n", if keyed { "" } else { unkeyed })).map(drop);
    }
    let mut lines = findings.clone();
    let untold = found.saturating_sub(u64::try_from(findings.len()).unwrap_or(u64::MAX));
    if untold > 0 {
        lines.push(format!("and {untold} more"));
    }
    lines.push(String::new());
    print(&lines.join("\n"))?;
    Err(Failed::new(format!("{found} findings in {all}"), EXIT_REFUSED))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn failed(error: Error) -> Failed {
    Failed::new(error.to_string(), EXIT_UNAVAILABLE)
}
