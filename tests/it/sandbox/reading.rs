//! GET and the list.

use std::collections::HashSet;

use payops::sandbox::{Account, DEMO_TRANSACTIONS, Settings};
use reqwest::Method;
use serde_json::{Value, json};

use super::world::World;

async fn ids(world: &World, query: &str) -> Vec<String> {
    let answer = world.get(&format!("/v1/transactions?{query}")).await.expect(200);
    let list = answer.json();
    let list = list.as_array().expect("a bare array");
    list.iter().map(|transaction| transaction["id"].as_str().unwrap().to_owned()).collect()
}

/// [D 4]: the required fields, the product before the dot, and the history of events.
#[tokio::test]
async fn a_transaction_shows_what_is_documented() {
    let world = World::start().await;
    let id = world.of("collector.invoice").await;
    let transaction = world.transaction(&id).await.json();
    assert_eq!(transaction["id"], id);
    assert_eq!(transaction["payment_product"], "collector");
    assert_eq!(transaction["payment_product_type"], "collector.invoice");
    assert_eq!(transaction["currency"], "NOK");
    assert_eq!(transaction["settlement_status"], "NOT_SETTLED");
    let events: Vec<_> =
        transaction["events"].as_array().unwrap().iter().map(|event| &event["event"]).collect();
    assert_eq!(events, ["INITIALIZE", "AUTHORIZE"]);
    assert_eq!(transaction.get("sandbox"), None, "the books are for the admin API");
    for sum in ["captured", "refunded", "remaining"] {
        assert_eq!(transaction.get(sum), None, "there is no total on the transaction");
    }
}

/// [D 6.1]: `includes=events.success.true` leaves failed events out.
#[tokio::test]
async fn successful_events_can_be_asked_for() {
    let world = World::start().await;
    let id = world.card().await;
    world.fault(json!({ "operation": "capture", "fault": "success_false" })).await;
    world.capture(&id, 1).await.expect(200);
    assert_eq!(world.transaction(&id).await.last_event()["success"], false);
    let others = "includes=session&includes=card.payment_token&includes=events.request_headers";
    let all = world.get(&format!("/v1/transactions/{id}?{others}")).await.expect(200);
    assert_eq!(all.last_event()["success"], false, "the other values change nothing");
    for path in [format!("/v1/transactions/{id}"), "/v1/transactions".to_owned()] {
        let text = world.get(&format!("{path}?includes=events.success.true")).await.expect(200).text;
        assert!(!text.contains("\"success\":false"), "{path}");
    }
}

/// [D 6.2]: a bare array, 10 by default, 1 to 100, `starting_after` the last of the page before.
#[tokio::test]
async fn the_list_is_paged_by_the_last_id() {
    let world = World::start_with(Settings { demo_transactions: false, ..Settings::default() }).await;
    for _ in 0..12 {
        world.card().await;
    }
    let first = ids(&world, "").await;
    assert_eq!(first.len(), 10);
    let second = ids(&world, &format!("starting_after={}", first[9])).await;
    assert_eq!(second.len(), 2);
    let all: HashSet<_> = first.iter().chain(&second).collect();
    assert_eq!(all.len(), 12);
    assert_eq!(ids(&world, "limit=100").await.len(), 12);
    for wrong in
        ["limit=0", "limit=101", "limit=x", "starting_after=T12345678.nowhere", "created_at.gte=soon"]
    {
        world.get(&format!("/v1/transactions?{wrong}")).await.expect(400);
    }
}

