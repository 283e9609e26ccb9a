//! Every key, declared once: its name, its default, its bounds.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use secrecy::SecretString;
use toml::Table;
use url::Url;

use crate::config::reader::{Found, Reader};
use crate::config::{
    Account, Audit, Callers, ExactlyOnce, Journal, Metrics, Origin, Postgres, Psp, ReadBack, Server, Source,
    Sweep, Tls, Webhook,
};
use crate::payment::id::AccountId;

/// The read-back schedule is walked at most this far.
const SCHEDULE_LENGTH_MAX: usize = 32;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

impl Server {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            listen: reader.address("server.listen", SocketAddr::from(([127, 0, 0, 1], 50051))),
            health_listen: reader.address_if_any("server.health_listen"),
            message_bytes_max: reader.bytes("server.message_bytes_max", 64 * KIB, &(4 * KIB..=4 * MIB)),
            message_timeout: reader.duration("server.message_timeout", s(10), &(ms(100)..=m(5))),
            header_bytes_max: reader.bytes("server.header_bytes_max", 16 * 1024, &(4 * 1024..=1024 * 1024)),
            concurrent_streams_max: reader.number("server.concurrent_streams_max", 256, 1..=10_000),
            connections_max: reader.number("server.connections_max", 1024, 1..=65_536),
            connection_age_max: reader.duration("server.connection_age_max", h(1), &(s(1)..=h(24))),
            connection_idle_max: reader.duration("server.connection_idle_max", m(15), &(ms(100)..=h(24))),
            first_call_timeout: reader.duration("server.first_call_timeout", s(10), &(ms(100)..=m(5))),
            keepalive_interval: reader.duration("server.keepalive_interval", s(30), &(ms(100)..=h(1))),
            keepalive_timeout: reader.duration("server.keepalive_timeout", s(20), &(ms(100)..=m(5))),
            wait_default: reader.duration("server.wait_default", s(60), &(s(1)..=m(10))),
            wait_max: reader.duration("server.wait_max", m(5), &(s(1)..=m(30))),
            drain_timeout: reader.duration("server.drain_timeout", s(40), &(s(1)..=m(10))),
            watch_max: reader.number("server.watch_max", 1024, 1..=100_000),
            reflection: reader.switch("server.reflection", true),
            tls: Tls::read(reader),
        }
    }
}

impl Tls {
    /// None where neither a certificate nor a key is given; the other keys have no meaning then.
    fn read(reader: &mut Reader) -> Option<Self> {
        let (certificate, key) = ("server.tls.certificate_file", "server.tls.key_file");
        let before = reader.mistakes.len();
        let files = (reader.path(certificate), reader.path(key));
        let rest = Self {
            certificate_file: PathBuf::new(),
            key_file: PathBuf::new(),
            client_ca_file: reader.path("server.tls.client_ca_file"),
            client_certificate_required: reader.switch("server.tls.client_certificate_required", false),
            handshake_timeout: reader.duration("server.tls.handshake_timeout", s(5), &(ms(100)..=m(1))),
            handshakes_max: reader.number("server.tls.handshakes_max", 128, 1..=10_000),
        };
        let missing = match &files {
            (Some(_), None) => Some((key, certificate)),
            (None, Some(_)) => Some((certificate, key)),
            (None, None) if rest.client_ca_file.is_some() => Some((certificate, "server.tls.client_ca_file")),
            (None, None) if rest.client_certificate_required => {
                Some((certificate, "server.tls.client_certificate_required"))
            }
            _ => None,
        };
        if let (Some((missing, given)), true) = (missing, reader.mistakes.len() == before) {
            let problem = format!("is missing, and {given} is set");
            reader.mistakes.add(
                missing,
                problem,
                "give both server.tls.certificate_file and server.tls.key_file",
            );
        }
        let (Some(certificate_file), Some(key_file)) = files else { return None };
        Some(Self { certificate_file, key_file, ..rest })
    }
}

impl Callers {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self { file: reader.path_required("callers.file", "name the file with the callers") }
    }
}

