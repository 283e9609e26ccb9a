//! Documented details that no other module covers, and what is assumed where the documentation is silent.

use payops::sandbox::Account;
use reqwest::Method;
use serde_json::{Value, json};

use super::misapplied::amounts;
use super::world::{AMOUNT, World, chair_and_shipping, send};

/// [D 2.3]: the token endpoint may fail with 500, and with 400, 401 and 403 that have any code.
#[tokio::test]
async fn the_token_endpoint_fails_on_request() {
    let world = World::start().await;
    let ask = async || world.ask_token(&Account::default(), &World::grant("T12345678")).await;
    for (fault, status) in
        [("internal_error", 500), ("bad_request", 400), ("unauthorized_once", 401), ("forbidden", 403)]
    {
        world.fault(json!({ "operation": "token", "fault": fault, "code": "mfa_required" })).await;
        assert_eq!(ask().await.expect(status).json()["error"]["code"], "mfa_required");
    }
    ask().await.expect(200);
}

/// [D 2.4]: reading and moving money need different scopes, POST authorization none.
#[tokio::test]
async fn a_token_opens_what_its_scopes_allow() {
    let mut world = World::start().await;
    let id = world.of("klarna.klarna").await;
    let mut client = json!({ "client_id": "sandbox-client", "client_secret": "sandbox-secret" });
    for (scopes, reads, moves) in
        [(["read:checkout"], 200, 403), (["write:checkout"], 403, 200), (["admin:checkout"], 200, 200)]
    {
        client["scopes"] = json!(scopes);
        world.admin(Method::PUT, "/clients/T12345678", client.clone()).await.expect(204);
        world.token = world.token_for(&Account::default()).await;
        world.get(&format!("/v1/transactions/{id}")).await.expect(reads);
        world.get("/v1/transactions").await.expect(reads);
        world.capture(&id, 1).await.expect(moves);
        world.refund(&id, 1).await.expect(moves);
        let put = world.authorized(Method::PUT, &format!("/v1/transactions/{id}"));
        send(put.body("{}")).await.unwrap().expect(moves);
        world.post(&format!("/v1/transactions/{id}/authorization"), &json!({})).await.expect(200);
    }
    world.void(&id).await.expect(200);
}

/// [D 2.5] [D 7]: an idempotency key is no more than a header that nobody knows.
#[tokio::test]
async fn an_idempotency_key_changes_nothing() {
    let world = World::start().await;
    let id = world.card().await;
    for _ in 0..2 {
        let capture = world.authorized(Method::POST, &format!("/v1/transactions/{id}/capture"));
        let body = json!({ "amount": 100, "capture_reference": "cap-1" }).to_string();
        send(capture.header("idempotency-key", "k").body(body)).await.unwrap().expect(200);
    }
    assert_eq!(amounts(&world, &id).await, [100, 100]);
}

/// [D 2.5] [D 5.2]: the caller's headers are the one echo that a void has too.
#[tokio::test]
async fn a_void_echoes_all_headers_of_the_caller() {
    let world = World::start().await;
    let id = world.card().await;
    let mut void = world.authorized(Method::POST, &format!("/v1/transactions/{id}/void"));
    let names = ["system-name", "system-version", "system-plugin-name", "system-plugin-version"];
    for name in names {
        void = void.header(format!("dintero-{name}"), format!("our {name}"));
    }
    let event = send(void).await.unwrap().expect(200).last_event();
    for name in names {
        assert_eq!(event["request_headers"][format!("dintero-{name}")], format!("our {name}"));
    }
    assert_eq!(event["request_headers"]["user-agent"], "payops/test");
}

/// [D 3.1]: the deprecated `includes` of the money operations, whose values are included anyway.
#[tokio::test]
async fn deprecated_includes_are_tolerated() {
    let world = World::start().await;
    let id = world.card().await;
    let includes = "includes=events.request_headers&includes=initiating_system_request_headers";
    let path = format!("/v1/transactions/{id}/capture?{includes}");
    let answer = world.post(&path, &json!({ "amount": AMOUNT })).await.expect(200);
    assert_eq!(answer.last_event()["request_headers"]["user-agent"], "payops/test");
}

/// [D 3.1] [D 3.2]: the amount is required, and so is a body.
#[tokio::test]
async fn a_capture_or_refund_without_a_body_is_refused() {
    let world = World::start().await;
    let id = world.make(json!({ "amount": 100, "captured": 40 })).await;
    for operation in ["capture", "refund"] {
        let bare = world.authorized(Method::POST, &format!("/v1/transactions/{id}/{operation}"));
        send(bare).await.unwrap().expect(400);
    }
}

