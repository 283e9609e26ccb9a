//! No false answer and always an end: what is in doubt is read back until it is definite.

use std::time::Duration;

use payops::grpc::pb::{
    self,
    OperationState::{Declined, InDoubt, InReview, Pending, Released, Succeeded},
};
use payops::sandbox::Settings;
use serde_json::json;
use tokio_stream::StreamExt as _;
use tonic::Code;

use crate::sandbox::world::World;
use crate::support::{TestApp, capture, eventually, outcome, read_on_request_only, refund};

const AMOUNT: i64 = 29_990;

#[tokio::test]
async fn a_lost_answer_is_unknown_and_then_a_success_by_reading_back() {
    for (fault, kind) in [
        (json!({"fault": "answer_lost_after_applying"}), "capture"),
        (json!({"fault": "unavailable_after_applying"}), "capture"),
        (json!({"fault": "internal_error", "applied": true}), "capture"),
        (json!({"fault": "html_instead_of_json"}), "capture"),
        (json!({"fault": "truncated_json"}), "capture"),
        (json!({"fault": "reset_at_byte", "byte": 40}), "capture"),
        (json!({"fault": "answer_lost_after_applying"}), "refund"),
        (json!({"fault": "answer_lost_after_applying"}), "void"),
    ] {
        let app = TestApp::start().await;
        let orders = app.orders().await;
        let card = app.world.card().await;
        if kind == "refund" {
            orders.capture("c", &card, AMOUNT).await.unwrap();
        }
        let mut armed = fault.clone();
        armed["operation"] = kind.into();
        app.world.fault(armed).await;
        let first = match kind {
            "capture" => orders.capture("k", &card, AMOUNT).await,
            "refund" => orders.refund("k", &card, AMOUNT).await,
            _ => orders.void("k", &card).await,
        };
        let unknown = first.unwrap_err();
        assert_eq!((unknown.code, unknown.reason()), (Code::Aborted, "OUTCOME_UNKNOWN"), "{kind} {fault}");
        assert_eq!(unknown.metadata("safe_to_use_new_key"), Some("false"));
        assert_eq!(unknown.details.retry_info().unwrap().retry_delay, Some(Duration::from_secs(2)));
        assert_eq!(unknown.trailer("grpc-retry-pushback-ms"), Some("2000"));
        // Nobody asks again: it is read back all the same.
        let done = orders.settled("k", Succeeded).await;
        assert_eq!(done.attempt, 1, "{kind} {fault}");
        let effects = app.moved(&card).await;
        let ours = effects.iter().filter(|(name, _)| name == kind).count();
        assert_eq!(ours, 1, "{kind} {fault}: {effects:?}");
    }
}

#[tokio::test]
async fn a_retry_of_a_key_in_doubt_is_answered_by_one_read_at_once() {
    let app = TestApp::start_with(read_on_request_only).await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "answer_lost_after_applying"})).await;
    orders.capture("k", &card, AMOUNT).await.unwrap_err();
    assert_eq!(orders.operation("k").await.unwrap().state(), InDoubt);
    let known = orders.capture("k", &card, AMOUNT).await.unwrap();
    assert!(known.replayed);
    assert_eq!(app.world.requests(&card).await.len(), 2, "one capture, one read");
}

#[tokio::test]
async fn a_request_that_was_lost_stays_in_doubt_until_its_token_is_dead_and_may_then_run_again() {
    let short = Settings { token_life: Duration::from_secs(3), ..Settings::default() };
    let app = TestApp::start_in(World::start_with(short).await, |config| {
        config.exactly_once.token_life_min = Duration::from_secs(1);
        config.psp.attempt_timeout = Duration::from_millis(500);
        config.exactly_once.send_window = Duration::from_millis(400);
        config.exactly_once.settle_max = Duration::from_millis(300);
        config.exactly_once.read_lag_max = Duration::from_millis(100);
        config.exactly_once.absent_reads_apart = Duration::from_millis(100);
        config.read_back.then_every = Duration::from_millis(100);
    })
    .await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "answer_lost_before_applying"})).await;
    let started = std::time::Instant::now();
    let unknown = orders.capture("k", &card, AMOUNT).await.unwrap_err();
    assert_eq!(unknown.reason(), "OUTCOME_UNKNOWN");
    orders.settled("k", Released).await;
    // A token is sent with at least a second left of its life.
    assert!(started.elapsed() >= Duration::from_millis(1_400), "not before the token had expired");
    assert_eq!((app.moved(&card).await, app.posts(&card).await), (vec![], 1));
    let done = orders.capture("k", &card, AMOUNT).await.unwrap();
    assert_eq!((done.operation.state(), done.operation.attempt), (Succeeded, 2));
    assert_eq!(app.moved(&card).await, [("capture".to_owned(), AMOUNT)]);
}

