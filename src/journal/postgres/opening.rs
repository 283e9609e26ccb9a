//! What is asked of a database before it is used, at the start and at each new
//! connection: that it is the one that was written last, that what it
//! acknowledges is on a second machine, and what time it is there.
//!
//! # Correctness
//!
//! A loss ends every process that knew the journal from before: the epoch rises
//! with it, each write names the epoch that its process began in, and a process
//! whose epoch is over says that it is broken. So no view from before a loss is
//! ever written after it.

use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use crate::clock::{ANSWER_MAX, Clock, Shown, Timestamp};
use crate::config::Postgres as Connection;
use crate::journal::{
    Error,
    audit::{Chain, Record},
    postgres::{
        Settings,
        audit::{self, Told},
        connection::{Connected, unavailable},
        migrate::{self, LOCK},
        rows,
    },
};

/// What a database says of itself.
#[derive(Clone, Debug)]
pub(super) struct Status {
    pub(super) shown: Shown,
    /// Which cluster it is, and how often one of its servers took over.
    pub(super) identity: Identity,
    pub(super) meta: Option<Meta>,
    /// Why what it acknowledges is not on a second machine.
    pub(super) alone: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) system: String,
    pub(super) timeline: i64,
}

/// What the journal knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) generation: i32,
    pub(super) epoch: i64,
    pub(super) lost_at: Option<Timestamp>,
    /// Keys that tell their age, and are older, were forgotten before it came here.
    pub(super) forgotten_before: Option<Timestamp>,
    pub(super) identity: Identity,
}

