//! Captures, voids and refunds as a caller sees them.

use payops::grpc::pb::OperationState::{Declined, Succeeded};
use tonic::Code;

use crate::support::{TestApp, capture, line, refund};

const AMOUNT: i64 = 29_990;

#[tokio::test]
async fn the_guides_own_bodies_give_the_documented_results() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    // [SEED] capture 29990 with line "1".
    let guide = "T12345678.demoCardOneLine0000001";
    let whole = pb_capture(guide, AMOUNT, &[("1", AMOUNT)]);
    let captured = orders.capture_with("guide-capture", whole).await.unwrap().operation;
    assert_eq!(captured.state(), Succeeded);
    assert_eq!(captured.proof.unwrap().transaction_status_raw, "CAPTURED");
    // [SEED] refund 29990 with a reason.
    let mut back = refund(guide, AMOUNT);
    back.reason = "returned".to_owned();
    back.items = vec![line("1", AMOUNT)];
    let refunded = orders.refund_with("guide-refund", back).await.unwrap().operation;
    assert_eq!(refunded.proof.unwrap().transaction_status_raw, "REFUNDED");
    assert_eq!(app.moved(guide).await, [("capture".to_owned(), AMOUNT), ("refund".to_owned(), AMOUNT)]);
    // [SEED] void: AUTHORIZATION_VOIDED.
    let card = app.world.card().await;
    let voided = orders.void("guide-void", &card).await.unwrap().operation;
    assert_eq!(voided.proof.unwrap().transaction_status_raw, "AUTHORIZATION_VOIDED");
}

fn pb_capture(transaction: &str, amount: i64, lines: &[(&str, i64)]) -> payops::grpc::pb::CaptureRequest {
    let mut message = capture(transaction, amount);
    message.items = lines.iter().map(|(id, amount)| line(id, *amount)).collect();
    message
}

#[tokio::test]
async fn a_payment_is_captured_in_parts_as_often_as_something_remains() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    for (part, amount) in [10_000, 10_000, 9_989].into_iter().enumerate() {
        let answer = orders.capture(&format!("part-{part}"), &card, amount).await.unwrap();
        assert_eq!(answer.operation.state(), Succeeded);
    }
    // One is left; two are one unit too much.
    let refused = orders.capture("too-much", &card, 2).await.unwrap_err();
    assert_eq!(refused.code, Code::FailedPrecondition);
    assert_eq!(refused.reason(), "AMOUNT_EXCEEDS_REMAINING");
    assert_eq!(refused.metadata("capturable"), Some("1"));
    assert_eq!(refused.metadata("safe_to_use_new_key"), Some("true"));
    assert_eq!(orders.operation("too-much").await.unwrap().state(), Declined);
    let last = orders.capture("last", &card, 1).await.unwrap().operation;
    assert_eq!(last.proof.unwrap().transaction_status_raw, "CAPTURED");
    assert_eq!(app.moved(&card).await.iter().map(|(_, amount)| amount).sum::<i64>(), AMOUNT);
}

#[tokio::test]
async fn no_more_is_refunded_than_was_captured() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    orders.capture("c", &card, 1_000).await.unwrap();
    orders.refund("r1", &card, 400).await.unwrap();
    let refused = orders.refund("r2", &card, 601).await.unwrap_err();
    assert_eq!(refused.reason(), "AMOUNT_EXCEEDS_REMAINING");
    assert_eq!(refused.metadata("refundable"), Some("600"));
    orders.refund("r3", &card, 600).await.unwrap();
    let refused = orders.refund("r4", &card, 1).await.unwrap_err();
    assert_eq!(refused.metadata("refundable"), Some("0"));
    let sums = orders.transaction(&card).await.unwrap().sums.unwrap();
    assert_eq!(
        (sums.captured, sums.refunded, sums.capturable, sums.refundable),
        (1_000, 1_000, AMOUNT - 1_000, 0)
    );
}

#[tokio::test]
async fn a_refund_of_what_was_never_captured_is_refused_with_the_state() {
    let app = TestApp::start().await;
    let card = app.world.card().await;
    let refused = app.orders().await.refund("r", &card, 1).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::FailedPrecondition, "TRANSACTION_STATE"));
    assert_eq!(refused.metadata("transaction_status"), Some("AUTHORIZED"));
}

#[tokio::test]
async fn a_captured_payment_cannot_be_voided_and_nothing_is_sent() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    orders.capture("c", &card, AMOUNT).await.unwrap();
    let refused = orders.void("v", &card).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::FailedPrecondition, "TRANSACTION_STATE"));
    assert_eq!(refused.metadata("transaction_status"), Some("CAPTURED"));
    assert_eq!(app.posts(&card).await, 1, "only the capture was sent");
    // Refused before sending: the key is free and there is no operation.
    assert_eq!(orders.operation("v").await.unwrap_err().reason(), "OPERATION_NOT_FOUND");
}

