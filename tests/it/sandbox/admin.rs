//! The admin API: making, watching, changing and resetting.

use payops::sandbox::{Sandbox, Settings};
use reqwest::Method;
use serde_json::{Value, json};

use super::world::{AMOUNT, World, send};

/// [D 4.1]: a transaction in any state, with the books that Dintero does not show.
#[tokio::test]
async fn a_transaction_is_made_in_any_state() {
    let world = World::start().await;
    for (state, status) in [
        (json!({}), "AUTHORIZED"),
        (json!({ "captured": 40 }), "PARTIALLY_CAPTURED"),
        (json!({ "captured": 100 }), "CAPTURED"),
        (json!({ "captured": 100, "refunded": 1 }), "PARTIALLY_REFUNDED"),
        (json!({ "captured": 40, "refunded": 1 }), "PARTIALLY_CAPTURED_REFUNDED"),
        (json!({ "status": "REFUNDED" }), "REFUNDED"),
        (json!({ "status": "AUTHORIZATION_VOIDED" }), "AUTHORIZATION_VOIDED"),
        (json!({ "status": "UNKNOWN", "captured": 40 }), "UNKNOWN"),
    ] {
        let mut body = state.clone();
        body["amount"] = json!(100);
        let id = world.make(body).await;
        assert_eq!(world.status(&id).await, status, "{state}");
        assert!(world.effects(&id).await.is_empty(), "what came before the sandbox is no effect");
    }
    let raw = world
        .admin(Method::POST, "/transactions", json!({ "amount": 100, "captured": 40, "refunded": 1 }))
        .await;
    let books = raw.expect(201).json()["sandbox"].clone();
    assert_eq!((&books["capturable"], &books["refundable"]), (&json!(60), &json!(39)));
}

/// [D 1]: an id made up is the account, a dot and 22 letters and digits; a chosen one is taken.
#[tokio::test]
async fn an_id_is_made_up_or_chosen() {
    let world = World::start().await;
    let id = world.card().await;
    let (account, suffix) = id.split_once('.').unwrap();
    assert_eq!((account, suffix.len()), ("T12345678", 22));
    let chosen = json!({ "id": "P12345678.aaaaaaaaaaaaaaaaaaaaaa", "amount": 1 });
    assert_eq!(world.make(chosen.clone()).await, "P12345678.aaaaaaaaaaaaaaaaaaaaaa");
    world.admin(Method::POST, "/transactions", chosen).await.expect(400);
}

/// A mistake is a 400 that names the field and the remedy.
#[tokio::test]
async fn a_mistake_is_named_with_its_remedy() {
    let world = World::start().await;
    let transactions = [
        (json!({}), "amount"),
        (json!({ "amount": 1.5 }), "amount"),
        (json!({ "amount": "1" }), "amount"),
        (json!({ "amount": 2_147_483_648_i64 }), "amount"),
        (json!({ "amount": 1, "id": "x" }), "account"),
        (json!({ "amount": 1, "id": "T12345678.a b" }), "id"),
        (json!({ "amount": 1, "status": "SETTLED" }), "status"),
        (json!({ "amount": 1, "status": "PARTIALLY_CAPTURED" }), "status"),
        (json!({ "amount": 1, "captured": 2 }), "captured"),
        (json!({ "amount": 1, "test_card": "4242" }), "test_card"),
        (json!({ "amount": 1, "created_at": "soon" }), "created_at"),
        (json!({ "amount": 1, "items": [{}] }), "items"),
        (json!({ "items": [{ "line_id": "1", "amount": -1 }] }), "items"),
        (json!({ "amount": 1, "colour": "red" }), "colour"),
        (json!([]), "body"),
    ];
    let faults = [
        (json!({ "fault": "declined" }), "operation"),
        (json!({ "operation": "any" }), "fault"),
        (json!({ "operation": "any", "fault": "no_such" }), "fault"),
        (json!({ "operation": "get", "fault": "wrong_amount", "amount": 1 }), "operation"),
        (json!({ "operation": "any", "fault": "wrong_amount" }), "amount"),
        (json!({ "operation": "any", "fault": "declined", "status": 500 }), "status"),
        (json!({ "operation": "any", "fault": "accepted_then" }), "outcome"),
        (json!({ "operation": "any", "fault": "success_false", "error_type": "BAD" }), "error_type"),
        (
            json!({ "operation": "any", "fault": "accepted_then", "outcome": "done", "message": "x" }),
            "message",
        ),
        (
            json!({ "operation": "any", "fault": "accepted_then", "outcome": "failed", "error_type": "BAD" }),
            "error_type",
        ),
        (json!({ "operation": "any", "fault": "declined", "times": 0 }), "times"),
        (json!({ "operation": "any", "fault": "declined", "probability": 2 }), "probability"),
        (json!({ "operation": "any", "fault": "truncated_json", "delay_ms": 1 }), "delay_ms"),
        (json!({ "operation": "any", "fault": "slow_drip", "bytes": 0 }), "bytes"),
        (json!({ "operation": "any", "fault": "redirect", "location": "a\nb" }), "location"),
    ];
    let transactions = transactions.into_iter().map(|(body, field)| ("/transactions", body, field));
    let faults = faults.into_iter().map(|(body, field)| ("/faults", body, field));
    for (path, body, field) in transactions.chain(faults) {
        let error = world.admin(Method::POST, path, body.clone()).await.expect(400).json()["error"].clone();
        assert_eq!(error["field"], field, "{body}: {error}");
        assert!(error["remedy"].is_string());
    }
    let settings = json!({ "token_life_seconds": -1 });
    let answer = world.admin(Method::PUT, "/settings", settings).await.expect(400);
    assert_eq!(answer.json()["error"]["field"], "token_life_seconds");
    let client = json!({ "client_id": "x" });
    let answer = world.admin(Method::PUT, "/clients/T12345678", client).await.expect(400);
    assert_eq!(answer.json()["error"]["field"], "client_secret");
    let client = json!({ "client_id": "x", "client_secret": "y", "scopes": ["write:payouts"] });
    let answer = world.admin(Method::PUT, "/clients/T12345678", client).await.expect(400);
    assert_eq!(answer.json()["error"]["field"], "scopes");
}

