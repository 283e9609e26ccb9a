//! What is counted and measured: OpenTelemetry's instruments, shown to
//! Prometheus at `/metrics` and, where somebody takes it, sent over OTLP.
//!
//! Every label has a few values that payops itself chose: nothing that a caller
//! or the PSP says becomes one.

mod exemplars;
mod journal;
pub mod psp;

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::State, response::IntoResponse, routing::get};
use http::{HeaderMap, StatusCode, header};
use opentelemetry::trace::SpanContext;
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge, Histogram, Meter, MeterProvider as _},
};
use opentelemetry_otlp::MetricExporter;
use opentelemetry_sdk::{
    Resource,
    metrics::{SdkMeterProvider, periodic_reader_with_async_runtime::PeriodicReader},
    runtime::Tokio,
};
use prometheus::{Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::clock::Timestamp;
use crate::journal::OpenState;
use crate::listener::http1::{Limits, serve};
use crate::metrics::exemplars::{Exemplars, OPEN_METRICS, OPEN_METRICS_TYPE, Shown, open_metrics};
use crate::metrics::journal::Change;
use crate::payment::id::AccountId;
use crate::psp::guard::circuit;

pub use crate::metrics::journal::Metered;

/// What a scrape may take.
const SCRAPE: Limits = Limits { connections_max: 16, message_timeout: Duration::from_secs(5) };

/// From a commit on one's own disk to the longest that is waited for one.
const JOURNAL_SECONDS: [f64; 12] =
    [0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.5, 2.0, 5.0];

/// The instruments of one boundary.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// Without it nothing is collected.
    _provider: SdkMeterProvider,
    instruments: Arc<Instruments>,
    exemplars: Exemplars,
}

/// From a call that is answered from memory to the longest that one waits.
const CALL_SECONDS: [f64; 12] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

const CALLS: &Shown = &Shown {
    name: "rpc_server_call_duration_seconds",
    labels: ["rpc_method", "rpc_response_status_code"],
    bounds: &CALL_SECONDS,
};
const PSP: &Shown = &Shown {
    name: "payops_psp_request_duration_seconds",
    labels: ["request", "result"],
    bounds: &CALL_SECONDS,
};
const JOURNAL: &Shown = &Shown {
    name: "payops_journal_duration_seconds",
    labels: ["operation", "result"],
    bounds: &JOURNAL_SECONDS,
};

/// Every state in which an operation is open, in the word of journals.
const OPEN: [&str; 5] = ["started", "resent", "accepted", "in_doubt", "review"];

struct Instruments {
    ready: Gauge<u64>,
    standby: Gauge<u64>,
    journal: Histogram<f64>,
    waiting: Gauge<u64>,
    changes: Counter<u64>,
    answers: Counter<u64>,
    calls: Histogram<f64>,
    psp: Histogram<f64>,
    open: Gauge<u64>,
    open_age: Gauge<f64>,
    under_way: Gauge<u64>,
    circuit: Gauge<u64>,
    token_life: Gauge<f64>,
    audit: Counter<u64>,
    refusals: Counter<u64>,
    attempts: Counter<u64>,
    spans: Counter<u64>,
}

