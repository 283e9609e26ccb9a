//! TLS towards callers: what is spoken, for how long, with which certificate, and what is beside it.

use std::time::{Duration, Instant};

use payops::grpc::pb::{
    health::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient},
    payment_operations_service_client::PaymentOperationsServiceClient,
};
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::rustls::version::TLS12;
use tonic::{Code, transport::Channel};

use super::pki::{Authority, Client, boundary, write};
use crate::place::{Place, ended, run, signal, text};
use crate::support::{Caller, SERVICE, TestApp, eventually, free_address};

const DEMO: &str = "T12345678.demoCard00000000000001";

/// The caller of most tests, over this channel.
pub fn orders(channel: Channel) -> Caller {
    Caller { token: "token-of-orders".to_owned(), client: PaymentOperationsServiceClient::new(channel) }
}

#[tokio::test]
async fn callers_are_served_by_tls_and_by_nothing_less() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let app = boundary(write(folder.path(), &authority.server(), None), |_| ()).await;
    let good = Client::of(&authority);
    orders(good.channel(&app)).capture("k", DEMO, 100).await.unwrap();

    // What a plain client says is no handshake.
    let plain = Channel::from_shared(format!("http://{}", app.address)).unwrap().connect_lazy();
    let refused = orders(plain).transaction(DEMO).await.unwrap_err();
    assert_eq!(refused.reason(), "", "{refused:?}");
    let old = Client { version: &TLS12, ..Client::of(&authority) };
    let error = old.shake(&app).await.unwrap_err().to_string();
    assert!(error.contains("ProtocolVersion"), "{error}");
    // Another protocol's client.
    let other = Client { protocols: &["http/1.1"], ..Client::of(&authority) };
    let error = other.shake(&app).await.unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    // One that names none is hung up on.
    let none = Client { protocols: &[], ..Client::of(&authority) };
    let mut stream = none.shake(&app).await.unwrap();
    let mut received = Vec::new();
    drop(stream.read_to_end(&mut received).await);
    assert!(received.is_empty(), "{received:?}");
    // The server of another authority is not what such a client wants.
    let stranger = Authority::new();
    let error = Client::of(&stranger).shake(&app).await.unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
    orders(good.channel(&app)).capture("k", DEMO, 100).await.unwrap();
}

/// A session that is taken up again would bring what an earlier handshake had proven.
#[tokio::test]
async fn no_session_is_taken_up_again() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let app = boundary(write(folder.path(), &authority.server(), None), |_| ()).await;
    let mut stream = Client::of(&authority).shake(&app).await.unwrap();
    // The server's first words inside come after any ticket.
    let mut settings = [0; 9];
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    stream.read_exact(&mut settings).await.unwrap();
    assert_eq!(stream.get_ref().1.tls13_tickets_received(), 0);
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_gives_its_place_to_others() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let mut tls = write(folder.path(), &authority.server(), None);
    (tls.handshakes_max, tls.handshake_timeout) = (2, Duration::from_millis(700));
    let app = boundary(tls, |_| ()).await;
    let connect = || TcpStream::connect(app.address);
    let mut silent = [connect().await.unwrap(), connect().await.unwrap()];
    let waiting = tokio::spawn({
        let orders = orders(Client::of(&authority).channel(&app));
        async move { orders.transaction(DEMO).await }
    });
    let begun = Instant::now();
    // Hung up upon, each of them.
    for stream in &mut silent {
        let mut received = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut received)).await;
        drop(read.expect("it ends"));
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    waiting.await.unwrap().unwrap();
}

/// What is said in the handshake is no call.
#[tokio::test]
async fn a_connection_by_tls_without_a_first_call_ends() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let app = boundary(write(folder.path(), &authority.server(), None), |config| {
        config.server.first_call_timeout = Duration::from_millis(300);
    })
    .await;
    let begun = Instant::now();
    let mut silent = Client::of(&authority).shake(&app).await.unwrap();
    let mut received = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), silent.read_to_end(&mut received)).await;
    drop(read.expect("it ends"));
    let took = begun.elapsed();
    assert!((Duration::from_millis(250)..Duration::from_secs(4)).contains(&took), "{took:?}");
    // Whoever calls at once is served, for longer than that.
    let orders = orders(Client::of(&authority).channel(&app));
    orders.transaction(DEMO).await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    orders.transaction(DEMO).await.unwrap();
}

#[tokio::test]
async fn handshakes_under_way_do_not_hold_up_a_drain() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let mut tls = write(folder.path(), &authority.server(), None);
    tls.handshake_timeout = Duration::from_mins(1);
    let mut app = boundary(tls, |_| ()).await;
    let silent = TcpStream::connect(app.address).await.unwrap();
    orders(Client::of(&authority).channel(&app)).transaction(DEMO).await.unwrap();
    let begun = Instant::now();
    app.drain().await;
    drop(silent);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

/// GOAWAY, not a cut.
#[tokio::test]
async fn a_connection_that_has_its_age_finishes_its_calls_and_takes_no_new_ones() {
    let app = TestApp::start_with(|config| config.server.connection_age_max = Duration::from_secs(1)).await;
    let stream = TcpStream::connect(app.address).await.unwrap();
    let (_client, connection) = h2::client::handshake(stream).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), connection).await.expect("it ends");
    assert!(ended.is_ok(), "{ended:?}");

    app.world.fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 2_500})).await;
    let orders = app.orders().await;
    let begun = Instant::now();
    orders.capture("k", DEMO, 100).await.unwrap();
    assert!(begun.elapsed() > Duration::from_secs(2), "it was under way when the connection had its age");
    // The same client, on a new connection.
    eventually("it is served", async || orders.transaction(DEMO).await.is_ok()).await;
}

