//! Each statement over entries, once. Writes take many entries at a time.

use std::collections::HashSet;

use tokio_postgres::{
    Client, Row,
    types::{ToSql, Type},
};
use uuid::Uuid;

use crate::journal::{
    Error, Filter,
    entry::Entry,
    postgres::{
        audit::Told,
        connection::unavailable,
        opening::{NO_PARAMETERS, get},
    },
    record::{self, hash_of_key, signed},
};
use crate::payment::id::OperationId;

/// A value and its type, as statements take them.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);
/// The same, kept.
pub(super) type Value = (Box<dyn ToSql + Sync + Send>, Type);

pub(super) const BY_KEY: &str = "SELECT record, checksum, forgotten, state FROM payops.operations
    WHERE caller = $1 AND key = $2";
pub(super) const BY_ID: &str =
    "SELECT record, checksum FROM payops.operations WHERE id = $1 AND NOT forgotten";
pub(super) const OPEN_ON: &str =
    "SELECT record, checksum FROM payops.operations WHERE transaction_id = $1 AND open";
pub(super) const OPEN_STATES: &str =
    "SELECT state, count(*), min(updated_at) FROM payops.operations WHERE open GROUP BY state";
/// Of a key that was forgotten before its journal came here.
pub(super) const TOMBSTONE: &str = "SELECT state FROM payops.tombstones WHERE key = $1";
pub(super) const DUE: &str = "SELECT record, checksum, id FROM payops.operations
    WHERE next_read_at IS NOT NULL AND next_read_at <= $1 ORDER BY next_read_at LIMIT $2";
pub(super) const REVISIONS: &str = "SELECT id, revision FROM payops.operations WHERE id = ANY($1)";

/// The rivals of inserts that did nothing: for each, what its key has and what
/// its transaction has.
pub(super) const RIVALS: &str = "
SELECT u.n, k.record, k.checksum, k.forgotten, k.state, s.record, s.checksum, t.state,
       u.minted_at < (SELECT gone_before FROM payops.meta)
FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::int8[]) WITH ORDINALITY
    AS u (caller, key, transaction_id, hash, minted_at, n)
LEFT JOIN payops.tombstones t ON t.key = u.hash
LEFT JOIN payops.operations k ON k.caller = u.caller AND k.key = u.key
LEFT JOIN payops.operations s ON s.transaction_id = u.transaction_id AND s.open";

pub(super) const INSERT: &str = "
WITH written AS (
INSERT INTO payops.operations
    (id, caller, key, transaction_id, state, open, attempt, revision, nonce, lease_until, created_at, updated_at,
     next_read_at, record, checksum, minted_at)
SELECT u.id, u.caller, u.key, u.transaction_id, u.state, u.open, u.attempt, u.revision, u.nonce, u.lease_until,
       u.created_at, u.updated_at, u.next_read_at, u.record, u.checksum, u.minted_at
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bool[], $7::int8[], $8::int8[],
    $9::uuid[], $10::int8[], $11::int8[], $12::int8[], $13::int8[], $14::text[], $15::bytea[], $17::bytea[],
    $18::int8[])
    AS u (id, caller, key, transaction_id, state, open, attempt, revision, nonce, lease_until, created_at,
          updated_at, next_read_at, record, checksum, hash, minted_at)
WHERE EXISTS (SELECT FROM payops.meta
              WHERE epoch = $16 AND (u.minted_at < gone_before) IS NOT TRUE)
  AND NOT EXISTS (SELECT FROM payops.tombstones t WHERE t.key = u.hash)
ON CONFLICT DO NOTHING
RETURNING id), told AS (
INSERT INTO payops.audit (chain, batch, place, body, link)
SELECT $22, $23, a.place, a.body, a.link
FROM unnest($1::uuid[], $19::int4[], $20::text[], $21::bytea[]) AS a (id, place, body, link) JOIN written USING (id))
SELECT id FROM written";