/// [D 3.2] [D 5.2]: the reason of a refund cannot be read back.
#[tokio::test]
async fn a_reason_is_taken_and_never_shown() {
    let world = World::start().await;
    let id = world.make(json!({ "amount": 100, "captured": 100 })).await;
    let body = json!({ "amount": 40, "refund_reference": "ref-1", "reason": "moth-eaten" });
    let answer = world.post(&format!("/v1/transactions/{id}/refund"), &body).await.expect(200);
    assert_eq!(answer.last_event()["event_reference"], "ref-1");
    assert!(!answer.text.contains("moth-eaten"));
    let wrong = json!({ "amount": 40, "reason": 1 });
    world.post(&format!("/v1/transactions/{id}/refund"), &wrong).await.expect(400);
}

/// [D 3.3]: what is captured in full cannot be voided, whatever the product.
#[tokio::test]
async fn a_full_capture_leaves_nothing_to_void() {
    let world = World::start().await;
    for product in ["dintero_psp.creditcard", "vipps", "klarna.klarna", "payex.creditcard"] {
        let id = world.of(product).await;
        world.capture(&id, AMOUNT).await.expect(200);
        world.void(&id).await.expect(400);
    }
}

/// [D 3.4]: all fields of a line come back as they were sent; quantities have decimals, gift cards are negative.
#[tokio::test]
async fn lines_come_back_as_they_were_sent() {
    let world = World::start().await;
    let items = json!([
        { "line_id": "1", "amount": 30_000, "quantity": 1.5, "vat": 12.25, "vat_amount": 3_273,
          "groups": [{ "id": "g" }], "discount_lines": [{ "amount": 100, "discount_type": "customer" }] },
        { "line_id": "gift", "amount": -5_000, "quantity": 1, "type": "gift_card" }
    ]);
    let id = world.make(json!({ "items": items })).await;
    assert_eq!(world.transaction(&id).await.json()["amount"], 25_000);
    let body = json!({ "amount": 25_000, "items": items });
    let answer = world.post(&format!("/v1/transactions/{id}/capture"), &body).await.expect(200);
    assert_eq!(answer.last_event()["items"], items);
}

/// [D 3.5] [D 8]: every documented status of every operation can be had, with the error body.
#[tokio::test]
async fn every_documented_status_can_be_had() {
    let world = World::start().await;
    let refusals = [
        ("bad_request", 400, "capture refund void get list authorization"),
        ("unauthorized_once", 401, "capture refund void get list"),
        ("forbidden", 403, "capture refund void get list"),
        ("not_found", 404, "capture refund void get authorization"),
        ("conflict_409", 409, "authorization"),
        ("internal_error", 500, "capture refund void get list authorization"),
        ("unavailable_after_applying", 503, "capture refund void get"),
    ];
    for (fault, status, operations) in refusals {
        for operation in operations.split(' ') {
            world.fault(json!({ "operation": operation, "fault": fault })).await;
            let id = world.of("klarna.klarna").await;
            let path = format!("/v1/transactions/{id}");
            let answer = match operation {
                "get" => world.get(&path).await,
                "list" => world.get("/v1/transactions").await,
                "authorization" => world.post(&format!("{path}/authorization"), &json!({})).await,
                _ => world.post(&format!("{path}/{operation}"), &json!({ "amount": 1 })).await,
            };
            let error = answer.expect(status).json()["error"].clone();
            assert!(error["message"].is_string() && error["errors"].is_array(), "{operation} {fault}");
        }
    }
}

/// [D 3.7]: splits that the session left open come with the capture; only their form is looked at.
#[tokio::test]
async fn splits_that_were_left_open_come_with_the_capture() {
    let world = World::start().await;
    let open = json!([{ "line_id": "1", "amount": 100, "splits": [] }]);
    let id = world.make(json!({ "items": open })).await;
    let capture = async |id: &str, items: Option<Value>, status: u16| {
        let body = json!({ "amount": 100, "items": items });
        world.post(&format!("/v1/transactions/{id}/capture"), &body).await.expect(status)
    };
    let line = |splits: Value| Some(json!([{ "line_id": "1", "amount": 100, "splits": splits }]));
    capture(&id, None, 400).await;
    capture(&id, Some(open), 400).await;
    capture(&id, line(json!([{ "amount": 100 }])), 400).await;
    capture(&id, line(json!([{ "payout_destination_id": "seller", "amount": "100" }])), 400).await;
    let too_little = json!([{ "payout_destination_id": "seller", "amount": 1 }]);
    assert_eq!(
        capture(&id, line(too_little.clone()), 200).await.last_event()["items"][0]["splits"],
        too_little
    );
    let refund = json!({ "amount": 100, "items": line(too_little) });
    world.post(&format!("/v1/transactions/{id}/refund"), &refund).await.expect(200);
}