#[tokio::test]
async fn a_transaction_in_doubt_stays_reserved_for_every_caller() {
    let app = TestApp::start().await;
    let (orders, returns) = (app.orders().await, app.returns().await);
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "answer_lost_before_applying"})).await;
    orders.capture("k", &card, AMOUNT).await.unwrap_err();
    // Whose it is, is told which one; others, that there is one.
    for (refused, state) in
        [(returns.capture("other", &card, 1).await, None), (orders.void("v", &card).await, Some("IN_DOUBT"))]
    {
        let refused = refused.unwrap_err();
        assert_eq!((refused.code, refused.reason()), (Code::Aborted, "TRANSACTION_BUSY"));
        assert_eq!(refused.metadata("open_operation_state"), state);
    }
    let again = orders.capture("k", &card, AMOUNT).await.unwrap_err();
    assert_eq!(again.reason(), "OUTCOME_UNKNOWN");
    assert_eq!(app.posts(&card).await, 1);
}

#[tokio::test]
async fn an_effect_that_comes_late_is_found_and_never_doubled() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    let fault = json!({"operation": "capture", "fault": "delayed_application", "delay_ms": 700});
    app.world.fault(fault).await;
    let unknown = orders.capture("k", &card, AMOUNT).await.unwrap_err();
    assert_eq!(unknown.reason(), "OUTCOME_UNKNOWN");
    let again = orders.capture("k", &card, AMOUNT).await.unwrap_err();
    assert_eq!(again.reason(), "OUTCOME_UNKNOWN");
    orders.settled("k", Succeeded).await;
    assert_eq!(app.moved(&card).await, [("capture".to_owned(), AMOUNT)]);
}

#[tokio::test]
async fn an_answer_that_comes_after_our_patience_is_still_heard() {
    let app = TestApp::start_with(|config| {
        config.psp.attempt_timeout = Duration::from_millis(200);
        read_on_request_only(config);
    })
    .await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 600})).await;
    let unknown = orders.capture("k", &card, AMOUNT).await.unwrap_err();
    assert_eq!(unknown.reason(), "OUTCOME_UNKNOWN");
    orders.settled("k", Succeeded).await;
    assert_eq!(app.world.requests(&card).await.len(), 1, "no read was needed");
}

#[tokio::test]
async fn a_200_without_our_event_is_never_a_success() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "event_without_reference"})).await;
    let unknown = orders.capture("k", &card, AMOUNT).await.unwrap_err();
    assert_eq!((unknown.code, unknown.reason()), (Code::Aborted, "OUTCOME_UNKNOWN"));
}

#[tokio::test]
async fn a_read_that_lags_hides_the_effect_for_a_while_and_no_longer() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "answer_lost_after_applying"})).await;
    app.world.fault(json!({"operation": "capture", "fault": "read_lag", "delay_ms": 500})).await;
    orders.capture("k", &card, AMOUNT).await.unwrap_err();
    orders.settled("k", Succeeded).await;
    assert_eq!(app.posts(&card).await, 1);
}

#[tokio::test]
async fn a_request_that_somebody_in_between_repeats_is_a_case_for_a_person() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "duplicate_application"})).await;
    let review = orders.capture("k", &card, 100).await.unwrap_err();
    assert_eq!((review.code, review.reason()), (Code::Aborted, "IN_REVIEW"));
    assert_eq!(review.metadata("safe_to_use_new_key"), Some("false"));
    // In the contract's word, as in Operation.state.
    assert_eq!(review.metadata("state"), Some("IN_REVIEW"));
    assert_eq!(orders.operation("k").await.unwrap().state(), InReview);
    assert_eq!(app.posts(&card).await, 1, "we sent it once");
}