impl Journal {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let before = reader.mistakes.len();
        let (directory, postgres) = (reader.path("journal.directory"), Postgres::read(reader));
        if directory.is_none() && postgres.is_none() && reader.mistakes.len() == before {
            let remedy = "name a folder on a durable disk, here or in PAYOPS_JOURNAL_DIRECTORY, or a database in \
                          journal.postgres.url";
            reader.mistakes.add("journal.directory", "is missing", remedy);
        }
        Self {
            directory: directory.unwrap_or_default(),
            postgres,
            new: reader.switch("journal.new", false),
            generation: reader.number("journal.generation", 1, 1..=1_000_000),
            retention: reader.duration("journal.retention", d(90), &(d(30)..=d(3_650))),
        }
    }
}

impl Postgres {
    /// None where no address is given; the other keys have no meaning then.
    fn read(reader: &mut Reader) -> Option<Self> {
        let url = reader.text_if_any("journal.postgres.url", postgres_url);
        let rest = Self {
            url: String::new(),
            password: secret(reader, "journal.postgres.password_file", "PAYOPS_JOURNAL_POSTGRES_PASSWORD"),
            ca_file: reader.path("journal.postgres.ca_file"),
            connections_max: reader.number("journal.postgres.connections_max", 8, 3..=100),
            without_standby: reader.switch("journal.postgres.without_standby", false),
            migrate: reader.switch("journal.postgres.migrate", true),
            commit_wait: reader.duration("journal.postgres.commit_wait", s(5), &(ms(100)..=m(1))),
        };
        url.map(|url| Self { url, ..rest })
    }
}

impl Psp {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            base_url: reader.url("psp.base_url", &url("https://checkout.dintero.com")),
            path_prefix: reader.text("psp.path_prefix", "/v1", path_prefix),
            token_base_url: reader.url("psp.token_base_url", &url("https://api.dintero.com")),
            token_path_prefix: reader.text("psp.token_path_prefix", "/v1", path_prefix),
            connect_timeout: reader.duration("psp.connect_timeout", s(5), &(ms(100)..=s(30))),
            attempt_timeout: reader.duration("psp.attempt_timeout", s(30), &(ms(500)..=m(5))),
            late_answer_timeout: reader.duration("psp.late_answer_timeout", s(120), &(s(1)..=m(15))),
            read_timeout: reader.duration("psp.read_timeout", s(10), &(ms(500)..=m(2))),
            token_timeout: reader.duration("psp.token_timeout", s(10), &(ms(500)..=m(2))),
            in_flight_max: reader.number("psp.in_flight_max", 64, 1..=1024),
            account_in_flight_max: reader.number("psp.account_in_flight_max", 48, 1..=1024),
            circuit_failures: reader.number("psp.circuit_failures", 10, 0..=20),
            circuit_open_for: reader.duration("psp.circuit_open_for", s(5), &(ms(100)..=m(1))),
            answer_bytes_max: reader.bytes("psp.answer_bytes_max", MIB, &(16 * KIB..=16 * MIB)),
            ca_file: reader.path("psp.ca_file"),
            allow_http: reader.switch("psp.allow_http", false),
        }
    }
}

impl ExactlyOnce {
    pub(super) fn read(reader: &mut Reader) -> Self {
        // The lower bounds suit a sandbox; `checks` asks for more where the PSP is a real one.
        let long = ms(100)..=h(24);
        let review = ms(100)..=h(720);
        let loss = ms(100)..=d(7);
        Self {
            send_window: reader.duration("exactly_once.send_window", s(2), &(ms(100)..=s(30))),
            lease_grace: reader.duration("exactly_once.lease_grace", s(15), &(ms(100)..=m(10))),
            token_life_min: reader.duration("exactly_once.token_life_min", s(60), &(ms(500)..=h(1))),
            settle_max: reader.duration("exactly_once.settle_max", m(15), &long),
            read_lag_max: reader.duration("exactly_once.read_lag_max", m(5), &long),
            absent_reads_apart: reader.duration("exactly_once.absent_reads_apart", s(10), &(ms(100)..=m(10))),
            failed_event_settles_after: reader.duration(
                "exactly_once.failed_event_settles_after",
                m(15),
                &long,
            ),
            partial_review_after: reader.duration("exactly_once.partial_review_after", m(15), &long),
            accepted_review_after: reader.duration("exactly_once.accepted_review_after", h(168), &review),
            unreadable_review_after: reader.duration("exactly_once.unreadable_review_after", h(24), &review),
            resend_after: reader.duration("exactly_once.resend_after", s(120), &review),
            resend_captures: reader.switch("exactly_once.resend_captures", false),
            loss_quiet: reader.duration("exactly_once.loss_quiet", m(20), &loss),
            loss_fence: reader.duration("exactly_once.loss_fence", h(24), &loss),
            key_clock_leeway: reader.duration("exactly_once.key_clock_leeway", m(10), &(ms(0)..=h(24))),
        }
    }
}

