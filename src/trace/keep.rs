//! What is exported: everything that the sampler chose, and whatever failed or
//! fell in doubt. Spans that were not chosen wait until the last of their trace
//! ends here.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use opentelemetry::{
    Context, KeyValue,
    metrics::Counter,
    trace::{Span as _, SpanContext, SpanKind, Status, TraceFlags, TraceId},
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Sampler, SamplingDecision, SamplingResult, ShouldSample, Span, SpanData, SpanProcessor},
};

use crate::trace::queue::Queue;

/// Traces that wait at once. Of those beyond nothing is kept.
const TRACES_MAX: usize = 4096;
/// Spans of one of them.
const SPANS_MAX: usize = 64;
/// The ends of operations for which everything is kept.
const KEPT: [&str; 4] = ["in_doubt", "review", "declined", "released"];

/// The sampler's choice; what it leaves out is recorded until it is known
/// whether it is kept.
#[derive(Clone, Debug)]
pub(super) struct RecordAll(pub(super) Box<dyn ShouldSample>);

impl ShouldSample for RecordAll {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[opentelemetry::trace::Link],
    ) -> SamplingResult {
        let result = self.0.should_sample(parent, trace_id, name, kind, attributes, links);
        match result.decision {
            SamplingDecision::Drop => SamplingResult { decision: SamplingDecision::RecordOnly, ..result },
            _ => result,
        }
    }
}

/// Hands on what is exported.
#[derive(Debug)]
pub(super) struct Keep {
    queue: Arc<Queue>,
    spans: Counter<u64>,
    waiting: Mutex<HashMap<TraceId, Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Spans that have begun and not ended.
    open: usize,
    kept: bool,
    ended: Vec<SpanData>,
}

impl Keep {
    /// What does not fit into `queue` is dropped, and counted in `spans`.
    pub(super) fn new(queue: Arc<Queue>, spans: Counter<u64>) -> Self {
        Self { queue, spans, waiting: Mutex::default() }
    }

    fn export(&self, span: SpanData) {
        if !self.queue.push(span) {
            self.spans.add(1, &[KeyValue::new("result", "dropped")]);
        }
    }

    /// What the end of this span lets go.
    fn released(&self, span: SpanData) -> Vec<SpanData> {
        let trace = span.span_context.trace_id();
        let mut all = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(waiting) = all.get_mut(&trace) else { return Vec::new() };
        waiting.open = waiting.open.saturating_sub(1);
        waiting.kept |= is_kept(&span);
        if waiting.kept || waiting.ended.len() < SPANS_MAX {
            waiting.ended.push(span);
        }
        let released = if waiting.kept { std::mem::take(&mut waiting.ended) } else { Vec::new() };
        if waiting.open == 0 {
            all.remove(&trace);
        }
        released
    }
}

impl SpanProcessor for Keep {
    fn on_start(&self, span: &mut Span, _: &Context) {
        let context = span.span_context();
        if context.is_sampled() {
            return;
        }
        let mut all = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < TRACES_MAX || all.contains_key(&context.trace_id()) {
            all.entry(context.trace_id()).or_default().open += 1;
        }
    }

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            return self.export(span);
        }
        for span in self.released(span) {
            self.export(SpanData { span_context: chosen(&span.span_context), ..span });
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Whether it failed, or is about money that did not simply move.
fn is_kept(span: &SpanData) -> bool {
    let is_state = |attribute: &KeyValue| {
        attribute.key.as_str() == super::STATE && KEPT.contains(&attribute.value.as_str().as_ref())
    };
    matches!(span.status, Status::Error { .. }) || span.attributes.iter().any(is_state)
}

/// As if the sampler had chosen it.
fn chosen(context: &SpanContext) -> SpanContext {
    SpanContext::new(
        context.trace_id(),
        context.span_id(),
        context.trace_flags() | TraceFlags::SAMPLED,
        context.is_remote(),
        context.trace_state().clone(),
    )
}

/// The sampler that `OTEL_TRACES_SAMPLER` names, by default that of the parent,
/// and everything where there is none.
pub(super) fn sampler(name: Option<&str>, ratio: Option<&str>) -> Result<Box<dyn ShouldSample>, String> {
    let share = || {
        let Some(text) = ratio else { return Ok(Sampler::AlwaysOn) };
        let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
        share.map(Sampler::TraceIdRatioBased).ok_or_else(|| {
            format!("OTEL_TRACES_SAMPLER_ARG: {text:?} is not a share; write a number from 0 to 1")
        })
    };
    let below_parent = |root: Sampler| Sampler::ParentBased(Box::new(root));
    let sampler = match name.unwrap_or("parentbased_always_on") {
        "always_on" => Sampler::AlwaysOn,
        "always_off" => Sampler::AlwaysOff,
        "traceidratio" => share()?,
        "parentbased_always_on" => below_parent(Sampler::AlwaysOn),
        "parentbased_always_off" => below_parent(Sampler::AlwaysOff),
        "parentbased_traceidratio" => below_parent(share()?),
        other => {
            return Err(format!(
                "OTEL_TRACES_SAMPLER: {other:?} is not known; write always_on, always_off or traceidratio, \
                 or one of them behind parentbased_"
            ));
        }
    };
    Ok(Box::new(sampler))
}
