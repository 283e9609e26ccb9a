//! What is handed on, and what is kept.

use std::sync::Arc;

use opentelemetry::{metrics::MeterProvider as _, trace::TracerProvider as _};
use opentelemetry_sdk::{metrics::SdkMeterProvider, trace::SdkTracerProvider};

use super::*;
use crate::trace::{
    keep::{Keep, RecordAll, sampler},
    otlp::Variables,
    queue::Queue,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
}

fn from_caller(flags: &str) -> HeaderMap {
    headers(&[("traceparent", &format!("00-{TRACE}-00f067aa0ba902b7-{flags}"))])
}

#[test]
fn a_place_is_taken_only_from_a_valid_traceparent() {
    let place = remote(&from_caller("01")).unwrap();
    assert_eq!(place.trace_id().to_string(), TRACE);
    for wrong in [
        "",
        "00-4bf9-00f067aa0ba902b7-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
    ] {
        assert!(remote(&headers(&[("traceparent", wrong)])).is_none(), "{wrong:?}");
    }
}

#[test]
fn what_the_caller_sent_is_handed_on_where_nothing_is_traced_and_nothing_else_is() {
    let state = "vendor=value";
    let mut sent = from_caller("01");
    sent.insert("tracestate", state.parse().unwrap());
    sent.insert("baggage", "customer=anna".parse().unwrap());
    let _here = Tracer::off().call(&sent, Some("rpc")).attach();
    let mut handed_on = HeaderMap::new();
    Tracer::off().begin("PSP", SpanKind::Client, Vec::new).inject(&mut handed_on);
    assert_eq!(
        handed_on,
        headers(&[("traceparent", sent["traceparent"].to_str().unwrap()), ("tracestate", state),])
    );

    let mut long = from_caller("01");
    long.insert("tracestate", format!("vendor={}", "v".repeat(600)).parse().unwrap());
    let _here = Tracer::off().call(&long, Some("rpc")).attach();
    let mut handed_on = HeaderMap::new();
    Tracer::off().begin("PSP", SpanKind::Client, Vec::new).inject(&mut handed_on);
    assert!(!handed_on.contains_key("tracestate"), "{handed_on:?}");
}

#[test]
fn a_place_is_kept_and_read_again() {
    let place = remote(&from_caller("01")).unwrap();
    assert_eq!(super::place(&traced(&place)), place);
    let damaged: Traced = serde_json::from_str("\"00-æ\"").unwrap();
    assert!(!super::place(&damaged).is_valid());
}

/// A tracer whose spans arrive in a queue of `size`.
fn tracer(chosen: &str, size: usize) -> (Tracer, Arc<Queue>) {
    let queue = Arc::new(Queue::new(size, size));
    let spans = SdkMeterProvider::default().meter("test").u64_counter("spans").build();
    let provider = SdkTracerProvider::builder()
        .with_sampler(RecordAll(sampler(Some(chosen), None).unwrap()))
        .with_span_processor(Keep::new(Arc::clone(&queue), spans))
        .build();
    (Tracer(Some(provider.tracer("test"))), queue)
}

/// A call with a span below it, which is told that code; an operation of it comes
/// to that state.
fn call(tracer: &Tracer, headers: &HeaderMap, state: &'static str, failed: bool) {
    let _here = tracer.call(headers, Some("rpc")).attach();
    tracer.begin("below", SpanKind::Client, || vec![KeyValue::new(STATE, state)]);
    answered(if failed { "UNAVAILABLE" } else { "OK" }, failed);
}

fn names(arrived: &Queue) -> Vec<String> {
    let spans = arrived.batch().into_iter();
    spans.inspect(|span| assert!(span.span_context.is_sampled())).map(|span| span.name.into_owned()).collect()
}

#[test]
fn what_the_sampler_leaves_out_is_kept_if_it_fails_or_falls_in_doubt() {
    for (state, failed, kept) in [
        ("succeeded", false, false),
        ("started", false, false),
        ("accepted", false, false),
        ("in_doubt", false, true),
        ("review", false, true),
        ("declined", false, true),
        ("released", false, true),
        ("succeeded", true, true),
    ] {
        let (tracer, arrived) = tracer("always_off", 10);
        call(&tracer, &HeaderMap::new(), state, failed);
        let expected: &[&str] = if kept { &["below", "rpc"] } else { &[] };
        assert_eq!(names(&arrived), expected, "{state}, failed: {failed}");
    }
}

#[test]
fn the_caller_decides_whether_a_trace_is_sampled() {
    for (flags, count) in [("01", 2), ("00", 0)] {
        let (tracer, arrived) = tracer("parentbased_always_on", 10);
        call(&tracer, &from_caller(flags), "succeeded", false);
        assert_eq!(names(&arrived).len(), count, "{flags}");
    }
}

#[test]
fn what_does_not_fit_into_the_queue_is_dropped_and_what_waits_is_forgotten() {
    let (tracer, arrived) = tracer("always_on", 3);
    for _ in 0..5 {
        call(&tracer, &HeaderMap::new(), "succeeded", false);
    }
    assert_eq!(names(&arrived).len(), 3);
}

#[test]
fn a_call_is_below_its_caller_and_what_is_done_for_an_operation_is_linked_to_it() {
    let (tracer, arrived) = tracer("always_on", 10);
    let caller = remote(&from_caller("01")).unwrap();
    call(&tracer, &from_caller("01"), "succeeded", false);
    let [below, rpc] = arrived.batch().try_into().unwrap();
    assert_eq!(rpc.parent_span_id, caller.span_id());
    assert!(rpc.parent_span_is_remote);
    assert_eq!(below.parent_span_id, rpc.span_context.span_id());

    drop(tracer.on_behalf("read back", Some(&traced(&rpc.span_context)), Vec::new));
    let [recovery] = arrived.batch().try_into().unwrap();
    assert_ne!(recovery.span_context.trace_id(), rpc.span_context.trace_id());
    assert_eq!(recovery.parent_span_id, SpanId::INVALID);
    assert_eq!(recovery.links.links[0].span_context.span_id(), rpc.span_context.span_id());
}

fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn nothing_is_exported_unless_the_environment_says_where() {
    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
    for (pairs, exported) in [
        (&[][..], false),
        (&[ENDPOINT], true),
        (&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/v1/traces")], true),
        (&[("OTEL_TRACES_EXPORTER", "otlp")], true),
        (&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")], false),
        (&[ENDPOINT, ("OTEL_SDK_DISABLED", "true")], false),
    ] {
        assert_eq!(Otlp::from_variables(&variables(pairs)).unwrap().traces.is_some(), exported, "{pairs:?}");
    }
}

#[test]
fn a_variable_that_cannot_be_followed_is_named() {
    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
    for (name, value) in [
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier pigeon"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ("OTEL_PROPAGATORS", "b3"),
    ] {
        let wrong = Otlp::from_variables(&variables(&[ENDPOINT, (name, value)])).unwrap_err();
        assert!(wrong.starts_with(name) && wrong.contains(value), "{wrong}");
    }
    let share = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "half")];
    assert!(Otlp::from_variables(&variables(&share)).unwrap_err().starts_with("OTEL_TRACES_SAMPLER_ARG"));
}
