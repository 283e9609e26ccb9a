//! Faults of the second and third stage: operations that take effect otherwise, and reads that lag.

use reqwest::Method;
use serde_json::{Value, json};

use super::faults::{captured, strike};
use super::world::{AMOUNT, World};

/// The minor units that moved, one by one.
pub async fn amounts(world: &World, id: &str) -> Vec<i64> {
    world.ledger(id).await.into_iter().map(|(_, amount, _)| amount).collect()
}

/// [D 5.3]: HTTP 200 is no proof: the event says that it failed.
#[tokio::test]
async fn success_false_answers_200_with_a_failed_event() {
    let world = World::start().await;
    let fault = json!({ "fault": "success_false", "error_type": "INSUFFICIENT_FUNDS", "message": "No money",
        "code": "51", "retry_code": "DO_NOT_RETRY" });
    let id = strike(&world, fault).await;
    let answer = world.capture(&id, AMOUNT).await.expect(200);
    assert_eq!(answer.json()["status"], "AUTHORIZED");
    let event = answer.last_event();
    assert_eq!((&event["event"], &event["success"]), (&json!("CAPTURE"), &json!(false)));
    assert_eq!(event["event_reference"], "cap-1");
    let error = json!({ "message": "No money", "type": ["INSUFFICIENT_FUNDS"], "code": "51",
        "retry_policy": { "retry_codes": ["DO_NOT_RETRY"] } });
    assert_eq!(event["error"], error);
    assert_eq!(event.get("correction"), None);
    assert!(world.ledger(&id).await.is_empty());
}

/// [D 5.1]: with a `correction` that tells what remains; [D 12 #1]: with another HTTP status.
#[tokio::test]
async fn success_false_can_carry_a_correction_or_an_error_status() {
    let world = World::start().await;
    let id = strike(&world, json!({ "fault": "success_false", "correction": true })).await;
    let event = world.capture(&id, AMOUNT).await.expect(200).last_event();
    let correction = json!({ "status": "AUTHORIZED", "remaining_capture_amount": AMOUNT,
        "remaining_refund_amount": 0, "remaining_void_amount": AMOUNT });
    assert_eq!(event["correction"], correction);

    let id = strike(&world, json!({ "fault": "success_false", "status": 502 })).await;
    let answer = world.capture(&id, AMOUNT).await.expect(502);
    assert!(answer.json()["error"]["message"].is_string());
    assert_eq!(world.transaction(&id).await.last_event()["success"], false);
}

/// [D 3.6]: any operation may be accepted first, and end well, badly or never.
#[tokio::test]
async fn accepted_then_ends_as_told() {
    let world = World::start().await;
    let accepted = async |outcome: &str| {
        let fault = json!({ "fault": "accepted_then", "outcome": outcome, "delay_ms": 1 });
        let id = strike(&world, fault).await;
        let answer = world.capture(&id, AMOUNT).await.expect(202);
        assert!(answer.header("event-request-id").is_some());
        assert_eq!(answer.last_event()["event"], "INITIATE_CAPTURE");
        id
    };
    let (done, failed, never) = (accepted("done").await, accepted("failed").await, accepted("never").await);
    world.eventually("the capture", async |world| world.status(&done).await == "CAPTURED").await;
    assert_eq!(world.ledger(&done).await, captured(AMOUNT));
    let is_over = async |world: &World| world.transaction(&failed).await.last_event()["success"] == false;
    world.eventually("the failure", is_over).await;
    assert!(world.ledger(&failed).await.is_empty());
    assert_eq!(world.transaction(&never).await.last_event()["event"], "INITIATE_CAPTURE");
    let raw = world.admin(Method::GET, &format!("/transactions/{never}"), Value::Null).await.json();
    assert_eq!(raw["sandbox"]["open"].as_array().unwrap().len(), 1);
}

