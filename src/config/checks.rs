//! What must hold between keys, and with the world outside the file.

use std::{fs::File, path::Path, time::Duration};

use secrecy::ExposeSecret as _;
use url::{Host, Url};

use crate::config::reader::Reader;
use crate::config::units::show_duration;
use crate::config::{AUDIT_KEY_BYTES_MIN, Config, Journal, Source};

/// Two durations of which one must be longer, and what would happen otherwise.
struct Pair<'a> {
    longer: (&'a str, Duration),
    shorter: (&'a str, Duration),
    otherwise: &'a str,
}

pub(super) fn check(config: &Config, reader: &mut Reader) {
    urls(config, reader);
    durations(config, reader);
    sandbox_only(config, reader);
    journal(config, reader);
    schedule(config, reader);
    sweep(config, reader);
    webhook(config, reader);
    audit(config, reader);
    tls(config, reader);
    listeners(config, reader);
    files(config, reader);
}

fn durations(config: &Config, reader: &mut Reader) {
    let Config { server, psp, exactly_once, .. } = config;
    let attempt = ("psp.attempt_timeout", psp.attempt_timeout);
    let pairs = [
        Pair {
            longer: attempt,
            shorter: ("psp.connect_timeout", psp.connect_timeout),
            otherwise: "connecting would use up the attempt",
        },
        Pair {
            longer: ("psp.late_answer_timeout", psp.late_answer_timeout),
            shorter: attempt,
            otherwise: "a late answer would never be heard",
        },
        Pair {
            longer: ("server.drain_timeout", server.drain_timeout),
            shorter: attempt,
            otherwise: "a stop would cut attempts off",
        },
        Pair {
            longer: ("exactly_once.token_life_min", exactly_once.token_life_min),
            shorter: attempt,
            otherwise: "a token would expire under way",
        },
        Pair {
            longer: ("exactly_once.token_life_min", exactly_once.token_life_min),
            shorter: ("exactly_once.send_window", exactly_once.send_window),
            otherwise: "a token would expire before it is sent",
        },
    ];
    for Pair { longer, shorter, otherwise } in pairs {
        if longer.1 <= shorter.1 && sound(reader, &[longer.0, shorter.0]) {
            let problem = format!(
                "{} is not longer than {} ({}): {otherwise}",
                show_duration(longer.1),
                shorter.0,
                show_duration(shorter.1)
            );
            reader.mistakes.add(longer.0, problem, format!("raise it, or lower {}", shorter.0));
        }
    }
    if server.wait_default > server.wait_max && sound(reader, &["server.wait_default", "server.wait_max"]) {
        let (default, max) = (show_duration(server.wait_default), show_duration(server.wait_max));
        let problem = format!("{default} is longer than server.wait_max ({max})");
        reader.mistakes.add("server.wait_default", problem, "lower it, or raise server.wait_max");
    }
}

/// Times that make tests quick are lies about a PSP that is not on this machine, and such lies move money twice.
fn sandbox_only(config: &Config, reader: &mut Reader) {
    if is_loopback(&config.psp.base_url) {
        return;
    }
    let minute = Duration::from_mins(1);
    // Zero is never.
    let sweep = if config.sweep.every.is_zero() { minute } else { config.sweep.every };
    for (key, value) in [
        ("exactly_once.settle_max", config.exactly_once.settle_max),
        ("exactly_once.read_lag_max", config.exactly_once.read_lag_max),
        ("exactly_once.resend_after", config.exactly_once.resend_after),
        ("exactly_once.loss_quiet", config.exactly_once.loss_quiet),
        ("exactly_once.loss_fence", config.exactly_once.loss_fence),
        ("sweep.every", sweep),
    ] {
        if value < minute && sound(reader, &[key, "psp.base_url"]) {
            let problem = format!("{} is for a sandbox on this machine only", show_duration(value));
            reader.mistakes.add(key, problem, "give at least 60s for a PSP elsewhere");
        }
    }
}

/// A journal is in a folder or in a database.
fn place(journal: &Journal, reader: &mut Reader) {
    let folder = !journal.directory.as_os_str().is_empty();
    if folder && journal.postgres.is_some() {
        let problem = "is set, and journal.postgres.url too: a journal is in a folder or in a database";
        reader.mistakes.add(
            "journal.directory",
            problem,
            "keep one of the two; they do not share what they know",
        );
    }
    if let Some(postgres) = &journal.postgres
        && let (Some(source @ Source::File(_)), true) =
            (&postgres.password, sound(reader, &["journal.postgres.password_file"]))
        && let Err(error) = source.read()
    {
        let problem = format!("its file cannot be used ({error})");
        reader.mistakes.add(
            "journal.postgres.password_file",
            problem,
            "name a readable file with the password",
        );
    }
}

/// What is said of the journal's past, and what is waited for when it is lost.
fn journal(config: &Config, reader: &mut Reader) {
    let Config { journal, exactly_once, .. } = config;
    place(journal, reader);
    if let Some(postgres) = &journal.postgres
        && postgres.commit_wait > exactly_once.lease_grace
        && sound(reader, &["journal.postgres.commit_wait", "exactly_once.lease_grace"])
    {
        let (wait, grace) = (show_duration(postgres.commit_wait), show_duration(exactly_once.lease_grace));
        let problem =
            format!("{wait} is longer than exactly_once.lease_grace ({grace}): others would give up first");
        reader.mistakes.add(
            "journal.postgres.commit_wait",
            problem,
            "lower it, or raise exactly_once.lease_grace",
        );
    }
    if journal.new && journal.generation > 1 && sound(reader, &["journal.new", "journal.generation"]) {
        let problem = format!(
            "says that nothing was ever sent, and journal.generation ({}) that a journal was lost",
            journal.generation
        );
        reader.mistakes.add("journal.new", problem, "remove journal.new");
    }
    let (quiet, fence) = (exactly_once.loss_quiet, exactly_once.loss_fence);
    if quiet > fence && sound(reader, &["exactly_once.loss_quiet", "exactly_once.loss_fence"]) {
        let (quiet, fence) = (show_duration(quiet), show_duration(fence));
        let problem = format!("{quiet} is longer than exactly_once.loss_fence ({fence})");
        reader.mistakes.add("exactly_once.loss_quiet", problem, "lower it, or raise exactly_once.loss_fence");
    }
    let shows = exactly_once.settles();
    let keys = ["exactly_once.loss_quiet", "exactly_once.settle_max", "exactly_once.read_lag_max"];
    if quiet < shows && !is_loopback(&config.psp.base_url) && sound(reader, &keys) {
        let (quiet, shows) = (show_duration(quiet), show_duration(shows));
        let problem = format!(
            "{quiet} is shorter than exactly_once.settle_max and exactly_once.read_lag_max together ({shows}): \
             what arrived before a loss would not show yet"
        );
        reader.mistakes.add("exactly_once.loss_quiet", problem, "raise it");
    }
}

fn schedule(config: &Config, reader: &mut Reader) {
    let read_back = &config.read_back;
    if !read_back.schedule.is_sorted_by(|one, next| one < next) {
        reader.mistakes.add(
            "read_back.schedule",
            "does not ascend",
            "write each wait longer than the one before",
        );
    }
    if let Some(last) = read_back.schedule.last()
        && *last > read_back.then_every
        && sound(reader, &["read_back.schedule", "read_back.then_every"])
    {
        let (every, last) = (show_duration(read_back.then_every), show_duration(*last));
        let problem = format!("{every} is shorter than the last wait of read_back.schedule ({last})");
        reader.mistakes.add("read_back.then_every", problem, "raise it, or shorten the schedule");
    }
}

/// What shows after a comparison has to be seen by the next one.
fn sweep(config: &Config, reader: &mut Reader) {
    let Config { sweep, exactly_once, .. } = config;
    let gap = sweep.every + exactly_once.settles();
    let keys = ["sweep.look_back", "sweep.every", "exactly_once.settle_max", "exactly_once.read_lag_max"];
    if !sweep.every.is_zero() && sweep.look_back < gap && sound(reader, &keys) {
        let problem = format!(
            "{} is shorter than sweep.every, exactly_once.settle_max and exactly_once.read_lag_max together ({}): \
             something would never be compared",
            show_duration(sweep.look_back),
            show_duration(gap)
        );
        reader.mistakes.add("sweep.look_back", problem, "raise it, or lower sweep.every");
    }
}

/// A key that can be guessed protects nothing.
fn audit(config: &Config, reader: &mut Reader) {
    let key = "audit.key_file";
    let Some(source) = config.audit.key.as_ref().filter(|_| sound(reader, &[key])) else { return };
    let remedy = "let it name a readable file with one key a line, 16 at most: openssl rand -hex 32";
    // The path is not shown: people do put the secret itself there.
    match source.read_list() {
        Err(error) => reader.mistakes.add(key, format!("its file cannot be used ({error})"), remedy),
        Ok(keys) if keys.iter().any(|key| key.expose_secret().len() < AUDIT_KEY_BYTES_MIN) => {
            let problem =
                format!("has a key of less than {AUDIT_KEY_BYTES_MIN} bytes, which could be guessed");
            reader.mistakes.add(key, problem, remedy);
        }
        Ok(_) => {}
    }
}

/// Anybody can post to a listener without a secret; a secret without a listener does nothing.
fn webhook(config: &Config, reader: &mut Reader) {
    let (listen, secret) = ("webhook.listen", "webhook.secret_file");
    if !sound(reader, &[listen, secret]) {
        return;
    }
    match (&config.webhook.listen, &config.webhook.secret) {
        (Some(_), None) => {
            let remedy =
                "set it or PAYOPS_WEBHOOK_SECRET to what Dintero signs with, or remove webhook.listen";
            reader.mistakes.add(secret, "is missing: nobody's webhook could be told from Dintero's", remedy);
        }
        (None, Some(_)) => {
            let problem = "is missing, and webhook.secret_file is set: no webhook would be received";
            reader.mistakes.add(listen, problem, "give an address, or remove the secret");
        }
        _ => {}
    }
    // The path is not shown: people do put the secret itself there.
    if let Some(Err(error)) = config.webhook.secret.as_ref().map(Source::read_list) {
        let remedy = "let it name a readable file with one secret a line, 16 at most";
        reader.mistakes.add(secret, format!("its file cannot be used ({error})"), remedy);
    }
}

/// Who must show a certificate has to be told whose are believed.
fn tls(config: &Config, reader: &mut Reader) {
    let required = "server.tls.client_certificate_required";
    if let Some(tls) = &config.server.tls
        && tls.client_certificate_required
        && tls.client_ca_file.is_none()
        && sound(reader, &[required, "server.tls.client_ca_file"])
    {
        let problem = "is true, and server.tls.client_ca_file is missing: no certificate would be believed";
        reader.mistakes.add(required, problem, "name the authorities in server.tls.client_ca_file");
    }
}

/// An address has one listener.
fn listeners(config: &Config, reader: &mut Reader) {
    let all = [
        ("server.listen", Some(config.server.listen)),
        ("webhook.listen", config.webhook.listen),
        ("server.health_listen", config.server.health_listen),
        ("metrics.listen", config.metrics.listen),
    ];
    for (nth, (key, address)) in all.iter().enumerate() {
        let Some(address) = address.filter(|address| address.port() != 0) else { continue };
        let taken = all
            .iter()
            .take(nth)
            .find(|(other, taken)| *taken == Some(address) && sound(reader, &[key, other]));
        if let Some((other, _)) = taken {
            reader.mistakes.add(*key, format!("is {other}"), "give it a port of its own");
        }
    }
}

/// No message shows the URL: a wrong one may hold a password.
fn urls(config: &Config, reader: &mut Reader) {
    let psp = &config.psp;
    for (key, url) in [("psp.base_url", &psp.base_url), ("psp.token_base_url", &psp.token_base_url)] {
        if !sound(reader, &[key]) {
            continue;
        }
        if !matches!(url.scheme(), "http" | "https") {
            reader.mistakes.add(key, "is neither https nor http", "begin it with https://");
            continue;
        }
        if url.scheme() == "http" && !psp.allow_http && !is_loopback(url) {
            let problem = "is plain http to another machine: credentials would be readable on the way";
            reader.mistakes.add(key, problem, "use https, or set psp.allow_http = true on a test network");
        }
        if !url.username().is_empty() || url.password().is_some() {
            reader.mistakes.add(key, "holds a user name or password", "move it to an [[account]]");
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            let prefix = key.replace("base_url", "path_prefix");
            let remedy = format!("name the host only; a path belongs in {prefix}");
            reader.mistakes.add(key, "holds a path, a query or a fragment", remedy);
        }
    }
}

/// A file that is missing now would be missing at the first payment.
fn files(config: &Config, reader: &mut Reader) {
    for account in &config.accounts {
        for (leaf, source) in [("client_id", &account.client_id), ("client_secret", &account.client_secret)] {
            // The path is not shown: people do put the secret itself there.
            if let (Source::File(_), Err(error)) = (source, source.read()) {
                let key = format!("account.{}.{leaf}", account.id);
                let problem = format!("its file cannot be used ({error})");
                reader.mistakes.add(
                    key,
                    problem,
                    format!("let {leaf}_file name a readable file with the value"),
                );
            }
        }
    }
    let callers = (!config.callers.file.as_os_str().is_empty()).then_some(&config.callers.file);
    let database = config.journal.postgres.as_ref().and_then(|postgres| postgres.ca_file.as_ref());
    let tls = config.server.tls.as_ref();
    let files = [
        ("server.tls.certificate_file", tls.map(|tls| &tls.certificate_file)),
        ("server.tls.key_file", tls.map(|tls| &tls.key_file)),
        ("server.tls.client_ca_file", tls.and_then(|tls| tls.client_ca_file.as_ref())),
        ("callers.file", callers),
        ("psp.ca_file", config.psp.ca_file.as_ref()),
        ("journal.postgres.ca_file", database),
    ];
    for (key, path) in files {
        if let Some(path) = path
            && sound(reader, &[key])
            && let Err(error) = readable(path)
        {
            let problem = format!("{:?} cannot be read ({error})", path.display().to_string());
            reader.mistakes.add(key, problem, "name a readable file");
        }
    }
}

fn readable(path: &Path) -> std::io::Result<()> {
    if File::open(path)?.metadata()?.is_file() { Ok(()) } else { Err(std::io::Error::other("not a file")) }
}

/// Whether nothing is wrong yet with any of these keys: one mistake is not reported twice.
fn sound(reader: &Reader, keys: &[&str]) -> bool {
    reader.mistakes.iter().all(|mistake| !keys.contains(&mistake.key.as_str()))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}
