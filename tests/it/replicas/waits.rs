//! A second caller at another replica: it waits for the first one's answer, and no longer than it has to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::stream::{StreamExt as _, iter};
use payops::clock::Clock;
use payops::grpc::pb::OperationState::{self, Succeeded};
use payops::journal::entry::Entry;
use payops::journal::postgres::{Postgres, Settings};
use payops::journal::{Journal as _, Terms, Written};
use serde_json::json;
use tonic::Code;

use super::{another, on};
use crate::database::{name, shared};
use crate::sandbox::world::AMOUNT;
use crate::support::{Answered, Caller, Outcome, TestApp, capture, eventually, outcome};

/// How often what is waited for is looked at where no news comes.
const POLL: Duration = Duration::from_secs(1);

/// Calls until the transaction is free for this key.
async fn insist(caller: &Caller, key: &str, card: &str, amount: i64) -> Answered {
    loop {
        match caller.capture(key, card, amount).await {
            Err(busy) if busy.reason() == "TRANSACTION_BUSY" => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            answer => break answer.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_comes_to_all_replicas_at_once_is_one_request_and_one_answer() {
    const ROUNDS: usize = 500;
    let app = TestApp::start_with(on(shared().database())).await;
    let (second, third) = (another(&app).await, another(&app).await);
    let callers = [app.orders().await, second.0, third.0];
    // In every other round there is time to wait.
    let slow =
        json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 30, "times": ROUNDS / 2});
    app.world.fault(slow).await;
    let round = async |nth: usize| {
        let (key, card) = (format!("k-{nth}"), app.world.card().await);
        let answers = join_all(callers.iter().map(|caller| caller.capture(&key, &card, AMOUNT))).await;
        let answers: Vec<_> = answers.into_iter().map(Outcome::unwrap).collect();
        assert_eq!((app.posts(&card).await, app.moved(&card).await.len()), (1, 1), "round {nth}");
        assert_eq!(answers[0].operation.state(), Succeeded);
        assert!(answers.iter().all(|answer| answer.operation == answers[0].operation), "{answers:?}");
        assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1, "one did it: {answers:?}");
    };
    iter(0..ROUNDS).map(round).buffer_unordered(8).collect::<Vec<()>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_keys_on_one_transaction_are_never_both_open_whichever_replica_has_them() {
    const ROUNDS: usize = 200;
    let database = shared().database();
    let app = TestApp::start_with(on(database.clone())).await;
    let (second, third) = (another(&app).await, another(&app).await);
    let callers = [app.orders().await, second.0, third.0];
    let (database, done) = (name(&database), AtomicBool::new(false));
    let sql = |sql: &str| shared().primary.sql(database, sql);
    let round = async |nth: usize| {
        let (keys, card) = ([format!("a-{nth}"), format!("b-{nth}")], app.world.card().await);
        let calls = (0..6).map(|call| {
            let amount = [100, 200][call % 2];
            insist(&callers[(nth + call) % 3], &keys[call % 2], &card, amount)
        });
        let answers = join_all(calls).await;
        for (call, answer) in answers.iter().enumerate() {
            assert_eq!(answer.operation, answers[call % 2].operation, "one answer for each key");
            assert_eq!(answer.operation.state(), Succeeded);
        }
        let mut moved = app.moved(&card).await;
        moved.sort_unstable();
        assert_eq!(moved, [("capture".to_owned(), 100), ("capture".to_owned(), 200)], "round {nth}");
        assert_eq!(app.posts(&card).await, 2);
    };
    let rounds = async {
        iter(0..ROUNDS).map(round).buffer_unordered(8).collect::<Vec<()>>().await;
        done.store(true, Ordering::Release);
    };
    let watching = async {
        let (mut looks, mut open_at_most) = (0, 0);
        while !done.load(Ordering::Acquire) {
            let open = "SELECT count(*), count(DISTINCT transaction_id) FROM payops.operations WHERE open";
            let seen = tokio::task::block_in_place(|| sql(open));
            let (open, transactions) = seen.split_once('|').unwrap();
            assert_eq!(open, transactions, "a transaction with two open operations");
            open_at_most = open_at_most.max(open.parse::<u32>().unwrap());
            looks += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("looked {looks} times, and saw up to {open_at_most} open");
        assert!(open_at_most > 0, "it looked while something was open");
    };
    futures::join!(rounds, watching);
    let sum = "SELECT count(*), sum((record::jsonb #>> '{operation,action,capture,amount}')::int)
               FROM payops.operations WHERE state = 'succeeded'";
    assert_eq!(sql(sum), format!("{}|{}", 2 * ROUNDS, 300 * ROUNDS), "both books say the same");
}

/// How long after the first answer the second caller has its own.
async fn behind(app: &TestApp, (one, other): (&Caller, &Caller), key: &str) -> Duration {
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 150})).await;
    let timed = async |caller: &Caller| {
        let answer = caller.capture(key, &card, AMOUNT).await.unwrap();
        (answer, Instant::now())
    };
    let second = async {
        eventually("it is recorded", async || other.operation(key).await.is_ok()).await;
        timed(other).await
    };
    let (first, second) = futures::join!(timed(one), second);
    assert_eq!(first.0.operation, second.0.operation);
    assert_eq!((first.0.replayed, second.0.replayed), (false, true));
    assert_eq!(app.world.requests(&card).await.len(), 1, "the second caller costs the PSP nothing");
    second.1.saturating_duration_since(first.1)
}

