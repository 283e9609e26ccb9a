//! A full disk and a disk that fails to sync, under the real process.

use std::{fs, io::Write as _, path::PathBuf, process::Stdio, time::Duration};

use payops::grpc::pb::OperationState::Succeeded;
use payops::sandbox::Settings;
use serde_json::json;
use tokio::process::{Child, Command};
use tonic::Code;

use crate::process::{self, PAYOPS, ended};
use crate::sandbox::world::World;
use crate::support::eventually;

const AMOUNT: i64 = 29_990;

/// Times so short that what is in doubt is read back within the test.
const QUICK: &str =
    "[psp]\nattempt_timeout = \"2s\"\nconnect_timeout = \"1s\"\nlate_answer_timeout = \"3s\"\n";
const SOON: &str = "[exactly_once]\nsend_window = \"500ms\"\nlease_grace = \"500ms\"\ntoken_life_min = \"2500ms\"\n\
                    settle_max = \"200ms\"\nread_lag_max = \"200ms\"\nabsent_reads_apart = \"200ms\"\n\
                    [read_back]\nschedule = [\"200ms\", \"500ms\"]\nthen_every = \"1s\"\n";

impl process::Place {
    fn quickly(&self) {
        let config = fs::read_to_string(self.path("payops.toml")).unwrap();
        self.write("payops.toml", &format!("{SOON}{}", config.replace("[psp]\n", QUICK)));
    }
}

/// Serves in a world of its own, in which the journal's folder is a disk of 1 MiB; it ends with the process.
async fn on_a_small_disk(place: &process::Place) -> Child {
    fs::create_dir(place.path("journal")).unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["--map-root-user", "--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o size=1m tmpfs \"$1\" && exec \"$0\" serve --config \"$2\"")
        .args([PAYOPS.as_ref(), place.path("journal").as_os_str(), place.path("payops.toml").as_os_str()])
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    place.serve_by(&mut command).await
}

/// The process's own view of the disk.
fn filler(place: &process::Place, life: &Child) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", life.id().unwrap()));
    root.join(place.path("journal").strip_prefix("/").unwrap()).join("filler")
}

/// To the last byte.
fn fill(file: &PathBuf) {
    let mut file = fs::File::create(file).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
}

#[tokio::test]
async fn a_full_disk_refuses_before_sending_and_loses_nothing() {
    let place = process::Place::new().await;
    place.quickly();
    let life = on_a_small_disk(&place).await;
    let filler = filler(&place, &life);
    let orders = place.orders();
    let (under_way, fresh) = (place.world.card().await, place.world.card().await);

    // The disk fills while the PSP works: the money moves, and that cannot be written down.
    place.world.fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 800})).await;
    let call = tokio::spawn({
        let (orders, card) = (place.orders(), under_way.clone());
        async move { orders.capture("under-way", &card, AMOUNT).await }
    });
    place.world.eventually("it is sent", async |world| !world.requests(&under_way).await.is_empty()).await;
    fill(&filler);
    let unknown = call.await.unwrap().unwrap_err();
    assert_eq!((unknown.code, unknown.reason()), (Code::Aborted, "OUTCOME_UNKNOWN"));
    assert_eq!(unknown.metadata("safe_to_use_new_key"), Some("false"));

    // What cannot be recorded is not sent.
    let refused = orders.capture("refused", &fresh, AMOUNT).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::Unavailable, "JOURNAL_UNAVAILABLE"));
    assert_eq!(place.world.requests(&fresh).await.len(), 0);
    eventually("it is not ready", async || place.health().await == Some(2)).await;

    // Room again: everything becomes definite, and ready.
    fs::remove_file(&filler).unwrap();
    eventually("it is ready", async || place.health().await == Some(1)).await;
    let done = orders.settled("under-way", Succeeded).await;
    assert_eq!(done.attempt, 1);
    orders.capture("refused", &fresh, AMOUNT).await.unwrap();
    for card in [&under_way, &fresh] {
        assert_eq!(place.world.ledger(card).await.len(), 1);
        let requests = place.world.requests(card).await;
        assert_eq!(requests.iter().filter(|request| request["method"] == "POST").count(), 1);
    }
}

/// Makes every sync of the process fail from now on.
async fn fail_every_sync(life: &Child) -> Child {
    let log = tempfile::NamedTempFile::new().unwrap();
    let tracer = Command::new("strace")
        .args(["-f", "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO", "-o"])
        .arg(log.path())
        .args(["-p", &life.id().unwrap().to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut tracer = tracer.expect("strace is installed: tests/run does it");
    let told = tokio::io::BufReader::new(tracer.stderr.take().unwrap());
    let mut lines = tokio::io::AsyncBufReadExt::lines(told);
    let attached = async {
        let line = lines.next_line().await.unwrap().unwrap_or_default();
        assert!(line.contains("attached"), "strace: {line}");
    };
    tokio::time::timeout(Duration::from_secs(10), attached).await.expect("strace attaches");
    // Goes on reading, or strace would wait for us.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    tracer
}

#[tokio::test]
async fn a_sync_that_fails_ends_the_process_and_nothing_is_sent_or_lost() {
    // Before the first record, and between the record and the result.
    for before in [true, false] {
        let short = Settings { token_life: Duration::from_secs(10), ..Settings::default() };
        let place = process::Place::in_front_of(World::start_with(short).await);
        place.quickly();
        let mut life = place.serve().await;
        let orders = place.orders();
        let (done, card) = (place.world.card().await, place.world.card().await);
        orders.capture("done", &done, AMOUNT).await.unwrap();
        let (call, tracer);
        if before {
            tracer = fail_every_sync(&life).await;
            let unwritten = orders.capture("k", &card, AMOUNT).await.unwrap_err();
            // Nobody knows whether the record is durable, so nobody says that the key is free.
            assert_ne!(unwritten.metadata("safe_to_use_new_key"), Some("true"), "{}", unwritten.reason());
        } else {
            place
                .world
                .fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 1_500}))
                .await;
            call = tokio::spawn({
                let (orders, card) = (place.orders(), card.clone());
                async move { orders.capture("k", &card, AMOUNT).await }
            });
            place.world.eventually("it is sent", async |world| !world.requests(&card).await.is_empty()).await;
            tracer = fail_every_sync(&life).await;
            call.await.unwrap().unwrap_err();
        }
        assert_eq!(ended(&mut life).await.code(), Some(69), "{}", place.log());
        drop(tracer);
        let log = place.log();
        assert!(log.contains("the journal could not commit; this process must not write again"), "{log}");
        assert!(log.contains("the journal did not confirm the write"), "{log}");
        let sent = place.world.requests(&card).await.len();
        assert_eq!(sent, usize::from(!before), "nothing was sent without a durable record");

        let _next_life = place.serve().await;
        let orders = place.orders();
        assert!(orders.capture("done", &done, AMOUNT).await.unwrap().replayed);
        if before {
            // Perhaps recorded, surely never sent: it runs when the token of then is dead.
            eventually("it is definite", async || {
                let answer = orders.capture("k", &card, AMOUNT).await;
                answer.is_ok_and(|answer| answer.operation.state() == Succeeded)
            })
            .await;
        } else {
            let settled = orders.settled("k", Succeeded).await;
            assert_eq!(settled.attempt, 1);
        }
        for card in [&done, &card] {
            assert_eq!(place.world.ledger(card).await.len(), 1);
        }
    }
}
