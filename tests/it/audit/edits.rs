//! Whatever is edited in the file is found.

use std::path::Path;

use payops::clock::{Clock, Timestamp};
use payops::journal::audit::{Record, Refusal, archive::line, verify::Verifier};
use payops::journal::embedded::{self, Embedded, Settings};
use payops::journal::entry::Event;
use payops::journal::{Error, Journal as _};
use rusqlite::{Connection, types::Value};
use sha2::{Digest as _, Sha256};

use super::{key, records, verified};
use crate::journal::{DAY, NOW, after, change, copy, insert, not_sent, once_free, proven, schedule, started};

/// A journal and its folder.
pub struct Place {
    pub folder: tempfile::TempDir,
    pub clock: Clock,
    pub settings: Settings,
}

impl Place {
    pub fn open(&self) -> Embedded {
        once_free(|| Embedded::open(&self.settings, &self.clock, &schedule())).unwrap()
    }

    pub fn directory(&self) -> &Path {
        &self.settings.directory
    }
}

pub fn note() -> Record {
    let refusal = Refusal {
        at: NOW,
        caller: Some("orders".parse().unwrap()),
        rpc: "Refund".to_owned(),
        reason: "RPC_NOT_ALLOWED".to_owned(),
        why: "no rule".to_owned(),
        count: 1,
        ..Refusal::default()
    };
    Record::Refusal(Box::new(refusal))
}

/// Two lives of a journal, with operations in several states, some of them forgotten, and how many are left.
pub async fn written() -> (Place, usize) {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { audit: key(), ..Settings::beginning(folder.path().join("journal")) };
    let place = Place { folder, clock: Clock::manual(NOW), settings };
    {
        let journal = place.open();
        for number in 0..2 {
            let entry = started(&format!("old-{number}"), NOW);
            insert(&journal, &entry).await;
            change(&journal, &entry, &not_sent(), NOW).await;
        }
        place.clock.advance(100 * DAY);
        assert_eq!(journal.forget(100).await.unwrap(), 2);
        let now = place.clock.now();
        let entries: Vec<_> = (0..4).map(|number| started(&format!("k-{number}"), now)).collect();
        // In one commit, some of them.
        futures::future::join_all(entries.iter().map(|entry| insert(&journal, entry))).await;
        for (entry, event) in entries.iter().zip([proven(), not_sent(), Event::doubted("no answer")]) {
            change(&journal, entry, &event, now).await;
        }
        journal.note(vec![note(), note()]).await.unwrap();
    }
    // What was started is in doubt from then on.
    let journal = place.open();
    insert(&journal, &started("last", place.clock.now())).await;
    drop(journal);
    (place, 5)
}

/// What verifying a copy of the folder finds, once it is changed.
fn found_after(place: &Place, edit: impl FnOnce(&Connection)) -> Result<Vec<String>, Error> {
    let copied = tempfile::tempdir().unwrap();
    let directory = copied.path().join("journal");
    copy(place.directory(), &directory);
    {
        let connection = Connection::open(directory.join("journal.sqlite")).unwrap();
        connection.execute_batch("PRAGMA ignore_check_constraints = ON").unwrap();
        edit(&connection);
    }
    embedded::verify(&directory, Verifier::new(vec![key()])).map(|report| report.findings)
}

#[tokio::test]
async fn what_was_written_is_sound_over_restarts_losses_and_restores() {
    let (mut place, operations) = written().await;
    let report = verified(place.directory());
    assert_eq!(report.findings, Vec::<String>::new());
    assert_eq!((report.chains, report.operations), (2, u64::try_from(operations).unwrap()));
    // A loss, by a raised generation: what is open is fenced.
    place.settings.terms.generation = 2;
    drop(place.open());
    let report = verified(place.directory());
    assert_eq!((report.findings, report.chains), (Vec::new(), 3));
    let fenced = records(place.directory()).into_iter().filter(|record| {
        matches!(record, Record::Operation(told) if told.event == "found in a journal that was lost")
    });
    assert_eq!(fenced.count(), 3);
    // A backup, restored somewhere else.
    let backup = place.folder.path().join("backup.sqlite");
    embedded::backup(place.directory(), &backup).unwrap();
    let restored = place.folder.path().join("restored");
    std::fs::create_dir(&restored).unwrap();
    std::fs::rename(&backup, restored.join("journal.sqlite")).unwrap();
    place.settings.directory = restored;
    drop(place.open());
    let report = verified(place.directory());
    assert_eq!((report.findings, report.chains), (Vec::new(), 4));
}

