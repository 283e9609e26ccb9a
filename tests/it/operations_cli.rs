//! `payops operations` as a person at a terminal sees it: the real binary against a boundary that serves.

use std::{
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use payops::grpc::pb::OperationState::{InReview, Succeeded};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::support::{TestApp, free_address};
use crate::tls::behind_tls;

/// The command, by a person, with an environment that has nothing else.
fn operations(address: &str, token: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_payops"));
    command.arg("operations").args(arguments).env_clear().env("PAYOPS_ADDRESS", address);
    command.env("PAYOPS_TOKEN", token).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// What it printed, what it told, and how it ended.
#[derive(Debug)]
struct Done {
    out: String,
    err: String,
    code: Option<i32>,
}

async fn done(mut command: Command) -> Done {
    let output = tokio::time::timeout(Duration::from_secs(20), command.output());
    let Output { status, stdout, stderr } = output.await.expect("it ends by itself").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { out: text(stdout), err: text(stderr), code: status.code() }
}

impl TestApp {
    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn as_person(&self, name: &str, arguments: &[&str]) -> Done {
        done(operations(&self.url(), &format!("token-of-{name}"), arguments)).await
    }

    /// Succeeds, and gives what is printed.
    async fn shown(&self, name: &str, arguments: &[&str]) -> String {
        let Done { out, err, code } = self.as_person(name, arguments).await;
        assert_eq!(code, Some(0), "{arguments:?}: {err}");
        out
    }

    async fn json(&self, name: &str, arguments: &[&str]) -> Value {
        let out = self.shown(name, &[arguments, &["--output", "json"]].concat()).await;
        serde_json::from_str(&out).unwrap()
    }
}

#[tokio::test]
async fn a_list_is_a_table_for_people_and_json_for_programs() {
    let app = TestApp::start().await;
    let card = app.world.card().await;
    app.orders().await.capture("plain", &card, 29_990).await.unwrap();
    let (doubled, id) = app.doubled("k").await;
    let table = app.shown("anna", &["list"]).await;
    let [heading, first, second] = table.lines().collect::<Vec<_>>()[..] else { panic!("{table}") };
    let columns = ["OPERATION", "AGE", "STATE", "KIND", "AMOUNT", "TRANSACTION", "CALLER", "KEY"];
    assert_eq!(heading.split_whitespace().collect::<Vec<_>>(), columns);
    let cells: Vec<&str> = first.split_whitespace().collect();
    assert!(cells[1].ends_with('s') && cells[1].len() <= 3, "an age: {first}");
    let expected = [&id, cells[1], "IN_REVIEW", "CAPTURE", "100", &doubled, "orders", "k"];
    assert_eq!(cells, expected);
    // Aligned: numbers end where their heading ends, everything else begins where its heading begins.
    let state = |line: &str, word: &str| line.find(word).unwrap();
    assert_eq!(state(heading, "STATE"), state(first, "IN_REVIEW"));
    assert_eq!(state(heading, "STATE"), state(second, "SUCCEEDED"));
    assert_eq!(state(heading, "AMOUNT") + 6, state(second, "29990") + 5);

    let listed = app.json("anna", &["list", "--state", "in-review"]).await;
    let [record] = listed["operations"].as_array().unwrap().as_slice() else { panic!("{listed}") };
    assert_eq!(record["operation"]["operation_id"], id);
    assert_eq!(record["operation"]["state"], "OPERATION_STATE_IN_REVIEW");
    assert_eq!((&record["operation"]["amount"], &record["idempotency_key"]), (&json!("100"), &json!("k")));
    assert_eq!(listed["more"], false);
    for (filter, expected) in [
        (&["--transaction", &card][..], 1),
        (&["--account", "T12345678"], 2),
        (&["--caller", "returns"], 0),
        (&["--from", "1h"], 2),
        (&["--until", "1h"], 0),
        (&["--state", "in-review", "--state", "succeeded", "--from", "2020-01-01T00:00:00Z"], 2),
    ] {
        let listed = app.json("anna", &[&["list"], filter].concat()).await;
        assert_eq!(listed["operations"].as_array().unwrap().len(), expected, "{filter:?}");
    }
    assert_eq!(app.shown("anna", &["list", "--caller", "returns"]).await, "no operation fits\n");
}

#[tokio::test]
async fn a_list_goes_on_page_after_page_up_to_its_limit() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    for n in 0..203 {
        orders.capture(&format!("k{n}"), &card, 1).await.unwrap();
    }
    for (arguments, expected, more) in [
        (&["list"][..], 50, true),
        (&["list", "--limit", "201"], 201, true),
        (&["list", "--limit", "500"], 203, false),
    ] {
        let listed = app.json("anna", arguments).await;
        assert_eq!(
            (listed["operations"].as_array().unwrap().len(), &listed["more"]),
            (expected, &json!(more))
        );
    }
    let told = app.as_person("anna", &["list", "--limit", "3"]).await;
    assert_eq!(told.out.lines().count(), 4);
    assert_eq!(told.err, "payops: there are more; --limit 6 shows as many again\n");
}

#[tokio::test]
async fn both_sides_stand_beside_each_other_within_a_hundred_columns() {
    let app = TestApp::start().await;
    let (card, id) = app.doubled("k").await;
    let shown = app.shown("anna", &["show", &id]).await;
    for line in shown.lines() {
        assert!(line.chars().count() <= 100 && !line.contains('\u{1b}'), "{line:?}");
    }
    let (sides, below) = shown.split_once("\n\nVERDICT").unwrap();
    let halves: Vec<(&str, &str)> = sides.lines().map(|line| line.split_once(" |").unwrap()).collect();
    let column = |side: fn(&(&'_ str, &'_ str)) -> String| {
        halves
            .iter()
            .map(|half| side(half).split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    let ours = column(|half| half.0.to_owned());
    for due in [
        "OUR RECORD",
        &format!("operation {id}"),
        "asked CAPTURE 100 NOK",
        &format!("transaction {card}"),
        "caller orders",
        "key k",
        "attempts 1",
    ] {
        assert!(ours.iter().any(|line| line == due), "{due}:\n{shown}");
    }
    let theirs = column(|half| half.1.to_owned());
    for due in ["THE PSP", "captured 200 NOK", "by this key 200 NOK", "* CAPTURE 100 done"] {
        assert!(theirs.iter().any(|line| line == due), "{due}:\n{shown}");
    }
    assert_eq!(theirs.iter().filter(|line| line.starts_with("* ")).count(), 2, "{shown}");
    assert!(
        below.starts_with("     CONTRADICTED: 200 minor units moved where 100 were asked for\n"),
        "{below}"
    );
    assert!(below.contains(&format!("\nNEXT\npayops operations resolve {id} \\\n")), "{below}");
    assert!(below.contains("  1  IN_REVIEW  200 minor units moved where 100 were asked for\n"), "{below}");

    let evidence = app.json("anna", &["show", &id]).await;
    assert_eq!(evidence["verdict"], "EVIDENCE_VERDICT_CONTRADICTED");
    let events = evidence["psp"]["events"].as_array().unwrap();
    assert_eq!(events.iter().filter(|event| event["mark"] == "EVIDENCE_MARK_TAG").count(), 2);
    // The PSP is gone: our side is shown, and why the other one is missing.
    app.world.fault(json!({"operation": "get", "fault": "internal_error", "times": 1000})).await;
    let shown = app.shown("anna", &["show", &id]).await;
    assert!(shown.contains("| not read") && shown.contains("VERDICT     UNREAD: "), "{shown}");
}

#[tokio::test]
async fn two_persons_resolve_a_review_from_their_terminals() {
    let app = TestApp::start().await;
    let (_, id) = app.doubled("k").await;
    let proposed = app
        .shown("anna", &["resolve", &id, "--decision", "declined", "--reason", "the bank took both back"])
        .await;
    let confirm = proposed.lines().find(|line| line.contains("--confirm")).unwrap();
    let proposal =
        confirm.split_whitespace().skip_while(|word| *word != "--confirm").nth(1).unwrap().to_owned();
    let shown = app.shown("ben", &["show", &id]).await;
    assert!(shown.contains(&format!("--confirm {proposal}")), "{shown}");
    assert!(
        shown.contains("PROPOSAL    anna proposes DECLINED, ") && shown.contains("the bank took both back")
    );

    let step = ["resolve", &id, "--confirm", &proposal, "--reason", "so it did"];
    let alone = app.as_person("anna", &step).await;
    assert_eq!((alone.code, alone.out.as_str()), (Some(1), ""));
    assert!(alone.err.starts_with("payops: SECOND_PERSON_REQUIRED: "), "{}", alone.err);
    assert!(alone.err.contains("let another person look at it and confirm it"), "{}", alone.err);
    let against = app.as_person("ben", &step).await;
    assert_eq!(against.code, Some(1));
    assert!(
        against.err.starts_with("payops: EVIDENCE_CONTRADICTS: ")
            && against.err.contains("--override-evidence")
    );
    assert!(against.err.contains("trace id "), "{}", against.err);
    let decided = app.shown("ben", &[&step[..], &["--override-evidence"]].concat()).await;
    assert_eq!(decided, "decided: DECLINED. The caller who repeats its key is answered so.\n");
    let refused = app.orders().await.operation("k").await.unwrap();
    assert_eq!(refused.decline.unwrap().reason, "DECLINED");
    let late = app.as_person("ben", &step).await;
    assert!(
        late.err.starts_with("payops: OPERATION_NOT_IN_REVIEW: the operation is DECLINED"),
        "{}",
        late.err
    );
}

#[tokio::test]
async fn a_watch_prints_each_change_and_ends_with_the_operation() {
    let app = TestApp::start().await;
    let (_, id) = app.doubled("k").await;
    let mut child =
        operations(&app.url(), "token-of-ben", &["watch", &id]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(Duration::from_secs(10), lines.next_line());
        line.await.expect("a line").unwrap()
    };
    let first = next().await.unwrap();
    assert!(first.contains("  IN_REVIEW  attempt 1  200 minor units moved"), "{first}");
    let anna = app.anna().await;
    let decision = payops::grpc::pb::OperationDecision::Succeeded;
    let proposal = anna.propose(&id, decision, "it moved").await.unwrap();
    let proposed = next().await.unwrap();
    assert!(proposed.ends_with("  IN_REVIEW  attempt 1  anna: proposes succeeded: it moved"), "{proposed}");
    app.ben().await.confirm(&id, &proposal, "it did").await.unwrap();
    assert!(next().await.unwrap().contains("  SUCCEEDED  attempt 1  "));
    assert_eq!(next().await, None);
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
    // What is over is printed once; as JSON, one object a line.
    let over = app.shown("ben", &["watch", &id, "--output", "json"]).await;
    let record: Value = serde_json::from_str(over.trim_end()).unwrap();
    assert_eq!((over.lines().count(), &record["history"][3]["changed_by"]), (1, &json!("ben")));
}

#[tokio::test]
async fn a_watch_that_the_boundary_ends_is_no_success() {
    let mut app = TestApp::start().await;
    let (_, id) = app.doubled("k").await;
    let mut child = operations(&app.url(), "token-of-ben", &["watch", &id])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next_line().await.unwrap().unwrap();
    app.drain().await;
    assert_eq!(child.wait().await.unwrap().code(), Some(69));
}

#[tokio::test]
async fn a_token_comes_from_a_file_or_the_environment_and_never_from_an_argument() {
    let app = TestApp::start().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "token-of-anna\n").unwrap();
    let by_file = ["list", "--token-file", file.path().to_str().unwrap()];
    // The file wins.
    let told = done(operations(&app.url(), "token-of-nobody", &by_file)).await;
    assert_eq!(told.code, Some(0), "{}", told.err);
    let none = done(operations(&app.url(), "", &["list"])).await;
    assert_eq!(none.code, Some(78));
    assert!(none.err.contains("--token-file") && none.err.contains("PAYOPS_TOKEN"), "{}", none.err);
    let missing = app.as_person("anna", &["list", "--token-file", "/nowhere/token"]).await;
    assert_eq!(missing.code, Some(78));
    assert!(missing.err.contains("/nowhere/token: cannot be read"), "{}", missing.err);
    let argument = app.as_person("anna", &["list", "--token", "token-of-anna"]).await;
    assert_eq!(argument.code, Some(2), "{}", argument.err);
    for (name, reason) in [("nobody", "CREDENTIALS_INVALID"), ("orders", "RPC_NOT_ALLOWED")] {
        let refused = app.as_person(name, &["list"]).await;
        assert_eq!(refused.code, Some(1));
        assert!(refused.err.starts_with(&format!("payops: {reason}: ")), "{}", refused.err);
        assert!(!refused.err.contains("token-of-"), "{}", refused.err);
    }
}

#[tokio::test]
async fn what_goes_wrong_is_told_with_its_remedy_and_an_exit_code_of_its_own() {
    let app = TestApp::start().await;
    let nobody = format!("http://{}", free_address());
    let unreachable = done(operations(&nobody, "token-of-anna", &["list"])).await;
    assert_eq!(unreachable.code, Some(69));
    assert!(unreachable.err.contains(&format!("cannot reach {nobody}")), "{}", unreachable.err);
    assert!(unreachable.err.contains("does payops serve there?"), "{}", unreachable.err);
    let odd = done(operations("127.0.0.1:50051", "token-of-anna", &["list"])).await;
    assert_eq!(odd.code, Some(78));
    assert!(odd.err.contains("write http:// or https://"), "{}", odd.err);
    let unknown = app.as_person("anna", &["show", "00000000-0000-4000-8000-000000000000"]).await;
    assert_eq!(unknown.code, Some(1));
    assert!(
        unknown.err.starts_with("payops: OPERATION_NOT_FOUND: ") && unknown.err.contains("operations list")
    );
    let invalid = app.as_person("anna", &["list", "--account", "x", "--transaction", "y"]).await;
    assert_eq!(invalid.code, Some(1));
    assert!(
        invalid.err.contains("\n  account_id must be ")
            && invalid.err.contains("\n  transaction_id must be ")
    );
    let id = "00000000-0000-4000-8000-000000000000";
    for wrong in [
        &["list", "--state", "nowhere"][..],
        &["list", "--limit", "0"],
        &["list", "--from", "yesterday"],
        &["show"],
        &["resolve", id, "--reason", "why"],
        &["resolve", id, "--decision", "succeeded"],
        &["resolve", id, "--decision", "succeeded", "--confirm", id, "--reason", "why"],
        &["resolve", id, "--decision", "succeeded", "--reason", "why", "--override-evidence"],
    ] {
        assert_eq!(app.as_person("anna", wrong).await.code, Some(2), "{wrong:?}");
    }
}

/// `payops operations list | head` is no error.
#[tokio::test]
async fn whoever_stops_reading_breaks_nothing() {
    let app = TestApp::start().await;
    let (_, id) = app.doubled("k").await;
    for command in ["list", "list --output json", &format!("show {id}"), &format!("watch {id}")] {
        let binary = env!("CARGO_BIN_EXE_payops");
        let script = format!("exec 3>&1; {{ {binary} operations {command}; echo $? >&3; }} | true");
        let mut shell = Command::new("bash");
        shell.args(["-c", &script]).env_clear().env("PATH", std::env::var("PATH").unwrap());
        shell.env("PAYOPS_ADDRESS", app.url()).env("PAYOPS_TOKEN", "token-of-anna").kill_on_drop(true);
        let told = done(shell).await;
        assert_eq!((told.out.as_str(), told.err.as_str()), ("0\n", ""), "{command}");
    }
}

/// Over TLS, and to nobody who cannot prove who it is.
#[tokio::test]
async fn a_boundary_behind_tls_has_to_prove_who_it_is() {
    let app = TestApp::start().await;
    let (_, id) = app.doubled("k").await;
    let (url, authority) = behind_tls(&app.address.to_string(), "localhost", &["h2"]).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority).unwrap();
    let trusting = |ca: &Path| {
        let arguments = ["list", "--ca-file", ca.to_str().unwrap()];
        done(operations(&url, "token-of-anna", &arguments))
    };
    let told = trusting(file.path()).await;
    assert!(told.code == Some(0) && told.out.contains(&id), "{told:?}");
    // The system does not know that authority.
    let stranger = done(operations(&url, "token-of-anna", &["list"])).await;
    assert_eq!(stranger.code, Some(69), "{}", stranger.err);
    assert!(stranger.err.contains("certificate"), "{}", stranger.err);
    let missing = trusting(Path::new("/nowhere/ca.pem")).await;
    assert_eq!(missing.code, Some(78), "{}", missing.err);
    let needless = ["list", "--ca-file", file.path().to_str().unwrap()];
    let plain = done(operations(&app.url(), "token-of-anna", &needless)).await;
    assert_eq!(plain.code, Some(78), "{}", plain.err);
}

/// The variables of these commands are no mistake of the boundary's configuration, which may run beside them.
#[tokio::test]
async fn the_variables_of_the_command_do_not_disturb_the_boundary() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_payops"));
    command.args(["config", "check"]).env_clear().env("PAYOPS_TOKEN", "t").env("PAYOPS_ADDRESS", "http://a");
    let told = done(command).await;
    assert!(told.err.contains("callers.file") && !told.err.contains("PAYOPS_TOKEN"), "{}", told.err);
    assert!(!told.err.contains("PAYOPS_ADDRESS"), "{}", told.err);
}