/// [D 3.7]: invoices are refunded by whole lines as well.
#[tokio::test]
async fn collector_refunds_whole_lines_only() {
    let world = World::start().await;
    let collector = json!({ "payment_product_type": "collector.invoice", "items": chair_and_shipping(),
        "status": "CAPTURED" });
    let id = world.make(collector).await;
    let path = format!("/v1/transactions/{id}/refund");
    let line = |amount: i64| json!([{ "line_id": "ship-1", "amount": amount }]);
    world.post(&path, &json!({ "amount": 100, "items": line(100) })).await.expect(400);
    world.post(&path, &json!({ "amount": 100 })).await.expect(400);
    world.post(&path, &json!({ "amount": 3_900, "items": line(3_900) })).await.expect(200);
}

/// [D 3.8]: PUT answers with the transaction, and changes no other field.
#[tokio::test]
async fn put_changes_no_other_field() {
    let world = World::start().await;
    let id = world.make(json!({ "amount": 100, "merchant_reference": "ORDER-1" })).await;
    let body = json!({ "merchant_reference": "x", "amount": 1, "merchant_reference_2": "M-2" }).to_string();
    let put = world.authorized(Method::PUT, &format!("/v1/transactions/{id}")).body(body);
    let answer = send(put).await.unwrap().expect(200).json();
    assert_eq!((&answer["merchant_reference"], &answer["amount"]), (&json!("ORDER-1"), &json!(100)));
    assert_eq!(answer["merchant_reference_2"], "M-2");
}

/// [D 1] [D 4]: the session's id looks like the transaction's, `amount` stays what is authorized, times are ISO 8601.
#[tokio::test]
async fn a_transaction_keeps_its_session_amount_and_times() {
    let world = World::start().await;
    let body = json!({ "amount": 100, "created_at": "2026-05-04T10:00:00Z" });
    let id = world.make(body).await;
    let before = world.transaction(&id).await.json();
    assert_eq!(before["session_id"].as_str().unwrap().split_once('.').unwrap().1.len(), 22);
    assert_eq!(before["created_at"], "2026-05-04T10:00:00.000Z");
    assert_eq!(before["updated_at"], before["created_at"]);
    let after = world.capture(&id, 40).await.expect(200).json();
    assert_eq!(after["amount"], 100);
    assert_eq!(after["created_at"], before["created_at"]);
    assert!(after["updated_at"].as_str() > before["updated_at"].as_str());
}

/// [D 5.1]: every documented type of an error; a time to retry comes only with `RETRY_AFTER_DELAY`.
#[tokio::test]
async fn a_failure_says_what_is_documented() {
    let world = World::start().await;
    let id = world.card().await;
    let wrong = json!({ "operation": "capture", "fault": "success_false", "error_type": "?" });
    let error = world.admin(Method::POST, "/faults", wrong).await.expect(400).json()["error"].clone();
    let types = error["remedy"].as_str().unwrap().strip_prefix("send one of ").unwrap();
    assert_eq!(types.split(", ").count(), 17);
    for error_type in types.split(", ") {
        let fault = json!({ "operation": "capture", "fault": "success_false", "error_type": error_type });
        world.fault(fault).await;
        let event = world.capture(&id, 1).await.expect(200).last_event();
        assert_eq!(event["error"]["type"], json!([error_type]));
    }
    for (retry_code, is_timed) in
        [("DO_NOT_RETRY", false), ("RETRY_IMMEDIATELY", false), ("RETRY_AFTER_DELAY", true)]
    {
        let fault = json!({ "operation": "capture", "fault": "success_false", "retry_code": retry_code,
            "result_code": "51" });
        world.fault(fault).await;
        let error = world.capture(&id, 1).await.expect(200).last_event()["error"].clone();
        assert_eq!(error["result_code"], "51");
        assert_eq!(error["retry_policy"]["retry_codes"], json!([retry_code]));
        assert_eq!(error["retry_policy"]["retry_after"].is_string(), is_timed, "{retry_code}");
    }
}

/// [D 6.2]: the other documented filters let none pass, since the sandbox's transactions have no such thing.
#[tokio::test]
async fn a_filter_by_what_there_is_not_lets_none_pass() {
    let world = World::start().await;
    for filter in [
        "card_brand=Visa",
        "store_id=1",
        "terminal_id=1",
        "payout_correlation_id=1",
        "payout_destination_id=1",
        "payment_operation=unscheduled_purchase",
        "customer_id=1",
        "token_id=1",
        "channel=in_store",
    ] {
        let list = world.get(&format!("/v1/transactions?{filter}")).await.expect(200).json();
        assert_eq!(list, json!([]), "{filter}");
    }
    let list = world.get("/v1/transactions?channel=ecommerce").await.expect(200).json();
    assert_eq!(list.as_array().unwrap().len(), 10);
}

