//! Reads `SQLite`'s write-ahead log before `SQLite` does. `SQLite` stops at the
//! first frame that does not fit and forgets all that follows, which is right
//! for what a power cut left half written and wrong for a damaged disk: commits
//! that were acknowledged would silently be gone.
//!
//! The format is `SQLite`'s own (<https://sqlite.org/fileformat2.html#walformat>): a
//! header of 32 bytes, then frames of 24 bytes and one page each. A frame counts
//! if it carries the header's two salts and the checksum over everything so
//! far; the last frame of a commit carries the size of the database.

use std::{
    fs::File,
    io::{BufReader, ErrorKind, Read},
    path::Path,
};

use crate::journal::Error;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// The last bit says in which order words are summed up.
const MAGIC: u32 = 0x377f_0682;

/// Refuses a log in which something acknowledged would be dropped: a header
/// that is damaged, or two commits from the first bad frame on. One commit may
/// be the last one, cut off before it was acknowledged.
pub(super) fn verify(log: &Path) -> Result<(), Error> {
    let file = match File::open(log) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::Unavailable(format!("{}: {error}", log.display()))),
    };
    let length = file.metadata().map_err(|error| unreadable(log, &error))?.len();
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let damaged = |what: String| Error::Corrupt(format!("{}: {what}", log.display()));

    let mut header = [0; HEADER];
    if !fill(&mut reader, &mut header).map_err(|error| unreadable(log, &error))? {
        // Cut off before its first frame: nothing was acknowledged in it.
        return Ok(());
    }
    let Some(header) = Header::read(&header) else {
        // The header is synced before the first frame is written.
        let frames_follow = length >= u64::try_from(HEADER + FRAME_HEADER + 512).unwrap_or(u64::MAX);
        return if frames_follow { Err(damaged("its header is damaged".to_owned())) } else { Ok(()) };
    };

    let mut frame = vec![0; FRAME_HEADER + header.page];
    let mut sum = header.sum;
    let (mut number, mut first_bad, mut commits) = (0_u64, None, 0_u32);
    while fill(&mut reader, &mut frame).map_err(|error| unreadable(log, &error))? {
        number += 1;
        if first_bad.is_none() {
            match header.next(sum, &frame) {
                Some(next) => sum = next,
                None => first_bad = Some(number),
            }
        }
        if let Some(first_bad) = first_bad {
            commits += u32::from(header.is_commit(&frame));
            if commits > 1 {
                return Err(damaged(format!(
                    "frame {first_bad} is damaged, and commits follow that were acknowledged"
                )));
            }
        }
    }
    Ok(())
}

struct Header {
    big_endian: bool,
    page: usize,
    salts: [u32; 2],
    sum: [u32; 2],
}

impl Header {
    /// None where it is not what was written.
    fn read(bytes: &[u8]) -> Option<Self> {
        let magic = word(bytes, 0)?;
        if magic & !1 != MAGIC {
            return None;
        }
        let big_endian = magic & 1 == 1;
        let sum = add([0, 0], bytes.get(..24)?, big_endian);
        if sum != [word(bytes, 24)?, word(bytes, 28)?] {
            return None;
        }
        let page = usize::try_from(word(bytes, 8)?).ok()?;
        let salts = [word(bytes, 16)?, word(bytes, 20)?];
        (page.is_power_of_two() && (512..=65_536).contains(&page)).then_some(Self {
            big_endian,
            page,
            salts,
            sum,
        })
    }

    /// The checksum after this frame; none if it is not the next one.
    fn next(&self, sum: [u32; 2], frame: &[u8]) -> Option<[u32; 2]> {
        let sum = add(sum, frame.get(..8)?, self.big_endian);
        let sum = add(sum, frame.get(FRAME_HEADER..)?, self.big_endian);
        let fits = [word(frame, 8)?, word(frame, 12)?] == self.salts
            && [word(frame, 16)?, word(frame, 20)?] == sum
            && word(frame, 0)? != 0;
        fits.then_some(sum)
    }

    /// Whether the frame ends a commit of this log. One salt is enough: both
    /// are other ones in what an earlier round left behind, and either may be
    /// what is damaged.
    fn is_commit(&self, frame: &[u8]) -> bool {
        let [first, second] = self.salts;
        word(frame, 4).is_some_and(|size| size != 0)
            && (word(frame, 8) == Some(first) || word(frame, 12) == Some(second))
    }
}

/// `SQLite`'s checksum: two sums over pairs of words.
fn add(sum: [u32; 2], bytes: &[u8], big_endian: bool) -> [u32; 2] {
    let read =
        |bytes: [u8; 4]| if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
    bytes.as_chunks::<8>().0.iter().fold(sum, |[one, two], [a, b, c, d, e, f, g, h]| {
        let one = one.wrapping_add(read([*a, *b, *c, *d])).wrapping_add(two);
        [one, two.wrapping_add(read([*e, *f, *g, *h])).wrapping_add(one)]
    })
}

/// Headers are big-endian, whatever the checksums are.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_be_bytes)
}

/// Whether there was enough to fill it.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn unreadable(log: &Path, error: &std::io::Error) -> Error {
    Error::Unavailable(format!("{} cannot be read: {error}", log.display()))
}