/// So is one in the path, the query, the method or the size.
#[tokio::test]
async fn a_mistake_outside_the_body_is_named_too() {
    let world = World::start().await;
    let huge = json!({ "merchant_reference": "x".repeat(2_000_000) });
    let nothing = Value::Null;
    for (method, path, body, status, field) in [
        (Method::GET, "/elsewhere", nothing.clone(), 404, "path"),
        (Method::GET, "", nothing.clone(), 404, "path"),
        (Method::GET, "/transactions/T12345678.nowhere", nothing.clone(), 404, "transaction"),
        (Method::POST, "/transactions/T12345678.nowhere/expire", nothing.clone(), 404, "transaction"),
        (Method::GET, "/transactions/%ff", nothing.clone(), 400, "request"),
        (Method::DELETE, "/faults/17", nothing.clone(), 404, "id"),
        (Method::DELETE, "/faults/none", nothing.clone(), 404, "id"),
        (Method::GET, "/reset", nothing.clone(), 405, "request"),
        (Method::GET, "/ledger?transacton=T12345678.x", nothing.clone(), 400, "transacton"),
        (Method::GET, "/ledger?limit=all", nothing.clone(), 400, "limit"),
        (Method::GET, "/requests?after=-1", nothing.clone(), 400, "after"),
        (Method::POST, "/transactions", huge, 400, "body"),
    ] {
        let answer = world.admin(method.clone(), path, body).await.expect(status);
        let error = &answer.json()["error"];
        assert_eq!(error["field"], field, "{method} {path}");
        assert!(error["message"].is_string() && error["remedy"].is_string(), "{method} {path}: {error}");
    }
    let wrong_method = world.admin(Method::GET, "/reset", Value::Null).await;
    assert_eq!(wrong_method.header("allow"), Some("POST"));
}

/// The logs can be read in parts.
#[tokio::test]
async fn a_log_is_read_on_from_a_number() {
    let world = World::start().await;
    let id = world.card().await;
    for amount in 1..=4 {
        world.capture(&id, amount).await.expect(200);
    }
    let part = world.admin(Method::GET, "/ledger?after=1&limit=2", Value::Null).await.expect(200).json();
    let numbers: Vec<_> = part.as_array().unwrap().iter().map(|effect| &effect["sequence"]).collect();
    assert_eq!(numbers, [2, 3]);
    let part = world.admin(Method::GET, "/requests?after=4", Value::Null).await.expect(200).json();
    assert_eq!(part.as_array().unwrap().len(), 1, "a token and four captures came in");
}

/// A raw event is shown and changes nothing else.
#[tokio::test]
async fn a_raw_event_is_shown_as_it_is() {
    let world = World::start().await;
    let id = world.card().await;
    let event = json!({ "event": "SETTLEMENT", "odd": [1] });
    world.admin(Method::POST, &format!("/transactions/{id}/events"), event.clone()).await.expect(200);
    assert_eq!(world.transaction(&id).await.last_event(), event);
    assert_eq!(world.status(&id).await, "AUTHORIZED");
    world.admin(Method::POST, "/transactions/T12345678.no/events", event).await.expect(404);
}

