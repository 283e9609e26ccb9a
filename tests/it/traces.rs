//! One payment followed from the caller's own span through payops to the PSP and back, as a real collector receives it.

use std::{collections::BTreeSet, fs, time::Duration};

use serde_json::{Value, json};
use tokio::{net::TcpListener, process::Command};

use crate::collector::{CLIENT, Collector, INTERNAL, SERVER, Seen};
use crate::metrics;
use crate::pictures;
use crate::place::{self, Place};
use crate::support::{capture, eventually};
use crate::tls::behind_tls;

const CALLER: &str = "00f067aa0ba902b7";
const AMOUNT: i64 = 29_990;

/// A trace of the caller's.
fn trace(number: u8) -> String {
    format!("4bf92f3577b34da6a3ce929d0e0e47{number:02x}")
}

/// The command that serves, with these variables.
fn traced(place: &Place, variables: &[(&str, &str)]) -> Command {
    let mut command = place.command();
    command.env("OTEL_BSP_SCHEDULE_DELAY", "50").env("OTEL_METRIC_EXPORT_INTERVAL", "200");
    command.envs(variables.iter().copied());
    command
}

/// The caller's own span, which it exports itself.
async fn export_as_caller(collector: &Collector, trace: &str) {
    let span = json!({
        "traceId": trace, "spanId": CALLER, "name": "ship order", "kind": CLIENT,
        "startTimeUnixNano": "1", "endTimeUnixNano": "2",
    });
    let service = json!({"attributes": [{"key": "service.name", "value": {"stringValue": "orders"}}]});
    let spans = json!({"resourceSpans": [{"resource": service, "scopeSpans": [{"spans": [span]}]}]});
    let sent = reqwest::Client::new()
        .post(format!("http://{}/v1/traces", collector.http))
        .header("content-type", "application/json")
        .body(spans.to_string());
    assert_eq!(sent.send().await.unwrap().status(), 200);
}

/// Captures with grpcurl, in the caller's trace.
async fn grpcurl(place: &Place, key: &str, card: &str, trace: &str, sampled: bool) -> String {
    let flags = if sampled { "01" } else { "00" };
    let called = Command::new("grpcurl")
        .args(["-plaintext", "-H", &format!("authorization: Bearer {}", place::TOKEN)])
        .args(["-H", &format!("idempotency-key: {key}")])
        .args(["-H", &format!("traceparent: 00-{trace}-{CALLER}-{flags}"), "-H", "tracestate: shop=1"])
        .args(["-d", &json!({"transaction_id": card, "amount": AMOUNT}).to_string()])
        .args([&place.address.to_string(), "payops.v1.PaymentOperationsService/Capture"])
        .output();
    let called = called.await.expect("grpcurl is there: tests/run installs it");
    place::text(&called.stdout) + &place::text(&called.stderr)
}

fn named<'a>(spans: &'a [Seen], name: &str) -> &'a Seen {
    let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "{name}: {spans:#?}");
    found[0]
}

const RPC: &str = "payops.v1.PaymentOperationsService/Capture";
const CAPTURE: &str = "POST /transactions/{id}/capture";

