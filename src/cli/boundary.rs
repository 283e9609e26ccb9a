//! Which boundary a command talks to, and as whom.

use std::{fs, path::PathBuf, time::Duration};

use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};
use tonic::{
    Request,
    metadata::AsciiMetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::cli::{EXIT_CONFIGURATION, EXIT_UNAVAILABLE, Failed};
use crate::config::Source;

/// Where a boundary is by default.
const ADDRESS: &str = "http://127.0.0.1:50051";
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which boundary is asked, and by whom.
#[derive(Args)]
pub struct Boundary {
    #[arg(
        long,
        value_name = "URL",
        help = "Where the boundary is (or PAYOPS_ADDRESS) [default: http://127.0.0.1:50051]"
    )]
    address: Option<String>,
    #[arg(
        long,
        value_name = "FILE",
        help = "A file with the caller's token (or the token itself in PAYOPS_TOKEN)"
    )]
    token_file: Option<PathBuf>,
    /// With https: trust these certificates (PEM), and not the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// With https: show this certificate (PEM), beside a token or in place of one
    #[arg(long, value_name = "FILE", requires = "key_file")]
    certificate_file: Option<PathBuf>,
    /// The private key of that certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "certificate_file")]
    key_file: Option<PathBuf>,
}

/// Who asks; none where a certificate says so.
#[derive(Clone)]
pub(super) struct Authorization(Option<AsciiMetadataValue>);

impl Authorization {
    /// A request of theirs that may take so long.
    pub(super) fn request<M>(&self, message: M, timeout: Option<Duration>) -> Request<M> {
        let mut request = Request::new(message);
        if let Some(authorization) = &self.0 {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        request
    }
}

impl Boundary {
    /// The connection, which connects anew by itself, and who asks.
    pub(super) async fn connect(&self) -> Result<(Channel, Authorization), Failed> {
        let authorization = token(self)?.map(|token| authorization(&token)).transpose()?;
        let variable = std::env::var("PAYOPS_ADDRESS").ok();
        let address = self.address.clone().or(variable).unwrap_or_else(|| ADDRESS.to_owned());
        let endpoint = endpoint(&address, self)?;
        let channel = endpoint.connect().await.map_err(|error| {
            let why = causes(&error);
            Failed::new(format!("cannot reach {address}: {why}; does payops serve there?"), EXIT_UNAVAILABLE)
        })?;
        Ok((channel, Authorization(authorization)))
    }
}

fn authorization(token: &SecretString) -> Result<AsciiMetadataValue, Failed> {
    let wrong =
        |_| Failed::new("the token is not one: it holds other than visible ASCII", EXIT_CONFIGURATION);
    let mut value: AsciiMetadataValue = format!("Bearer {}", token.expose_secret()).parse().map_err(wrong)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Never an argument: every user of the machine can read those. None where a
/// certificate takes its place.
fn token(asking: &Boundary) -> Result<Option<SecretString>, Failed> {
    if let Some(file) = &asking.token_file {
        return Source::File(file.clone()).read().map(Some).map_err(|error| {
            let why = format!("--token-file {}: cannot be read: {error}", file.display());
            Failed::new(why, EXIT_CONFIGURATION)
        });
    }
    match std::env::var("PAYOPS_TOKEN") {
        Ok(token) if !token.is_empty() => Ok(Some(token.into())),
        _ if asking.certificate_file.is_some() => Ok(None),
        _ => Err(Failed::new(
            "no token: name a file by --token-file, or set PAYOPS_TOKEN; or show a certificate by --certificate-file. \
             `payops token new --name NAME` makes one",
            EXIT_CONFIGURATION,
        )),
    }
}

fn endpoint(address: &str, asking: &Boundary) -> Result<Endpoint, Failed> {
    let unusable = |why: String| Failed::new(why, EXIT_CONFIGURATION);
    let secure = address.starts_with("https://");
    if !secure && !address.starts_with("http://") {
        return Err(unusable(format!(
            "{address} is no address: write http:// or https://, a host and a port"
        )));
    }
    let endpoint = Endpoint::from_shared(address.to_owned())
        .map_err(|error| unusable(format!("{address} is no address: {error}")))?
        .connect_timeout(CONNECT_TIMEOUT);
    if !secure {
        let options = [("--ca-file", &asking.ca_file), ("--certificate-file", &asking.certificate_file)];
        return match options.iter().find(|(_, file)| file.is_some()) {
            None => Ok(endpoint),
            Some((option, _)) => Err(unusable(format!("{option} is for https://, and {address} is not"))),
        };
    }
    let read = |option: &str, file: &PathBuf| {
        fs::read(file).map_err(|error| unusable(format!("{option} {}: {error}", file.display())))
    };
    let mut tls = match &asking.ca_file {
        None => ClientTlsConfig::new().with_native_roots(),
        Some(file) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("--ca-file", file)?)),
    };
    if let (Some(certificate), Some(key)) = (&asking.certificate_file, &asking.key_file) {
        tls = tls
            .identity(Identity::from_pem(read("--certificate-file", certificate)?, read("--key-file", key)?));
    }
    endpoint.tls_config(tls).map_err(|error| unusable(causes(&error)))
}

/// An error with all that caused it.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_told = cause.to_string();
        // Some layers repeat what is below them.
        if !told.contains(&cause_told) {
            told = format!("{told}: {cause_told}");
        }
        source = cause.source();
    }
    told
}