/// A change of an attempt names it; a new attempt follows the one before it.
pub(super) const UPDATE: &str = "
WITH written AS (
UPDATE payops.operations o
SET state = u.state, open = u.open, attempt = u.attempt, revision = u.revision, nonce = u.nonce,
    lease_until = u.lease_until, updated_at = u.updated_at, next_read_at = u.next_read_at, record = u.record,
    checksum = u.checksum
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bool[], $7::int8[], $8::int8[],
    $9::uuid[], $10::int8[], $11::int8[], $12::int8[], $13::int8[], $14::text[], $15::bytea[], $17::int8[])
    WITH ORDINALITY
    AS u (id, caller, key, transaction_id, state, open, attempt, revision, nonce, lease_until, created_at,
          updated_at, next_read_at, record, checksum, follows, n)
WHERE o.id = u.id AND o.revision = u.follows AND NOT o.forgotten
  AND ((o.attempt = u.attempt AND o.nonce = u.nonce) OR o.attempt = u.attempt - 1)
  AND EXISTS (SELECT FROM payops.meta WHERE epoch = $16)
RETURNING u.n), told AS (
INSERT INTO payops.audit (chain, batch, place, body, link)
SELECT $21, $22, a.place, a.body, a.link
FROM unnest($18::int4[], $19::text[], $20::bytea[]) WITH ORDINALITY AS a (place, body, link, n) JOIN written USING (n))
SELECT n FROM written";

/// Takes the content from entries that are over, and leaves the keys.
pub(super) const FORGET: &str = "
WITH forgotten AS (
UPDATE payops.operations SET forgotten = true, record = '', checksum = '', next_read_at = NULL
WHERE id IN (SELECT id FROM payops.operations
             WHERE NOT open AND NOT forgotten AND updated_at < $1
             ORDER BY updated_at LIMIT $2 FOR UPDATE SKIP LOCKED)
  AND EXISTS (SELECT FROM payops.meta WHERE epoch = $3)
RETURNING id), told AS (
INSERT INTO payops.audit (chain, batch, place, body, link)
SELECT $7, $8, a.place, a.body, a.link FROM unnest($4::int4[], $5::text[], $6::bytea[]) AS a (place, body, link)
WHERE EXISTS (SELECT FROM forgotten))
SELECT id FROM forgotten";

/// From now on keys that tell their age are refused by it, if they are older.
/// In steps, of which few are written.
pub(super) const REFUSE: &str = "
UPDATE payops.meta SET gone_before = $1, gone_since = $2
WHERE epoch = $3 AND (gone_before >= $4) IS NOT TRUE";