/// Over gRPC, and over HTTP with TLS.
#[tokio::test]
async fn caller_payops_and_psp_share_one_trace() {
    for encrypted in [false, true] {
        let collector = Collector::start().await;
        let place = Place::new().await;
        let mut life = if encrypted {
            let (url, authority) = behind_tls(&collector.http, "localhost", &["http/1.1"]).await;
            place.write("authority.pem", &authority);
            let file = place.path("authority.pem").display().to_string();
            let variables = [
                ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
                ("OTEL_EXPORTER_OTLP_CERTIFICATE", &file),
                ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ];
            place.serve_by(&mut traced(&place, &variables)).await
        } else {
            let url = format!("http://{}", collector.grpc);
            let variables =
                [("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
            place.serve_by(&mut traced(&place, &variables)).await
        };
        // The first call of all takes longer.
        place.orders().capture_with("first", capture(&place.world.card().await, AMOUNT)).await.unwrap();
        let card = place.world.card().await;
        export_as_caller(&collector, &trace(1)).await;
        let told = grpcurl(&place, "k", &card, &trace(1), true).await;
        assert!(told.contains("OPERATION_STATE_SUCCEEDED"), "{told}");

        let spans = collector.trace(&trace(1), 5).await;
        assert_eq!(spans.len(), 5, "{spans:#?}");
        let caller = named(&spans, "ship order");
        let rpc = named(&spans, RPC);
        assert_eq!((caller.service.as_str(), rpc.service.as_str()), ("orders", "payops"));
        assert_eq!((rpc.kind, &rpc.parent), (SERVER, &caller.id));
        let psp = named(&spans, CAPTURE);
        let writes = ["insert operations", "update operations"].map(|name| named(&spans, name));
        for span in [psp, writes[0], writes[1]] {
            assert_eq!((span.kind, &span.parent), (CLIENT, &rpc.id), "{span:?}");
            assert!(!span.failed && span.start >= rpc.start && span.end <= rpc.end, "{span:?} {rpc:?}");
        }
        // Recorded, sent, recorded.
        assert!(writes[0].end <= psp.start && psp.end <= writes[1].start, "{spans:#?}");

        let attributes = |span: &Seen, names: &[&str]| names.map_values(span);
        assert_eq!(
            attributes(rpc, &["rpc.system.name", "rpc.method", "rpc.response.status_code", "payops.caller"]),
            ["grpc", RPC, "OK", "orders"]
        );
        assert_eq!(
            attributes(rpc, &["payops.kind", "payops.transaction.id", "payops.account", "payops.state"]),
            ["capture", card.as_str(), "T12345678", "succeeded"]
        );
        assert_eq!(attributes(psp, &["http.request.method", "http.response.status_code"]), ["POST", "200"]);
        assert_eq!(
            attributes(writes[0], &["db.system.name", "db.operation.name", "payops.state"]),
            ["sqlite", "insert", "started"]
        );

        let drawn = ["ship order", "Capture", CAPTURE, "insert operations", "update operations"];
        pictures::keep("trace.svg", || pictures::trace(&spans, "ship order"), &drawn);

        // The PSP was handed the context of the very span that shows its call.
        let requests = place.world.requests(&card).await;
        let sent = requests.iter().find(|request| request["operation"] == "capture").unwrap();
        assert_eq!(sent["traceparent"], format!("00-{}-{}-01", trace(1), psp.id));

        // Nobody waited for the token: it was there before the first call.
        let spans = collector.spans();
        assert_eq!(named(&spans, "POST /accounts/{id}/auth/token").parent, "");

        eventually("metrics arrive", async || {
            let metrics: BTreeSet<String> = collector.metrics().into_iter().collect();
            ["payops.answers", "rpc.server.call.duration", "payops.operations.open"]
                .iter()
                .all(|name| metrics.contains(*name))
        })
        .await;
        place::signal(&life, rustix::process::Signal::TERM);
        assert_eq!(place::ended(&mut life).await.code(), Some(0));
    }
}

trait Values {
    fn map_values(&self, span: &Seen) -> Vec<String>;
}

impl Values for [&str] {
    fn map_values(&self, span: &Seen) -> Vec<String> {
        let text = |name: &&str| match &span.attributes[*name] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        self.iter().map(text).collect()
    }
}

/// The caller's trace is not sampled: what succeeds is not exported, what is lost is, with all of its trace.
#[tokio::test]
async fn a_lost_answer_is_kept_and_its_recovery_and_its_replay_are_linked_to_it() {
    let collector = Collector::start().await;
    let place = Place::new().await;
    let url = format!("http://{}", collector.http);
    let _life = place.serve_by(&mut traced(&place, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &url)])).await;
    let [plain, card] = [place.world.card().await, place.world.card().await];
    grpcurl(&place, "plain", &plain, &trace(1), false).await;
    place.world.fault(json!({"operation": "capture", "fault": "answer_lost_after_applying"})).await;
    let told = grpcurl(&place, "lost", &card, &trace(2), false).await;
    assert!(told.contains("OUTCOME_UNKNOWN"), "{told}");

    let spans = collector.trace(&trace(2), 4).await;
    let (rpc, psp) = (named(&spans, RPC), named(&spans, CAPTURE));
    // A failure is told once, where it happened.
    let failed: Vec<&str> = spans.iter().filter(|span| span.failed).map(|span| &*span.name).collect();
    assert_eq!(failed, [CAPTURE], "{spans:#?}");
    assert_eq!(["error.type"].map_values(psp), ["no_answer"]);
    assert_eq!(
        ["rpc.response.status_code", "payops.reason", "payops.state"].map_values(rpc),
        ["ABORTED", "OUTCOME_UNKNOWN", "in_doubt"]
    );

    let recoveries =
        || -> Vec<Seen> { collector.spans().into_iter().filter(|span| span.name == "read back").collect() };
    eventually("it is read back", async || {
        recoveries().iter().any(|span| ["payops.state"].map_values(span) == ["succeeded"])
    })
    .await;
    for recovery in recoveries() {
        assert_eq!((recovery.kind, recovery.parent.as_str()), (INTERNAL, ""), "{recovery:?}");
        assert_ne!(recovery.trace, trace(2));
        assert_eq!(recovery.links, [rpc.id.as_str()]);
        let below: Vec<Seen> =
            collector.spans().into_iter().filter(|span| span.parent == recovery.id).collect();
        named(&below, "GET /transactions/{id}");
        named(&below, "update operations");
    }

    let told = grpcurl(&place, "lost", &card, &trace(3), true).await;
    assert!(told.contains("OPERATION_STATE_SUCCEEDED"), "{told}");
    let replay = collector.trace(&trace(3), 1).await;
    assert_eq!(replay.len(), 1, "nothing is written and nothing sent: {replay:#?}");
    assert_eq!(replay[0].links, [rpc.id.as_str()]);
    assert_eq!(["payops.replayed"].map_values(&replay[0]), ["true"]);
    assert!(collector.spans().iter().all(|span| span.trace != trace(1)), "it was not sampled and succeeded");
    let log = place.log();
    let ends: Vec<Value> = lines(&log, "operation");
    let end = |key: usize| &ends[key];
    assert_eq!(ends.len(), 3, "{log}");
    // The end is told with the trace of the call that asked for it.
    for (nth, state, trace_id) in
        [(0, "succeeded", trace(1)), (1, "in_doubt", trace(2)), (2, "succeeded", trace(2))]
    {
        assert_eq!((&end(nth)["state"], &end(nth)["trace_id"]), (&json!(state), &json!(trace_id)), "{log}");
    }
    for name in ["operation_id", "transaction_id", "caller", "kind", "amount", "psp_event_id", "total_ms"] {
        assert!(!end(0)[name].is_null() && !end(2)[name].is_null(), "{name}: {log}");
    }
    assert!(end(0)["record_ms"].is_u64() && end(0)["psp_ms"].is_u64() && end(2)["reads"].is_u64(), "{log}");
}

