//! The client of Dintero over real HTTP: tokens and their rotation, what it
//! says of itself, what it makes of odd answers, and that it repeats nothing.

use std::{path::Path, time::Duration};

use futures::future::join_all;
use payops::clock::{Clock, Timestamp};
use payops::config::{Config, Source};
use payops::grpc::pb::OperationState::{InDoubt, Succeeded};
use payops::payment::id::{Tag, TransactionId};
use payops::psp::dintero::{Dintero, transport::Http};
use payops::psp::{NotSent, Psp as _, ReadError};
use payops::sandbox::Settings;
use reqwest::Method;
use serde_json::{Value, json};
use tonic::Code;

use crate::sandbox::world::World;
use crate::support::{SECOND_ACCOUNT, SERVICE, TestApp, eventually};

const AMOUNT: i64 = 29_990;

/// How often the boundary asked for a token; the test's own do not count.
async fn token_requests(world: &World) -> usize {
    let requests = world.admin(Method::GET, "/requests", Value::Null).await.json();
    let asked = |request: &&Value| request["operation"] == "token" && request["user_agent"] != "payops/test";
    requests.as_array().unwrap().iter().filter(asked).count()
}

async fn expire_tokens(world: &World) {
    world.admin(Method::POST, "/tokens/expire", Value::Null).await.expect(200);
}

/// The client alone, with a clock that stands until it is moved.
fn client(world: &World) -> (Dintero<Http>, Clock) {
    let address = world.base.strip_prefix("http://").unwrap().parse().unwrap();
    let config = Config::sandbox(address, address, "unused");
    let clock = Clock::manual(Timestamp(0));
    let transport = Http::new(&config.psp).unwrap();
    (Dintero::new(&config.psp, &config.accounts, Duration::from_secs(10), &transport, &clock), clock)
}

fn id(text: &str) -> TransactionId {
    text.parse().unwrap()
}

#[tokio::test]
async fn fifty_first_calls_at_once_ask_for_one_token_and_later_calls_for_none() {
    let world = World::start().await;
    let card = id(&world.card().await);
    let (client, _) = client(&world);
    world.fault(json!({"operation": "token", "fault": "delayed_answer", "delay_ms": 200})).await;
    let reads = join_all((0..50).map(|_| client.read(&card))).await;
    assert!(reads.iter().all(Result::is_ok), "{reads:?}");
    client.read(&card).await.unwrap();
    assert_eq!(token_requests(&world).await, 1);
}

#[tokio::test]
async fn a_token_is_replaced_behind_the_callers_back_when_half_its_life_is_over() {
    let life = Settings { token_life: Duration::from_secs(100), ..Settings::default() };
    let world = World::start_with(life).await;
    let card = id(&world.card().await);
    let (client, clock) = client(&world);
    client.read(&card).await.unwrap();
    clock.advance(Duration::from_secs(50));
    client.read(&card).await.unwrap();
    assert_eq!(token_requests(&world).await, 1, "half of its life is left");
    // The first attempt to replace it fails, and nobody notices.
    world.fault(json!({"operation": "token", "fault": "internal_error"})).await;
    clock.advance(Duration::from_secs(1));
    client.read(&card).await.unwrap();
    eventually("a new token is asked for", async || token_requests(&world).await == 2).await;
    clock.advance(Duration::from_secs(1));
    eventually("and again", async || {
        client.read(&card).await.unwrap();
        token_requests(&world).await == 3
    })
    .await;
    // Fresh again: the next half of a life passes without a request.
    eventually("the new token is in use", async || {
        client.read(&card).await.unwrap();
        let requests = world.requests(card.as_str()).await;
        requests[0]["token_fingerprint"] != requests[requests.len() - 1]["token_fingerprint"]
    })
    .await;
    clock.advance(Duration::from_secs(49));
    client.read(&card).await.unwrap();
    assert_eq!(token_requests(&world).await, 3);
}