/// The purpose of it: any one field of any row.
#[tokio::test]
async fn every_field_that_is_edited_is_found() {
    let (place, _) = written().await;
    let connection = Connection::open(place.directory().join("journal.sqlite")).unwrap();
    let mut edits = 0;
    for (table, names) in [
        ("operations", &["id"][..]),
        ("audit", &["chain", "batch", "place"]),
        ("tombstones", &["key"]),
        ("meta", &["id"]),
        ("progress", &["id"]),
    ] {
        let mut statement = connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let width = columns.len();
        let rows: Vec<Vec<Value>> = statement
            .query_map([], |row| (0..width).map(|nth| row.get(nth)).collect())
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert!(!rows.is_empty(), "{table}");
        for row in rows {
            for (nth, column) in columns.iter().enumerate() {
                let name: Vec<String> = names.iter().map(|name| format!("{name} IS ?")).collect();
                let name = name.join(" AND ");
                let named = names
                    .iter()
                    .map(|name| row[columns.iter().position(|column| column == name).unwrap()].clone());
                let values: Vec<Value> = [edited(&row[nth])].into_iter().chain(named).collect();
                let sql = format!("UPDATE {table} SET {column} = ? WHERE {name}");
                let found = found_after(&place, |connection| {
                    let changed = connection.execute(&sql, rusqlite::params_from_iter(&values)).unwrap();
                    assert_eq!(changed, 1, "{sql} {values:?}");
                });
                // A file that is refused as a whole is found, too.
                assert!(!matches!(&found, Ok(found) if found.is_empty()), "{sql} {values:?}");
                edits += 1;
            }
        }
    }
    assert!(edits > 150, "{edits} edits");
}

/// Another value of the same type.
fn edited(value: &Value) -> Value {
    match value {
        Value::Null => Value::Integer(1),
        Value::Integer(number) => Value::Integer(number + 1000),
        Value::Real(number) => Value::Real(-number),
        Value::Blob(bytes) => {
            let mut bytes = bytes.clone();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            Value::Blob(bytes)
        }
        Value::Text(text) => {
            let middle = text.char_indices().nth(text.chars().count() / 2).unwrap().0;
            let other = if text[middle..].starts_with('7') { "8" } else { "7" };
            let length = text[middle..].chars().next().unwrap().len_utf8();
            Value::Text(format!("{}{other}{}", &text[..middle], &text[middle + length..]))
        }
    }
}

/// Somebody who knows how entries are kept, and not the key.
#[tokio::test]
async fn an_entry_that_is_rewritten_with_its_checksum_is_found() {
    let (place, _) = written().await;
    let found = found_after(&place, |connection| {
        let (id, record): (Vec<u8>, String) = connection
            .query_row("SELECT id, record FROM operations WHERE state = 'succeeded'", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        let record = record.replace("29990", "19990");
        let sum = Sha256::digest(&record).to_vec();
        let sql = "UPDATE operations SET record = ?, checksum = ? WHERE id = ?";
        assert_eq!(connection.execute(sql, rusqlite::params![record, sum, id]).unwrap(), 1);
    });
    let found = found.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("is not in the journal as its last record tells"), "{found:?}");
}

#[tokio::test]
async fn a_record_that_is_missing_or_moved_is_found_and_named() {
    let (place, _) = written().await;
    let connection = Connection::open(place.directory().join("journal.sqlite")).unwrap();
    let mut statement = connection.prepare("SELECT chain, batch, place FROM audit").unwrap();
    let names: Vec<(Vec<u8>, i64, i64)> = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let here = "chain = ?1 AND batch = ?2 AND place = ?3";
    for (chain, batch, nth) in &names {
        let found = found_after(&place, |connection| {
            let sql = format!("DELETE FROM audit WHERE {here}");
            assert_eq!(connection.execute(&sql, rusqlite::params![chain, batch, nth]).unwrap(), 1);
        });
        let found = found.unwrap();
        let chain = uuid::Uuid::from_slice(chain).unwrap().to_string();
        assert!(found.iter().any(|finding| finding.contains(&chain)), "{batch}:{nth}: {found:?}");
    }
    // Two records change places.
    let found = found_after(&place, |connection| {
        let [(one, batch, nth), .., (other, last, at)] = &names[..] else { panic!("there are some") };
        for (chain, from, at, to) in [(one, batch, nth, 900), (other, last, at, 901)] {
            let sql = format!("UPDATE audit SET batch = ?4 WHERE {here}");
            assert_eq!(connection.execute(&sql, rusqlite::params![chain, from, at, to]).unwrap(), 1);
        }
    });
    assert!(found.unwrap().len() >= 2);
    // All of one life, and all of the other.
    for (chain, ..) in [&names[0], names.last().unwrap()] {
        let found = found_after(&place, |connection| {
            connection.execute("DELETE FROM audit WHERE chain = ?", [chain]).unwrap();
        });
        let found = found.unwrap();
        assert!(found.iter().any(|finding| finding.contains("records are missing at its end")), "{found:?}");
    }
}