#[tokio::test]
async fn a_capture_in_the_backoffice_is_not_taken_for_ours() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    let fault = json!({"operation": "capture", "fault": "backoffice_capture_before", "amount": AMOUNT});
    app.world.fault(fault).await;
    let refused = orders.capture("k", &card, AMOUNT).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::FailedPrecondition, "AMOUNT_EXCEEDS_REMAINING"));
    assert_eq!(orders.operation("k").await.unwrap().state(), Declined);
}

#[tokio::test]
async fn a_429_or_409_is_no_effect_only_after_two_empty_reads() {
    for fault in ["rate_limited", "conflict_409"] {
        let app = TestApp::start_with(|config| {
            config.exactly_once.absent_reads_apart = Duration::from_millis(100);
        })
        .await;
        let orders = app.orders().await;
        let card = app.world.card().await;
        app.world.fault(json!({"operation": "capture", "fault": fault})).await;
        let unknown = orders.capture("k", &card, AMOUNT).await.unwrap_err();
        assert_eq!(unknown.reason(), "OUTCOME_UNKNOWN", "{fault}");
        let released = orders.settled("k", Released).await;
        assert_eq!(released.attempt, 1);
        let done = orders.capture("k", &card, AMOUNT).await.unwrap();
        assert_eq!(done.operation.attempt, 2, "{fault}");
        assert_eq!(app.moved(&card).await, [("capture".to_owned(), AMOUNT)]);
    }
}

#[tokio::test]
async fn an_accepted_refund_is_pending_and_then_done() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let swish = "T12345678.demoSwish0000000000001";
    let mut message = refund(swish, 1_000);
    message.r#async = true;
    let fault = json!({"operation": "refund", "fault": "accepted_then", "outcome": "done", "delay_ms": 600});
    app.world.fault(fault).await;
    let accepted = orders.refund_with("k", message).await.unwrap().operation;
    assert_eq!(accepted.state(), Pending);
    assert!(accepted.proof.is_none());
    let mut watched = orders.watch("k").await.unwrap();
    let mut states = Vec::new();
    while let Some(update) = watched.next().await {
        states.push(update.unwrap().operation.unwrap().state());
    }
    assert_eq!(states.last(), Some(&Succeeded), "{states:?}");
    // Without `async` the caller waits for the end.
    let fault = json!({"operation": "refund", "fault": "accepted_then", "outcome": "done", "delay_ms": 300});
    app.world.fault(fault).await;
    let done = orders.refund("k2", swish, 1_000).await.unwrap().operation;
    assert_eq!(done.state(), Succeeded);
    // Or until its deadline.
    let fault = json!({"operation": "refund", "fault": "accepted_then", "outcome": "never"});
    app.world.fault(fault).await;
    let mut request = orders.keyed("k3", refund(swish, 1_000));
    request.set_timeout(Duration::from_millis(400));
    let pending = outcome(orders.client.clone().refund(request).await, |m| m.operation).unwrap();
    assert_eq!(pending.operation.state(), Pending);
}

#[tokio::test]
async fn an_accepted_refund_that_fails_unclearly_is_believed_only_after_a_time_and_equal_reads() {
    let app = TestApp::start_with(|config| {
        config.exactly_once.failed_event_settles_after = Duration::from_millis(600);
        config.exactly_once.settle_max = Duration::from_millis(300);
        config.exactly_once.read_lag_max = Duration::from_millis(100);
        config.read_back.then_every = Duration::from_millis(200);
    })
    .await;
    let orders = app.orders().await;
    let swish = "T12345678.demoSwish0000000000001";
    // "Operation timed out": it may have happened all the same [D 5.1].
    let fault = json!({
        "operation": "refund", "fault": "accepted_then", "outcome": "failed", "delay_ms": 100
    });
    app.world.fault(fault).await;
    let mut message = refund(swish, 1_000);
    message.r#async = true;
    let pending = orders.refund_with("k", message).await.unwrap().operation;
    assert_eq!(pending.state(), Pending);
    let ended = std::time::Instant::now();
    let declined = orders.settled("k", Declined).await;
    assert!(ended.elapsed() >= Duration::from_millis(600), "believed at once: {declined:?}");
    let refused = orders.refund("k", swish, 1_000).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::FailedPrecondition, "DECLINED"));
    assert_eq!(app.moved(swish).await.iter().filter(|(kind, _)| kind == "refund").count(), 0);
}

