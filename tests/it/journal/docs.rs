//! docs/journal.md is true: its keys, commands, queries, names and figures.

use std::{collections::BTreeSet, fs};

use payops::config::{Config, EXAMPLE};
use payops::journal::embedded;

use super::{NOW, Place, change, insert, minted, proven, started};
use crate::process::{run, text};

const PAGE: &str = include_str!("../../../docs/journal.md");

/// What stands between backticks.
fn code() -> BTreeSet<&'static str> {
    let prose = PAGE.split("```").step_by(2);
    prose.flat_map(|text| text.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn every_key_exists_and_has_the_default_that_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let listen = "127.0.0.1:1".parse().unwrap();
    let config = Config::sandbox(listen, listen, folder.path());
    let keys: Vec<_> = config.describe().iter().map(|setting| setting.key.as_str()).collect();
    let named = code().into_iter().map(|word| word.split(' ').next().unwrap());
    let named: Vec<_> =
        named.filter(|word| word.starts_with("journal.") || word.starts_with("exactly_once.")).collect();
    assert!(named.len() > 8, "{named:?}");
    for word in named {
        assert!(keys.contains(&word) || is_file(word), "{word}");
    }
    for (told, default) in [
        ("`exactly_once.loss_quiet` (20 minutes)", "#loss_quiet = \"20m\""),
        ("`exactly_once.loss_fence` (24 hours", "#loss_fence = \"24h\""),
        ("`exactly_once.key_clock_leeway` (10 minutes", "#key_clock_leeway = \"10m\""),
        ("`journal.retention` (90 days", "#retention = \"90d\""),
    ] {
        let words = PAGE.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(told) && EXAMPLE.contains(default), "{told}");
    }
}

fn is_file(word: &str) -> bool {
    word.starts_with("journal.sqlite") || word == "journal.acknowledged"
}

#[tokio::test]
async fn the_files_are_those_that_are_told() {
    let place = Place::new();
    let _journal = place.open();
    let files: BTreeSet<_> = fs::read_dir(place.directory())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    let told = code().into_iter().filter(|word| is_file(word) || *word == "lock").map(str::to_owned);
    assert_eq!(files, told.collect());
}

#[tokio::test]
async fn every_command_exists_and_every_query_runs() {
    let help = text(&run(&["journal", "--help"]).await.stdout);
    for command in ["backup", "check", "stats"] {
        assert!(PAGE.contains(&format!("payops journal {command} ")) && help.contains(command), "{help}");
    }
    let place = Place::new();
    let _journal = place.open();
    let file = place.directory().join("journal.sqlite");
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = rusqlite::Connection::open_with_flags(file, flags).unwrap();
    let queries = PAGE.split("```sql\n").nth(1).unwrap().split("```").next().unwrap();
    for query in queries.lines() {
        connection.prepare(query).unwrap().query([]).unwrap().next().unwrap();
    }
}

#[tokio::test]
async fn an_operation_takes_the_bytes_that_are_told() {
    let place = Place::new();
    let journal = place.open();
    let (operations, over) = (2_000_u32, proven());
    let all = (0..operations).map(|_| async {
        let entry = started(&minted(NOW), NOW);
        insert(&journal, &entry).await;
        change(&journal, &entry, &over, NOW).await;
    });
    futures::future::join_all(all).await;
    drop(journal);
    let bytes = embedded::stats(place.directory()).unwrap().file_bytes / u64::from(operations);
    println!("{bytes} bytes for an operation");
    assert!(PAGE.contains("About 2,900 bytes for an operation"));
    assert!((2_600..=3_200).contains(&bytes), "{bytes}");
}
