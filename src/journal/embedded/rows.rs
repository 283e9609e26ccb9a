//! The table, and each statement once. The record is the entry as JSON with a
//! checksum; the other columns only serve to find it and to keep two rules: a
//! key is there once, a transaction has one open entry.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, ToSql, params, params_from_iter};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::journal::entry::{Entry, State};
use crate::journal::{Error, Filter, Written};
use crate::payment::id::{CallerName, IdempotencyKey, OperationId, TransactionId};

/// "payo": marks the file as ours.
const APPLICATION_ID: i32 = 0x7061_796f;
/// Rises when the table changes in a way that an older payops cannot read.
const FORMAT: i32 = 1;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS operations (
    id             BLOB PRIMARY KEY,
    caller         TEXT NOT NULL,
    key            TEXT NOT NULL,
    transaction_id TEXT NOT NULL,
    state          TEXT NOT NULL,
    open           INTEGER NOT NULL,
    revision       INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    next_read_at   INTEGER,
    record         TEXT NOT NULL,
    checksum       BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS operations_key  ON operations (caller, key);
CREATE UNIQUE INDEX IF NOT EXISTS operations_slot ON operations (transaction_id) WHERE open = 1;
CREATE INDEX IF NOT EXISTS operations_transaction ON operations (transaction_id);
CREATE INDEX IF NOT EXISTS operations_due ON operations (next_read_at) WHERE next_read_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS checks (id INTEGER PRIMARY KEY, at INTEGER NOT NULL) STRICT;
";

pub(super) fn open(file: &Path, writer: bool) -> Result<Connection, Error> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if writer {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    }
    let connection = Connection::open_with_flags(file, flags).map_err(unavailable)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(unavailable)?;
    connection.set_prepared_statement_cache_capacity(32);
    if !writer {
        connection.pragma_update(None, "query_only", true).map_err(unavailable)?;
        return Ok(connection);
    }
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let application = pragma("application_id").map_err(unavailable)?;
    let format = pragma("user_version").map_err(unavailable)?;
    if (application, format) != (0, 0) && application != APPLICATION_ID {
        return Err(Error::Corrupt(format!("{} is not a journal of payops", file.display())));
    }
    if format > FORMAT {
        return Err(Error::Unavailable(format!(
            "{} was written by a newer payops (format {format}, this one knows {FORMAT})",
            file.display()
        )));
    }
    // The setting answers with the mode that is in force.
    let mode: String = connection
        .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))
        .map_err(unavailable)?;
    if mode != "wal" {
        return Err(Error::Unavailable(format!("{} cannot use a write-ahead log", file.display())));
    }
    for (name, value) in [
        ("synchronous", 2), // FULL: an acknowledged commit is flushed.
        ("wal_autocheckpoint", 10_000),
        ("application_id", APPLICATION_ID),
        ("user_version", FORMAT),
    ] {
        connection.pragma_update(None, name, value).map_err(unavailable)?;
    }
    connection.execute_batch(SCHEMA).map_err(unavailable)?;
    Ok(connection)
}

pub(super) fn by_key(
    connection: &Connection,
    caller: &CallerName,
    key: &IdempotencyKey,
) -> Result<Option<Entry>, Error> {
    one(connection, "WHERE caller = ?1 AND key = ?2", params![caller.as_str(), key.as_str()])
}

pub(super) fn by_id(connection: &Connection, id: OperationId) -> Result<Option<Entry>, Error> {
    one(connection, "WHERE id = ?1", params![id.as_bytes()])
}

pub(super) fn open_on(connection: &Connection, transaction: &TransactionId) -> Result<Option<Entry>, Error> {
    one(connection, "WHERE transaction_id = ?1 AND open = 1", params![transaction.as_str()])
}

/// An entry, or the id of one that is damaged and why.
pub(super) type Read = Result<Entry, (Uuid, Error)>;

/// What is due, the longest due first.
pub(super) fn due(connection: &Connection, now: Timestamp, most: usize) -> Result<Vec<Read>, Error> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let mut statement = connection
        .prepare_cached(
            "SELECT record, checksum, id FROM operations
             WHERE next_read_at IS NOT NULL AND next_read_at <= ?1 ORDER BY next_read_at LIMIT ?2",
        )
        .map_err(unavailable)?;
    let rows = statement
        .query_map(params![now.0, most], |row| Ok((raw(row)?, row.get::<_, [u8; 16]>(2)?)))
        .map_err(unavailable)?;
    rows.map(|row| row.map(|(raw, id)| decode(raw).map_err(|error| (Uuid::from_bytes(id), error))))
        .collect::<rusqlite::Result<_>>()
        .map_err(unavailable)
}

