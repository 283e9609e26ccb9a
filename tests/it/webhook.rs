//! Dintero says that something changed: an accepted operation ends within moments, and nothing is believed.

use std::time::Duration;

use payops::app;
use payops::config::{Config, Source};
use payops::grpc::pb::{
    self,
    OperationState::{self, Declined, InDoubt, Pending, Succeeded},
};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;

use crate::sandbox::webhooks::{SECRET, sign, subscribe};
use crate::support::{Caller, TestApp, capture, eventually, free_address, read_on_request_only};

/// What a test waits for a webhook's effect: far less than until the schedule reads (five minutes).
const MOMENTS: Duration = Duration::from_secs(3);

fn listening(config: &mut Config) {
    config.webhook.listen = Some(free_address());
    config.webhook.secret = Some(Source::Value(SecretString::from(SECRET)));
}

/// A boundary that reads on request only, and is told by the sandbox.
async fn told() -> TestApp {
    let app = untold().await;
    subscribe(&app.world, &url(&app)).await;
    app
}

/// A boundary that reads on request only, and listens in vain.
async fn untold() -> TestApp {
    TestApp::start_with(|config| {
        read_on_request_only(config);
        listening(config);
    })
    .await
}

fn url(app: &TestApp) -> String {
    format!("http://{}{}", app.config.webhook.listen.unwrap(), app.config.webhook.path)
}

async fn reads(app: &TestApp, transaction: &str) -> usize {
    let requests = app.world.requests(transaction).await;
    requests.iter().filter(|request| request["method"] == "GET").count()
}

