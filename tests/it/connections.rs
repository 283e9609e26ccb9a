//! Connections: how many, how long, and what has to be said on them.

use std::time::{Duration, Instant};

use h2::Reason;
use serde_json::json;
use tokio_stream::StreamExt as _;
use tonic::Code;

use crate::bad_input::wire::Raw;
use crate::frames::{ACK, END_HEADERS, Frame, PING, SETTINGS, WINDOW_UPDATE, Wire};
use crate::support::{Caller, SERVICE, TestApp, eventually};
use payops::grpc::pb;

const DEMO: &str = "T12345678.demoCard00000000000001";

/// An operation that stays open, and a stream that watches it: a connection that is busy for as long as that lives.
async fn busy(app: &TestApp, key: &str) -> (Caller, tonic::Streaming<pb::WatchOperationResponse>) {
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "answer_lost_before_applying"})).await;
    orders.capture(key, &card, 1).await.unwrap_err();
    let mut watched = orders.watch(key).await.unwrap();
    watched.next().await.unwrap().unwrap();
    (orders, watched)
}

#[tokio::test]
async fn where_every_place_is_taken_the_longest_idle_connection_goes() {
    let app = TestApp::start_with(|config| config.server.connections_max = 2).await;
    // The test's own connection for health is gone for the first of these.
    let mut first = Wire::greeted(app.address).await;
    let mut second = Wire::greeted(app.address).await;
    assert!(second.answers_pings().await);
    let orders = app.orders().await;
    orders.transaction(DEMO).await.unwrap();
    assert_eq!(first.goodbye().await, Some(Reason::NO_ERROR));
    // The other one is there still, and so are those who are served.
    assert!(second.answers_pings().await);
    orders.transaction(DEMO).await.unwrap();
}

#[tokio::test]
async fn where_every_connection_is_busy_others_wait_for_a_place() {
    let app = TestApp::start_with(|config| config.server.connections_max = 2).await;
    let first = busy(&app, "one").await;
    let _second = busy(&app, "two").await;
    let lazy = tonic::transport::Channel::from_shared(format!("http://{}", app.address)).unwrap();
    let client =
        pb::payment_operations_service_client::PaymentOperationsServiceClient::new(lazy.connect_lazy());
    let third = Caller { token: first.0.token.clone(), client };
    let waiting = tokio::time::timeout(Duration::from_millis(300), third.transaction(DEMO)).await;
    assert!(waiting.is_err(), "it is not served while both are busy");
    drop(first);
    eventually("it is served", async || third.transaction(DEMO).await.is_ok()).await;
}

/// It greets, answers pings, and never makes a call: for this a connection is not kept.
#[tokio::test]
async fn a_connection_without_a_first_call_ends() {
    let app =
        TestApp::start_with(|config| config.server.first_call_timeout = Duration::from_millis(300)).await;
    let mut wire = Wire::greeted(app.address).await;
    let begun = Instant::now();
    // A head that never ends is no call either.
    let head = Frame::call(1, 0, &format!("/{SERVICE}/Capture"), Some("token-of-orders"));
    let mut slow = Wire::greeted(app.address).await;
    slow.send(&head).await.unwrap();
    assert_eq!(wire.goodbye().await, Some(Reason::NO_ERROR));
    slow.rest().await;
    let took = begun.elapsed();
    assert!((Duration::from_millis(250)..Duration::from_secs(4)).contains(&took), "{took:?}");
}

/// It is told before it is closed, so that no call is lost, and its client makes another one when it needs it.
#[tokio::test]
async fn an_idle_connection_ends_and_a_busy_one_does_not() {
    let app =
        TestApp::start_with(|config| config.server.connection_idle_max = Duration::from_millis(300)).await;
    let (orders, mut watched) = busy(&app, "k").await;
    let mut idle = Wire::greeted(app.address).await;
    let flags = END_HEADERS | crate::frames::END_STREAM;
    idle.send(&Frame::call(1, flags, "/none", Some("token-of-orders"))).await.unwrap();
    let begun = Instant::now();
    let said = idle.rest().await;
    let reasons: Vec<_> = said.iter().filter_map(Frame::reason).collect();
    assert_eq!(reasons.first(), Some(&Reason::NO_ERROR));
    assert!(begun.elapsed() >= Duration::from_millis(250));
    let next = tokio::time::timeout(Duration::from_millis(800), watched.next()).await;
    assert!(next.is_err(), "the stream is still open, with no news: {next:?}");
    drop(watched);
    // Longer than a connection may be idle: the next call makes a new one.
    tokio::time::sleep(Duration::from_millis(800)).await;
    orders.transaction(DEMO).await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_answer_pings_is_gone() {
    let app = TestApp::start_with(|config| {
        config.server.keepalive_interval = Duration::from_millis(200);
        config.server.keepalive_timeout = Duration::from_millis(200);
    })
    .await;
    let mut deaf = Wire::greeted(app.address).await;
    let said = deaf.rest().await;
    assert!(said.iter().any(|frame| frame.kind == PING && frame.flags & ACK == 0), "{said:?}");
    // And the pings of a client are answered.
    assert!(Wire::greeted(app.address).await.answers_pings().await);
}

/// What the server lets a client do, as it says at the start.
#[tokio::test]
async fn every_bound_of_http2_is_told() {
    let app = TestApp::start().await;
    let mut wire = Wire::greeted(app.address).await;
    let (mut settings, mut window) = (Vec::new(), 65_535);
    while settings.is_empty() || window == 65_535 {
        let frame = wire.next().await.unwrap();
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => settings = frame.settings(),
            WINDOW_UPDATE => window += u32::from_be_bytes(frame.payload.try_into().unwrap()),
            _ => {}
        }
    }
    let of = |which| settings.iter().find(|(name, _)| *name == which).map(|(_, value)| *value);
    // RFC 9113, 6.5.2: streams, the window of each, the longest frame, the longest headers.
    assert_eq!([3, 4, 5, 6].map(of), [256, 64 * 1024, 16 * 1024, 16 * 1024].map(Some));
    assert_eq!(window, 256 * 1024);
}

/// The longest token that is looked at, a key, a trace, and what proxies add: all within the headers of a call.
#[tokio::test]
async fn the_longest_token_fits_into_the_headers() {
    let app = TestApp::start().await;
    let call = Raw::rpc("Capture", &crate::support::capture(DEMO, 1))
        .with("authorization", format!("Bearer {}", "t".repeat(8192)))
        .with("idempotency-key", "k".repeat(128))
        .with("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .with("x-of-proxies", "p".repeat(4096));
    let answer = call.send(app.address).await.unwrap();
    assert_eq!(answer.code(), Some(Code::Unauthenticated));
    let told = answer.grpc.unwrap();
    assert!(told.status.message().contains("not known"), "{}", told.status.message());
}
