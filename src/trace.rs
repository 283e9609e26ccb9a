//! Spans: what a call did, in the trace of whoever made it.
//!
//! OpenTelemetry's own spans, since those of `tracing` cost several times as
//! much and nothing else needs them. Where nothing is exported none is made,
//! and the caller's context is handed on all the same.

mod exporting;
mod keep;
mod otlp;
mod queue;

use std::{borrow::Cow, str::FromStr as _};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context, KeyValue,
    trace::{
        Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _,
        TraceFlags, TraceId, TraceState, Tracer as _,
    },
};
use opentelemetry_sdk::trace::{SdkTracer, Span};

use crate::payment::{Operation, Traced};

pub use self::exporting::{Exporting, start};
pub use self::otlp::Otlp;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// What W3C asks everybody to hand on. More is not the PSP's business.
const TRACESTATE_BYTES_MAX: usize = 512;

/// The attribute that says where an operation stands.
pub const STATE: &str = "payops.state";

/// Begins spans.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<SdkTracer>);

/// A span that was begun here and ends with this; where none is made, the place
/// in the trace that it would have had.
pub struct Begun {
    span: Option<Span>,
    place: SpanContext,
}

impl Tracer {
    /// Makes none.
    pub fn off() -> Self {
        Self(None)
    }

    /// The context of a call, from its headers. `rpc` names it; a call without a
    /// name has no span.
    pub fn call(&self, headers: &HeaderMap, rpc: Option<&'static str>) -> Context {
        let parent = remote(headers);
        let (Some(tracer), Some(rpc)) = (&self.0, rpc) else {
            let place = parent.unwrap_or_else(|| place(&Traced::fresh()));
            return Context::new().with_remote_span_context(place);
        };
        let parent =
            parent.map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
        let attributes = vec![KeyValue::new("rpc.system.name", "grpc"), KeyValue::new("rpc.method", rpc)];
        let builder = SpanBuilder::from_name(rpc).with_kind(SpanKind::Server).with_attributes(attributes);
        let span = tracer.build_with_context(builder, &parent);
        parent.with_span(span)
    }

    /// A span below the current one. Attributes are asked for only where there
    /// is one.
    pub fn begin(
        &self,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        attributes: impl FnOnce() -> Vec<KeyValue>,
    ) -> Begun {
        let current = Context::current();
        let Some(tracer) = &self.0 else {
            return Begun { span: None, place: current.span().span_context().clone() };
        };
        let builder = SpanBuilder::from_name(name).with_kind(kind).with_attributes(attributes());
        let span = tracer.build_with_context(builder, &current);
        Begun { place: span.span_context().clone(), span: Some(span) }
    }

    /// The context of something that payops does by itself for an operation that
    /// a call began: linked to that call, and below whoever waits for it.
    pub fn on_behalf(
        &self,
        name: &'static str,
        of: Option<&Traced>,
        attributes: impl FnOnce() -> Vec<KeyValue>,
    ) -> Context {
        let current = Context::current();
        let Some(tracer) = &self.0 else { return current };
        let mut builder =
            SpanBuilder::from_name(name).with_kind(SpanKind::Internal).with_attributes(attributes());
        builder.links = of.map(|of| vec![Link::with_context(place(of))]);
        let span = tracer.build_with_context(builder, &current);
        current.with_span(span)
    }
}

impl Begun {
    /// Adds what is known now.
    pub fn set(&mut self, attribute: KeyValue) {
        if let Some(span) = &mut self.span {
            span.set_attribute(attribute);
        }
    }

    /// It failed, in this way.
    pub fn fail(&mut self, error_type: impl Into<opentelemetry::Value>) {
        if let Some(span) = &mut self.span {
            span.set_attribute(KeyValue::new("error.type", error_type.into()));
            span.set_status(Status::error(""));
        }
    }

    /// Where it is.
    pub fn place(&self) -> &SpanContext {
        &self.place
    }

    /// Hands the context on to whoever is called.
    pub fn inject(&self, headers: &mut HeaderMap) {
        if !self.place.is_valid() {
            return;
        }
        let Ok(parent) = HeaderValue::try_from(traced(&self.place).as_str()) else { return };
        headers.insert(TRACEPARENT, parent);
        let state = self.place.trace_state().header();
        if !state.is_empty()
            && let Ok(state) = HeaderValue::try_from(state)
        {
            headers.insert(TRACESTATE, state);
        }
    }
}

/// What an operation is about. No key, no amount, no reference: whatever a caller
/// chose stays in the journal.
pub fn operation(operation: &Operation) -> [KeyValue; 3] {
    [
        KeyValue::new("payops.kind", operation.kind().as_str()),
        KeyValue::new("payops.transaction.id", operation.transaction.as_str().to_owned()),
        KeyValue::new("payops.account", operation.transaction.account().as_str().to_owned()),
    ]
}

/// Adds to the current span, where there is one, what is known now. Nothing is
/// said twice: the SDK would export both.
pub fn describe<A: IntoIterator<Item = KeyValue>>(attributes: impl FnOnce() -> A) {
    let current = Context::current();
    let span = current.span();
    if span.is_recording() {
        span.set_attributes(attributes());
    }
}

/// What the current call was told. Whether that is a failure of ours is said
/// there, and nowhere else in the trace.
pub fn answered(code: &'static str, failed: bool) {
    let current = Context::current();
    let span = current.span();
    if !span.is_recording() {
        return;
    }
    span.set_attribute(KeyValue::new("rpc.response.status_code", code));
    if failed {
        span.set_attribute(KeyValue::new("error.type", code));
        span.set_status(Status::error(""));
    }
    span.end();
}

/// Links the current span to a call of before, unless it is that call itself.
pub fn link(to: &Traced) {
    let current = Context::current();
    let span = current.span();
    let to = place(to);
    if span.is_recording() && span.span_context().span_id() != to.span_id() {
        span.add_link(to, Vec::new());
    }
}

/// The place of a context, as it is kept.
pub fn traced(place: &SpanContext) -> Traced {
    Traced::new(place.trace_id(), place.span_id(), place.is_sampled())
}

/// The place that was kept. One that cannot be read is none.
fn place(traced: &Traced) -> SpanContext {
    let text = traced.as_str();
    let trace = TraceId::from_hex(traced.trace_id()).unwrap_or(TraceId::INVALID);
    let span = SpanId::from_hex(text.get(36..52).unwrap_or_default()).unwrap_or(SpanId::INVALID);
    let flags = if text.ends_with("01") { TraceFlags::SAMPLED } else { TraceFlags::default() };
    SpanContext::new(trace, span, flags, true, TraceState::default())
}

/// The caller's place, if its headers have one that is valid. OpenTelemetry's own
/// reader takes identifiers that are too short.
pub(crate) fn remote(headers: &HeaderMap) -> Option<SpanContext> {
    let text = headers.get(TRACEPARENT)?.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_whole = version != "00" || parts.next().is_none();
    if !hex(version, 2) || version == "ff" || !hex(trace, 32) || !hex(span, 16) || !hex(flags, 2) || !is_whole
    {
        return None;
    }
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    let flags = if sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let state = headers.get(TRACESTATE).and_then(|state| state.to_str().ok());
    let state = state.filter(|state| state.len() <= TRACESTATE_BYTES_MAX);
    let state = state.and_then(|state| TraceState::from_str(state).ok()).unwrap_or_default();
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let place = SpanContext::new(trace, span, flags, true, state);
    place.is_valid().then_some(place)
}

#[cfg(test)]
mod tests;
