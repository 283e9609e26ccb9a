//! A whole journal as text, to move it from one backend to another: one JSON
//! object a line. First what the journal knows of itself, then every entry and
//! every tombstone, and at the end what they add up to.
//!
//! # Correctness
//!
//! A file without its last line, or with one byte changed, is refused: who
//! reads it believes nothing of it before its end has come. Each line has to be
//! as this payops would write it, so that nothing is lost that only another one
//! knows.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::clock::Timestamp;
use crate::journal::{Error, audit::hex, entry::Entry};

/// Rises when another payops could not read it.
const FORMAT: u32 = 1;
/// The longest line that is read: many times the longest entry.
const LINE_BYTES_MAX: u64 = 4 << 20;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// The first one.
    Journal(Head),
    /// An operation.
    Entry(Box<Entry>),
    /// A key that is forgotten.
    Tombstone(Left),
    /// The last one.
    End(Sum),
}

/// What a journal knows of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    format: u32,
    /// How often it was lost, from 1.
    pub(super) generation: u32,
    /// When it was lost the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lost_at: Option<Timestamp>,
    /// Keys that tell their age, and are older, left no tombstone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) forgotten_before: Option<Timestamp>,
}

/// What is left of a key whose entry is forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Left {
    /// The hash of caller and key, in hexadecimal digits.
    key: String,
    /// The state in which the entry was.
    pub(super) state: String,
}

/// What a file adds up to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// How many entries it has.
    pub entries: u64,
    /// How many tombstones it has.
    pub tombstones: u64,
    /// Of all the bytes before this line, in hexadecimal digits.
    pub sha256: String,
}

/// Writes such a file.
pub(super) struct Writer<W> {
    to: W,
    hash: Sha256,
    sum: Sum,
}

/// Reads such a file.
pub(super) struct Reader {
    from: BufReader<File>,
    name: String,
    hash: Sha256,
    sum: Sum,
    lines: u64,
}

impl Head {
    pub(super) fn new(
        generation: u32,
        lost_at: Option<Timestamp>,
        forgotten_before: Option<Timestamp>,
    ) -> Self {
        Self { format: FORMAT, generation, lost_at, forgotten_before }
    }
}

impl Left {
    pub(super) fn new(key: &[u8], state: String) -> Self {
        Self { key: hex(key), state }
    }

    /// The hash of caller and key; none where it is no such hash.
    pub(super) fn key(&self) -> Option<Vec<u8>> {
        let bytes = u128::from_str_radix(&self.key, 16).ok()?.to_be_bytes();
        (hex(&bytes) == self.key).then(|| bytes.to_vec())
    }
}

impl<W: Write> Writer<W> {
    pub(super) fn new(to: W, head: Head) -> Result<Self, Error> {
        let mut writer = Self { to, hash: Sha256::new(), sum: Sum::default() };
        writer.put(&Line::Journal(head))?;
        Ok(writer)
    }

    pub(super) fn entry(&mut self, entry: Entry) -> Result<(), Error> {
        self.sum.entries += 1;
        self.put(&Line::Entry(Box::new(entry)))
    }

    pub(super) fn tombstone(&mut self, left: Left) -> Result<(), Error> {
        self.sum.tombstones += 1;
        self.put(&Line::Tombstone(left))
    }

    /// Ends the file. Says what it adds up to.
    pub(super) fn end(mut self) -> Result<Sum, Error> {
        let sum = Sum { sha256: hex(&self.hash.clone().finalize()), ..self.sum.clone() };
        self.put(&Line::End(sum.clone()))?;
        self.to.flush().map_err(|error| Error::Unavailable(error.to_string()))?;
        Ok(sum)
    }

    fn put(&mut self, line: &Line) -> Result<(), Error> {
        let text = text(line).map_err(|error| Error::Unavailable(error.to_string()))?;
        self.hash.update(&text);
        self.to.write_all(text.as_bytes()).map_err(|error| Error::Unavailable(error.to_string()))
    }
}

impl Reader {
    /// Reads the first line, too.
    pub(super) fn open(file: &Path) -> Result<(Self, Head), Error> {
        let name = file.display().to_string();
        let opened = File::open(file).map_err(|error| Error::Unavailable(format!("{name}: {error}")))?;
        let from = BufReader::new(opened);
        let mut reader = Self { from, name, hash: Sha256::new(), sum: Sum::default(), lines: 0 };
        match reader.line()? {
            (Line::Journal(head), text) => {
                reader.hash.update(text);
                Ok((reader, head))
            }
            _ => Err(reader.wrong("a journal that was exported begins otherwise")),
        }
    }

    /// The next entry, the next tombstone or, if all before it is as it was
    /// written, the end.
    pub(super) fn next(&mut self) -> Result<Line, Error> {
        let (line, text) = self.line()?;
        match &line {
            Line::Journal(_) => return Err(self.wrong("a second journal begins")),
            Line::Entry(_) => self.sum.entries += 1,
            Line::Tombstone(_) => self.sum.tombstones += 1,
            Line::End(sum) => {
                self.sum.sha256 = hex(&self.hash.clone().finalize());
                if *sum != self.sum {
                    return Err(self.wrong("what stands before it does not add up to that"));
                }
                let more = self.from.fill_buf().map(|more| !more.is_empty());
                if more.map_err(|error| self.wrong(&error.to_string()))? {
                    return Err(self.wrong("something follows the end"));
                }
            }
        }
        self.hash.update(text);
        Ok(line)
    }

