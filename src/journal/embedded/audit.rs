//! The audit in the journal's own file: each record in the commit of what it
//! tells of.

use rusqlite::{Connection, params};

use crate::clock::Timestamp;
use crate::journal::{
    Error,
    audit::{Chain, Head, Key, Record, chain::Link, chain::Row},
    embedded::rows::unavailable,
    entry::Entry,
};

/// The records of one commit.
pub(super) struct Batch<'a> {
    connection: &'a Connection,
    chain: &'a Chain,
    links: Vec<Link>,
    failed: bool,
}

impl<'a> Batch<'a> {
    /// The next one of the chain, inside the caller's transaction.
    pub(super) fn next(connection: &'a Connection, chain: &'a Chain) -> Self {
        Self { connection, chain, links: Vec::new(), failed: false }
    }

    /// Of an entry that is written in this transaction, with the checksum that it
    /// is kept with.
    pub(super) fn wrote(&mut self, entry: &Entry, checksum: &[u8]) -> Result<(), Error> {
        self.append(&Record::of(entry, checksum))
    }

    pub(super) fn append(&mut self, record: &Record) -> Result<(), Error> {
        let place = u32::try_from(self.links.len() + 1).unwrap_or(u32::MAX);
        let row = self.chain.row(place, record);
        if let Err(error) = put(self.connection, self.chain, &row) {
            self.failed = true;
            return Err(error);
        }
        self.links.push(row.link);
        Ok(())
    }

    /// Whether what was written in this transaction is not told, so that none of
    /// it may be committed.
    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    /// The chain, once the transaction is committed.
    pub(super) fn end(self) -> Chain {
        let mut chain = self.chain.clone();
        chain.written(&self.links);
        chain
    }
}

/// A new chain, which goes on from that head, inside the caller's transaction.
pub(super) fn begin(
    connection: &Connection,
    key: &Key,
    after: Option<&Head>,
    now: Timestamp,
) -> Result<Chain, Error> {
    let (mut chain, first) = Chain::begin(key, "payops started", after, now);
    put(connection, &chain, &first)?;
    chain.written([&first.link]);
    Ok(chain)
}

fn put(connection: &Connection, chain: &Chain, row: &Row) -> Result<(), Error> {
    let batch = i64::try_from(chain.batch()).unwrap_or(i64::MAX);
    connection
        .prepare_cached("INSERT INTO audit (chain, batch, place, body, link) VALUES (?1, ?2, ?3, ?4, ?5)")
        .and_then(|mut statement| {
            let chain = chain.head().chain;
            statement.execute(params![chain.as_bytes(), batch, row.place, row.body, row.link])
        })
        .map(|_| ())
        .map_err(unavailable)
}
