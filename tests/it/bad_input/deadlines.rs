//! Deadlines that leave no time. They bound the wait and never the operation.

use std::time::Duration;

use payops::grpc::pb::{self, OperationState};
use serde_json::json;
use tonic::Code;

use super::CARD;
use super::wire::Raw;
use crate::support::{TestApp, capture, refund, void};

/// The library below would say CANCELLED, and meshes retry that.
#[tokio::test]
async fn a_money_call_whose_deadline_passes_is_aborted_and_the_operation_goes_on() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    for timeout in ["0m", "1m", "100m", "500m"] {
        let card = app.world.card().await;
        app.world.fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 1000})).await;
        let call = Raw::rpc("Capture", &capture(&card, 100))
            .with("idempotency-key", timeout)
            .with("grpc-timeout", timeout);
        let answer = call.send(app.address).await.unwrap();
        let refused = answer.grpc.unwrap();
        assert_eq!((refused.code, refused.reason()), (Code::Aborted, "OPERATION_IN_PROGRESS"), "{timeout}");
        assert_eq!(refused.metadata("safe_to_use_new_key"), Some("false"), "{timeout}");
        assert_eq!(refused.trailer("grpc-retry-pushback-ms"), Some("1000"), "{timeout}");
        assert!(refused.status.message().contains("retry with the same key only"), "{timeout}");
        if timeout.len() == 4 {
            // It had begun, and nobody needs to call for it to go on.
            orders.settled(timeout, OperationState::Succeeded).await;
        }
        if timeout == "500m" {
            // There was time as well to say which operation it is.
            let operation = orders.operation(timeout).await.unwrap();
            assert_eq!(refused.metadata("operation_id"), Some(operation.operation_id.as_str()));
            assert_eq!(refused.trailer("operation-id"), Some(operation.operation_id.as_str()));
        }
        // Whether or not it had begun: the same key gives the one capture.
        let answer = orders.capture(timeout, &card, 100).await.unwrap();
        assert_eq!(answer.operation.state(), OperationState::Succeeded, "{timeout}");
        assert_eq!(app.moved(&card).await, [("capture".to_owned(), 100)], "{timeout}");
        assert_eq!(app.posts(&card).await, 1, "{timeout}");
    }
}

#[tokio::test]
async fn every_money_call_with_an_expired_deadline_is_aborted_and_every_read_exceeds_it() {
    let app = TestApp::start().await;
    let card = app.world.card().await;
    let by_key = || Some(pb::get_operation_request::Name::IdempotencyKey("k".to_owned()));
    let watched = Some(pb::watch_operation_request::Name::IdempotencyKey("k".to_owned()));
    let money = (Code::Aborted, "OPERATION_IN_PROGRESS", Some("false"));
    let read = (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", None);
    for (name, call, due) in [
        ("void", Raw::rpc("Void", &void(&card)), money),
        ("refund", Raw::rpc("Refund", &refund("T12345678.demoCardCaptured000001", 1)), money),
        (
            "transaction",
            Raw::rpc("GetTransaction", &pb::GetTransactionRequest { transaction_id: CARD.to_owned() }),
            read,
        ),
        ("operation", Raw::rpc("GetOperation", &pb::GetOperationRequest { name: by_key() }), read),
        ("watch", Raw::rpc("WatchOperation", &pb::WatchOperationRequest { name: watched }), read),
    ] {
        let call = call.with("idempotency-key", name).with("grpc-timeout", "0m");
        let refused = call.send(app.address).await.unwrap().grpc.unwrap();
        assert_eq!((refused.code, refused.reason(), refused.metadata("safe_to_use_new_key")), due, "{name}");
    }
}

/// Not CANCELLED either, and by the server: this client has no timer of its own.
#[tokio::test]
async fn a_read_that_is_too_slow_exceeds_its_deadline() {
    let app = TestApp::start().await;
    app.world.fault(json!({"operation": "get", "fault": "delayed_answer", "delay_ms": 1000})).await;
    let message = pb::GetTransactionRequest { transaction_id: CARD.to_owned() };
    let call = Raw::rpc("GetTransaction", &message).with("grpc-timeout", "100m");
    let refused = call.send(app.address).await.unwrap().grpc.unwrap();
    assert_eq!((refused.code, refused.reason()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    assert_eq!(refused.trailer("grpc-retry-pushback-ms"), Some("-1"));
}

/// Whether or not the message is whole: as long as its end does not come, neither does anything else.
#[tokio::test]
async fn a_message_that_never_ends_is_given_up() {
    let app = TestApp::start_with(|config| config.server.message_timeout = Duration::from_millis(200)).await;
    let whole = Raw::rpc("Capture", &capture(CARD, 100));
    let part = whole.clone().body([whole.frames[0].slice(..7)]);
    let nothing = whole.clone().body([]);
    for (name, call) in [("whole", whole), ("part", part), ("nothing", nothing)] {
        let refused = call.endless().send(app.address).await.unwrap().grpc.unwrap();
        assert_eq!((refused.code, refused.reason()), (Code::InvalidArgument, "INVALID_REQUEST"), "{name}");
        assert_eq!(refused.fields(), ["message"], "{name}");
        assert!(refused.status.message().contains("not complete within 0.2 s"), "{name}: {}", refused.status);
        assert_eq!(refused.metadata("safe_to_use_new_key"), Some("false"), "{name}");
    }
    assert_eq!(app.posts(CARD).await, 0);
}

/// By the server, again: what the stream has given so far is in the body.
#[tokio::test]
async fn a_watch_ends_with_the_callers_deadline() {
    let app = TestApp::start().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "answer_lost_before_applying"})).await;
    app.orders().await.capture("k", &card, 100).await.unwrap_err();
    let watched = pb::watch_operation_request::Name::IdempotencyKey("k".to_owned());
    let message = pb::WatchOperationRequest { name: Some(watched) };
    let answer = Raw::rpc("WatchOperation", &message).with("grpc-timeout", "300m").send(app.address).await;
    let answer = answer.unwrap();
    let first: pb::WatchOperationResponse = answer.message();
    assert_eq!(first.operation.unwrap().state(), OperationState::InDoubt);
    let refused = answer.grpc.unwrap();
    assert_eq!((refused.code, refused.reason()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
}