/// [D 6.2] [D 12 #6]: a list that lags is filtered by what it shows.
#[tokio::test]
async fn a_lagging_list_is_filtered_by_what_it_shows() {
    let world = World::start().await;
    let id = world.card().await;
    world.fault(json!({ "operation": "capture", "fault": "read_lag", "delay_ms": 60_000 })).await;
    world.capture(&id, AMOUNT).await.expect(200);
    let found = async |status: &str| {
        let list = world.get(&format!("/v1/transactions?id={id}&status={status}")).await.expect(200).json();
        list.as_array().unwrap().len()
    };
    assert_eq!((found("AUTHORIZED").await, found("CAPTURED").await), (1, 0));
}

/// [D 12 #3] [D 12 #28]: the same reference counts each time, and a refund of several captures is one event.
#[tokio::test]
async fn a_refund_of_several_captures_is_one_event() {
    let world = World::start().await;
    let id = world.card().await;
    world.capture(&id, 100).await.expect(200);
    world.capture(&id, 100).await.expect(200);
    let answer = world.refund(&id, 150).await.expect(200);
    assert_eq!(answer.last_event()["amount"], 150);
    assert_eq!(amounts(&world, &id).await, [100, 100, 150]);
}

/// [D 12 #14] [D 12 #15]: headers and references come back as they came, however long and odd.
#[tokio::test]
async fn long_texts_come_back_whole() {
    let world = World::start().await;
    let id = world.card().await;
    let (agent, reference) = ("a/1 ".repeat(500), "æ/1 ".repeat(2_000));
    let capture = world.authorized(Method::POST, &format!("/v1/transactions/{id}/capture"));
    let capture = capture.header("dintero-system-name", agent.trim_end());
    let body = json!({ "amount": 1, "capture_reference": reference }).to_string();
    let event = send(capture.body(body)).await.unwrap().expect(200).last_event();
    assert_eq!(event["request_headers"]["dintero-system-name"], agent.trim_end());
    assert_eq!(event["event_reference"], reference);
    assert_eq!(world.effects(&id).await[0]["reference"], reference);
    let logged = world.requests(&id).await[0]["reference"].as_str().unwrap().chars().count();
    assert_eq!(logged, 1_000, "the log keeps the start only");
}

/// [D 12 #19] [D 12 #20]: all events, in the order in which they happened; transactions, the newest first.
#[tokio::test]
async fn events_are_complete_and_in_order() {
    let world = World::start().await;
    let id = world.card().await;
    for amount in 1..=150 {
        world.capture(&id, amount).await.expect(200);
    }
    let events = world.transaction(&id).await.json()["events"].clone();
    let shown: Vec<_> =
        events.as_array().unwrap().iter().skip(2).map(|event| event["amount"].as_i64()).collect();
    assert_eq!(shown, (1..=150).map(Some).collect::<Vec<_>>());
    let newest = world.card().await;
    assert_eq!(world.get("/v1/transactions?limit=1").await.json()[0]["id"], newest);
}

/// [D 12 #21]: a 503 on a capture is the same whether the money moved or not.
#[tokio::test]
async fn a_503_on_a_capture_says_nothing_about_the_money() {
    let world = World::start().await;
    let (moved, unmoved) = (world.card().await, world.card().await);
    world.fault(json!({ "operation": "capture", "fault": "unavailable_after_applying" })).await;
    let one = world.capture(&moved, 1).await.expect(503);
    world.fault(json!({ "operation": "capture", "fault": "internal_error", "status": 503 })).await;
    let other = world.capture(&unmoved, 1).await.expect(503);
    assert_eq!(one.text, other.text);
    assert_eq!((amounts(&world, &moved).await, amounts(&world, &unmoved).await), (vec![1], vec![]));
}

/// [D 12 #26]: a refund has no limit by time.
#[tokio::test]
async fn an_old_capture_is_refunded() {
    let world = World::start().await;
    let old = json!({ "amount": 100, "captured": 100, "created_at": "2016-01-01T00:00:00Z" });
    let id = world.make(old).await;
    world.refund(&id, 100).await.expect(200);
}

/// [D 12 #4]: only `NOT FOUND` is documented; any code can be had.
#[tokio::test]
async fn an_error_has_any_code() {
    let world = World::start().await;
    let id = world.card().await;
    world.fault(json!({ "operation": "capture", "fault": "bad_request", "code": "E-17" })).await;
    assert_eq!(world.capture(&id, 1).await.expect(400).json()["error"]["code"], "E-17");
    assert_eq!(world.capture(&id, AMOUNT + 1).await.expect(400).json()["error"]["code"], "BAD REQUEST");
}