/// Takes the rows of forgotten keys that have been refused by their age for so
/// long that no statement runs any more that did not know it.
pub(super) const PURGE: &str = "
DELETE FROM payops.operations
WHERE id IN (SELECT id FROM payops.operations
             WHERE forgotten AND minted_at < (SELECT gone_before FROM payops.meta
                                              WHERE gone_since < $1 AND epoch = $3)
             ORDER BY minted_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING id";

/// A write like any other, and of no meaning.
pub(super) const BEAT: &str = "
INSERT INTO payops.replicas (id, beat_at) SELECT $1, clock_timestamp()
WHERE EXISTS (SELECT FROM payops.meta WHERE epoch = $2)
ON CONFLICT (id) DO UPDATE SET beat_at = clock_timestamp()
RETURNING id";

/// Entries as they are and will stay: whoever sees them writes something in the
/// same transaction, whose commit comes after theirs on the same server.
pub(super) const LASTING: &str = "
WITH beat AS (
    INSERT INTO payops.replicas (id, beat_at) SELECT $1, clock_timestamp()
    WHERE EXISTS (SELECT FROM payops.meta WHERE epoch = $2)
    ON CONFLICT (id) DO UPDATE SET beat_at = clock_timestamp()
    RETURNING id)
SELECT o.id, o.record, o.checksum FROM beat, payops.operations o WHERE o.id = ANY($3) AND NOT o.forgotten";

/// Entries as columns.
#[derive(Default)]
pub(super) struct Columns {
    id: Vec<Uuid>,
    caller: Vec<String>,
    key: Vec<String>,
    transaction: Vec<String>,
    state: Vec<&'static str>,
    open: Vec<bool>,
    attempt: Vec<i64>,
    revision: Vec<i64>,
    follows: Vec<i64>,
    nonce: Vec<Uuid>,
    lease_until: Vec<i64>,
    created_at: Vec<i64>,
    updated_at: Vec<i64>,
    next_read_at: Vec<Option<i64>>,
    record: Vec<String>,
    pub(super) checksum: Vec<Vec<u8>>,
    hash: Vec<Vec<u8>>,
    minted_at: Vec<Option<i64>>,
}

impl Columns {
    pub(super) fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Result<Self, Error> {
        let mut columns = Self::default();
        for entry in entries {
            let (record, checksum) = record::encode(entry)?;
            columns.id.push(uuid(entry.id));
            columns.caller.push(entry.caller.as_str().to_owned());
            columns.key.push(entry.key.as_str().to_owned());
            columns.transaction.push(entry.operation.transaction.as_str().to_owned());
            columns.state.push(entry.state.as_str());
            columns.open.push(entry.state.is_open());
            columns.attempt.push(i64::from(entry.attempt));
            columns.revision.push(signed(entry.revision));
            columns.follows.push(signed(entry.follows));
            columns.nonce.push(entry.nonce);
            columns.lease_until.push(entry.lease_until.0);
            columns.created_at.push(entry.created_at.0);
            columns.updated_at.push(entry.updated_at.0);
            columns.next_read_at.push(entry.reading.next_at.map(|at| at.0));
            columns.record.push(record);
            columns.checksum.push(checksum);
            columns.hash.push(hash_of_key(entry.caller.as_str(), entry.key.as_str()));
            columns.minted_at.push(entry.key.minted_at());
        }
        Ok(columns)
    }

    /// The parameters of [`INSERT`].
    pub(super) fn inserted<'a>(&'a self, epoch: &'a i64, told: &'a Told) -> Vec<Parameter<'a>> {
        let mut inserted = self.parameters(epoch).to_vec();
        inserted.push((&self.hash, Type::BYTEA_ARRAY));
        inserted.push((&self.minted_at, Type::INT8_ARRAY));
        inserted.extend(told.parameters());
        inserted
    }

    /// The parameters of [`UPDATE`].
    pub(super) fn changes<'a>(&'a self, epoch: &'a i64, told: &'a Told) -> Vec<Parameter<'a>> {
        let mut changes = self.parameters(epoch).to_vec();
        changes.push((&self.follows, Type::INT8_ARRAY));
        changes.extend(told.parameters());
        changes
    }

    /// What both have.
    fn parameters<'a>(&'a self, epoch: &'a i64) -> [Parameter<'a>; 16] {
        [
            (&self.id, Type::UUID_ARRAY),
            (&self.caller, Type::TEXT_ARRAY),
            (&self.key, Type::TEXT_ARRAY),
            (&self.transaction, Type::TEXT_ARRAY),
            (&self.state, Type::TEXT_ARRAY),
            (&self.open, Type::BOOL_ARRAY),
            (&self.attempt, Type::INT8_ARRAY),
            (&self.revision, Type::INT8_ARRAY),
            (&self.nonce, Type::UUID_ARRAY),
            (&self.lease_until, Type::INT8_ARRAY),
            (&self.created_at, Type::INT8_ARRAY),
            (&self.updated_at, Type::INT8_ARRAY),
            (&self.next_read_at, Type::INT8_ARRAY),
            (&self.record, Type::TEXT_ARRAY),
            (&self.checksum, Type::BYTEA_ARRAY),
            (epoch, Type::INT8),
        ]
    }

    /// The parameters of [`RIVALS`].
    pub(super) fn rivals(&self) -> [Parameter<'_>; 5] {
        [
            (&self.caller, Type::TEXT_ARRAY),
            (&self.key, Type::TEXT_ARRAY),
            (&self.transaction, Type::TEXT_ARRAY),
            (&self.hash, Type::BYTEA_ARRAY),
            (&self.minted_at, Type::INT8_ARRAY),
        ]
    }
}

