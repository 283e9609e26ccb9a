//! How fast a caller may call, and how much it may have under way: refused before anything is written, and what is known
//! is told all the same.

use std::time::Duration;

use payops::config::Config;
use serde_json::json;
use tonic::Code;

use super::let_orders;
use crate::database::shared;
use crate::replicas::on;
use crate::sandbox::world::AMOUNT;
use crate::support::{Caller, Refused, TestApp, eventually, read_on_request_only};

/// Of each kind, once there is no room.
const CALLS: usize = 20;
const ALL: &str = "{ rpcs = [\"*\"], accounts = [\"*\"] }";

/// Lets `orders` do everything, within bounds.
fn paced(config: &Config, bounds: &str) {
    let_orders(config, ALL);
    let text = std::fs::read_to_string(&config.callers.file).unwrap();
    let text = text.replacen("name = \"orders\"\n", &format!("name = \"orders\"\n{bounds}\n"), 1);
    std::fs::write(&config.callers.file, text).unwrap();
}

#[track_caller]
fn throttled(refused: &Refused) -> Duration {
    assert_eq!(
        (refused.code, refused.reason()),
        (Code::ResourceExhausted, "CALLER_RATE_LIMIT"),
        "{refused:?}"
    );
    let after = refused.details.retry_info().and_then(|info| info.retry_delay).unwrap();
    assert_eq!(refused.trailer("grpc-retry-pushback-ms"), Some(after.as_millis().to_string().as_str()));
    after
}

/// Calls that are answered before one is refused.
async fn calls_until_throttled(caller: &Caller) -> usize {
    for calls in 0..1_000 {
        let refused = caller.operation("of-nobody").await.unwrap_err();
        if refused.code != Code::NotFound {
            throttled(&refused);
            return calls;
        }
    }
    panic!("it never is");
}

async fn a_rate_holds_and_what_is_known_is_told(app: TestApp) {
    let (orders, returns) = (app.orders().await, app.returns().await);
    let card = app.world.card().await;
    let done = orders.capture("done", &card, 100).await.unwrap();
    let calls = calls_until_throttled(&orders).await;
    // The burst, and what came back while they went out.
    assert!((19..80).contains(&calls), "{calls}");

    // A new key is not begun, and one that is through is answered, however often.
    let writes = async |key: &str| orders.capture(key, &card, 100).await;
    let mut refused = 0;
    for nth in 0..CALLS {
        let replayed = orders.capture("done", &card, 100).await.unwrap();
        assert!(replayed.replayed && replayed.operation == done.operation);
        if let Err(new) = writes(&format!("new-{nth}")).await {
            assert!(throttled(&new) <= Duration::from_secs(1));
            assert_eq!(new.metadata("safe_to_use_new_key"), Some("false"));
            assert_eq!(returns.operation(&format!("new-{nth}")).await.unwrap_err().code, Code::NotFound);
            refused += 1;
        }
    }
    // One a second comes back; the rest was neither written nor sent.
    assert!(refused >= CALLS / 2, "{refused}");
    assert_eq!(app.posts(&card).await, 1 + CALLS - refused);
    // After the time that was told there is room again.
    let refused = loop {
        if let Err(refused) = orders.operation("done").await {
            break refused;
        }
    };
    tokio::time::sleep(throttled(&refused)).await;
    orders.operation("done").await.unwrap();
}

#[tokio::test]
async fn a_rate_holds_and_what_is_known_is_told_in_a_folder() {
    let app = TestApp::start_with(|config| paced(config, "requests_per_second = 1\nburst = 20"));
    a_rate_holds_and_what_is_known_is_told(app.await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_holds_and_what_is_known_is_told_in_a_database() {
    let app = TestApp::start_with(|config| {
        paced(config, "requests_per_second = 1\nburst = 20");
        on(shared().database())(config);
    });
    a_rate_holds_and_what_is_known_is_told(app.await).await;
}

/// Who hangs up still has under way what it began, and keeps nobody else out.
#[tokio::test]
async fn so_many_calls_are_under_way_also_those_that_nobody_waits_for() {
    let app = TestApp::start_with(|config| {
        paced(config, "in_flight_max = 2");
        read_on_request_only(config);
    })
    .await;
    let (orders, returns) = (app.orders().await, app.returns().await);
    let done_on = app.world.card().await;
    orders.capture("done", &done_on, 100).await.unwrap();
    let fault = json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 8_000, "times": 2});
    app.world.fault(fault).await;
    let mut calls = Vec::new();
    for key in ["one", "two"] {
        let (caller, card) = (orders.clone(), app.world.card().await);
        let id = card.clone();
        calls.push(tokio::spawn(async move { caller.capture(key, &id, AMOUNT).await }));
        eventually("it is under way", async || app.posts(&card).await == 1).await;
    }
    let card = app.world.card().await;
    let refused = orders.capture("three", &card, 100).await.unwrap_err();
    throttled(&refused);
    assert_eq!(refused.metadata("in_flight_max"), Some("2"));
    throttled(&orders.operation("one").await.unwrap_err());
    assert!(orders.capture("done", &done_on, 100).await.unwrap().replayed);
    returns.capture("three", &card, 100).await.unwrap();
    // They hang up.
    for call in calls {
        call.abort();
    }
    throttled(&orders.capture("three", &card, 100).await.unwrap_err());
    // What they began comes to its end, and makes room.
    eventually("there is room", async || orders.capture("three", &card, 100).await.is_ok()).await;
    for key in ["one", "two"] {
        eventually("it went on", async || orders.operation(key).await.is_ok()).await;
    }
    // An open watch has its place, too.
    let watched = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "answer_lost_before_applying"})).await;
    orders.capture("doubted", &watched, 100).await.unwrap_err();
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = orders.watch("doubted").await.unwrap();
        stream.message().await.unwrap();
        streams.push(stream);
    }
    throttled(&orders.operation("doubted").await.unwrap_err());
    streams.pop();
    eventually("there is room", async || orders.operation("doubted").await.is_ok()).await;
}

/// A group's pace is each member's own; a caller's own comes before it.
#[test]
fn a_caller_has_its_own_pace_or_its_groups() {
    let text = "
        [[caller]]
        name = 'orders'
        certificate_names = ['orders.example']
        in_flight_max = 7
        [[caller]]
        name = 'returns'
        certificate_names = ['returns.example']
        [[group]]
        name = 'one'
        callers = ['orders', 'returns']
        requests_per_second = 50
        in_flight_max = 9
        [[group]]
        name = 'two'
        callers = ['returns']
        requests_per_second = 99
        burst = 5
    ";
    let callers = payops::callers::Callers::parse(text).unwrap_or_else(|wrong| panic!("{wrong}"));
    for (caller, in_flight_max) in [("orders", 7), ("returns", 9)] {
        let pace = callers.rights(caller, None).pace;
        assert_eq!(pace.in_flight_max, Some(in_flight_max));
        let rate = pace.rate.unwrap();
        assert_eq!((rate.per_second, rate.burst), (50, 50), "{caller}");
    }
    let wrong = text.replace("= 7", "= 0").replace("requests_per_second = 99\n", "").replace("= 50", "= 1.5");
    let told = payops::callers::Callers::parse(&wrong).unwrap_err().to_string();
    for due in [
        "caller[0].in_flight_max: is no such number; write a whole number from 1 to 1000000",
        "group[0].requests_per_second: is no such number",
        "group[1].burst: is there without requests_per_second",
    ] {
        assert!(told.contains(due), "{told}");
    }
}