/// [D 6.2]: the filters; a repeated name is a list of values.
#[tokio::test]
async fn the_list_is_filtered() {
    let world = World::start_with(Settings { demo_transactions: false, ..Settings::default() }).await;
    let old = json!({ "amount": 100, "currency": "SEK", "merchant_reference": "ORDER-old",
        "session_id": "T12345678.session", "created_at": "2020-05-04T10:00:00Z" });
    let old = world.make(old).await;
    let card = world.card().await;
    let vipps = world.of("vipps").await;
    world.capture(&card, 5).await.expect(200);

    let both = |one: &str, other: &str| vec![one.to_owned(), other.to_owned()];
    let is = async |query: &str, expected: &[String]| {
        let found: HashSet<_> = ids(&world, query).await.into_iter().collect();
        assert_eq!(found, expected.iter().cloned().collect(), "{query}");
    };
    is(&format!("id={old}&id={card}"), &both(&old, &card)).await;
    is("status=PARTIALLY_CAPTURED", std::slice::from_ref(&card)).await;
    is("payment_product=vipps", std::slice::from_ref(&vipps)).await;
    is("payment_product_type=dintero_psp.creditcard", &both(&old, &card)).await;
    is("merchant_reference=ORDER-old", std::slice::from_ref(&old)).await;
    is("session_id=T12345678.session", std::slice::from_ref(&old)).await;
    is("currency=NOK", &both(&card, &vipps)).await;
    is("amount=100", std::slice::from_ref(&old)).await;
    is("amount.gte=101", &both(&card, &vipps)).await;
    is("amount.lte=100", std::slice::from_ref(&old)).await;
    is("created_at.lte=2020-05-04", std::slice::from_ref(&old)).await;
    is("created_at.gte=2020-05-05", &both(&card, &vipps)).await;
    is("captured_at.gte=2021-01-01", std::slice::from_ref(&card)).await;
    is("refunded_at.gte=2021-01-01", &[]).await;
    is("search=ORDER-ol", std::slice::from_ref(&old)).await;
}

/// [D 6.2]: there is no filter by reference: such a parameter changes nothing.
#[tokio::test]
async fn an_operation_cannot_be_found_by_its_reference() {
    let world = World::start().await;
    let id = world.card().await;
    world.capture(&id, 1).await.expect(200);
    let query = "capture_reference=no-such&event_reference=no-such&limit=100";
    assert_eq!(ids(&world, query).await.len(), DEMO_TRANSACTIONS.len() + 1);
}

/// [D 12 #22]: the list shows the token's account only; another account's transaction is a 403.
#[tokio::test]
async fn another_accounts_transactions_are_out_of_reach() {
    let other = Account {
        id: "T87654321".to_owned(),
        client_id: "other".to_owned(),
        client_secret: "secret".to_owned(),
    };
    let settings = Settings { accounts: vec![Account::default(), other], ..Settings::default() };
    let world = World::start_with(settings).await;
    let id = world.make(json!({ "account": "T87654321", "amount": 100 })).await;
    assert!(!ids(&world, "limit=100").await.contains(&id));
    world.get(&format!("/v1/transactions/{id}")).await.expect(403);
    world.capture(&id, 1).await.expect(403);
    world.get("/v1/transactions/P12345678.aaaaaaaaaaaaaaaaaaaaaa").await.expect(403);
}

/// The demo transactions exist, in the state that their purpose needs.
#[tokio::test]
async fn demo_transactions_exist_at_start() {
    let world = World::start().await;
    for demo in DEMO_TRANSACTIONS {
        let transaction = world.transaction(demo.id).await.json();
        assert_eq!(transaction["payment_product_type"], demo.product_type, "{}", demo.id);
        assert_eq!(transaction["amount"], demo.amount);
        let status = if demo.captured == demo.amount { "CAPTURED" } else { "AUTHORIZED" };
        assert_eq!(transaction["status"], status, "{}", demo.id);
    }
    let one_line = world.transaction("T12345678.demoCardOneLine0000001").await.json();
    assert_eq!(one_line["items"].as_array().unwrap().len(), 1);
    assert_eq!(one_line["items"][0]["amount"], 29_990);

    let bare = World::start_with(Settings { demo_transactions: false, ..Settings::default() }).await;
    assert_eq!(bare.admin(Method::GET, "/transactions", Value::Null).await.json(), json!([]));
}