/// Sends a capture that is accepted, and gives it as it is answered at once.
async fn accepted(app: &TestApp, orders: &Caller, key: &str, card: &str, end: Value) -> OperationState {
    let mut fault = json!({ "operation": "capture", "transaction": card, "fault": "accepted_then" });
    fault.as_object_mut().unwrap().extend(end.as_object().unwrap().clone());
    app.world.fault(fault).await;
    let message = pb::CaptureRequest { r#async: true, ..capture(card, 100) };
    orders.capture_with(key, message).await.unwrap().operation.state()
}

/// A delivery as Dintero would make it, and what it is answered.
async fn deliver(app: &TestApp, secret: &str, body: &Value) -> u16 {
    let body = body.to_string();
    let request = app.world.client.post(url(app)).header("event-signature", sign(secret, body.as_bytes()));
    request.body(body).send().await.unwrap().status().as_u16()
}

fn claim(transaction: &str) -> Value {
    json!({
        "account_id": "T12345678", "event": "checkout_transaction",
        "event_delivery": uuid::Uuid::new_v4().to_string(),
        "transaction": { "id": transaction, "status": "CAPTURED" },
    })
}

/// A hint about another transaction is followed to its end: whatever came before would have been begun by then.
async fn barrier(app: &TestApp, orders: &Caller) {
    let other = app.world.card().await;
    let key = format!("barrier-{other}");
    assert_eq!(accepted(app, orders, &key, &other, json!({ "outcome": "never" })).await, Pending);
    assert_eq!(deliver(app, SECRET, &claim(&other)).await, 200);
    eventually("the other one is read", async || reads(app, &other).await >= 2).await;
}

#[tokio::test]
async fn an_accepted_operation_ends_within_moments_of_the_webhook_and_its_watcher_sees_each_change() {
    let app = told().await;
    let orders = app.orders().await;
    for (key, end, last) in [
        ("done", json!({ "outcome": "done", "delay_ms": 500 }), Succeeded),
        (
            "declined",
            json!({ "outcome": "failed", "delay_ms": 500, "error_type": "DECLINED", "message": "No" }),
            Declined,
        ),
    ] {
        let card = app.world.card().await;
        let begun = std::time::Instant::now();
        assert_eq!(accepted(&app, &orders, key, &card, end).await, Pending);
        assert!(begun.elapsed() < Duration::from_millis(500), "answered before the end");
        let mut watched = orders.watch(key).await.unwrap();
        let mut states = Vec::new();
        let seen = tokio::time::timeout(MOMENTS, async {
            while let Some(update) = watched.next().await {
                states.push(update.unwrap().operation.unwrap().state());
            }
        });
        assert!(seen.await.is_ok(), "only {states:?} was seen");
        assert_eq!(states, [Pending, last]);
        assert!(begun.elapsed() < MOMENTS, "{:?}", begun.elapsed());
        assert_eq!(app.posts(&card).await, 1);
    }
}

#[tokio::test]
async fn a_caller_who_waits_for_the_end_is_answered_within_moments_of_the_webhook() {
    let app = told().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    let fault =
        json!({ "operation": "capture", "fault": "accepted_then", "outcome": "done", "delay_ms": 300 });
    app.world.fault(fault).await;
    let begun = std::time::Instant::now();
    assert_eq!(orders.capture("k", &card, 100).await.unwrap().operation.state(), Succeeded);
    assert!(begun.elapsed() < MOMENTS, "{:?}", begun.elapsed());
    assert_eq!(app.moved(&card).await, [("capture".to_owned(), 100)]);
}

/// The answer is on its way for longer than the webhook: nothing is lost, and nothing is read for nothing.
#[tokio::test]
async fn a_webhook_that_is_faster_than_the_answer_is_not_lost() {
    let app = told().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world.fault(json!({ "operation": "capture", "fault": "delayed_answer", "delay_ms": 600 })).await;
    assert_eq!(
        accepted(&app, &orders, "k", &card, json!({ "outcome": "done", "delay_ms": 0 })).await,
        Pending
    );
    orders.settled("k", Succeeded).await;
    // The answer itself says it all.
    let other = app.world.card().await;
    app.world.fault(json!({ "operation": "capture", "fault": "delayed_answer", "delay_ms": 300 })).await;
    assert_eq!(orders.capture("k2", &other, 100).await.unwrap().operation.state(), Succeeded);
    barrier(&app, &orders).await;
    assert_eq!(reads(&app, &other).await, 0);
}

#[tokio::test]
async fn an_answer_that_is_lost_is_known_within_moments() {
    let app = told().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world.fault(json!({ "operation": "capture", "fault": "answer_lost_after_applying" })).await;
    let begun = std::time::Instant::now();
    orders.capture("k", &card, 100).await.unwrap_err();
    orders.settled("k", Succeeded).await;
    assert!(begun.elapsed() < MOMENTS, "{:?}", begun.elapsed());
}

/// [D 12 #6]
#[tokio::test]
async fn a_webhook_that_is_faster_than_the_psps_reads_is_followed_up() {
    let app = told().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world
        .fault(json!({ "operation": "capture", "fault": "webhook_early", "delay_ms": 500, "skip": 1 }))
        .await;
    let begun = std::time::Instant::now();
    assert_eq!(
        accepted(&app, &orders, "k", &card, json!({ "outcome": "done", "delay_ms": 0 })).await,
        Pending
    );
    orders.settled("k", Succeeded).await;
    assert!(begun.elapsed() < MOMENTS, "{:?}", begun.elapsed());
}

/// Lost for good, or refused: the schedule has it, later.
#[tokio::test]
async fn without_its_webhook_an_operation_ends_on_schedule() {
    for fault in ["webhook_lost", "webhook_wrong_signature"] {
        let app = TestApp::start_with(listening).await;
        subscribe(&app.world, &url(&app)).await;
        let orders = app.orders().await;
        let card = app.world.card().await;
        app.world.fault(json!({ "operation": "capture", "fault": fault, "times": 2 })).await;
        assert_eq!(
            accepted(&app, &orders, "k", &card, json!({ "outcome": "done", "delay_ms": 50 })).await,
            Pending
        );
        orders.settled("k", Succeeded).await;
    }
}

#[tokio::test]
async fn a_forged_webhook_causes_no_read() {
    let app = untold().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    assert_eq!(
        accepted(&app, &orders, "k", &card, json!({ "outcome": "done", "delay_ms": 0 })).await,
        Pending
    );
    app.world.eventually("the money moved", async |world| !world.ledger(&card).await.is_empty()).await;
    for _ in 0..3 {
        assert_eq!(deliver(&app, "guessed", &claim(&card)).await, 401);
    }
    let unsigned = app.world.client.post(url(&app)).body(claim(&card).to_string());
    assert_eq!(unsigned.send().await.unwrap().status(), 401);
    barrier(&app, &orders).await;
    assert_eq!((reads(&app, &card).await, orders.operation("k").await.unwrap().state()), (0, Pending));
    // The genuine one is as good as ever.
    assert_eq!(deliver(&app, SECRET, &claim(&card)).await, 200);
    orders.settled("k", Succeeded).await;
}

#[tokio::test]
async fn a_duplicate_delivery_causes_no_second_read() {
    let app = untold().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    assert_eq!(accepted(&app, &orders, "k", &card, json!({ "outcome": "never" })).await, Pending);
    let body = claim(&card);
    assert_eq!(deliver(&app, SECRET, &body).await, 200);
    // One read at once, and two that follow up.
    eventually("it was followed to its end", async || reads(&app, &card).await == 3).await;
    for _ in 0..5 {
        assert_eq!(deliver(&app, SECRET, &body).await, 200);
    }
    barrier(&app, &orders).await;
    assert_eq!(reads(&app, &card).await, 3);
}

/// The sandbox's own duplicates, while operations really end.
#[tokio::test]
async fn duplicates_and_repetitions_change_nothing() {
    let app = told().await;
    let orders = app.orders().await;
    app.world.fault(json!({ "operation": "any", "fault": "webhook_duplicated", "times": 100 })).await;
    for nth in 0..5 {
        let (card, key) = (app.world.card().await, format!("k{nth}"));
        let end = json!({ "outcome": "done", "delay_ms": 20 });
        assert_eq!(accepted(&app, &orders, &key, &card, end).await, Pending);
        orders.settled(&key, Succeeded).await;
        assert_eq!((app.moved(&card).await.len(), app.posts(&card).await), (1, 1));
    }
}

/// "status": "CAPTURED", correctly signed, and nothing has happened.
#[tokio::test]
async fn a_webhook_that_claims_a_success_settles_nothing() {
    let app = untold().await;
    let orders = app.orders().await;
    let (pending, doubted) = (app.world.card().await, app.world.card().await);
    assert_eq!(accepted(&app, &orders, "pending", &pending, json!({ "outcome": "never" })).await, Pending);
    app.world.fault(json!({ "operation": "capture", "fault": "answer_lost_before_applying" })).await;
    orders.capture("doubted", &doubted, 100).await.unwrap_err();
    for card in [&pending, &doubted] {
        assert_eq!(deliver(&app, SECRET, &claim(card)).await, 200);
    }
    for card in [&pending, &doubted] {
        eventually("it was read", async || reads(&app, card).await == 3).await;
    }
    assert_eq!(orders.operation("pending").await.unwrap().state(), Pending);
    assert_eq!(orders.operation("doubted").await.unwrap().state(), InDoubt);
    assert_eq!(app.moved(&doubted).await, []);
}

/// A hundred deliveries, each new, about one transaction: reads do not follow each of them.
#[tokio::test]
async fn a_flood_of_hints_is_few_reads() {
    let app = untold().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    assert_eq!(accepted(&app, &orders, "k", &card, json!({ "outcome": "never" })).await, Pending);
    app.world.fault(json!({ "operation": "get", "fault": "delayed_answer", "delay_ms": 700 })).await;
    assert_eq!(deliver(&app, SECRET, &claim(&card)).await, 200);
    eventually("the first read is under way", async || reads(&app, &card).await == 1).await;
    for _ in 0..100 {
        assert_eq!(deliver(&app, SECRET, &claim(&card)).await, 200);
    }
    // One more at once, and two that follow up.
    eventually("it was followed to its end", async || reads(&app, &card).await >= 4).await;
    barrier(&app, &orders).await;
    assert_eq!(reads(&app, &card).await, 4);
}

#[tokio::test]
async fn bodies_that_are_long_slow_or_garbage_are_turned_away_and_the_listener_stays() {
    let app = TestApp::start_with(|config| {
        listening(config);
        config.webhook.message_timeout = Duration::from_millis(300);
        config.webhook.connections_max = 2;
    })
    .await;
    assert_eq!(deliver(&app, SECRET, &json!("x".repeat(64 * 1024))).await, 413);
    assert_eq!(deliver(&app, "guessed", &json!("x".repeat(512 * 1024))).await, 413);
    let garbage = app.world.client.post(url(&app)).header("event-signature", sign(SECRET, b"{")).body("{");
    assert_eq!(garbage.send().await.unwrap().status(), 400);
    assert_eq!(app.world.client.get(url(&app)).send().await.unwrap().status(), 405);

    let address = app.config.webhook.listen.unwrap();
    let say = async |bytes: &[u8]| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    };
    let head = b"POST /webhooks/dintero HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{";
    // More than may be open: those that say nothing, or not enough, lose their place in time.
    let mut slow = say(head).await;
    let mut silent = [say(b"").await, say(b"POST /webhooks").await, say(b"\x16\x03\x01\x02\x00\x01").await];
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    for stream in &mut silent {
        let ended = tokio::time::timeout(MOMENTS, stream.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "a silent connection keeps its place");
    }
    assert_eq!(deliver(&app, SECRET, &json!({ "event": "ping" })).await, 200);
}

