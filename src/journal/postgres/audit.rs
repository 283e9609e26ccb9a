//! The audit beside the operations: each record in the statement that writes
//! what it tells of. The chain is this process's own.

use std::collections::HashSet;

use tokio::time::Instant;
use tokio_postgres::{Client, types::Type};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::journal::Written;
use crate::journal::{
    Error,
    audit::{Chain, Head, Key, Record, chain::Link, chain::Row},
    entry::Entry,
    postgres::{
        connection::unavailable,
        rows::Parameter,
        writer::{Answer, Writer},
    },
    record::signed,
};

const PUT: &str = "
INSERT INTO payops.audit (chain, batch, place, body, link)
SELECT $4, $5, u.place, u.body, u.link FROM unnest($1::int4[], $2::text[], $3::bytea[]) AS u (place, body, link)
ON CONFLICT DO NOTHING";

/// Records as columns, and where they stand.
pub(super) struct Told {
    pub(super) place: Vec<i32>,
    pub(super) body: Vec<String>,
    pub(super) link: Vec<Vec<u8>>,
    pub(super) chain: Uuid,
    pub(super) batch: i64,
    links: Vec<Link>,
}

impl Told {
    /// The next batch of the chain.
    pub(super) fn next(chain: &Chain) -> Self {
        Self {
            place: Vec::new(),
            body: Vec::new(),
            link: Vec::new(),
            chain: chain.head().chain,
            batch: signed(chain.batch()),
            links: Vec::new(),
        }
    }

    /// Of these records, in that order.
    pub(super) fn of<'a>(chain: &Chain, records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut told = Self::next(chain);
        for (place, record) in (1..).zip(records) {
            told.push(chain.row(place, record));
        }
        told
    }

    fn push(&mut self, row: Row) {
        self.place.push(i32::try_from(row.place).unwrap_or(i32::MAX));
        self.body.push(row.body);
        self.link.push(row.link.to_vec());
        self.links.push(row.link);
    }

    /// Of entries that are written, each at its place, from 0, with the checksum
    /// that it is kept with.
    pub(super) fn of_entries<'a>(
        chain: &Chain,
        entries: impl IntoIterator<Item = (usize, &'a Entry)>,
        checksums: &[Vec<u8>],
    ) -> Self {
        let mut told = Self::next(chain);
        for ((nth, entry), checksum) in entries.into_iter().zip(checksums) {
            let place = u32::try_from(nth + 1).unwrap_or(u32::MAX);
            told.push(chain.row(place, &Record::of(entry, checksum)));
        }
        told
    }

    /// As the statements over entries take them.
    pub(super) fn parameters(&self) -> [Parameter<'_>; 5] {
        [
            (&self.place, Type::INT4_ARRAY),
            (&self.body, Type::TEXT_ARRAY),
            (&self.link, Type::BYTEA_ARRAY),
            (&self.chain, Type::UUID),
            (&self.batch, Type::INT8),
        ]
    }

    /// The links at those places, from 0.
    pub(super) fn links_of(&self, places: &HashSet<usize>) -> impl Iterator<Item = &Link> {
        self.links.iter().enumerate().filter(|(nth, _)| places.contains(nth)).map(|(_, link)| link)
    }

    /// All links, in the order of their places.
    pub(super) fn links(&self) -> &[Link] {
        &self.links
    }

    /// Writes them, inside the caller's transaction.
    pub(super) async fn put(&self, client: &Client) -> Result<(), Error> {
        client.query_typed(PUT, &self.parameters()).await.map_err(unavailable).map(drop)
    }
}

/// A chain for one transaction that is not the writer's.
pub(super) async fn begin(client: &Client, key: &Key, why: &str, now: Timestamp) -> Result<Chain, Error> {
    let (mut chain, first) = Chain::begin(key, why, None, now);
    let mut told = Told::next(&chain);
    told.push(first);
    told.put(client).await?;
    chain.written(told.links());
    Ok(chain)
}

/// The chain of the writer.
pub(super) enum Log {
    Open(Chain),
    /// Another one is to be begun after that head.
    Ended(Head),
}

impl Log {
    /// What came of the last batch is unknown: it ends with the one before.
    pub(super) fn doubt(&mut self) {
        if let Self::Open(chain) = self {
            *self = Self::Ended(chain.head());
        }
    }
}

impl Writer {
    /// The chain, begun where there is none. Nothing is written without one.
    pub(super) async fn chain(&mut self, until: Instant) -> Result<Chain, Error> {
        let after = match &self.log {
            Log::Open(chain) => return Ok(chain.clone()),
            Log::Ended(after) => *after,
        };
        let why = "what a write came to is unknown";
        let now = self.inner.clock.now();
        let (mut chain, first) = Chain::begin(&self.inner.settings.audit, why, Some(&after), now);
        let mut told = Told::next(&chain);
        told.push(first);
        match self.line.statement(PUT, &told.parameters(), until).await {
            Ok(_) => {
                chain.written(told.links());
                self.log = Log::Open(chain.clone());
                self.inner.told(chain.head());
                Ok(chain)
            }
            // Nothing else was tried: of that nothing was written.
            Err(failed) => Err(Error::Unavailable(Error::from(failed).to_string())),
        }
    }

    /// Those records of the next batch were written.
    pub(super) fn told<'a>(&mut self, links: impl IntoIterator<Item = &'a Link>) {
        if let Log::Open(chain) = &mut self.log {
            chain.written(links);
            self.inner.told(chain.head());
        }
    }

    /// Adds what is no write of an entry.
    pub(super) async fn note(&mut self, notes: &[Record], until: Instant) -> Result<Answer, Error> {
        let chain = self.chain(until).await?;
        let told = Told::of(&chain, notes);
        match self.line.statement(PUT, &told.parameters(), until).await {
            Ok(_) => {
                self.told(told.links());
                Ok(Answer::Written(Written::Done))
            }
            Err(failed) => {
                self.log.doubt();
                Err(failed.into())
            }
        }
    }
}