/// What the caller is told in the end is what was decided, for the whole way by the command line.
#[tokio::test]
async fn a_reviewers_token_is_made_by_the_command_too() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_payops"));
    command.args(["token", "new", "--name", "carla", "--review"]).env_clear();
    let made = done(command).await;
    assert_eq!(made.code, Some(0));
    let (token, lines) = made.out.split_once("\n\ncallers file:\n").unwrap();
    let token = token.lines().last().unwrap();
    let app = TestApp::start().await;
    let file = &app.config.callers.file;
    let callers = std::fs::read_to_string(file).unwrap();
    std::fs::write(file, callers + lines).unwrap();
    let (_, id) = app.doubled("k").await;
    crate::support::eventually("carla is known", async || {
        done(operations(&app.url(), token, &["show", &id])).await.code == Some(0)
    })
    .await;
    assert_eq!(app.orders().await.operation("k").await.unwrap().state(), InReview);
    let proposal =
        app.json("anna", &["resolve", &id, "--decision", "succeeded", "--reason", "it moved"]).await;
    let proposal = proposal["record"]["proposal"]["proposal_id"].as_str().unwrap().to_owned();
    let step = ["resolve", &id, "--confirm", &proposal, "--reason", "it did"];
    assert_eq!(done(operations(&app.url(), token, &step)).await.code, Some(0));
    app.orders().await.settled("k", Succeeded).await;
}
