//! How an entry is kept: as JSON with a checksum, in every journal the same.

use sha2::{Digest as _, Sha256};

use crate::journal::{Error, entry::Entry};

pub(super) fn encode(entry: &Entry) -> Result<(String, Vec<u8>), Error> {
    let record = serde_json::to_string(entry).map_err(|error| Error::Unavailable(error.to_string()))?;
    let sum = checksum(&[record.as_bytes()]);
    Ok((record, sum))
}

pub(super) fn decode(record: &str, checksum: &[u8]) -> Result<Entry, Error> {
    if Sha256::digest(record.as_bytes()).as_slice() != checksum {
        return Err(Error::Corrupt("its checksum does not fit".to_owned()));
    }
    serde_json::from_str(record).map_err(|error| Error::Corrupt(error.to_string()))
}

/// SHA-256 over the parts.
pub(super) fn checksum(parts: &[&[u8]]) -> Vec<u8> {
    let mut sum = Sha256::new();
    for part in parts {
        sum.update(part);
    }
    sum.finalize().to_vec()
}

/// What a tombstone has of a key: neither caller nor key can hold a line feed.
pub(super) fn hash_of_key(caller: &str, key: &str) -> Vec<u8> {
    let mut hash = checksum(&[caller.as_bytes(), b"\n", key.as_bytes()]);
    hash.truncate(16);
    hash
}

/// Databases count with a sign.
pub(super) fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}