impl Instruments {
    fn new(meter: &Meter) -> Self {
        Self {
            ready: meter.u64_gauge("payops.ready").with_description("1 while calls are taken").build(),
            standby: meter
                .u64_gauge("payops.journal.standby")
                .with_description(
                    "0 where the journal's database was told to run without a synchronous standby",
                )
                .build(),
            journal: seconds(
                meter,
                "payops.journal.duration",
                &JOURNAL_SECONDS,
                "How long the journal took, by what was asked of it and what came of it",
            ),
            waiting: meter
                .u64_gauge("payops.journal.waiting")
                .with_description("Writes that wait for one that is under way")
                .build(),
            changes: meter
                .u64_counter("payops.operation.changes")
                .with_description("Changes of operations' states that this process wrote")
                .build(),
            answers: meter
                .u64_counter("payops.answers")
                .with_description(
                    "Answers to calls that move money: done, replayed, joined, validated or the error's reason",
                )
                .build(),
            calls: seconds(
                meter,
                "rpc.server.call.duration",
                &CALL_SECONDS,
                "How long calls took to their answer",
            ),
            psp: seconds(
                meter,
                "payops.psp.request.duration",
                &CALL_SECONDS,
                "How long the PSP took, by what was asked and its HTTP status, or that none came",
            ),
            open: meter
                .u64_gauge("payops.operations.open")
                .with_description(
                    "Operations in the journal that are not over, by state; the same in every process",
                )
                .build(),
            open_age: meter
                .f64_gauge("payops.operations.open.age.max")
                .with_unit("s")
                .with_description("How long the oldest of them has been in its state")
                .build(),
            under_way: meter
                .u64_gauge("payops.operations.under_way")
                .with_description("Calls that move money and are worked on here, waited for or not")
                .build(),
            circuit: meter
                .u64_gauge("payops.psp.circuit")
                .with_description("0 closed, 1 trying, 2 open: nothing is begun for the account")
                .build(),
            token_life: meter
                .f64_gauge("payops.psp.token.life")
                .with_unit("s")
                .with_description("How long the account's access token surely lives; 0 where there is none")
                .build(),
            audit: meter
                .u64_counter("payops.audit.batches")
                .with_description("Batches of records that this process wrote to the audit")
                .build(),
            refusals: meter
                .u64_counter("payops.refusals")
                .with_description("Calls that were not let in or not allowed, by the reason that was told")
                .build(),
            attempts: meter
                .u64_counter("payops.attempts")
                .with_description(
                    "Requests that move money, by why one was begun: begun, retried, token_refused, resent",
                )
                .build(),
            spans: meter
                .u64_counter("payops.telemetry.spans")
                .with_description(
                    "Spans that were exported, failed to be, or were dropped since too many waited",
                )
                .build(),
        }
    }
}

fn seconds(meter: &Meter, name: &'static str, bounds: &[f64], what: &'static str) -> Histogram<f64> {
    let histogram = meter.f64_histogram(name).with_unit("s").with_boundaries(bounds.to_vec());
    histogram.with_description(what).build()
}

