//! The way in: a journal that was written to a file by another backend, into an
//! empty one, all of it or nothing.
//!
//! # Correctness
//!
//! The file is read to its end before the database is asked, and once more
//! while it is taken in, in one transaction. That takes the place of whatever
//! epoch there was, and keeps every writer out meanwhile: a process that runs on
//! the empty journal ends, and never runs a key of the file.

use std::{collections::BTreeMap, mem, path::Path, time::Duration};

use tokio::time::Instant;
use tokio_postgres::types::Type;

use crate::clock::Timestamp;
use crate::config::Postgres as Connection;
use crate::journal::{
    Error,
    audit::{Chain, Key, Made},
    entry::{Entry, Tally, spent::day_of},
    postgres::{
        audit::{self, Told},
        connection::{Connected, Connector, Purpose, unavailable, within},
        counted, migrate,
        opening::{self, Meta, NO_PARAMETERS, get},
        rows::{self, Columns, Parameter},
    },
    record::signed,
    transfer::{Head, Left, Line, Reader, Sum},
};

/// Most entries, or tombstones, that one statement writes.
const BATCH: usize = 256;
/// How long the standby may take until it has it all.
const COMMIT_MAX: Duration = Duration::from_mins(1);

/// What a file brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// What it holds.
    pub sum: Sum,
    /// It had been imported before: nothing was changed.
    pub again: bool,
}

/// Takes the file in. Makes the tables where that is allowed.
pub async fn import(postgres: &Connection, audit: &Key, file: &Path) -> Result<Imported, Error> {
    let sum = check(file)?;
    let connected = Connector::new(postgres)?.connect(Purpose::Write, None).await?;
    if postgres.migrate {
        migrate::migrate(&connected).await?;
    }
    opening::fit(&connected, postgres).await?;
    // Where anything fails the session ends, and the transaction with it.
    opening::begin(&connected).await?;
    let again = is_there(&connected, &sum).await?;
    if !again {
        let (reader, head) = Reader::open(file)?;
        let epoch = take_place(&connected, &head).await?;
        let now = opening::status(&connected).await?.shown.now;
        let chain = audit::begin(&connected.client, audit, "a journal was imported", now).await?;
        let tallies = fill(&connected, reader, (epoch, chain, now)).await?;
        tally(&connected, tallies).await?;
        record(&connected, &sum).await?;
    }
    let unknown =
        |why: String| Error::Unconfirmed(format!("{why}; import it again: what is there is not changed"));
    match within(Instant::now() + COMMIT_MAX, opening::commit(&connected)).await {
        Some(committed) => committed.map_err(|error| unknown(error.to_string()))?,
        None => return Err(unknown("the database did not acknowledge it in time".to_owned())),
    }
    Ok(Imported { sum, again })
}

/// Reads the file to its end.
fn check(file: &Path) -> Result<Sum, Error> {
    let (mut reader, _) = Reader::open(file)?;
    loop {
        if let Line::End(sum) = reader.next()? {
            return Ok(sum);
        }
    }
}

/// Whether this file was imported before. An error where anything else is in
/// the journal.
async fn is_there(connected: &Connected, sum: &Sum) -> Result<bool, Error> {
    let client = &connected.client;
    // Writers wait, and then find another epoch.
    let lock = "SET LOCAL lock_timeout = '1min'; LOCK TABLE payops.operations IN SHARE ROW EXCLUSIVE MODE";
    client.batch_execute(lock).await.map_err(unavailable)?;
    let sql = "SELECT EXISTS (SELECT FROM payops.imports WHERE sha256 = $1),
                      EXISTS (SELECT FROM payops.operations) OR EXISTS (SELECT FROM payops.tombstones)";
    let row = client.query_typed_one(sql, &[(&sum.sha256, Type::TEXT)]).await.map_err(unavailable)?;
    match (get(&row, 0)?, get(&row, 1)?) {
        (true, _) => Ok(true),
        (false, false) => Ok(false),
        (false, true) => Err(Error::Unavailable(
            "the journal in the database is not empty, and holds something else than this file: name another \
             database in journal.postgres.url"
                .to_owned(),
        )),
    }
}