/// [D 3.6] [D 5.1]: how an accepted operation fails can be chosen; unless it is, it fails unclearly.
#[tokio::test]
async fn accepted_then_fails_as_told() {
    let world = World::start().await;
    let failed = async |mut fault: Value| {
        fault["fault"] = json!("accepted_then");
        fault["outcome"] = json!("failed");
        fault["delay_ms"] = json!(1);
        let id = strike(&world, fault).await;
        let accepted = world.capture(&id, AMOUNT).await.expect(202).last_event();
        let is_over = async |world: &World| world.transaction(&id).await.last_event()["success"] == false;
        world.eventually("the failure", is_over).await;
        let event = world.transaction(&id).await.last_event();
        assert_eq!(event["correlation_request_id"], accepted["request_id"]);
        assert!(world.ledger(&id).await.is_empty());
        event
    };
    let unclear = failed(json!({})).await;
    assert_eq!(unclear["error"], json!({ "message": "Operation timed out", "type": ["ERROR"] }));
    let clear = json!({ "error_type": "INSUFFICIENT_FUNDS", "message": "No money", "correction": true });
    let clear = failed(clear).await;
    assert_eq!(clear["error"], json!({ "message": "No money", "type": ["INSUFFICIENT_FUNDS"] }));
    assert_eq!(clear["correction"]["remaining_capture_amount"], AMOUNT);
}

/// [D 12 #12]: that the end of a void names its initiation is documented for the others only, and can be switched.
#[tokio::test]
async fn the_end_of_a_void_names_its_initiation_unless_told_otherwise() {
    let world = World::start().await;
    for correlates in [true, false] {
        let settings = json!({ "void_completion_correlates": correlates });
        world.admin(Method::PUT, "/settings", settings).await.expect(200);
        let id = world.card().await;
        world.fault(json!({ "operation": "void", "fault": "accepted_then", "outcome": "never" })).await;
        let accepted = world.void(&id).await.expect(202).last_event();
        world.admin(Method::POST, &format!("/transactions/{id}/complete"), json!({})).await.expect(200);
        let ended = world.transaction(&id).await.last_event();
        assert_eq!(ended["event"], "VOID");
        assert_eq!(ended["correlation_request_id"] == accepted["request_id"], correlates);
    }
}

/// [D 3.6]: a void can be accepted first too.
#[tokio::test]
async fn accepted_then_initiates_a_void() {
    let world = World::start().await;
    let id = world.card().await;
    let fault =
        json!({ "operation": "void", "fault": "accepted_then", "outcome": "done", "delay_ms": 60_000 });
    world.fault(fault).await;
    assert_eq!(world.void(&id).await.expect(202).last_event()["event"], "INITIATE_VOID");
    assert_eq!(world.status(&id).await, "AUTHORIZED");
    world.admin(Method::POST, &format!("/transactions/{id}/complete"), json!({})).await.expect(200);
    assert_eq!(world.status(&id).await, "AUTHORIZATION_VOIDED");
}

/// [D 5.4]: the event's amount is to be trusted, and may differ.
#[tokio::test]
async fn wrong_amount_moves_another_amount_and_says_so() {
    let world = World::start().await;
    let id = strike(&world, json!({ "fault": "wrong_amount", "amount": 100 })).await;
    let answer = world.capture(&id, AMOUNT).await.expect(200);
    assert_eq!(answer.last_event()["amount"], 100);
    assert_eq!(world.ledger(&id).await, captured(100));
}

/// [D 5.3]: `correction` outranks `success`, both ways.
#[tokio::test]
async fn correction_contradicting_outranks_success() {
    let world = World::start().await;
    let id = strike(&world, json!({ "fault": "correction_contradicting" })).await;
    let event = world.capture(&id, AMOUNT).await.expect(200).last_event();
    assert_eq!(event["success"], true);
    assert_eq!(event["correction"]["remaining_capture_amount"], AMOUNT);
    assert!(world.ledger(&id).await.is_empty());

    let id = strike(&world, json!({ "fault": "correction_contradicting", "success": false })).await;
    let event = world.capture(&id, AMOUNT).await.expect(200).last_event();
    assert_eq!(event["success"], false);
    assert_eq!(event["correction"]["remaining_capture_amount"], 0);
    assert_eq!(world.ledger(&id).await, captured(AMOUNT));
}

