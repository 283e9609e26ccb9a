//! The most that a caller may begin in a day, counted in the journal: in a folder, in a database, over replicas and
//! restarts.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt as _};
use payops::grpc::pb::{self, OperationState};
use serde_json::json;
use tonic::Code;

use super::let_orders;
use crate::database::shared;
use crate::replicas::{another, on};
use crate::support::{Caller, Outcome, TestApp, capture, eventually, read_on_request_only};

/// Calls at once, each on a transaction of its own.
const CALLS: usize = 200;
const EACH: i64 = 100;
/// Room for 50 of them, and a bit.
const DAY_MAX: i64 = 5_050;

fn rules(day_max: i64) -> String {
    format!(
        "{{ rpcs = [\"Capture\", \"Refund\"], accounts = [\"*\"], currencies = [\"NOK\", \"SEK\"], \
         day_max = {{ NOK = {day_max}, SEK = {day_max} }} }}, {{ rpcs = [\"*\"], accounts = [\"*\"] }}"
    )
}

async fn limited(day_max: i64) -> TestApp {
    TestApp::start_with(|config| {
        let_orders(config, &rules(day_max));
        config.psp.in_flight_max = 2 * CALLS;
    })
    .await
}

#[track_caller]
fn beyond(outcome: &Outcome, left: i64) {
    let refused = outcome.as_ref().unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::PermissionDenied, "DAILY_LIMIT"), "{refused:?}");
    assert_eq!(refused.metadata("left"), Some(left.to_string().as_str()), "{refused:?}");
    assert_eq!(refused.metadata("safe_to_use_new_key"), Some("true"));
    assert_eq!(refused.trailer("grpc-retry-pushback-ms"), Some("-1"));
    let ends = refused.metadata("day_ends").unwrap();
    assert!(ends.ends_with("T00:00:00Z") && refused.status.message().contains(ends), "{refused:?}");
}

