//! The configuration: one TOML file plus the environment, validated as a whole.
//!
//! `server.listen` of the file is overridden by `PAYOPS_SERVER_LISTEN`: dots become underscores, letters become
//! capitals. Everything that is wrong is reported in one go, each [`Mistake`] with its key and its remedy. A relative
//! path in the file starts at the file's own folder, one in the environment at the working directory.
//!
//! Durations are written `"2500ms"`, `"30s"`, `"15m"`, `"4h"`, `"90d"`, byte sizes `"64KiB"`. Secrets never appear in a
//! message, in `Debug`, or in [`Config::describe`].

mod checks;
pub mod followed;
mod keys;
mod log;
mod mistakes;
mod reader;
mod setting;
mod source;
mod units;

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::Table;
use url::Url;

use crate::config::reader::Reader;
use crate::payment::id::AccountId;

pub use crate::config::log::{Log, LogFormat, checked_level};
pub use crate::config::mistakes::{Mistake, Mistakes};
pub use crate::config::setting::{Origin, Setting};
pub use crate::config::source::{Source, variables};

/// A complete configuration with comments; what is commented out is the default.
pub const EXAMPLE: &str = include_str!("../docs/payops.example.toml");

/// The variable that names the file where the command line does not.
pub const FILE_VARIABLE: &str = "PAYOPS_CONFIG";

/// The shortest key of the audit.
pub const AUDIT_KEY_BYTES_MIN: usize = 32;

/// A file longer than this was not written by a person.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Config {
    /// The gRPC server.
    pub server: Server,
    /// Who may call.
    pub callers: Callers,
    /// Where operations are recorded.
    pub journal: Journal,
    /// How Dintero is reached.
    pub psp: Psp,
    /// The Dintero accounts that are served; at least one.
    pub accounts: Vec<Account>,
    /// The times on which at-most-once rests.
    pub exactly_once: ExactlyOnce,
    /// How outcomes in doubt are read back.
    pub read_back: ReadBack,
    /// How the journal is compared with the PSP's list.
    pub sweep: Sweep,
    /// Where the PSP tells of changes.
    pub webhook: Webhook,
    /// What is counted, and where it is shown.
    pub metrics: Metrics,
    /// What the audit is protected with.
    pub audit: Audit,
    /// What is logged, and how.
    pub log: Log,
    /// Each key, as it was read.
    settings: Vec<Setting>,
}

/// The gRPC server: where it listens and what bounds it.
#[derive(Clone, Debug)]
pub struct Server {
    /// The address and port for gRPC.
    pub listen: SocketAddr,
    /// How it is spoken to by TLS; plainly where there is none.
    pub tls: Option<Tls>,
    /// The address and port of a listener for health alone, without TLS.
    pub health_listen: Option<SocketAddr>,
    /// The longest request message, in bytes.
    pub message_bytes_max: usize,
    /// How long a request message may take to arrive.
    pub message_timeout: Duration,
    /// The longest header list of a request, in bytes.
    pub header_bytes_max: u32,
    /// The open calls of one connection.
    pub concurrent_streams_max: u32,
    /// The open connections; beyond them the one that has been idle for the longest has to go.
    pub connections_max: usize,
    /// How long a connection takes new calls: then its client connects anew, and proves anew who it is.
    pub connection_age_max: Duration,
    /// How long a connection may be without a call.
    pub connection_idle_max: Duration,
    /// How long a new connection may take to its first call, TLS included.
    pub first_call_timeout: Duration,
    /// How often a client is asked whether it is there.
    pub keepalive_interval: Duration,
    /// How long it may take to say so.
    pub keepalive_timeout: Duration,
    /// How long a money call without a `grpc-timeout` waits for its outcome.
    pub wait_default: Duration,
    /// The longest that any money call waits, whatever its `grpc-timeout` says.
    pub wait_max: Duration,
    /// How long a stop waits for attempts under way.
    pub drain_timeout: Duration,
    /// The open `WatchOperation` streams.
    pub watch_max: usize,
    /// Whether server reflection is served (v1 and v1alpha).
    pub reflection: bool,
}