/// The old secret, both, the new one; the process is not restarted, and no delivery is refused.
#[tokio::test]
async fn a_secret_rotates_while_operations_end() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("webhook_secret");
    std::fs::write(&file, "old\n").unwrap();
    let app = TestApp::start_with(|config| {
        read_on_request_only(config);
        listening(config);
        config.webhook.secret = Some(Source::File(file.clone()));
    })
    .await;
    let orders = app.orders().await;
    for (secrets, signed_with, refused) in
        [("old\n", "old", Some(SECRET)), ("old\nnew\n", "new", None), ("new\n", "new", Some("old"))]
    {
        std::fs::write(&file, secrets).unwrap();
        let (card, key) = (app.world.card().await, format!("k-{}", secrets.replace('\n', "-")));
        assert_eq!(
            accepted(&app, &orders, &key, &card, json!({ "outcome": "done", "delay_ms": 0 })).await,
            Pending
        );
        app.world.eventually("the money moved", async |world| !world.ledger(&card).await.is_empty()).await;
        if let Some(refused) = refused {
            assert_eq!(deliver(&app, refused, &claim(&card)).await, 401);
        }
        assert_eq!(deliver(&app, signed_with, &claim(&card)).await, 200);
        orders.settled(&key, Succeeded).await;
    }
}

