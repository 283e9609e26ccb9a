//! Boundaries in front of one PSP, on one database.

mod replays;
mod statements;
mod waits;

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use payops::clock::Timestamp;
use payops::grpc::pb::health::{HealthCheckRequest, health_check_response::ServingStatus};
use payops::grpc::pb::{OperationState, payment_operations_service_client::PaymentOperationsServiceClient};
use payops::journal::entry::Entry;
use payops::payment::{Action, Amount, Capture, Command, Guards, Operation};
use payops::{app, config::Config};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, transport::Channel};

use crate::database::{Cluster, shared};
use crate::sandbox::world::AMOUNT;
use crate::support::{Caller, TestApp, eventually};

/// On a database in place of a folder.
pub fn on(database: payops::config::Postgres) -> impl FnOnce(&mut Config) {
    move |config| {
        config.journal.directory = std::path::PathBuf::new();
        config.journal.postgres = Some(database);
    }
}

/// Another boundary with the same configuration, and a caller of it.
pub async fn another(app: &TestApp) -> (Caller, DropGuard) {
    let mut config = app.config.clone();
    config.journal.new = false;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let guard = stop.clone().drop_guard();
    tokio::spawn(async move { app::serve(&config, listener, stop).await.unwrap() });
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let client = PaymentOperationsServiceClient::new(channel);
    let caller = Caller { token: "token-of-orders".to_owned(), client };
    eventually("the other boundary serves", async || {
        caller.operation("nothing").await.is_err_and(|e| e.code == Code::NotFound)
    })
    .await;
    (caller, guard)
}

/// A capture that was just recorded by some replica.
pub fn recorded(caller: &str, key: &str, card: &str, amount: i64, now: Timestamp) -> Entry {
    let capture = Capture {
        amount: Amount::new(amount).unwrap(),
        items: Vec::new(),
        reference: None,
        metadata: BTreeMap::new(),
        final_capture: false,
    };
    let command = Command {
        caller: caller.parse().unwrap(),
        key: key.parse().unwrap(),
        operation: Operation { transaction: card.parse().unwrap(), action: Action::Capture(capture) },
        guards: Guards::default(),
        permit: payops::payment::permit::Permit::default(),
        traced: None,
    };
    Entry::start(&command, now, now + Duration::from_hours(4), now + Duration::from_secs(45))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_moves_money_once_whichever_replica_is_asked() {
    let app = TestApp::start_with(on(shared().database())).await;
    let (one, (other, _guard)) = (app.orders().await, another(&app).await);
    let cards = [app.world.card().await, app.world.card().await, app.world.card().await];
    app.world
        .fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 200, "times": 3}))
        .await;
    let calls = (0..24).map(|nth| {
        let (caller, card) = (if nth % 2 == 0 { &one } else { &other }, &cards[nth % 3]);
        async move { caller.capture(&format!("key-{card}"), card, AMOUNT).await.unwrap().operation }
    });
    let answers = join_all(calls).await;
    for (nth, card) in cards.iter().enumerate() {
        assert_eq!((app.posts(card).await, app.moved(card).await.len()), (1, 1));
        let of_card: Vec<_> = answers.iter().skip(nth).step_by(3).collect();
        assert!(of_card.iter().all(|answer| *answer == of_card[0]), "one answer for all: {of_card:?}");
        assert_eq!(of_card[0].state(), OperationState::Succeeded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_busy_at_every_replica() {
    let app = TestApp::start_with(on(shared().database())).await;
    let (one, (other, _guard)) = (app.orders().await, another(&app).await);
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 1_000})).await;
    let first = tokio::spawn({
        let (one, card) = (one.clone(), card.clone());
        async move { one.capture("first", &card, 100).await }
    });
    eventually("it is recorded", async || other.operation("first").await.is_ok()).await;
    let busy = other.capture("second", &card, 200).await.unwrap_err();
    assert_eq!(busy.reason(), "TRANSACTION_BUSY");
    assert_eq!(first.await.unwrap().unwrap().operation.state(), OperationState::Succeeded);
    // Free at once, everywhere.
    assert_eq!(
        other.capture("second", &card, 200).await.unwrap().operation.state(),
        OperationState::Succeeded
    );
    assert_eq!(app.posts(&card).await, 2);
}

