//! The tables, and how a file is opened. The record is the entry as JSON with a
//! checksum; the other columns only serve to find it and to keep two rules: a
//! key is there once, a transaction has one open entry.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, config::DbConfig};

use crate::journal::{Error, embedded::rows::unavailable};

/// "payo": marks the file as ours.
const APPLICATION_ID: i32 = 0x7061_796f;
/// Rises when a table changes in a way that another payops cannot read.
const FORMAT: i32 = 3;

const TABLES: &str = "
CREATE TABLE operations (
    id             BLOB NOT NULL PRIMARY KEY,
    caller         TEXT NOT NULL,
    key            TEXT NOT NULL,
    transaction_id TEXT NOT NULL,
    state          TEXT NOT NULL,
    open           INTEGER NOT NULL,
    revision       INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL,
    next_read_at   INTEGER,
    record         TEXT NOT NULL,
    checksum       BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX operations_key  ON operations (caller, key);
CREATE UNIQUE INDEX operations_slot ON operations (transaction_id) WHERE open = 1;
CREATE INDEX operations_transaction ON operations (transaction_id);
CREATE INDEX operations_due ON operations (next_read_at) WHERE next_read_at IS NOT NULL;
CREATE INDEX operations_age ON operations (updated_at) WHERE open = 0;
CREATE TABLE tombstones (
    key      BLOB NOT NULL PRIMARY KEY,
    state    TEXT NOT NULL,
    checksum BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1), record TEXT NOT NULL, checksum BLOB NOT NULL) STRICT;
CREATE TABLE progress (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    commits  INTEGER NOT NULL,
    head     TEXT NOT NULL,
    checksum BLOB NOT NULL
) STRICT;
CREATE TABLE audit (
    chain BLOB NOT NULL,
    batch INTEGER NOT NULL,
    place INTEGER NOT NULL,
    body  TEXT NOT NULL,
    link  BLOB NOT NULL,
    PRIMARY KEY (chain, batch, place)
) STRICT, WITHOUT ROWID;
";

/// Opens the file for its one writer, or makes it. [`use_log`] comes next, once
/// the file is known to be ours.
pub(super) fn open_to_write(file: &Path) -> Result<Connection, Error> {
    open(file, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)
}

/// From now on an acknowledged commit is in the write-ahead log, and flushed.
pub(super) fn use_log(connection: &Connection) -> Result<(), Error> {
    // The setting answers with the mode that is in force.
    let mode: String = connection
        .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))
        .map_err(unavailable)?;
    if mode != "wal" {
        return Err(Error::Unavailable("a write-ahead log cannot be used there".to_owned()));
    }
    // FULL: a commit is flushed before it is acknowledged.
    for (name, value) in [("synchronous", 2), ("wal_autocheckpoint", 10_000)] {
        connection.pragma_update(None, name, value).map_err(unavailable)?;
    }
    Ok(())
}

/// Brings what the log holds into the file, synced, and begins a new log.
pub(super) fn empty_log(connection: &Connection) -> Result<(), Error> {
    let (in_log, moved): (i64, i64) = connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| Ok((row.get(1)?, row.get(2)?)))
        .map_err(unavailable)?;
    if in_log == moved {
        Ok(())
    } else {
        Err(Error::Unavailable("another program is reading the journal: end it first".to_owned()))
    }
}

/// Opens the file for a reader beside its writer.
pub(super) fn open_to_read(file: &Path) -> Result<Connection, Error> {
    let connection = open(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.pragma_update(None, "query_only", true).map_err(unavailable)?;
    Ok(connection)
}

/// Opens the file for somebody who has no part in it: nothing is changed, not
/// even by closing it.
pub(super) fn open_to_inspect(file: &Path) -> Result<Connection, Error> {
    let connection = open(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(unavailable)?;
    Ok(connection)
}

fn open(file: &Path, flags: OpenFlags) -> Result<Connection, Error> {
    let connection = Connection::open_with_flags(file, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(|error| Error::Unavailable(format!("{}: {error}", file.display())))?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(unavailable)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Whether nothing was ever written to it.
pub(super) fn is_empty(connection: &Connection) -> Result<bool, Error> {
    let (application, format) = mark(connection)?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(unavailable)?;
    Ok((application, format, tables) == (0, 0, 0))
}

/// Makes the tables, inside the caller's transaction.
pub(super) fn make(connection: &Connection) -> Result<(), Error> {
    connection.execute_batch(TABLES).map_err(unavailable)?;
    connection.pragma_update(None, "application_id", APPLICATION_ID).map_err(unavailable)?;
    connection.pragma_update(None, "user_version", FORMAT).map_err(unavailable)
}

/// Whether the file is a journal of this payops, with exactly its tables.
pub(super) fn verify(connection: &Connection) -> Result<(), Error> {
    let (application, format) = mark(connection)?;
    if application != APPLICATION_ID {
        return Err(Error::Corrupt("it is not a journal of payops".to_owned()));
    }
    if format != FORMAT {
        let age = if format > FORMAT { "a newer" } else { "an older" };
        return Err(Error::Unavailable(format!(
            "it was written by {age} payops (format {format}, this one knows {FORMAT}): use that one"
        )));
    }
    let model = Connection::open_in_memory().map_err(unavailable)?;
    model.execute_batch(TABLES).map_err(unavailable)?;
    if tables(connection)? != tables(&model)? {
        return Err(Error::Corrupt("its tables are not those of payops".to_owned()));
    }
    Ok(())
}

/// Whether every page, table and index is what it must be: an index that does
/// not fit its table would hide a key, and a key that is not found runs again.
pub(super) fn verify_structure(connection: &Connection) -> Result<(), Error> {
    let told: String =
        connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(unavailable)?;
    if told == "ok" { Ok(()) } else { Err(Error::Corrupt(told.replace('\n', " "))) }
}

fn mark(connection: &Connection) -> Result<(i32, i32), Error> {
    let pragma =
        |name: &str| connection.pragma_query_value(None, name, |row| row.get(0)).map_err(unavailable);
    Ok((pragma("application_id")?, pragma("user_version")?))
}

type Table = (String, String, String, Option<String>);

/// What `ANALYZE` of an operator left behind is no matter.
fn tables(connection: &Connection) -> Result<Vec<Table>, Error> {
    let mut statement = connection
        .prepare(
            "SELECT type, name, tbl_name, sql FROM sqlite_schema
             WHERE name NOT LIKE 'sqlite_stat%' ORDER BY type, name",
        )
        .map_err(unavailable)?;
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .map_err(unavailable)?;
    rows.collect::<rusqlite::Result<_>>().map_err(unavailable)
}