impl Metrics {
    /// Nothing was counted yet, and all is sent to `push`, where there is one.
    /// The text says why there can be none.
    pub fn new(push: Option<MetricExporter>, resource: Resource) -> Result<Self, String> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .map_err(|error| error.to_string())?;
        let mut provider = SdkMeterProvider::builder().with_reader(exporter).with_resource(resource);
        if let Some(push) = push {
            provider = provider.with_reader(PeriodicReader::builder(push, Tokio).build());
        }
        let provider = provider.build();
        let instruments = Arc::new(Instruments::new(&provider.meter("payops")));
        for result in ["exported", "failed", "dropped"] {
            // There from the beginning: a series that begins with a loss shows none.
            instruments.spans.add(0, &[KeyValue::new("result", result)]);
        }
        Ok(Self { registry, _provider: provider, instruments, exemplars: Exemplars::default() })
    }

    /// Whether calls are taken.
    pub fn ready(&self, ready: bool) {
        self.instruments.ready.record(u64::from(ready), &[]);
    }

    /// Whether a standby has what the journal acknowledged.
    pub fn standby(&self, standby: bool) {
        self.instruments.standby.record(u64::from(standby), &[]);
    }

    /// How long the journal took for `what`, and what came of it.
    fn journal(&self, what: &'static str, result: &'static str, took: Duration, at: Option<&SpanContext>) {
        let labels = [KeyValue::new("operation", what), KeyValue::new("result", result)];
        self.instruments.journal.record(took.as_secs_f64(), &labels);
        self.exemplars.offer(JOURNAL, [what, result], took, at);
    }

    /// What became of spans.
    pub fn spans(&self) -> Counter<u64> {
        self.instruments.spans.clone()
    }

    /// An attempt was recorded, because of that event.
    fn attempt(&self, kind: &'static str, why: &'static str) {
        let labels = [KeyValue::new("kind", kind), KeyValue::new("why", why)];
        self.instruments.attempts.add(1, &labels);
    }

    /// An operation's state changed.
    fn changed(&self, Change { kind, account, from, to, .. }: &Change) {
        let labels = [
            KeyValue::new("kind", *kind),
            KeyValue::new("account", account.as_str().to_owned()),
            KeyValue::new("from", from.unwrap_or("nothing")),
            KeyValue::new("to", *to),
        ];
        self.instruments.changes.add(1, &labels);
    }

    /// What a call that moves money was told: a word of ours.
    pub fn answered(&self, rpc: &'static str, result: String) {
        let labels = [KeyValue::new("rpc", rpc), KeyValue::new("result", result)];
        self.instruments.answers.add(1, &labels);
    }

    /// Somebody was refused, for this reason of ours.
    pub fn refused(&self, reason: String) {
        self.instruments.refusals.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// How long a call took to its answer, and where it is in a trace.
    pub fn call(&self, rpc: &'static str, status: &'static str, took: Duration, at: &SpanContext) {
        let labels = [KeyValue::new("rpc.method", rpc), KeyValue::new("rpc.response.status_code", status)];
        self.instruments.calls.record(took.as_secs_f64(), &labels);
        self.exemplars.offer(CALLS, [rpc, status], took, Some(at));
    }

    fn psp_request(
        &self,
        what: &'static str,
        result: &'static str,
        took: Duration,
        at: Option<&SpanContext>,
    ) {
        let labels = [KeyValue::new("request", what), KeyValue::new("result", result)];
        self.instruments.psp.record(took.as_secs_f64(), &labels);
        self.exemplars.offer(PSP, [what, result], took, at);
    }

    /// What is open in the journal now.
    pub fn open(&self, states: &[OpenState], now: Timestamp) {
        for state in OPEN {
            let open = states.iter().find(|open| open.state == state);
            let labels = [KeyValue::new("state", state)];
            self.instruments.open.record(open.map_or(0, |open| open.count), &labels);
            let age = open.map_or(Duration::ZERO, |open| now.since(open.since));
            self.instruments.open_age.record(age.as_secs_f64(), &labels);
        }
    }

    /// How many writes wait for the journal.
    pub fn waiting(&self, count: usize) {
        self.instruments.waiting.record(u64::try_from(count).unwrap_or(u64::MAX), &[]);
    }

    /// What is worked on here, waited for or not.
    pub fn under_way(&self, count: usize) {
        self.instruments.under_way.record(u64::try_from(count).unwrap_or(u64::MAX), &[]);
    }

    /// What an account's circuits are: that for commands, and that for reads.
    pub fn circuits(&self, account: &AccountId, states: [circuit::State; 2]) {
        for (what, state) in ["commands", "reads"].into_iter().zip(states) {
            let labels =
                [KeyValue::new("account", account.as_str().to_owned()), KeyValue::new("requests", what)];
            let level = match state {
                circuit::State::Closed => 0,
                circuit::State::Probing => 1,
                circuit::State::Open { .. } => 2,
            };
            self.instruments.circuit.record(level, &labels);
        }
    }

    /// How long an account's access token surely lives.
    pub fn token_life(&self, account: &AccountId, life: Duration) {
        let labels = [KeyValue::new("account", account.as_str().to_owned())];
        self.instruments.token_life.record(life.as_secs_f64(), &labels);
    }

    /// So many batches more were written to the audit.
    pub fn audited(&self, batches: u64) {
        self.instruments.audit.add(batches, &[]);
    }

    /// Shows everything at `/metrics` until `stop`.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let router = Router::new().route("/metrics", get(show)).with_state(self);
        serve(listener, router, SCRAPE, stop).await;
    }
}

async fn show(State(metrics): State<Metrics>, headers: HeaderMap) -> impl IntoResponse {
    let families = metrics.registry.gather();
    let accepted = headers.get(header::ACCEPT).and_then(|accepted| accepted.to_str().ok());
    if accepted.is_some_and(|accepted| accepted.contains(OPEN_METRICS)) {
        let text = open_metrics(&families, &[CALLS, PSP, JOURNAL], &metrics.exemplars);
        return (StatusCode::OK, [(header::CONTENT_TYPE, OPEN_METRICS_TYPE)], text);
    }
    let mut text = String::new();
    match TextEncoder::new().encode_utf8(&families, &mut text) {
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text),
        Err(error) => {
            tracing::warn!(%error, "the metrics cannot be shown");
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], String::new())
        }
    }
}
