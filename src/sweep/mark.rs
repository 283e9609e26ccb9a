//! Since when everything has been compared, in a file of its own beside the
//! journal. It is no evidence: without it, or with an older one, the next sweep
//! looks at more than it has to.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::Path,
};

use crate::clock::Timestamp;

/// What the file says; nothing where it is missing or says nothing.
pub(super) fn read(file: &Path) -> Option<Timestamp> {
    let mut text = String::new();
    File::open(file).ok()?.take(64).read_to_string(&mut text).ok()?;
    text.trim_end().parse().ok().map(Timestamp)
}

/// Puts a new file in place of the old one.
pub(super) fn write(file: &Path, at: Timestamp) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut open = File::create(&new)?;
    writeln!(open, "{}", at.0)?;
    open.sync_all()?;
    fs::rename(&new, file)
}
