//! From the queue to the collector. A collector that is slow, refuses or is
//! gone costs the spans that do not fit into the queue, and nothing else.

use std::{sync::Arc, time::Duration};

use opentelemetry::{KeyValue, metrics::Counter, trace::TracerProvider as _};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter as _};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::trace::{
    Otlp, Tracer,
    keep::{Keep, RecordAll},
    otlp::Waits,
    queue::Queue,
};

/// How long the last spans may take when payops stops.
const LAST_EXPORT_MAX: Duration = Duration::from_secs(2);

/// What runs until the spans are out.
pub struct Exporting(Option<JoinHandle<()>>);

impl Exporting {
    /// Ends when the last spans are out, or after a short while.
    pub async fn ended(self) {
        if let Some(task) = self.0 {
            drop(task.await);
        }
    }
}

/// Begins to export what ends from now on, until `stop`. Counts in `spans` what
/// became of them.
pub fn start(
    otlp: &Otlp,
    spans: &Counter<u64>,
    stop: CancellationToken,
) -> Result<(Tracer, Exporting), String> {
    let Some(target) = &otlp.traces else { return Ok((Tracer::off(), Exporting(None))) };
    let mut exporter = target.span_exporter()?;
    exporter.set_resource(&otlp.resource);
    let queue = Arc::new(Queue::new(otlp.waits.spans_max, otlp.waits.batch_max));
    let provider = SdkTracerProvider::builder()
        .with_sampler(RecordAll(otlp.sampler.clone()))
        .with_resource(otlp.resource.clone())
        .with_span_processor(Keep::new(Arc::clone(&queue), spans.clone()))
        .build();
    let tracer = Tracer(Some(provider.tracer("payops")));
    let worker = Worker { exporter, queue, waits: otlp.waits, spans: spans.clone(), works: true };
    Ok((tracer, Exporting(Some(tokio::spawn(worker.run(stop))))))
}

struct Worker {
    exporter: SpanExporter,
    queue: Arc<Queue>,
    waits: Waits,
    spans: Counter<u64>,
    /// Whether the last export succeeded: a change is told once.
    works: bool,
}

impl Worker {
    async fn run(mut self, stop: CancellationToken) {
        let Waits { delay, export_max, .. } = self.waits;
        while stop.run_until_cancelled(Arc::clone(&self.queue).gather(delay)).await.is_some() {
            let batch = self.queue.batch();
            // An export that hangs must not outlive the stop by much.
            let exporting = self.export(batch, export_max);
            tokio::pin!(exporting);
            tokio::select! {
                () = &mut exporting => {}
                () = stop.cancelled() => drop(tokio::time::timeout(LAST_EXPORT_MAX, exporting).await),
            }
        }
        let last = async {
            loop {
                let batch = self.queue.batch();
                if batch.is_empty() {
                    break;
                }
                self.export(batch, LAST_EXPORT_MAX).await;
            }
        };
        drop(tokio::time::timeout(LAST_EXPORT_MAX, last).await);
    }

    async fn export(&mut self, batch: Vec<SpanData>, most: Duration) {
        if batch.is_empty() {
            return;
        }
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let exported = tokio::time::timeout(most, self.exporter.export(batch)).await;
        let failure = match exported {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {} s", most.as_secs())),
        };
        let result = if failure.is_none() { "exported" } else { "failed" };
        self.spans.add(count, &[KeyValue::new("result", result)]);
        match (&failure, self.works) {
            (Some(why), true) => {
                tracing::warn!(why, "spans cannot be exported: they are dropped and counted");
            }
            (None, false) => tracing::info!("spans are exported again"),
            _ => {}
        }
        self.works = failure.is_none();
    }
}