/// The lines of a log with that message.
fn lines(log: &str, message: &str) -> Vec<Value> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == message).collect()
}

/// What a collector can do wrong. None of it is noticed by those who pay.
#[tokio::test]
async fn a_collector_that_is_down_hangs_or_refuses_costs_the_spans_and_nothing_else() {
    // Accepts connections and says nothing.
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = hanging.local_addr().unwrap();
    let refusing = axum::Router::new().fallback(|| async { http::StatusCode::SERVICE_UNAVAILABLE });
    let refuses = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sullen = refuses.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(refuses, refusing).await });
    let nobody = crate::support::free_address();
    for (what, address, protocol) in [
        ("down", nobody, "grpc"),
        ("down", nobody, "http/protobuf"),
        ("hanging", mute, "grpc"),
        ("hanging", mute, "http/protobuf"),
        ("refusing", sullen, "http/protobuf"),
    ] {
        let place = Place::new().await;
        let scrape = crate::support::free_address();
        place.set("metrics", &format!("listen = \"{scrape}\"\n"));
        let url = format!("http://{address}");
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "40"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10"),
        ];
        let mut life = place.serve_by(&mut traced(&place, &variables)).await;
        let orders = place.orders();
        // Four spans each.
        for round in 0..50 {
            let card = place.world.card().await;
            orders.capture_with(&format!("k{round}"), capture(&card, AMOUNT)).await.unwrap();
        }
        eventually(&format!("{what} over {protocol}: what is lost is counted"), async || {
            let shown = metrics::scrape(&place.world, scrape).await;
            let count = |result: &str| {
                let series = format!("payops_telemetry_spans_total{{result=\"{result}\"}}");
                metrics::value(&shown, &series).map_or(0, |value| value.parse::<u64>().unwrap())
            };
            // Those that wait are the rest.
            let lost = count("dropped") + count("failed");
            assert_eq!(count("exported"), 0);
            assert!(lost <= 200);
            lost >= 200 - 40 - 10 - 10
        })
        .await;
        // And nothing waits for it at the end.
        place::signal(&life, rustix::process::Signal::TERM);
        assert_eq!(place::ended(&mut life).await.code(), Some(0), "{what} over {protocol}");
    }
    drop(hanging);
}