/// By polling alone every other one would wait for half a second and more.
#[tokio::test(flavor = "multi_thread")]
async fn the_second_caller_is_answered_at_once_when_the_first_one_is() {
    let app = TestApp::start_with(on(shared().database())).await;
    let (one, (other, _guard)) = (app.orders().await, another(&app).await);
    let mut behinds = Vec::new();
    for nth in 0..20 {
        behinds.push(behind(&app, (&one, &other), &format!("k-{nth}")).await);
    }
    behinds.sort_unstable();
    println!("behind the first answer: {:?} (median), {:?} (longest)", behinds[10], behinds[19]);
    assert!(behinds[17] < POLL / 3, "{behinds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_news_comes_the_second_caller_is_answered_by_looking() {
    let database = shared().database();
    let app = TestApp::start_with(on(database.clone())).await;
    let (one, (other, _guard)) = (app.orders().await, another(&app).await);
    let sql = |sql: &str| shared().primary.sql(name(&database), sql);
    // Whoever was listening is cut off, and nobody can tell any more.
    let listening = "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'";
    eventually("both listen", async || sql(&format!("SELECT count(*) {listening}")) == "2").await;
    sql("REVOKE EXECUTE ON FUNCTION pg_notify(text, text) FROM PUBLIC");
    sql(&format!("SELECT pg_terminate_backend(pid) {listening}"));
    for nth in 0..5 {
        let behind = behind(&app, (&one, &other), &format!("k-{nth}")).await;
        assert!(behind < 3 * POLL, "{behind:?}");
    }
}

/// The second caller waits as long as it wants to, and not longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_caller_without_patience_is_told_that_it_is_under_way() {
    let app = TestApp::start_with(on(shared().database())).await;
    let (one, (other, guard)) = (app.orders().await, another(&app).await);
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 2_000})).await;
    let first = tokio::spawn({
        let (one, card) = (one.clone(), card.clone());
        async move { one.capture("k", &card, AMOUNT).await }
    });
    eventually("it is recorded", async || other.operation("k").await.is_ok()).await;
    let mut request = other.keyed("k", capture(&card, AMOUNT));
    request.set_timeout(Duration::from_millis(300));
    let told = outcome(other.client.clone().capture(request).await, |m| m.operation).unwrap_err();
    assert_eq!((told.code, told.reason()), (Code::Aborted, "OPERATION_IN_PROGRESS"));
    assert_eq!(told.metadata("safe_to_use_new_key"), Some("false"));
    // Another meaning does not wait.
    let reused = other.capture("k", &card, AMOUNT - 1).await.unwrap_err();
    assert_eq!(reused.reason(), "IDEMPOTENCY_KEY_REUSED");
    // Nor does a replica that has to end.
    let waiting = tokio::spawn({
        let (other, card) = (other.clone(), card.clone());
        async move { other.capture("k", &card, AMOUNT).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(guard);
    assert_eq!(waiting.await.unwrap().unwrap_err().reason(), "OPERATION_IN_PROGRESS");
    assert!(!first.is_finished());
    assert_eq!(first.await.unwrap().unwrap().operation.state(), Succeeded);
    assert_eq!(app.posts(&card).await, 1);
}

/// What the first one could not do is the answer for the second, and sends nothing either.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_caller_hears_what_the_first_one_came_to_whatever_it_is() {
    let app = TestApp::start_with(|config| {
        on(shared().database())(config);
        crate::support::read_on_request_only(config);
        config.psp.attempt_timeout = Duration::from_millis(500);
    })
    .await;
    let (one, (other, _guard)) = (app.orders().await, another(&app).await);
    let cases = [
        (
            json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 5_000}),
            AMOUNT,
            "OUTCOME_UNKNOWN",
        ),
        (
            json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 300}),
            2 * AMOUNT,
            "AMOUNT_EXCEEDS_REMAINING",
        ),
    ];
    for (fault, amount, reason) in cases {
        let card = app.world.card().await;
        app.world.fault(fault).await;
        let second = async {
            eventually("it is recorded", async || other.operation(reason).await.is_ok()).await;
            other.capture(reason, &card, amount).await
        };
        let (first, second) = futures::join!(one.capture(reason, &card, amount), second);
        let (first, second) = (first.unwrap_err(), second.unwrap_err());
        assert_eq!((first.reason(), second.reason()), (reason, reason));
        assert_eq!(first.metadata("operation_id"), second.metadata("operation_id"));
        assert_eq!(app.posts(&card).await, 1);
        app.world.clear_faults().await;
    }
}

