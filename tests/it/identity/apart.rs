//! No caller can see another's operation, key or answer: for every RPC that there is, the second caller hears what it
//! would hear of something that never existed.

use payops::grpc::pb::{
    self, OperationState::Succeeded, operation_review_service_client::OperationReviewServiceClient,
};
use serde_json::json;
use tonic::{Code, Request, Status, metadata::MetadataMap};
use tonic_types::StatusExt as _;

use crate::contract::methods;
use crate::support::{Caller, TestApp, capture, refund, refused, void};

/// Something of the first caller, and its like that never existed.
struct Pair {
    key: (String, String),
    id: (String, String),
    /// Two transactions of the second caller, in the same state: what it does with the key of the other one, it does on
    /// the first, and on the second with a key of nobody.
    cards: (String, String),
}

/// All that an answer says, without what is new in each: the trace id and the time.
fn told(status: &Status) -> String {
    let mut details = status.get_error_details();
    details.set_request_info("", "");
    format!("{:?} {:?} {details:?} {:?}", status.code(), status.message(), told_metadata(status.metadata()))
}

fn told_metadata(metadata: &MetadataMap) -> Vec<String> {
    let mut all: Vec<_> = metadata.clone().into_headers().iter().map(|entry| format!("{entry:?}")).collect();
    all.retain(|entry| !["date", "grpc-status-details-bin"].iter().any(|name| entry.contains(name)));
    all.sort();
    all
}

/// Whether something of the first caller is in an answer.
fn betrays(pair: &Pair, answer: &str) -> bool {
    [&pair.key.0, &pair.id.0, &"orders".to_owned()].iter().any(|secret| answer.contains(secret.as_str()))
}

/// A money call of the second caller, with the first one's key and with nobody's: both run, as its own.
async fn money(caller: &Caller, rpc: &str, pair: &Pair) {
    let mut operations = Vec::new();
    for (key, card) in [(&pair.key.0, &pair.cards.0), (&pair.key.1, &pair.cards.1)] {
        let answered = match rpc {
            "Capture" => caller.capture_with(key, capture(card, 100)).await,
            "Refund" => caller.refund_with(key, refund(card, 50)).await,
            _ => caller.void_with(key, void(card)).await,
        };
        let answered = answered.unwrap_or_else(|refused| panic!("{rpc}: {refused:?}"));
        assert!(!answered.replayed, "{rpc}");
        let operation = answered.operation;
        assert_eq!((operation.state(), operation.attempt), (Succeeded, 1), "{rpc}");
        assert_ne!(operation.operation_id, pair.id.0, "{rpc}");
        operations.push(operation);
    }
    assert!(!betrays(pair, &format!("{operations:?}")), "{rpc}: {operations:?}");
}

async fn get(caller: &Caller, name: pb::get_operation_request::Name) -> String {
    let request = caller.request(pb::GetOperationRequest { name: Some(name) });
    told(&caller.client.clone().get_operation(request).await.expect_err("it is not its own"))
}

async fn watch(caller: &Caller, name: pb::watch_operation_request::Name) -> String {
    let request = caller.request(pb::WatchOperationRequest { name: Some(name) });
    match caller.client.clone().watch_operation(request).await {
        Err(status) => told(&status),
        Ok(answer) => told(&answer.into_inner().message().await.expect_err("it is not its own")),
    }
}

/// A transaction on which somebody captured.
async fn captured(app: &TestApp, caller: &Caller, key: &str) -> String {
    let card = app.world.card().await;
    caller.capture(key, &card, 100).await.unwrap();
    card
}

