//! Where telemetry goes: what OpenTelemetry's environment variables say.

use std::{collections::HashMap, str::FromStr, time::Duration};

use opentelemetry::KeyValue;
use opentelemetry_otlp::{
    MetricExporter, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::{Resource, trace::ShouldSample};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::trace::keep;

/// How long an export may take, unless the environment says so.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What is exported, and how. The exporters read their endpoint, headers and
/// compression from the environment themselves.
#[derive(Debug)]
pub struct Otlp {
    pub(super) traces: Option<Target>,
    metrics: Option<Target>,
    pub(super) sampler: Box<dyn ShouldSample>,
    pub(super) waits: Waits,
    /// Who payops is.
    pub resource: Resource,
}

/// Where one signal goes.
#[derive(Clone, Debug)]
pub(super) struct Target {
    protocol: Protocol,
    timeout: Duration,
    tls: Files,
}

/// PEM texts.
#[derive(Clone, Default)]
struct Files {
    roots: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").finish_non_exhaustive()
    }
}

/// How spans wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waits {
    /// Beyond them spans are dropped.
    pub(super) spans_max: usize,
    pub(super) batch_max: usize,
    pub(super) delay: Duration,
    pub(super) export_max: Duration,
}

/// The variables of the environment, by name.
pub type Variables = HashMap<String, String>;

struct Reader<'a>(&'a Variables);

impl Otlp {
    /// What the variables say. The text says which one is wrong.
    pub fn from_variables(variables: &Variables) -> Result<Self, String> {
        let reader = Reader(variables);
        let disabled = reader.is("OTEL_SDK_DISABLED", "true");
        let target = |signal| if disabled { Ok(None) } else { reader.target(signal) };
        if let Some(other) = reader.text("OTEL_PROPAGATORS")
            && !other.split(',').any(|propagator| matches!(propagator.trim(), "tracecontext" | "none"))
        {
            return Err(format!(
                "OTEL_PROPAGATORS: {other:?} is not spoken here; write tracecontext, or leave it out"
            ));
        }
        let defaults = Waits {
            spans_max: 2048,
            batch_max: 512,
            delay: Duration::from_secs(1),
            export_max: Duration::from_secs(30),
        };
        let spans_max = reader.number("OTEL_BSP_MAX_QUEUE_SIZE")?.unwrap_or(defaults.spans_max);
        Ok(Self {
            traces: target("TRACES")?,
            metrics: target("METRICS")?,
            sampler: keep::sampler(
                reader.text("OTEL_TRACES_SAMPLER"),
                reader.text("OTEL_TRACES_SAMPLER_ARG"),
            )?,
            waits: Waits {
                spans_max,
                batch_max: reader
                    .number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE")?
                    .unwrap_or(defaults.batch_max)
                    .min(spans_max),
                delay: reader.millis("OTEL_BSP_SCHEDULE_DELAY")?.unwrap_or(defaults.delay),
                export_max: reader.millis("OTEL_BSP_EXPORT_TIMEOUT")?.unwrap_or(defaults.export_max),
            },
            resource: resource(&reader),
        })
    }

    /// Who sends metrics; none where nobody takes them. Has to be called within
    /// a runtime.
    pub fn metric_exporter(&self) -> Result<Option<MetricExporter>, String> {
        let Some(target) = &self.metrics else { return Ok(None) };
        let built = match target.protocol {
            Protocol::Grpc => {
                MetricExporter::builder().with_tonic().with_tls_config(target.tls.tonic()).build()
            }
            protocol => MetricExporter::builder()
                .with_http()
                .with_protocol(protocol)
                .with_http_client(target.http()?)
                .build(),
        };
        built.map(Some).map_err(|error| format!("OTEL_EXPORTER_OTLP_ENDPOINT, for metrics: {error}"))
    }
}

impl Target {
    pub(super) fn span_exporter(&self) -> Result<SpanExporter, String> {
        let built = match self.protocol {
            Protocol::Grpc => SpanExporter::builder().with_tonic().with_tls_config(self.tls.tonic()).build(),
            protocol => SpanExporter::builder()
                .with_http()
                .with_protocol(protocol)
                .with_http_client(self.http()?)
                .build(),
        };
        built.map_err(|error| format!("OTEL_EXPORTER_OTLP_ENDPOINT, for traces: {error}"))
    }