#[tokio::test]
async fn a_token_is_used_as_long_as_the_psp_says_and_no_longer() {
    for life in [60, 600] {
        let settings = Settings { token_life: Duration::from_secs(life), ..Settings::default() };
        let world = World::start_with(settings).await;
        let card = id(&world.card().await);
        let (client, clock) = client(&world);
        client.read(&card).await.unwrap();
        // Less than ten seconds are left: too little to send with.
        clock.advance(Duration::from_secs(life - 9));
        client.read(&card).await.unwrap();
        let requests = world.requests(card.as_str()).await;
        assert_ne!(requests[0]["token_fingerprint"], requests[1]["token_fingerprint"], "{life}");
        assert_eq!(token_requests(&world).await, 2, "{life}");
    }
}

#[tokio::test]
async fn a_token_that_lives_too_short_is_no_token() {
    let life = Settings { token_life: Duration::from_secs(5), ..Settings::default() };
    let world = World::start_with(life).await;
    let (client, _) = client(&world);
    let error = client.read(&id(&world.card().await)).await.unwrap_err();
    assert!(
        matches!(&error, ReadError::NotSent(NotSent::Unreachable(why)) if why.contains("5 s")),
        "{error:?}"
    );
}

#[tokio::test]
async fn tokens_that_the_psp_gives_up_cost_one_new_token_and_one_more_attempt_each() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let cards = join_all((0..20).map(|_| app.world.card())).await;
    let before = token_requests(&app.world).await;
    expire_tokens(&app.world).await;
    let keys: Vec<String> = (0..20).map(|n| format!("k-{n}")).collect();
    let calls = keys.iter().zip(&cards).map(|(key, card)| orders.capture(key, card, 100));
    let answers: Vec<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|answer| answer.operation.attempt <= 2), "{answers:?}");
    assert!(answers.iter().any(|answer| answer.operation.attempt == 2), "the old token was tried");
    assert_eq!(token_requests(&app.world).await, before + 1);
    for card in &cards {
        assert_eq!(app.moved(card).await, [("capture".to_owned(), 100)]);
    }
}

#[tokio::test]
async fn a_token_endpoint_that_asks_to_wait_is_left_alone_and_the_caller_is_told_for_how_long() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    let before = token_requests(&app.world).await;
    app.world.fault(json!({"operation": "token", "fault": "rate_limited", "retry_after": 30})).await;
    expire_tokens(&app.world).await;
    let mut last = Duration::from_secs(30);
    for _ in 0..5 {
        let refused = orders.capture("k", &card, 100).await.unwrap_err();
        assert_eq!((refused.code, refused.reason()), (Code::Unavailable, "PSP_RATE_LIMITED"));
        // What is left of the PSP's wait.
        let wait = refused.details.retry_info().unwrap().retry_delay.unwrap();
        assert!(wait <= last && wait > Duration::from_secs(15), "{wait:?} after {last:?}");
        last = wait;
        assert_eq!(refused.metadata("safe_to_use_new_key"), Some("true"));
    }
    assert_eq!(token_requests(&app.world).await, before + 1);
    assert!(app.moved(&card).await.is_empty());
}

/// Credentials in files, as in production.
fn write_credentials(directory: &Path, client_id: &str, secret: &str) {
    std::fs::write(directory.join("id"), client_id).unwrap();
    std::fs::write(directory.join("secret"), secret).unwrap();
}

async fn with_credentials_in(directory: &Path) -> TestApp {
    write_credentials(directory, "sandbox-client", "sandbox-secret");
    TestApp::start_with(|config| {
        config.accounts[0].client_id = Source::File(directory.join("id"));
        config.accounts[0].client_secret = Source::File(directory.join("secret"));
    })
    .await
}

async fn rotate_at_the_psp(world: &World) {
    let new = json!({"client_id": "next-client", "client_secret": "next-secret"});
    world.admin(Method::PUT, "/clients/T12345678", new).await.expect(204);
    expire_tokens(world).await;
}