/// TLS towards callers. Its files are followed as they change.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The server's certificate and those between it and its authority (PEM).
    pub certificate_file: PathBuf,
    /// The private key of the certificate (PEM).
    pub key_file: PathBuf,
    /// The authorities (PEM) whose certificates clients may present; none are asked for where there is none.
    pub client_ca_file: Option<PathBuf>,
    /// Whether a client without a certificate is turned away before it can send a call.
    pub client_certificate_required: bool,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// The handshakes under way at the same time; further connections wait.
    pub handshakes_max: usize,
}

/// Who may call.
#[derive(Clone, Debug)]
pub struct Callers {
    /// The callers and the hashes of their tokens; see [`crate::callers`].
    pub file: PathBuf,
}

/// Where operations are recorded.
#[derive(Clone, Debug)]
pub struct Journal {
    /// The folder of an embedded journal, which one process owns at a time. Empty where there is `postgres`.
    pub directory: PathBuf,
    /// The database of a journal for any number of processes.
    pub postgres: Option<Postgres>,
    /// Whether payops never sent anything for these accounts before: only then is an empty folder no loss.
    pub new: bool,
    /// How often the journal was lost, from 1: whoever restores an old one raises it.
    pub generation: u32,
    /// How long what is over is remembered, from its last change.
    pub retention: Duration,
}

/// A journal in PostgreSQL.
#[derive(Clone, Debug)]
pub struct Postgres {
    /// Where it is and as whom, without a password: `postgres://payops@db1,db2/payops`.
    pub url: String,
    /// The password, read again at each connection.
    pub password: Option<Source>,
    /// Certificates (PEM) that are trusted instead of those of the system.
    pub ca_file: Option<PathBuf>,
    /// The connections of one process.
    pub connections_max: usize,
    /// Whether it may run without a synchronous standby, with a read at the PSP before each first sending.
    pub without_standby: bool,
    /// Whether a start brings the tables to the present form.
    pub migrate: bool,
    /// How long a commit may take before it counts as not confirmed.
    pub commit_wait: Duration,
}

/// How Dintero is reached.
#[derive(Clone, Debug)]
pub struct Psp {
    /// The host of the transactions, without a path [D 1].
    pub base_url: Url,
    /// What stands between that host and `/transactions` [D 1].
    pub path_prefix: String,
    /// The host of the access tokens, without a path [D 2.1].
    pub token_base_url: Url,
    /// What stands between that host and `/accounts` [D 2.1].
    pub token_path_prefix: String,
    /// One connection: DNS, TCP and TLS together.
    pub connect_timeout: Duration,
    /// One attempt, from its first byte: after it the caller hears that the outcome is unknown.
    pub attempt_timeout: Duration,
    /// How long a late answer is still listened for, from the attempt's first byte.
    pub late_answer_timeout: Duration,
    /// One read of a transaction.
    pub read_timeout: Duration,
    /// One request for an access token.
    pub token_timeout: Duration,
    /// The attempts under way at the same time.
    pub in_flight_max: usize,
    /// Those of one account, and as many reads for callers.
    pub account_in_flight_max: usize,
    /// So many failures among an account's last twenty requests, and none is begun for a while; zero for never.
    pub circuit_failures: usize,
    /// For how long, at first.
    pub circuit_open_for: Duration,
    /// The longest answer that is read, in bytes.
    pub answer_bytes_max: usize,
    /// Certificates (PEM) that are trusted beside those of the system.
    pub ca_file: Option<PathBuf>,
    /// Whether plain http may leave this machine. It carries credentials: for test networks only.
    pub allow_http: bool,
}

/// One Dintero account and its credentials.
#[derive(Clone, Debug)]
pub struct Account {
    /// `T` is Dintero's test environment, `P` production [D 1].
    pub id: AccountId,
    /// The name of the API client [D 2.1].
    pub client_id: Source,
    /// The password of the API client [D 2.1].
    pub client_secret: Source,
}

