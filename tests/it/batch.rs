//! `payops batch run`: a file of captures, voids and refunds, each at most once, each to its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use http::Method;
use serde_json::json;
use tokio::process::{Child, Command};

use crate::place::{PAYOPS, Place, TOKEN, ended, payops, signal, text};
use crate::support::eventually;

const HEADINGS: &str = "operation,reference,transaction_id,amount,reason\n";
/// A row of the result file by its headings.
type Row = BTreeMap<String, String>;

/// A boundary as a process, and files beside it.
struct Bench {
    place: Place,
    life: Child,
}

impl Bench {
    async fn start() -> Self {
        let place = Place::new().await;
        place.set("read_back", "schedule = [\"100ms\", \"500ms\"]\nthen_every = \"1s\"\n");
        let life = place.serve().await;
        place.no_longer_new();
        Self { place, life }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        self.place.write(name, text);
        self.place.path(name)
    }

    fn command(&self, file: &Path, options: &[&str]) -> Command {
        let mut command = payops(&[&["batch", "run", file.to_str().unwrap()], options].concat());
        command.env("PAYOPS_ADDRESS", format!("http://{}", self.place.address)).env("PAYOPS_TOKEN", TOKEN);
        command
    }

    async fn run(&self, file: &Path, options: &[&str]) -> Output {
        let output = self.command(file, options).output();
        tokio::time::timeout(Duration::from_mins(5), output).await.expect("it ends by itself").unwrap()
    }

    /// The rows of the result file.
    fn results(file: &Path) -> Vec<Row> {
        let mut reader = csv::Reader::from_path(format!("{}.result.csv", file.display())).unwrap();
        reader.deserialize().map(Result::unwrap).collect()
    }
}

fn outcomes(rows: &[Row]) -> Vec<(&str, &str)> {
    rows.iter().map(|row| (row["outcome"].as_str(), row["reason"].as_str())).collect()
}

#[tokio::test]
async fn a_file_runs_row_by_row_and_running_it_again_repeats_nothing() {
    let bench = Bench::start().await;
    let (first, second) = (bench.place.world.card().await, bench.place.world.card().await);
    let file = bench.file(
        "orders.csv",
        &format!(
            "{HEADINGS}capture,order-1,{first},20000,\nrefund,order-1,{first},5000,came back\n\
             capture,order-1-rest,{first},20000,\nvoid,order-2,{second},,\n"
        ),
    );
    let done = bench.run(&file, &[]).await;
    assert_eq!(done.status.code(), Some(1), "{}", text(&done.stderr));
    let results = Bench::results(&file);
    let expected =
        [("SUCCEEDED", ""), ("SUCCEEDED", ""), ("REFUSED", "AMOUNT_EXCEEDS_REMAINING"), ("SUCCEEDED", "")];
    assert_eq!(outcomes(&results), expected);
    assert_eq!(results[0]["key"], "batch-capture-order-1");
    assert!(results[2]["message"].contains("20000"), "{results:?}");
    let printed = text(&done.stdout);
    assert!(printed.contains("SUCCEEDED        3            25000"), "{printed}");
    let ledger = bench.place.world.effects(&first).await;
    assert_eq!(ledger.len(), 2, "{ledger:?}");
    // What the settlement report shows.
    assert!(ledger[0]["reference"].as_str().unwrap().starts_with("order-1-"), "{ledger:?}");

    let again = bench.run(&file, &["--output", "json"]).await;
    assert_eq!(again.status.code(), Some(1));
    let summary: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!((&summary["rows"], &summary["replayed"]), (&json!(4), &json!(3)), "{summary}");
    assert_eq!(outcomes(&Bench::results(&file)), expected);
    assert_eq!(bench.place.world.effects(&first).await, ledger);
    assert_eq!(bench.place.world.ledger(&second).await.len(), 1);
}

#[tokio::test]
async fn a_file_with_mistakes_is_told_line_by_line_and_nothing_is_called() {
    let bench = Bench::start().await;
    let card = bench.place.world.card().await;
    let file = bench.file(
        "orders.csv",
        &format!(
            "{HEADINGS}capture,order-1,{card},100,\ncapture,order-2,{card},299.90,\nsend,order-3,{card},1,\n"
        ),
    );
    let refused = bench.run(&file, &[]).await;
    assert_eq!(refused.status.code(), Some(65));
    let told = text(&refused.stderr);
    assert!(told.contains("orders.csv:3: amount must be a whole number of minor units"), "{told}");
    assert!(told.contains("orders.csv:4: operation must be capture, void or refund"), "{told}");
    assert!(told.contains("nothing was called"), "{told}");
    assert_eq!(bench.place.world.requests(&card).await, Vec::<serde_json::Value>::new());
    assert!(!bench.place.path("orders.csv.result.csv").exists());
}

