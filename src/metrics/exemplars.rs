//! Exemplars: for each bucket of a histogram of durations one call of late that
//! fell into it, by its trace id. OpenTelemetry's SDK keeps none yet, and the
//! text format of Prometheus shows none, so both are here: what is kept, and
//! `OpenMetrics`.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry::trace::{SpanContext, TraceId};
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

/// How `OpenMetrics` is asked for and told.
pub(super) const OPEN_METRICS: &str = "application/openmetrics-text";
/// The type of the whole.
pub(super) const OPEN_METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One is kept for at least this long, so that calls seldom write.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// A histogram that has exemplars.
pub(super) struct Shown {
    /// Its name at Prometheus.
    pub(super) name: &'static str,
    /// Its two labels there, in the order of their values.
    pub(super) labels: [&'static str; 2],
    pub(super) bounds: &'static [f64],
}

/// The last of each bucket. There are as many as there are series of the
/// histograms: all their labels have values that payops chose.
#[derive(Clone, Default)]
pub(super) struct Exemplars(Arc<Mutex<HashMap<Series, HashMap<usize, Exemplar>>>>);

/// A histogram, and the values of its labels.
type Series = (&'static str, [&'static str; 2]);

#[derive(Clone, Copy)]
struct Exemplar {
    trace_id: TraceId,
    seconds: f64,
    at: SystemTime,
}

impl Exemplars {
    /// One more call. Kept only where its trace is.
    pub(super) fn offer(
        &self,
        shown: &Shown,
        values: [&'static str; 2],
        took: Duration,
        at: Option<&SpanContext>,
    ) {
        let Some(place) = at.filter(|place| place.is_sampled() && !place.is_remote()) else { return };
        let seconds = took.as_secs_f64();
        let bucket = shown.bounds.iter().take_while(|bound| seconds > **bound).count();
        let now = SystemTime::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let series = all.entry((shown.name, values)).or_default();
        let is_fresh = |kept: &Exemplar| now.duration_since(kept.at).is_ok_and(|age| age < KEPT_FOR);
        if !series.get(&bucket).is_some_and(is_fresh) {
            series.insert(bucket, Exemplar { trace_id: place.trace_id(), seconds, at: now });
        }
    }

    fn of(&self, shown: &Shown, labels: &[LabelPair], bucket: usize) -> Option<Exemplar> {
        let value = |name: &str| labels.iter().find(|label| label.name() == name).map(LabelPair::value);
        let values = [value(shown.labels[0])?, value(shown.labels[1])?];
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let series = all.iter().find(|((name, of), _)| *name == shown.name && *of == values);
        series.and_then(|(_, buckets)| buckets.get(&bucket).copied())
    }
}

/// The families in `OpenMetrics`, with exemplars for those that are `shown`.
pub(super) fn open_metrics(families: &[MetricFamily], shown: &[&Shown], exemplars: &Exemplars) -> String {
    let mut text = String::new();
    for family in families {
        // Writing to a String cannot fail.
        _ = write_family(&mut text, family, shown, exemplars);
    }
    text.push_str("# EOF\n");
    text
}

fn write_family(
    text: &mut String,
    family: &MetricFamily,
    shown: &[&Shown],
    exemplars: &Exemplars,
) -> fmt::Result {
    let name = family.name();
    let name = name.strip_suffix("_total").unwrap_or(name);
    let kind = match family.get_field_type() {
        MetricType::COUNTER => "counter",
        MetricType::HISTOGRAM => "histogram",
        _ => "gauge",
    };
    writeln!(text, "# TYPE {name} {kind}\n# HELP {name} {}", escaped(family.help()))?;
    for metric in family.get_metric() {
        let labels = metric.get_label();
        match kind {
            "counter" => {
                writeln!(text, "{name}_total{} {}", set(labels, None), metric.get_counter().get_value())?;
            }
            "histogram" => {
                let shown = shown.iter().find(|shown| shown.name == name);
                write_histogram(text, name, metric, |bucket| exemplars.of(shown?, labels, bucket))?;
            }
            _ => writeln!(text, "{name}{} {}", set(labels, None), metric.get_gauge().get_value())?,
        }
    }
    Ok(())
}

fn write_histogram(
    text: &mut String,
    name: &str,
    metric: &Metric,
    exemplar: impl Fn(usize) -> Option<Exemplar>,
) -> fmt::Result {
    let (labels, histogram) = (metric.get_label(), metric.get_histogram());
    let count = histogram.get_sample_count();
    let bounded = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
    let buckets = bounded.map(|bucket| (bucket.upper_bound().to_string(), bucket.cumulative_count()));
    for (bucket, (bound, below)) in buckets.chain([("+Inf".to_owned(), count)]).enumerate() {
        write!(text, "{name}_bucket{} {below}", set(labels, Some(&bound)))?;
        if let Some(Exemplar { trace_id, seconds, at }) = exemplar(bucket) {
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            write!(text, " # {{trace_id=\"{trace_id}\"}} {seconds} {at:.3}")?;
        }
        text.push('\n');
    }
    writeln!(text, "{name}_sum{} {}", set(labels, None), histogram.get_sample_sum())?;
    writeln!(text, "{name}_count{} {count}", set(labels, None))
}

/// The labels, and that of a bucket.
fn set(labels: &[LabelPair], bound: Option<&str>) -> String {
    let labels = labels.iter().map(|label| (label.name(), label.value()));
    let all = labels.chain(bound.map(|bound| ("le", bound)));
    let all: Vec<String> = all.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