/// [D 12 #6]: a read soon after shows nothing of it.
#[tokio::test]
async fn read_lag_hides_the_event_for_a_while() {
    let world = World::start().await;
    let id = strike(&world, json!({ "fault": "read_lag", "delay_ms": 60_000 })).await;
    assert_eq!(world.capture(&id, AMOUNT).await.expect(200).json()["status"], "CAPTURED");
    assert_eq!(world.status(&id).await, "AUTHORIZED");
    let list = world.get(&format!("/v1/transactions?id={id}")).await.json();
    assert_eq!(list[0]["status"], "AUTHORIZED");
    assert_eq!(world.ledger(&id).await, captured(AMOUNT), "the truth does not lag");

    let id = strike(&world, json!({ "fault": "read_lag", "delay_ms": 50 })).await;
    world.capture(&id, AMOUNT).await.expect(200);
    world.eventually("the event", async |world| world.status(&id).await == "CAPTURED").await;
}

/// A middlebox repeats the POST: a part capture doubles; of a full one the second is refused.
#[tokio::test]
async fn duplicate_application_applies_twice() {
    let world = World::start().await;
    let id = strike(&world, json!({ "fault": "duplicate_application" })).await;
    world.capture(&id, 100).await.expect(200);
    let twice = [captured(100), vec![("capture".to_owned(), 100, "middlebox".to_owned())]].concat();
    assert_eq!(world.ledger(&id).await, twice);

    let id = strike(&world, json!({ "fault": "duplicate_application" })).await;
    world.capture(&id, AMOUNT).await.expect(400); // the answer to the second
    assert_eq!(world.ledger(&id).await, captured(AMOUNT));

    let id = strike(&world, json!({ "fault": "duplicate_application", "answer": "first" })).await;
    world.capture(&id, AMOUNT).await.expect(200);
}

/// [D 5.3]: a Backoffice user is quicker.
#[tokio::test]
async fn backoffice_capture_before_leaves_less_to_capture() {
    let world = World::start().await;
    let id = strike(&world, json!({ "fault": "backoffice_capture_before", "amount": 100 })).await;
    world.capture(&id, AMOUNT).await.expect(400);
    assert_eq!(world.ledger(&id).await, [("capture".to_owned(), 100, "backoffice".to_owned())]);
    let event = world.transaction(&id).await.last_event();
    assert_eq!(event.get("event_reference"), None);
    assert_eq!(event["created_by"], "backoffice-user");
}

/// [D 5.3]: the event does not carry our reference; the ledger does.
#[tokio::test]
async fn event_without_reference_moves_the_money() {
    let world = World::start().await;
    let id = strike(&world, json!({ "fault": "event_without_reference" })).await;
    let answer = world.capture(&id, AMOUNT).await.expect(200);
    assert_eq!(answer.last_event().get("event_reference"), None);
    assert_eq!(world.effects(&id).await[0]["reference"], "cap-1");
}

/// [D 12 #1]: a decline as an error answer, with or without a failed event.
#[tokio::test]
async fn declined_is_a_4xx_perhaps_with_a_failed_event() {
    let world = World::start().await;
    let fault = json!({ "fault": "declined", "status": 422, "code": "CARD DECLINED", "message": "No" });
    let id = strike(&world, fault).await;
    let answer = world.capture(&id, AMOUNT).await.expect(422);
    assert_eq!(answer.json()["error"]["code"], "CARD DECLINED");
    assert_eq!(answer.json()["error"]["message"], "No");
    assert_eq!(world.transaction(&id).await.last_event()["event"], "AUTHORIZE");

    let id = strike(&world, json!({ "fault": "declined", "leave_failed_event": true })).await;
    world.capture(&id, AMOUNT).await.expect(400);
    let event = world.transaction(&id).await.last_event();
    assert_eq!((&event["event"], &event["success"]), (&json!("CAPTURE"), &json!(false)));
    assert_eq!(event["error"]["type"], json!(["DECLINED"]));
    assert!(world.ledger(&id).await.is_empty());
}