impl ReadBack {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let schedule = [s(2), s(5), s(10), s(20), s(40), s(60)];
        Self {
            schedule: reader.durations(
                "read_back.schedule",
                &schedule,
                &(ms(10)..=h(1)),
                SCHEDULE_LENGTH_MAX,
            ),
            then_every: reader.duration("read_back.then_every", m(5), &(ms(100)..=h(1))),
            jitter_percent: reader.number("read_back.jitter_percent", 20, 0..=50),
            in_flight_max: reader.number("read_back.in_flight_max", 4, 1..=256),
        }
    }
}

impl Sweep {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            every: reader.duration("sweep.every", d(1), &(ms(0)..=d(7))),
            look_back: reader.duration("sweep.look_back", d(2), &(ms(100)..=d(30))),
            look_back_after_loss: reader.duration("sweep.look_back_after_loss", d(30), &(ms(100)..=d(365))),
        }
    }
}

impl Webhook {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            listen: reader.address_if_any("webhook.listen"),
            path: reader.text("webhook.path", "/webhooks/dintero", path_prefix),
            secret: secret(reader, "webhook.secret_file", "PAYOPS_WEBHOOK_SECRET"),
            message_timeout: reader.duration("webhook.message_timeout", s(10), &(ms(100)..=m(1))),
            connections_max: reader.number("webhook.connections_max", 64, 1..=4096),
        }
    }
}

impl Metrics {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self { listen: reader.address_if_any("metrics.listen") }
    }
}

impl Audit {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self { key: secret(reader, "audit.key_file", "PAYOPS_AUDIT_KEY") }
    }
}

/// As the credentials of an account: from a file or from a variable, not from both.
fn secret(reader: &mut Reader, key: &str, variable: &str) -> Option<Source> {
    let Some(Found { text, origin }) = reader.variable(variable) else {
        return reader.path(key).map(Source::File);
    };
    let before = reader.settings.len();
    let both = reader.path(key).is_some();
    reader.settings.truncate(before);
    reader.remember(key, "set from the environment".to_owned(), None, origin);
    if both {
        let leaf = key.rsplit('.').next().unwrap_or(key);
        let problem = format!("comes from a file and from {variable}");
        reader.mistakes.add(key, problem, format!("keep {leaf} or the variable"));
    } else if text.trim().is_empty() {
        reader.mistakes.add(key, format!("is empty (in {variable})"), "give the value, or remove it");
    }
    Some(Source::Value(SecretString::from(text)))
}

/// The `[[account]]` tables, and the accounts that only the environment names.
pub(super) fn accounts(reader: &mut Reader) -> Vec<Account> {
    let mut accounts: Vec<Account> = Vec::new();
    let mut seen: Vec<AccountId> = Vec::new();
    for (nth, mut table) in reader.tables("account").into_iter().enumerate() {
        let place = format!("account[{nth}]");
        let id = account_id(reader, &mut table, &place, &seen);
        let client_id = reader.path_of(&mut table, "client_id_file", &format!("{place}.client_id_file"));
        let secret = reader.path_of(&mut table, "client_secret_file", &format!("{place}.client_secret_file"));
        reader.leftovers(&table, &place, &["id", "client_id_file", "client_secret_file"]);
        let Some(id) = id else { continue };
        seen.push(id.clone());
        accounts.extend(account(reader, id, client_id, secret));
    }
    for name in reader.names_in_variables("PAYOPS_ACCOUNT_", &["_CLIENT_ID", "_CLIENT_SECRET"]) {
        if let Ok(id) = name.parse::<AccountId>() {
            seen.push(id.clone());
            accounts.extend(account(reader, id, None, None));
        }
    }
    if seen.is_empty() && reader.mistakes.iter().all(|mistake| !mistake.key.starts_with("account")) {
        reader.mistakes.add("account", "is missing", "declare at least one [[account]] with its id");
    }
    accounts
}

