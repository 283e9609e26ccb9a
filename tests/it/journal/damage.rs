//! A damaged journal is refused, or nothing that was acknowledged is missing or changed.

use std::{fs, path::Path};

use futures::future::join_all;
use payops::journal::entry::{Entry, Event};
use payops::journal::{Error, Filter, Journal as _, Written};

use super::{DAY, NOW, Place, after, insert, not_sent, proven, started};

const JOURNAL: &str = "journal.sqlite";
const LOG: &str = "journal.sqlite-wal";
const MARK: &str = "journal.acknowledged";

const HEADER: usize = 32;
const FRAME: usize = 24 + 4096;

/// The files of a journal as a crash leaves them, and what was acknowledged by then.
#[derive(Clone)]
struct Image {
    files: Vec<(&'static str, Vec<u8>)>,
    entries: Vec<Entry>,
    forgotten: Vec<String>,
}

impl Image {
    /// Part of it in the file, part of it in the log alone.
    async fn take() -> (Self, Place) {
        let place = Place::new();
        let mut forgotten = Vec::new();
        let mut entries: Vec<Entry> = Vec::new();
        {
            let journal = place.open();
            for number in 0..8 {
                let entry = started(&format!("old-{number}"), NOW);
                insert(&journal, &entry).await;
                let over = after(&entry, &not_sent(), NOW);
                assert_eq!(journal.update(over).await.unwrap(), Written::Done);
                forgotten.push(entry.key.to_string());
            }
            place.clock.advance(100 * DAY);
            assert_eq!(journal.forget(100).await.unwrap(), 8);
            let now = place.clock.now();
            let new: Vec<_> = (0..120).map(|number| started(&format!("key-{number}"), now)).collect();
            join_all(new.iter().map(|entry| insert(&journal, entry))).await;
            for (number, entry) in new.into_iter().enumerate() {
                let event = [Event::doubted("no answer"), not_sent(), proven()][number % 3].clone();
                entries.push(after(&entry, &event, now));
            }
            join_all(entries.iter().map(|entry| journal.update(entry.clone()))).await;
        }
        let now = place.clock.now();
        let journal = place.open();
        for number in (0..40).step_by(3) {
            let next = after(&entries[number], &proven(), now);
            assert_eq!(journal.update(next.clone()).await.unwrap(), Written::Done);
            entries[number] = next;
        }
        for number in 0..3 {
            let entry = started(&format!("last-{number}"), now);
            insert(&journal, &entry).await;
            entries.push(after(&entry, &Event::doubted("no answer"), now));
            journal.update(entries.last().unwrap().clone()).await.unwrap();
        }
        let image = Self { files: Vec::new(), entries, forgotten }.with_files_of(place.directory());
        drop(journal);
        (image, place)
    }

    fn with_files_of(mut self, directory: &Path) -> Self {
        self.files =
            [JOURNAL, LOG, MARK].map(|name| (name, fs::read(directory.join(name)).unwrap())).to_vec();
        self
    }

    fn file(&mut self, name: &str) -> &mut Vec<u8> {
        &mut self.files.iter_mut().find(|(other, _)| *other == name).unwrap().1
    }

    fn frames(&self) -> usize {
        let log = &self.files.iter().find(|(name, _)| *name == LOG).unwrap().1;
        log.len().saturating_sub(HEADER) / FRAME
    }

