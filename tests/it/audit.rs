//! The audit: what it tells, and that nobody changes it, or the journal, without a trace.

mod edits;
mod postgres;
mod told;

use std::path::Path;

use payops::journal::Journal as _;
use payops::journal::audit::{
    Key, Record,
    verify::{Report, Verifier},
};
use payops::journal::embedded;
use rustix::process::Signal;

use crate::place::{ended, signal};
use crate::process::{self, run, text};

const SECRET: &[u8] = b"a secret of thirty-two bytes, or more";

pub fn key() -> Key {
    Key::new(SECRET).unwrap()
}

/// What is found in a folder.
fn verified(directory: &Path) -> Report {
    embedded::verify(directory, Verifier::new(vec![key()])).unwrap()
}

/// The records of a folder.
fn records(directory: &Path) -> Vec<Record> {
    let mut records = Vec::new();
    embedded::records(directory, |stored| {
        records.push(serde_json::from_str(stored.body).unwrap());
        Ok(())
    })
    .unwrap();
    records
}

/// With a key of its own, from configuration to export: as an operator does it.
#[tokio::test]
async fn the_audit_of_a_process_that_was_killed_is_verified_and_exported() {
    let place = process::Place::new().await;
    let config = place.path("payops.toml").to_str().unwrap().to_owned();
    let secret = place.path("audit_key");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef\n").unwrap();
    let text_of = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text_of}\n[audit]\nkey_file = \"audit_key\"\n")).unwrap();

    let mut life = place.serve().await;
    let card = place.world.card().await;
    place.orders().capture("k", &card, 29_990).await.unwrap();
    life.kill().await.unwrap();
    life.wait().await.unwrap();
    let mut life = place.serve().await;
    place.orders().capture("k", &card, 29_990).await.unwrap();

    // While it runs.
    let verified = run(&["audit", "verify", "--config", &config]).await;
    assert!(verified.status.success(), "{}{}", text(&verified.stdout), text(&verified.stderr));
    assert!(text(&verified.stdout).contains("The audit is sound"), "{}", text(&verified.stdout));
    assert!(text(&verified.stdout).contains("in 2 chains, 1 operations"), "{}", text(&verified.stdout));
    let exported = run(&["audit", "export", "--config", &config]).await;
    let lines: Vec<serde_json::Value> =
        text(&exported.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let captured = lines.iter().find(|line| line["record"]["after"] == "succeeded").unwrap();
    let record = &captured["record"];
    assert_eq!((&record["caller"], &record["operation"]), (&"orders".into(), &"capture".into()));
    assert_eq!((&record["amount"], &record["before"]), (&29_990.into(), &"started".into()));
    assert_eq!(record["transaction_id"], card.as_str());
    assert!(record["psp_event_id"].is_string() && record["trace_id"].is_string(), "{record}");
    life.kill().await.unwrap();
    life.wait().await.unwrap();

    // A head that the log told, which is no longer there: here one that never was.
    let head = format!("{}:900:{}", captured["chain"].as_str().unwrap(), "0".repeat(64));
    let cut = run(&["audit", "verify", "--config", &config, "--head", &head]).await;
    assert_eq!(cut.status.code(), Some(1));
    assert!(text(&cut.stdout).contains("records are missing at its end"), "{}", text(&cut.stdout));
    // Somebody who knows payops, and not the key.
    std::fs::write(&secret, "fedcba9876543210fedcba9876543210\n").unwrap();
    let forged = run(&["audit", "verify", "--config", &config]).await;
    assert_eq!(forged.status.code(), Some(1));
    // A new key, above the one that was used before.
    std::fs::write(&secret, "fedcba9876543210fedcba9876543210\n0123456789abcdef0123456789abcdef\n").unwrap();
    let mut life = place.serve().await;
    place.orders().capture("another", &place.world.card().await, 1).await.unwrap();
    signal(&life, Signal::TERM);
    assert!(ended(&mut life).await.success());
    // The log has the head, so that whoever has the log knows how far the audit was.
    let log = place.log();
    let last =
        log.lines().rfind(|line| line.contains("the head of the audit")).expect("the log tells the head");
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    let head = last["head"].as_str().unwrap().to_owned();
    let verified = run(&["audit", "verify", "--config", &config, "--head", &head]).await;
    assert!(verified.status.success(), "{}{}", text(&verified.stdout), text(&verified.stderr));
    // A key that could be guessed.
    std::fs::write(&secret, "short\n").unwrap();
    let refused = run(&["config", "check", "--config", &config]).await;
    assert!(text(&refused.stderr).contains("audit.key_file"), "{}", text(&refused.stderr));
}

/// Each process has the head of its chain, and each write moves it.
#[tokio::test]
async fn the_head_moves_with_each_write() {
    let (place, _) = edits::written().await;
    let journal = place.open();
    let before = journal.head().unwrap();
    journal.check().await.unwrap();
    assert_eq!(journal.head(), Some(before), "nothing was written");
    journal.note(vec![edits::note()]).await.unwrap();
    let after = journal.head().unwrap();
    assert_eq!((after.chain, after.batch), (before.chain, before.batch + 1));
    assert_eq!(after.to_string().parse(), Ok(after));
}