/// Entries that fit, the youngest first: ids sort by age.
pub(super) fn list(
    connection: &Connection,
    filter: &Filter,
    before: Option<OperationId>,
    most: usize,
) -> Result<Vec<Entry>, Error> {
    let mut conditions = Vec::new();
    let mut values: Vec<Box<dyn ToSql>> = Vec::new();
    let mut wanted = |condition: &str, value: Box<dyn ToSql>| {
        values.push(value);
        conditions.push(condition.replace('?', &format!("?{}", values.len())));
    };
    if let Some(id) = before {
        wanted("id < ?", Box::new(*id.as_bytes()));
    }
    if let Some(transaction) = &filter.transaction {
        wanted("transaction_id = ?", Box::new(transaction.as_str().to_owned()));
    }
    if let Some(account) = &filter.account {
        // An account's name has one length and no wildcard.
        wanted("substr(transaction_id, 1, 9) = ?", Box::new(account.as_str().to_owned()));
    }
    if let Some(caller) = &filter.caller {
        wanted("caller = ?", Box::new(caller.as_str().to_owned()));
    }
    if let Some(from) = filter.from {
        wanted("created_at >= ?", Box::new(from.0));
    }
    if let Some(until) = filter.until {
        wanted("created_at < ?", Box::new(until.0));
    }
    if !filter.states.is_empty() {
        let states = filter.states.iter().map(|state| format!("'{state}'")).collect::<Vec<_>>().join(",");
        conditions.push(format!("state IN ({states})"));
    }
    let conditions = if conditions.is_empty() { "TRUE".to_owned() } else { conditions.join(" AND ") };
    let sql = format!(
        "SELECT record, checksum FROM operations WHERE {conditions} ORDER BY id DESC LIMIT {}",
        i64::try_from(most).unwrap_or(i64::MAX)
    );
    let mut statement = connection.prepare_cached(&sql).map_err(unavailable)?;
    let rows = statement.query_map(params_from_iter(values), raw).map_err(unavailable)?;
    rows.map(|row| row.map_err(unavailable).and_then(decode)).collect()
}

/// A damaged one is an error: who was its sender cannot be told.
pub(super) fn started(connection: &Connection) -> Result<Vec<Entry>, Error> {
    let mut statement = connection
        .prepare_cached("SELECT record, checksum FROM operations WHERE open = 1 AND state IN (?1, ?2)")
        .map_err(unavailable)?;
    let rows = statement
        .query_map(params![State::Started.as_str(), State::Resent.as_str()], raw)
        .map_err(unavailable)?;
    rows.map(|row| row.map_err(unavailable).and_then(decode)).collect()
}

pub(super) fn insert(connection: &Connection, entry: &Entry) -> Result<Written, Error> {
    if let Some(other) = by_key(connection, &entry.caller, &entry.key)? {
        // The same write again: a repeat of one that was not acknowledged.
        let same = other.nonce == entry.nonce;
        return Ok(if same { Written::Done } else { Written::KeyTaken(Box::new(other)) });
    }
    if let Some(other) = open_on(connection, &entry.operation.transaction)? {
        return Ok(Written::Busy(Box::new(other)));
    }
    let (record, checksum) = encode(entry)?;
    connection
        .prepare_cached(
            "INSERT INTO operations
             (id, caller, key, transaction_id, state, open, revision, created_at, next_read_at, record, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                entry.id.as_bytes(),
                entry.caller.as_str(),
                entry.key.as_str(),
                entry.operation.transaction.as_str(),
                entry.state.as_str(),
                entry.state.is_open(),
                signed(entry.revision),
                entry.created_at.0,
                entry.reading.next_at.map(|at| at.0),
                record,
                checksum,
            ])
        })
        .map_err(unavailable)?;
    Ok(Written::Done)
}

pub(super) fn update(connection: &Connection, entry: &Entry) -> Result<Written, Error> {
    if entry.state.is_open()
        && let Some(other) = open_on(connection, &entry.operation.transaction)?
        && other.id != entry.id
    {
        return Ok(Written::Busy(Box::new(other)));
    }
    let (record, checksum) = encode(entry)?;
    let changed = connection
        .prepare_cached(
            "UPDATE operations
             SET state = ?1, open = ?2, revision = ?3, next_read_at = ?4, record = ?5, checksum = ?6
             WHERE id = ?7 AND revision = ?8",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                entry.state.as_str(),
                entry.state.is_open(),
                signed(entry.revision),
                entry.reading.next_at.map(|at| at.0),
                record,
                checksum,
                entry.id.as_bytes(),
                signed(entry.revision.saturating_sub(1)),
            ])
        })
        .map_err(unavailable)?;
    Ok(if changed == 1 { Written::Done } else { Written::Stale })
}

/// A write that changes nothing anybody reads: proves that writing works.
pub(super) fn touch(connection: &Connection) -> Result<Written, Error> {
    connection
        .execute(
            "INSERT INTO checks (id, at) VALUES (1, unixepoch())
             ON CONFLICT (id) DO UPDATE SET at = excluded.at",
            [],
        )
        .map_err(unavailable)?;
    Ok(Written::Done)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
pub(super) fn unavailable(error: rusqlite::Error) -> Error {
    Error::Unavailable(error.to_string())
}

fn one(
    connection: &Connection,
    condition: &str,
    parameters: impl rusqlite::Params,
) -> Result<Option<Entry>, Error> {
    connection
        .prepare_cached(&format!("SELECT record, checksum FROM operations {condition}"))
        .and_then(|mut statement| statement.query_row(parameters, raw).optional())
        .map_err(unavailable)?
        .map(decode)
        .transpose()
}

fn raw(row: &Row<'_>) -> rusqlite::Result<(String, Vec<u8>)> {
    Ok((row.get(0)?, row.get(1)?))
}

fn encode(entry: &Entry) -> Result<(String, Vec<u8>), Error> {
    let record = serde_json::to_string(entry).map_err(|error| Error::Unavailable(error.to_string()))?;
    let checksum = Sha256::digest(record.as_bytes()).to_vec();
    Ok((record, checksum))
}

fn decode((record, checksum): (String, Vec<u8>)) -> Result<Entry, Error> {
    if Sha256::digest(record.as_bytes()).as_slice() != checksum {
        return Err(Error::Corrupt("its checksum does not fit".to_owned()));
    }
    serde_json::from_str(&record).map_err(|error| Error::Corrupt(error.to_string()))
}

fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}