fn account_id(reader: &mut Reader, table: &mut Table, place: &str, seen: &[AccountId]) -> Option<AccountId> {
    let key = format!("{place}.id");
    let before = reader.mistakes.len();
    let remedy = "give the account id: T or P and eight digits, such as \"T12345678\"";
    match reader.text_of(table, "id", &key).map(|text| text.parse::<AccountId>()) {
        Some(Ok(id)) if seen.contains(&id) => {
            reader.mistakes.add(key, format!("{id} is declared twice"), "keep one of the two");
        }
        Some(Ok(id)) => return Some(id),
        Some(Err(_)) => reader.mistakes.add(key, "is not an account id", remedy),
        None if reader.mistakes.len() == before => reader.mistakes.add(key, "is missing", remedy),
        None => {}
    }
    None
}

fn account(
    reader: &mut Reader,
    id: AccountId,
    client_id: Option<PathBuf>,
    secret: Option<PathBuf>,
) -> Option<Account> {
    let client_id = source(reader, &id, "client_id", client_id);
    let client_secret = source(reader, &id, "client_secret", secret);
    Some(Account { id, client_id: client_id?, client_secret: client_secret? })
}

/// A credential: from a file or from a variable, not from both.
fn source(reader: &mut Reader, id: &AccountId, leaf: &str, file: Option<PathBuf>) -> Option<Source> {
    let key = format!("account.{id}.{leaf}");
    let variable = format!("PAYOPS_ACCOUNT_{id}_{}", leaf.to_ascii_uppercase());
    match (file, reader.variable(&variable)) {
        (Some(path), None) => {
            reader.remember(&key, format!("set from file {}", path.display()), None, Origin::File);
            Some(Source::File(path))
        }
        (None, Some(Found { text, origin })) => {
            if text.is_empty() {
                reader.mistakes.add(key, format!("is empty (in {variable})"), "give the value, or remove it");
                return None;
            }
            reader.remember(&key, "set from the environment".to_owned(), None, origin);
            Some(Source::Value(SecretString::from(text)))
        }
        (Some(_), Some(_)) => {
            let problem = format!("comes from a file and from {variable}");
            reader.mistakes.add(key, problem, format!("keep {leaf}_file or the variable"));
            None
        }
        (None, None) => {
            let remedy = format!("set {leaf}_file in its [[account]], or {variable}");
            reader.mistakes.add(key, "is missing", remedy);
            None
        }
    }
}

fn path_prefix(text: &str) -> Result<(), (&'static str, &'static str)> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._~".contains(c);
    if !text.starts_with('/') {
        Err(("does not begin with a slash", "write it as \"/v1\""))
    } else if text.ends_with('/') || text.contains("//") || text.contains("/.") || !text.chars().all(plain) {
        Err(("is not a plain path", "write it as \"/v1\": no slash at the end, no query, no dots"))
    } else {
        Ok(())
    }
}

/// The address of a database, which is not shown when it is wrong: it could hold a password.
fn postgres_url(text: &str) -> Result<(), (&'static str, &'static str)> {
    let remedy = "write it as \"postgres://payops@db.example/payops\"";
    match text.parse::<tokio_postgres::Config>() {
        Err(_) => Err(("is not the URL of a PostgreSQL database", remedy)),
        Ok(config) if config.get_password().is_some() => {
            Err(("holds a password", "put it into journal.postgres.password_file"))
        }
        Ok(config)
            if config.get_hosts().is_empty()
                || config.get_user().is_none()
                || config.get_dbname().is_none() =>
        {
            Err(("does not name a host, a user and a database", remedy))
        }
        Ok(_) => Ok(()),
    }
}

#[expect(clippy::expect_used, reason = "only constants of this file are given, and each start parses them")]
fn url(constant: &str) -> Url {
    Url::parse(constant).expect("a constant is a URL")
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn m(minutes: u64) -> Duration {
    Duration::from_mins(minutes)
}

const fn h(hours: u64) -> Duration {
    Duration::from_hours(hours)
}

const fn d(days: u64) -> Duration {
    Duration::from_hours(24 * days)
}