const STATUS: &str = "
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
       (SELECT system_identifier::text FROM pg_control_system()),
       ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint,
       current_setting('synchronous_standby_names') <> '',
       (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')),
       (SELECT count(*) FROM pg_stat_replication WHERE sync_state IS NULL)";

const META: &str = "
SELECT generation, epoch, lost_at, system_identifier, timeline, forgotten_before FROM payops.meta WHERE id = 1";

pub(super) const NO_PARAMETERS: &[(&(dyn ToSql + Sync), Type)] = &[];

/// Asks the database about itself.
pub(super) async fn status(connected: &Connected) -> Result<Status, Error> {
    let client = &connected.client;
    let (clock, mut patience) = (Clock::system(), 3);
    let (row, boot) = loop {
        let before = clock.boot();
        let row = client.query_typed_one(STATUS, NO_PARAMETERS).await.map_err(unavailable)?;
        let boot = clock.boot();
        if boot.saturating_sub(before) <= ANSWER_MAX {
            break (row, boot);
        }
        patience -= 1;
        if patience == 0 {
            return Err(Error::Unavailable(
                "the database takes more than a second to tell the time".to_owned(),
            ));
        }
    };
    let identity = Identity { system: get(&row, 1)?, timeline: get(&row, 2)? };
    let (named, standbys, hidden): (bool, i64, i64) = (get(&row, 3)?, get(&row, 4)?, get(&row, 5)?);
    let alone = match (named, standbys, hidden) {
        (false, ..) => Some("synchronous_standby_names is empty: name a standby there"),
        (true, 0, 1..) => Some("its standbys are not shown to this role: grant it pg_read_all_stats"),
        (true, 0, _) => Some("no synchronous standby is connected: see pg_stat_replication"),
        _ => None,
    };
    let meta = client.query_typed_opt(META, NO_PARAMETERS).await.map_err(unavailable)?;
    let meta = meta.as_ref().map(Meta::of).transpose()?;
    Ok(Status { shown: Shown { now: Timestamp(get(&row, 0)?), boot }, identity, meta, alone })
}

/// Whether the database has the tables of this payops, and keeps what it acknowledges; and how it is.
pub(super) async fn fit(connected: &Connected, postgres: &Connection) -> Result<Status, Error> {
    migrate::verify(connected).await?;
    let status = status(connected).await?;
    require_standby(&status, postgres)?;
    Ok(status)
}

/// Refuses a database that cannot keep what it acknowledges, unless that is
/// what is wanted.
pub(super) fn require_standby(status: &Status, postgres: &Connection) -> Result<(), Error> {
    match status.alone {
        Some(why) if !postgres.without_standby => Err(Error::Unavailable(format!(
            "what the database acknowledges would be lost with its machine: {why}. To run all the same, with a read \
             at the PSP before each first sending, set journal.postgres.without_standby = true"
        ))),
        _ => Ok(()),
    }
}

/// Begins a transaction that no other start is in.
pub(super) async fn begin(connected: &Connected) -> Result<(), Error> {
    let alone = format!("BEGIN; SELECT pg_advisory_xact_lock({LOCK})");
    connected.client.batch_execute(&alone).await.map_err(unavailable)
}

/// Compares the journal with what is said of it outside, and writes down what
/// follows. Gives what it knows of itself from now on, and the chain that this
/// process writes to the audit.
pub(super) async fn open(connected: &Connected, settings: &Settings) -> Result<(Meta, Chain), Error> {
    begin(connected).await?;
    // Where this fails the session ends, and the transaction with it.
    let status = status(connected).await?;
    let meta = compare(&status, settings)?;
    let (next, loss) = match meta {
        Compared::Same(meta) => (meta, None),
        Compared::Lost(meta, why) => (meta, Some(why)),
    };
    store(connected, &next).await?;
    if loss.is_some() {
        fence(connected, settings, status.shown.now).await?;
    }
    let chain = audit::begin(&connected.client, &settings.audit, "payops started", status.shown.now).await?;
    commit(connected).await?;
    if let Some(why) = loss {
        tracing::warn!(generation = next.generation, why, "the journal was lost");
    }
    if settings.terms.new && status.meta.is_some() {
        tracing::warn!(
            "journal.new is set and the journal is there: remove it, or a loss will be taken for a beginning"
        );
    }
    Ok((next, chain))
}

/// Writes down that the journal was lost, if nobody has yet.
pub(super) async fn declare(
    connected: &Connected,
    settings: &Settings,
    known: &Meta,
    why: &str,
) -> Result<(), Error> {
    begin(connected).await?;
    let status = status(connected).await?;
    let current = status.meta.clone().unwrap_or_else(|| known.clone());
    if current.epoch <= known.epoch {
        let next = Meta {
            epoch: current.epoch.max(known.epoch) + 1,
            lost_at: Some(status.shown.now),
            identity: status.identity.clone(),
            ..current
        };
        store(connected, &next).await?;
        fence(connected, settings, status.shown.now).await?;
    }
    commit(connected).await?;
    tracing::error!(why, "the journal was lost while it was in use; this process must not write again");
    Ok(())
}

enum Compared {
    Same(Meta),
    Lost(Meta, &'static str),
}

fn compare(status: &Status, settings: &Settings) -> Result<Compared, Error> {
    let generation = i32::try_from(settings.terms.generation).unwrap_or(i32::MAX);
    let identity = status.identity.clone();
    let Some(meta) = &status.meta else {
        let meta = Meta { generation, epoch: 1, lost_at: None, forgotten_before: None, identity };
        return Ok(if settings.terms.new {
            Compared::Same(meta)
        } else {
            let meta = Meta { lost_at: Some(status.shown.now), ..meta };
            Compared::Lost(meta, "there is none yet; only journal.new says that nothing was ever sent")
        });
    };
    if meta.generation > generation {
        return Err(Error::Unavailable(format!(
            "journal.generation is {generation}, and the journal knows {} already: a lower one would hide a loss. Set \
             journal.generation = {}",
            meta.generation, meta.generation
        )));
    }
    let why = if meta.generation < generation {
        Some("journal.generation was raised")
    } else if meta.identity.system != identity.system {
        Some("it is in another database cluster than it was")
    } else if meta.identity.timeline != identity.timeline && settings.postgres.without_standby {
        Some("another server took over, and there is no synchronous standby")
    } else {
        None
    };
    let next = Meta { generation, identity, ..meta.clone() };
    Ok(match why {
        None => Compared::Same(next),
        Some(why) => {
            Compared::Lost(Meta { epoch: meta.epoch + 1, lost_at: Some(status.shown.now), ..next }, why)
        }
    })
}

pub(super) async fn store(connected: &Connected, meta: &Meta) -> Result<(), Error> {
    let (lost_at, forgotten_before) = (meta.lost_at.map(|at| at.0), meta.forgotten_before.map(|at| at.0));
    let parameters: &[(&(dyn ToSql + Sync), Type)] = &[
        (&meta.generation, Type::INT4),
        (&meta.epoch, Type::INT8),
        (&lost_at, Type::INT8),
        (&meta.identity.system, Type::TEXT),
        (&meta.identity.timeline, Type::INT8),
        (&forgotten_before, Type::INT8),
    ];
    let sql = "INSERT INTO payops.meta (id, generation, epoch, lost_at, system_identifier, timeline,
                   forgotten_before)
               VALUES (1, $1, $2, $3, $4, $5, $6)
               ON CONFLICT (id) DO UPDATE SET generation = $1, epoch = $2, lost_at = $3, system_identifier = $4,
                   timeline = $5, forgotten_before = $6";
    connected.client.query_typed(sql, parameters).await.map_err(unavailable).map(|_| ())
}

/// What is open may have had a later attempt, of which nothing is known.
async fn fence(connected: &Connected, settings: &Settings, now: Timestamp) -> Result<(), Error> {
    let chain = audit::begin(&connected.client, &settings.audit, "the journal was lost", now).await?;
    let mut told = Vec::new();
    for entry in rows::open(&connected.client).await? {
        if let Some(next) = entry.after_loss(now, now + settings.terms.loss_fence) {
            let checksum = rows::overwrite(&connected.client, &next).await?;
            told.push(Record::of(&next, &checksum));
        }
    }
    Told::of(&chain, &told).put(&connected.client).await
}

pub(super) async fn commit(connected: &Connected) -> Result<(), Error> {
    let warnings = connected.warnings();
    connected.client.batch_execute("COMMIT").await.map_err(unavailable)?;
    if connected.warnings() == warnings {
        Ok(())
    } else {
        Err(Error::Unconfirmed("the database did not wait for its standby".to_owned()))
    }
}

impl Meta {
    fn of(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            generation: get(row, 0)?,
            epoch: get(row, 1)?,
            lost_at: get::<Option<i64>>(row, 2)?.map(Timestamp),
            identity: Identity { system: get(row, 3)?, timeline: get(row, 4)? },
            forgotten_before: get::<Option<i64>>(row, 5)?.map(Timestamp),
        })
    }
}

pub(super) fn get<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, index: usize) -> Result<T, Error> {
    row.try_get(index).map_err(|error| Error::Corrupt(error.to_string()))
}
