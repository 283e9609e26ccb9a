//! Each rule allows and denies, before anything is sent.

use payops::grpc::pb::{self, OperationState};
use serde_json::json;
use tonic::Code;

use super::let_orders;
use crate::contract::{call_empty, methods};
use crate::sandbox::world::chair_and_shipping;
use crate::support::{Caller, Outcome, SERVICE, TestApp, capture, eventually, refund, refused, void};

const RULES: &str = r#"
    { rpcs = ["Capture"], accounts = ["T12345678"], currencies = ["NOK", "DKK"], amount_max = { NOK = 1_000, DKK = 500 } },
    { rpcs = ["Void"], accounts = ["T87654321"] },
    { rpcs = ["GetTransaction"], accounts = ["T87654321"] },
    { rpcs = ["GetOperation"], accounts = ["*"] },
"#;

async fn ruled(rules: &str) -> TestApp {
    TestApp::start_with(|config| let_orders(config, rules)).await
}

async fn card_in(app: &TestApp, currency: &str) -> String {
    let card = json!({ "payment_product_type": "dintero_psp.creditcard", "items": chair_and_shipping(), "currency": currency });
    app.world.make(card).await
}

#[track_caller]
fn denied<'a>(outcome: &'a Outcome, reason: &str) -> &'a crate::support::Refused {
    let refused = outcome.as_ref().unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::PermissionDenied, reason), "{refused:?}");
    // Never by itself: only another rule would change the answer.
    assert_eq!(refused.trailer("grpc-retry-pushback-ms"), Some("-1"));
    refused
}

/// No rule, no call: of whichever RPC, whatever the message.
#[tokio::test]
async fn without_a_rule_every_rpc_is_denied() {
    let app = ruled("{ rpcs = [\"WatchOperation\"], accounts = [\"*\"] }").await;
    let channel = app.channel().await;
    let mut rows = 0;
    for (rpc, path) in methods().into_iter().filter(|(_, path)| path.contains(SERVICE)) {
        let told = refused(call_empty(&channel, &path, Some("token-of-orders")).await);
        let due = if rpc == "WatchOperation" {
            (Code::InvalidArgument, "INVALID_REQUEST")
        } else {
            assert_eq!(told.metadata("rpc"), Some(rpc.as_str()));
            (Code::PermissionDenied, "RPC_NOT_ALLOWED")
        };
        assert_eq!((told.code, told.reason()), due, "{rpc}: {told:?}");
        // The key was not looked up.
        let money = ["Capture", "Void", "Refund"].contains(&rpc.as_str());
        assert_eq!(told.metadata("safe_to_use_new_key"), money.then_some("false"), "{rpc}");
        rows += 1;
    }
    assert_eq!(rows, 6, "an RPC that no rule can name");
}