/// A replica that died after it had recorded the key: once its lease is over, whoever waits looks for itself.
#[tokio::test(flavor = "multi_thread")]
async fn when_the_sender_is_dead_the_second_caller_reads_back() {
    let database = shared().database();
    let app = TestApp::start_with(on(database.clone())).await;
    let orders = app.orders().await;
    let settings = Settings {
        postgres: database,
        terms: Terms { new: false, ..Terms::beginning() },
        audit: payops::journal::audit::Key::none(),
    };
    let (dead, clock): (Postgres, Clock) = Postgres::open(&settings).await.unwrap();
    for took_effect in [true, false] {
        let (key, card) = (format!("k-{took_effect}"), app.world.card().await);
        let mut entry = super::recorded("orders", &key, &card, AMOUNT, clock.now());
        entry.lease_until = clock.now() + Duration::from_secs(2);
        entry.reading.next_at = Some(entry.lease_until + Duration::from_mins(1));
        assert_eq!(dead.insert(entry.clone()).await.unwrap(), Written::Done);
        if took_effect {
            let body = json!({"amount": AMOUNT, "capture_reference": Entry::tag(&entry).to_string()});
            app.world.post(&format!("/v1/transactions/{card}/capture"), &body).await.expect(200);
        }
        let began = Instant::now();
        let answer = orders.capture(&key, &card, AMOUNT).await;
        let waited = began.elapsed();
        assert!((Duration::from_millis(1_500)..Duration::from_secs(10)).contains(&waited), "{waited:?}");
        match answer {
            Ok(answer) => {
                assert!(took_effect && answer.replayed);
                assert_eq!(answer.operation.state(), OperationState::Succeeded);
            }
            Err(unknown) => {
                assert_eq!((took_effect, unknown.reason()), (false, "OUTCOME_UNKNOWN"));
            }
        }
        assert_eq!(app.posts(&card).await, usize::from(took_effect), "nothing is sent a second time");
    }
}
