//! Transactions, keys, credentials and operations.

use payops::grpc::pb;
use tonic::Code;

use super::{CARD, Call, Row, hold};
use crate::support::TestApp;

#[tokio::test]
async fn an_id_that_would_escape_the_url_gets_nowhere() {
    let app = TestApp::start().await;
    hold(&app, transactions()).await;
}

#[tokio::test]
async fn a_key_is_given_and_well_formed() {
    let app = TestApp::start().await;
    hold(&app, keys()).await;
}

#[tokio::test]
async fn nobody_unknown_is_let_in() {
    let app = TestApp::start().await;
    hold(&app, credentials()).await;
}

#[tokio::test]
async fn an_operation_has_a_name_and_is_its_callers_alone() {
    let app = TestApp::start().await;
    let card = app.world.card().await;
    let operation = app.orders().await.capture("key-of-orders", &card, 100).await.unwrap().operation;
    hold(&app, operations(&operation.operation_id, "key-of-orders")).await;
    // A UUID means the same in capitals.
    let capitals = operation.operation_id.to_uppercase();
    assert_eq!(app.orders().await.operation_by_id(&capitals).await.unwrap(), operation);
}

fn transactions() -> Vec<Row> {
    let form = "an account, a dot and 1 to 64 letters and digits";
    let unserved = "which this boundary does not serve";
    let long = format!("T12345678.{}", "a".repeat(65));
    let mut rows = Vec::new();
    for id in [
        "T12345678",
        "T12345678.",
        "T1234567.abc",
        "t12345678.abc",
        "X12345678.abc",
        "../T12345678.a",
        "T12345678.a/../../accounts",
        "T12345678.a/capture",
        "T12345678.a%2Fb",
        "T12345678.a?b=c",
        "T12345678.a#b",
        "T12345678.a\\b",
        "T12345678...",
        "T12345678.a;b",
        "T12345678.a@evil.example",
        " T12345678.a",
        "T12345678.a\r\nHost: evil.example",
        "T12345678.a\0",
        "T12345678.å",
        "T１2345678.a",
        &long,
    ] {
        rows.push(
            Row::capture(&format!("of {id:?}"), |m| id.clone_into(&mut m.transaction_id))
                .invalid(["transaction_id"], form),
        );
    }
    for (id, remedy) in [("", "is required"), ("T12345678.a/b", form), ("..", form)] {
        let id = || id.to_owned();
        rows.push(
            Row::void(&format!("of {:?}", id()), |m| m.transaction_id = id())
                .invalid(["transaction_id"], remedy),
        );
        rows.push(
            Row::refund(&format!("of {:?}", id()), |m| m.transaction_id = id())
                .invalid(["transaction_id"], remedy),
        );
        rows.push(
            Row::call(format!("read of {:?}", id()), Call::GetTransaction(id()))
                .invalid(["transaction_id"], remedy),
        );
    }
    let id = || "P12345678.abc".to_owned();
    rows.extend([
        Row::capture("of an unserved account", |m| m.transaction_id = id())
            .invalid(["transaction_id"], unserved),
        Row::void("of an unserved account", |m| m.transaction_id = id())
            .invalid(["transaction_id"], unserved),
        Row::refund("of an unserved account", |m| m.transaction_id = id())
            .invalid(["transaction_id"], unserved),
        Row::call("read of an unserved account", Call::GetTransaction(id()))
            .invalid(["transaction_id"], unserved),
        Row::call("read of an unknown transaction", Call::GetTransaction("T12345678.unknown".to_owned()))
            .refused(Code::NotFound, "TRANSACTION_NOT_FOUND", None, "knows no such transaction"),
    ]);
    rows
}

fn keys() -> Vec<Row> {
    const FIELD: [&str; 1] = ["metadata.idempotency-key"];
    let missing = |row: Row| {
        let remedy = "make one for each intention";
        row.key(None).status(Code::InvalidArgument, "IDEMPOTENCY_KEY_MISSING", FIELD, Some(false), remedy)
    };
    let invalid = |name: &str, key: &str| {
        let remedy = "1 to 128 visible ASCII characters";
        let row = Row::capture(name, |_| ()).key(Some(key));
        row.status(Code::InvalidArgument, "IDEMPOTENCY_KEY_INVALID", FIELD, Some(false), remedy)
    };
    vec![
        missing(Row::capture("no key", |_| ())),
        missing(Row::void("no key", |_| ())),
        missing(Row::refund("no key", |_| ())),
        missing(Row::capture("no key, to validate", |m| m.validate_only = true)),
        invalid("empty key", ""),
        invalid("key of 129", &"k".repeat(129)),
        invalid("key with space", "a b"),
        invalid("key with tab", "a\tb"),
    ]
}