#[tokio::test]
async fn no_rpc_shows_another_callers_operation_key_or_answer() {
    use pb::get_operation_request::Name as Get;
    use pb::watch_operation_request::Name as Watch;
    let app = TestApp::start().await;
    let (orders, returns) = (app.orders().await, app.returns().await);
    let mut reviews = OperationReviewServiceClient::new(app.channel().await);
    let mut rows = 0;
    for (rpc, path) in methods() {
        // Of each kind one of its own, so that no row leans on another.
        let key = (format!("secret-{rpc}"), format!("nobodys-{rpc}"));
        let card = app.world.card().await;
        let theirs = orders.capture(&key.0, &card, 100).await.unwrap().operation;
        let cards = match rpc.as_str() {
            "Refund" => (captured(&app, &returns, "first").await, captured(&app, &returns, "second").await),
            _ => (app.world.card().await, app.world.card().await),
        };
        let id = (theirs.operation_id.clone(), uuid::Uuid::now_v7().to_string());
        let pair = Pair { key, id, cards };
        let both = |id: &(String, String)| [id.0.clone(), id.1.clone()];
        // What is heard of the first caller's, and of what never existed; the same name stands in both.
        let mut same = Vec::new();
        match rpc.as_str() {
            "Capture" | "Void" | "Refund" => money(&returns, &rpc, &pair).await,
            // The payment is the account's, not a caller's: it is shown, without a word of who did what.
            "GetTransaction" => {
                let shown = format!("{:?}", returns.transaction(&card).await.unwrap());
                assert!(!betrays(&pair, &shown), "{rpc}: {shown}");
            }
            "GetOperation" => {
                for names in [both(&pair.id).map(Get::OperationId), both(&pair.key).map(Get::IdempotencyKey)]
                {
                    let [theirs, nobodys] = names;
                    same.push((get(&returns, theirs).await, get(&returns, nobodys).await));
                }
            }
            "WatchOperation" => {
                for names in
                    [both(&pair.id).map(Watch::OperationId), both(&pair.key).map(Watch::IdempotencyKey)]
                {
                    let [theirs, nobodys] = names;
                    same.push((watch(&returns, theirs).await, watch(&returns, nobodys).await));
                }
            }
            // For persons alone: nobody else is told anything at all.
            "ListOperations" => {
                let mut list = async |caller: &str| {
                    let message =
                        pb::ListOperationsRequest { caller: caller.to_owned(), ..Default::default() };
                    told(&reviews.list_operations(returns.request(message)).await.unwrap_err())
                };
                same.push((list("orders").await, list("nobody").await));
            }
            "GetOperationEvidence" => {
                let mut evidence = async |operation_id: String| {
                    let message = pb::GetOperationEvidenceRequest { operation_id };
                    told(&reviews.get_operation_evidence(returns.request(message)).await.unwrap_err())
                };
                same.push((evidence(pair.id.0.clone()).await, evidence(pair.id.1.clone()).await));
            }
            "WatchOperationRecord" => {
                let mut record = async |operation_id: String| {
                    let message = pb::WatchOperationRecordRequest { operation_id };
                    told(&reviews.watch_operation_record(returns.request(message)).await.unwrap_err())
                };
                same.push((record(pair.id.0.clone()).await, record(pair.id.1.clone()).await));
            }
            "ResolveOperation" => {
                let mut resolve = async |operation_id: String| {
                    let message = pb::ResolveOperationRequest { operation_id, ..Default::default() };
                    told(&reviews.resolve_operation(returns.request(message)).await.unwrap_err())
                };
                same.push((resolve(pair.id.0.clone()).await, resolve(pair.id.1.clone()).await));
            }
            _ => panic!("{path} has no row here: what does a caller see there of another's?"),
        }
        for (theirs, nobodys) in same {
            assert_eq!(theirs, nobodys, "{rpc}");
            assert!(!betrays(&pair, &theirs), "{rpc}: {theirs}");
        }
        // And the first caller's is as it was.
        assert_eq!(orders.operation(&pair.key.0).await.unwrap(), theirs, "{rpc}");
        rows += 1;
    }
    assert!(rows >= 10, "{rows}");
}

/// One transaction has one open operation, whoever's it is: that there is one is all that others hear.
#[tokio::test]
async fn of_an_operation_in_the_way_only_its_owner_hears_which_it_is() {
    let app = TestApp::start().await;
    let (orders, returns) = (app.orders().await, app.returns().await);
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "answer_lost_before_applying"})).await;
    let unknown = orders.capture("k", &card, 100).await.unwrap_err();
    let id = unknown.metadata("operation_id").unwrap().to_owned();
    let own = orders.void("v", &card).await.unwrap_err();
    assert_eq!((own.code, own.reason()), (Code::Aborted, "TRANSACTION_BUSY"));
    assert_eq!(own.metadata("open_operation_id"), Some(id.as_str()));
    let validated = pb::CaptureRequest { validate_only: true, ..capture(&card, 1) };
    for (key, message) in [("x", capture(&card, 1)), ("k", capture(&card, 100)), ("y", validated)] {
        let other = returns.capture_with(key, message).await.unwrap_err();
        assert_eq!((other.code, other.reason()), (Code::Aborted, "TRANSACTION_BUSY"), "{key}");
        let said = told(&other.status);
        assert!(
            !said.contains(&id) && !said.contains("open_operation") && !said.contains("orders"),
            "{said}"
        );
    }
}

/// The same key, the same message, the same transaction: two callers, two operations, and none hears of the other's.
#[tokio::test]
async fn the_same_call_of_another_caller_is_another_operation() {
    let app = TestApp::start().await;
    let (orders, returns) = (app.orders().await, app.returns().await);
    let card = app.world.card().await;
    let first = orders.capture("k", &card, 100).await.unwrap();
    let second = returns.capture("k", &card, 100).await.unwrap();
    assert!(!first.replayed && !second.replayed);
    assert_ne!(first.operation.operation_id, second.operation.operation_id);
    assert_ne!(first.operation.event_reference, second.operation.event_reference);
    assert_eq!(app.moved(&card).await.len(), 2);
    // Another meaning under a key of another caller is no reuse of it.
    let third = returns.capture("k2", &card, 300).await.unwrap();
    orders.capture("k2", &card, 200).await.unwrap();
    assert_eq!(returns.operation("k2").await.unwrap(), third.operation);
    let mut request = Request::new(pb::GetOperationRequest::default());
    request.metadata_mut().insert("authorization", "Bearer token-of-nobody".parse().unwrap());
    let nobody = refused(returns.client.clone().get_operation(request).await.unwrap_err());
    assert_eq!(nobody.reason(), "CREDENTIALS_INVALID");
}
