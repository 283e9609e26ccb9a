//! Each statement over entries and tombstones, once.

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row, ToSql, params, params_from_iter};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::journal::embedded::audit::Batch;
use crate::journal::entry::Entry;
use crate::journal::record::{self, encode, hash_of_key, signed};
use crate::journal::{Error, Filter, OpenState, Tombstone, Written};

pub(super) use crate::journal::record::checksum;
use crate::payment::id::{CallerName, IdempotencyKey, OperationId, TransactionId};

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

/// Every open entry. A damaged one is an error: who was its sender cannot be
/// told.
pub(super) fn open(connection: &Connection) -> Result<Vec<Entry>, Error> {
    let mut statement = connection
        .prepare("SELECT record, checksum FROM operations INDEXED BY operations_slot WHERE open = 1")
        .map_err(unavailable)?;
    let rows = statement.query_map([], raw).map_err(unavailable)?;
    rows.map(|row| row.map_err(unavailable).and_then(decode)).collect()
}

/// How many are open, by state.
pub(super) fn open_states(connection: &Connection) -> Result<Vec<OpenState>, Error> {
    let mut statement = connection
        .prepare_cached(
            "SELECT state, count(*), min(updated_at) FROM operations INDEXED BY operations_slot WHERE open = 1
             GROUP BY state",
        )
        .map_err(unavailable)?;
    let rows = statement
        .query_map([], |row| {
            let (count, since) = (row.get::<_, i64>(1)?, Timestamp(row.get(2)?));
            Ok(OpenState { state: row.get(0)?, count: u64::try_from(count).unwrap_or_default(), since })
        })
        .map_err(unavailable)?;
    rows.collect::<rusqlite::Result<_>>().map_err(unavailable)
}

/// Every entry, in the order in which they came.
pub(super) fn each(
    connection: &Connection,
    mut take: impl FnMut(Entry) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut statement =
        connection.prepare("SELECT record, checksum FROM operations ORDER BY id").map_err(unavailable)?;
    let mut rows = statement.query([]).map_err(unavailable)?;
    while let Some(row) = rows.next().map_err(unavailable)? {
        take(decode(raw(row).map_err(unavailable)?)?)?;
    }
    Ok(())
}

/// Every tombstone: the hash of its key, and the state.
pub(super) fn each_tombstone(
    connection: &Connection,
    mut take: impl FnMut(Vec<u8>, String) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut statement =
        connection.prepare("SELECT key, state FROM tombstones ORDER BY key").map_err(unavailable)?;
    let mut rows = statement.query([]).map_err(unavailable)?;
    while let Some(row) = rows.next().map_err(unavailable)? {
        let (key, state) = (row.get(0).map_err(unavailable)?, row.get(1).map_err(unavailable)?);
        take(key, state)?;
    }
    Ok(())
}

/// What stands in the way of a first entry.
pub(super) fn rival(connection: &Connection, entry: &Entry) -> Result<Option<Written>, Error> {
    if let Some(other) = by_key(connection, &entry.caller, &entry.key)? {
        // The same write again: a repeat of one that was not acknowledged.
        let same = other.nonce == entry.nonce;
        return Ok(Some(if same { Written::Done } else { Written::KeyTaken(Box::new(other)) }));
    }
    if let Some(tombstone) = tombstone(connection, &entry.caller, &entry.key)? {
        return Ok(Some(Written::Forgotten(tombstone)));
    }
    let open = open_on(connection, &entry.operation.transaction)?;
    Ok(open.map(|other| Written::Busy(Box::new(other))))
}

/// Writes a first entry, in whose way nothing stands. Tells the audit.
pub(super) fn insert(
    connection: &Connection,
    entry: &Entry,
    audit: &mut Batch<'_>,
) -> Result<Written, Error> {
    let (record, checksum) = encode(entry)?;
    connection
        .prepare_cached(
            "INSERT INTO operations
             (id, caller, key, transaction_id, state, open, revision, created_at, updated_at, next_read_at,
              record, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
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
                entry.updated_at.0,
                entry.reading.next_at.map(|at| at.0),
                record,
                checksum,
            ])
        })
        .map_err(unavailable)?;
    audit.wrote(entry, &checksum)?;
    Ok(Written::Done)
}