/// Writes what the journal knows of itself. Gives its epoch.
async fn take_place(connected: &Connected, head: &Head) -> Result<i64, Error> {
    let status = opening::status(connected).await?;
    let before = status.meta.as_ref();
    let generation = i32::try_from(head.generation).unwrap_or(i32::MAX);
    let meta = Meta {
        generation: before.map_or(generation, |before| before.generation.max(generation)),
        epoch: before.map_or(1, |before| before.epoch + 1),
        lost_at: head.lost_at,
        forgotten_before: head.forgotten_before,
        identity: status.identity,
    };
    opening::store(connected, &meta).await?;
    // What comes may be older than what is refused here.
    let sql = "UPDATE payops.meta SET forgotten_before = greatest(forgotten_before, gone_before), gone_before = NULL,
                   gone_since = NULL";
    connected.client.query_typed(sql, NO_PARAMETERS).await.map_err(unavailable)?;
    Ok(meta.epoch)
}

/// Gives what its entries count of each day.
async fn fill(
    connected: &Connected,
    mut reader: Reader,
    (epoch, mut chain, now): (i64, Chain, Timestamp),
) -> Result<BTreeMap<Tally, i64>, Error> {
    let since = day_of(now) - 1;
    let mut tallies = BTreeMap::new();
    let (mut entries, mut tombstones) = (Vec::new(), Vec::new());
    loop {
        let line = reader.next()?;
        let is_end = matches!(line, Line::End(_));
        match line {
            Line::Entry(entry) => {
                if let Some((tally, amount)) = entry.counts_since(since) {
                    *tallies.entry(tally).or_insert(0) += amount;
                }
                let made = Made { event: "imported", at: Some(now), ..Made::default() };
                entries.push(Entry { made, ..*entry });
            }
            Line::Tombstone(left) => tombstones.push(left),
            Line::Journal(_) | Line::End(_) => {}
        }
        if entries.len() == BATCH || is_end {
            insert(connected, mem::take(&mut entries), epoch, &mut chain).await?;
        }
        if tombstones.len() == BATCH || is_end {
            bury(connected, mem::take(&mut tombstones)).await?;
        }
        if is_end {
            return Ok(tallies);
        }
    }
}

/// Writes the sums of the latest days.
async fn tally(connected: &Connected, tallies: BTreeMap<Tally, i64>) -> Result<(), Error> {
    let mut tallies = tallies.into_iter().peekable();
    while tallies.peek().is_some() {
        let some: BTreeMap<Tally, i64> = tallies.by_ref().take(BATCH).collect();
        counted::lock(&connected.client, some.keys()).await.map_err(unavailable)?;
        counted::add(&connected.client, &some).await.map_err(unavailable)?;
    }
    Ok(())
}

async fn insert(
    connected: &Connected,
    entries: Vec<Entry>,
    epoch: i64,
    chain: &mut Chain,
) -> Result<(), Error> {
    let columns = Columns::of(&entries)?;
    let told = Told::of_entries(chain, entries.iter().enumerate(), &columns.checksum);
    chain.written(told.links());
    let written = connected.client.query_typed(rows::INSERT, &columns.inserted(&epoch, &told)).await;
    if written.map_err(unavailable)?.len() == entries.len() {
        Ok(())
    } else {
        Err(Error::Unavailable("it has a key twice, or a transaction with two open operations".to_owned()))
    }
}

async fn bury(connected: &Connected, tombstones: Vec<Left>) -> Result<(), Error> {
    let no_hash = || Error::Unavailable("it has a tombstone without a key".to_owned());
    let keys: Vec<_> =
        tombstones.iter().map(|left| left.key().ok_or_else(no_hash)).collect::<Result<_, _>>()?;
    let states: Vec<_> = tombstones.into_iter().map(|left| left.state).collect();
    let parameters: &[Parameter<'_>] = &[(&keys, Type::BYTEA_ARRAY), (&states, Type::TEXT_ARRAY)];
    let sql =
        "INSERT INTO payops.tombstones (key, state) SELECT u.* FROM unnest($1::bytea[], $2::text[]) AS u";
    connected.client.query_typed(sql, parameters).await.map_err(unavailable).map(|_| ())
}

async fn record(connected: &Connected, sum: &Sum) -> Result<(), Error> {
    let (entries, tombstones) = (signed(sum.entries), signed(sum.tombstones));
    let parameters: &[Parameter<'_>] =
        &[(&sum.sha256, Type::TEXT), (&entries, Type::INT8), (&tombstones, Type::INT8)];
    let sql = "INSERT INTO payops.imports (sha256, entries, tombstones) VALUES ($1, $2, $3)";
    connected.client.query_typed(sql, parameters).await.map_err(unavailable)?;
    // A payops that does not know of tombstones would run their keys again.
    let sql = "UPDATE payops.migrations SET works_from = 2 WHERE version = 2 AND works_from < 2";
    connected.client.query_typed(sql, NO_PARAMETERS).await.map_err(unavailable).map(|_| ())
}
