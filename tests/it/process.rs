//! The program itself: the process that is started, killed, stopped and given wrong arguments.

use std::{fs, net::SocketAddr};

use payops::grpc::pb::{OperationState::Succeeded, health, health::health_client::HealthClient};
use serde_json::json;
use tokio::process::Child;
use tokio_stream::StreamExt as _;
use tonic::Code;

pub use crate::place::{PAYOPS, Place, ended, run, signal, text};
use crate::support::{ALLOW_ALL, Caller, SERVICE, eventually, free_address};

const AMOUNT: i64 = 29_990;

/// The money moved, the process was killed before it heard so: the next one finds out, and moves nothing.
#[tokio::test]
async fn a_process_killed_between_send_and_answer_loses_nothing_and_repeats_nothing() {
    let place = Place::new().await;
    let mut first_life = place.serve().await;
    let card = place.world.card().await;
    place.world.fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 60_000})).await;
    let (orders, id) = (place.orders(), card.clone());
    let cut_off = tokio::spawn(async move { orders.capture("k", &id, AMOUNT).await });
    place.world.eventually("the money moved", async |world| !world.ledger(&card).await.is_empty()).await;
    first_life.kill().await.unwrap();
    cut_off.await.unwrap().unwrap_err();

    let _second_life = place.serve().await;
    let answer = place.orders().capture("k", &card, AMOUNT).await.unwrap();
    assert_eq!((answer.operation.state(), answer.operation.attempt), (Succeeded, 1));
    assert!(answer.replayed);
    let moved = place.world.ledger(&card).await;
    assert_eq!(moved, [("capture".to_owned(), AMOUNT, "api".to_owned())]);
    let requests = place.world.requests(&card).await;
    assert_eq!(requests.iter().filter(|request| request["method"] == "POST").count(), 1);
}

/// Nothing is known of the request: the key and the transaction stay reserved in the next life too.
#[tokio::test]
async fn a_process_killed_before_anything_moved_never_sends_on_a_guess() {
    let place = Place::new().await;
    let mut first_life = place.serve().await;
    let card = place.world.card().await;
    // The request waits somewhere on the way for longer than the process lives.
    let fault = json!({"operation": "capture", "fault": "delayed_application", "delay_ms": 3_000});
    place.world.fault(fault).await;
    let unknown = place.orders().capture("k", &card, AMOUNT).await.unwrap_err();
    assert_eq!(unknown.reason(), "OUTCOME_UNKNOWN");
    first_life.kill().await.unwrap();

    let _second_life = place.serve().await;
    let orders = place.orders();
    let still = orders.capture("k", &card, AMOUNT).await.unwrap_err();
    assert_eq!((still.code, still.reason()), (Code::Aborted, "OUTCOME_UNKNOWN"));
    let busy = orders.capture("other", &card, 1).await.unwrap_err();
    assert_eq!(busy.reason(), "TRANSACTION_BUSY");
    // It arrives at last, and is found.
    let answer = orders.settled("k", Succeeded).await;
    assert_eq!(answer.attempt, 1);
    assert_eq!(place.world.ledger(&card).await.len(), 1);
}

#[tokio::test]
async fn sigterm_finishes_what_is_under_way_and_exits_with_zero() {
    let place = Place::new().await;
    let mut life = place.serve().await;
    let card = place.world.card().await;
    let mut health = HealthClient::new(place.channel());
    let request = health::HealthCheckRequest { service: SERVICE.to_owned() };
    let mut watched = health.watch(request).await.unwrap().into_inner();
    assert_eq!(watched.next().await.unwrap().unwrap().status, 1);
    place.world.fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 1_500})).await;
    let (orders, id) = (place.orders(), card.clone());
    let running = tokio::spawn(async move { orders.capture("k", &id, AMOUNT).await });
    place.world.eventually("the money moved", async |world| !world.ledger(&card).await.is_empty()).await;

    signal(&life, rustix::process::Signal::TERM);
    // Not ready is told before the end, to those who watch.
    assert_eq!(watched.next().await.unwrap().unwrap().status, 2);
    // No new connection is taken, and the call under way gets its answer.
    eventually("the port is closed", async || tokio::net::TcpStream::connect(place.address).await.is_err())
        .await;
    assert_eq!(running.await.unwrap().unwrap().operation.state(), Succeeded);
    assert_eq!(ended(&mut life).await.code(), Some(0), "{}", place.log());
    assert!(place.log().contains("stopped"), "{}", place.log());
}