#[tokio::test]
async fn headers_and_the_names_of_the_environment_are_told_to_the_collector() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let router = axum::Router::new().fallback(move |request: http::Request<axum::body::Body>| async move {
        let key = request.headers().get("x-api-key").map(|key| key.to_str().unwrap().to_owned());
        let path = request.uri().path().to_owned();
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        drop(told.send((key, path, String::from_utf8_lossy(&body).into_owned())));
        ""
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    let place = Place::new().await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=sesame"),
        ("OTEL_SERVICE_NAME", "payments-oslo"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=staging"),
        ("OTEL_METRICS_EXPORTER", "none"),
    ];
    let _life = place.serve_by(&mut traced(&place, &variables)).await;
    place.orders().capture_with("k", capture(&place.world.card().await, AMOUNT)).await.unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(10), heard.recv()).await.unwrap().unwrap();
    let (key, path, body) = heard;
    assert_eq!((key.as_deref(), path.as_str()), (Some("sesame"), "/v1/traces"));
    for name in ["payments-oslo", "deployment.environment.name", "staging", "service.version"] {
        assert!(body.contains(name), "{name}");
    }
}

#[tokio::test]
async fn a_variable_of_telemetry_that_is_wrong_ends_the_start_and_is_named() {
    let place = Place::new().await;
    let mut life = place.begin(&mut traced(&place, &[("OTEL_TRACES_SAMPLER", "sometimes")]));
    assert_eq!(place::ended(&mut life).await.code(), Some(78));
    assert!(
        place.log().contains("OTEL_TRACES_SAMPLER: \"sometimes\" is not known; write"),
        "{}",
        place.log()
    );
}

#[tokio::test]
async fn what_is_logged_changes_with_a_file_and_without_a_restart() {
    let place = Place::new().await;
    place.write("level", "info");
    place.set("log", "format = \"json\"\nlevel_file = \"level\"\n");
    let _life = place.serve().await;
    assert!(!place.log().contains("\"level\":\"DEBUG\""));
    place.write("level", "louder\n");
    eventually("a wrong level is refused", async || {
        place.log().contains("\\\"louder\\\" is not a log level")
    })
    .await;
    place.write("level", "debug\n");
    let card = place.world.card().await;
    eventually("more is logged", async || {
        place.orders().transaction(&card).await.unwrap();
        place.log().contains("\"level\":\"DEBUG\"")
    })
    .await;
    place.write("level", "warn\n");
    eventually("the change is told", async || lines(&place.log(), "what is logged changes").len() == 2).await;
    let before = lines(&place.log(), "operation").len();
    place.orders().capture_with("k", capture(&place.world.card().await, AMOUNT)).await.unwrap();
    assert_eq!(lines(&place.log(), "operation").len(), before, "less is logged");
    assert!(fs::metadata(place.path("level")).is_ok());
}
