//! What is counted and measured: OpenTelemetry's instruments, shown to
//! Prometheus at `/metrics`.
//!
//! Every label has a few values that payops itself chose: nothing that a caller
//! or the PSP says becomes one.

mod journal;

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::State, response::IntoResponse, routing::get};
use http::{StatusCode, header};
use opentelemetry::{
    KeyValue,
    metrics::{Gauge, Histogram, Meter, MeterProvider as _},
};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::listener::http1::{Limits, serve};

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
}

struct Instruments {
    ready: Gauge<u64>,
    standby: Gauge<u64>,
    journal: Histogram<f64>,
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
            journal: meter
                .f64_histogram("payops.journal.duration")
                .with_unit("s")
                .with_boundaries(JOURNAL_SECONDS.to_vec())
                .with_description("How long the journal took, by what was asked of it and what came of it")
                .build(),
        }
    }
}

impl Metrics {
    /// Nothing was counted yet. The text says why there can be none.
    pub fn new() -> Result<Self, String> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .map_err(|error| error.to_string())?;
        let provider = SdkMeterProvider::builder().with_reader(exporter).build();
        let instruments = Arc::new(Instruments::new(&provider.meter("payops")));
        Ok(Self { registry, _provider: provider, instruments })
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
    fn journal(&self, what: &'static str, result: &'static str, took: Duration) {
        let labels = [KeyValue::new("operation", what), KeyValue::new("result", result)];
        self.instruments.journal.record(took.as_secs_f64(), &labels);
    }

    /// Shows everything at `/metrics` until `stop`.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let router = Router::new().route("/metrics", get(show)).with_state(self.registry);
        serve(listener, router, SCRAPE, stop).await;
    }
}

async fn show(State(registry): State<Registry>) -> impl IntoResponse {
    let mut text = String::new();
    match TextEncoder::new().encode_utf8(&registry.gather(), &mut text) {
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text),
        Err(error) => {
            tracing::warn!(%error, "the metrics cannot be shown");
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], String::new())
        }
    }
}
