//! After a loss: no key of before moves money a second time.

use std::{fs, time::Duration};

use payops::clock::Timestamp;
use payops::grpc::pb::OperationState::{Declined, Pending, Released, Succeeded};
use serde_json::json;
use tonic::Code;

use super::{copy, minted};
use crate::support::{TestApp, capture, refund};

const AMOUNT: i64 = 29_990;
const SWISH: &str = "T12345678.demoSwish0000000000001";

/// A boundary whose journal is lost when `lose` is called.
async fn app() -> TestApp {
    TestApp::start_with(|config| {
        config.exactly_once.key_clock_leeway = Duration::ZERO;
        config.exactly_once.loss_quiet = Duration::from_millis(1);
    })
    .await
}

async fn lose(app: &mut TestApp) {
    app.drain().await;
    fs::remove_dir_all(&app.config.journal.directory).unwrap();
    app.config.journal.new = false;
    app.restart_after_drain().await;
}

fn new_key() -> String {
    minted(Timestamp(jiff::Timestamp::now().as_millisecond()))
}

#[tokio::test]
async fn at_first_nothing_is_sent_under_a_key_that_may_be_older() {
    let mut app = app().await;
    app.config.exactly_once.loss_quiet = Duration::from_mins(10);
    let (done, fresh) = (app.world.card().await, app.world.card().await);
    let before = new_key();
    app.orders().await.capture("k", &done, AMOUNT).await.unwrap();
    lose(&mut app).await;
    let orders = app.orders().await;
    for (key, card) in [("k", &done), ("another", &fresh), (before.as_str(), &fresh)] {
        let waits = orders.capture(key, card, AMOUNT).await.unwrap_err();
        assert_eq!((waits.code, waits.reason()), (Code::Unavailable, "JOURNAL_UNAVAILABLE"), "{key}");
        let wait = waits.details.retry_info().unwrap().retry_delay.unwrap();
        assert!(wait > Duration::from_mins(9) && wait <= Duration::from_mins(10), "{wait:?}");
        assert_eq!(waits.metadata("safe_to_use_new_key"), Some("false"));
    }
    assert_eq!((app.posts(&done).await, app.world.requests(&fresh).await.len()), (1, 0));
    // A key that was minted after the loss cannot have been lost with it: no wait, and no read.
    assert_eq!(orders.capture(&new_key(), &fresh, 100).await.unwrap().operation.state(), Succeeded);
    assert_eq!(app.world.requests(&fresh).await.len(), 1);
    // The wait ends; the loss does not.
    app.config.exactly_once.loss_quiet = Duration::from_millis(1);
    app.restart().await;
    let orders = app.orders().await;
    assert_eq!(orders.capture("k", &done, AMOUNT).await.unwrap().operation.state(), Succeeded);
    assert_eq!((app.posts(&done).await, app.moved(&done).await.len()), (1, 1));
    assert_eq!(orders.capture("another", &fresh, 100).await.unwrap().operation.state(), Succeeded);
    assert_eq!(app.world.requests(&fresh).await.len(), 3, "a read first");
}

#[tokio::test]
async fn a_key_whose_effect_is_at_the_psp_is_settled_by_a_read() {
    let mut app = app().await;
    let orders = app.orders().await;
    let (captured, refunded, voided) =
        (app.world.card().await, app.world.card().await, app.world.card().await);
    orders.capture("c", &captured, AMOUNT).await.unwrap();
    orders.capture("r0", &refunded, AMOUNT).await.unwrap();
    orders.refund("r", &refunded, 100).await.unwrap();
    orders.void("v", &voided).await.unwrap();
    lose(&mut app).await;
    let orders = app.orders().await;
    for answer in [
        orders.capture("c", &captured, AMOUNT).await,
        orders.refund("r", &refunded, 100).await,
        orders.void("v", &voided).await,
    ] {
        assert_eq!(answer.unwrap().operation.state(), Succeeded);
    }
    let posts = [app.posts(&captured).await, app.posts(&refunded).await, app.posts(&voided).await];
    assert_eq!(posts, [1, 2, 1], "nothing was sent again");
    // And from now on the journal knows.
    assert!(orders.capture("c", &captured, AMOUNT).await.unwrap().replayed);
}

#[tokio::test]
async fn a_key_that_the_psp_has_begun_is_pending_and_not_sent_again() {
    let mut app = app().await;
    let mut message = refund(SWISH, 1_000);
    message.r#async = true;
    let fault = json!({"operation": "refund", "fault": "accepted_then", "outcome": "never"});
    app.world.fault(fault).await;
    let begun = app.orders().await.refund_with("k", message.clone()).await.unwrap();
    assert_eq!(begun.operation.state(), Pending);
    let posts = app.posts(SWISH).await;
    lose(&mut app).await;
    let again = app.orders().await.refund_with("k", message).await.unwrap();
    assert_eq!(again.operation.state(), Pending);
    assert_eq!(app.posts(SWISH).await, posts);
}

#[tokio::test]
async fn a_key_that_was_declined_stays_declined() {
    let mut app = app().await;
    let fault = json!({
        "operation": "refund", "fault": "accepted_then", "outcome": "failed", "delay_ms": 50,
        "error_type": "DECLINED", "message": "Declined by the bank"
    });
    app.world.fault(fault).await;
    let orders = app.orders().await;
    let mut message = refund(SWISH, 1_000);
    message.r#async = true;
    orders.refund_with("k", message).await.unwrap();
    crate::support::eventually("it is declined", async || {
        orders.refund("k", SWISH, 1_000).await.is_err_and(|refused| refused.reason() == "DECLINED")
    })
    .await;
    let posts = app.posts(SWISH).await;
    lose(&mut app).await;
    let orders = app.orders().await;
    let refused = orders.refund("k", SWISH, 1_000).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::FailedPrecondition, "DECLINED"));
    assert_eq!(orders.operation("k").await.unwrap().state(), Declined);
    assert_eq!(app.posts(SWISH).await, posts);
}

/// The disk came back as it was before: a snapshot. The key ran again in what was lost.
#[tokio::test]
async fn a_release_of_before_the_loss_is_looked_at_before_it_runs_again() {
    let mut app = app().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "unauthorized_once", "times": 2})).await;
    let refused = app.orders().await.capture("k", &card, AMOUNT).await.unwrap_err();
    assert_eq!(app.orders().await.operation("k").await.unwrap().state(), Released, "{}", refused.reason());
    app.drain().await;
    let directory = app.config.journal.directory.clone();
    let snapshot = directory.parent().unwrap().join("snapshot");
    copy(&directory, &snapshot);
    app.restart_after_drain().await;
    let done = app.orders().await.capture("k", &card, AMOUNT).await.unwrap();
    assert_eq!(done.operation.state(), Succeeded);
    let posts = app.posts(&card).await;
    app.drain().await;
    fs::remove_dir_all(&directory).unwrap();
    copy(&snapshot, &directory);
    app.config.journal.new = false;
    app.config.journal.generation = 2;
    app.restart_after_drain().await;

    let orders = app.orders().await;
    assert_eq!(orders.operation("k").await.unwrap().state(), Released);
    let again = orders.capture_with("k", capture(&card, AMOUNT)).await.unwrap();
    assert_eq!(again.operation.state(), Succeeded);
    assert_eq!((app.posts(&card).await, app.moved(&card).await.len()), (posts, 1));
}
