//! Whether audit and journal are what was written, and the audit as it stands:
//! for somebody who has no part in it. Every payops goes on.

use tokio_postgres::{Client, Row, types::Type};
use uuid::Uuid;

use crate::config::Postgres as Connection;
use crate::journal::{
    Error,
    audit::verify::{Report, Stored, Verifier},
    entry::Entry,
    postgres::{
        connection::{Connector, Purpose, unavailable},
        migrate,
        opening::get,
        rows::{self, Parameter},
    },
    record::signed,
};

/// Rows that are read at a time.
const PAGE: usize = 4096;

const RECORDS: &str = "SELECT chain, batch, place, body, link FROM payops.audit
    WHERE (chain, batch, place) > ($1, $2, $3) ORDER BY chain, batch, place LIMIT $4";

const OPERATIONS: &str = "
SELECT record, checksum, id, caller, key, transaction_id, state, open, attempt, revision, nonce, lease_until,
       created_at, updated_at, next_read_at, minted_at
FROM payops.operations WHERE NOT forgotten AND id > $1 ORDER BY id LIMIT $2";

/// Verifies all of a journal, at one moment.
pub async fn verify(postgres: &Connection, mut verifier: Verifier) -> Result<Report, Error> {
    let connected = Connector::new(postgres)?.connect(Purpose::Read, None).await?;
    migrate::verify(&connected).await?;
    let client = &connected.client;
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(unavailable)?;
    each(client, |stored| {
        verifier.record(stored);
        Ok(())
    })
    .await?;
    verifier.end_records();
    let mut after = Uuid::nil();
    loop {
        let page = i64::try_from(PAGE).unwrap_or(i64::MAX);
        let parameters: &[Parameter<'_>] = &[(&after, Type::UUID), (&page, Type::INT8)];
        let found = client.query_typed(OPERATIONS, parameters).await.map_err(unavailable)?;
        for row in &found {
            after = get(row, 2)?;
            match rows::entry(row, 0) {
                Ok(entry) if is_sound(row, &entry)? => {
                    verifier.operation(entry.id, entry.revision, get(row, 1)?);
                }
                Ok(_) => verifier.damaged(&after.to_string(), "its columns are not those of its record"),
                Err(error) => verifier.damaged(&after.to_string(), &error.to_string()),
            }
        }
        if found.len() < PAGE {
            return Ok(verifier.end());
        }
    }
}

/// Each record, in the order of chain, batch and place.
pub async fn records(
    postgres: &Connection,
    take: impl FnMut(&Stored<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let connected = Connector::new(postgres)?.connect(Purpose::Read, None).await?;
    migrate::verify(&connected).await?;
    each(&connected.client, take).await
}

async fn each(client: &Client, mut take: impl FnMut(&Stored<'_>) -> Result<(), Error>) -> Result<(), Error> {
    let (mut chain, mut batch, mut place) = (Uuid::nil(), i64::MIN, i32::MIN);
    loop {
        let page = i64::try_from(PAGE).unwrap_or(i64::MAX);
        let parameters: &[Parameter<'_>] =
            &[(&chain, Type::UUID), (&batch, Type::INT8), (&place, Type::INT4), (&page, Type::INT8)];
        let found = client.query_typed(RECORDS, parameters).await.map_err(unavailable)?;
        for row in &found {
            (chain, batch, place) = (get(row, 0)?, get(row, 1)?, get(row, 2)?);
            let (body, link) = (get(row, 3)?, get(row, 4)?);
            take(&Stored { chain, batch, place: i64::from(place), body, link })?;
        }
        if found.len() < PAGE {
            return Ok(());
        }
    }
}

fn is_sound(row: &Row, entry: &Entry) -> Result<bool, Error> {
    Ok(get::<Uuid>(row, 2)? == rows::uuid(entry.id)
        && get::<&str>(row, 3)? == entry.caller.as_str()
        && get::<&str>(row, 4)? == entry.key.as_str()
        && get::<&str>(row, 5)? == entry.operation.transaction.as_str()
        && get::<&str>(row, 6)? == entry.state.as_str()
        && get::<bool>(row, 7)? == entry.state.is_open()
        && get::<i64>(row, 8)? == i64::from(entry.attempt)
        && get::<i64>(row, 9)? == signed(entry.revision)
        && get::<Uuid>(row, 10)? == entry.nonce
        && get::<i64>(row, 11)? == entry.lease_until.0
        && get::<i64>(row, 12)? == entry.created_at.0
        && get::<i64>(row, 13)? == entry.updated_at.0
        && get::<Option<i64>>(row, 14)? == entry.reading.next_at.map(|at| at.0)
        && get::<Option<i64>>(row, 15)?.is_none_or(|minted_at| Some(minted_at) == entry.key.minted_at()))
}
