//! The audit as lines of JSON: how it is exported, and read again where its
//! chains are no longer in the journal.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::journal::audit::{chain::unhex, hex, verify::Stored};

/// The longest line that is read: many times the longest record.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// One line: the record byte by byte as it is kept, where it is JSON at all.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    chain: Uuid,
    batch: i64,
    place: i64,
    link: String,
    #[serde(borrow)]
    record: &'a RawValue,
}

/// A record as a line.
pub fn line(stored: &Stored<'_>) -> Result<String, serde_json::Error> {
    let Stored { chain, batch, place, body, link } = *stored;
    let text = serde_json::to_string(body)?;
    let record = match serde_json::from_str(body) {
        Ok(record) if !body.contains(['\n', '\r']) => record,
        _ => serde_json::from_str(&text)?,
    };
    let line = Line { chain, batch, place, link: hex(link), record };
    serde_json::to_string(&line).map(|line| line + "\n")
}

/// Each record of an exported audit, in the order of the file.
pub(super) fn each(file: &Path, mut take: impl FnMut(&Stored<'_>)) -> Result<(), String> {
    let mut from = BufReader::new(File::open(file).map_err(|error| error.to_string())?);
    for nth in 1_u64.. {
        let mut read = String::new();
        let bytes = (&mut from).take(LINE_BYTES_MAX).read_line(&mut read);
        if bytes.map_err(|error| error.to_string())? == 0 {
            return Ok(());
        }
        let wrong = |why: String| format!("line {nth}: {why}");
        let line: Line<'_> = serde_json::from_str(&read).map_err(|error| wrong(error.to_string()))?;
        let link = unhex(&line.link).ok_or_else(|| wrong("link is not 64 hexadecimal digits".to_owned()))?;
        let Line { chain, batch, place, record, .. } = line;
        take(&Stored { chain, batch, place, body: record.get(), link: &link });
    }
    Ok(())
}