/// The times on which at-most-once rests. They are promises about the PSP and about our clocks, not tuning.
#[derive(Clone, Debug)]
pub struct ExactlyOnce {
    /// The longest time from before the journal write to the first byte; later the attempt is given up unsent.
    pub send_window: Duration,
    /// How long after `psp.attempt_timeout` an attempt that nobody was heard of is given up and read back.
    pub lease_grace: Duration,
    /// What an access token must still live to be sent with.
    pub token_life_min: Duration,
    /// Within this time a request that arrived at the PSP is applied, visibly begun, or dead.
    pub settle_max: Duration,
    /// Within this time a read at the PSP shows what happened there.
    pub read_lag_max: Duration,
    /// The time between the two reads that together prove that nothing happened.
    pub absent_reads_apart: Duration,
    /// When a failed event that does not say why becomes a decline.
    pub failed_event_settles_after: Duration,
    /// When an effect for part of the amount becomes a case for a person.
    pub partial_review_after: Duration,
    /// When an operation that the PSP accepted and never finished becomes a case for a person.
    pub accepted_review_after: Duration,
    /// When a transaction that cannot be read becomes a case for a person.
    pub unreadable_review_after: Duration,
    /// How long after its lease a void in doubt is sent again: twice is harmless.
    pub resend_after: Duration,
    /// Whether that goes for captures of more than half of what is left too. Only where nobody can raise an authorization.
    pub resend_captures: bool,
    /// How long after a loss of the journal nothing is sent under a key that may be older than the loss.
    pub loss_quiet: Duration,
    /// The longest that a token may live which carried an attempt that was lost with the journal.
    pub loss_fence: Duration,
    /// How far the clocks of those who mint keys may be ahead of ours.
    pub key_clock_leeway: Duration,
}

impl ExactlyOnce {
    /// Within this time what arrived at the PSP has taken effect and shows, or never does (A4, A5).
    pub fn settles(&self) -> Duration {
        self.settle_max.saturating_add(self.read_lag_max)
    }
}

/// How outcomes in doubt are read back.
#[derive(Clone, Debug)]
pub struct ReadBack {
    /// The waits before the first reads; ascending, at most 32.
    pub schedule: Vec<Duration>,
    /// The wait before each read after those.
    pub then_every: Duration,
    /// By how much a wait may differ, up or down, in percent.
    pub jitter_percent: u8,
    /// The reads under way at the same time.
    pub in_flight_max: usize,
}

/// How the journal is compared with the PSP's list.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// From one comparison to the next; zero for none at all.
    pub every: Duration,
    /// How far back each looks at least.
    pub look_back: Duration,
    /// How far back, from a loss of the journal, the first one after it looks at most.
    pub look_back_after_loss: Duration,
}

/// Where the PSP tells of changes: off unless `listen` is given.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// The address and port of a listener of its own.
    pub listen: Option<SocketAddr>,
    /// The path that deliveries are posted to.
    pub path: String,
    /// What deliveries are signed with, one secret a line [D 10.1]; given whenever `listen` is.
    pub secret: Option<Source>,
    /// How long the head of a delivery may take to arrive, and then its body.
    pub message_timeout: Duration,
    /// The open connections.
    pub connections_max: usize,
}

/// What is counted, and where it is shown.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// The address and port at which Prometheus finds them; not shown where there is none.
    pub listen: Option<SocketAddr>,
}

/// What the audit is protected with.
#[derive(Clone, Debug)]
pub struct Audit {
    /// The key of its chains, of at least 32 bytes, and below it earlier ones; without one the audit shows damage and
    /// mistakes, and nobody who knows payops.
    pub key: Option<Source>,
}