#[tokio::test]
async fn the_rest_of_a_part_capture_is_voided_for_the_listed_products_only() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    for product in ["vipps", "klarna.klarna", "payex.creditcard"] {
        let id = app.world.of(product).await;
        orders.capture(&format!("c-{product}"), &id, 3_900).await.unwrap();
        let voided = orders.void(&format!("v-{product}"), &id).await.unwrap().operation;
        assert_eq!(voided.state(), Succeeded, "{product}");
        let sums = orders.transaction(&id).await.unwrap().sums.unwrap();
        assert_eq!((sums.captured, sums.capturable), (3_900, 0), "{product}");
    }
    let card = app.world.card().await;
    orders.capture("c-card", &card, 3_900).await.unwrap();
    let refused = orders.void("v-card", &card).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::FailedPrecondition, "PRODUCT_RULE"));
    assert!(refused.status.message().contains("final_capture"), "{}", refused.status.message());
}

#[tokio::test]
async fn shipping_is_captured_and_refunded_as_a_line_of_its_own() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    let shipping = pb_capture(&card, 3_900, &[("ship-1", 3_900)]);
    orders.capture_with("shipping", shipping).await.unwrap();
    let chair = pb_capture(&card, 26_090, &[("1", 26_090)]);
    let captured = orders.capture_with("chair", chair).await.unwrap().operation;
    assert_eq!(captured.proof.unwrap().transaction_status_raw, "CAPTURED");
    let mut back = refund(&card, 3_900);
    back.items = vec![line("ship-1", 3_900)];
    orders.refund_with("shipping-back", back).await.unwrap();
    let items: Vec<_> =
        app.world.effects(&card).await.iter().map(|effect| effect["amount"].as_i64().unwrap()).collect();
    assert_eq!(items, [3_900, 26_090, 3_900]);
}

#[tokio::test]
async fn a_line_that_the_order_does_not_have_is_declined_with_the_rule() {
    let app = TestApp::start().await;
    let card = app.world.card().await;
    let wrong = pb_capture(&card, 100, &[("no-such-line", 100)]);
    let refused = app.orders().await.capture_with("c", wrong).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::FailedPrecondition, "PRODUCT_RULE"));
    assert!(refused.status.message().contains("no-such-line"), "{}", refused.status.message());
}

#[tokio::test]
async fn a_failed_capture_inside_a_200_is_declined_and_never_ok() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world
        .fault(serde_json::json!({"operation": "capture", "fault": "success_false", "error_type": "INSUFFICIENT_FUNDS"}))
        .await;
    let refused = orders.capture("c", &card, AMOUNT).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::FailedPrecondition, "DECLINED"));
    assert_eq!(refused.metadata("psp_type"), Some("INSUFFICIENT_FUNDS"));
    assert_eq!(app.moved(&card).await, []);
    // Final for the key; another attempt is another key.
    let again = orders.capture("c", &card, AMOUNT).await.unwrap_err();
    assert_eq!(again.reason(), "DECLINED");
    assert_eq!(again.trailer("idempotency-replayed"), Some("true"));
    assert_eq!(app.posts(&card).await, 1);
    orders.capture("c2", &card, AMOUNT).await.unwrap();
}

#[tokio::test]
async fn a_final_capture_releases_the_rest() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    let mut last = capture(&card, 1_000);
    last.final_capture = true;
    orders.capture_with("c", last).await.unwrap();
    let refused = orders.capture("c2", &card, 1).await.unwrap_err();
    assert_eq!(refused.code, Code::FailedPrecondition);
    assert_eq!(app.moved(&card).await.first(), Some(&("capture".to_owned(), 1_000)));
    // And only for products that have it [D 3.1].
    let vipps = app.world.of("vipps").await;
    let mut last = capture(&vipps, 1_000);
    last.final_capture = true;
    last.expected_remaining = Some(AMOUNT);
    let refused = orders.capture_with("c3", last).await.unwrap_err();
    assert_eq!(refused.reason(), "PRODUCT_RULE");
}

#[tokio::test]
async fn guards_refuse_before_anything_is_sent() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    let mut message = capture(&card, 100);
    message.currency_code = "EUR".to_owned();
    let refused = orders.capture_with("k", message.clone()).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::FailedPrecondition, "CURRENCY_MISMATCH"));
    message.currency_code = "NOK".to_owned();
    message.expected_remaining = Some(AMOUNT - 1);
    let refused = orders.capture_with("k", message.clone()).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::FailedPrecondition, "REMAINING_MISMATCH"));
    assert_eq!(refused.metadata("capturable"), Some("29990"));
    assert_eq!(app.posts(&card).await, 0);
    // The key is free: the same one runs once the guards hold.
    message.expected_remaining = Some(AMOUNT);
    orders.capture_with("k", message).await.unwrap();
}

