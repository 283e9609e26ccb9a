//! `payops journal`: backup, check and stats, and the way back from a backup.

use std::{fs, os::unix::fs::PermissionsExt as _};

use payops::clock::Timestamp;
use payops::grpc::pb::OperationState::Succeeded;
use serde_json::json;

use super::minted;
use crate::process::{self, run, text};
use crate::support::eventually;

const AMOUNT: i64 = 29_990;

impl process::Place {
    fn config(&self) -> String {
        self.path("payops.toml").to_str().unwrap().to_owned()
    }

    fn configure(&self, from: &str, to: &str) {
        let config = fs::read_to_string(self.path("payops.toml")).unwrap();
        assert!(config.contains(from), "{from}");
        self.write("payops.toml", &config.replace(from, to));
    }

    pub(super) async fn posts(&self, card: &str) -> usize {
        let requests = self.world.requests(card).await;
        requests.iter().filter(|request| request["method"] == "POST").count()
    }
}

fn new_key() -> String {
    minted(Timestamp(jiff::Timestamp::now().as_millisecond()))
}

/// The whole procedure: a backup while payops runs, more operations, the loss of the disk, the restore.
#[tokio::test]
async fn a_restored_backup_moves_nothing_twice() {
    let place = process::Place::new().await;
    let (config, backup) = (place.config(), place.path("backup.sqlite"));
    let file = backup.to_str().unwrap();
    let mut life = place.serve().await;
    let orders = place.orders();
    let cards = [place.world.card().await, place.world.card().await, place.world.card().await];
    orders.capture("kept", &cards[0], AMOUNT).await.unwrap();
    place.world.fault(json!({"operation": "capture", "fault": "answer_lost_before_applying"})).await;
    orders.capture("open", &cards[2], AMOUNT).await.unwrap_err();

    let made = run(&["journal", "backup", file, "--config", &config]).await;
    assert!(made.status.success(), "{}", text(&made.stderr));
    assert!(text(&made.stdout).contains("2 operations, checked and synced"), "{}", text(&made.stdout));
    assert_eq!(fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
    let again = run(&["journal", "backup", file, "--config", &config]).await;
    assert_eq!(again.status.code(), Some(69));
    assert!(text(&again.stderr).contains("is there already"), "{}", text(&again.stderr));

    orders.capture("lost", &cards[1], AMOUNT).await.unwrap();
    life.kill().await.unwrap();
    life.wait().await.unwrap();

    // The restore, as docs/journal.md has it.
    fs::remove_dir_all(place.path("journal")).unwrap();
    fs::create_dir(place.path("journal")).unwrap();
    fs::copy(&backup, place.path("journal").join("journal.sqlite")).unwrap();
    place.configure(
        "[journal]\ndirectory = \"journal\"\nnew = true\n",
        "[exactly_once]\nloss_quiet = \"100ms\"\nkey_clock_leeway = \"0ms\"\n[journal]\ndirectory = \"journal\"\n",
    );
    let _life = place.serve().await;
    assert!(place.log().contains("the journal was lost") && place.log().contains("a backup was restored"));
    let orders = place.orders();
    let known = orders.capture("kept", &cards[0], AMOUNT).await.unwrap();
    assert!(known.replayed);
    eventually("the quiet is over", async || {
        let found = orders.capture("lost", &cards[1], AMOUNT).await;
        found.is_ok_and(|found| found.operation.state() == Succeeded)
    })
    .await;
    assert_eq!([place.posts(&cards[0]).await, place.posts(&cards[1]).await], [1, 1]);
    assert_eq!(place.world.ledger(&cards[1]).await.len(), 1);
    // What was open still is, and reserves its transaction.
    assert_eq!(orders.capture("other", &cards[2], 1).await.unwrap_err().reason(), "TRANSACTION_BUSY");
    // A key of after the loss is sent as ever: one request, no read.
    let fresh = place.world.card().await;
    orders.capture(&new_key(), &fresh, AMOUNT).await.unwrap();
    assert_eq!(place.world.requests(&fresh).await.len(), 1);
    let stats = run(&["journal", "stats", "--config", &config]).await;
    assert!(!text(&stats.stdout).contains("never"), "{}", text(&stats.stdout));
}

#[tokio::test]
async fn check_and_stats_look_at_a_journal_running_or_not() {
    let place = process::Place::new().await;
    let config = place.config();
    let directory = place.path("journal").to_str().unwrap().to_owned();
    let nothing = run(&["journal", "check", "--directory", &directory]).await;
    assert_eq!(nothing.status.code(), Some(69));
    assert!(text(&nothing.stderr).contains("there is no journal.sqlite"), "{}", text(&nothing.stderr));

    let mut life = place.serve().await;
    let card = place.world.card().await;
    place.orders().capture("k", &card, AMOUNT).await.unwrap();
    let stats = text(&run(&["journal", "stats", "--config", &config]).await.stdout);
    for row in [
        "succeeded     1\n",
        "oldest open   none\n",
        "generation    1\n",
        "lost          never\n",
        "in use        yes\n",
    ] {
        assert!(stats.contains(row), "{row}{stats}");
    }
    let check = run(&["journal", "check", "--config", &config]).await;
    assert!(text(&check.stdout).contains("sound: 1 operations (in use"), "{}", text(&check.stderr));
    // Neither was in the way.
    place.orders().capture("k2", &place.world.card().await, AMOUNT).await.unwrap();
    life.kill().await.unwrap();
    life.wait().await.unwrap();

    // The log has it all; nothing is changed by looking.
    let before = files(&place);
    let check = run(&["journal", "check", "--directory", &directory]).await;
    assert_eq!(text(&check.stdout), "The journal is sound: 2 operations\n", "{}", text(&check.stderr));
    let stats = text(&run(&["journal", "stats", "--directory", &directory]).await.stdout);
    assert!(stats.contains("succeeded     2\n") && stats.contains("in use        no\n"), "{stats}");
    let stopped = place.path("stopped.sqlite");
    let made = run(&["journal", "backup", stopped.to_str().unwrap(), "--directory", &directory]).await;
    assert!(text(&made.stdout).contains("2 operations"), "{}", text(&made.stderr));
    assert_eq!(files(&place), before);

    // A log that was cut off is told by all of them, and by the start.
    let log = place.path("journal").join("journal.sqlite-wal");
    let bytes = fs::read(&log).unwrap();
    fs::write(&log, &bytes[..bytes.len() - 1]).unwrap();
    for command in [&["journal", "check"][..], &["serve"]] {
        let refused = run(&[command, &["--config", &config]].concat()).await;
        assert_eq!(refused.status.code(), Some(69));
        let told = text(&refused.stderr);
        assert!(told.contains("were acknowledged") && told.contains("restore a backup"), "{told}");
    }
}

/// All but what `SQLite` shares between processes while it reads.
fn files(place: &process::Place) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(place.path("journal"))
        .unwrap()
        .map(|file| file.unwrap())
        .map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap()))
        .filter(|(name, _)| !name.ends_with("-shm"))
        .collect();
    files.sort();
    files
}
