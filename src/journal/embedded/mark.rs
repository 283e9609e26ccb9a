//! How many commits were acknowledged, in a file of its own beside the journal.
//!
//! It is written after the journal is durable and before anybody is answered,
//! and not synced: after a power cut it may say less than is true, and never
//! more. So it costs nothing, and tells when acknowledged commits are missing:
//! when the last ones are damaged, when the log was deleted, when an older file
//! was put in place of the journal.

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use crate::journal::embedded::rows::checksum;

/// The mark, open to be written.
pub(super) struct Mark(File);

/// What a mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acknowledged {
    pub(super) generation: u32,
    pub(super) commits: u64,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// Torn by a power cut, or damaged: it says nothing.
    Unreadable,
    Acknowledged(Acknowledged),
}

impl Mark {
    /// Opens the mark or makes it, to be written.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        File::options().write(true).create(true).truncate(false).mode(0o600).open(path).map(Self)
    }

    /// In place, and always as long, so that a full disk cannot prevent it.
    pub(super) fn write(&self, acknowledged: Acknowledged) -> io::Result<()> {
        self.0.write_all_at(acknowledged.line().as_bytes(), 0)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

impl Found {
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let mut line = String::new();
        match File::open(path).and_then(|file| file.take(1024).read_to_string(&mut line)) {
            Ok(_) => Ok(Acknowledged::parse(&line).map_or(Self::Unreadable, Self::Acknowledged)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::Nothing),
            Err(error) if error.kind() == ErrorKind::InvalidData => Ok(Self::Unreadable),
            Err(error) => Err(error),
        }
    }
}

impl Acknowledged {
    fn line(self) -> String {
        let words = format!("generation {:010} commits {:020}", self.generation, self.commits);
        let sum = checksum(&[words.as_bytes()]).first_chunk().copied().map_or(0, u64::from_be_bytes);
        format!("{words} checksum {sum:016x}\n")
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let generation = words.nth(1)?.parse().ok()?;
        let commits = words.nth(1)?.parse().ok()?;
        let read = Self { generation, commits };
        (read.line() == line).then_some(read)
    }
}