#[tokio::test]
async fn open_streams_do_not_keep_the_process_from_ending() {
    let place = Place::new().await;
    let mut life = place.serve().await;
    let card = place.world.card().await;
    let orders = place.orders();
    place.world.fault(json!({"operation": "capture", "fault": "answer_lost_before_applying"})).await;
    orders.capture("k", &card, AMOUNT).await.unwrap_err();
    let mut operation = orders.watch("k").await.unwrap();
    operation.next().await.unwrap().unwrap();
    let mut health = HealthClient::new(place.channel());
    let stranger = health::HealthCheckRequest { service: "no.such.Service".to_owned() };
    let mut watched = health.watch(stranger).await.unwrap().into_inner();
    assert_eq!(watched.next().await.unwrap().unwrap().status, 3, "SERVICE_UNKNOWN, and the stream stays");
    signal(&life, rustix::process::Signal::TERM);
    assert_eq!(ended(&mut life).await.code(), Some(0), "{}", place.log());
}

#[tokio::test]
async fn one_journal_has_one_process() {
    let place = Place::new().await;
    let _first = place.serve().await;
    let other = free_address();
    let text_of_config = fs::read_to_string(place.path("payops.toml")).unwrap();
    place.write("other.toml", &text_of_config.replace(&place.address.to_string(), &other.to_string()));
    let second = run(&["serve", "--config", place.path("other.toml").to_str().unwrap()]).await;
    assert_eq!(second.status.code(), Some(69));
    assert!(text(&second.stderr).contains("another process uses"), "{}", text(&second.stderr));
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let place = Place::new().await;
    let _taken = std::net::TcpListener::bind(place.address).unwrap();
    let refused = run(&["serve", "--config", place.path("payops.toml").to_str().unwrap()]).await;
    assert_eq!(refused.status.code(), Some(69));
    let told = text(&refused.stderr);
    assert!(told.contains(&format!("cannot listen on {}", place.address)), "{told}");
}

#[tokio::test]
async fn a_wrong_configuration_is_told_in_full_and_ends_with_78() {
    let place = Place::new().await;
    place.write(
        "payops.toml",
        "[server]\nlisten = \"here\"\ncolour = \"red\"\n[psp]\nattempt_timeout = \"1h\"\n",
    );
    let config = place.path("payops.toml");
    for command in [&["serve", "--config"][..], &["config", "check", "--config"]] {
        let refused = run(&[command, &[config.to_str().unwrap()]].concat()).await;
        let told = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(78), "{told}");
        let keys = [
            "server.listen",
            "server.colour",
            "psp.attempt_timeout",
            "callers.file",
            "journal.directory",
            "account",
        ];
        for key in keys {
            assert!(told.contains(&format!("{key}: ")), "{key} is not told:\n{told}");
        }
    }
}

#[tokio::test]
async fn a_wrong_callers_file_is_told_by_the_check_and_at_start() {
    let place = Place::new().await;
    place.write("callers.toml", "[[caller]]\nname = \"Orders!\"\ntoken_sha256 = [\"abc\"]\n");
    let config = place.path("payops.toml");
    for command in [&["serve", "--config"][..], &["config", "check", "--config"]] {
        let refused = run(&[command, &[config.to_str().unwrap()]].concat()).await;
        let told = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(78), "{told}");
        assert!(told.contains("caller[0].name: ") && told.contains("caller[0].token_sha256[0]: "), "{told}");
    }
}

#[tokio::test]
async fn the_check_of_a_good_configuration_shows_every_key_and_no_secret() {
    let place = Place::new().await;
    let shown = run(&["config", "check", "--config", place.path("payops.toml").to_str().unwrap()]).await;
    let told = text(&shown.stdout);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    assert!(told.contains("exactly_once.send_window") && told.contains("2s"), "{told}");
    assert!(!told.contains("sandbox-secret") && !told.contains("sandbox-client"), "{told}");
}

#[tokio::test]
async fn no_argument_and_wrong_ones_help() {
    let nothing = run(&[]).await;
    assert_eq!(nothing.status.code(), Some(2));
    let told = text(&nothing.stderr);
    assert!(told.contains("Usage: payops") && told.contains("Try it: payops serve --sandbox"), "{told}");
    let misspelt = run(&["serv"]).await;
    assert_eq!(misspelt.status.code(), Some(2));
    assert!(text(&misspelt.stderr).contains("'serve'"), "{}", text(&misspelt.stderr));
    let config = run(&["serve"]).await;
    assert_eq!(config.status.code(), Some(78));
    assert!(text(&config.stderr).contains("callers.file: "), "{}", text(&config.stderr));
    for (arguments, expected) in [(&["--help"][..], "Commands:"), (&["--version"], env!("CARGO_PKG_VERSION"))]
    {
        let told = run(arguments).await;
        assert!(told.status.success() && text(&told.stdout).contains(expected), "{}", text(&told.stdout));
    }
}

