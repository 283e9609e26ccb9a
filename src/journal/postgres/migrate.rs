//! The tables, brought to the form that this payops knows: forward only, one
//! process at a time, each step in a transaction with its own record.

use tokio_postgres::{Client, types::Type};

use crate::journal::{
    Error,
    postgres::connection::{Connected, unavailable},
};

/// Every step, in order. What was released is never changed.
const STEPS: &[Step] = &[
    Step { name: "operations", works_from: 1, sql: include_str!("0001_operations.sql") },
    Step { name: "moved", works_from: 1, sql: include_str!("0002_moved.sql") },
    Step { name: "gone", works_from: 1, sql: include_str!("0003_gone.sql") },
    Step { name: "tallies", works_from: 1, sql: include_str!("0004_tallies.sql") },
    // Whoever does not know of the audit would write what it does not tell.
    Step { name: "audit", works_from: 5, sql: include_str!("0005_audit.sql") },
];

struct Step {
    name: &'static str,
    /// The oldest schema whose payops works with the tables after this step.
    works_from: i32,
    sql: &'static str,
}

/// One lock for all that changes more than operations: "payo".
pub(super) const LOCK: i64 = 0x7061_796f;

const VERSIONS: &str = "CREATE SCHEMA IF NOT EXISTS payops;
CREATE TABLE IF NOT EXISTS payops.migrations (
    version    integer     NOT NULL PRIMARY KEY,
    name       text        NOT NULL,
    works_from integer     NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
)";

/// Brings the tables to the present form. Says how many steps that took.
pub(super) async fn migrate(connected: &Connected) -> Result<usize, Error> {
    let client = &connected.client;
    client.batch_execute(&format!("SELECT pg_advisory_lock({LOCK})")).await.map_err(unavailable)?;
    let migrated = apply(client).await;
    // Where it fails, the session ends, and the lock with it.
    let unlocked = client.batch_execute(&format!("SELECT pg_advisory_unlock({LOCK})")).await;
    let steps = migrated?;
    unlocked.map_err(unavailable)?;
    Ok(steps)
}

async fn apply(client: &Client) -> Result<usize, Error> {
    // Who may only use the tables need not be able to make them.
    if !exists(client).await? {
        client.batch_execute(VERSIONS).await.map_err(unavailable)?;
    }
    let mut applied = 0;
    let present = version(client).await?.0;
    for (version, step) in (1..).zip(STEPS).filter(|(version, _)| *version > present) {
        let Step { name, works_from, sql } = step;
        let record = format!("INSERT INTO payops.migrations VALUES ({version}, '{name}', {works_from})");
        client.batch_execute(&format!("BEGIN; {sql}; {record}; COMMIT")).await.map_err(unavailable)?;
        tracing::info!(version, name, "the journal's tables were brought forward");
        applied += 1;
    }
    Ok(applied)
}

/// Whether this payops works with the tables as they are.
pub(super) async fn verify(connected: &Connected) -> Result<(), Error> {
    let known = i32::try_from(STEPS.len()).unwrap_or(i32::MAX);
    let (present, works_from) =
        if exists(&connected.client).await? { version(&connected.client).await? } else { (0, 0) };
    if present < known {
        return Err(Error::Unavailable(format!(
            "its tables have version {present} and this payops needs {known}: run `payops migrate` as a role that \
             may make tables, or set journal.postgres.migrate = true"
        )));
    }
    if works_from > known {
        return Err(Error::Unavailable(format!(
            "its tables have version {present}, which works with payops from version {works_from} of them on; this \
             payops knows {known}: use a newer one"
        )));
    }
    Ok(())
}

async fn exists(client: &Client) -> Result<bool, Error> {
    let row = client
        .query_typed_one("SELECT to_regclass('payops.migrations') IS NOT NULL", &[])
        .await
        .map_err(unavailable)?;
    row.try_get(0).map_err(unavailable)
}

/// The newest step, and the oldest schema whose payops still works with it.
async fn version(client: &Client) -> Result<(i32, i32), Error> {
    let no_parameters: &[(&(dyn tokio_postgres::types::ToSql + Sync), Type)] = &[];
    let row = client
        .query_typed_one(
            "SELECT coalesce(max(version), 0), coalesce(max(works_from), 0) FROM payops.migrations",
            no_parameters,
        )
        .await
        .map_err(unavailable)?;
    Ok((row.try_get(0).map_err(unavailable)?, row.try_get(1).map_err(unavailable)?))
}
