//! Faults of the first and last stage, and which requests faults strike: what the caller sees, and what moved.

use std::time::{Duration, Instant};

use payops::sandbox::{Account, Settings};
use reqwest::Method;
use serde_json::{Value, json};

use super::world::{AMOUNT, World, send};

pub fn captured(amount: i64) -> Vec<(String, i64, String)> {
    vec![("capture".to_owned(), amount, "api".to_owned())]
}

/// A card, and a fault on its captures.
pub async fn strike(world: &World, mut fault: Value) -> String {
    let id = world.card().await;
    fault["operation"] = json!("capture");
    fault["transaction"] = json!(id);
    world.fault(fault).await;
    id
}

/// [D 11]: the answer is lost, and so was the request.
#[tokio::test]
async fn answer_lost_before_applying_moves_nothing() {
    let world = World::start().await;
    for by in ["close", "reset"] {
        let id = strike(&world, json!({ "fault": "answer_lost_before_applying", "by": by })).await;
        let error = world.try_capture(&id, AMOUNT).await.unwrap_err();
        assert!(!error.is_connect() && !error.is_timeout(), "{error:?}");
        assert!(world.ledger(&id).await.is_empty());
        world.capture(&id, AMOUNT).await.expect(200); // once only
    }
}

/// [D 12 #2]: the answer is lost, and the money moved.
#[tokio::test]
async fn answer_lost_after_applying_moves_the_money() {
    let world = World::start().await;
    for by in ["close", "reset"] {
        let id = strike(&world, json!({ "fault": "answer_lost_after_applying", "by": by })).await;
        world.try_capture(&id, AMOUNT).await.unwrap_err();
        assert_eq!(world.ledger(&id).await, captured(AMOUNT));
        assert_eq!(world.transaction(&id).await.last_event()["event_reference"], "cap-1");
    }
}