#[tokio::test]
async fn a_dry_run_tells_what_would_be_refused_and_sends_nothing() {
    let bench = Bench::start().await;
    let card = bench.place.world.card().await;
    let lines = format!(
        "{{\"operation\": \"capture\", \"reference\": \"a\", \"transaction_id\": \"{card}\", \"amount\": 100}}\n\
         {{\"operation\": \"capture\", \"reference\": \"b\", \"transaction_id\": \"{card}\", \"amount\": 100, \
         \"currencyCode\": \"SEK\"}}\n"
    );
    let file = bench.file("orders.jsonl", &lines);
    let done = bench.run(&file, &["--dry-run"]).await;
    assert_eq!(done.status.code(), Some(1), "{}", text(&done.stderr));
    assert_eq!(outcomes(&Bench::results(&file)), [("VALID", ""), ("REFUSED", "CURRENCY_MISMATCH")]);
    assert_eq!(bench.place.world.ledger(&card).await.len(), 0);
}

/// What cannot be known stays open, and says so; the rest of its transaction waits, other rows do not.
#[tokio::test]
async fn what_has_no_end_is_told_and_the_next_run_ends_it() {
    let bench = Bench::start().await;
    let world = &bench.place.world;
    let swish =
        json!({"amount": 8000, "payment_product_type": "swish.swish", "currency": "SEK", "captured": 8000});
    let (swish, card) = (world.make(swish).await, world.card().await);
    world.fault(json!({"operation": "refund", "fault": "accepted_then", "outcome": "never"})).await;
    let file = bench.file(
        "orders.csv",
        &format!("{HEADINGS}refund,r1,{swish},100,\nrefund,r2,{swish},100,\ncapture,c1,{card},100,\n"),
    );
    let run = bench.command(&file, &[]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    eventually("the other row succeeded", async || world.ledger(&card).await.len() == 1).await;
    eventually("the refund is accepted", async || world.requests(&swish).await.len() > 1).await;
    signal(&run, rustix::process::Signal::INT);
    let stopped = run.wait_with_output().await.unwrap();
    assert_eq!(stopped.status.code(), Some(75), "{}", text(&stopped.stderr));
    let results = Bench::results(&file);
    assert_eq!(results[1]["outcome"], "NOT_TRIED", "{results:?}");
    assert_eq!(results[0]["outcome"], "PENDING", "{results:?}");
    assert_eq!(results[2]["outcome"], "SUCCEEDED", "{results:?}");

    let complete = format!("/transactions/{swish}/complete");
    world.admin(Method::POST, &complete, json!({"outcome": "done"})).await.expect(200);
    let done = bench.run(&file, &[]).await;
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    assert_eq!(world.ledger(&swish).await.len(), 2);
}

#[tokio::test]
async fn a_wrong_token_ends_the_run_at_once_and_no_terminal_gets_plain_lines() {
    let bench = Bench::start().await;
    let card = bench.place.world.card().await;
    let rows = (0..50).fold(HEADINGS.to_owned(), |mut rows, nth| {
        _ = writeln!(rows, "capture,order-{nth},{card},1,");
        rows
    });
    let file = bench.file("orders.csv", &rows);
    let refused = bench.command(&file, &[]).env("PAYOPS_TOKEN", "nonsense").output().await.unwrap();
    assert_eq!(refused.status.code(), Some(75));
    let results = Bench::results(&file);
    assert_eq!(results[0]["reason"], "CREDENTIALS_INVALID", "{results:?}");
    assert_eq!(results[49]["outcome"], "NOT_TRIED", "{results:?}");
    let told = text(&refused.stderr);
    assert!(told.contains("50 of 50 rows") && !told.contains('\u{1b}'), "{told}");
}

/// How many rows, of how many payments; each is captured and then refunded in part.
const PAYMENTS: usize = 2_500;
const KILLS: usize = 5;

/// Answers are lost, requests are refused, and the batch is killed five times, and the boundary replaced under it.
#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_rows_end_once_each_through_faults_and_five_kills() {
    let mut bench = Bench::start().await;
    let world = bench.place.world.clone();
    let mut rows = HEADINGS.to_owned();
    for nth in 0..PAYMENTS {
        let card = world.make(json!({"amount": 1_000})).await;
        let captured = 100 + nth % 900;
        _ = writeln!(rows, "capture,order-{nth},{card},{captured},");
        _ = writeln!(rows, "refund,order-{nth},{card},{},", captured / 2);
    }
    // Answers are lost where something moved: a refusal that nobody heard is unknown for as long as a token lives.
    for fault in [
        json!({"operation": "capture", "fault": "answer_lost_after_applying", "probability": 0.01}),
        json!({"operation": "capture", "fault": "unavailable_after_applying", "probability": 0.01}),
        json!({"operation": "refund", "fault": "declined", "probability": 0.02}),
        json!({"operation": "money", "fault": "delayed_answer", "probability": 0.02, "delay_ms": 200}),
    ] {
        world.fault(fault).await;
    }
    let file = bench.file("orders.csv", &rows);
    let ledger =
        async |part: String| world.admin(Method::GET, &format!("/ledger?{part}"), json!(null)).await.json();
    let is_moved = async |effect: usize| ledger(format!("after={effect}&limit=1")).await != json!([]);
    for kill in 1..=KILLS {
        let mut run = bench.command(&file, &[]).stderr(std::process::Stdio::null()).spawn().unwrap();
        let until = kill * PAYMENTS * 2 / (KILLS + 1);
        let moved = tokio::time::timeout(Duration::from_mins(3), async {
            while !is_moved(until).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        moved.await.expect("rows are done");
        if kill % 2 == 0 {
            // The boundary is replaced under it. (Killed, it would not know of what it sent last for as long as a token
            // lives: kills.rs.)
            signal(&bench.life, rustix::process::Signal::TERM);
            ended(&mut bench.life).await;
            bench.life = bench.place.serve().await;
        }
        signal(&run, rustix::process::Signal::KILL);
        ended(&mut run).await;
    }
    let done = bench.run(&file, &[]).await;
    let told = text(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "some were declined: {told}");

    let results = Bench::results(&file);
    assert_eq!(results.len(), PAYMENTS * 2);
    // What the file says against what moved, as the simulator knows it.
    let mut told = BTreeSet::new();
    for row in &results {
        assert!(["SUCCEEDED", "REFUSED"].contains(&row["outcome"].as_str()), "{row:?}");
        if row["outcome"] == "SUCCEEDED" {
            let of = (
                row["transaction_id"].clone(),
                row["operation"].clone(),
                row["amount"].parse::<i64>().unwrap(),
            );
            assert!(told.insert(of), "{row:?}");
        }
    }
    let ledger = ledger("limit=10000000".to_owned()).await;
    let entries = ledger.as_array().unwrap();
    let mut happened = BTreeSet::new();
    for entry in entries {
        let of = |name: &str| entry[name].as_str().unwrap().to_owned();
        let effect = (of("transaction"), of("kind"), entry["amount"].as_i64().unwrap());
        assert!(happened.insert(effect), "twice: {entry}");
    }
    assert_eq!(told, happened);
    let refused = results.iter().filter(|row| row["outcome"] == "REFUSED").count();
    println!("{} rows, {} effects, {refused} refused, {KILLS} kills", results.len(), entries.len());
    assert!(refused > 0 && fs::metadata(&file).is_ok());
}

/// What shells and `man` read follows from the commands themselves.
#[tokio::test]
async fn completions_and_manual_pages_know_every_command() {
    let bash = crate::place::run(&["completions", "bash"]).await;
    let completions = text(&bash.stdout);
    for word in ["batch", "operations", "--dry-run", "--patience"] {
        assert!(completions.contains(word), "{word}");
    }
    let folder = tempfile::tempdir().unwrap();
    let written = crate::place::run(&["man", "--folder", folder.path().to_str().unwrap()]).await;
    assert!(written.status.success(), "{}", text(&written.stderr));
    let page = fs::read_to_string(folder.path().join("payops-batch-run.1")).unwrap();
    assert!(page.contains("repeats nothing"), "{page}");
    assert!(text(&crate::place::run(&["man"]).await.stdout).contains(".TH payops 1"));
}

/// On a terminal of either width there is one bar, never wider than that; without one there are plain lines.
#[tokio::test]
async fn a_terminal_of_80_or_200_columns_gets_a_bar_that_fits() {
    let bench = Bench::start().await;
    let card = bench.place.world.card().await;
    for columns in [80, 200] {
        let rows = (0..20).fold(HEADINGS.to_owned(), |mut rows, nth| {
            _ = writeln!(rows, "capture,order-{columns}-{nth},{card},1,");
            rows
        });
        let file = bench.file("orders.csv", &rows);
        let script = format!("stty cols {columns} rows 24; {PAYOPS} batch run {}", file.display());
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &script, "/dev/null"]);
        command.env("TERM", "xterm").stdin(std::process::Stdio::null());
        command.env("PAYOPS_ADDRESS", format!("http://{}", bench.place.address)).env("PAYOPS_TOKEN", TOKEN);
        let done = command.output().await.unwrap();
        let printed = text(&done.stdout);
        assert!(done.status.success(), "{printed}");
        assert!(printed.contains("/20  ") && printed.contains('█'), "{printed}");
        let bar = printed.split(['\n', '\r']).filter(|line| line.contains("/20"));
        let bar = bar.map(|line| visible(line).chars().count()).max().unwrap();
        assert!(bar <= columns && bar > columns - 5, "{bar} of {columns}: {printed}");
        assert!(printed.contains("SUCCEEDED"), "{printed}");
    }
}

/// A line without what moves the cursor or colours.
fn visible(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    let after = |part: &str| {
        part.split_once(|letter: char| letter.is_ascii_alphabetic()).map_or("", |(_, rest)| rest).to_owned()
    };
    parts.fold(first, |line, part| line + &after(part))
}
