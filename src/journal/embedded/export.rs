//! The way out: the journal of a stopped payops, as a file that another backend
//! can take in.
//!
//! # Correctness
//!
//! From then on no payops starts on the folder: two journals of one account
//! would each send. Whoever exported it and took the file nowhere may take
//! that back; whoever goes back to it later has lost what came in between, and
//! says so by raising the generation.

use std::{io::BufWriter, path::Path};

use rusqlite::{Connection, TransactionBehavior};

use crate::journal::{
    Error,
    embedded::{
        mark::{Acknowledged, Mark},
        meta::{Meta, Progress},
        new_file::NewFile,
        opening::{self, Files, Lock, Sound},
        rows, schema,
    },
    transfer::{Head, Left, Sum, Writer},
};

/// A journal that nobody else has meanwhile.
struct Owned {
    files: Files,
    connection: Connection,
    sound: Sound,
    _lock: Lock,
}

/// Writes the journal to a new file.
pub fn export(directory: &Path, target: &Path) -> Result<Sum, Error> {
    let files = Files::of(directory);
    let exported = || {
        let mut owned = own(directory)?;
        let (new, file) = NewFile::begin(target)?;
        let Meta { generation, lost_at, forgotten_before, .. } = owned.sound.meta;
        let head = Head::new(generation, lost_at, forgotten_before);
        let mut writer = Writer::new(BufWriter::new(file), head)?;
        rows::each(&owned.connection, |entry| writer.entry(entry))?;
        rows::each_tombstone(&owned.connection, |key, state| writer.tombstone(Left::new(&key, state)))?;
        let sum = writer.end()?;
        // Before the file has its name: who has it knows that the folder is none any more.
        owned.set_moved(true)?;
        new.finish()?;
        Ok(sum)
    };
    exported().map_err(|error| files.tell(error))
}

/// Takes an export back whose file was imported nowhere.
pub fn take_back(directory: &Path) -> Result<(), Error> {
    own(directory)
        .and_then(|mut owned| owned.set_moved(false))
        .map_err(|error| Files::of(directory).tell(error))
}

fn own(directory: &Path) -> Result<Owned, Error> {
    let files = Files::of(directory);
    if !files.journal.exists() {
        return Err(Error::Unavailable("there is no journal.sqlite".to_owned()));
    }
    let lock @ Lock::Taken(_) = files.lock()? else {
        return Err(Error::Unavailable("a payops runs on it: stop it first".to_owned()));
    };
    let found = files.acknowledged()?;
    files.verify_log()?;
    let connection = schema::open_to_write(&files.journal)?;
    let sound = opening::verify(&connection)?;
    // What a start would find out, and do something about.
    if let Some(why) = opening::compare((sound.meta.generation, false), Some(&sound), found)? {
        return Err(Error::Unavailable(format!(
            "the journal was lost ({why}): start payops on it once, so that this is seen to"
        )));
    }
    schema::use_log(&connection)?;
    Ok(Owned { files, connection, sound, _lock: lock })
}

impl Owned {
    fn set_moved(&mut self, moved: bool) -> Result<(), Error> {
        let meta = Meta { moved, ..self.sound.meta.clone() };
        let commits = self.sound.progress.commits + 1;
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(rows::unavailable)?;
        meta.store(&transaction)?;
        Progress { commits, ..self.sound.progress }.store(&transaction)?;
        transaction.commit().map_err(rows::unavailable)?;
        schema::empty_log(&self.connection)?;
        let mark = Mark::open(&self.files.mark).map_err(self.files.io("cannot write to"))?;
        opening::write_mark(&self.files, &mark, Acknowledged { generation: meta.generation, commits })
    }
}