#[tokio::test]
async fn each_rule_allows_and_denies() {
    let app = ruled(RULES).await;
    let orders = app.orders().await;
    let nok = card_in(&app, "NOK").await;
    let named = |amount, currency: &str| pb::CaptureRequest {
        currency_code: currency.to_owned(),
        ..capture(&nok, amount)
    };

    // Amount per operation, whether or not the caller names the currency; another key is as good.
    for message in [capture(&nok, 1_001), named(1_001, "NOK")] {
        let no = orders.capture_with("too-much", message).await;
        let no = denied(&no, "AMOUNT_LIMIT");
        assert_eq!((no.metadata("amount_max"), no.metadata("currency")), (Some("1000"), Some("NOK")));
        assert_eq!((no.metadata("safe_to_use_new_key"), no.metadata("operation_id")), (Some("true"), None));
    }
    let dkk = card_in(&app, "DKK").await;
    denied(&orders.capture("too-much", &dkk, 501).await, "AMOUNT_LIMIT");
    orders.capture("as-much", &dkk, 500).await.unwrap();

    // Currency: the transaction's own, whatever the caller says of it.
    let sek = card_in(&app, "SEK").await;
    let no = orders.capture("kronor", &sek, 1).await;
    assert_eq!(denied(&no, "CURRENCY_NOT_ALLOWED").metadata("currency"), Some("SEK"));
    let said = pb::CaptureRequest { currency_code: "SEK".to_owned(), ..capture(&sek, 1) };
    denied(&orders.capture_with("kronor", said).await, "CURRENCY_NOT_ALLOWED");
    let lie = pb::CaptureRequest { currency_code: "NOK".to_owned(), ..capture(&sek, 1) };
    assert_eq!(orders.capture_with("kronor", lie).await.unwrap_err().reason(), "CURRENCY_MISMATCH");

    // Account.
    let no = orders.void("void", &nok).await;
    assert_eq!(denied(&no, "ACCOUNT_NOT_ALLOWED").metadata("account"), Some("T12345678"));
    let no = orders.transaction(&nok).await.unwrap_err();
    assert_eq!((no.code, no.reason()), (Code::PermissionDenied, "ACCOUNT_NOT_ALLOWED"));

    // RPC.
    denied(&orders.refund_with("refund", refund(&nok, 1)).await, "RPC_NOT_ALLOWED");

    // A check is no way around it.
    let check = pb::CaptureRequest { validate_only: true, ..capture(&nok, 1_001) };
    denied(&orders.capture_with("check", check).await, "AMOUNT_LIMIT");
    let check = pb::CaptureRequest { validate_only: true, ..capture(&sek, 1) };
    denied(&orders.capture_with("check", check).await, "CURRENCY_NOT_ALLOWED");
    let check = pb::CaptureRequest { validate_only: true, ..capture(&nok, 1_000) };
    let checked = orders.capture_with("check", check).await.unwrap();
    assert_eq!(checked.operation.state(), OperationState::Validated);
    denied(
        &orders.void_with("check", pb::VoidRequest { validate_only: true, ..void(&nok) }).await,
        "ACCOUNT_NOT_ALLOWED",
    );

    // Nothing of all that was sent, and no key was taken.
    assert_eq!((app.posts(&nok).await, app.posts(&sek).await, app.posts(&dkk).await), (0, 0, 1));
    for key in ["too-much", "kronor", "void", "refund", "check"] {
        assert_eq!(orders.operation(key).await.unwrap_err().code, Code::NotFound, "{key}");
    }
    // What a key that was denied may be used for is what is allowed.
    let done = orders.capture("too-much", &nok, 1_000).await.unwrap();
    assert_eq!((done.operation.state(), done.replayed), (OperationState::Succeeded, false));
}

/// Rules are about what begins. Who may no longer do it still hears what came of it, and does not do it again.
#[tokio::test]
async fn what_has_begun_is_answered_after_the_rule_is_gone() {
    let app = ruled("{ rpcs = [\"*\"], accounts = [\"*\"] }").await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    let done = orders.capture("k", &card, 1_000).await.unwrap();
    let_orders(
        &app.config,
        "{ rpcs = [\"*\"], accounts = [\"*\"], currencies = [\"NOK\"], amount_max = { NOK = 999 } }",
    );
    eventually("the rule is in force", async || checked(&orders, &card).await == "AMOUNT_LIMIT").await;
    let again = orders.capture("k", &card, 1_000).await.unwrap();
    assert!(again.replayed && again.operation == done.operation);
    let check = pb::CaptureRequest { validate_only: true, ..capture(&card, 1_000) };
    assert!(orders.capture_with("k", check).await.unwrap().replayed);
    assert_eq!(orders.capture("k", &card, 1_001).await.unwrap_err().reason(), "IDEMPOTENCY_KEY_REUSED");

    // Whoever is not sent may not begin again.
    let_orders(&app.config, "{ rpcs = [\"*\"], accounts = [\"*\"] }");
    let late = released(&app, "late").await;
    let_orders(&app.config, "{ rpcs = [\"Capture\"], accounts = [\"T87654321\"] }");
    eventually("the rule is in force", async || checked(&orders, &card).await == "ACCOUNT_NOT_ALLOWED").await;
    let no = orders.capture("late", &late, 100).await;
    let no = denied(&no, "ACCOUNT_NOT_ALLOWED");
    assert!(no.metadata("operation_id").is_some() && no.metadata("safe_to_use_new_key") == Some("true"));
    assert_eq!(app.moved(&late).await, []);
}

/// Why a capture of a thousand would be denied now, if it would.
async fn checked(caller: &Caller, card: &str) -> String {
    let check = pb::CaptureRequest { validate_only: true, ..capture(card, 1_000) };
    let checked = caller.capture_with("check", check).await;
    checked.map_or_else(|refused| refused.reason().to_owned(), |_| String::new())
}

/// A transaction on which `key` was recorded and not sent.
async fn released(app: &TestApp, key: &str) -> String {
    let orders = app.orders().await;
    let card = app.world.card().await;
    eventually("the rule is in force", async || checked(&orders, &card).await.is_empty()).await;
    let fault = json!({"operation": "capture", "fault": "unauthorized_once", "times": 2});
    app.world.fault(fault).await;
    orders.capture(key, &card, 100).await.unwrap_err();
    assert_eq!(orders.operation(key).await.unwrap().state(), OperationState::Released);
    card
}