#[tokio::test]
async fn credentials_rotate_without_a_restart_and_without_a_refused_call() {
    let directory = tempfile::tempdir().unwrap();
    let app = with_credentials_in(directory.path()).await;
    let orders = app.orders().await;
    orders.capture("before", &app.world.card().await, 100).await.unwrap();
    write_credentials(directory.path(), "next-client", "next-secret");
    rotate_at_the_psp(&app.world).await;
    let card = app.world.card().await;
    let after = orders.capture("after", &card, 100).await.unwrap();
    assert_eq!(after.operation.state(), Succeeded);
    assert_eq!(app.moved(&card).await, [("capture".to_owned(), 100)]);
}

#[tokio::test]
async fn credentials_that_the_psp_refuses_are_the_operators_case_until_they_are_mended() {
    let directory = tempfile::tempdir().unwrap();
    let app = with_credentials_in(directory.path()).await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    rotate_at_the_psp(&app.world).await;
    let refused = orders.capture("k", &card, 100).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::Internal, "PSP_CREDENTIALS_REJECTED"));
    assert!(refused.details.retry_info().is_none(), "a retry would not help");
    assert_eq!(refused.metadata("safe_to_use_new_key"), Some("true"));
    assert!(!refused.status.message().contains("secret"), "{}", refused.status.message());
    let mut health = app.health();
    let mut serving = async || {
        let service = SERVICE.to_owned();
        let request = payops::grpc::pb::health::HealthCheckRequest { service };
        health.check(request).await.unwrap().get_ref().status == 1
    };
    eventually("it is not ready", async || !serving().await).await;
    write_credentials(directory.path(), "next-client", "next-secret\n");
    eventually("it is ready again", &mut serving).await;
    let done = orders.capture("k", &card, 100).await.unwrap();
    assert_eq!(done.operation.state(), Succeeded);
    assert_eq!(app.moved(&card).await, [("capture".to_owned(), 100)]);
}

#[tokio::test]
async fn each_event_at_the_psp_says_who_made_it_and_for_which_operation() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let (card, other) = (app.world.card().await, app.world.card().await);
    orders.capture("c", &card, AMOUNT).await.unwrap();
    orders.refund("r", &card, 100).await.unwrap();
    orders.void("v", &other).await.unwrap();
    for (transaction, name, key) in [(&card, "CAPTURE", "c"), (&card, "REFUND", "r"), (&other, "VOID", "v")] {
        let shown = app.world.transaction(transaction).await.json();
        let events = shown["events"].as_array().unwrap();
        let headers = &events.iter().find(|event| event["event"] == name).unwrap()["request_headers"];
        let version = env!("CARGO_PKG_VERSION");
        let tag = Tag::derive(&"orders".parse().unwrap(), &key.parse().unwrap());
        assert_eq!(headers["dintero-system-name"], "payops", "{name}");
        assert_eq!(headers["dintero-system-version"], version, "{name}");
        assert_eq!(headers["user-agent"], format!("payops/{version} operation/{tag}"), "{name}");
    }
}

