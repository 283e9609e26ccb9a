//! One connection: how it is made, what its session is told, and what its
//! errors mean.

use std::{
    future::poll_fn,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use secrecy::ExposeSecret as _;
use tokio::{sync::mpsc, time::Instant};
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, NoTls, Socket,
    config::{ChannelBinding, Host, SslMode, TargetSessionAttrs},
    error::{DbError, Severity, SqlState},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::Postgres as Settings;
use crate::journal::Error;

/// To be connected, TLS and password included.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// The longest that a read may take, at the server and here.
pub(super) const READ_MAX: Duration = Duration::from_secs(5);
/// A transaction that is left open is ended by the server. None is, but for a
/// process that stands still.
const IDLE_IN_TRANSACTION_MAX: Duration = Duration::from_secs(10);
/// Most notifications that wait to be heard.
pub(super) const NOTIFICATIONS_MAX: usize = 1024;

/// What a session is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A commit is acknowledged when it is durable, however long that takes.
    Write,
    /// Reads have a bound.
    Read,
    /// Says what changed; nothing depends on it.
    Notify,
}

/// Makes connections.
pub(super) struct Connector {
    settings: Settings,
    tls: Option<MakeRustlsConnect>,
}

/// An open connection.
pub(super) struct Connected {
    pub(super) client: Client,
    /// How many warnings the server gave.
    warnings: Arc<AtomicU64>,
}

/// Why a statement has no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It was rolled back, and may be tried again: others were in the way.
    InTheWay(String),
    /// It was rolled back: a key or a slot is taken.
    Taken,
    /// It was rolled back.
    Refused(String),
    /// Whether it was committed is unknown.
    Lost(String),
}

impl Connector {
    pub(super) fn new(settings: &Settings) -> Result<Self, Error> {
        let config = parse(settings)?;
        let elsewhere = config.get_hosts().iter().any(|host| !is_here(host));
        let tls = (elsewhere || settings.ca_file.is_some()).then(|| tls(settings)).transpose()?;
        Ok(Self { settings: settings.clone(), tls })
    }

    /// A connection to the server that takes writes.
    pub(super) async fn connect(
        &self,
        purpose: Purpose,
        notifications: Option<mpsc::Sender<String>>,
    ) -> Result<Connected, Error> {
        let connecting = self.try_connect(purpose, notifications);
        match tokio::time::timeout(CONNECT_MAX, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(Error::Unavailable("the database cannot be reached in time".to_owned())),
        }
    }

    async fn try_connect(
        &self,
        purpose: Purpose,
        notifications: Option<mpsc::Sender<String>>,
    ) -> Result<Connected, Error> {
        let mut config = parse(&self.settings)?;
        config
            .application_name("payops")
            .connect_timeout(CONNECT_MAX)
            .keepalives_idle(Duration::from_secs(30))
            // What was sent and is not acknowledged shows a dead server.
            .tcp_user_timeout(Duration::from_secs(30))
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        if let Some(password) = &self.settings.password {
            // Read each time: it may have been changed.
            let password = password
                .read()
                .map_err(|error| Error::Unavailable(format!("its password cannot be read: {error}")))?;
            config.password(password.expose_secret());
        }
        let unreachable = |error: tokio_postgres::Error| Error::Unavailable(told(&error));
        let warnings = Arc::new(AtomicU64::new(0));
        let client = match &self.tls {
            Some(tls) => {
                config.ssl_mode(SslMode::Require).channel_binding(ChannelBinding::Prefer);
                let (client, connection) = config.connect(tls.clone()).await.map_err(unreachable)?;
                drive(connection, &warnings, notifications);
                client
            }
            None => {
                config.ssl_mode(SslMode::Disable);
                let (client, connection) = config.connect(NoTls).await.map_err(unreachable)?;
                drive(connection, &warnings, notifications);
                client
            }
        };
        let connected = Connected { client, warnings };
        connected.client.batch_execute(&session(purpose)).await.map_err(unreachable)?;
        Ok(connected)
    }
}

impl Connected {
    /// Whether it has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// What the server warned of so far. A commit during which it did is not
    /// known to be on the standby.
    pub(super) fn warnings(&self) -> u64 {
        self.warnings.load(Ordering::Acquire)
    }
}

