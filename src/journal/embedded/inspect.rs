//! A look at a journal from outside of the process that owns it: a check, a
//! count, a backup. Nothing of the journal is changed, and a payops that runs
//! on it goes on.

use std::{collections::BTreeMap, fs, path::Path};

use rusqlite::Connection;

use crate::clock::Timestamp;
use crate::journal::{
    Error,
    embedded::{
        meta::Meta,
        new_file::NewFile,
        opening::{self, Files, Lock},
        rows::unavailable,
        schema,
    },
};

/// A journal that is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// How many entries it has.
    pub entries: u64,
    /// A payops runs on it: its log is being written, and was not checked.
    pub in_use: bool,
}

/// What a journal holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// How many entries are in each state, by the word of journals.
    pub states: BTreeMap<String, u64>,
    /// When the oldest entry was written.
    pub oldest: Option<Timestamp>,
    /// When the oldest entry that is not over was written.
    pub oldest_open: Option<Timestamp>,
    /// Keys whose entries are forgotten and that did not tell their age.
    pub tombstones: u64,
    /// The length of the file, in bytes.
    pub file_bytes: u64,
    /// What of that is free to be used again, in bytes.
    pub free_bytes: u64,
    /// The length of the log beside it, in bytes.
    pub log_bytes: u64,
    /// How often the journal was lost, from 1.
    pub generation: u32,
    /// When it was lost the last time.
    pub lost_at: Option<Timestamp>,
    /// Whether it is a backup that was never opened.
    pub is_backup: bool,
    /// Whether it was exported, and lives elsewhere since.
    pub is_moved: bool,
    /// Whether a payops runs on it.
    pub in_use: bool,
}

pub(super) struct Look {
    pub(super) connection: Connection,
    pub(super) files: Files,
    /// Keeps a payops from starting meanwhile. None where none ever did.
    lock: Option<Lock>,
}

/// Checks all that a start checks.
pub fn check(directory: &Path) -> Result<Checked, Error> {
    let files = Files::of(directory);
    let checked = || {
        let look = look(directory)?;
        // First, so that commits in between do not seem to be missing.
        let found = look.files.acknowledged()?;
        let sound = opening::verify(&look.connection)?;
        opening::compare((sound.meta.generation, false), Some(&sound), found)?;
        Ok(Checked { entries: sound.entries, in_use: matches!(look.lock, Some(Lock::InUse)) })
    };
    checked().map_err(|error| files.tell(error))
}

/// Counts.
pub fn stats(directory: &Path) -> Result<Stats, Error> {
    let files = Files::of(directory);
    let counted = || {
        let Look { connection, files, lock } = look(directory)?;
        schema::verify(&connection)?;
        let meta = Meta::load(&connection)?;
        let number =
            |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(unavailable);
        let time = |sql: &str| {
            let at: Option<i64> = connection.query_row(sql, [], |row| row.get(0)).map_err(unavailable)?;
            Ok::<_, Error>(at.map(Timestamp))
        };
        let mut statement = connection
            .prepare("SELECT state, count(*) FROM operations GROUP BY state")
            .map_err(unavailable)?;
        let states = statement
            .query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)))
            .and_then(|rows| rows.map(|row| row.map(|(state, count)| (state, unsigned(count)))).collect())
            .map_err(unavailable)?;
        let length = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
        let page = number("PRAGMA page_size")?;
        Ok(Stats {
            states,
            oldest: time("SELECT min(created_at) FROM operations")?,
            oldest_open: time("SELECT min(created_at) FROM operations WHERE open = 1")?,
            tombstones: unsigned(number("SELECT count(*) FROM tombstones")?),
            file_bytes: length(&files.journal),
            free_bytes: unsigned(page.saturating_mul(number("PRAGMA freelist_count")?)),
            log_bytes: length(&files.log),
            generation: meta.generation,
            lost_at: meta.lost_at,
            is_backup: meta.copy,
            is_moved: meta.moved,
            in_use: matches!(lock, Some(Lock::InUse)),
        })
    };
    counted().map_err(|error| files.tell(error))
}

/// Writes a copy of the journal, as it is at this moment, to a new file. It is
/// marked: whoever opens it as a journal has lost what came after it.
pub fn backup(directory: &Path, target: &Path) -> Result<Checked, Error> {
    let files = Files::of(directory);
    let copied = || {
        let look = look(directory)?;
        schema::verify(&look.connection)?;
        let in_use = matches!(look.lock, Some(Lock::InUse));
        copy(&look.connection, target).map(|entries| Checked { entries, in_use })
    };
    copied().map_err(|error| files.tell(error))
}

fn copy(journal: &Connection, target: &Path) -> Result<u64, Error> {
    let (new, _) = NewFile::begin(target)?;
    let written =
        new.part().to_str().ok_or_else(|| Error::Unavailable("the file's name is not text".to_owned()))?;
    journal.execute("VACUUM INTO ?1", [written]).map_err(unavailable)?;
    let copy = schema::open_to_write(new.part())?;
    let sound = opening::verify(&copy)?;
    // It has no name before its mark.
    Meta { copy: true, ..sound.meta }.store(&copy)?;
    copy.close().map_err(|(_, error)| unavailable(error))?;
    new.finish()?;
    Ok(sound.entries)
}

pub(super) fn look(directory: &Path) -> Result<Look, Error> {
    let files = Files::of(directory);
    if !files.journal.exists() {
        return Err(Error::Unavailable("there is no journal.sqlite".to_owned()));
    }
    let lock = files.lock_if_there()?;
    if let Some(Lock::Taken(_)) | None = &lock {
        // What SQLite would forget, a copy would lack.
        files.verify_log()?;
    }
    let connection = schema::open_to_inspect(&files.journal)?;
    Ok(Look { connection, files, lock })
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_default()
}