    /// Opens the journal in a new place, and says whether it was refused.
    async fn is_refused(&self, what: &str) -> bool {
        let mut place = Place::new();
        // Whoever begins with an empty folder notices at once; nothing here may look like that.
        place.settings.terms.new = true;
        place.clock.advance(100 * DAY);
        fs::create_dir(place.directory()).unwrap();
        for (name, bytes) in &self.files {
            fs::write(place.directory().join(name), bytes).unwrap();
        }
        let journal = match place.try_open() {
            Ok(journal) => journal,
            Err(error) => {
                let told = error.to_string();
                assert!(told.contains(place.directory().to_str().unwrap()), "{what}: {told}");
                if let Error::Corrupt(_) = error {
                    assert!(told.contains("restore a backup"), "{what}: {told}");
                }
                return true;
            }
        };
        assert_eq!(journal.loss(), None, "{what}");
        for entry in &self.entries {
            assert_eq!(journal.get(entry.id).await.unwrap().as_ref(), Some(entry), "{what}");
            let found = journal.find(&entry.caller, &entry.key).await.unwrap();
            assert_eq!(found.as_ref(), Some(entry), "{what}");
            let open = journal.open_on(&entry.operation.transaction).await.unwrap();
            assert_eq!(open.as_ref(), entry.state.is_open().then_some(entry), "{what}");
        }
        let all = journal.list(&Filter::default(), None, 1_000).await.unwrap();
        let all = all.iter().filter(|entry| entry.key.as_str() != "unacknowledged");
        assert_eq!(all.count(), self.entries.len(), "{what}");
        for key in &self.forgotten {
            let again = journal.insert(started(key, place.clock.now())).await.unwrap();
            assert!(matches!(again, Written::Forgotten(_)), "{what}: {again:?}");
        }
        false
    }
}

/// A small generator, so that each run damages the same bytes.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

#[tokio::test]
async fn damage_anywhere_is_refused_or_does_not_matter() {
    let (image, _place) = Image::take().await;
    assert!(!image.is_refused("sound").await, "a crash is no damage");
    let mut random = Random(42);
    let mut counts = std::collections::BTreeMap::new();
    for trial in 0..420 {
        let name = [JOURNAL, LOG, JOURNAL, LOG, MARK][trial % 5];
        let mut damaged = image.clone();
        let bytes = damaged.file(name);
        let at = random.below(bytes.len());
        let how = match random.below(4) {
            0 | 1 => {
                bytes[at] ^= 1 << random.below(8);
                "a bit"
            }
            2 => {
                // As a disk does: a sector.
                let start = at / 512 * 512;
                let end = (start + 512).min(bytes.len());
                bytes[start..end].fill(0);
                "a sector"
            }
            _ => {
                bytes.truncate(at);
                "the end"
            }
        };
        let what = format!("trial {trial}: {how} of {name} at {at}");
        let refused = damaged.is_refused(&what).await;
        let (all, no) = counts.entry((name, how)).or_insert((0, 0));
        *all += 1;
        *no += u32::from(refused);
    }
    println!("420 damaged journals (of each: how many, how many refused): {counts:?}");
    let refused: u32 = counts.values().map(|(_, refused)| refused).sum();
    assert!((200..420).contains(&refused), "{refused}");
    assert_eq!(counts[&(MARK, "a bit")].1, 0, "a mark that says nothing stops nobody");
}

#[tokio::test]
async fn a_log_that_is_cut_off_anywhere_is_refused_as_soon_as_it_lacks_what_was_acknowledged() {
    let (image, _place) = Image::take().await;
    let frames = image.frames();
    for frame in 0..=frames {
        for off in [-1_isize, 0, 1] {
            let length = (HEADER + frame * FRAME).checked_add_signed(off).unwrap();
            let mut cut = image.clone();
            let log = cut.file(LOG);
            let whole = length >= log.len();
            log.truncate(length);
            assert_eq!(cut.is_refused(&format!("cut at {length}")).await, !whole, "cut at {length}");
        }
    }
    println!("{} cuts around {frames} frames", 3 * (frames + 1));
}

/// The power went before the last commit was acknowledged: whatever became of its frames is fine.
#[tokio::test]
async fn a_last_commit_that_was_not_acknowledged_may_be_torn() {
    let (mut image, place) = Image::take().await;
    let directory = place.folder.path().join("live");
    fs::create_dir(&directory).unwrap();
    for (name, bytes) in &image.files {
        fs::write(directory.join(name), bytes).unwrap();
    }
    let mut live = Place::new();
    live.clock.advance(100 * DAY);
    live.settings.directory = directory;
    let journal = live.open();
    let now = live.clock.now();
    let acknowledged = started("acknowledged", now);
    insert(&journal, &acknowledged).await;
    image.entries.push(super::change(&journal, &acknowledged, &not_sent(), now).await);
    let before = image.clone().with_files_of(live.directory());
    insert(&journal, &started("unacknowledged", now)).await;
    let written = image.clone().with_files_of(live.directory());
    drop(journal);
    let (first, last) = (before.frames(), written.frames());
    assert!(last > first + 2);

    let mut torn = before.clone();
    let mut random = Random(7);
    for frame in first..last {
        for off in [-1_isize, 0, 1] {
            let length = (HEADER + frame * FRAME).checked_add_signed(off).unwrap();
            if length < HEADER + first * FRAME {
                continue;
            }
            let mut log = written.clone().file(LOG).clone();
            log.truncate(length);
            *torn.file(LOG) = log;
            assert!(!torn.is_refused(&format!("cut at {length}")).await, "cut at {length}");
        }
        // Sectors reach the disk in any order.
        let mut log = written.clone().file(LOG).clone();
        let at = HEADER + frame * FRAME + random.below(FRAME / 512) * 512;
        log[at..at + 400].fill(0);
        *torn.file(LOG) = log;
        assert!(!torn.is_refused(&format!("a hole at {at}")).await, "a hole at {at}");
    }
}

/// The mark may be old: it is not synced. What the log itself shows is enough, but for its last commit.
#[tokio::test]
async fn a_bad_frame_before_an_acknowledged_commit_is_refused_without_the_mark_too() {
    let (mut image, _place) = Image::take().await;
    image.file(MARK).fill(0);
    let log = image.file(LOG).clone();
    let commits: Vec<usize> = (0..image.frames())
        .filter(|frame| {
            let at = HEADER + frame * FRAME + 4;
            log[at..at + 4] != [0; 4]
        })
        .collect();
    // Behind this frame there are two commits at least.
    let end = commits[commits.len() - 2];
    let mut random = Random(3);
    for trial in 0..80 {
        let mut damaged = image.clone();
        // Of headers too, and of the salts in them.
        let frame = random.below(end + 1);
        let within = if trial % 2 == 0 { random.below(24) } else { random.below(FRAME) };
        // The sign of a commit is the one thing whose damage looks like a torn end.
        if commits[commits.len() - 2..].contains(&frame) && (4..8).contains(&within) {
            continue;
        }
        damaged.file(LOG)[HEADER + frame * FRAME + within] ^= 1 << random.below(8);
        let what = format!("frame {frame} at {within}");
        assert!(damaged.is_refused(&what).await, "{what}");
    }
    // The commit itself, and what makes it one of this log: the other salt still tells.
    for within in 8..16 {
        let mut damaged = image.clone();
        damaged.file(LOG)[HEADER + end * FRAME + within] ^= 1;
        assert!(damaged.is_refused(&format!("commit at {within}")).await, "commit at {within}");
    }
    for at in 0..HEADER {
        let mut damaged = image.clone();
        damaged.file(LOG)[at] ^= 1;
        assert!(damaged.is_refused(&format!("header at {at}")).await, "header at {at}");
    }
}

#[tokio::test]
async fn what_is_stored_beside_a_record_must_fit_it() {
    for (change, told) in [
        ("UPDATE operations SET record = replace(record, 'orders', 'others')", "is not what was written"),
        ("UPDATE operations SET checksum = zeroblob(32)", "is not what was written"),
        ("UPDATE operations SET key = 'another'", "is not what was written"),
        ("UPDATE operations SET caller = 'another'", "is not what was written"),
        ("UPDATE operations SET transaction_id = 'T12345678.a'", "is not what was written"),
        ("UPDATE operations SET state = 'released'", "is not what was written"),
        ("UPDATE operations SET open = 0", "is not what was written"),
        ("UPDATE operations SET revision = 7", "is not what was written"),
        ("UPDATE operations SET created_at = 0", "is not what was written"),
        ("UPDATE operations SET updated_at = 0", "is not what was written"),
        ("UPDATE operations SET next_read_at = NULL", "is not what was written"),
        ("INSERT INTO tombstones VALUES (zeroblob(16), 'released', zeroblob(8))", "a tombstone is not"),
        (
            "UPDATE meta SET record = replace(record, 'generation\":1', 'generation\":0')",
            "its own description",
        ),
        ("DELETE FROM meta", "lacks its own description"),
        ("DELETE FROM progress", "does not count"),
        ("DROP INDEX operations_key", "its tables are not those of payops"),
        ("ALTER TABLE tombstones ADD COLUMN more TEXT", "its tables are not those of payops"),
    ] {
        let place = Place::new();
        insert(&place.open(), &started("k", NOW)).await;
        let file = place.directory().join(JOURNAL);
        rusqlite::Connection::open(file).unwrap().execute_batch(change).unwrap();
        let refused = place.refused();
        assert!(refused.contains(told), "{change}: {refused}");
    }
}

/// The index says that there is no such key: it would run again.
#[tokio::test]
async fn an_index_that_hides_a_key_is_refused() {
    let place = Place::new();
    insert(&place.open(), &started("k", NOW)).await;
    {
        let connection = rusqlite::Connection::open(place.directory().join(JOURNAL)).unwrap();
        connection
            .execute_batch(
                "PRAGMA writable_schema = ON;
                 UPDATE sqlite_schema SET sql = sql || ' WHERE open = 7' WHERE name = 'operations_key';
                 PRAGMA writable_schema = RESET;
                 REINDEX operations_key;
                 PRAGMA writable_schema = ON;
                 UPDATE sqlite_schema SET sql = replace(sql, ' WHERE open = 7', '') WHERE name = 'operations_key';",
            )
            .unwrap();
    }
    let refused = place.refused();
    assert!(refused.contains("operations_key"), "{refused}");
}