/// [D 5.3] [D 3.7]: Backoffice users and auto-capture move money too; rules hold for them as well.
#[tokio::test]
async fn backoffice_captures_refunds_and_voids() {
    let world = World::start().await;
    let id = world.of("vipps").await;
    let path = format!("/transactions/{id}/backoffice");
    let act = async |kind: &str, amount: i64, status: u16| {
        let body = json!({ "kind": kind, "amount": amount });
        world.admin(Method::POST, &path, body).await.expect(status)
    };
    act("capture", 100, 200).await;
    act("refund", 40, 200).await;
    let refused = act("refund", 61, 400).await.json()["error"].clone();
    assert!(refused["message"].as_str().unwrap().contains("exceeds the remaining captured amount 60"));
    assert_eq!(refused["field"], "transaction");
    act("settle", 1, 400).await;
    world.admin(Method::POST, &path, json!({ "kind": "void" })).await.expect(200);
    let by = |kind: &str, amount: i64| (kind.to_owned(), amount, "backoffice".to_owned());
    assert_eq!(world.ledger(&id).await, [by("capture", 100), by("refund", 40), by("void", AMOUNT - 100)]);
}

/// The ledger is the truth about what moved, request by request.
#[tokio::test]
async fn the_ledger_tells_who_moved_what() {
    let world = World::start().await;
    let id = world.card().await;
    let answer = world.capture(&id, 100).await.expect(200);
    let effect = &world.effects(&id).await[0];
    let event = answer.last_event();
    assert_eq!(effect["request_id"], event["request_id"]);
    assert_eq!(effect["event_id"], event["id"]);
    assert_eq!(effect["transaction"], id);
    assert_eq!(effect["user_agent"], "payops/test");
    assert_eq!(effect["reference"], "cap-1");
    let all = world.admin(Method::GET, "/ledger", Value::Null).await.json();
    assert_eq!(all.as_array().unwrap().len(), 1);
}

/// Every request is logged, also those that were never answered; the token is not.
#[tokio::test]
async fn the_request_log_tells_what_was_received_and_answered() {
    let world = World::start().await;
    let id = world.card().await;
    world.fault(json!({ "operation": "capture", "fault": "answer_lost_after_applying" })).await;
    let request = world.authorized(Method::POST, &format!("/v1/transactions/{id}/capture"));
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let body = json!({ "amount": 1, "capture_reference": "mine" }).to_string();
    send(request.header("traceparent", trace).body(body)).await.unwrap_err();
    world.void(&id).await.expect(400);

    let log = world.requests(&id).await;
    let (capture, void) = (&log[0], &log[1]);
    assert_eq!(capture["method"], "POST");
    assert_eq!(capture["path"], format!("/v1/transactions/{id}/capture"));
    assert_eq!(capture["operation"], "capture");
    assert_eq!(capture["reference"], "mine");
    assert_eq!(capture["traceparent"], trace);
    assert_eq!(capture["user_agent"], "payops/test");
    assert_eq!(capture["status"], Value::Null);
    assert_eq!(capture["faults"], json!(["answer_lost_after_applying"]));
    assert_eq!(capture["token_fingerprint"].as_str().unwrap().len(), 12);
    assert_eq!((&void["status"], &void["faults"]), (&json!(400), &json!([])));
    assert_eq!(capture["token_fingerprint"], void["token_fingerprint"]);
    let all = world.admin(Method::GET, "/requests", Value::Null).await;
    assert!(!all.text.contains(&world.token));
    assert_eq!(all.json()[0]["operation"], "token");

    world.admin(Method::DELETE, "/requests", Value::Null).await.expect(204);
    assert_eq!(world.admin(Method::GET, "/requests", Value::Null).await.json(), json!([]));
}

/// Both logs are bounded.
#[tokio::test]
async fn the_logs_keep_the_newest_entries_only() {
    let world = World::start().await;
    let id = world.card().await;
    world.admin(Method::PUT, "/settings", json!({ "requests_max": 2, "ledger_max": 1 })).await.expect(200);
    for amount in 1..=3 {
        world.capture(&id, amount).await.expect(200);
    }
    assert_eq!(world.requests(&id).await.len(), 2);
    assert_eq!(world.ledger(&id).await, [("capture".to_owned(), 3, "api".to_owned())]);
    assert_eq!(world.effects(&id).await[0]["sequence"], 3);
}