#[tokio::test]
async fn a_new_token_lets_its_caller_in() {
    let place = Place::new().await;
    let made = run(&["token", "new", "--name", "returns"]).await;
    let told = text(&made.stdout);
    let (_, rest) = told.split_once("is not kept):\n").unwrap();
    let (token, lines) = rest.split_once("\n\ncallers file:\n").unwrap();
    let callers = fs::read_to_string(place.path("callers.toml")).unwrap();
    place.write("callers.toml", &(callers + lines));
    let _life = place.serve().await;
    let returns = Caller { token: token.to_owned(), ..place.orders() };
    returns.transaction("T12345678.demoCard00000000000001").await.unwrap();
    assert!(!place.log().contains(token), "a token is in the log");
    let wrong = run(&["token", "new", "--name", "Not a name"]).await;
    assert_eq!(wrong.status.code(), Some(78));
}

/// A change of the callers file takes effect without a restart; a wrong one is refused and the old stays.
#[tokio::test]
async fn callers_change_without_a_restart() {
    let place = Place::new().await;
    let _life = place.serve().await;
    let new = Caller { token: "another-token".to_owned(), ..place.orders() };
    let demo = "T12345678.demoCard00000000000001";
    assert_eq!(new.transaction(demo).await.unwrap_err().reason(), "CREDENTIALS_INVALID");
    let hash = payops::callers::token_hash("another-token");
    place.write(
        "callers.toml",
        &format!("[[caller]]\nname = \"orders\"\ntoken_sha256 = [\"{hash}\"]\n{ALLOW_ALL}"),
    );
    eventually("the new token is known", async || new.transaction(demo).await.is_ok()).await;
    assert_eq!(place.orders().transaction(demo).await.unwrap_err().reason(), "CREDENTIALS_INVALID");
    place.write("callers.toml", "[[caller]]\nname = 7\n");
    eventually("the refusal is logged", async || place.log().contains("the new callers file is refused"))
        .await;
    new.transaction(demo).await.unwrap();
}

/// How many sockets a process listens on.
fn listeners(child: &Child) -> usize {
    let id = child.id().expect("it runs");
    let open: Vec<String> = fs::read_dir(format!("/proc/{id}/fd"))
        .unwrap()
        .filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.display().to_string()))
        .collect();
    let table = fs::read_to_string(format!("/proc/{id}/net/tcp")).unwrap();
    let fields = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    // 0A is LISTEN; the tenth field names the socket.
    fields.filter(|row| row[3] == "0A" && open.contains(&format!("socket:[{}]", row[9]))).count()
}

#[tokio::test]
async fn webhooks_are_received_on_an_address_of_their_own_and_only_where_one_is_given() {
    let place = Place::new().await;
    let mut without = place.serve().await;
    assert_eq!(listeners(&without), 1);
    signal(&without, rustix::process::Signal::TERM);
    assert_eq!(ended(&mut without).await.code(), Some(0));

    let config = fs::read_to_string(place.path("payops.toml")).unwrap();
    let webhook = |address: SocketAddr| {
        let section = format!("[webhook]\nlisten = \"{address}\"\nsecret_file = \"webhook_secret\"\n");
        place.write("payops.toml", &(section + &config));
    };
    place.write("webhook_secret", "hunter2\n");
    // The port for callers of another payops, say.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    webhook(taken.local_addr().unwrap());
    let refused = run(&["serve", "--config", place.path("payops.toml").to_str().unwrap()]).await;
    assert_eq!(refused.status.code(), Some(69));
    assert!(text(&refused.stderr).contains("webhook.listen: cannot listen on"), "{}", text(&refused.stderr));

    let address = free_address();
    webhook(address);
    let mut with = place.serve().await;
    assert_eq!(listeners(&with), 2);
    let url = format!("http://{address}/webhooks/dintero");
    let sign = |secret: &str| crate::sandbox::webhooks::sign(secret, b"{}");
    for (signature, status) in [(sign("hunter2"), 200), (sign("guessed"), 401)] {
        let request = place.world.client.post(&url).header("event-signature", signature).body("{}");
        assert_eq!(request.send().await.unwrap().status(), status);
    }
    signal(&with, rustix::process::Signal::TERM);
    assert_eq!(ended(&mut with).await.code(), Some(0));
    let log = place.log();
    assert!(log.contains("receiving webhooks") && log.contains("a webhook was refused"), "{log}");
    assert!(!log.contains("hunter2"), "the secret is in the log");
}
