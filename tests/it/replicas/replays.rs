//! A key that has succeeded comes again: its answer is at hand.

use std::time::{Duration, Instant};

use payops::config::Postgres;
use payops::grpc::pb::OperationState::Succeeded;
use serde_json::json;
use tonic::Code;

use super::{another, on};
use crate::database::{Cluster, name};
use crate::sandbox::world::AMOUNT;
use crate::support::TestApp;

/// A database that counts its statements, and that the test may stop.
fn counting() -> (Cluster, Postgres) {
    let mut cluster = Cluster::start_alone();
    cluster.primary.sql("postgres", "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'");
    cluster.primary.stop();
    cluster.primary.start();
    let database =
        Postgres { without_standby: true, commit_wait: Duration::from_millis(500), ..cluster.database() };
    cluster.primary.sql(name(&database), "CREATE EXTENSION pg_stat_statements");
    (cluster, database)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_what_succeeded_costs_no_statement_and_no_database() {
    let (mut cluster, database) = counting();
    let app = TestApp::start_with(on(database.clone())).await;
    let (one, (other, _guard)) = (app.orders().await, another(&app).await);
    let (card, poor) = (app.world.card().await, app.world.card().await);
    let first = one.capture("done", &card, AMOUNT).await.unwrap().operation;
    app.world.fault(json!({"operation": "capture", "fault": "declined"})).await;
    let declined = one.capture("declined", &poor, AMOUNT).await.unwrap_err();
    assert_eq!(declined.reason(), "DECLINED");

    // Every statement about one key, one operation or one transaction.
    let count = "SELECT sum(calls) FROM pg_stat_statements WHERE query LIKE '%payops.operations%'
                 AND (query LIKE '%caller%' OR query LIKE '%id = $1%')";
    let statements = || cluster.primary.sql(name(&database), count).parse::<u64>().unwrap();
    for (caller, costs) in [(&one, 0), (&other, 1)] {
        let before = statements();
        for _ in 0..50 {
            let again = caller.capture("done", &card, AMOUNT).await.unwrap();
            assert_eq!((again.operation, again.replayed), (first.clone(), true));
            assert_eq!(caller.operation("done").await.unwrap(), first);
        }
        assert_eq!(statements() - before, costs, "what was done elsewhere is read once");
    }
    // It would be seen: what may yet change is looked up each time.
    let before = statements();
    for _ in 0..10 {
        assert_eq!(one.capture("declined", &poor, AMOUNT).await.unwrap_err().reason(), declined.reason());
    }
    assert_eq!(statements() - before, 10);

    cluster.primary.stop();
    for caller in [&one, &other] {
        let began = Instant::now();
        assert_eq!(caller.capture("done", &card, AMOUNT).await.unwrap().operation, first);
        assert!(began.elapsed() < Duration::from_secs(1), "nobody waits for the database");
        let reused = caller.capture("done", &card, AMOUNT - 1).await.unwrap_err();
        assert_eq!(reused.reason(), "IDEMPOTENCY_KEY_REUSED");
        for key in ["declined", "new"] {
            let refused = caller.capture(key, &poor, AMOUNT).await.unwrap_err();
            assert_eq!((refused.code, refused.reason()), (Code::Unavailable, "JOURNAL_UNAVAILABLE"), "{key}");
        }
    }
    cluster.primary.start();
    let again = one.capture("done", &card, AMOUNT).await.unwrap();
    assert_eq!(again.operation.state(), Succeeded);
    assert_eq!((app.posts(&card).await, app.posts(&poor).await), (1, 1));
}