/// The result of one replica is seen by whoever watches at another.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_at_another_replica_sees_the_end() {
    let app = TestApp::start_with(on(shared().database())).await;
    let (one, (other, _guard)) = (app.orders().await, another(&app).await);
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 500})).await;
    let capturing = tokio::spawn({
        let (one, card) = (one.clone(), card.clone());
        async move { one.capture("k", &card, AMOUNT).await }
    });
    eventually("it is recorded", async || other.operation("k").await.is_ok()).await;
    let mut watch = other.watch("k").await.unwrap();
    let mut last = None;
    while let Some(seen) = watch.message().await.unwrap() {
        last = seen.operation.map(|operation| operation.state());
    }
    assert_eq!(last, Some(OperationState::Succeeded));
    capturing.await.unwrap().unwrap();
}

/// The database fails between the two records.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_cannot_be_recorded_is_unknown_until_it_is_read_back() {
    let mut cluster = Cluster::start_alone();
    let mut database = cluster.database();
    database.without_standby = true;
    database.commit_wait = Duration::from_millis(500);
    let app = TestApp::start_with(|config| {
        on(database)(config);
        // Its sender is taken for dead only when its lease is over.
        config.psp.attempt_timeout = Duration::from_secs(2);
        config.exactly_once.lease_grace = Duration::from_secs(1);
    })
    .await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 1_500})).await;
    let capturing = tokio::spawn({
        let (orders, card) = (orders.clone(), card.clone());
        async move { orders.capture("k", &card, AMOUNT).await }
    });
    eventually("it was sent", async || app.posts(&card).await == 1).await;
    cluster.primary.stop();
    let unknown = capturing.await.unwrap().unwrap_err();
    assert_eq!((unknown.code, unknown.reason()), (Code::Aborted, "OUTCOME_UNKNOWN"));
    assert_eq!(unknown.metadata("safe_to_use_new_key"), Some("false"));
    // Without a journal nothing is sent.
    let refused = orders.capture("another", &app.world.card().await, AMOUNT).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::Unavailable, "JOURNAL_UNAVAILABLE"));
    cluster.primary.start();
    eventually("it is read back", async || {
        orders
            .capture("k", &card, AMOUNT)
            .await
            .is_ok_and(|answer| answer.operation.state() == OperationState::Succeeded)
    })
    .await;
    assert_eq!((app.posts(&card).await, app.moved(&card).await.len()), (1, 1));
}

/// A database that is out of reach makes no boundary ready, and ends none.
#[tokio::test(flavor = "multi_thread")]
async fn readiness_goes_and_comes_with_the_database() {
    let mut cluster = Cluster::start_alone();
    let mut database = cluster.database();
    database.without_standby = true;
    database.commit_wait = Duration::from_millis(500);
    let app = TestApp::start_with(on(database)).await;
    let mut health = app.health();
    let mut is_ready = async || {
        let request = HealthCheckRequest::default();
        health.check(request).await.is_ok_and(|answer| answer.get_ref().status == 1)
    };
    cluster.primary.stop();
    eventually("it is not ready", async || !is_ready().await).await;
    cluster.primary.start();
    eventually("it is ready again", async || is_ready().await).await;
    let card = app.world.card().await;
    assert_eq!(
        app.orders().await.capture("k", &card, AMOUNT).await.unwrap().operation.state(),
        OperationState::Succeeded
    );
    // Without a standby each key is looked up before it is sent.
    let requests = app.world.requests(&card).await;
    assert_eq!(requests.iter().filter(|request| request["method"] == "GET").count(), 1, "{requests:?}");
    assert_eq!(standby(&app).await, ServingStatus::NotServing, "health says so for as long as it runs");
    let with_standby = TestApp::start_with(on(shared().database())).await;
    assert_eq!(standby(&with_standby).await, ServingStatus::Serving);
}

async fn standby(app: &TestApp) -> ServingStatus {
    let request = HealthCheckRequest { service: "standby".to_owned() };
    app.health().check(request).await.unwrap().get_ref().status()
}
