//! A file that gets its name when it is complete: half of one is none.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use crate::journal::Error;

pub(super) struct NewFile {
    target: PathBuf,
    part: PathBuf,
}

impl NewFile {
    /// Begins it, for its owner's eyes alone.
    pub(super) fn begin(target: &Path) -> Result<(Self, File), Error> {
        let mut part = target.as_os_str().to_owned();
        part.push(".part");
        let new = Self { target: target.to_owned(), part: part.into() };
        if target.exists() {
            return Err(Error::Unavailable(format!("{} is there already", target.display())));
        }
        match fs::remove_file(&new.part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(new.failed(&error)),
            _ => {}
        }
        let opened = File::options().write(true).create_new(true).mode(0o600).open(&new.part);
        let file = opened.map_err(|error| new.failed(&error))?;
        Ok((new, file))
    }

    /// Where it is until then.
    pub(super) fn part(&self) -> &Path {
        &self.part
    }

    /// Makes what was written durable, under its name.
    pub(super) fn finish(self) -> Result<(), Error> {
        let folder = self.target.parent().filter(|folder| !folder.as_os_str().is_empty());
        let finished = || {
            File::open(&self.part)?.sync_all()?;
            fs::rename(&self.part, &self.target)?;
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        finished().map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> Error {
        Error::Unavailable(format!("{}: {error}", self.target.display()))
    }
}