/// As callers do: where nothing was sent or the end is not known yet, the same key again.
async fn captured_by(caller: &Caller, key: &str, card: &str, amount: i64) -> Outcome {
    for _ in 0..100 {
        match caller.capture(key, card, amount).await {
            Err(refused) if [Code::Unavailable, Code::Aborted].contains(&refused.code) => {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            answered => return answered,
        }
    }
    caller.capture(key, card, amount).await
}

/// Moves `amount` by a new transaction.
async fn moved(app: &TestApp, caller: &Caller, key: &str, amount: i64) -> Outcome {
    caller.capture(key, &app.world.card().await, amount).await
}

/// What the PSP has captured of these transactions.
async fn captured(app: &TestApp, cards: &[String]) -> i64 {
    let moved = stream::iter(cards).then(|card| app.moved(card)).collect::<Vec<_>>().await;
    moved.into_iter().flatten().map(|(_, amount)| amount).sum()
}

/// All callers at once, at the edge of what is allowed: never a unit more, and as much as fits.
async fn is_exact(app: &mut TestApp, callers: &[Caller]) {
    let cards: Vec<String> = stream::iter(0..CALLS).then(|_| app.world.card()).collect().await;
    let calls = cards.iter().enumerate().map(|(nth, card)| {
        let caller = callers[nth % callers.len()].clone();
        async move { captured_by(&caller, &format!("key-{nth}"), card, EACH).await }
    });
    let answers: Vec<Outcome> = stream::iter(calls).buffer_unordered(CALLS).collect().await;
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for answer in &answers {
        let word = match answer {
            Ok(answered) => answered.operation.state().as_str_name().to_owned(),
            Err(refused) => refused.reason().to_owned(),
        };
        *told.entry(word).or_default() += 1;
    }
    let due = [("DAILY_LIMIT".to_owned(), 150), ("OPERATION_STATE_SUCCEEDED".to_owned(), 50)];
    assert_eq!(told, due.into());
    assert_eq!(captured(app, &cards).await, 50 * EACH);

    // One by one, wherever: what is left fits, and then nothing does.
    beyond(&moved(app, &callers[0], "a", 51).await, 50);
    moved(app, callers.last().unwrap(), "b", 50).await.unwrap();
    for caller in callers {
        beyond(&moved(app, caller, "c", 1).await, 0);
    }
    // Keys that have run are answered, and counted once.
    let (nth, card) = cards.iter().enumerate().next().unwrap();
    let first = callers[0].capture(&format!("key-{nth}"), card, EACH).await;
    for caller in callers {
        let again = caller.capture(&format!("key-{nth}"), card, EACH).await;
        match (&first, again) {
            (Ok(first), Ok(again)) => assert!(again.replayed && again.operation == first.operation),
            (Err(_), again) => beyond(&again, 0),
            (first, again) => panic!("{first:?} {again:?}"),
        }
    }
    // Nor does a restart forget it.
    app.restart().await;
    beyond(&moved(app, &app.orders().await, "d", 1).await, 0);
    let check = pb::CaptureRequest { validate_only: true, ..capture(&app.world.card().await, 1) };
    beyond(&app.orders().await.capture_with("e", check).await, 0);
}

async fn many(app: &TestApp) -> Vec<Caller> {
    // Each on a connection of its own, which has a bound of its own.
    stream::iter(0..8).then(|_| app.orders()).collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_callers_never_take_a_unit_too_much_from_a_folder() {
    let mut app = limited(DAY_MAX).await;
    let callers = many(&app).await;
    is_exact(&mut app, &callers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_callers_never_take_a_unit_too_much_over_two_replicas() {
    let mut app = TestApp::start_with(|config| {
        let_orders(config, &rules(DAY_MAX));
        config.psp.in_flight_max = 2 * CALLS;
        on(shared().database())(config);
    })
    .await;
    let mut callers = many(&app).await;
    let (other, _guard) = another(&app).await;
    callers.extend(std::iter::repeat_n(other, 8));
    is_exact(&mut app, &callers).await;
}

/// In each journal alike.
async fn what_moves_nothing_is_given_back(app: TestApp) {
    let orders = app.orders().await;
    let decline = json!({"operation": "capture", "fault": "declined"});
    app.world.fault(decline).await;
    assert_eq!(moved(&app, &orders, "declined", 1_000).await.unwrap_err().reason(), "DECLINED");
    app.world.fault(json!({"operation": "capture", "fault": "unauthorized_once", "times": 2})).await;
    let card = app.world.card().await;
    orders.capture("released", &card, 1_000).await.unwrap_err();
    assert_eq!(orders.operation("released").await.unwrap().state(), OperationState::Released);

    // What may have moved counts until it is known not to.
    app.world.fault(json!({"operation": "capture", "fault": "answer_lost_before_applying"})).await;
    let doubted = moved(&app, &orders, "doubted", 600).await.unwrap_err();
    assert_eq!(doubted.reason(), "OUTCOME_UNKNOWN");
    beyond(&moved(&app, &orders, "too-much", 401).await, 400);
    // A key that was released is counted when it runs again, and then as any other.
    beyond(&orders.capture("released", &card, 1_000).await, 400);
    let check = pb::CaptureRequest { validate_only: true, ..capture(&app.world.card().await, 400) };
    let checked = orders.capture_with("check", check).await.unwrap();
    assert_eq!(checked.operation.state(), OperationState::Validated);
    // A check takes nothing.
    moved(&app, &orders, "rest", 400).await.unwrap();
    beyond(&moved(&app, &orders, "more", 1).await, 0);
}

#[tokio::test]
async fn what_moves_nothing_is_given_back_in_a_folder() {
    let app = TestApp::start_with(|config| {
        let_orders(config, &rules(1_000));
        read_on_request_only(config);
    });
    what_moves_nothing_is_given_back(app.await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_moves_nothing_is_given_back_in_a_database() {
    let app = TestApp::start_with(|config| {
        let_orders(config, &rules(1_000));
        read_on_request_only(config);
        on(shared().database())(config);
    });
    what_moves_nothing_is_given_back(app.await).await;
}

/// Captures and refunds, currencies and callers have sums of their own; a void has none.
#[tokio::test]
async fn each_kind_currency_and_caller_has_a_sum_of_its_own() {
    let app = limited(1_000).await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    orders.capture("capture", &card, 1_000).await.unwrap();
    beyond(&orders.capture("more", &card, 1).await, 0);
    orders.refund("refund", &card, 1_000).await.unwrap();
    let items = crate::sandbox::world::chair_and_shipping();
    let other =
        json!({ "payment_product_type": "dintero_psp.creditcard", "items": items, "currency": "SEK" });
    let sek = app.world.make(other).await;
    orders.capture("sek", &sek, 1_000).await.unwrap();
    beyond(&orders.capture("sek-too", &sek, 1).await, 0);
    orders.void("void", &app.world.card().await).await.unwrap();
    // Another caller has other rules.
    moved(&app, &app.returns().await, "capture", 2_000).await.unwrap();
    // And another rule another limit, of the same sum.
    let_orders(&app.config, &rules(1_500));
    eventually("there is room", async || orders.capture("room", &card, 500).await.is_ok()).await;
    beyond(&orders.capture("more", &card, 1).await, 0);
}