/// Whether the entry is what the change was made from.
pub(super) fn is_current(connection: &Connection, entry: &Entry) -> Result<bool, Error> {
    connection
        .prepare_cached("SELECT 1 FROM operations WHERE id = ?1 AND revision = ?2")
        .and_then(|mut statement| statement.exists(params![entry.id.as_bytes(), signed(entry.follows)]))
        .map_err(unavailable)
}

/// Entries that changed since then.
pub(super) fn changed_since(connection: &Connection, since: Timestamp) -> Result<Vec<Entry>, Error> {
    let mut statement = connection
        .prepare("SELECT record, checksum FROM operations WHERE updated_at >= ?1")
        .map_err(unavailable)?;
    let rows = statement.query_map([since.0], raw).map_err(unavailable)?;
    rows.map(|row| row.map_err(unavailable).and_then(decode)).collect()
}

/// Writes a change over the revision that it was made from. Tells the audit.
pub(super) fn update(
    connection: &Connection,
    entry: &Entry,
    audit: &mut Batch<'_>,
) -> Result<Written, Error> {
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
             SET state = ?1, open = ?2, revision = ?3, updated_at = ?4, next_read_at = ?5, record = ?6,
                 checksum = ?7
             WHERE id = ?8 AND revision = ?9",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                entry.state.as_str(),
                entry.state.is_open(),
                signed(entry.revision),
                entry.updated_at.0,
                entry.reading.next_at.map(|at| at.0),
                record,
                checksum,
                entry.id.as_bytes(),
                signed(entry.follows),
            ])
        })
        .map_err(unavailable)?;
    if changed == 0 {
        return Ok(Written::Stale);
    }
    audit.wrote(entry, &checksum)?;
    Ok(Written::Done)
}

/// Forgets up to `most` entries that are over and did not change since
/// `before`. A key that was minted since then, or does not tell when it was,
/// leaves a tombstone.
pub(super) fn forget(connection: &Connection, before: Timestamp, most: usize) -> Result<usize, Error> {
    let over = over(connection, before, most)?;
    for (id, caller, key, state) in &over {
        let tells_its_age = key
            .parse::<IdempotencyKey>()
            .is_ok_and(|key| key.minted_at().is_some_and(|minted_at| minted_at < before.0));
        if !tells_its_age {
            let hash = hash_of_key(caller, key);
            let sum = checksum(&[&hash, state.as_bytes()]);
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO tombstones (key, state, checksum) VALUES (?1, ?2, ?3)",
                )
                .and_then(|mut statement| statement.execute(params![hash, state, sum.get(..8)]))
                .map_err(unavailable)?;
        }
        connection
            .prepare_cached("DELETE FROM operations WHERE id = ?1")
            .and_then(|mut statement| statement.execute([id]))
            .map_err(unavailable)?;
    }
    Ok(over.len())
}

type Over = (Vec<u8>, String, String, String);

fn over(connection: &Connection, before: Timestamp, most: usize) -> Result<Vec<Over>, Error> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let mut statement = connection
        .prepare_cached(
            "SELECT id, caller, key, state FROM operations
             WHERE open = 0 AND updated_at < ?1 ORDER BY updated_at LIMIT ?2",
        )
        .map_err(unavailable)?;
    let rows = statement
        .query_map(params![before.0, most], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .map_err(unavailable)?;
    rows.collect::<rusqlite::Result<_>>().map_err(unavailable)
}

pub(super) fn tombstone(
    connection: &Connection,
    caller: &CallerName,
    key: &IdempotencyKey,
) -> Result<Option<Tombstone>, Error> {
    connection
        .prepare_cached("SELECT state FROM tombstones WHERE key = ?1")
        .and_then(|mut statement| {
            let hash = hash_of_key(caller.as_str(), key.as_str());
            statement.query_row([hash], |row| Ok(Tombstone { state: row.get(0)? })).optional()
        })
        .map_err(unavailable)
}