#[tokio::test]
async fn a_plain_capture_costs_one_request_and_a_guard_one_read_more() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    orders.capture("plain", &card, 100).await.unwrap();
    assert_eq!(app.world.requests(&card).await.len(), 1);
    let mut guarded = capture(&card, 100);
    guarded.currency_code = "NOK".to_owned();
    orders.capture_with("guarded", guarded).await.unwrap();
    assert_eq!(app.world.requests(&card).await.len(), 3);
}

#[tokio::test]
async fn validate_only_checks_everything_and_sends_nothing() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    let mut message = capture(&card, AMOUNT + 1);
    message.validate_only = true;
    let refused = orders.capture_with("k", message.clone()).await.unwrap_err();
    assert_eq!(refused.reason(), "AMOUNT_EXCEEDS_REMAINING");
    message.amount = AMOUNT;
    let valid = orders.capture_with("k", message.clone()).await.unwrap();
    assert_eq!(valid.operation.state(), payops::grpc::pb::OperationState::Validated);
    assert_eq!(valid.operation.operation_id, "");
    assert_eq!(app.posts(&card).await, 0);
    // Nothing was recorded: the key is free for another meaning.
    orders.capture("k", &card, 1).await.unwrap();
    let reused = orders.capture_with("k", message.clone()).await.unwrap_err();
    assert_eq!(reused.reason(), "IDEMPOTENCY_KEY_REUSED");
    // What the key did already is the answer, not what would come of doing it again.
    message.amount = 1;
    let done = orders.capture_with("k", message).await.unwrap();
    assert_eq!((done.operation.state(), done.replayed), (Succeeded, true));
    assert_eq!(app.posts(&card).await, 1);
}

#[tokio::test]
async fn the_products_own_rules_are_told_in_words() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let instabank = app.world.of("instabank.finance").await;
    let refused = orders.capture("i", &instabank, AMOUNT).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::FailedPrecondition, "PRODUCT_RULE"));
    let walley = app.world.of("collector.invoice").await;
    let part = pb_capture(&walley, 100, &[("1", 100)]);
    let refused = orders.capture_with("w", part).await.unwrap_err();
    assert_eq!(refused.reason(), "PRODUCT_RULE");
    let whole = pb_capture(&walley, 26_090, &[("1", 26_090)]);
    orders.capture_with("w2", whole).await.unwrap();
    let swish = "T12345678.demoSwish0000000000001";
    let refused = orders.capture("s", swish, 1).await.unwrap_err();
    assert_eq!(refused.reason(), "PRODUCT_RULE");
    let refused = orders.void("sv", swish).await.unwrap_err();
    assert_eq!(refused.reason(), "PRODUCT_RULE");
    let terminal = "T12345678.demoInPerson0000000001";
    let refused = orders.refund("t", terminal, 100).await.unwrap_err();
    assert_eq!(refused.reason(), "PRODUCT_RULE");
}

#[tokio::test]
async fn a_transaction_shows_the_sums_that_the_psp_does_not_give() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    orders.capture("c", &card, 3_900).await.unwrap();
    let transaction = orders.transaction(&card).await.unwrap();
    assert_eq!(transaction.status(), payops::grpc::pb::TransactionStatus::PartiallyCaptured);
    assert_eq!(transaction.currency_code, "NOK");
    let sums = transaction.sums.unwrap();
    assert_eq!((sums.authorized, sums.captured, sums.capturable), (AMOUNT, 3_900, 26_090));
    assert_eq!(transaction.items.len(), 2);
    let last = transaction.events.last().unwrap();
    assert_eq!((last.event.as_str(), last.success, last.amount), ("CAPTURE", true, 3_900));
    let unknown = orders.transaction("T12345678.doesNotExist0000000001").await.unwrap_err();
    assert_eq!((unknown.code, unknown.reason()), (Code::NotFound, "TRANSACTION_NOT_FOUND"));
    let capture = orders.capture("n", "T12345678.doesNotExist0000000001", 1).await.unwrap_err();
    assert_eq!((capture.code, capture.reason()), (Code::NotFound, "TRANSACTION_NOT_FOUND"));
}

#[tokio::test]
async fn the_callers_reference_and_metadata_reach_the_psp_with_our_mark() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    let mut message = capture(&card, 3_900);
    message.reference = "ORDER-123".to_owned();
    let operation = orders.capture_with("k", message).await.unwrap().operation;
    let effect = app.world.effects(&card).await.remove(0);
    assert_eq!(effect["reference"], operation.event_reference);
    assert!(operation.event_reference.starts_with("ORDER-123-"));
    assert_eq!(operation.event_reference.len(), "ORDER-123-".len() + 13);
    let tag = operation.event_reference.rsplit('-').next().unwrap();
    assert!(effect["user_agent"].as_str().unwrap().contains(tag), "{effect}");
}