fn credentials() -> Vec<Row> {
    let refused = |row: Row, authorization: Option<&str>, reason, remedy| {
        // Who is not known is told nothing about any key.
        row.authorization(authorization).refused(Code::Unauthenticated, reason, Some(false), remedy)
    };
    let good = || Row::capture("by whom", |_| ());
    let by_id = |id: &str| pb::get_operation_request::Name::OperationId(id.to_owned());
    let named = |mut row: Row, name: &str| {
        name.clone_into(&mut row.name);
        row
    };
    let long = format!("Bearer {}", "t".repeat(8193));
    let mut rows = Vec::new();
    for (name, row) in [
        ("nobody captures", good()),
        ("nobody voids", Row::void("", |_| ())),
        ("nobody refunds", Row::refund("", |_| ())),
        ("nobody reads", Row::call("", Call::GetTransaction(CARD.to_owned()))),
        (
            "nobody asks",
            Row::call("", Call::GetOperation(pb::GetOperationRequest { name: Some(by_id("x")) })),
        ),
        ("nobody watches", Row::call("", Call::WatchOperation(pb::WatchOperationRequest { name: None }))),
    ] {
        rows.push(named(refused(row, None, "CREDENTIALS_MISSING", "authorization: Bearer <token>"), name));
    }
    for (name, authorization, remedy) in [
        ("unknown token", "Bearer token-of-nobody", "the token is not known"),
        ("hash for token", "Bearer 0000000000000000", "the token is not known"),
        ("token of another case", "Bearer TOKEN-OF-ORDERS", "the token is not known"),
        ("token and a space", "Bearer  token-of-orders", "the token is not known"),
        ("empty token", "Bearer ", "the token is empty or too long"),
        ("token of 8193", &long, "the token is empty or too long"),
        ("another scheme", "Basic dG9rZW4=", "the scheme is not Bearer"),
        ("token alone", "token-of-orders", "expected: Bearer, a space, the token"),
        ("empty", "", "expected: Bearer, a space, the token"),
    ] {
        rows.push(named(refused(good(), Some(authorization), "CREDENTIALS_INVALID", remedy), name));
    }
    rows
}

fn operations(id: &str, key: &str) -> Vec<Row> {
    use pb::get_operation_request::Name as Get;
    use pb::watch_operation_request::Name as Watch;
    let get = |name: &str, asked: Option<Get>| {
        Row::call(format!("get, {name}"), Call::GetOperation(pb::GetOperationRequest { name: asked }))
    };
    let watch = |name: &str, asked: Option<Watch>| {
        Row::call(format!("watch, {name}"), Call::WatchOperation(pb::WatchOperationRequest { name: asked }))
    };
    let mut rows = vec![
        get("no name", None).invalid(["name"], "give operation_id or idempotency_key"),
        watch("no name", None).invalid(["name"], "give operation_id or idempotency_key"),
    ];
    let simple = id.replace('-', "");
    let (braced, urn) = (format!("{{{id}}}"), format!("urn:uuid:{id}"));
    let uuid = "a UUID, as the operation-id metadata gave it";
    for (wrong, remedy) in [
        ("", "is required"),
        ("not-a-uuid", uuid),
        (&simple, uuid),
        (&braced, uuid),
        (&urn, uuid),
        (&id[1..], uuid),
        ("../../../../../../../../../../../../", uuid),
    ] {
        let name = format!("id {wrong:?}");
        rows.push(get(&name, Some(Get::OperationId(wrong.to_owned()))).invalid(["operation_id"], remedy));
        rows.push(watch(&name, Some(Watch::OperationId(wrong.to_owned()))).invalid(["operation_id"], remedy));
    }
    let ascii = "1 to 128 visible ASCII characters";
    let long = "k".repeat(129);
    for (wrong, remedy) in [("", "is required"), (&long, ascii), ("a b", ascii), ("é", ascii)] {
        let name = format!("key {wrong:?}");
        rows.push(
            get(&name, Some(Get::IdempotencyKey(wrong.to_owned()))).invalid(["idempotency_key"], remedy),
        );
        rows.push(
            watch(&name, Some(Watch::IdempotencyKey(wrong.to_owned()))).invalid(["idempotency_key"], remedy),
        );
    }
    let none = |row: Row| {
        row.refused(Code::NotFound, "OPERATION_NOT_FOUND", None, "this caller has no such operation")
    };
    for unknown in ["00000000-0000-0000-0000-000000000000", "01890A5D-AC96-774B-BCCE-B302099A8057"] {
        rows.push(none(get(&format!("unknown id {unknown}"), Some(Get::OperationId(unknown.to_owned())))));
        rows.push(none(watch(
            &format!("unknown id {unknown}"),
            Some(Watch::OperationId(unknown.to_owned())),
        )));
    }
    rows.push(none(get("unknown key", Some(Get::IdempotencyKey("unknown".to_owned())))));
    rows.push(none(watch("unknown key", Some(Watch::IdempotencyKey("unknown".to_owned())))));
    // What exists is hidden from others in the same words as what does not.
    let returns = |row: Row| none(row.authorization(Some("Bearer token-of-returns")));
    rows.push(returns(get("another's id", Some(Get::OperationId(id.to_owned())))));
    rows.push(returns(get("another's key", Some(Get::IdempotencyKey(key.to_owned())))));
    rows.push(returns(watch("another's id", Some(Watch::OperationId(id.to_owned())))));
    rows.push(returns(watch("another's key", Some(Watch::IdempotencyKey(key.to_owned())))));
    rows.push(
        Row::call("health of a strange name", Call::HealthCheck("payops.v1.Nothing".to_owned())).refused(
            Code::NotFound,
            "",
            None,
            "no service of that name",
        ),
    );
    rows
}