#[tokio::test]
async fn an_accepted_refund_that_is_declined_later_is_declined() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let swish = "T12345678.demoSwish0000000000001";
    let fault = json!({
        "operation": "refund", "fault": "accepted_then", "outcome": "failed", "delay_ms": 300,
        "error_type": "DECLINED", "message": "Declined by the bank"
    });
    app.world.fault(fault).await;
    let mut message = refund(swish, 1_000);
    message.r#async = true;
    let pending = orders.refund_with("k", message).await.unwrap().operation;
    assert_eq!(pending.state(), Pending);
    orders.settled("k", Declined).await;
    let refused = orders.refund("k", swish, 1_000).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::FailedPrecondition, "DECLINED"));
    assert_eq!(app.moved(swish).await, []);
    assert_eq!(app.posts(swish).await, 1);
}

/// K is in doubt (and took effect). The caller retries it with a defect in the request.
#[tokio::test]
async fn a_key_in_doubt_is_never_told_that_a_new_key_is_safe() {
    let app = TestApp::start_with(read_on_request_only).await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "answer_lost_after_applying"})).await;
    orders.capture("k", &card, 100).await.unwrap_err();
    assert_eq!(orders.operation("k").await.unwrap().state(), InDoubt);
    let no_amount = capture(&card, 0);
    let long_reference =
        pb::CaptureRequest { reference: "order-1001-retry-no-2".to_owned(), ..capture(&card, 100) };
    for message in [no_amount, long_reference] {
        let refused = orders.capture_with("k", message).await.unwrap_err();
        assert_eq!(refused.code, Code::InvalidArgument);
        assert_eq!(refused.metadata("safe_to_use_new_key"), Some("false"), "{}", refused.status.message());
    }
}

/// 401, and a token endpoint that is slow: meanwhile the operation is not over, and nobody takes its place.
#[tokio::test]
async fn a_watch_does_not_end_while_the_operation_runs_on_by_itself() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "unauthorized_once"})).await;
    app.world.fault(json!({"operation": "token", "fault": "delayed_answer", "delay_ms": 800})).await;
    let call = tokio::spawn({
        let (orders, card) = (orders.clone(), card.clone());
        async move { orders.capture("k", &card, 100).await }
    });
    let mut seen = Vec::new();
    eventually("the operation is recorded", async || orders.operation("k").await.is_ok()).await;
    let mut watched = orders.watch("k").await.unwrap();
    while let Some(Ok(change)) = watched.next().await {
        let operation = change.operation.unwrap();
        seen.push((operation.state(), operation.attempt));
    }
    assert!(seen.iter().all(|(state, _)| *state != Released), "{seen:?}");
    assert_eq!(seen.last(), Some(&(Succeeded, 2)), "{seen:?}");
    assert_eq!(call.await.unwrap().unwrap().operation.attempt, 2);
    assert_eq!(app.moved(&card).await, [("capture".to_owned(), 100)]);
}

/// 401, and then no token is to be had: there is an operation, and the error does not name it.
#[tokio::test]
async fn an_error_after_a_401_names_its_operation() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "unauthorized_once"})).await;
    app.world.fault(json!({"operation": "token", "fault": "rate_limited", "retry_after": 3})).await;
    let refused = orders.capture("k", &card, 100).await.unwrap_err();
    assert_eq!(refused.reason(), "PSP_RATE_LIMITED");
    let id = orders.operation("k").await.unwrap().operation_id;
    assert_eq!(refused.trailer("operation-id"), Some(id.as_str()));
}

/// Contract section 5: an accepted operation is OK with PENDING when it is still so at the caller's deadline.
#[tokio::test]
async fn an_accepted_operation_is_pending_at_the_deadline_of_a_retry_too() {
    let app = TestApp::start_with(read_on_request_only).await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    let fault = json!({"operation": "capture", "fault": "accepted_then", "outcome": "never"});
    app.world.fault(fault).await;
    let ask = async || {
        let mut request = orders.keyed("k", capture(&card, 100));
        request.set_timeout(Duration::from_secs(1));
        let answer = orders.client.clone().capture(request).await;
        answer.map(|a| a.into_inner().operation.unwrap().state()).map_err(|s| s.message().to_owned())
    };
    let first = ask().await;
    app.world.fault(json!({"operation": "get", "fault": "delayed_answer", "delay_ms": 3_000})).await;
    let again = ask().await;
    assert_eq!((&first, &again), (&first, &first));
}

