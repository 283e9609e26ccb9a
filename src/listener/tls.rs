//! TLS 1.3 towards callers: certificates that may change while we run,
//! handshakes with a bound, and HTTP/2 alone inside.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::callers::Certificate;
use crate::config::{
    self, Mistakes,
    followed::{Followed, Refreshed},
    read_file,
};

/// What is spoken inside; RFC 7540 calls it so.
const HTTP2: &[u8] = b"h2";

/// A handshake that fails is told of at most this often, however many do.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// The certificates, as their files last gave them. A new version that is
/// wrong is refused as a whole; the old one stays.
pub struct Tls {
    settings: config::Tls,
    files: Arc<Followed<Arc<ServerConfig>>>,
    complaints: Mutex<Complaints>,
}

/// What is not told, so that nobody can fill the log.
#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
    untold: u64,
}

impl Tls {
    /// Reads the files. Files that are wrong now are an error.
    pub fn open(settings: &config::Tls) -> Result<Self, Mistakes> {
        let files =
            [Some(&settings.certificate_file), Some(&settings.key_file), settings.client_ca_file.as_ref()];
        let files = files.into_iter().flatten().cloned().collect();
        let read = {
            let settings = settings.clone();
            move |_: Option<&Arc<ServerConfig>>| server_config(&settings).map(Arc::new)
        };
        let files = Arc::new(Followed::open(files, read)?);
        Ok(Self { settings: settings.clone(), files, complaints: Mutex::default() })
    }

    /// The SHA-256 of the files, as they were judged last.
    pub fn sha256(&self) -> [u8; 32] {
        self.files.sha256()
    }

    /// Follows the files until `stop`. Each version is logged once, and told by its
    /// SHA-256, with what is wrong with it where it is refused.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken, judged: impl Fn(&[u8], Option<String>)) {
        let tell = |_: &Arc<ServerConfig>, refreshed| match refreshed {
            Some(Refreshed::Unchanged) => (),
            Some(Refreshed::Changed) => {
                tracing::info!("the certificates changed");
                judged(&self.sha256(), None);
            }
            Some(Refreshed::Refused(mistakes)) => {
                tracing::error!(%mistakes, "the new certificates are refused, the old ones stay");
                judged(&self.sha256(), Some(mistakes.to_string()));
            }
            None => {
                tracing::error!("the certificates were not looked at");
            }
        };
        Arc::clone(&self.files).follow(stop, tell).await;
    }

    /// The handshakes that may be under way.
    pub(super) fn handshakes_max(&self) -> usize {
        self.settings.handshakes_max
    }

    /// One handshake, with the certificates as they are now.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the connection.
    pub(super) async fn accept(self: Arc<Self>, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let peer = stream.peer_addr();
        let shaken = TlsAcceptor::from(Arc::clone(&*self.files.current())).accept(stream);
        let accepted = match tokio::time::timeout(self.settings.handshake_timeout, shaken).await {
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long")),
            Ok(Err(error)) => Err(error),
            // Another protocol's client must not be talked into this one.
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() != Some(HTTP2) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not ask for h2"))
            }
            Ok(Ok(stream)) => Ok(stream),
        };
        accepted.inspect_err(|error| self.complain(peer.ok(), error))
    }

    fn complain(&self, peer: Option<SocketAddr>, error: &io::Error) {
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if complaints.last.is_some_and(|last| last.elapsed() < COMPLAIN_EVERY) {
            complaints.untold = complaints.untold.saturating_add(1);
            return;
        }
        let untold = std::mem::take(&mut complaints.untold);
        complaints.last = Some(Instant::now());
        let peer = peer.map(tracing::field::display);
        tracing::warn!(peer, %error, untold, "a TLS handshake failed");
    }
}

/// What the client's certificate names; none where it showed none. The
/// handshake has looked at its signatures, its times and its purpose.
pub(super) fn certificate(stream: &TlsStream<TcpStream>) -> Option<Certificate> {
    stream.get_ref().1.peer_certificates().and_then(<[_]>::first).map(Certificate::read)
}

/// All of it anew from the files, or every mistake.
fn server_config(settings: &config::Tls) -> Result<ServerConfig, Mistakes> {
    let mut mistakes = Mistakes::default();
    let chain = certificates("server.tls.certificate_file", &settings.certificate_file, &mut mistakes);
    let key = private_key(&settings.key_file, &mut mistakes);
    let authorities = settings
        .client_ca_file
        .as_deref()
        .map(|file| authorities(file, settings.client_certificate_required, &mut mistakes));
    let Some(key) = key else { return Err(mistakes) };
    let verifier = match authorities {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(Some(verifier)) => verifier,
        Some(None) => return Err(mistakes),
    };
    mistakes.or(())?;
    assemble(chain, key, verifier)
}

fn assemble(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    verifier: Arc<dyn ClientCertVerifier>,
) -> Result<ServerConfig, Mistakes> {
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let built = builder
        .with_protocol_versions(&[&TLS13])
        .map(|builder| builder.with_client_cert_verifier(verifier))
        .and_then(|builder| builder.with_single_cert(chain, key));
    let mut config = built.map_err(|error| {
        let mut mistakes = Mistakes::default();
        let problem = format!("cannot be used with server.tls.certificate_file ({error})");
        mistakes.add("server.tls.key_file", problem, "give the key that the certificate was made for");
        mistakes
    })?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    // A resumed session would bring the certificate of an earlier handshake,
    // which may have expired, or its authority been removed.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn certificates(key: &str, file: &Path, mistakes: &mut Mistakes) -> Vec<CertificateDer<'static>> {
    let read = read_file(file).map_err(|error| format!("cannot be read ({error})")).and_then(|text| {
        let certificates = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
        match certificates {
            Ok(certificates) if certificates.is_empty() => Err("holds no certificate".to_owned()),
            Ok(certificates) => Ok(certificates),
            Err(_) => Err("is not PEM".to_owned()),
        }
    });
    read.unwrap_or_else(|problem| {
        mistakes.add(key, problem, "name a readable file with certificates in PEM");
        Vec::new()
    })
}

/// What is wrong with it is told without a byte of it.
fn private_key(file: &Path, mistakes: &mut Mistakes) -> Option<PrivateKeyDer<'static>> {
    let read = read_file(file).map_err(|error| format!("cannot be read ({error})")).and_then(|text| {
        let text = Zeroizing::new(text);
        PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| "holds no private key in PEM".to_owned())
    });
    match read {
        Ok(key) => Some(key),
        Err(problem) => {
            let remedy = "name a readable file with the private key in PEM, not encrypted";
            mistakes.add("server.tls.key_file", problem, remedy);
            None
        }
    }
}

fn authorities(file: &Path, required: bool, mistakes: &mut Mistakes) -> Option<Arc<dyn ClientCertVerifier>> {
    let key = "server.tls.client_ca_file";
    let before = mistakes.len();
    let certificates = certificates(key, file, mistakes);
    if mistakes.len() > before {
        return None;
    }
    let mut roots = RootCertStore::empty();
    let (_, unusable) = roots.add_parsable_certificates(certificates);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    match builder.build() {
        Ok(verifier) if unusable == 0 => Some(verifier),
        _ => {
            let problem = format!("holds {unusable} certificates of which no authority can be made");
            mistakes.add(key, problem, "keep the certificates of authorities alone");
            None
        }
    }
}
