//! At most one effect per key, through repeats, races, hang-ups and a full house.

use std::time::Duration;

use futures::future::join_all;
use payops::grpc::pb::OperationState::{InDoubt, Released, Started, Succeeded};
use serde_json::json;
use tokio_stream::StreamExt as _;
use tonic::Code;

use crate::support::{TestApp, capture, eventually, free_address, line, outcome};

const AMOUNT: i64 = 29_990;

#[tokio::test]
async fn a_retry_gets_the_same_answer_and_moves_nothing() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    let first = orders.capture("k", &card, 100).await.unwrap();
    let again = orders.capture("k", &card, 100).await.unwrap();
    assert!(!first.replayed && again.replayed);
    assert_eq!(first.operation, again.operation);
    assert_eq!(app.moved(&card).await, [("capture".to_owned(), 100)]);
}

#[tokio::test]
async fn a_hundred_identical_calls_at_once_make_one_request_and_a_hundred_equal_answers() {
    let app = TestApp::start().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 200})).await;
    // Some share a connection, some do not.
    let callers = join_all((0..5).map(|_| app.orders())).await;
    let calls = (0..100).map(|i| callers[i % callers.len()].capture("k", &card, AMOUNT));
    let answers: Vec<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|answer| answer.operation == answers[0].operation));
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    assert_eq!(app.posts(&card).await, 1);
}

#[tokio::test]
async fn the_same_key_with_another_meaning_is_refused_and_not_shown_the_answer() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    let first = orders.capture("k", &card, 100).await.unwrap().operation;
    let other_amount = orders.capture("k", &card, 101).await.unwrap_err();
    let other_kind = orders.refund("k", &card, 100).await.unwrap_err();
    let other_transaction = orders.capture("k", &app.world.card().await, 100).await.unwrap_err();
    for refused in [other_amount, other_kind, other_transaction] {
        assert_eq!((refused.code, refused.reason()), (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED"));
        assert_eq!(refused.metadata("safe_to_use_new_key"), Some("false"));
        // Which operation has the key, and nothing of how it went.
        assert_eq!(refused.metadata("operation_id"), Some(first.operation_id.as_str()));
        assert_eq!(refused.metadata("state"), None);
    }
    assert_eq!(app.posts(&card).await, 1);
}

#[tokio::test]
async fn the_same_meaning_in_other_words_is_the_same_command() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    let mut message = capture(&card, AMOUNT);
    message.items = vec![line("1", 26_090), line("ship-1", 3_900)];
    message.items[0].quantity = "1.0".to_owned();
    orders.capture_with("k", message.clone()).await.unwrap();
    message.items.reverse();
    message.items[1].quantity = "1".to_owned();
    message.r#async = true;
    assert!(orders.capture_with("k", message).await.unwrap().replayed);
}

#[tokio::test]
async fn keys_belong_to_their_caller() {
    let app = TestApp::start().await;
    let (orders, returns) = (app.orders().await, app.returns().await);
    let card = app.world.card().await;
    let theirs = orders.capture("k", &card, 100).await.unwrap().operation;
    let ours = returns.capture("k", &card, 200).await.unwrap().operation;
    assert_ne!(theirs.operation_id, ours.operation_id);
    let unseen = returns.operation_by_id(&theirs.operation_id).await.unwrap_err();
    assert_eq!((unseen.code, unseen.reason()), (Code::NotFound, "OPERATION_NOT_FOUND"));
}

#[tokio::test]
async fn two_keys_on_one_transaction_at_once_and_one_of_them_is_told_to_wait() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 500})).await;
    let (a, b) = tokio::join!(orders.capture("a", &card, 100), orders.capture("b", &card, 100));
    let (ran, (key, busy)) = match (a, b) {
        (Ok(ran), Err(busy)) => (ran, ("b", busy)),
        (Err(busy), Ok(ran)) => (ran, ("a", busy)),
        other => panic!("one runs and one waits: {other:?}"),
    };
    assert_eq!((busy.code, busy.reason()), (Code::Aborted, "TRANSACTION_BUSY"));
    assert_eq!(busy.metadata("open_operation_id"), Some(ran.operation.operation_id.as_str()));
    assert_eq!(busy.metadata("open_operation_state"), Some("STARTED"));
    assert_eq!(busy.metadata("safe_to_use_new_key"), Some("true"));
    assert_eq!(app.posts(&card).await, 1);
    // The same key runs once the slot is free.
    assert!(!orders.capture(key, &card, 100).await.unwrap().replayed);
    assert_eq!(app.posts(&card).await, 2);
}