/// Faults are shown as they were asked for, and removed one by one or all.
#[tokio::test]
async fn faults_are_listed_and_removed() {
    let world = World::start().await;
    let asked = json!({ "operation": "any", "fault": "delayed_answer", "delay_ms": 5, "times": 3 });
    world.fault(asked.clone()).await;
    world.fault(json!({ "operation": "void", "fault": "conflict_409" })).await;
    world.get("/v1/transactions").await.expect(200);
    let shown = world.admin(Method::GET, "/faults", Value::Null).await.json();
    assert_eq!((&shown[0]["hits"], &shown[0]["left"]), (&json!(1), &json!(2)));
    assert_eq!(shown[0]["delay_ms"], 5);
    let removed = world.admin(Method::DELETE, "/faults/1", Value::Null).await.expect(200);
    assert_eq!(removed.json()["removed"], 1);
    world.admin(Method::DELETE, "/faults", Value::Null).await.expect(200);
    assert_eq!(world.admin(Method::GET, "/faults", Value::Null).await.json(), json!([]));
}

/// Back to the start: transactions, ledger, faults, tokens, settings.
#[tokio::test]
async fn a_reset_leads_back_to_the_start() {
    let mut world = World::start().await;
    let id = world.of("swish.swish").await;
    world.admin(Method::PUT, "/settings", json!({ "asynchronous_delay_ms": 50 })).await.expect(200);
    world.refund(&id, 1).await.expect(202);
    world.fault(json!({ "operation": "any", "fault": "conflict_409" })).await;
    world.admin(Method::POST, "/reset", Value::Null).await.expect(204);
    world.get("/v1/transactions").await.expect(401);
    world.token = world.token_for(&payops::sandbox::Account::default()).await;
    world.get(&format!("/v1/transactions/{id}")).await.expect(404);
    let settings = world.admin(Method::GET, "/settings", Value::Null).await.json();
    assert_eq!(settings["asynchronous_delay_ms"], 2_000);
    assert_eq!(world.admin(Method::GET, "/ledger", Value::Null).await.json(), json!([]));
    assert_eq!(world.admin(Method::GET, "/faults", Value::Null).await.json(), json!([]));
}

/// What was put off before a reset does not happen after it, not even to a transaction that is made again.
#[tokio::test]
async fn a_reset_forgets_what_was_put_off() {
    let mut world = World::start().await;
    let id = "T12345678.aaaaaaaaaaaaaaaaaaaaaa";
    for (outcome, delay_ms) in [("done", 200), ("never", 0)] {
        world.make(json!({ "id": id, "amount": 100 })).await;
        let fault = json!({ "operation": "capture", "fault": "accepted_then", "outcome": outcome, "delay_ms": delay_ms });
        world.fault(fault).await;
        world.capture(id, 100).await.expect(202);
        if outcome == "done" {
            world.admin(Method::POST, "/reset", Value::Null).await.expect(204);
            world.token = world.token_for(&payops::sandbox::Account::default()).await;
        }
    }
    // When something that is due later has happened, the first completion would have.
    let later = world.card().await;
    world
        .fault(
            json!({ "operation": "capture", "fault": "accepted_then", "outcome": "done", "delay_ms": 300 }),
        )
        .await;
    world.capture(&later, 1).await.expect(202);
    world.eventually("the later one", async |world| !world.effects(&later).await.is_empty()).await;
    assert!(world.effects(id).await.is_empty());
}

/// The server stops when told to, and finishes the answer that is due.
#[tokio::test]
async fn a_shutdown_finishes_the_answers_that_are_due() {
    let sandbox = Sandbox::bind(Settings::default()).await.unwrap();
    let url = |path: &str| format!("http://{}{path}", sandbox.local_addr());
    let (health, list) = (url("/sandbox/v1/health"), url("/v1/transactions"));
    let (faults, requests) = (url("/sandbox/v1/faults"), url("/sandbox/v1/requests"));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(sandbox.serve(async { drop(stopped.await) }));
    let client = reqwest::Client::new();
    let fault = json!({ "operation": "list", "fault": "delayed_answer", "delay_ms": 1_000 }).to_string();
    client.post(faults).body(fault).send().await.unwrap();
    let answer = tokio::spawn(client.get(list).send());
    while client.get(&requests).send().await.unwrap().text().await.unwrap() == "[]" {
        tokio::task::yield_now().await; // until the request is under way
    }
    stop.send(()).unwrap();
    assert_eq!(answer.await.unwrap().unwrap().status(), 401);
    server.await.unwrap().unwrap();
    assert!(client.get(health).send().await.unwrap_err().is_connect());
}