/// A close ends the stream without a byte; a reset is an error on the socket.
#[tokio::test]
async fn a_lost_answer_is_a_close_or_a_reset_on_the_wire() {
    let world = World::start().await;
    let id = strike(&world, json!({ "fault": "answer_lost_after_applying" })).await;
    let (received, ended) = world.raw_capture(&id).await;
    assert!(received.is_empty());
    ended.unwrap();
    let id = strike(&world, json!({ "fault": "answer_lost_after_applying", "by": "reset" })).await;
    let (received, ended) = world.raw_capture(&id).await;
    assert!(received.is_empty());
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

/// The money moves at once, the answer comes late.
#[tokio::test]
async fn delayed_answer_applies_at_once_and_answers_late() {
    let world = World::start().await;
    let id = strike(&world, json!({ "fault": "delayed_answer", "delay_ms": 1_000 })).await;
    let begun = Instant::now();
    let mut answer = std::pin::pin!(world.capture(&id, AMOUNT));
    tokio::select! {
        biased;
        _ = answer.as_mut() => panic!("the answer did not wait"),
        () = world.eventually("the effect", async |world| world.ledger(&id).await == captured(AMOUNT)) => (),
    }
    answer.await.expect(200);
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

/// [D 12 #7]: a caller that hangs up stops nothing.
#[tokio::test]
async fn the_work_goes_on_when_the_caller_hangs_up() {
    let world = World::start().await;
    let id = strike(&world, json!({ "fault": "delayed_answer", "delay_ms": 1_000 })).await;
    let body = json!({ "amount": AMOUNT }).to_string();
    let request = world.authorized(Method::POST, &format!("/v1/transactions/{id}/capture"));
    let request = request.timeout(Duration::from_millis(500)).body(body);
    assert!(send(request).await.unwrap_err().is_timeout());
    assert_eq!(world.requests(&id).await[0]["status"], Value::Null);
    world
        .eventually("the end of the work", async |world| world.requests(&id).await[0]["status"] == 200)
        .await;
    assert_eq!(world.ledger(&id).await, captured(AMOUNT));
}

/// The request is on its way when the caller is answered; it arrives later.
#[tokio::test]
async fn delayed_application_takes_effect_after_the_answer() {
    let world = World::start().await;
    let id = strike(&world, json!({ "fault": "delayed_application", "delay_ms": 1_000 })).await;
    world.try_capture(&id, AMOUNT).await.unwrap_err();
    assert!(world.ledger(&id).await.is_empty());
    assert_eq!(world.status(&id).await, "AUTHORIZED");
    world.eventually("the effect", async |world| world.ledger(&id).await == captured(AMOUNT)).await;
    assert_eq!(world.requests(&id).await[0]["status_late"], 200);

    let fault = json!({ "fault": "delayed_application", "delay_ms": 1_000, "status": 504 });
    let id = strike(&world, fault).await;
    world.capture(&id, AMOUNT).await.expect(504);
    assert!(world.ledger(&id).await.is_empty());
    world.eventually("the effect", async |world| world.ledger(&id).await == captured(AMOUNT)).await;
}

/// The fence: a request that arrives after its token expired is refused, and moves nothing.
#[tokio::test]
async fn delayed_application_is_refused_when_the_token_expired_meanwhile() {
    let mut world = World::start().await;
    let id = strike(&world, json!({ "fault": "delayed_application", "delay_ms": 1_000 })).await;
    world.try_capture(&id, AMOUNT).await.unwrap_err();
    world.admin(Method::POST, "/tokens/expire", Value::Null).await.expect(200);
    world.eventually("the arrival", async |world| world.requests(&id).await[0]["status_late"] == 401).await;
    assert!(world.ledger(&id).await.is_empty());
    world.token = world.token_for(&Account::default()).await;
    assert_eq!(world.status(&id).await, "AUTHORIZED");
}

/// [D 3.5]: 503 on a capture that was applied.
#[tokio::test]
async fn unavailable_after_applying_moves_the_money() {
    let world = World::start().await;
    let id = strike(&world, json!({ "fault": "unavailable_after_applying" })).await;
    let answer = world.capture(&id, AMOUNT).await.expect(503);
    assert!(answer.json()["error"]["message"].is_string());
    assert_eq!(world.ledger(&id).await, captured(AMOUNT));
}

/// [D 12 #2]: 500 before or after the money moved; the answers are alike.
#[tokio::test]
async fn internal_error_is_the_same_before_and_after_applying() {
    let world = World::start().await;
    let before = strike(&world, json!({ "fault": "internal_error" })).await;
    let after = strike(&world, json!({ "fault": "internal_error", "applied": true })).await;
    let one = world.capture(&before, AMOUNT).await.expect(500);
    let other = world.capture(&after, AMOUNT).await.expect(500);
    assert_eq!(one.text, other.text);
    assert!(world.ledger(&before).await.is_empty());
    assert_eq!(world.ledger(&after).await, captured(AMOUNT));
    let id = strike(&world, json!({ "fault": "internal_error", "status": 502 })).await;
    world.capture(&id, AMOUNT).await.expect(502);
}

/// [D 2.2]: a 401 with a good token; the next request passes.
#[tokio::test]
async fn unauthorized_once_refuses_a_good_token_once() {
    let world = World::start().await;
    let id = strike(&world, json!({ "fault": "unauthorized_once" })).await;
    world.capture(&id, AMOUNT).await.expect(401);
    assert!(world.ledger(&id).await.is_empty());
    world.capture(&id, AMOUNT).await.expect(200);
}

/// [D 12 #18]: 429 with seconds, or with a date.
#[tokio::test]
async fn rate_limited_answers_429_with_retry_after() {
    let world = World::start().await;
    let id = strike(&world, json!({ "fault": "rate_limited", "retry_after": 3 })).await;
    let answer = world.capture(&id, AMOUNT).await.expect(429);
    assert_eq!(answer.header("retry-after"), Some("3"));
    assert!(world.ledger(&id).await.is_empty());
    let id = strike(&world, json!({ "fault": "rate_limited", "retry_after": 3, "http_date": true })).await;
    let answer = world.capture(&id, AMOUNT).await.expect(429);
    assert!(answer.header("retry-after").unwrap().ends_with(" GMT"));
}

/// Faults of different stages combine: the answer is lost, and reads lag.
#[tokio::test]
async fn faults_of_different_stages_combine() {
    let world = World::start().await;
    let id = strike(&world, json!({ "fault": "read_lag", "delay_ms": 60_000 })).await;
    let lost = json!({ "operation": "capture", "transaction": id, "fault": "answer_lost_after_applying" });
    world.fault(lost).await;
    world.try_capture(&id, AMOUNT).await.unwrap_err();
    assert_eq!(world.status(&id).await, "AUTHORIZED");
    assert_eq!(world.ledger(&id).await, captured(AMOUNT));
    let faults = &world.requests(&id).await[0]["faults"];
    assert_eq!(*faults, json!(["read_lag", "answer_lost_after_applying"]));
}

/// [D 9]: values and fields are added under `/v1` over the years.
#[tokio::test]
async fn unknown_enum_values_are_answered() {
    let world = World::start().await;
    let id = world.card().await;
    for (path, pointer) in [(format!("/v1/transactions/{id}"), ""), ("/v1/transactions".to_owned(), "/0")] {
        world.fault(json!({ "operation": "any", "fault": "unknown_enum_values" })).await;
        let answer = world.get(&path).await.expect(200).json();
        let transaction = answer.pointer(pointer).unwrap();
        assert_eq!(transaction["status"], "SANDBOX_NEW_STATUS");
        assert_eq!(transaction["payment_product_type"], "sandbox_new.product");
        assert_eq!(transaction["sandbox_new_field"], "sandbox");
        let events = transaction["events"].as_array().unwrap();
        assert_eq!(events.last().unwrap()["event"], "SANDBOX_NEW_EVENT");
    }
    assert_eq!(world.status(&id).await, "AUTHORIZED");
}

/// [D 8]: a proxy's page instead of JSON, after the money moved.
#[tokio::test]
async fn html_instead_of_json_moves_the_money() {
    let world = World::start().await;
    let id = strike(&world, json!({ "fault": "html_instead_of_json", "status": 502 })).await;
    let answer = world.capture(&id, AMOUNT).await.expect(502);
    assert!(answer.header("content-type").unwrap().starts_with("text/html"));
    assert!(answer.text.starts_with("<!DOCTYPE html>"));
    assert_eq!(world.ledger(&id).await, captured(AMOUNT));
}

/// A reset after exactly so many bytes of the answer.
#[tokio::test]
async fn reset_at_byte_sends_that_many_bytes_and_a_reset() {
    let world = World::start().await;
    for byte in [0, 1, 12, 200] {
        let id = strike(&world, json!({ "fault": "reset_at_byte", "byte": byte })).await;
        let (received, ended) = world.raw_capture(&id).await;
        assert_eq!(received.len(), byte);
        assert!("HTTP/1.1 200 OK\r\n".as_bytes().iter().zip(&received).all(|(one, other)| one == other));
        assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(world.ledger(&id).await, captured(AMOUNT));
    }
}

/// Beyond its end the answer is whole, and so is the next one on the connection.
#[tokio::test]
async fn reset_at_byte_beyond_the_end_does_nothing() {
    let world = World::start().await;
    let id = strike(&world, json!({ "fault": "reset_at_byte", "byte": 6_000 })).await;
    world.capture(&id, AMOUNT).await.expect(200);
    for _ in 0..10 {
        world.admin(Method::GET, "/transactions", Value::Null).await.expect(200);
    }
}

/// [D 3.5]: 409 is not documented for these operations, but to be handled; so are 403 and 404 out of the blue.
#[tokio::test]
async fn conflict_forbidden_and_not_found_move_nothing() {
    let world = World::start().await;
    for (fault, status) in [("conflict_409", 409), ("forbidden", 403), ("not_found", 404)] {
        let id = strike(&world, json!({ "fault": fault })).await;
        let answer = world.capture(&id, AMOUNT).await.expect(status);
        assert!(answer.json()["error"]["message"].is_string());
        assert!(world.ledger(&id).await.is_empty());
    }
}

/// A redirect to the same address: who follows it sends the POST again.
#[tokio::test]
async fn redirect_points_to_the_same_address_or_elsewhere() {
    let world = World::start().await;
    let id = strike(&world, json!({ "fault": "redirect" })).await;
    let path = format!("/v1/transactions/{id}/capture");
    let answer = world.capture(&id, AMOUNT).await.expect(307);
    assert_eq!(answer.header("location"), Some(path.as_str()));
    assert!(world.ledger(&id).await.is_empty());
    let id = strike(&world, json!({ "fault": "redirect", "status": 302, "location": "http://127.0.0.1:1/" }))
        .await;
    let answer = world.capture(&id, AMOUNT).await.expect(302);
    assert_eq!(answer.header("location"), Some("http://127.0.0.1:1/"));
}

/// A body that no client should read to its end.
#[tokio::test]
async fn huge_body_is_as_long_as_told() {
    let world = World::start().await;
    let id = strike(&world, json!({ "fault": "huge_body", "bytes": 3_000_000 })).await;
    let answer = world.capture(&id, AMOUNT).await.expect(200);
    assert_eq!(answer.header("content-length"), Some("3000000"));
    assert_eq!(answer.text.len(), 3_000_000);
    assert_eq!(world.ledger(&id).await, captured(AMOUNT));
}

/// Half a body, as if it were whole.
#[tokio::test]
async fn truncated_json_does_not_parse() {
    let world = World::start().await;
    let id = strike(&world, json!({ "fault": "truncated_json" })).await;
    let answer = world.capture(&id, AMOUNT).await.expect(200);
    assert!(answer.text.starts_with('{'));
    assert!(serde_json::from_str::<Value>(&answer.text).is_err());
    assert_eq!(world.ledger(&id).await, captured(AMOUNT));
}

/// The head comes at once, the body in pieces.
#[tokio::test]
async fn slow_drip_sends_the_body_in_pieces() {
    let world = World::start().await;
    let id = strike(&world, json!({ "fault": "slow_drip", "bytes": 500, "delay_ms": 50 })).await;
    let begun = Instant::now();
    let answer = world.capture(&id, AMOUNT).await.expect(200);
    assert_eq!(answer.json()["status"], "CAPTURED");
    assert!(begun.elapsed() >= Duration::from_millis(100), "{:?}", begun.elapsed());
}

/// A fault strikes its operation and its transaction, so many times, after letting so many pass.
#[tokio::test]
async fn a_fault_strikes_where_and_as_often_as_told() {
    let world = World::start().await;
    let (id, other) = (world.card().await, world.card().await);
    let fault =
        json!({ "operation": "money", "transaction": id, "fault": "conflict_409", "times": 2, "skip": 1 });
    world.fault(fault).await;
    world.capture(&other, 1).await.expect(200);
    world.transaction(&id).await;
    world.capture(&id, 1).await.expect(200);
    world.capture(&id, 1).await.expect(409);
    world.refund(&id, 1).await.expect(409);
    world.capture(&id, 1).await.expect(200);
}

/// Faults of one stage strike one request after the other, in the order in which they were asked for.
#[tokio::test]
async fn faults_of_one_stage_queue_up() {
    let world = World::start().await;
    let id = strike(&world, json!({ "fault": "internal_error" })).await;
    world.fault(json!({ "operation": "any", "fault": "conflict_409" })).await;
    world.capture(&id, 1).await.expect(500);
    world.capture(&id, 1).await.expect(409);
    world.capture(&id, 1).await.expect(200);
}

/// Reads and lists fail on request as well.
#[tokio::test]
async fn reads_fail_on_request() {
    let world = World::start().await;
    let id = world.card().await;
    for (operation, path) in
        [("get", format!("/v1/transactions/{id}")), ("list", "/v1/transactions".to_owned())]
    {
        world.fault(json!({ "operation": operation, "fault": "internal_error" })).await;
        world.get(&path).await.expect(500);
        world.get(&path).await.expect(200);
    }
}

/// A probability follows from the seed: the same seed, the same run.
#[tokio::test]
async fn a_probability_is_reproducible_from_the_seed() {
    let run = async |seed: u64| {
        let world = World::start_with(Settings { seed, ..Settings::default() }).await;
        world.fault(json!({ "operation": "list", "fault": "conflict_409", "probability": 0.5 })).await;
        let mut statuses = Vec::new();
        for _ in 0..40 {
            statuses.push(world.get("/v1/transactions?limit=1").await.status.as_u16());
        }
        statuses
    };
    let (one, again, other) = (run(7).await, run(7).await, run(8).await);
    assert_eq!(one, again);
    assert_ne!(one, other);
    let struck = one.iter().filter(|status| **status == 409).count();
    assert!((5..=35).contains(&struck), "{struck} of 40");
}

/// Never at 0, always at 1.
#[tokio::test]
async fn the_ends_of_a_probability_are_never_and_always() {
    let world = World::start().await;
    world.fault(json!({ "operation": "list", "fault": "conflict_409", "probability": 0 })).await;
    for _ in 0..20 {
        world.get("/v1/transactions?limit=1").await.expect(200);
    }
    world.fault(json!({ "operation": "list", "fault": "conflict_409", "probability": 1.0 })).await;
    for _ in 0..20 {
        world.get("/v1/transactions?limit=1").await.expect(409);
    }
}
