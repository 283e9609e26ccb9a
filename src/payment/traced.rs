//! The call that an operation comes from.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::payment::fresh;

/// A call's place in its trace, in the form of a W3C `traceparent` of version
/// 00. What reads an operation back hours later links its spans to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Traced(String);

impl Traced {
    /// The identifiers in lower-case hexadecimal digits, as OpenTelemetry writes them.
    pub fn new(trace_id: impl fmt::Display, span_id: impl fmt::Display, sampled: bool) -> Self {
        Self(format!("00-{trace_id}-{span_id}-{:02x}", u8::from(sampled)))
    }

    /// Of a call that no trace knows of.
    pub fn fresh() -> Self {
        let (trace, span) = (fresh::uuid_v4(), fresh::uuid_v4());
        let span: String = span.simple().to_string().chars().take(16).collect();
        Self::new(trace.simple(), span, false)
    }

    /// 32 hexadecimal digits.
    pub fn trace_id(&self) -> &str {
        self.0.get(3..35).unwrap_or_default()
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
