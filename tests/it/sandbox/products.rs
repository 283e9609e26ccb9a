//! What each payment product allows, and operations that end later.

use reqwest::Method;
use serde_json::{Value, json};

use super::world::{AMOUNT, World, chair_and_shipping};

fn line(line_id: &str, amount: i64) -> Value {
    json!({ "line_id": line_id, "amount": amount, "quantity": 1 })
}

/// [D 3.3]: void of the remainder, for the documented products.
#[tokio::test]
async fn the_rest_is_voidable_after_a_part_capture_where_documented() {
    let world = World::start().await;
    for product in ["vipps", "klarna.klarna", "klarna.billie", "payex.creditcard", "payex.googlepay"] {
        let id = world.of(product).await;
        world.capture(&id, 10_000).await.expect(200);
        // [D 12 #8]: the status after it is an assumption.
        assert_eq!(world.void(&id).await.expect(200).json()["status"], "PARTIALLY_CAPTURED", "{product}");
        world.capture(&id, 1).await.expect(400);
        world.void(&id).await.expect(400);
        let void = ("void".to_owned(), AMOUNT - 10_000, "api".to_owned());
        assert_eq!(world.ledger(&id).await.last(), Some(&void), "{product}");
    }
}

/// [D 12 #8]: whether what is released counts towards the status can be switched.
#[tokio::test]
async fn a_released_rest_counts_as_captured_when_told_so() {
    let world = World::start().await;
    world.admin(Method::PUT, "/settings", json!({ "released_counts_as_captured": true })).await.expect(200);
    let id = world.of("vipps").await;
    world.capture(&id, 10_000).await.expect(200);
    assert_eq!(world.void(&id).await.expect(200).json()["status"], "CAPTURED");
    assert_eq!(world.refund(&id, 10_000).await.expect(200).json()["status"], "REFUNDED");
}

/// [D 3.1]: `final_capture` voids the rest, for `dintero_psp`.
#[tokio::test]
async fn a_final_capture_voids_the_rest() {
    let world = World::start().await;
    let id = world.card().await;
    let body = json!({ "amount": 10_000, "final_capture": true });
    let answer = world.post(&format!("/v1/transactions/{id}/capture"), &body).await.expect(200);
    assert_eq!(answer.last_event()["event"], "CAPTURE");
    world.capture(&id, 1).await.expect(400);
    let moved: Vec<_> = world.ledger(&id).await.into_iter().map(|(kind, amount, _)| (kind, amount)).collect();
    assert_eq!(moved, [("capture".to_owned(), 10_000), ("void".to_owned(), 19_990)]);

    let id = world.of("vipps").await;
    world.post(&format!("/v1/transactions/{id}/capture"), &body).await.expect(400);
}

/// [D 12 #8]: a VOID event beside the final capture can be switched on.
#[tokio::test]
async fn a_final_capture_adds_a_void_event_when_told_so() {
    let world = World::start().await;
    world.admin(Method::PUT, "/settings", json!({ "final_capture_adds_void_event": true })).await.expect(200);
    let id = world.card().await;
    let body = json!({ "amount": 10_000, "final_capture": true });
    let answer = world.post(&format!("/v1/transactions/{id}/capture"), &body).await.expect(200);
    assert_eq!(answer.last_event()["event"], "VOID");
}

/// [D 3.7]: instabank requires items with a quantity, on capture and refund.
#[tokio::test]
async fn instabank_requires_items_with_quantities() {
    let world = World::start().await;
    let id = world.of("instabank.finance").await;
    let path = format!("/v1/transactions/{id}/capture");
    world.post(&path, &json!({ "amount": AMOUNT })).await.expect(400);
    let bare = json!([{ "line_id": "1", "amount": 26_090 }]);
    world.post(&path, &json!({ "amount": 26_090, "items": bare })).await.expect(400);
    world.post(&path, &json!({ "amount": AMOUNT, "items": chair_and_shipping() })).await.expect(200);
    world.refund(&id, 3_900).await.expect(400);
    let refund = json!({ "amount": 3_900, "items": [line("ship-1", 3_900)] });
    world.post(&format!("/v1/transactions/{id}/refund"), &refund).await.expect(200);
}

/// [D 3.7]: Walley moves whole lines.
#[tokio::test]
async fn collector_moves_whole_lines_only() {
    let world = World::start().await;
    let id = world.of("collector.invoice").await;
    let path = format!("/v1/transactions/{id}/capture");
    world.post(&path, &json!({ "amount": 1_000, "items": [line("1", 1_000)] })).await.expect(400);
    world.post(&path, &json!({ "amount": 1_000 })).await.expect(400);
    world.post(&path, &json!({ "amount": 3_900, "items": [line("ship-1", 3_900)] })).await.expect(200);
    world.post(&path, &json!({ "amount": 26_090 })).await.expect(200);
}

