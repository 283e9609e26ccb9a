//! What the journal knows of itself: its generation, whether it was lost, what
//! it has forgotten, and how far it is.

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::journal::{
    Error,
    audit::Head,
    embedded::rows::{checksum, unavailable},
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    /// How often a journal was lost, from 1; the configuration says it too, and
    /// more of them where this is an older copy.
    pub(super) generation: u32,
    /// When it was opened after a loss, the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lost_at: Option<Timestamp>,
    /// Whether this is a backup that was never opened.
    #[serde(default)]
    pub(super) copy: bool,
    /// Whether it was exported, to be moved to another backend.
    #[serde(default)]
    pub(super) moved: bool,
    /// Keys that tell their age, and are older, left no tombstone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) forgotten_before: Option<Timestamp>,
}

impl Meta {
    pub(super) fn load(connection: &Connection) -> Result<Self, Error> {
        let (record, sum): (String, Vec<u8>) = connection
            .query_row("SELECT record, checksum FROM meta WHERE id = 1", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .map_err(|error| match error {
                rusqlite::Error::QueryReturnedNoRows => {
                    Error::Corrupt("it lacks its own description".to_owned())
                }
                other => unavailable(other),
            })?;
        if checksum(&[record.as_bytes()]) != sum {
            return Err(Error::Corrupt("the checksum of its own description does not fit".to_owned()));
        }
        serde_json::from_str(&record).map_err(|error| Error::Corrupt(error.to_string()))
    }

    pub(super) fn store(&self, connection: &Connection) -> Result<(), Error> {
        let record = serde_json::to_string(self).map_err(|error| Error::Unavailable(error.to_string()))?;
        let sum = checksum(&[record.as_bytes()]);
        connection
            .execute(
                "INSERT OR REPLACE INTO meta (id, record, checksum) VALUES (1, ?1, ?2)",
                params![record, sum],
            )
            .map(|_| ())
            .map_err(unavailable)
    }
}

/// How far the journal is. Part of each commit that changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// How many commits it has seen.
    pub(super) commits: u64,
    /// How far its audit is.
    pub(super) head: Head,
}

impl Progress {
    pub(super) fn load(connection: &Connection) -> Result<Self, Error> {
        let (commits, head, sum): (i64, String, Vec<u8>) = connection
            .query_row("SELECT commits, head, checksum FROM progress WHERE id = 1", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .map_err(|_| Error::Corrupt("it does not count its commits".to_owned()))?;
        if checksum(&[&commits.to_be_bytes(), head.as_bytes()]) != sum {
            return Err(Error::Corrupt("the checksum of its count of commits does not fit".to_owned()));
        }
        let head = head.parse().map_err(|why: &str| Error::Corrupt(why.to_owned()))?;
        Ok(Self { commits: u64::try_from(commits).unwrap_or_default(), head })
    }

    pub(super) fn store(&self, connection: &Connection) -> Result<(), Error> {
        let (commits, head) = (i64::try_from(self.commits).unwrap_or(i64::MAX), self.head.to_string());
        let sum = checksum(&[&commits.to_be_bytes(), head.as_bytes()]);
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO progress (id, commits, head, checksum) VALUES (1, ?1, ?2, ?3)",
            )
            .and_then(|mut statement| statement.execute(params![commits, head, sum]))
            .map(|_| ())
            .map_err(unavailable)
    }
}
