//! How records hold each other. Each process writes a chain of its own, in
//! batches: the records of one transaction. What a batch came to is known only
//! afterwards, since a write may find its place taken, so each record of a batch
//! holds on to the head of the batch before, and the head of a batch is made
//! from those of its records that were written.
//!
//! ```text
//! link of a record = HMAC-SHA256(key, chain, batch, place, head of the batch before, record)
//! head of a batch  = HMAC-SHA256(key, head of the batch before, its links in the order of their places)
//! ```
//!
//! Where it stays unknown what a batch came to, the chain ends there, and the
//! next one names the head before it.

use std::{fmt, str::FromStr};

use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::ExposeSecret as _;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::config::{self, AUDIT_KEY_BYTES_MIN};
use crate::journal::{
    Error,
    audit::{Record, hex},
};
use crate::payment::fresh;

/// What holds a record, or a batch, to what is before it.
pub type Link = [u8; 32];

/// The key of the audit. Without a secret of its own a chain shows mistakes and
/// damage, and nobody who knows payops.
#[derive(Clone)]
pub struct Key {
    /// Ready to be used.
    mac: Hmac<Sha256>,
    secret: bool,
}

/// A chain up to some batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which chain.
    pub chain: Uuid,
    /// The last batch that counts.
    pub batch: u64,
    /// Its head.
    pub link: Link,
}

/// A chain that is being written.
#[derive(Clone, Debug)]
pub struct Chain {
    key: Key,
    head: Head,
}

/// A record with its place in the next batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// From 1.
    pub place: u32,
    /// The record.
    pub body: String,
    /// See the module.
    pub link: Link,
}

impl Key {
    /// Nobody's.
    pub fn none() -> Self {
        let mac = Hmac::new(&hmac::digest::Key::<Hmac<Sha256>>::default());
        Self { mac, secret: false }
    }

    /// From a secret; none where it is too short.
    pub fn new(secret: &[u8]) -> Option<Self> {
        let mac = Hmac::new_from_slice(secret).ok().filter(|_| secret.len() >= AUDIT_KEY_BYTES_MIN)?;
        Some(Self { mac, secret: true })
    }

    /// As they are configured, the one that is in use first; nobody's where there
    /// is none.
    pub fn configured(config: &config::Audit) -> Result<Vec<Self>, Error> {
        let Some(source) = &config.key else { return Ok(vec![Self::none()]) };
        let unusable = |why: String| Error::Unavailable(format!("audit.key_file cannot be used: {why}"));
        let secrets = source.read_list().map_err(|error| unusable(error.to_string()))?;
        let keys = secrets.iter().map(|secret| Self::new(secret.expose_secret().as_bytes()));
        keys.collect::<Option<_>>().ok_or_else(|| unusable("a key is too short".to_owned()))
    }

    /// Whether it is a secret at all.
    pub fn is_secret(&self) -> bool {
        self.secret
    }

    /// Of the parts, one after the other.
    pub(crate) fn mac<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> Link {
        let mut mac = self.mac.clone();
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    pub(super) fn link(&self, before: &Head, place: u32, body: &str) -> Link {
        let (batch, place) = ((before.batch + 1).to_be_bytes(), place.to_be_bytes());
        self.mac([before.chain.as_bytes().as_slice(), &batch, &place, &before.link, body.as_bytes()])
    }

    /// The head after a batch with these links.
    pub(super) fn after<'a>(&self, before: &Head, links: impl IntoIterator<Item = &'a Link>) -> Head {
        let before_it = std::iter::once(before.link);
        let links: Vec<Link> = before_it.chain(links.into_iter().copied()).collect();
        let link = self.mac(links.iter().map(Link::as_slice));
        Head { batch: before.batch + 1, link, ..*before }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.secret { "Key" } else { "no key" })
    }
}

impl Head {
    /// Before the first batch.
    pub(super) fn nothing(chain: Uuid) -> Self {
        Self { chain, batch: 0, link: [0; 32] }
    }

    /// Whether it is the same; how long that takes tells nothing.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.chain == other.chain && self.batch == other.batch && same(&self.link, &other.link)
    }
}

/// Compares links; how long that takes tells nothing.
pub(super) fn same(one: &Link, other: &[u8]) -> bool {
    one.as_slice().ct_eq(other).into()
}

/// A link from its hexadecimal digits.
pub(super) fn unhex(text: &str) -> Option<Link> {
    let mut link = [0; 32];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != link.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in link.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(link)
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.chain, self.batch, hex(&self.link))
    }
}

impl FromStr for Head {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "a head is a chain, a batch and 64 hexadecimal digits, with colons between them";
        let mut parts = text.split(':');
        let (Some(chain), Some(batch), Some(link), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(WRONG);
        };
        let link = unhex(link).ok_or(WRONG)?;
        let chain = chain.parse().map_err(|_| WRONG)?;
        Ok(Self { chain, batch: batch.parse().map_err(|_| WRONG)?, link })
    }
}

impl Chain {
    /// A new one, with its first record, which is to be written.
    pub fn begin(key: &Key, why: &str, after: Option<&Head>, now: Timestamp) -> (Self, Row) {
        let chain = Self { key: key.clone(), head: Head::nothing(fresh::uuid_v4()) };
        let first = Record::Chain {
            at: now,
            why: why.to_owned(),
            after: after.map(Head::to_string),
            payops: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let row = chain.row(1, &first);
        (chain, row)
    }

    /// Up to the last batch.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The next batch.
    pub fn batch(&self) -> u64 {
        self.head.batch + 1
    }

    /// A record at that place of the next batch.
    pub fn row(&self, place: u32, record: &Record) -> Row {
        let body = record.text();
        let link = self.key.link(&self.head, place, &body);
        Row { place, body, link }
    }

    /// The next batch was written, with these links in the order of their
    /// places. Where there are none, it is still to come.
    pub fn written<'a>(&mut self, links: impl IntoIterator<Item = &'a Link>) {
        let mut links = links.into_iter().peekable();
        if links.peek().is_some() {
            let before = self.head;
            self.head = self.key.after(&before, links);
        }
    }
}