impl Trouble {
    pub(super) fn of(error: &tokio_postgres::Error) -> Self {
        let why = told(error);
        let Some(said) = error.as_db_error() else {
            return if error.is_closed() || is_io(error) {
                Self::Lost(why)
            } else {
                // It never left: a value of ours that cannot be sent.
                Self::Refused(why)
            };
        };
        // A session that ends may end in the middle of a commit.
        if matches!(said.parsed_severity(), Some(Severity::Fatal | Severity::Panic) | None) {
            return Self::Lost(why);
        }
        match said.code() {
            code if *code == SqlState::UNIQUE_VIOLATION => Self::Taken,
            code if *code == SqlState::T_R_DEADLOCK_DETECTED
                || *code == SqlState::T_R_SERIALIZATION_FAILURE
                || *code == SqlState::LOCK_NOT_AVAILABLE =>
            {
                Self::InTheWay(why)
            }
            _ => Self::Refused(why),
        }
    }
}

/// An error of a read.
#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
pub(super) fn unavailable(error: tokio_postgres::Error) -> Error {
    Error::Unavailable(told(&error))
}

/// The server's own words, where there are any.
fn told(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    match (error.as_db_error(), error.source()) {
        (Some(said), _) => format!("the database says: {} ({})", said.message(), said.code().code()),
        (None, Some(source)) => format!("the database: {error}: {source}"),
        (None, None) => format!("the database: {error}"),
    }
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    use std::error::Error as _;
    error.source().is_none_or(|source| source.downcast_ref::<io::Error>().is_some())
}

fn session(purpose: Purpose) -> String {
    let millis = |duration: Duration| duration.as_millis();
    // No bound on a write at the server: an end of the wait for the standby
    // would not undo the commit. We stop waiting instead.
    let (commit, bound) = match purpose {
        Purpose::Write => ("on", 0),
        Purpose::Read => ("on", millis(READ_MAX)),
        Purpose::Notify => ("off", millis(READ_MAX)),
    };
    format!(
        "SET synchronous_commit = {commit}; SET statement_timeout = {bound}; \
         SET idle_in_transaction_session_timeout = {}; \
         SET default_transaction_isolation = 'read committed'; SET client_min_messages = warning",
        millis(IDLE_IN_TRANSACTION_MAX)
    )
}

/// Carries the connection's bytes until it ends.
fn drive<S>(
    mut connection: Connection<Socket, S>,
    warnings: &Arc<AtomicU64>,
    notifications: Option<mpsc::Sender<String>>,
) where
    S: tokio_postgres::tls::TlsStream + Unpin + Send + 'static,
{
    let warnings = Arc::clone(warnings);
    tokio::spawn(async move {
        // A warning is counted before the answer that follows it is given out.
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            match message {
                AsyncMessage::Notice(notice) if is_warning(&notice) => {
                    warnings.fetch_add(1, Ordering::AcqRel);
                    let (code, message) = (notice.code().code(), notice.message());
                    tracing::warn!(code, message, "the database warned");
                }
                AsyncMessage::Notification(notification) => {
                    if let Some(notifications) = &notifications {
                        // Who cannot keep up looks for itself.
                        drop(notifications.try_send(notification.payload().to_owned()));
                    }
                }
                _ => {}
            }
        }
    });
}

fn is_warning(notice: &DbError) -> bool {
    !matches!(
        notice.parsed_severity(),
        Some(Severity::Info | Severity::Notice | Severity::Log | Severity::Debug)
    )
}

fn parse(settings: &Settings) -> Result<Config, Error> {
    settings.url.parse().map_err(|error| Error::Unavailable(format!("journal.postgres.url: {error}")))
}

/// What does not leave this machine needs no TLS.
fn is_here(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        Host::Unix(_) => true,
    }
}

/// The server's name is verified, always.
fn tls(settings: &Settings) -> Result<MakeRustlsConnect, Error> {
    let wrong = |why: String| Error::Unavailable(format!("TLS to the database cannot be used: {why}"));
    let mut roots = rustls::RootCertStore::empty();
    match &settings.ca_file {
        Some(file) => {
            let certificates =
                CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(wrong("no certificate is trusted; name some in journal.postgres.ca_file".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// Waits until then at the longest.
pub(super) async fn within<T>(until: Instant, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout_at(until, work).await.ok()
}
