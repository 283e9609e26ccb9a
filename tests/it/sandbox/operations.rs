//! Capture, refund and void of an ordinary card payment.

use reqwest::Method;
use serde_json::{Value, json};

use super::world::{AMOUNT, World, chair_and_shipping, send};

/// [D 3.1] [D 5.2]: the whole transaction is the answer, and the event says what the caller set.
#[tokio::test]
async fn a_capture_appends_an_event_with_the_callers_reference_items_and_headers() {
    let world = World::start().await;
    let id = world.card().await;
    let body = json!({
        "amount": AMOUNT,
        "capture_reference": "cap-7f1c2f8e6b",
        "items": chair_and_shipping(),
        "metadata": { "ext_operation_id": "7f1c2f8e" },
    });
    let request = world.authorized(Method::POST, &format!("/v1/transactions/{id}/capture"));
    let request = request.header("dintero-system-name", "payops").header("dintero-system-version", "1.0.0");
    let answer = send(request.body(body.to_string())).await.unwrap().expect(200);

    assert_eq!(answer.json()["status"], "CAPTURED");
    assert_eq!(answer.json()["amount"], AMOUNT);
    let event = answer.last_event();
    assert_eq!(event["event"], "CAPTURE");
    assert_eq!(event["transaction_status"], "CAPTURED");
    assert_eq!(event["success"], true);
    assert_eq!(event["amount"], AMOUNT);
    assert_eq!(event["items"], chair_and_shipping());
    assert_eq!(event["event_reference"], "cap-7f1c2f8e6b");
    assert_eq!(event["created_by"], "sandbox-client");
    assert_eq!(event["request_id"].as_str().unwrap().len(), 36);
    assert!(event["created_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(event.get("metadata"), None, "not echoed by default [D 12 #13]");
    let echoed = &event["request_headers"];
    assert_eq!(echoed["user-agent"], "payops/test");
    assert_eq!(echoed["dintero-system-name"], "payops");
    assert_eq!(echoed["dintero-system-version"], "1.0.0");
    assert_eq!(echoed.get("authorization"), None);
}

/// [D 12 #13]: the echo of metadata can be switched on.
#[tokio::test]
async fn metadata_is_echoed_when_told_to() {
    let world = World::start().await;
    let id = world.card().await;
    world.admin(Method::PUT, "/settings", json!({ "echo_metadata": true })).await.expect(200);
    let body = json!({ "amount": 100, "metadata": { "ext_operation_id": "7f1c" } });
    let answer = world.post(&format!("/v1/transactions/{id}/capture"), &body).await.expect(200);
    assert_eq!(answer.last_event()["metadata"], json!({ "ext_operation_id": "7f1c" }));
}

/// [D 4.1]: the status follows from the sums, through the whole life of a transaction.
#[tokio::test]
async fn the_status_is_derived_from_what_was_captured_and_refunded() {
    let world = World::start().await;
    let id = world.card().await;
    assert_eq!(world.status(&id).await, "AUTHORIZED");
    assert_eq!(world.capture(&id, 10_000).await.expect(200).json()["status"], "PARTIALLY_CAPTURED");
    assert_eq!(world.refund(&id, 4_000).await.expect(200).json()["status"], "PARTIALLY_CAPTURED_REFUNDED");
    assert_eq!(world.capture(&id, 19_990).await.expect(200).json()["status"], "PARTIALLY_REFUNDED");
    assert_eq!(world.refund(&id, 25_990).await.expect(200).json()["status"], "REFUNDED");
}

/// [D 12 #9]: everything captured of a part capture refunded.
#[tokio::test]
async fn a_part_capture_that_is_refunded_in_full_is_partially_captured_refunded() {
    let world = World::start().await;
    let id = world.card().await;
    world.capture(&id, 10_000).await.expect(200);
    assert_eq!(world.refund(&id, 10_000).await.expect(200).json()["status"], "PARTIALLY_CAPTURED_REFUNDED");
}

/// [D 12 #5]: over-capture is a 400 with an error body, and nothing moves.
#[tokio::test]
async fn more_than_the_remaining_authorization_cannot_be_captured() {
    let world = World::start().await;
    let id = world.card().await;
    world.capture(&id, 20_000).await.expect(200);
    let answer = world.capture(&id, 9_991).await.expect(400);
    assert!(answer.json()["error"]["message"].as_str().unwrap().contains("9990"));
    assert_eq!(world.ledger(&id).await, [("capture".to_owned(), 20_000, "api".to_owned())]);
    world.capture(&id, 9_990).await.expect(200);
}

/// [D 12 #5]: over-refund is a 400.
#[tokio::test]
async fn more_than_what_is_captured_cannot_be_refunded() {
    let world = World::start().await;
    let id = world.card().await;
    world.refund(&id, 1).await.expect(400);
    world.capture(&id, 10_000).await.expect(200);
    world.refund(&id, 10_001).await.expect(400);
    world.refund(&id, 10_000).await.expect(200);
    world.refund(&id, 1).await.expect(400);
}

/// [D 7]: there is no deduplication, so a repeated reference is applied again.
#[tokio::test]
async fn a_repeated_reference_is_applied_again() {
    let world = World::start().await;
    let id = world.card().await;
    world.capture(&id, 1_000).await.expect(200);
    world.capture(&id, 1_000).await.expect(200);
    let references: Vec<_> =
        world.effects(&id).await.iter().map(|effect| effect["reference"].clone()).collect();
    assert_eq!(references, ["cap-1", "cap-1"]);
}

/// [D 5.3]: without a reference the event gets the session's default one.
#[tokio::test]
async fn an_event_without_a_reference_gets_the_sessions_default() {
    let world = World::start().await;
    let id = world.make(json!({ "amount": 100, "event_reference": "ORDER-1" })).await;
    let answer =
        world.post(&format!("/v1/transactions/{id}/capture"), &json!({ "amount": 100 })).await.expect(200);
    assert_eq!(answer.last_event()["event_reference"], "ORDER-1");
    assert_eq!(answer.json()["metadata"]["event_reference"], "ORDER-1");
    assert_eq!(world.effects(&id).await[0]["reference"], Value::Null, "the ledger keeps what was sent");
}

/// [D 3.3]: void takes no body and ends in `AUTHORIZATION_VOIDED`; [D 12 #27]: a second one is refused.
#[tokio::test]
async fn a_void_releases_the_authorization_once() {
    let world = World::start().await;
    let id = world.card().await;
    let answer = world.void(&id).await.expect(200);
    assert_eq!(answer.json()["status"], "AUTHORIZATION_VOIDED");
    let event = answer.last_event();
    assert_eq!((&event["event"], &event["success"]), (&json!("VOID"), &json!(true)));
    assert_eq!(event.get("amount"), None);
    assert_eq!(event["request_headers"]["user-agent"], "payops/test");
    world.void(&id).await.expect(400);
    world.capture(&id, 1).await.expect(400);
    assert_eq!(world.ledger(&id).await, [("void".to_owned(), AMOUNT, "api".to_owned())]);
}

/// [D 3.3]: other clients send `{}` or `{"id": …}` with a void, and the official plugin an `id` with a capture.
#[tokio::test]
async fn bodies_of_other_clients_are_tolerated() {
    let world = World::start().await;
    let id = world.card().await;
    let capture = json!({ "id": id, "amount": AMOUNT, "unknown": { "a": 1 } });
    world.post(&format!("/v1/transactions/{id}/capture"), &capture).await.expect(200);
    for body in [json!({}), json!({ "id": "x" })] {
        let id = world.card().await;
        world.post(&format!("/v1/transactions/{id}/void"), &body).await.expect(200);
    }
}

/// [D 3.3]: a card cannot be voided after a capture; refund instead.
#[tokio::test]
async fn a_card_is_not_voidable_after_a_capture() {
    let world = World::start().await;
    let id = world.card().await;
    world.capture(&id, 1_000).await.expect(200);
    world.void(&id).await.expect(400);
}

/// [D 3.1]: amounts are int32; [D 12 #17]: zero is refused.
#[tokio::test]
async fn an_amount_that_is_not_a_positive_int32_is_refused() {
    let world = World::start().await;
    let id = world.card().await;
    for amount in [json!(0), json!(-1), json!(2_147_483_648_i64), json!("100"), json!(1.5), Value::Null] {
        let body = json!({ "amount": amount });
        world.post(&format!("/v1/transactions/{id}/capture"), &body).await.expect(400);
    }
    assert!(world.ledger(&id).await.is_empty());
}

/// [D 12 #17]: zero-amount transactions can be captured.
#[tokio::test]
async fn a_zero_amount_transaction_takes_zero() {
    let world = World::start().await;
    let id = world.make(json!({ "payment_product_type": "dintero.zero", "amount": 0 })).await;
    assert_eq!(world.capture(&id, 0).await.expect(200).json()["status"], "CAPTURED");
    let id = world.make(json!({ "payment_product_type": "dintero.zero", "amount": 0 })).await;
    assert_eq!(world.void(&id).await.expect(200).json()["status"], "AUTHORIZATION_VOIDED");
}

/// [D 3.4] [D 12 #16]: lines exist, are unique, add up, and move no more than there is.
#[tokio::test]
async fn items_that_do_not_fit_are_refused() {
    let world = World::start().await;
    let id = world.card().await;
    let line = |line_id: &str, amount: i64| json!({ "line_id": line_id, "amount": amount });
    for (amount, items) in [
        (100, json!([line("1", 99)])),
        (100, json!([line("nowhere", 100)])),
        (100, json!([line("1", 50), line("1", 50)])),
        (3_901, json!([line("ship-1", 3_901)])),
        (100, json!([{ "amount": 100 }])),
        (100, json!([{ "line_id": "1" }])),
        (100, json!("1")),
    ] {
        let body = json!({ "amount": amount, "items": items });
        world.post(&format!("/v1/transactions/{id}/capture"), &body).await.expect(400);
    }
    let half = json!({ "amount": 2_000, "items": [line("ship-1", 2_000)] });
    world.post(&format!("/v1/transactions/{id}/capture"), &half).await.expect(200);
    world.post(&format!("/v1/transactions/{id}/capture"), &half).await.expect(400);
}

/// [D 3.1]: metadata keys start with `ext_`, at most 128 characters, values at most 256.
#[tokio::test]
async fn metadata_outside_the_rule_is_refused() {
    let world = World::start().await;
    let id = world.card().await;
    for metadata in [
        json!({ "operation_id": "x" }),
        json!({ format!("ext_{}", "k".repeat(125)): "x" }),
        json!({ "ext_long": "v".repeat(257) }),
        json!({ "ext_number": 1 }),
        json!([]),
    ] {
        let body = json!({ "amount": 1, "metadata": metadata });
        world.post(&format!("/v1/transactions/{id}/capture"), &body).await.expect(400);
    }
}

/// [D 8]: the error body, and `NOT FOUND` with a space.
#[tokio::test]
async fn an_unknown_transaction_is_not_found() {
    let world = World::start().await;
    let answer = world.capture("T12345678.aaaaaaaaaaaaaaaaaaaaaa", 1).await.expect(404);
    let error = json!({ "code": "NOT FOUND", "message": "Transaction not found", "errors": [] });
    assert_eq!(answer.json(), json!({ "error": error }));
    world.get("/v1/transactions/T12345678.aaaaaaaaaaaaaaaaaaaaaa").await.expect(404);
    world.get("/v1/elsewhere").await.expect(404);
}

/// [D 4.1]: nothing can be done in the other statuses.
#[tokio::test]
async fn a_transaction_that_is_not_authorized_moves_nothing() {
    let world = World::start().await;
    for status in ["INITIATED", "ON_HOLD", "DECLINED", "FAILED", "UNKNOWN"] {
        let id = world.make(json!({ "amount": 100, "status": status })).await;
        assert_eq!(world.status(&id).await, status);
        world.capture(&id, 100).await.expect(400);
        world.void(&id).await.expect(400);
        world.refund(&id, 100).await.expect(400);
        assert!(world.ledger(&id).await.is_empty());
    }
}

/// [D 12 #10]: an expired authorization still reads AUTHORIZED, and captures fail.
#[tokio::test]
async fn an_expired_authorization_reads_authorized_and_cannot_be_captured() {
    let world = World::start().await;
    let id = world.card().await;
    world.admin(Method::POST, &format!("/transactions/{id}/expire"), Value::Null).await.expect(200);
    assert_eq!(world.status(&id).await, "AUTHORIZED");
    world.capture(&id, 1).await.expect(400);
    assert!(world.ledger(&id).await.is_empty());
}

/// [D 12 #23]: the newer base leads to the same transactions, for the token's own account.
#[tokio::test]
async fn the_newer_base_path_does_the_same() {
    let world = World::start().await;
    let id = world.card().await;
    let base = "/v1/accounts/T12345678/payments/transactions";
    world.post(&format!("{base}/{id}/capture"), &json!({ "amount": 1 })).await.expect(200);
    assert_eq!(world.get(&format!("{base}/{id}")).await.expect(200).json()["status"], "PARTIALLY_CAPTURED");
    world.get(&format!("/v1/accounts/T87654321/payments/transactions/{id}")).await.expect(403);
}

/// [D 3.8]: `merchant_reference_2` is the one field that PUT changes.
#[tokio::test]
async fn put_changes_the_second_merchant_reference() {
    let world = World::start().await;
    let id = world.card().await;
    let request = world.authorized(Method::PUT, &format!("/v1/transactions/{id}"));
    send(request.body(r#"{"merchant_reference_2":"M-2"}"#)).await.unwrap().expect(200);
    assert_eq!(world.transaction(&id).await.json()["merchant_reference_2"], "M-2");
}
