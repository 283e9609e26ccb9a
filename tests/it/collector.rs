//! A real OpenTelemetry Collector: OTLP in, lines of JSON in a file out.

use std::{fs, process::Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::{eventually, free_address};

pub struct Collector {
    _child: Child,
    folder: TempDir,
    /// `host:port` for gRPC.
    pub grpc: String,
    /// `host:port` for HTTP.
    pub http: String,
}

/// A span as the collector received it, with its attributes by name.
#[derive(Clone, Debug)]
pub struct Seen {
    pub service: String,
    pub name: String,
    pub kind: u64,
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub failed: bool,
    pub links: Vec<String>,
    pub attributes: Value,
    pub start: u64,
    pub end: u64,
}

/// Kinds of spans, as OTLP numbers them.
pub const INTERNAL: u64 = 1;
pub const SERVER: u64 = 2;
pub const CLIENT: u64 = 3;

impl Collector {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (grpc, http) = (free_address().to_string(), free_address().to_string());
        let file = |name: &str| json!({"path": folder.path().join(name), "flush_interval": "50ms"});
        let pipeline = |to: &str| json!({"receivers": ["otlp"], "exporters": [to]});
        let config = json!({
            "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": grpc}, "http": {"endpoint": http}}}},
            "exporters": {"file/traces": file("traces"), "file/metrics": file("metrics")},
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {"traces": pipeline("file/traces"), "metrics": pipeline("file/metrics")},
            },
        });
        let path = folder.path().join("config.yaml");
        // JSON is YAML.
        fs::write(&path, config.to_string()).unwrap();
        let child = Command::new("payops-test-collector")
            .arg(format!("--config=file:{}", path.display()))
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("log")).unwrap())
            .kill_on_drop(true)
            .spawn()
            .expect("the collector is there: tests/run builds it");
        let collector = Self { _child: child, folder, grpc, http };
        eventually("the collector listens", async || {
            tokio::net::TcpStream::connect(&collector.grpc).await.is_ok()
                && tokio::net::TcpStream::connect(&collector.http).await.is_ok()
        })
        .await;
        collector
    }

    /// Everything that it received.
    pub fn text(&self) -> String {
        ["traces", "metrics"]
            .map(|name| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default())
            .concat()
    }

    /// The names of the metrics that it received.
    pub fn metrics(&self) -> Vec<String> {
        let all = each(&self.lines("metrics"), &["resourceMetrics", "scopeMetrics", "metrics"]);
        all.iter().map(|(_, metric)| metric["name"].as_str().unwrap().to_owned()).collect()
    }

    /// The spans that it received.
    pub fn spans(&self) -> Vec<Seen> {
        let all = each(&self.lines("traces"), &["resourceSpans", "scopeSpans", "spans"]);
        all.iter().map(|(resource, span)| seen(resource, span)).collect()
    }

    /// The spans of a trace, once there are so many.
    pub async fn trace(&self, id: &str, count: usize) -> Vec<Seen> {
        let of_it = || self.spans().into_iter().filter(|span| span.trace == id).collect::<Vec<_>>();
        eventually(&format!("{count} spans of the trace arrive"), async || of_it().len() >= count).await;
        of_it()
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        // The last may be half written.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// What lies three lists deep, with the resource that it lies in.
fn each(lines: &[Value], path: &[&str; 3]) -> Vec<(Value, Value)> {
    let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    let mut all = Vec::new();
    for resource in lines.iter().flat_map(|line| list(line, path[0])) {
        for scope in list(&resource, path[1]) {
            all.extend(list(&scope, path[2]).into_iter().map(|item| (resource["resource"].clone(), item)));
        }
    }
    all
}

fn seen(resource: &Value, span: &Value) -> Seen {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let links = span["links"].as_array().cloned().unwrap_or_default();
    let time = |name: &str| text(&span[name]).parse().unwrap_or_default();
    Seen {
        service: text(&attributes(resource)["service.name"]),
        name: text(&span["name"]),
        kind: span["kind"].as_u64().unwrap_or_default(),
        trace: text(&span["traceId"]),
        id: text(&span["spanId"]),
        parent: text(&span["parentSpanId"]),
        failed: span["status"]["code"] == 2,
        links: links.iter().map(|link| text(&link["spanId"])).collect(),
        attributes: attributes(span),
        start: time("startTimeUnixNano"),
        end: time("endTimeUnixNano"),
    }
}

fn attributes(of: &Value) -> Value {
    let pairs = of["attributes"].as_array().cloned().unwrap_or_default();
    let value = |value: &Value| value.as_object().and_then(|kinds| kinds.values().next()).cloned();
    let named: serde_json::Map<_, _> = pairs
        .iter()
        .map(|pair| (pair["key"].as_str().unwrap().to_owned(), value(&pair["value"]).unwrap_or_default()))
        .collect();
    assert_eq!(named.len(), pairs.len(), "an attribute is said twice: {pairs:?}");
    named.into()
}