#[tokio::test]
async fn health_is_told_without_tls_on_an_address_of_its_own_and_nothing_else_is() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let mut app = boundary(write(folder.path(), &authority.server(), None), |_| ()).await;
    let check = || HealthCheckRequest { service: SERVICE.to_owned() };
    let answer = app.health().check(check()).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    // Beside all the others, by TLS.
    let mut by_tls = HealthClient::new(Client::of(&authority).channel(&app));
    assert_eq!(by_tls.check(check()).await.unwrap().into_inner().status(), ServingStatus::Serving);

    let address = app.config.server.health_listen.unwrap();
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let refused = orders(channel).capture("k", DEMO, 100).await.unwrap_err();
    assert_eq!(refused.code, Code::Unimplemented);
    assert_eq!(app.posts(DEMO).await, 0);

    let mut watched = app.health().watch(check()).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    app.begin_drain();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    app.drained().await;
}

/// The process, its files replaced while it runs.
#[tokio::test]
async fn certificates_are_replaced_without_a_restart_and_wrong_ones_refused_once() {
    let (old, new) = (Authority::new(), Authority::new());
    let place = Place::new().await;
    let probed = free_address();
    place.set("server", &format!("health_listen = \"{probed}\"\n"));
    place.set("server.tls", "certificate_file = \"tls.crt\"\nkey_file = \"tls.key\"\n");
    write(place.path(".").as_path(), &old.server(), None);
    let mut life = place.begin(&mut place.command());
    let served = async |authority: &Authority| {
        let tls = Client::of(authority).channel_to(place.address);
        Caller { token: crate::place::TOKEN.to_owned(), client: PaymentOperationsServiceClient::new(tls) }
            .transaction(DEMO)
            .await
            .is_ok()
    };
    eventually("it serves", async || served(&old).await).await;

    let replaced = new.server();
    // One after the other, as people do.
    place.write("tls.crt", &replaced.certificate);
    place.write("tls.key", &replaced.key);
    eventually("the new certificate is in use", async || served(&new).await).await;
    assert!(!served(&old).await);
    assert!(!place.log().contains("are refused"), "{}", place.log());

    // The key of another certificate: the old pair stays.
    place.write("tls.key", &old.server().key);
    eventually("the refusal is logged", async || place.log().contains("the new certificates are refused"))
        .await;
    assert!(place.log().contains("server.tls.key_file"), "{}", place.log());
    assert!(served(&new).await);
    tokio::time::sleep(payops::config::followed::POLL_INTERVAL * 2).await;
    assert_eq!(place.log().matches("the new certificates are refused").count(), 1, "{}", place.log());
    assert!(!place.log().contains("PRIVATE KEY"), "{}", place.log());
    signal(&life, rustix::process::Signal::TERM);
    assert_eq!(ended(&mut life).await.code(), Some(0), "{}", place.log());
}

#[tokio::test]
async fn certificates_that_are_wrong_are_told_by_the_check_and_at_start() {
    let authority = Authority::new();
    let place = Place::new().await;
    place.set(
        "server.tls",
        "certificate_file = \"tls.crt\"\nkey_file = \"tls.key\"\nclient_ca_file = \"client_ca.crt\"\n",
    );
    let config = place.path("payops.toml");
    let good = authority.server();
    for (file, content, told) in [
        ("tls.crt", "no certificate", "server.tls.certificate_file: holds no certificate; name"),
        (
            "tls.crt",
            "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
            "server.tls.certificate_file: is not PEM",
        ),
        ("tls.key", "hunter2", "server.tls.key_file: holds no private key in PEM"),
        (
            "tls.key",
            &authority.server().key,
            "server.tls.key_file: cannot be used with server.tls.certificate_file",
        ),
        ("client_ca.crt", "", "server.tls.client_ca_file: holds no certificate"),
        (
            "client_ca.crt",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "server.tls.client_ca_file: holds 1 certificates of which no authority can be made",
        ),
    ] {
        write(place.path(".").as_path(), &good, Some(&authority));
        place.write(file, content);
        for command in [&["serve", "--config"][..], &["config", "check", "--config"]] {
            let refused = run(&[command, &[config.to_str().unwrap()]].concat()).await;
            let printed = text(&refused.stderr);
            assert_eq!(refused.status.code(), Some(78), "{printed}");
            assert!(printed.contains(told) && !printed.contains("hunter2"), "{told}: {printed}");
        }
    }
    write(place.path(".").as_path(), &good, Some(&authority));
    let good = run(&["config", "check", "--config", config.to_str().unwrap()]).await;
    assert!(good.status.success(), "{}", text(&good.stderr));
    // A port that is taken is named.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    place.set("server", &format!("health_listen = \"{}\"\n", taken.local_addr().unwrap()));
    let refused = run(&["serve", "--config", config.to_str().unwrap()]).await;
    assert_eq!(refused.status.code(), Some(69));
    assert!(
        text(&refused.stderr).contains("server.health_listen: cannot listen on"),
        "{}",
        text(&refused.stderr)
    );
}