impl Config {
    /// Reads the text of a file (with the path it came from) and variables, and checks everything.
    ///
    /// Looks at the credential files, the callers file and the CA file, to say at start what would fail later;
    /// nothing of them is kept. Variables that do not begin with `PAYOPS_` are ignored.
    pub fn load(
        file: Option<(&Path, &str)>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Mistakes> {
        let (folder, table) = match file {
            None => (Path::new(""), Table::new()),
            Some((path, text)) => (path.parent().unwrap_or(Path::new("")), parse_toml(path.display(), text)?),
        };
        let mut reader =
            Reader::new((folder, table), environment, |name| Origin::Environment(name.to_owned()));
        let config = Self::read(&mut reader);
        reader.finish();
        checks::check(&config, &mut reader);
        reader.mistakes.or(config)
    }

    /// Reads the file at `path`, or at `PAYOPS_CONFIG` if there is no path, or no file at all; then as [`Config::load`].
    pub fn from_path(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Mistakes> {
        let (named, environment): (Vec<_>, Vec<_>) =
            environment.into_iter().partition(|(name, _)| name == FILE_VARIABLE);
        let named = named.into_iter().next().map(|(_, path)| PathBuf::from(path));
        let Some(path) = path.or(named.as_deref()) else {
            return Self::load(None, environment);
        };
        match read_file(path) {
            Ok(text) => Self::load(Some((path, &text)), environment),
            Err(error) => {
                let mut mistakes = Mistakes::default();
                let problem = format!("the configuration cannot be read ({error})");
                mistakes.add(path.display().to_string(), problem, "name a readable TOML file");
                Err(mistakes)
            }
        }
    }

    /// What `payops serve --sandbox` runs with: the simulated Dintero at `sandbox`, one test account, and a journal
    /// and a callers file (which the caller of this function writes) in `directory`.
    pub fn sandbox(listen: SocketAddr, sandbox: SocketAddr, directory: impl AsRef<Path>) -> Self {
        let directory = directory.as_ref();
        let url = format!("http://{sandbox}");
        let variables = [
            ("PAYOPS_SERVER_LISTEN", listen.to_string()),
            ("PAYOPS_CALLERS_FILE", directory.join("callers.toml").display().to_string()),
            ("PAYOPS_JOURNAL_DIRECTORY", directory.join("journal").display().to_string()),
            // The simulator begins when payops does: there is nothing to forget.
            ("PAYOPS_JOURNAL_NEW", "true".to_owned()),
            ("PAYOPS_PSP_BASE_URL", url.clone()),
            ("PAYOPS_PSP_TOKEN_BASE_URL", url),
            // The simulator settles at once and reads do not lag, unless a
            // fault says so: what is lost may be given up soon.
            ("PAYOPS_EXACTLY_ONCE_SETTLE_MAX", "10s".to_owned()),
            ("PAYOPS_EXACTLY_ONCE_READ_LAG_MAX", "5s".to_owned()),
            ("PAYOPS_READ_BACK_SCHEDULE", "2s,5s,10s".to_owned()),
            ("PAYOPS_READ_BACK_THEN_EVERY", "10s".to_owned()),
            ("PAYOPS_ACCOUNT_T12345678_CLIENT_ID", "sandbox-client".to_owned()),
            ("PAYOPS_ACCOUNT_T12345678_CLIENT_SECRET", "sandbox-secret".to_owned()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value));
        let mut config =
            Self::read(&mut Reader::new((Path::new(""), Table::new()), variables, |_| Origin::Sandbox));
        // Text cannot carry every path; these two can.
        config.callers.file = directory.join("callers.toml");
        config.journal.directory = directory.join("journal");
        config
    }

    /// Each key with its value and who gave it, in the order of the file.
    pub fn describe(&self) -> &[Setting] {
        &self.settings
    }

    fn read(reader: &mut Reader) -> Self {
        Self {
            server: Server::read(reader),
            callers: Callers::read(reader),
            journal: Journal::read(reader),
            psp: Psp::read(reader),
            accounts: keys::accounts(reader),
            exactly_once: ExactlyOnce::read(reader),
            read_back: ReadBack::read(reader),
            sweep: Sweep::read(reader),
            webhook: Webhook::read(reader),
            metrics: Metrics::read(reader),
            audit: Audit::read(reader),
            log: Log::read(reader),
            settings: reader.settings.clone(),
        }
    }
}

impl Setting {
    /// The variable that overrides the key.
    pub fn variable(&self) -> String {
        reader::variable_of(&self.key)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File => f.write_str("file"),
            Self::Environment(name) => write!(f, "environment ({name})"),
            Self::Sandbox => f.write_str("sandbox"),
        }
    }
}

/// Reads a whole file that a person wrote: at most 1 MiB.
pub(crate) fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let bytes = File::open(path)?.take(FILE_BYTES_MAX.saturating_add(1)).read_to_string(&mut text)?;
    if u64::try_from(bytes).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1MiB"));
    }
    Ok(text)
}

/// Parses TOML. The parser's own message quotes the line, which may hold a secret: only the place is told.
pub(crate) fn parse_toml(file: impl fmt::Display, text: &str) -> Result<Table, Mistakes> {
    text.parse::<Table>().map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let mut mistakes = Mistakes::default();
        let problem = format!("line {line} is not TOML ({})", error.message().replace('\n', ", "));
        mistakes.add(file.to_string(), problem, "mend that line");
        mistakes
    })
}