/// [D 4.1]: a manual review holds a Walley transaction.
#[tokio::test]
async fn a_collector_transaction_can_be_on_hold() {
    let world = World::start().await;
    let body = json!({ "payment_product_type": "collector.invoice", "amount": 100, "status": "ON_HOLD" });
    let id = world.make(body).await;
    world.capture(&id, 100).await.expect(400);
}

/// [D 3.7]: Swish is captured at once; capture and void never apply.
#[tokio::test]
async fn swish_is_captured_at_once_and_refuses_capture_and_void() {
    let world = World::start().await;
    let id = world.of("swish.swish").await;
    assert_eq!(world.status(&id).await, "CAPTURED");
    world.capture(&id, 1).await.expect(400);
    world.void(&id).await.expect(400);
}

/// [D 3.6]: 202 with `event-request-id`, the status unchanged, and a later event that names it.
#[tokio::test]
async fn a_swish_refund_is_accepted_and_completed_later() {
    let world = World::start().await;
    world.admin(Method::PUT, "/settings", json!({ "asynchronous_delay_ms": 3_600_000 })).await.expect(200);
    let id = world.of("swish.swish").await;
    let answer = world.refund(&id, 3_900).await.expect(202);
    let accepted = answer.last_event();
    assert_eq!(answer.header("event-request-id"), accepted["request_id"].as_str());
    assert_eq!(accepted["event"], "INITIATE_REFUND");
    assert_eq!(accepted["event_reference"], "ref-1");
    assert_eq!(accepted["transaction_status"], "CAPTURED");
    assert_eq!(answer.json()["status"], "CAPTURED");
    assert!(world.ledger(&id).await.is_empty(), "nothing moved yet");
    world.refund(&id, 26_091).await.expect(400); // what is accepted is set aside

    world
        .admin(Method::POST, &format!("/transactions/{id}/complete"), json!({ "outcome": "done" }))
        .await
        .expect(200);
    let completed = world.transaction(&id).await;
    let event = completed.last_event();
    assert_eq!((&event["event"], &event["success"]), (&json!("REFUND"), &json!(true)));
    assert_eq!(event["correlation_request_id"], accepted["request_id"]);
    assert_eq!(event.get("event_reference"), None, "not repeated by default [D 12 #12]");
    assert_eq!(completed.json()["status"], "PARTIALLY_REFUNDED");
    assert_eq!(world.ledger(&id).await, [("refund".to_owned(), 3_900, "api".to_owned())]);
}

/// [D 12 #11]: without anyone's doing, it completes after a while.
#[tokio::test]
async fn an_accepted_refund_completes_by_itself() {
    let world = World::start().await;
    world.admin(Method::PUT, "/settings", json!({ "asynchronous_delay_ms": 20 })).await.expect(200);
    let id = world.of("swish.swish").await;
    world.refund(&id, AMOUNT).await.expect(202);
    world.eventually("the refund", async |world| world.status(&id).await == "REFUNDED").await;
}

/// [D 12 #12]: the completing event repeats the reference when told so.
#[tokio::test]
async fn a_completion_repeats_the_reference_when_told_so() {
    let world = World::start().await;
    let settings = json!({ "asynchronous_delay_ms": 3_600_000, "completion_repeats_reference": true });
    world.admin(Method::PUT, "/settings", settings).await.expect(200);
    let id = world.of("swish.swish").await;
    world.refund(&id, 1).await.expect(202);
    world.admin(Method::POST, &format!("/transactions/{id}/complete"), json!({})).await.expect(200);
    assert_eq!(world.transaction(&id).await.last_event()["event_reference"], "ref-1");
}

/// [D 3.6]: an accepted operation can fail, and its amount is free again.
#[tokio::test]
async fn an_accepted_refund_can_fail_later() {
    let world = World::start().await;
    world.admin(Method::PUT, "/settings", json!({ "asynchronous_delay_ms": 3_600_000 })).await.expect(200);
    let id = world.of("swish.swish").await;
    world.refund(&id, AMOUNT).await.expect(202);
    world
        .admin(Method::POST, &format!("/transactions/{id}/complete"), json!({ "outcome": "failed" }))
        .await
        .expect(200);
    let event = world.transaction(&id).await.last_event();
    assert_eq!((&event["event"], &event["success"]), (&json!("REFUND"), &json!(false)));
    assert_eq!(world.status(&id).await, "CAPTURED");
    assert!(world.ledger(&id).await.is_empty());
    world.refund(&id, AMOUNT).await.expect(202);
}

/// [D 3.6] [D 5.1]: an accepted operation can also be declined clearly.
#[tokio::test]
async fn an_accepted_refund_can_be_declined_later() {
    let world = World::start().await;
    world.admin(Method::PUT, "/settings", json!({ "asynchronous_delay_ms": 3_600_000 })).await.expect(200);
    let id = world.of("swish.swish").await;
    world.refund(&id, AMOUNT).await.expect(202);
    let path = format!("/transactions/{id}/complete");
    let failed = json!({ "outcome": "failed", "error_type": "INSUFFICIENT_FUNDS", "message": "No money" });
    world.admin(Method::POST, &path, failed).await.expect(200);
    let error = world.transaction(&id).await.last_event()["error"].clone();
    assert_eq!(error, json!({ "message": "No money", "type": ["INSUFFICIENT_FUNDS"] }));
    world.refund(&id, AMOUNT).await.expect(202);
    world.admin(Method::POST, &path, json!({ "outcome": "failed" })).await.expect(200);
    let error = world.transaction(&id).await.last_event()["error"].clone();
    assert_eq!(error, json!({ "message": "Operation timed out", "type": ["ERROR"] }));
    assert!(world.ledger(&id).await.is_empty());
}

