//! What no gRPC library would send.

use bytes::Bytes;
use h2::Reason;
use http::Method;
use payops::grpc::pb;
use prost::Message as _;
use tonic::Code;

use super::wire::{Raw, claiming, framed};
use super::{CARD, Row, Told, hold};
use crate::support::{SERVICE, TestApp, capture};

#[tokio::test]
async fn what_is_not_grpc_is_told_so_in_http() {
    let app = TestApp::start().await;
    hold(&app, http()).await;
}

#[tokio::test]
async fn a_method_that_does_not_exist_is_unimplemented() {
    let app = TestApp::start().await;
    hold(&app, methods()).await;
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_the_callers_to_mend() {
    let app = TestApp::start().await;
    hold(&app, messages()).await;
}

#[tokio::test]
async fn metadata_that_cannot_be_read_is_the_callers_to_mend() {
    let app = TestApp::start().await;
    hold(&app, metadata()).await;
}

#[tokio::test]
async fn a_good_call_over_the_same_client_is_served() {
    // Or all of the above could be refused for a reason of the client's own.
    let app = TestApp::start().await;
    let answer = good().send(app.address).await.unwrap();
    assert_eq!((answer.http, answer.code()), (200, Some(Code::Ok)));
    let operation = answer.message::<pb::CaptureResponse>().operation.unwrap();
    assert_eq!(operation.state(), pb::OperationState::Succeeded);
    assert_eq!(app.moved(CARD).await, [("capture".to_owned(), 100)]);
}

/// A good capture.
fn good() -> Raw {
    Raw::rpc("Capture", &capture(CARD, 100))
}

fn http() -> Vec<Row> {
    let grpc = "send content-type application/grpc";
    let mut rows = Vec::new();
    for kind in [
        "application/json",
        "application/grpc-web",
        "application/grpc+json",
        "application/grpcx",
        "text/html",
        "",
    ] {
        let row = Row::raw(&format!("content type {kind:?}"), good().with("content-type", kind));
        rows.push(row.due(Told::Http(415), grpc));
    }
    rows.push(Row::raw("no content type", good().without("content-type")).due(Told::Http(415), grpc));
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let row = Row::raw(&format!("{method}"), good().by(method));
        // The answer says what is allowed.
        rows.push(row.due(Told::Http(405), "\"allow\": \"POST\""));
    }
    let large = |bytes: usize| good().with("x-large", "a".repeat(bytes));
    rows.extend([
        Row::raw("17 KB of headers", large(17_000)).due(Told::Http(431), ""),
        // Longer than the limit many times over: reading on to the end of it would be the attack.
        Row::raw("100 KB of headers", large(100_000)).due(Told::Ended(Reason::ENHANCE_YOUR_CALM), ""),
        Row::bytes(
            "HTTP/1.1",
            b"POST /payops.v1.PaymentOperationsService/Capture HTTP/1.1\r\nhost: a\r\n\r\n",
        )
        .due(Told::HungUp, ""),
        Row::bytes("a TLS hello", b"\x16\x03\x01\x00\x2e\x01\x00\x00\x2a\x03\x03aaaaaaaaaaaaaaaaaaaaaaaa")
            .due(Told::HungUp, ""),
        Row::bytes("no preface", &[7; 64]).due(Told::HungUp, ""),
        Row::bytes(
            "a preface and a frame beyond every limit",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x04\x00\x00\x00\x00\x00xxxx",
        )
        .due(Told::Ended(Reason::FRAME_SIZE_ERROR), ""),
        Row::bytes(
            "a preface and no settings",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x00\x01\x00\x00\x00\x00",
        )
        .due(Told::Ended(Reason::PROTOCOL_ERROR), ""),
    ]);
    rows
}

fn methods() -> Vec<Row> {
    let here = "list what there is by server reflection";
    let long = format!("/{}", "x".repeat(5000));
    let mut rows = Vec::new();
    for path in [
        format!("/{SERVICE}/Nothing"),
        format!("/{SERVICE}/capture"),
        format!("/{SERVICE}/Capture/"),
        format!("/{SERVICE}/%43apture"),
        format!("/{SERVICE}"),
        "/payops.v1.Nothing/Capture".to_owned(),
        "/payops.v2.PaymentOperationsService/Capture".to_owned(),
        "/".to_owned(),
        "/../../etc/passwd".to_owned(),
        long,
    ] {
        let name: String = path.chars().take(60).collect();
        let row = Row::raw(&format!("method {name}"), good().to(&path));
        rows.push(row.refused(Code::Unimplemented, "", None, here));
    }
    // Who is not known does not learn either which methods there are.
    let nobody = good().to(&format!("/{SERVICE}/Nothing")).without("authorization");
    rows.push(Row::raw("unknown method by nobody", nobody).refused(
        Code::Unauthenticated,
        "CREDENTIALS_MISSING",
        Some(false),
        "Bearer <token>",
    ));
    rows
}