#[tokio::test]
async fn a_caller_that_hangs_up_stops_nothing_and_its_key_has_the_answer() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 1_000})).await;
    tokio::select! {
        answer = orders.capture("k", &card, AMOUNT) => panic!("answered before the hang-up: {answer:?}"),
        () = eventually("the call is under way", async || orders.operation("k").await.is_ok()) => {}
    }
    let done = orders.settled("k", Succeeded).await;
    assert_eq!(done.attempt, 1);
    assert_eq!(orders.capture("k", &card, AMOUNT).await.unwrap().operation, done);
    assert_eq!(app.posts(&card).await, 1);
}

#[tokio::test]
async fn a_connection_that_drops_stops_nothing() {
    let app = TestApp::start().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 1_000})).await;
    // A runtime of its own: when it ends, the socket is closed under the call.
    let (token, address, id) = (app.orders().await.token, app.address, card.clone());
    let (cut, told) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let channel = tonic::transport::Channel::from_shared(format!("http://{address}")).unwrap();
            let client =
                payops::grpc::pb::payment_operations_service_client::PaymentOperationsServiceClient::new(
                    channel.connect().await.unwrap(),
                );
            let caller = crate::support::Caller { token, client };
            tokio::select! {
                answer = caller.capture("k", &id, AMOUNT) => panic!("answered before the cut: {answer:?}"),
                _ = told => {}
            }
        });
        runtime.shutdown_background();
    });
    let orders = app.orders().await;
    eventually("the call is under way", async || orders.operation("k").await.is_ok()).await;
    cut.send(()).unwrap();
    thread.join().unwrap();
    orders.settled("k", Succeeded).await;
    assert_eq!(app.moved(&card).await, [("capture".to_owned(), AMOUNT)]);
}

#[tokio::test]
async fn a_callers_deadline_frees_the_caller_and_not_the_operation() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 800})).await;
    let mut request = orders.keyed("k", capture(&card, AMOUNT));
    request.set_timeout(Duration::from_millis(300));
    let freed = outcome(orders.client.clone().capture(request).await, |m| m.operation).unwrap_err();
    assert_eq!((freed.code, freed.reason()), (Code::Aborted, "OPERATION_IN_PROGRESS"));
    assert_eq!(freed.metadata("safe_to_use_new_key"), Some("false"));
    assert_eq!(freed.metadata("state"), Some("STARTED"));
    let id = freed.trailer("operation-id").unwrap().to_owned();
    // A retry joins the call that goes on, and gets its answer.
    let joined = orders.capture("k", &card, AMOUNT).await.unwrap();
    assert!(joined.replayed);
    assert_eq!(joined.operation.operation_id, id);
    assert_eq!(app.posts(&card).await, 1);
}

#[tokio::test]
async fn a_401_is_tried_once_more_with_a_new_token() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "unauthorized_once"})).await;
    let done = orders.capture("k", &card, AMOUNT).await.unwrap();
    assert_eq!((done.operation.state(), done.operation.attempt), (Succeeded, 2));
    assert_eq!(app.moved(&card).await, [("capture".to_owned(), AMOUNT)]);
    // Twice is enough: the third is the operators' case, and the key is free.
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "unauthorized_once", "times": 2})).await;
    let refused = orders.capture("k2", &card, AMOUNT).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::Internal, "PSP_CREDENTIALS_REJECTED"));
    assert_eq!(refused.metadata("safe_to_use_new_key"), Some("true"));
    orders.capture("k2", &card, AMOUNT).await.unwrap();
    assert_eq!(app.moved(&card).await, [("capture".to_owned(), AMOUNT)]);
}