#[tokio::test]
async fn an_answer_with_news_in_it_or_in_small_pieces_is_understood() {
    for fault in [
        json!({"fault": "unknown_enum_values"}),
        json!({"fault": "slow_drip", "bytes": 512, "delay_ms": 10}),
        json!({"fault": "delayed_answer", "delay_ms": 100}),
    ] {
        let app = TestApp::start().await;
        let orders = app.orders().await;
        let card = app.world.card().await;
        let mut armed = fault.clone();
        armed["operation"] = "capture".into();
        app.world.fault(armed).await;
        let done = orders.capture("k", &card, 100).await.unwrap();
        assert_eq!(done.operation.state(), Succeeded, "{fault}");
        assert_eq!(app.world.requests(&card).await.len(), 1, "{fault}: no read was needed");
        // The same for a read.
        let mut armed = fault.clone();
        armed["operation"] = "get".into();
        app.world.fault(armed).await;
        let shown = orders.transaction(&card).await.unwrap();
        assert_eq!(shown.transaction_id, card, "{fault}");
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_understood_proves_nothing_and_the_next_read_does() {
    let app = TestApp::start_with(|config| config.psp.read_timeout = Duration::from_millis(600)).await;
    let orders = app.orders().await;
    for fault in [
        json!({"fault": "html_instead_of_json"}),
        json!({"fault": "html_instead_of_json", "status": 400}),
        json!({"fault": "html_instead_of_json", "status": 404}),
        json!({"fault": "truncated_json"}),
        json!({"fault": "huge_body"}),
        json!({"fault": "reset_at_byte", "byte": 300}),
    ] {
        let card = app.world.card().await;
        for operation in ["capture", "get"] {
            let mut armed = fault.clone();
            armed["operation"] = operation.into();
            armed["transaction"] = card.clone().into();
            app.world.fault(armed).await;
        }
        let unknown = orders.capture(&card, &card, 100).await.unwrap_err();
        assert_eq!((unknown.code, unknown.reason()), (Code::Aborted, "OUTCOME_UNKNOWN"), "{fault}");
        orders.settled(&card, Succeeded).await;
        assert_eq!(app.posts(&card).await, 1, "{fault}");
        assert!(app.world.requests(&card).await.len() >= 3, "{fault}: the first read failed too");
    }
}

#[tokio::test]
async fn a_success_that_the_psp_takes_back_is_a_persons_case_and_no_success() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    for kind in ["capture", "refund", "void"] {
        let card = app.world.card().await;
        if kind == "refund" {
            orders.capture(&format!("{card}-c"), &card, AMOUNT).await.unwrap();
        }
        let before = app.moved(&card).await;
        app.world.fault(json!({"operation": kind, "fault": "correction_contradicting"})).await;
        let review = match kind {
            "capture" => orders.capture(&card, &card, 100).await,
            "refund" => orders.refund(&card, &card, 100).await,
            _ => orders.void(&card, &card).await,
        };
        let review = review.unwrap_err();
        assert_eq!((review.code, review.reason()), (Code::Aborted, "IN_REVIEW"), "{kind}");
        assert_eq!(app.moved(&card).await, before, "{kind}");
    }
}

#[tokio::test]
async fn a_read_that_cannot_be_understood_is_an_error_and_a_slow_one_is_given_up() {
    let app = TestApp::start_with(|config| config.psp.read_timeout = Duration::from_millis(500)).await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    for fault in [
        json!({"fault": "html_instead_of_json"}),
        json!({"fault": "truncated_json"}),
        json!({"fault": "huge_body"}),
        json!({"fault": "redirect"}),
        json!({"fault": "slow_drip", "bytes": 1, "delay_ms": 100}),
    ] {
        let mut armed = fault.clone();
        armed["operation"] = "get".into();
        app.world.fault(armed).await;
        let refused = orders.transaction(&card).await.unwrap_err();
        assert_eq!((refused.code, refused.reason()), (Code::Unavailable, "PSP_UNREACHABLE"), "{fault}");
        assert_eq!(orders.transaction(&card).await.unwrap().transaction_id, card, "{fault}");
    }
}

#[tokio::test]
async fn nothing_repeats_a_request_whatever_becomes_of_it() {
    // Each with whether money moved.
    for (fault, moved) in [
        (json!({"fault": "redirect", "status": 307}), false),
        (json!({"fault": "redirect", "status": 302}), false),
        (json!({"fault": "answer_lost_before_applying", "by": "close"}), false),
        (json!({"fault": "answer_lost_before_applying", "by": "reset"}), false),
        (json!({"fault": "internal_error"}), false),
        (json!({"fault": "answer_lost_after_applying", "by": "close"}), true),
        (json!({"fault": "answer_lost_after_applying", "by": "reset"}), true),
        (json!({"fault": "unavailable_after_applying"}), true),
        (json!({"fault": "reset_at_byte", "byte": 0}), true),
        (json!({"fault": "reset_at_byte", "byte": 1}), true),
        (json!({"fault": "reset_at_byte", "byte": 100}), true),
    ] {
        let app = TestApp::start().await;
        let orders = app.orders().await;
        // On a connection that was used before, as a client likes to repeat.
        orders.capture("warm", &app.world.card().await, 1).await.unwrap();
        let card = app.world.card().await;
        let mut armed = fault.clone();
        armed["operation"] = "capture".into();
        app.world.fault(armed).await;
        let unknown = orders.capture("k", &card, 100).await.unwrap_err();
        assert_eq!((unknown.code, unknown.reason()), (Code::Aborted, "OUTCOME_UNKNOWN"), "{fault}");
        eventually("it is read back", async || app.world.requests(&card).await.len() > 1).await;
        assert_eq!(app.posts(&card).await, 1, "{fault}");
        let expected = if moved { vec![("capture".to_owned(), 100)] } else { vec![] };
        assert_eq!(app.moved(&card).await, expected, "{fault}");
        let state = if moved { Succeeded } else { InDoubt };
        orders.settled("k", state).await;
    }
}

#[tokio::test]
async fn each_account_is_served_with_credentials_of_its_own() {
    let app = TestApp::start_with_two_accounts(|_| {}).await;
    let orders = app.orders().await;
    let ours = app.world.card().await;
    let theirs = app.world.make(json!({"account": SECOND_ACCOUNT, "amount": AMOUNT})).await;
    assert!(theirs.starts_with("T87654321."), "{theirs}");
    for card in [&ours, &theirs] {
        assert_eq!(orders.capture(card, card, 100).await.unwrap().operation.state(), Succeeded);
        assert_eq!(app.moved(card).await, [("capture".to_owned(), 100)]);
    }
    let fingerprint = async |card: &str| {
        app.world.requests(card).await[0]["token_fingerprint"].as_str().unwrap().to_owned()
    };
    assert_ne!(fingerprint(&ours).await, fingerprint(&theirs).await);
}

#[tokio::test]
async fn the_newer_base_path_works_as_well() {
    let prefix = "/v1/accounts/T12345678/payments";
    let app = TestApp::start_with(|config| config.psp.path_prefix = prefix.to_owned()).await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    orders.capture("c", &card, AMOUNT).await.unwrap();
    orders.refund("r", &card, 100).await.unwrap();
    assert_eq!(orders.transaction(&card).await.unwrap().transaction_id, card);
    let requests = app.world.requests(&card).await;
    assert_eq!(requests.len(), 3);
    for request in requests {
        assert!(
            request["path"].as_str().unwrap().starts_with(&format!("{prefix}/transactions/")),
            "{request}"
        );
    }
}

#[tokio::test]
async fn a_psp_that_asks_to_wait_is_not_read_before_that_by_anybody() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "answer_lost_after_applying"})).await;
    app.world.fault(json!({"operation": "get", "fault": "rate_limited", "retry_after": 2})).await;
    orders.capture("k", &card, 100).await.unwrap_err();
    let gets = async || {
        let requests = app.world.requests(&card).await;
        let gets = requests.into_iter().filter(|request| request["method"] == "GET");
        gets.map(|get| get["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap()).collect::<Vec<_>>()
    };
    eventually("a read is turned away", async || gets().await.len() == 1).await;
    // Neither the schedule nor a caller who asks again reads sooner.
    eventually("the operation is done", async || orders.capture("k", &card, 100).await.is_ok()).await;
    let gets = gets().await;
    assert_eq!(gets.len(), 2);
    let waited = gets[0].duration_until(gets[1]);
    assert!(waited >= jiff::SignedDuration::from_millis(1_990), "{waited:?}");
}