/// An error of `SQLite` in our words.
#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
pub(super) fn unavailable(error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Error::Corrupt(error.to_string()),
        _ => Error::Unavailable(error.to_string()),
    }
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

/// Compares everything that is stored of each entry and each tombstone with its
/// checksum and its record. Says how many entries there are.
pub(super) fn verify(connection: &Connection) -> Result<u64, Error> {
    let (mut entries, mut damaged) = (0, None);
    judge(connection, |id, entry| {
        entries += 1;
        if entry.is_none() {
            damaged.get_or_insert_with(|| id.to_owned());
        }
    })?;
    if let Some(id) = damaged {
        return Err(Error::Corrupt(format!("the entry of operation {id} is not what was written")));
    }
    verify_tombstones(connection)?;
    Ok(entries)
}

/// Each entry by its id, with its checksum; none where what is stored of it does
/// not fit together.
pub(super) fn judge(
    connection: &Connection,
    mut take: impl FnMut(&str, Option<(Entry, Vec<u8>)>),
) -> Result<(), Error> {
    let mut statement = connection
        .prepare(
            "SELECT record, checksum, id, caller, key, transaction_id, state, open, revision, created_at,
                    updated_at, next_read_at
             FROM operations",
        )
        .map_err(unavailable)?;
    let mut rows = statement.query([]).map_err(unavailable)?;
    while let Some(row) = rows.next().map_err(unavailable)? {
        let id = row.get::<_, [u8; 16]>(2).map(Uuid::from_bytes).unwrap_or_default();
        // What is no number, or no text, is no longer what was written.
        take(&id.to_string(), sound(row).unwrap_or(None));
    }
    Ok(())
}

/// Compares what is stored of each tombstone.
pub(super) fn verify_tombstones(connection: &Connection) -> Result<(), Error> {
    let mut statement =
        connection.prepare("SELECT key, state, checksum FROM tombstones").map_err(unavailable)?;
    let mut rows = statement.query([]).map_err(unavailable)?;
    while let Some(row) = rows.next().map_err(unavailable)? {
        let read = || Ok::<_, rusqlite::Error>((row.get(0)?, row.get(1)?, row.get(2)?));
        let sound = read().is_ok_and(|(key, state, sum): (Vec<u8>, String, Vec<u8>)| {
            checksum(&[&key, state.as_bytes()]).get(..8) == Some(sum.as_slice())
        });
        if !sound {
            return Err(Error::Corrupt("a tombstone is not what was written".to_owned()));
        }
    }
    Ok(())
}

fn sound(row: &Row<'_>) -> rusqlite::Result<Option<(Entry, Vec<u8>)>> {
    let (record, sum) = raw(row)?;
    let Ok(entry) = record::decode(&record, &sum) else { return Ok(None) };
    let fits = row.get::<_, [u8; 16]>(2)? == *entry.id.as_bytes()
        && row.get_ref(3)?.as_str()? == entry.caller.as_str()
        && row.get_ref(4)?.as_str()? == entry.key.as_str()
        && row.get_ref(5)?.as_str()? == entry.operation.transaction.as_str()
        && row.get_ref(6)?.as_str()? == entry.state.as_str()
        && row.get::<_, i64>(7)? == i64::from(entry.state.is_open())
        && row.get::<_, i64>(8)? == signed(entry.revision)
        && row.get::<_, i64>(9)? == entry.created_at.0
        && row.get::<_, i64>(10)? == entry.updated_at.0
        && row.get::<_, Option<i64>>(11)? == entry.reading.next_at.map(|at| at.0);
    Ok(fits.then_some((entry, sum)))
}

fn decode((record, checksum): (String, Vec<u8>)) -> Result<Entry, Error> {
    record::decode(&record, &checksum)
}