#[tokio::test]
async fn it_is_off_by_default() {
    let app = TestApp::start().await;
    assert!(app.config.webhook.listen.is_none());
    // Nor does the port for callers know it; how many ports there are, a test of the process counts.
    let over_grpc = app.world.client.post(format!("http://{}/webhooks/dintero", app.address));
    assert!(over_grpc.send().await.is_err_and(|error| !error.is_timeout()));
}

#[tokio::test]
async fn a_start_that_cannot_listen_names_the_key() {
    let app = TestApp::start_with(listening).await;
    let taken = app.config.webhook.listen.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut config = app.config.clone();
    config.journal.directory = folder.path().join("journal");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = app::serve(&config, listener, CancellationToken::new()).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("webhook.listen: cannot listen on {taken}")), "{error}");
}

/// The listener ends with the boundary, and the next life listens again.
#[tokio::test]
async fn a_drain_closes_the_listener_and_frees_the_journal() {
    let mut app = untold().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    assert_eq!(
        accepted(&app, &orders, "k", &card, json!({ "outcome": "done", "delay_ms": 0 })).await,
        Pending
    );
    // A hint is being followed, and somebody is in the middle of a delivery.
    app.world.fault(json!({ "operation": "get", "fault": "delayed_answer", "delay_ms": 8_000 })).await;
    assert_eq!(deliver(&app, SECRET, &claim(&card)).await, 200);
    eventually("it is being read", async || reads(&app, &card).await == 1).await;
    let mut slow = TcpStream::connect(app.config.webhook.listen.unwrap()).await.unwrap();
    slow.write_all(b"POST /webhooks/dintero HTTP/1.1\r\ncontent-length: 10\r\n\r\n").await.unwrap();
    let begun = std::time::Instant::now();
    app.restart().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(deliver(&app, SECRET, &claim(&card)).await, 200);
    app.orders().await.settled("k", Succeeded).await;
}