/// [D 3.2]: an in-person refund needs a terminal, and a person's approval.
#[tokio::test]
async fn an_in_person_refund_needs_a_terminal_and_ends_later() {
    let world = World::start().await;
    let id = world.of("seitatech.in_person").await;
    assert_eq!(world.status(&id).await, "CAPTURED");
    let answer = world.refund(&id, 100).await.expect(400);
    assert!(answer.text.contains("terminal_id"));
    let body = json!({ "amount": 100, "refund_reference": "r", "terminal_id": "terminal-1" });
    world.post(&format!("/v1/transactions/{id}/refund"), &body).await.expect(202);
}

/// [D 3.8]: Klarna without an amount extends, with one it sets a new total.
#[tokio::test]
async fn klarna_takes_a_new_total_or_an_extension() {
    let world = World::start().await;
    let id = world.of("klarna.klarna").await;
    let path = format!("/v1/transactions/{id}/authorization");
    world.post(&path, &json!({ "amount": 40_000 })).await.expect(400);
    let items = json!([line("1", 36_100), line("ship-1", 3_900)]);
    let answer = world
        .post(&path, &json!({ "amount": 40_000, "items": items, "reference": "more" }))
        .await
        .expect(200);
    assert_eq!(answer.json()["amount"], 40_000);
    assert_eq!(answer.last_event()["event"], "AUTHORIZE");
    world.capture(&id, 40_000).await.expect(200);

    let id = world.of("klarna.klarna").await;
    world.admin(Method::POST, &format!("/transactions/{id}/expire"), Value::Null).await.expect(200);
    world.capture(&id, 1).await.expect(400);
    world.post(&format!("/v1/transactions/{id}/authorization"), &json!({})).await.expect(200);
    world.capture(&id, 1).await.expect(200);
}

/// [D 3.8]: a pre-authorization grows, until it is final.
#[tokio::test]
async fn a_card_preauthorization_grows_until_it_is_final() {
    let world = World::start().await;
    let id = world.card().await;
    let path = format!("/v1/transactions/{id}/authorization");
    world.post(&path, &json!({ "amount": 20_000 })).await.expect(400);
    world.post(&path, &json!({ "amount": 30_000 })).await.expect(200);
    world.post(&path, &json!({ "amount": 25_000, "final_authorization": true })).await.expect(200);
    world.post(&path, &json!({ "amount": 50_000 })).await.expect(409);
    world.capture(&id, 25_001).await.expect(400);
}

/// [D 3.8]: POST authorization lets an on-hold external transaction go; other products refuse it.
#[tokio::test]
async fn an_external_transaction_on_hold_is_authorized() {
    let world = World::start().await;
    let external = json!({ "payment_product_type": "dintero.external", "amount": 100, "status": "ON_HOLD" });
    let id = world.make(external).await;
    let answer = world.post(&format!("/v1/transactions/{id}/authorization"), &json!({})).await.expect(200);
    assert_eq!(answer.json()["status"], "AUTHORIZED");
    world.post(&format!("/v1/transactions/{id}/authorization"), &json!({})).await.expect(409);
    let id = world.of("vipps").await;
    world.post(&format!("/v1/transactions/{id}/authorization"), &json!({ "amount": 1 })).await.expect(400);
}

/// [D 9]: the test cards on which an operation times out. A failed event stays, and nothing moves.
#[tokio::test]
async fn a_test_card_times_out_on_its_operation_only() {
    let world = World::start().await;
    let make = async |number: &str| world.make(json!({ "amount": 100, "test_card": number })).await;
    for number in ["4100 0000 0000 0019", "5100000000000016"] {
        let id = make(number).await;
        world.capture(&id, 100).await.expect(500);
        let event = world.transaction(&id).await.last_event();
        assert_eq!((&event["event"], &event["success"]), (&json!("CAPTURE"), &json!(false)));
        assert_eq!(event["error"]["message"], "Operation timed out");
        assert!(world.ledger(&id).await.is_empty());
        world.void(&id).await.expect(200);
    }
    let id = make("4100000000000043").await;
    world.void(&id).await.expect(500);
    world.capture(&id, 100).await.expect(200);
    let id = make("4100000000000027").await;
    world.capture(&id, 100).await.expect(200);
    world.refund(&id, 100).await.expect(500);
    let id = make("4000000000000002").await;
    world.capture(&id, 100).await.expect(200);
    world.refund(&id, 100).await.expect(200);
}