fn messages() -> Vec<Row> {
    let message = capture(CARD, 100).encode_to_vec();
    let whole = framed(0, &message);
    let of = |name: &str, frames: Vec<Bytes>| Row::raw(name, good().body(frames));
    let unreadable = |row: Row, remedy| row.invalid(["message"], remedy);
    let end = "Unexpected EOF";
    let limit = "the limit is: 65536 bytes";
    let one = "more than one message";
    let trailers = "trailers, which only an answer has";
    let protobuf = "failed to decode Protobuf message";
    let mut rows = vec![
        unreadable(of("half a prefix", vec![whole.slice(..3)]), end),
        unreadable(of("half a message", vec![whole.slice(..20)]), end),
        unreadable(of("a prefix alone", vec![whole.slice(..5)]), "Missing request message"),
        unreadable(
            of("a byte too few", vec![claiming(0, u32::try_from(message.len()).unwrap() + 1, &message)]),
            end,
        ),
        unreadable(of("no message", Vec::new()), "Missing request message"),
        unreadable(of("an empty frame", vec![Bytes::new()]), "Missing request message"),
        unreadable(of("a byte over the limit, claimed", vec![claiming(0, 64 * 1024 + 1, &message)]), limit),
        unreadable(of("4 GiB, claimed", vec![claiming(0, u32::MAX, &message)]), limit),
        unreadable(of("70 KB, sent", vec![framed(0, &vec![0; 70_000])]), limit),
        unreadable(of("two messages", vec![whole.clone(), whole.clone()]), one),
        unreadable(
            of("two messages in one frame", vec![[whole.clone(), whole.clone()].concat().into()]),
            one,
        ),
        unreadable(of("a message and a byte", vec![whole.clone(), Bytes::from_static(&[0])]), one),
        unreadable(Row::raw("a key in the trailers", good().trailer("idempotency-key", "k2")), trailers),
        unreadable(
            of("compressed, without an encoding", vec![framed(1, &message)]),
            "no grpc-encoding was specified",
        ),
        unreadable(of("an unknown flag", vec![framed(2, &message)]), "valid flags are 0 and 1"),
        unreadable(of("garbage", vec![framed(0, &[0xff; 12])]), protobuf),
        unreadable(of("text", vec![framed(0, b"{\"amount\": 100}")]), protobuf),
        unreadable(of("invalid UTF-8", vec![framed(0, b"\x0a\x02\xff\xfe")]), "data is not UTF-8"),
        unreadable(of("a string for an amount", vec![framed(0, b"\x12\x01a")]), protobuf),
        of("all defaults", vec![framed(0, b"")]).invalid(["amount", "transaction_id"], "is required"),
        Row::raw("gzip", good().with("grpc-encoding", "gzip").body([framed(1, &message)])).status(
            Code::Unimplemented,
            "INVALID_REQUEST",
            ["metadata.grpc-encoding"],
            Some(false),
            "must be absent or identity",
        ),
    ];
    for (rpc, name) in [
        ("Void", "void"),
        ("Refund", "refund"),
        ("GetTransaction", "read"),
        ("GetOperation", "get"),
        ("WatchOperation", "watch"),
    ] {
        let raw = Raw::rpc(rpc, &pb::VoidRequest::default()).body([framed(0, &[0xff; 12])]);
        rows.push(unreadable(Row::raw(&format!("garbage, {name}"), raw), protobuf));
    }
    let health =
        good().without("idempotency-key").to("/grpc.health.v1.Health/Check").body([framed(0, &[0xff; 12])]);
    rows.push(unreadable(Row::raw("garbage, health", health), protobuf));
    rows
}

fn metadata() -> Vec<Row> {
    let key = |name: &str, raw: Raw| {
        let remedy = "1 to 128 visible ASCII characters, given once";
        let fields = ["metadata.idempotency-key"];
        Row::raw(name, raw).status(
            Code::InvalidArgument,
            "IDEMPOTENCY_KEY_INVALID",
            fields,
            Some(false),
            remedy,
        )
    };
    let credentials = |name: &str, raw: Raw, remedy| {
        Row::raw(name, raw).refused(Code::Unauthenticated, "CREDENTIALS_INVALID", Some(false), remedy)
    };
    let mut rows = vec![
        key("a key not ASCII", good().with("idempotency-key", "clé")),
        key("a key not UTF-8", good().with("idempotency-key", b"k\xff")),
        key("two keys", good().and("idempotency-key", "k2")),
        key("the same key twice", good().and("idempotency-key", "k")),
        credentials("two tokens", good().and("authorization", "Bearer token-of-returns"), "more than one"),
        credentials("a token not ASCII", good().with("authorization", b"Bearer \xff"), "not ASCII"),
    ];
    for timeout in ["", "5", "5s", "-1S", "1.5S", "S", "123456789m", "soon", "１S"] {
        let unit = "one to eight digits and a unit";
        let row = Row::raw(&format!("timeout {timeout:?}"), good().with("grpc-timeout", timeout));
        rows.push(row.invalid(["metadata.grpc-timeout"], unit));
    }
    let read = Raw::rpc("GetTransaction", &pb::GetTransactionRequest { transaction_id: CARD.to_owned() });
    rows.push(
        Row::raw("timeout \"5s\" of a read", read.with("grpc-timeout", "5s"))
            .invalid(["metadata.grpc-timeout"], "such as 500m"),
    );
    rows
}
