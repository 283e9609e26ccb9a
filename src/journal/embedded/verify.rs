//! Whether audit and journal are what was written, and the audit as it stands:
//! for somebody who has no part in it. A payops that runs on it goes on.

use std::path::Path;

use rusqlite::Connection;
use uuid::Uuid;

use crate::journal::{
    Error,
    audit::verify::{Report, Stored, Verifier},
    embedded::{
        inspect::look,
        meta::{Meta, Progress},
        opening::{self, Files, Sound},
        rows::{self, unavailable},
        schema,
    },
};

/// Verifies all of a journal, at one moment.
pub fn verify(directory: &Path, mut verifier: Verifier) -> Result<Report, Error> {
    let files = Files::of(directory);
    let verified = || {
        let look = look(directory)?;
        // First, so that commits in between do not seem to be missing.
        let found = look.files.acknowledged()?;
        // One moment for all that is read.
        look.connection.execute_batch("BEGIN").map_err(unavailable)?;
        schema::verify(&look.connection)?;
        schema::verify_structure(&look.connection)?;
        let (meta, progress) = (Meta::load(&look.connection)?, Progress::load(&look.connection)?);
        let sound = Sound { meta, progress, entries: 0 };
        let generation = sound.meta.generation;
        if let Err(error) = opening::compare((generation, false), Some(&sound), found) {
            verifier.find(error.to_string());
        }
        let Progress { head, .. } = sound.progress;
        verifier.expect_last(head, "the journal");
        each(&look.connection, |stored| {
            verifier.record(stored);
            Ok(())
        })?;
        verifier.end_records();
        rows::judge(&look.connection, |id, entry| match entry {
            Some((entry, checksum)) => verifier.operation(entry.id, entry.revision, &checksum),
            None => verifier.damaged(id, "its columns, its record and its checksum do not fit together"),
        })?;
        if let Err(error) = rows::verify_tombstones(&look.connection) {
            verifier.find(error.to_string());
        }
        Ok(verifier.end())
    };
    verified().map_err(|error| files.tell(error))
}

/// Each record, in the order of chain, batch and place.
pub fn records(directory: &Path, take: impl FnMut(&Stored<'_>) -> Result<(), Error>) -> Result<(), Error> {
    let files = Files::of(directory);
    let read = || {
        let look = look(directory)?;
        schema::verify(&look.connection)?;
        each(&look.connection, take)
    };
    read().map_err(|error| files.tell(error))
}

fn each(
    connection: &Connection,
    mut take: impl FnMut(&Stored<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut statement = connection
        .prepare("SELECT chain, batch, place, body, link FROM audit ORDER BY chain, batch, place")
        .map_err(unavailable)?;
    let mut rows = statement.query([]).map_err(unavailable)?;
    while let Some(row) = rows.next().map_err(unavailable)? {
        let column = |nth| row.get_ref(nth).map_err(unavailable);
        let bytes = |nth| Ok::<_, Error>(column(nth)?.as_blob().unwrap_or_default());
        take(&Stored {
            chain: Uuid::from_slice(bytes(0)?).unwrap_or_default(),
            batch: row.get(1).map_err(unavailable)?,
            place: row.get(2).map_err(unavailable)?,
            body: column(3)?.as_str().unwrap_or_default(),
            link: bytes(4)?,
        })?;
    }
    Ok(())
}