/// The statement of a listing, and its values. Ids sort by age.
pub(super) fn listing(filter: &Filter, before: Option<OperationId>, most: usize) -> (String, Vec<Value>) {
    let mut conditions = vec!["NOT forgotten".to_owned()];
    let mut values: Vec<Value> = Vec::new();
    let mut wanted = |condition: &str, value: Box<dyn ToSql + Sync + Send>, of: Type| {
        values.push((value, of));
        conditions.push(condition.replace('?', &format!("${}", values.len())));
    };
    if let Some(id) = before {
        wanted("id < ?", Box::new(uuid(id)), Type::UUID);
    }
    if let Some(transaction) = &filter.transaction {
        wanted("transaction_id = ?", Box::new(transaction.as_str().to_owned()), Type::TEXT);
    }
    if let Some(account) = &filter.account {
        // An account's name has one length and no wildcard.
        wanted("left(transaction_id, 9) = ?", Box::new(account.as_str().to_owned()), Type::TEXT);
    }
    if let Some(caller) = &filter.caller {
        wanted("caller = ?", Box::new(caller.as_str().to_owned()), Type::TEXT);
    }
    if let Some(from) = filter.from {
        wanted("created_at >= ?", Box::new(from.0), Type::INT8);
    }
    if let Some(until) = filter.until {
        wanted("created_at < ?", Box::new(until.0), Type::INT8);
    }
    if !filter.states.is_empty() {
        wanted("state = ANY(?)", Box::new(filter.states.clone()), Type::TEXT_ARRAY);
    }
    let sql = format!(
        "SELECT record, checksum FROM payops.operations WHERE {} ORDER BY id DESC LIMIT {}",
        conditions.join(" AND "),
        i64::try_from(most).unwrap_or(i64::MAX)
    );
    (sql, values)
}

/// A kept value as a statement takes it.
pub(super) fn parameter((value, of): &Value) -> Parameter<'_> {
    (&**value, of.clone())
}

/// Every open entry. A damaged one is an error: who was its sender cannot be
/// told.
pub(super) async fn open(client: &Client) -> Result<Vec<Entry>, Error> {
    let sql = "SELECT record, checksum FROM payops.operations WHERE open";
    let rows = client.query_typed(sql, NO_PARAMETERS).await.map_err(unavailable)?;
    rows.iter().map(|row| entry(row, 0)).collect()
}

/// Writes a change whatever is there, inside the caller's transaction. Gives
/// the checksum that it is kept with.
pub(super) async fn overwrite(client: &Client, entry: &Entry) -> Result<Vec<u8>, Error> {
    let (record, checksum) = record::encode(entry)?;
    let (id, revision) = (uuid(entry.id), signed(entry.revision));
    let parameters: &[Parameter<'_>] =
        &[(&id, Type::UUID), (&revision, Type::INT8), (&record, Type::TEXT), (&checksum, Type::BYTEA)];
    let sql = "UPDATE payops.operations SET revision = $2, record = $3, checksum = $4 WHERE id = $1";
    client.query_typed(sql, parameters).await.map_err(unavailable)?;
    Ok(checksum)
}

/// The entry of a row whose record and checksum stand at `index`.
pub(super) fn entry(row: &Row, index: usize) -> Result<Entry, Error> {
    record::decode(get(row, index)?, get(row, index + 1)?)
}

/// The places that [`UPDATE`] tells, which counts from 1.
pub(super) fn places(rows: &[Row]) -> impl Iterator<Item = usize> {
    rows.iter().filter_map(|row| usize::try_from(row.try_get::<_, i64>(0).ok()? - 1).ok())
}

/// The places of those entries whose ids [`INSERT`] tells.
pub(super) fn inserted(rows: &[Row], entries: &[&Entry]) -> HashSet<usize> {
    let ids: HashSet<Uuid> = rows.iter().filter_map(|row| row.try_get(0).ok()).collect();
    let places = entries.iter().enumerate().filter(|(_, entry)| ids.contains(&uuid(entry.id)));
    places.map(|(place, _)| place).collect()
}

pub(super) fn uuid(id: OperationId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}
