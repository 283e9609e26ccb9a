//! Once a day the two books are held against each other: what nobody asks for is found all the same.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use payops::config::Config;
use payops::grpc::pb::OperationState::{Declined, InReview, Succeeded};
use reqwest::Method;
use serde_json::{Value, json};

use crate::sandbox::world::{AMOUNT, World, chair_and_shipping};
use crate::support::{Answered, Caller, TestApp, eventually};

const UNOWNED: &str = "the PSP shows what the journal does not know";
const DIFFERS: &str = "the PSP does not show what the journal says";
const COMPLETE: &str = "the journal was compared with the PSP";

/// A day that takes a moment.
fn quick(config: &mut Config) {
    config.sweep.every = Duration::from_millis(150);
    config.exactly_once.settle_max = Duration::from_millis(100);
    config.exactly_once.read_lag_max = Duration::from_millis(100);
}

/// What a boundary on this thread logs, a line each.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn lines(&self) -> Vec<String> {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
    }

    fn count(&self, text: &str) -> usize {
        self.lines().iter().filter(|line| line.contains(text)).count()
    }

    fn errors(&self) -> Vec<String> {
        self.lines().into_iter().filter(|line| line.contains("ERROR")).collect()
    }

    /// Waits until everything that is there now has been compared.
    async fn compared(&self) {
        // One may be under way, and what is young is excused.
        let begun = Instant::now();
        eventually("it settles", async || begun.elapsed() > Duration::from_millis(250)).await;
        let before = self.count(COMPLETE);
        eventually("two more comparisons", async || self.count(COMPLETE) >= before + 2).await;
    }

    /// Waits for the incident of a transaction, and gives its line.
    async fn incident(&self, message: &str, transaction: &str) -> String {
        let found =
            || self.errors().into_iter().find(|line| line.contains(message) && line.contains(transaction));
        eventually(&format!("{message}: {transaction}"), async || found().is_some()).await;
        found().unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An event as it is written, on a transaction that is otherwise left as it is.
async fn append(world: &World, transaction: &str, event: Value) {
    world.admin(Method::POST, &format!("/transactions/{transaction}/events"), event).await.expect(200);
}

async fn backoffice_capture(world: &World, transaction: &str, amount: i64) {
    let body = json!({ "kind": "capture", "amount": amount });
    world.admin(Method::POST, &format!("/transactions/{transaction}/backoffice"), body).await.expect(200);
}

async fn lists(world: &World) -> usize {
    let requests = world.admin(Method::GET, "/requests", Value::Null).await.json();
    requests.as_array().unwrap().iter().filter(|request| request["operation"] == "list").count()
}

async fn captured(orders: &Caller, card: &str) -> Answered {
    let answered = orders.capture(card, card, 100).await.unwrap();
    assert_eq!(answered.operation.state(), Succeeded);
    answered
}

#[tokio::test]
async fn books_that_agree_are_quiet() {
    let (log, _listening) = Log::listen();
    let app = TestApp::start_with(quick).await;
    let (orders, world) = (app.orders().await, &app.world);
    let [whole, part, void, theirs, no, twice] = [
        world.card().await,
        world.of("vipps").await,
        world.card().await,
        world.card().await,
        world.card().await,
        world.card().await,
    ];
    orders.capture("whole", &whole, AMOUNT).await.unwrap();
    orders.refund("back", &whole, 1_000).await.unwrap();
    orders.refund("back-again", &whole, 1_000).await.unwrap();
    orders.capture("part", &part, 100).await.unwrap();
    orders.void("rest", &part).await.unwrap();
    orders.void("void", &void).await.unwrap();
    backoffice_capture(world, &theirs, 100).await;
    world.fault(json!({ "operation": "capture", "transaction": no, "fault": "success_false" })).await;
    orders.capture("no", &no, 100).await.unwrap_err();
    captured(&orders, &twice).await;
    captured(&orders, &twice).await;
    let later = "T12345678.demoSwish0000000000001";
    world.admin(Method::PUT, "/settings", json!({ "asynchronous_delay_ms": 50 })).await.expect(200);
    orders.refund("later", later, 100).await.unwrap();
    log.compared().await;
    assert_eq!(log.errors(), Vec::<String>::new());
    let line = log.lines().into_iter().rfind(|line| line.contains(COMPLETE)).unwrap();
    assert!(line.contains("incidents=0 unreadable=0"), "{line}");
    // Whole: 3, part: 2, void: 1, twice: 1, later: the beginning of 1 at least.
    let events = line.split("events=").nth(1).unwrap().split(' ').next().unwrap();
    assert!(events.parse::<usize>().unwrap() >= 8, "{line}");
}

#[tokio::test]
async fn an_effect_in_our_name_that_no_operation_owns_is_told_once_in_each_comparison() {
    let (log, _listening) = Log::listen();
    let app = TestApp::start_with(quick).await;
    let (captured, refunded) = (app.world.card().await, app.world.card().await);
    // It says that it is payops, and is none of ours.
    app.world.capture(&captured, 100).await.expect(200);
    backoffice_capture(&app.world, &refunded, 100).await;
    // Captured by a person, given back under a reference of our form.
    let body = json!({ "amount": 50, "refund_reference": "return-abcdefghij234" });
    let request = app.world.request(Method::POST, &format!("/v1/transactions/{refunded}/refund"));
    let request =
        request.bearer_auth(&app.world.token).header("user-agent", "other/1").body(body.to_string());
    assert_eq!(request.send().await.unwrap().status(), 200);
    let line = log.incident(UNOWNED, &captured).await;
    assert!(line.contains("CAPTURE of 100 minor units, reference cap-1, by payops/test"), "{line}");
    let line = log.incident(UNOWNED, &refunded).await;
    assert!(line.contains("REFUND of 50 minor units, reference return-abcdefghij234"), "{line}");
    log.compared().await;
    let lines = log.lines();
    for comparison in lines.split(|line| line.contains(COMPLETE)) {
        for transaction in [&captured, &refunded] {
            let told = comparison.iter().filter(|line| line.contains(transaction.as_str())).count();
            assert!(told <= 1, "{comparison:?}");
        }
    }
}

#[tokio::test]
async fn what_was_lost_with_the_journal_is_found() {
    let (log, _listening) = Log::listen();
    let mut app = TestApp::start_with(|config| {
        quick(config);
        // Nobody compares before the loss, and then only what is younger, or lost.
        config.sweep.look_back = Duration::from_millis(400);
        config.sweep.look_back_after_loss = Duration::from_mins(10);
    })
    .await;
    let card = app.world.card().await;
    captured(&app.orders().await, &card).await;
    app.drain().await;
    assert_eq!(log.errors(), Vec::<String>::new());
    let lost = Instant::now();
    std::fs::remove_dir_all(&app.config.journal.directory).unwrap();
    app.config.journal.new = false;
    eventually("it is older than what is looked at", async || lost.elapsed() > Duration::from_millis(500))
        .await;
    app.restart_after_drain().await;
    log.incident(UNOWNED, &card).await;
    // The caller comes again, and the books agree.
    app.config.exactly_once.loss_quiet = Duration::from_millis(1);
    app.restart().await;
    assert_eq!(app.orders().await.capture(&card, &card, 100).await.unwrap().operation.state(), Succeeded);
    log.compared().await;
    let told = log.count(&card);
    log.compared().await;
    assert_eq!(log.count(&card), told);
}

#[tokio::test]
async fn a_success_that_the_psp_does_not_show_any_more_is_an_incident() {
    let (log, _listening) = Log::listen();
    let app = TestApp::start_with(quick).await;
    let orders = app.orders().await;
    let (gone, void, withdrawn) = (app.world.card().await, app.world.card().await, app.world.card().await);
    captured(&orders, &gone).await;
    orders.void("void", &void).await.unwrap();
    log.compared().await;
    assert_eq!(log.errors(), Vec::<String>::new());
    // Dintero forgets: nothing was captured, and its list does not have it.
    app.world.admin(Method::POST, "/reset", json!({})).await.expect(204);
    for id in [&gone, &void, &withdrawn] {
        app.world.make(json!({ "id": id, "items": chair_and_shipping() })).await;
    }
    for id in [&gone, &void] {
        let line = log.incident(DIFFERS, id).await;
        assert!(line.contains("it succeeded, and the PSP shows no event of it"), "{line}");
    }
    // Dintero takes a success back, as it documents.
    let operation = captured(&orders, &withdrawn).await.operation;
    append(
        &app.world,
        &withdrawn,
        json!({
            "event": "CAPTURE", "success": false, "event_reference": operation.event_reference,
            "correction": {
                "status": "AUTHORIZED", "remaining_capture_amount": AMOUNT, "remaining_refund_amount": 0,
                "remaining_void_amount": AMOUNT
            }
        }),
    )
    .await;
    let line = log.incident(DIFFERS, &withdrawn).await;
    assert!(line.contains(&operation.operation_id) && line.contains("correction"), "{line}");
    // What was answered stays answered.
    assert_eq!(orders.operation(&withdrawn).await.unwrap().state(), Succeeded);
}

#[tokio::test]
async fn another_sum_is_an_incident() {
    let (log, _listening) = Log::listen();
    let app = TestApp::start_with(quick).await;
    let card = app.world.card().await;
    let operation = captured(&app.orders().await, &card).await.operation;
    // Something between repeats it, hours later.
    let again = json!({ "amount": 30, "capture_reference": operation.event_reference });
    app.world.post(&format!("/v1/transactions/{card}/capture"), &again).await.expect(200);
    let line = log.incident(DIFFERS, &card).await;
    let why = "130 minor units moved where 100 were asked for";
    assert!(line.contains(why) && line.contains(&operation.operation_id), "{line}");
}

#[tokio::test]
async fn an_effect_after_a_decline_is_recorded_and_told_although_nobody_asks() {
    let (log, _listening) = Log::listen();
    let app = TestApp::start_with(quick).await;
    let (orders, card) = (app.orders().await, app.world.card().await);
    app.world.fault(json!({ "operation": "capture", "fault": "bad_request" })).await;
    orders.capture("k", &card, 100).await.unwrap_err();
    let declined = orders.settled("k", Declined).await;
    let late = json!({ "amount": 100, "capture_reference": declined.event_reference });
    app.world.post(&format!("/v1/transactions/{card}/capture"), &late).await.expect(200);
    orders.settled("k", InReview).await;
    log.incident("an operation took effect after it had been declined", &card).await;
    log.compared().await;
    assert_eq!((log.count(UNOWNED), log.count(DIFFERS)), (0, 0));
    assert_eq!(log.count("an assumption about the PSP broke"), 1, "from then on it is the review's");
}

#[tokio::test]
async fn a_page_that_fails_is_asked_for_again() {
    for fault in [
        json!({ "operation": "list", "fault": "internal_error" }),
        json!({ "operation": "list", "fault": "truncated_json" }),
        json!({ "operation": "list", "fault": "rate_limited", "retry_after": 1 }),
        json!({ "operation": "list", "fault": "unauthorized_once" }),
    ] {
        let (log, _listening) = Log::listen();
        let world = World::start().await;
        let card = world.card().await;
        world.capture(&card, 100).await.expect(200);
        world.fault(fault.clone()).await;
        let app = TestApp::start_in(world, quick).await;
        log.incident(UNOWNED, &card).await;
        let waiting = app.world.admin(Method::GET, "/faults", Value::Null).await.json();
        assert_eq!(waiting, json!([]), "{fault} struck");
        assert_eq!(log.count("incomplete"), 0);
    }
}

#[tokio::test]
async fn everything_is_found_behind_the_first_page() {
    let (log, _listening) = Log::listen();
    let world = World::start().await;
    // The list begins with the newest.
    let first = world.card().await;
    world.capture(&first, 100).await.expect(200);
    for _ in 0..210 {
        world.make(json!({ "amount": 100, "status": "CAPTURED" })).await;
    }
    let before = lists(&world).await;
    let app = TestApp::start_in(world, quick).await;
    log.incident(UNOWNED, &first).await;
    eventually("it is complete", async || log.count(COMPLETE) > 0).await;
    let line = log.lines().into_iter().find(|line| line.contains(COMPLETE)).unwrap();
    let transactions = line.split("transactions=").nth(1).unwrap().split(' ').next().unwrap();
    assert!(transactions.parse::<usize>().unwrap() >= 211, "{line}");
    // Three pages of captures and one that says that there is no more; the same of refunds, which are few.
    assert!(lists(&app.world).await >= before + 4);
}

#[tokio::test]
async fn after_a_restart_it_goes_on_where_the_last_complete_one_began() {
    let (log, _listening) = Log::listen();
    let mut app = TestApp::start_with(|config| {
        quick(config);
        config.sweep.look_back = Duration::from_millis(400);
    })
    .await;
    eventually("it is complete", async || log.count(COMPLETE) > 0).await;
    app.drain().await;
    let card = app.world.card().await;
    app.world.capture(&card, 100).await.expect(200);
    let moved = Instant::now();
    eventually("it is older than what is looked at", async || moved.elapsed() > Duration::from_millis(700))
        .await;
    app.restart_after_drain().await;
    log.incident(UNOWNED, &card).await;
    log.compared().await;
    let told = log.count(&card);
    log.compared().await;
    assert_eq!(log.count(&card), told, "and no further back than that");
}

#[tokio::test]
async fn it_is_made_unless_it_is_switched_off() {
    let (log, _listening) = Log::listen();
    let app = TestApp::start_with(|config| {
        quick(config);
        config.sweep.every = Duration::ZERO;
    })
    .await;
    assert_eq!(log.count("the journal is not compared with the PSP"), 1);
    // A whole read-back later nothing was listed.
    captured(&app.orders().await, &app.world.card().await).await;
    assert_eq!((lists(&app.world).await, log.count(COMPLETE)), (0, 0));
}
