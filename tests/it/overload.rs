//! A PSP in trouble: nothing is begun that would only fail, what is known is served, what is in doubt is read back, and
//! nothing else than before is said of any operation.

use std::time::Duration;

use payops::grpc::pb::OperationState::Succeeded;
use serde_json::json;
use tonic::Code;

use crate::support::{Caller, SECOND_ACCOUNT, TestApp, eventually};

const AMOUNT: i64 = 29_990;

/// Ten captures whose money moves and whose answers are errors; gives their cards.
async fn fail(app: &TestApp, orders: &Caller) -> Vec<String> {
    app.world
        .fault(json!({"operation": "capture", "fault": "unavailable_after_applying", "times": 10}))
        .await;
    let mut cards = Vec::new();
    for nth in 0..10 {
        let card = app.world.card().await;
        let unknown = orders.capture(&format!("failing-{nth}"), &card, AMOUNT).await.unwrap_err();
        assert_eq!(unknown.reason(), "OUTCOME_UNKNOWN");
        cards.push(card);
    }
    cards
}

#[tokio::test]
async fn with_the_circuit_open_nothing_is_begun_and_what_is_known_or_in_doubt_is_served() {
    let app = TestApp::start_with(|config| config.psp.circuit_open_for = Duration::from_secs(4)).await;
    let orders = app.orders().await;
    let (done, new) = (app.world.card().await, app.world.card().await);
    let first = orders.capture("done", &done, 1).await.unwrap();
    let cards = fail(&app, &orders).await;

    // Before the first record: there is no operation, and the PSP hears nothing.
    let shed = orders.capture("new", &new, 1).await.unwrap_err();
    assert_eq!((shed.code, shed.reason()), (Code::Unavailable, "PSP_CIRCUIT_OPEN"));
    assert_eq!(shed.metadata("safe_to_use_new_key"), Some("true"));
    let wait = shed.details.retry_info().unwrap().retry_delay.unwrap();
    assert!(wait <= Duration::from_secs(4), "{wait:?}");
    assert_eq!(orders.operation("new").await.unwrap_err().reason(), "OPERATION_NOT_FOUND");
    assert_eq!(app.posts(&new).await, 0);
    // A retry of what is known is no new request.
    let replay = orders.capture("done", &done, 1).await.unwrap();
    assert!(replay.replayed);
    assert_eq!(replay.operation, first.operation);
    // What was in doubt is found out, each by its own event, and nothing was sent twice.
    for (nth, card) in cards.iter().enumerate() {
        let found = orders.settled(&format!("failing-{nth}"), Succeeded).await;
        assert_eq!(found.attempt, 1);
        assert_eq!((app.posts(card).await, app.moved(card).await.len()), (1, 1));
    }
    // And then it works again, for the same key.
    eventually("a new operation is begun", async || orders.capture("new", &new, 1).await.is_ok()).await;
    assert_eq!(app.posts(&new).await, 1);
}

#[tokio::test]
async fn a_validation_is_turned_away_like_what_it_validates() {
    let app = TestApp::start_with(|config| config.psp.circuit_open_for = Duration::from_secs(20)).await;
    let orders = app.orders().await;
    fail(&app, &orders).await;
    let card = app.world.card().await;
    let asked = payops::grpc::pb::CaptureRequest { validate_only: true, ..crate::support::capture(&card, 1) };
    let told = orders.capture_with("k", asked).await.unwrap_err();
    assert_eq!(told.reason(), "PSP_CIRCUIT_OPEN");
    // Reads are not what fails.
    orders.transaction(&card).await.unwrap();
}

/// One account's requests hang: the other's do not wait for them.
#[tokio::test]
async fn an_account_that_hangs_leaves_room_for_the_others() {
    let app = TestApp::start_with_two_accounts(|config| {
        config.psp.in_flight_max = 3;
        config.psp.account_in_flight_max = 2;
    })
    .await;
    let orders = app.orders().await;
    app.world
        .fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 1_500, "times": 2}))
        .await;
    let mut hanging = Vec::new();
    for key in ["a", "b"] {
        let (card, caller) = (app.world.card().await, orders.clone());
        hanging.push(tokio::spawn(async move { caller.capture(key, &card, 1).await }));
        eventually("it is under way", async || orders.operation(key).await.is_ok()).await;
    }
    let ours = app.world.card().await;
    let shed = orders.capture("c", &ours, 1).await.unwrap_err();
    assert_eq!((shed.code, shed.reason()), (Code::ResourceExhausted, "OVERLOADED"));
    let theirs = app.world.make(json!({"account": SECOND_ACCOUNT, "amount": AMOUNT})).await;
    assert_eq!(orders.capture("d", &theirs, 1).await.unwrap().operation.state(), Succeeded);
    for call in hanging {
        call.await.unwrap().unwrap();
    }
    orders.capture("c", &ours, 1).await.unwrap();
}

/// "Too many requests, wait two seconds" is said of one request and meant for all of them.
#[tokio::test]
async fn a_retry_after_goes_for_the_whole_account() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let (one, other) = (app.world.card().await, app.world.card().await);
    app.world.fault(json!({"operation": "capture", "fault": "rate_limited", "retry_after": 2})).await;
    let doubtful = orders.capture("one", &one, 1).await.unwrap_err();
    assert_eq!(doubtful.reason(), "OUTCOME_UNKNOWN");
    let told = orders.capture("other", &other, 1).await.unwrap_err();
    assert_eq!((told.code, told.reason()), (Code::Unavailable, "PSP_RATE_LIMITED"));
    assert_eq!(told.metadata("safe_to_use_new_key"), Some("true"));
    assert_eq!(app.posts(&other).await, 0);
    eventually("its time is over", async || orders.capture("other", &other, 1).await.is_ok()).await;
    assert_eq!(app.moved(&other).await, [("capture".to_owned(), 1)]);
}