    fn http(&self) -> Result<reqwest::Client, String> {
        let unusable = |error: reqwest::Error| format!("OTEL_EXPORTER_OTLP_CERTIFICATE: {error}");
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(self.timeout);
        if let Some(roots) = &self.tls.roots {
            for root in reqwest::Certificate::from_pem_bundle(roots).map_err(unusable)? {
                builder = builder.add_root_certificate(root);
            }
        }
        if let Some((certificate, key)) = &self.tls.identity {
            let both = [certificate.as_slice(), b"\n", key].concat();
            builder = builder.identity(reqwest::Identity::from_pem(&both).map_err(unusable)?);
        }
        builder.build().map_err(unusable)
    }
}

impl Files {
    fn tonic(&self) -> ClientTlsConfig {
        let config = match &self.roots {
            Some(roots) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(roots)),
            None => ClientTlsConfig::new().with_enabled_roots(),
        };
        match &self.identity {
            Some((certificate, key)) => config.identity(Identity::from_pem(certificate, key)),
            None => config,
        }
    }
}

impl Reader<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.text(name).is_some_and(|text| text.eq_ignore_ascii_case(value))
    }

    fn number<T: FromStr + PartialOrd + From<u8>>(&self, name: &str) -> Result<Option<T>, String> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| *number >= T::from(1));
        number.map(Some).ok_or_else(|| format!("{name}: {text:?} is not a number; write one from 1 on"))
    }

    fn millis(&self, name: &str) -> Result<Option<Duration>, String> {
        Ok(self.number(name)?.map(Duration::from_millis))
    }

    /// What is said of one signal, or of all.
    fn of<'a>(&'a self, signal: &str, what: &str) -> Option<(String, &'a str)> {
        [format!("OTEL_EXPORTER_OTLP_{signal}_{what}"), format!("OTEL_EXPORTER_OTLP_{what}")]
            .into_iter()
            .find_map(|name| self.text(&name).map(|text| (name.clone(), text)))
    }

    /// A signal is exported where it is said to whom, or that it is.
    fn target(&self, signal: &str) -> Result<Option<Target>, String> {
        let name = format!("OTEL_{signal}_EXPORTER");
        let wanted = match self.text(&name) {
            None => self.of(signal, "ENDPOINT").is_some(),
            Some("otlp") => true,
            Some("none") => false,
            Some(other) => return Err(format!("{name}: {other:?} is not known; write otlp or none")),
        };
        if !wanted {
            return Ok(None);
        }
        let protocol = match self.of(signal, "PROTOCOL") {
            None => Protocol::HttpBinary,
            Some((_, "grpc")) => Protocol::Grpc,
            Some((_, "http/protobuf")) => Protocol::HttpBinary,
            Some((name, other)) => {
                return Err(format!("{name}: {other:?} is not spoken here; write grpc or http/protobuf"));
            }
        };
        let timeout = match self.of(signal, "TIMEOUT") {
            Some((name, _)) => self.millis(&name)?.unwrap_or(TIMEOUT),
            None => TIMEOUT,
        };
        let file = |what| {
            let read = |(name, path): (String, &str)| {
                std::fs::read(path).map_err(|error| format!("{name}: {path}: {error}"))
            };
            self.of(signal, what).map(read).transpose()
        };
        let identity = file("CLIENT_CERTIFICATE")?.zip(file("CLIENT_KEY")?);
        Ok(Some(Target { protocol, timeout, tls: Files { roots: file("CERTIFICATE")?, identity } }))
    }
}

/// Who payops is: by its own words, and those of `OTEL_SERVICE_NAME` and
/// `OTEL_RESOURCE_ATTRIBUTES`.
fn resource(reader: &Reader<'_>) -> Resource {
    let named = reader.text("OTEL_SERVICE_NAME").is_some()
        || reader.text("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|text| text.contains("service.name="));
    let builder = Resource::builder().with_attributes([
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", uuid::Uuid::new_v4().to_string()),
    ]);
    if named { builder.build() } else { builder.with_service_name("payops").build() }
}