/// One damaged record: everything else must still be read back.
#[tokio::test]
async fn one_damaged_record_does_not_stop_the_reading_back_of_all_others() {
    let app = TestApp::start_with(|config| {
        config.read_back.schedule = vec![Duration::from_millis(1_500)];
        config.read_back.then_every = Duration::from_millis(1_500);
    })
    .await;
    let orders = app.orders().await;
    let (one, other) = (app.world.card().await, app.world.card().await);
    let fault = json!({"operation": "capture", "fault": "answer_lost_after_applying", "times": 2});
    app.world.fault(fault).await;
    orders.capture("damaged", &one, 100).await.unwrap_err();
    orders.capture("sound", &other, 100).await.unwrap_err();
    let file = app.config.journal.directory.join("journal.sqlite");
    let connection = rusqlite::Connection::open(file).unwrap();
    let changed = connection
        .execute(
            "UPDATE operations SET record = replace(record, 'in_doubt', 'in_d0ubt') WHERE key = 'damaged'",
            [],
        )
        .unwrap();
    assert_eq!(changed, 1);
    orders.settled("sound", Succeeded).await;
}

/// A volume that was not mounted, or restored empty: where a read is made anyway, it shows what the key did.
#[tokio::test]
async fn a_guarded_key_that_the_journal_has_forgotten_is_found_at_the_psp() {
    let mut app = TestApp::start().await;
    let card = app.world.card().await;
    let mut guarded = capture(&card, 100);
    guarded.expected_remaining = Some(AMOUNT);
    app.orders().await.capture_with("k", guarded.clone()).await.unwrap();
    app.drain().await;
    std::fs::remove_dir_all(&app.config.journal.directory).unwrap();
    app.restart_after_drain().await;
    let orders = app.orders().await;
    let again = orders.capture_with("k", guarded.clone()).await.unwrap();
    assert_eq!(again.operation.state(), Succeeded);
    assert_eq!((app.moved(&card).await, app.posts(&card).await), (vec![("capture".to_owned(), 100)], 1));
    // Another key has another tag, and its guard no longer holds.
    let other = orders.capture_with("k2", guarded).await.unwrap_err();
    assert_eq!(other.reason(), "REMAINING_MISMATCH");
}

#[tokio::test]
async fn a_void_that_was_lost_is_sent_again_because_twice_voids_once() {
    let app = TestApp::start_with(|config| {
        config.psp.attempt_timeout = Duration::from_millis(300);
        config.exactly_once.send_window = Duration::from_millis(200);
        config.exactly_once.lease_grace = Duration::from_millis(200);
        config.exactly_once.resend_after = Duration::from_millis(200);
        config.read_back.then_every = Duration::from_millis(100);
    })
    .await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "void", "fault": "answer_lost_before_applying"})).await;
    let unknown = orders.void("k", &card).await.unwrap_err();
    assert_eq!(unknown.reason(), "OUTCOME_UNKNOWN");
    let done = orders.settled("k", Succeeded).await;
    // Long before the token of the first attempt is dead.
    assert_eq!((done.attempt, app.posts(&card).await), (2, 2));
    assert_eq!(app.moved(&card).await.iter().filter(|(kind, _)| kind == "void").count(), 1);
}

#[tokio::test]
async fn a_refund_that_was_lost_is_never_sent_again_before_its_token_is_dead() {
    let app = TestApp::start_with(|config| {
        config.psp.attempt_timeout = Duration::from_millis(300);
        config.exactly_once.send_window = Duration::from_millis(200);
        config.exactly_once.lease_grace = Duration::from_millis(200);
        config.exactly_once.resend_after = Duration::from_millis(100);
        config.exactly_once.resend_captures = true;
        config.read_back.then_every = Duration::from_millis(50);
    })
    .await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    orders.capture("c", &card, AMOUNT).await.unwrap();
    app.world.fault(json!({"operation": "refund", "fault": "answer_lost_before_applying"})).await;
    orders.refund("k", &card, AMOUNT).await.unwrap_err();
    let reads = app.world.requests(&card).await.len() + 30;
    eventually("it is read often", async || app.world.requests(&card).await.len() > reads).await;
    assert_eq!((orders.operation("k").await.unwrap().attempt, app.posts(&card).await), (1, 2));
}
