//! What a platform sees: health, readiness, reflection.

use std::time::Duration;

use payops::grpc::pb::health::{HealthCheckRequest, HealthListRequest, health_check_response::ServingStatus};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio_stream::StreamExt as _;
use tonic::Code;

use crate::support::{REVIEW_SERVICE, SERVICE, TestApp, eventually, free_address};

fn check(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test]
async fn health_answers_for_the_server_for_each_service_and_for_nobody_else() {
    let app = TestApp::start().await;
    let mut health = app.health();
    for name in ["", SERVICE, REVIEW_SERVICE, "liveness", "startup"] {
        let answer = health.check(check(name)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{name:?}");
    }
    for stranger in ["payops.v1.NoSuchService", "payops.v1", " "] {
        let refused = health.check(check(stranger)).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{stranger:?}");
    }
    let listed = health.list(HealthListRequest::default()).await.unwrap().into_inner().statuses;
    let mut names: Vec<_> = listed.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["", "liveness", REVIEW_SERVICE, SERVICE, "startup"]);
}

/// A probe brings no credentials.
#[tokio::test]
async fn readiness_is_lost_with_the_psps_credentials_and_comes_back_with_them() {
    let app = TestApp::start().await;
    let mut health = app.health();
    let mut watched = health.watch(check(SERVICE)).await.unwrap().into_inner();
    assert_eq!(watched.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let set = async |secret: &str| {
        let client = json!({ "client_id": "sandbox-client", "client_secret": secret });
        app.world.admin(reqwest::Method::PUT, "/clients/T12345678", client).await.expect(204);
    };
    set("another-secret").await;
    app.world.admin(reqwest::Method::POST, "/tokens/expire", json!({})).await.expect(200);
    // The old token is found out by the next call, and the secret by the next token.
    let demo = "T12345678.demoCard00000000000001";
    let orders = app.orders().await;
    let refused = orders.transaction(demo).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::Internal, "PSP_CREDENTIALS_REJECTED"));
    assert_eq!(watched.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    let alive = health.check(check("liveness")).await.unwrap().into_inner();
    assert_eq!(alive.status(), ServingStatus::Serving, "a restart would not mend it");
    set("sandbox-secret").await;
    assert_eq!(watched.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    orders.transaction(demo).await.unwrap();
}

/// Without a journal nothing is sent, and that is told; it serves again without a restart.
#[tokio::test]
async fn readiness_is_lost_with_the_journal_and_comes_back_with_it() {
    let app = TestApp::start().await;
    let card = app.world.card().await;
    let orders = app.orders().await;
    let mut watched = app.health().watch(check(SERVICE)).await.unwrap().into_inner();
    assert_eq!(watched.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    // Somebody else holds the file's write lock.
    let other = rusqlite::Connection::open(app.config.journal.directory.join("journal.sqlite")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = orders.capture("k", &card, 1).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::Unavailable, "JOURNAL_UNAVAILABLE"));
    assert_eq!(app.posts(&card).await, 0);
    assert_eq!(watched.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(watched.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    orders.capture("k", &card, 1).await.unwrap();
    assert_eq!(app.posts(&card).await, 1);
}

#[tokio::test]
async fn a_boundary_that_has_never_had_credentials_is_not_ready() {
    let dead = format!("http://{}", free_address());
    let app = TestApp::start_unready(|config| config.psp.token_base_url = dead.parse().unwrap()).await;
    let mut health = app.health();
    let liveness = async || {
        health.clone().check(check("liveness")).await.is_ok_and(|answer| answer.get_ref().status == 1)
    };
    eventually("the process lives", liveness).await;
    let answer = health.check(check(SERVICE)).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing);
    let refused = app.orders().await.transaction("T12345678.demoCard00000000000001").await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::Unavailable, "PSP_UNREACHABLE"));
}

/// Older grpcurl, grpcui and Postman know only v1alpha; newer ones ask for v1 first.
#[tokio::test]
async fn reflection_is_served_in_v1_and_in_v1alpha() {
    let app = TestApp::start().await;
    let channel = app.channel().await;
    macro_rules! listed {
        ($version:ident) => {{
            use tonic_reflection::pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
            };
            let request = ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::ListServices(String::new())),
            };
            let mut client = ServerReflectionClient::new(channel.clone());
            let mut answers =
                client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
            match answers.next().await.unwrap().unwrap().message_response {
                Some(MessageResponse::ListServicesResponse(list)) => {
                    list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
                }
                other => panic!("{other:?}"),
            }
        }};
    }
    for names in [listed!(v1), listed!(v1alpha)] {
        for ours in [SERVICE, REVIEW_SERVICE] {
            assert!(names.contains(&ours.to_owned()), "{names:?}");
        }
        assert!(names.contains(&"grpc.health.v1.Health".to_owned()), "{names:?}");
    }
}

#[tokio::test]
async fn reflection_can_be_switched_off() {
    let app = TestApp::start_with(|config| config.server.reflection = false).await;
    let request = tonic_reflection::pb::v1::ServerReflectionRequest::default();
    let mut client =
        tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(app.channel().await);
    let refused = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}

#[tokio::test]
async fn streams_have_a_limit_and_one_more_is_told_so() {
    let app = TestApp::start_with(|config| config.server.watch_max = 1).await;
    let orders = app.orders().await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "answer_lost_before_applying"})).await;
    orders.capture("k", &card, 1).await.unwrap_err();
    let mut first = orders.watch("k").await.unwrap();
    first.next().await.unwrap().unwrap();
    let refused = orders.watch("k").await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::ResourceExhausted, "OVERLOADED"));
    drop(first);
    eventually("the place is free again", async || orders.watch("k").await.is_ok()).await;
}

/// Nothing is under way, nobody is connected: the server may end before the stop is heard of, or after.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_boundary_stops_whichever_is_heard_first() {
    for _ in 0..20 {
        let mut app = TestApp::start().await;
        app.drain().await;
    }
}

/// A connection that never says a word (a port scanner, a probe, a peer that vanished).
#[tokio::test]
async fn a_silent_connection_does_not_hold_up_the_end() {
    let mut app = TestApp::start_with(|config| config.server.drain_timeout = Duration::from_secs(30)).await;
    let silent = tokio::net::TcpStream::connect(app.address).await.unwrap();
    // It is accepted before this call is.
    app.orders().await.transaction("T12345678.demoCard00000000000001").await.unwrap();
    let started = std::time::Instant::now();
    app.drain().await;
    let took = started.elapsed();
    drop(silent);
    assert!(took < Duration::from_secs(4), "the drain took {took:?}");
}

/// A port scanner, a probe, a peer that vanished.
#[tokio::test]
async fn silent_connections_do_not_keep_their_places() {
    let app = TestApp::start_with(|config| config.server.connections_max = 2).await;
    let connect = || tokio::net::TcpStream::connect(app.address);
    let _silent = [connect().await.unwrap(), connect().await.unwrap()];
    let mut half = connect().await.unwrap();
    // Half of what every client says first is not enough.
    half.write_all(b"PRI * HTTP/2").await.unwrap();
    let orders = app.orders().await;
    let served = orders.transaction("T12345678.demoCard00000000000001");
    // Sooner than they would have to go for their silence alone.
    tokio::time::timeout(Duration::from_secs(4), served).await.expect("somebody is served").unwrap();
}