#[tokio::test]
async fn an_unreachable_psp_means_nothing_was_sent_and_the_key_is_free() {
    let mut app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    orders.capture("warm", &card, 1).await.unwrap();
    // Another boundary, whose PSP is a port where nobody listens.
    let dead = format!("http://{}", free_address());
    let alive = app.config.psp.base_url.clone();
    app.config.psp.base_url = dead.parse().unwrap();
    app.restart().await;
    let orders = app.orders().await;
    let refused = orders.capture("k", &card, 100).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::Unavailable, "PSP_UNREACHABLE"));
    assert_eq!(refused.metadata("safe_to_use_new_key"), Some("true"));
    let released = orders.operation("k").await.unwrap();
    assert_eq!(released.state(), Released);
    assert_eq!(refused.metadata("operation_id"), Some(released.operation_id.as_str()));
    assert_eq!(refused.trailer("operation-id"), Some(released.operation_id.as_str()));
    // So is it when the retry is refused before it is sent: by a guard whose read fails.
    let mut guarded = capture(&card, 100);
    guarded.currency_code = "NOK".to_owned();
    let again = orders.capture_with("k", guarded).await.unwrap_err();
    assert_eq!((again.code, again.reason()), (Code::Unavailable, "PSP_UNREACHABLE"));
    assert_eq!(again.metadata("operation_id"), Some(released.operation_id.as_str()));
    // Another command may take the slot meanwhile.
    let other = orders.capture("k2", &card, 100).await.unwrap_err();
    assert_eq!(other.reason(), "PSP_UNREACHABLE");
    app.config.psp.base_url = alive;
    app.restart().await;
    let done = app.orders().await.capture("k", &card, 100).await.unwrap();
    assert_eq!(done.operation.attempt, 2);
    assert_eq!(app.posts(&card).await, 2);
}

#[tokio::test]
async fn a_void_that_was_done_already_is_a_success_and_sends_nothing() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    orders.void("v1", &card).await.unwrap();
    let again = orders.void("v2", &card).await.unwrap();
    assert_eq!(again.operation.state(), Succeeded);
    assert_eq!(app.posts(&card).await, 1);
    let refused = orders.capture("c", &card, 1).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::FailedPrecondition, "TRANSACTION_STATE"));
    assert_eq!(refused.metadata("transaction_status"), Some("AUTHORIZATION_VOIDED"));
}

#[tokio::test]
async fn a_watcher_sees_the_start_the_doubt_and_the_end() {
    let app = TestApp::start_with(|config| {
        config.psp.attempt_timeout = Duration::from_millis(500);
        config.read_back.schedule = vec![Duration::from_millis(500)];
    })
    .await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 10_000})).await;
    let (caller, id) = (orders.clone(), card.clone());
    let call = tokio::spawn(async move { caller.capture("k", &id, AMOUNT).await });
    eventually("the operation is recorded", async || orders.operation("k").await.is_ok()).await;
    let mut watched = orders.watch("k").await.unwrap();
    let mut states = Vec::new();
    while let Some(update) = watched.next().await {
        states.push(update.unwrap().operation.unwrap().state());
    }
    assert_eq!(states, [Started, InDoubt, Succeeded]);
    assert_eq!(call.await.unwrap().unwrap_err().reason(), "OUTCOME_UNKNOWN");
}

#[tokio::test]
async fn a_full_house_is_told_at_once_and_nothing_is_recorded() {
    let app = TestApp::start_with(|config| config.psp.in_flight_max = 1).await;
    let orders = app.orders().await;
    let (one, two) = (app.world.card().await, app.world.card().await);
    let replayed = app.world.card().await;
    orders.capture("done", &replayed, 1).await.unwrap();
    app.world.fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 600})).await;
    let (caller, id) = (orders.clone(), one.clone());
    let running = tokio::spawn(async move { caller.capture("a", &id, 100).await });
    eventually("the first is under way", async || orders.operation("a").await.is_ok()).await;
    let shed = orders.capture("b", &two, 100).await.unwrap_err();
    assert_eq!((shed.code, shed.reason()), (Code::ResourceExhausted, "OVERLOADED"));
    assert_eq!(shed.metadata("safe_to_use_new_key"), Some("true"));
    assert!(shed.details.retry_info().is_some());
    // Replays are served under overload.
    assert!(orders.capture("done", &replayed, 1).await.unwrap().replayed);
    assert_eq!(orders.operation("b").await.unwrap_err().reason(), "OPERATION_NOT_FOUND");
    running.await.unwrap().unwrap();
    orders.capture("b", &two, 100).await.unwrap();
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_takes_nothing_new() {
    let mut app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    let done = orders.capture("before", &app.world.card().await, 1).await.unwrap();
    app.world.fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 500})).await;
    let (caller, id) = (orders.clone(), card.clone());
    let running = tokio::spawn(async move { caller.capture("k", &id, AMOUNT).await });
    eventually("the call is under way", async || orders.operation("k").await.is_ok()).await;
    app.begin_drain();
    assert_eq!(running.await.unwrap().unwrap().operation.state(), Succeeded);
    app.drained().await;
    app.restart_after_drain().await;
    let orders = app.orders().await;
    assert_eq!(orders.operation("before").await.unwrap(), done.operation);
    assert!(orders.capture("k", &card, AMOUNT).await.unwrap().replayed);
}