#[tokio::test]
async fn an_operation_that_is_missing_or_put_in_is_found() {
    let (place, operations) = written().await;
    let connection = Connection::open(place.directory().join("journal.sqlite")).unwrap();
    let mut statement = connection.prepare("SELECT id FROM operations").unwrap();
    let ids: Vec<Vec<u8>> =
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(ids.len(), operations);
    for id in ids {
        let found = found_after(&place, |connection| {
            assert_eq!(connection.execute("DELETE FROM operations WHERE id = ?", [&id]).unwrap(), 1);
        });
        let found = found.unwrap();
        assert!(found.iter().any(|finding| finding.contains("is not in the journal")), "{found:?}");
    }
    // One that payops itself wrote, into another journal.
    let other = Place {
        folder: tempfile::tempdir().unwrap(),
        clock: Clock::manual(Timestamp(place.clock.now().0)),
        settings: Settings::beginning(place.folder.path().join("other")),
    };
    {
        let journal = other.open();
        let entry = started("forged", other.clock.now());
        insert(&journal, &entry).await;
        let next = after(&entry, &proven(), other.clock.now());
        journal.update(next).await.unwrap();
    }
    let found = found_after(&place, |connection| {
        let file = other.directory().join("journal.sqlite").display().to_string();
        connection.execute("ATTACH ? AS other", [file]).unwrap();
        connection.execute_batch("INSERT INTO operations SELECT * FROM other.operations").unwrap();
    });
    let found = found.unwrap();
    assert!(found.iter().any(|finding| finding.contains("no record tells of it")), "{found:?}");
}

/// Chains from before there was a key are no better than forged ones, unless one says so.
#[tokio::test]
async fn a_chain_without_a_key_is_believed_by_those_who_ask_for_it_alone() {
    let (mut place, _) = written().await;
    place.settings.audit = payops::journal::audit::Key::none();
    drop(place.open());
    assert!(verified(place.directory()).found > 0);
    let keys = vec![key(), payops::journal::audit::Key::none()];
    let report = embedded::verify(place.directory(), Verifier::new(keys)).unwrap();
    assert_eq!(report.findings, Vec::<String>::new());
}

/// Chains that were exported and taken away are verified from the file.
#[tokio::test]
async fn what_was_archived_is_verified_together_with_the_rest() {
    let (place, operations) = written().await;
    let mut lines = String::new();
    let mut chains = Vec::new();
    embedded::records(place.directory(), |stored| {
        lines.push_str(&line(stored).unwrap());
        chains.push(stored.chain);
        Ok(())
    })
    .unwrap();
    let archive = place.folder.path().join("archive.jsonl");
    std::fs::write(&archive, &lines).unwrap();
    let first = records(place.directory())
        .iter()
        .zip(&chains)
        .find_map(|(record, chain)| matches!(record, Record::Chain { after: None, .. }).then_some(*chain));
    let connection = Connection::open(place.directory().join("journal.sqlite")).unwrap();
    let gone = connection.execute("DELETE FROM audit WHERE chain = ?", [first.unwrap().as_bytes()]).unwrap();
    assert!(gone > 5);
    assert!(verified(place.directory()).found > 0);
    let with_archive = || {
        let mut verifier = Verifier::new(vec![key()]);
        verifier.archive(archive.clone());
        embedded::verify(place.directory(), verifier).unwrap()
    };
    let report = with_archive();
    assert_eq!((report.findings, report.chains), (Vec::new(), 2));
    assert_eq!(report.operations, u64::try_from(operations).unwrap());
    let archived = format!("{{\"chain\":\"{}\"", first.unwrap());
    let third = lines.split_inclusive('\n').filter(|line| line.starts_with(&archived)).nth(2).unwrap();
    // It is no better than a journal: what is changed in it is found.
    for changed in [
        lines.replace("29990", "19990"),
        lines.replace("\"batch\":3", "\"batch\":4"),
        // Without the third record of the chain that is read from it.
        lines.replacen(third, "", 1),
        "x".to_owned(),
    ] {
        assert_ne!(changed, lines);
        std::fs::write(&archive, changed).unwrap();
        assert!(with_archive().found > 0);
    }
}