    fn line(&mut self) -> Result<(Line, String), Error> {
        self.lines += 1;
        let mut read = String::new();
        match (&mut self.from).take(LINE_BYTES_MAX).read_line(&mut read) {
            Ok(_) if read.ends_with('\n') => {}
            Ok(_) => return Err(self.wrong("the file is cut off here")),
            Err(error) => return Err(self.wrong(&error.to_string())),
        }
        let line = serde_json::from_str(&read).map_err(|error| self.wrong(&error.to_string()))?;
        if let Line::Journal(Head { format, .. }) = &line
            && *format != FORMAT
        {
            return Err(self.wrong(&format!(
                "it has format {format}, and this payops knows {FORMAT}: use the payops that wrote it"
            )));
        }
        if text(&line).is_ok_and(|text| text == read) {
            Ok((line, read))
        } else {
            Err(self
                .wrong("this payops would write it otherwise: it was changed, or another payops wrote it"))
        }
    }

    fn wrong(&self, what: &str) -> Error {
        Error::Unavailable(format!("{}, line {}: {what}", self.name, self.lines))
    }
}

fn text(line: &Line) -> serde_json::Result<String> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One entry of each state.
    const ENTRIES: &str = include_str!("../../tests/it/journal/entries-0.1.jsonl");

    /// A journal of eight entries and two tombstones.
    fn written() -> String {
        let mut file = Vec::new();
        let head = Head::new(3, Some(Timestamp(7)), Some(Timestamp(5)));
        let mut writer = Writer::new(&mut file, head).unwrap();
        for line in ENTRIES.lines() {
            writer.entry(serde_json::from_str(line).unwrap()).unwrap();
        }
        for key in [[0; 16], [255; 16]] {
            writer.tombstone(Left::new(&key, "succeeded".to_owned())).unwrap();
        }
        let sum = writer.end().unwrap();
        assert_eq!((sum.entries, sum.tombstones), (8, 2));
        String::from_utf8(file).unwrap()
    }

    /// The lines of a file after its first one, if it is whole.
    fn read(text: &[u8]) -> Result<(Head, Vec<Line>), Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let (mut reader, head) = Reader::open(file.path())?;
        let mut lines = Vec::new();
        while !matches!(lines.last(), Some(Line::End(_))) {
            lines.push(reader.next()?);
        }
        Ok((head, lines))
    }

    #[test]
    fn what_is_written_is_read() {
        let (head, lines) = read(written().as_bytes()).unwrap();
        assert_eq!(head, Head::new(3, Some(Timestamp(7)), Some(Timestamp(5))));
        let entries: Vec<Entry> = ENTRIES.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for (line, entry) in lines.iter().zip(entries) {
            assert_eq!(*line, Line::Entry(Box::new(entry)));
        }
        let keys =
            lines.iter().filter_map(|line| if let Line::Tombstone(left) = line { left.key() } else { None });
        assert_eq!(keys.collect::<Vec<_>>(), [vec![0; 16], vec![255; 16]]);
    }

    #[test]
    fn a_file_that_is_cut_off_anywhere_is_refused() {
        let whole = written();
        for length in 0..whole.len() {
            assert!(read(&whole.as_bytes()[..length]).is_err(), "{length} of {} bytes", whole.len());
        }
        // Between two lines, too.
        let end = whole.lines().last().unwrap();
        for gone in 1..11 {
            let kept = whole.split_inclusive('\n').enumerate().filter(|(nth, _)| *nth != gone);
            let text: String = kept.map(|(_, line)| line).collect();
            let why = read(text.as_bytes()).unwrap_err().to_string();
            assert!(text.ends_with(&format!("{end}\n")) && why.contains("does not add up"), "{why}");
        }
    }

    #[test]
    fn a_file_in_which_a_byte_is_changed_is_refused() {
        let whole = written();
        for at in 0..whole.len() {
            let mut bytes = whole.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(read(&bytes).is_err(), "byte {at}");
        }
        for text in [
            format!("{whole}\n"),
            format!("{whole}{whole}"),
            whole.replace("\"attempt\"", "\"more\":1,\"attempt\""),
        ] {
            assert!(read(text.as_bytes()).is_err());
        }
    }

    #[test]
    fn another_format_is_named_and_a_line_has_a_bound() {
        let why = read(written().replacen("\"format\":1", "\"format\":2,\"new\":0", 1).as_bytes());
        assert!(why.unwrap_err().to_string().contains("use the payops that wrote it"));
        let endless = format!("{{\"journal\":{}", " ".repeat(5 << 20));
        assert!(read(endless.as_bytes()).unwrap_err().to_string().contains("cut off"));
    }

    #[test]
    fn only_the_hash_of_a_key_is_one() {
        for wrong in ["", "00", "+0000000000000000000000000000000", "g0000000000000000000000000000000"] {
            assert_eq!(Left { key: wrong.to_owned(), state: String::new() }.key(), None, "{wrong}");
        }
    }
}
