//! The configuration: what a right one means, and what is said of a wrong one.

use std::{fs, path::Path, time::Duration};

use payops::config::{Config, EXAMPLE, Mistakes, Origin, Source};
use secrecy::ExposeSecret as _;

/// A folder with everything that a right configuration names.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in
            ["callers.toml", "ca.pem", "password", "client_id", "client_secret", "webhook_secret", "pem"]
        {
            fs::write(folder.path().join(name), format!("the {name}\n")).unwrap();
        }
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn load(&self, text: &str, environment: &[(&str, &str)]) -> Result<Config, Mistakes> {
        let variables = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(Some((&self.path().join("payops.toml"), text)), variables)
    }
}

const CALLERS: &str = "callers.file = 'callers.toml'\n";
const JOURNAL: &str = "journal.directory = 'journal'\n";
const ACCOUNT: &str =
    "[[account]]\nid = 'T12345678'\nclient_id_file = 'client_id'\nclient_secret_file = 'client_secret'\n";

/// The least that a file has to say, with more keys before its tables.
fn with(more: &str) -> String {
    format!("{CALLERS}{JOURNAL}{more}\n{ACCOUNT}")
}

const ID: (&str, &str) = ("PAYOPS_ACCOUNT_P00000001_CLIENT_ID", "an id");
const SECRET: (&str, &str) = ("PAYOPS_ACCOUNT_P00000001_CLIENT_SECRET", "hunter2");

#[test]
fn the_least_configuration_has_the_defaults() {
    let config = Folder::new().load(&with(""), &[]).unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:50051");
    assert_eq!(config.server.message_bytes_max, 65_536);
    assert_eq!(config.psp.base_url.as_str(), "https://checkout.dintero.com/");
    assert_eq!(config.psp.token_base_url.as_str(), "https://api.dintero.com/");
    assert_eq!(config.psp.late_answer_timeout, Duration::from_mins(2));
    assert_eq!(config.exactly_once.accepted_review_after, Duration::from_hours(7 * 24));
    assert_eq!(config.read_back.schedule.last(), Some(&Duration::from_mins(1)));
    assert_eq!(config.read_back.jitter_percent, 20);
    assert_eq!((config.journal.new, config.journal.generation), (false, 1));
    assert_eq!(config.journal.retention, Duration::from_hours(90 * 24));
    assert_eq!(config.exactly_once.loss_fence, Duration::from_hours(24));
    assert!(config.server.reflection && !config.psp.allow_http);
}

#[test]
fn the_environment_wins_over_the_file() {
    let text = with("server.listen = '127.0.0.1:1'\nread_back.schedule = ['1s']");
    let environment = [
        ("PAYOPS_SERVER_LISTEN", "[::1]:2"),
        ("PAYOPS_READ_BACK_SCHEDULE", "10ms, 2s,3s"),
        ("PAYOPS_SERVER_REFLECTION", "false"),
        ("PAYOPS_PSP_ANSWER_BYTES_MAX", "2MiB"),
        ("SOMETHING_ELSE", "is none of our business"),
    ];
    let config = Folder::new().load(&text, &environment).unwrap();
    assert_eq!(config.server.listen.to_string(), "[::1]:2");
    assert_eq!(config.read_back.schedule, [10, 2_000, 3_000].map(Duration::from_millis));
    assert!(!config.server.reflection);
    assert_eq!(config.psp.answer_bytes_max, 2 * 1024 * 1024);
}

#[test]
fn the_environment_alone_is_enough() {
    let folder = Folder::new();
    let callers = folder.path().join("callers.toml").display().to_string();
    let variables =
        [("PAYOPS_CALLERS_FILE", callers.as_str()), ("PAYOPS_JOURNAL_DIRECTORY", "journal"), ID, SECRET];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::load(None, variables).unwrap();
    assert_eq!(config.journal.directory, Path::new("journal"));
    assert_eq!(config.accounts.len(), 1);
    assert_eq!(config.accounts[0].id.as_str(), "P00000001");
    assert_eq!(config.accounts[0].client_secret.read().unwrap().expose_secret(), "hunter2");
}

#[test]
fn relative_paths_in_the_file_start_at_its_folder() {
    let folder = Folder::new();
    let config = folder.load(&with("psp.ca_file = 'ca.pem'"), &[]).unwrap();
    assert_eq!(config.callers.file, folder.path().join("callers.toml"));
    assert_eq!(config.journal.directory, folder.path().join("journal"));
    assert_eq!(config.psp.ca_file, Some(folder.path().join("ca.pem")));
    assert!(
        matches!(&config.accounts[0].client_id, Source::File(path) if *path == folder.path().join("client_id"))
    );
    assert_eq!(config.accounts[0].client_id.read().unwrap().expose_secret(), "the client_id");
}

#[test]
fn a_path_or_a_variable_names_the_file() {
    let folder = Folder::new();
    let file = folder.path().join("payops.toml");
    fs::write(&file, with("log.level = 'warn'")).unwrap();
    let variable = ("PAYOPS_CONFIG".to_owned(), file.display().to_string());
    let other = ("PAYOPS_CONFIG".to_owned(), "/does/not/exist".to_owned());
    assert_eq!(Config::from_path(Some(&file), []).unwrap().log.level, "warn");
    assert_eq!(Config::from_path(None, [variable]).unwrap().log.level, "warn");
    assert_eq!(Config::from_path(Some(&file), [other.clone()]).unwrap().log.level, "warn");
    let message = Config::from_path(None, [other]).unwrap_err().to_string();
    assert!(message.starts_with("/does/not/exist: the configuration cannot be read"), "{message}");
}

/// What is wrong, the key that is named, and a part of the message.
#[rustfmt::skip]
const WRONG: &[(&str, &str, &str)] = &[
    // Values.
    ("server.listen = 'localhost'", "server.listen", "\"localhost\" is not an IP address with a port"),
    ("server.listen = 50051", "server.listen", "is an integer; write it in quotes"),
    ("server.message_bytes_max = '64KB'", "server.message_bytes_max", "\"64KB\" is not a byte size"),
    ("server.message_bytes_max = '1GiB'", "server.message_bytes_max", "is not a byte size"),
    ("server.header_bytes_max = '1B'", "server.header_bytes_max", "give from 4KiB to 1MiB"),
    ("server.connections_max = 0", "server.connections_max", "give a whole number from 1 to 65536"),
    ("server.connections_max = '10'", "server.connections_max", "is a string; write a whole number without quotes"),
    ("server.concurrent_streams_max = -1", "server.concurrent_streams_max", "\"-1\" is not in its bounds"),
    ("server.wait_default = '1.5s'", "server.wait_default", "\"1.5s\" is not a duration; write a whole number and ms, s, m, h or d"),
    ("server.wait_default = 60", "server.wait_default", "with its unit"),
    ("server.wait_max = '31m'", "server.wait_max", "give from 1s to 30m"),
    ("server.reflection = 'yes'", "server.reflection", "write true or false without quotes"),
    ("psp.base_url = 'checkout.dintero.com'", "psp.base_url", "is not a URL"),
    ("psp.path_prefix = 'v1'", "psp.path_prefix", "does not begin with a slash"),
    ("psp.token_path_prefix = '/v1/'", "psp.token_path_prefix", "no slash at the end"),
    ("psp.path_prefix = '/../v1'", "psp.path_prefix", "is not a plain path"),
    ("read_back.jitter_percent = 300", "read_back.jitter_percent", "from 0 to 50"),
    ("read_back.schedule = '2s'", "read_back.schedule", "a list in square brackets"),
    ("read_back.schedule = [2, 5]", "read_back.schedule", "write each entry in quotes"),
    ("read_back.schedule = []", "read_back.schedule", "has 0 entries; give from 1 to 32"),
    ("read_back.schedule = ['1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s','1s']",
        "read_back.schedule", "has 33 entries"),
    ("read_back.schedule = ['2s', '2 s']", "read_back.schedule", "\"2 s\" is not a duration"),
    ("sweep.every = '8d'", "sweep.every", "give from 0ms to 7d"),
    ("sweep.look_back = '31d'", "sweep.look_back", "to 30d"),
    ("webhook.listen = 50053", "webhook.listen", "is an integer; write it in quotes"),
    ("webhook.listen = 'localhost:1'\nwebhook.secret_file = 'webhook_secret'", "webhook.listen", "\"localhost:1\" is not an IP address with a port"),
    ("webhook.path = 'webhooks'", "webhook.path", "does not begin with a slash"),
    ("webhook.path = '/{id}'", "webhook.path", "is not a plain path"),
    ("webhook.secret = 'hunter2'", "webhook.secret", "is unknown"),
    ("webhook.message_timeout = '2m'", "webhook.message_timeout", "give from 100ms to 60s"),
    ("webhook.connections_max = 0", "webhook.connections_max", "from 1 to 4096"),
    ("server.health_listen = '50054'", "server.health_listen", "\"50054\" is not an IP address with a port"),
    ("server.connection_age_max = '25h'", "server.connection_age_max", "give from 1s to 24h"),
    ("server.tls.handshake_timeout = '2m'", "server.tls.handshake_timeout", "give from 100ms to 60s"),
    ("server.tls.handshakes_max = 0", "server.tls.handshakes_max", "from 1 to 10000"),
    ("server.tls.certificate = 'pem'", "server.tls.certificate", "is unknown; did you mean server.tls.certificate_file?"),
    ("log.format = 'xml'", "log.format", "write \"auto\", \"json\" or \"text\""),
    ("log.level = 'inof'", "log.level", "\"inof\" is not a log level"),
    ("log.level = ''", "log.level", "is not a log level"),
    ("log.level = 'info,payops='", "log.level", "is not a log level"),
    ("log.level = 'payops=loud'", "log.level", "is not a log level"),
    // Between keys.
    ("psp.base_url = 'http://psp.example'", "psp.base_url", "is plain http to another machine"),
    ("psp.token_base_url = 'http://127.0.0.1.psp.example'", "psp.token_base_url", "is plain http to another machine"),
    ("psp.base_url = 'ftp://psp.example'", "psp.base_url", "is neither https nor http"),
    ("psp.base_url = 'https://psp.example/v1'", "psp.base_url", "a path belongs in psp.path_prefix"),
    ("psp.token_base_url = 'https://psp.example?a=b'", "psp.token_base_url", "a path belongs in psp.token_path_prefix"),
    ("psp.base_url = 'https://user:hunter2@psp.example'", "psp.base_url", "holds a user name or password"),
    ("psp.connect_timeout = '30s'", "psp.attempt_timeout", "connecting would use up the attempt"),
    ("psp.late_answer_timeout = '30s'", "psp.late_answer_timeout", "30s is not longer than psp.attempt_timeout (30s): a late answer would never be heard"),
    ("server.drain_timeout = '30s'", "server.drain_timeout", "a stop would cut attempts off"),
    ("exactly_once.token_life_min = '20s'", "exactly_once.token_life_min", "a token would expire under way"),
    ("exactly_once.send_window = '10s'\nexactly_once.token_life_min = '10s'\npsp.attempt_timeout = '6s'", "exactly_once.token_life_min", "a token would expire before it is sent"),
    ("server.wait_default = '6m'", "server.wait_default", "is longer than server.wait_max (5m)"),
    ("exactly_once.settle_max = '5s'", "exactly_once.settle_max", "for a sandbox on this machine only"),
    ("exactly_once.read_lag_max = '5s'", "exactly_once.read_lag_max", "give at least 60s"),
    ("exactly_once.loss_quiet = '59s'", "exactly_once.loss_quiet", "for a sandbox on this machine only"),
    ("exactly_once.loss_fence = '1s'\nexactly_once.loss_quiet = '1s'\npsp.base_url = 'http://127.0.0.1:8080'\njournal.generation = 0", "journal.generation", "from 1 to"),
    ("exactly_once.loss_quiet = '19m'", "exactly_once.loss_quiet", "19m is shorter than exactly_once.settle_max and exactly_once.read_lag_max together (20m)"),
    ("exactly_once.loss_quiet = '25h'", "exactly_once.loss_quiet", "25h is longer than exactly_once.loss_fence (24h)"),
    ("journal.new = true\njournal.generation = 2", "journal.new", "remove journal.new"),
    ("journal.postgres.url = 'postgres://payops@127.0.0.1/payops'", "journal.directory", "a journal is in a folder or in a database; keep one of the two"),
    ("journal.postgres.url = 'http://127.0.0.1/payops'", "journal.postgres.url", "is not the URL of a PostgreSQL database; write it as"),
    ("journal.postgres.url = 'postgres://payops:hunter2@db/payops'", "journal.postgres.url", "holds a password; put it into journal.postgres.password_file"),
    ("journal.postgres.url = 'postgres://db/payops'", "journal.postgres.url", "does not name a host, a user and a database"),
    ("journal.postgres.connections_max = 2", "journal.postgres.connections_max", "from 3 to 100"),
    ("journal.postgres.commit_wait = '2m'", "journal.postgres.commit_wait", "from 100ms to 60s"),
    ("journal.postgres.pasword_file = 'x'", "journal.postgres.pasword_file", "is unknown; did you mean journal.postgres.password_file?"),
    ("journal.postgres = 5", "journal.postgres", "is unknown"),
    ("journal.retention = '29d'", "journal.retention", "give from 30d to 3650d"),
    ("read_back.schedule = ['2s', '1s']", "read_back.schedule", "does not ascend"),
    ("read_back.schedule = ['2s', '2s']", "read_back.schedule", "does not ascend"),
    ("read_back.then_every = '30s'", "read_back.then_every", "is shorter than the last wait"),
    ("sweep.look_back = '24h'", "sweep.look_back", "24h is shorter than sweep.every, exactly_once.settle_max and exactly_once.read_lag_max together (1460m)"),
    ("exactly_once.settle_max = '24h'\nexactly_once.loss_quiet = '25h'\nexactly_once.loss_fence = '25h'", "sweep.look_back", "something would never be compared; raise it, or lower sweep.every"),
    ("sweep.every = '59s'", "sweep.every", "for a sandbox on this machine only"),
    ("webhook.listen = '127.0.0.1:1'", "webhook.secret_file", "is missing: nobody's webhook could be told from Dintero's; set it or PAYOPS_WEBHOOK_SECRET"),
    ("audit.key_file = 'password'", "audit.key_file", "has a key of less than 32 bytes, which could be guessed; let it name a readable file"),
    ("audit.key_file = 'missing'", "audit.key_file", "its file cannot be used (No such file"),
    ("webhook.secret_file = 'webhook_secret'", "webhook.listen", "no webhook would be received; give an address"),
    ("webhook.listen = '127.0.0.1:50051'\nwebhook.secret_file = 'webhook_secret'", "webhook.listen", "is server.listen; give it a port of its own"),
    ("server.health_listen = '127.0.0.1:50051'", "server.health_listen", "is server.listen; give it a port of its own"),
    ("server.health_listen = '127.0.0.1:1'\nwebhook.listen = '127.0.0.1:1'\nwebhook.secret_file = 'webhook_secret'", "server.health_listen", "is webhook.listen; give it a port of its own"),
    ("server.health_listen = '127.0.0.1:1'\nmetrics.listen = '127.0.0.1:1'", "metrics.listen", "is server.health_listen; give it a port of its own"),
    ("server.tls.certificate_file = 'pem'", "server.tls.key_file", "is missing, and server.tls.certificate_file is set; give both"),
    ("server.tls.key_file = 'pem'", "server.tls.certificate_file", "is missing, and server.tls.key_file is set; give both"),
    ("server.tls.client_ca_file = 'pem'", "server.tls.certificate_file", "is missing, and server.tls.client_ca_file is set"),
    ("server.tls.client_certificate_required = true", "server.tls.certificate_file", "is missing, and server.tls.client_certificate_required is set"),
    ("server.tls.certificate_file = 'pem'\nserver.tls.key_file = 'pem'\nserver.tls.client_certificate_required = true", "server.tls.client_certificate_required", "no certificate would be believed; name the authorities in server.tls.client_ca_file"),
    // Files.
    ("server.tls.certificate_file = 'pem'\nserver.tls.key_file = 'missing'", "server.tls.key_file", "cannot be read (No such file"),
    ("server.tls.certificate_file = 'pem'\nserver.tls.key_file = ''", "server.tls.key_file", "is empty"),
    ("webhook.listen = '127.0.0.1:1'\nwebhook.secret_file = 'missing'", "webhook.secret_file", "its file cannot be used (No such file"),
    ("webhook.listen = '127.0.0.1:1'\nwebhook.secret_file = ''", "webhook.secret_file", "is empty"),
    ("psp.ca_file = 'missing.pem'", "psp.ca_file", "cannot be read (No such file"),
    ("psp.ca_file = '.'", "psp.ca_file", "not a file"),
    ("psp.ca_file = ''", "psp.ca_file", "is empty"),
    // Names.
    ("server.lisen = '127.0.0.1:1'", "server.lisen", "is unknown; did you mean server.listen?"),
    ("server.attempt_timeout = '3s'", "server.attempt_timeout", "did you mean psp.attempt_timeout?"),
    ("psp.colour = 'blue'", "psp.colour", "is unknown; remove it"),
    ("exactly_one.send_window = '1s'", "exactly_one", "is unknown; did you mean [exactly_once]?"),
    ("listen = '127.0.0.1:1'", "listen", "is unknown"),
    ("server = 5", "server", "is a section, not a value; write its keys under [server]"),
    // Accounts.
    ("[[account]]\nid = 'X1'", "account[0].id", "is not an account id; give the account id: T or P and eight digits"),
    ("[[account]]\nid = 12345678", "account[0].id", "is an integer"),
    ("[[account]]\nclient_id_file = 'client_id'", "account[0].id", "is missing"),
    ("[[account]]\nid = 'T12345678'\nclient_id_file = 'client_id'\nclient_secret_file = 'client_secret'", "account[1].id", "T12345678 is declared twice"),
    ("[[account]]\nid = 'P12345678'\nclient_secret_file = 'client_secret'", "account.P12345678.client_id", "is missing; set client_id_file in its [[account]], or PAYOPS_ACCOUNT_P12345678_CLIENT_ID"),
    ("[[account]]\nid = 'P12345678'\nclient_id_file = 'client_id'", "account.P12345678.client_secret", "is missing"),
    ("[[account]]\nid = 'P12345678'\nclient_id_file = 'client_id'\nclient_secret_file = 'missing'", "account.P12345678.client_secret", "its file cannot be used (No such file"),
    ("[[account]]\nid = 'P12345678'\nclient_id_file = 'client_id'\nclient_secret_file = ''", "account[0].client_secret_file", "is empty"),
    ("[[account]]\nid = 'P12345678'\nclient_id_file = 'client_id'\nclient_secret_file = 'client_secret'\nclient_secret = 'hunter2'", "account[0].client_secret", "is unknown; did you mean account[0].client_secret_file?"),
];

#[test]
fn each_wrong_key_is_named_with_its_remedy() {
    let folder = Folder::new();
    for (wrong, key, part) in WRONG {
        let mistakes = folder.load(&with(wrong), &[]).expect_err(wrong);
        let found = mistakes.iter().find(|mistake| mistake.key == *key);
        let message = found.map_or_else(|| panic!("{wrong}: {mistakes}"), ToString::to_string);
        assert!(message.contains(part), "{wrong}: {message}");
        assert!(!mistakes.to_string().contains("hunter2"), "{wrong}: {mistakes}");
        if !key.starts_with("account") {
            assert_eq!(mistakes.len(), 1, "one mistake is told once: {wrong}: {mistakes}");
        }
    }
}

#[test]
fn each_wrong_variable_is_named_with_its_remedy() {
    let folder = Folder::new();
    let more =
        "[[account]]\nid = 'P00000001'\nclient_id_file = 'client_id'\nclient_secret_file = 'client_secret'";
    for (text, variables, key, part) in [
        ("", &[("PAYOPS_SERVER_LISTEN", "hunter2:1")][..], "server.listen", "(in PAYOPS_SERVER_LISTEN)"),
        ("", &[("PAYOPS_SERVER_LISTEN", "")], "server.listen", "\"\" is not an IP address"),
        ("", &[("PAYOPS_SERVER_REFLECTION", "1")], "server.reflection", "is neither true nor false"),
        (
            "",
            &[("PAYOPS_SERVER_LISEN", "127.0.0.1:1")],
            "PAYOPS_SERVER_LISEN",
            "did you mean PAYOPS_SERVER_LISTEN?",
        ),
        ("", &[("PAYOPS_SERVER_PORT", "50052")], "PAYOPS_SERVER_PORT", "is an unknown variable"),
        (
            "",
            &[("PAYOPS_ACCOUNT_X1_CLIENT_ID", "x")],
            "PAYOPS_ACCOUNT_X1_CLIENT_ID",
            "the account id, and _CLIENT_ID",
        ),
        ("", &[SECRET], "account.P00000001.client_id", "or PAYOPS_ACCOUNT_P00000001_CLIENT_ID"),
        (
            "",
            &[ID, ("PAYOPS_ACCOUNT_P00000001_CLIENT_SECRET", "")],
            "account.P00000001.client_secret",
            "is empty",
        ),
        (
            "webhook.listen = '127.0.0.1:1'\nwebhook.secret_file = 'webhook_secret'",
            &[("PAYOPS_WEBHOOK_SECRET", "hunter2")],
            "webhook.secret_file",
            "keep secret_file or the variable",
        ),
        (
            "webhook.listen = '127.0.0.1:1'",
            &[("PAYOPS_WEBHOOK_SECRET", "")],
            "webhook.secret_file",
            "is empty (in PAYOPS_WEBHOOK_SECRET)",
        ),
        (more, &[SECRET], "account.P00000001.client_secret", "keep client_secret_file or the variable"),
        ("", &[("PAYOPS_CALLERS_FILE", "missing")], "callers.file", "cannot be read"),
        (
            "",
            &[("PAYOPS_JOURNAL_DIRECTORY", "")],
            "journal.directory",
            "is empty (in PAYOPS_JOURNAL_DIRECTORY)",
        ),
    ] {
        let mistakes = folder.load(&with(text), variables).unwrap_err();
        let found = mistakes.iter().find(|mistake| mistake.key == key);
        let message = found.map_or_else(|| panic!("{variables:?}: {mistakes}"), ToString::to_string);
        assert!(message.contains(part), "{variables:?}: {message}");
    }
}

#[test]
fn a_journal_may_be_in_a_database() {
    let folder = Folder::new();
    let url = "postgres://payops@db1.example,db2.example:5433/payops";
    let text =
        format!("{CALLERS}journal.postgres = {{ url = '{url}', password_file = 'password' }}\n{ACCOUNT}");
    let config = folder.load(&text, &[("PAYOPS_JOURNAL_POSTGRES_CONNECTIONS_MAX", "5")]).unwrap();
    let database = config.journal.postgres.unwrap();
    assert_eq!((database.url.as_str(), database.connections_max), (url, 5));
    assert_eq!(database.password.unwrap().read().unwrap().expose_secret(), "the password");
    assert_eq!(database.commit_wait, Duration::from_secs(5));
    assert!(database.migrate && !database.without_standby);
    let secret = ("PAYOPS_JOURNAL_POSTGRES_PASSWORD", "hunter2");
    let mistakes = folder.load(&text, &[secret]).unwrap_err().to_string();
    assert!(mistakes.contains("journal.postgres.password_file: comes from a file and from"), "{mistakes}");
    let text = text.replace("'password'", "'missing'");
    let mistakes = folder.load(&text, &[]).unwrap_err().to_string();
    assert!(mistakes.contains("journal.postgres.password_file: its file cannot be used"), "{mistakes}");
    let text = text.replace(", password_file = 'missing'", "");
    let config = folder.load(&text, &[secret]).unwrap();
    assert!(!format!("{config:?} {:?}", config.describe()).contains("hunter2"));
    let slow = format!("exactly_once.lease_grace = '1s'\n{text}");
    let mistakes = folder.load(&slow, &[]).unwrap_err().to_string();
    assert!(mistakes.contains("journal.postgres.commit_wait: 5s is longer than"), "{mistakes}");
}

#[test]
fn every_mistake_is_listed_at_once() {
    let folder = Folder::new();
    let text = "
        server = { listen = 'nowhere', wait_max = '1s', lisen = 1 }
        psp.base_url = 'http://psp.example/v1'
        psp.attempt_timeout = '30'
        journl.directory = 'journal'
        [[account]]
        id = 'T1'
        [[account]]
        id = 'P12345678'
        client_id_file = 'missing'
        colour = 'blue'
    ";
    let mistakes = folder.load(text, &[("PAYOPS_LOG_LEVL", "info")]).unwrap_err();
    let keys: Vec<&str> = mistakes.iter().map(|mistake| mistake.key.as_str()).collect();
    let expected = [
        "server.listen",
        "callers.file",
        "journal.directory",
        "psp.attempt_timeout",
        "account[0].id",
        "account[1].colour",
        "account.P12345678.client_secret",
        "journl",
        "server.lisen",
        "PAYOPS_LOG_LEVL",
        "psp.base_url",
        "psp.base_url",
        "server.wait_default",
    ];
    assert_eq!(keys, expected, "{mistakes}");
    assert_eq!(mistakes.to_string().lines().count(), expected.len());
}

#[test]
fn nothing_at_all_says_what_is_needed() {
    let mistakes = Config::load(None, []).unwrap_err();
    let keys: Vec<&str> = mistakes.iter().map(|mistake| mistake.key.as_str()).collect();
    assert_eq!(keys, ["callers.file", "journal.directory", "account"]);
    assert!(mistakes.to_string().contains("here or in PAYOPS_JOURNAL_DIRECTORY"), "{mistakes}");
}

#[test]
fn a_file_that_is_not_toml_is_told_by_its_line_and_without_its_text() {
    let mistakes = Folder::new().load("log.level = 'info'\n\npsp.password = hunter2\n", &[]).unwrap_err();
    let message = mistakes.to_string();
    assert!(message.contains("payops.toml: line 3 is not TOML"), "{message}");
    assert!(!message.contains("hunter2"), "{message}");
    assert_eq!(message.lines().count(), 1);
}

#[test]
fn plain_http_is_for_this_machine_or_for_those_who_ask() {
    let folder = Folder::new();
    for right in [
        "psp.base_url = 'http://127.0.0.1:8080'",
        "psp.base_url = 'http://[::1]:8080'\nexactly_once.settle_max = '1s'",
        "psp.base_url = 'http://localhost'",
        "psp.base_url = 'http://psp.example'\npsp.allow_http = true",
        // Never, and so nothing has to be looked back upon.
        "sweep.every = '0s'\nsweep.look_back = '1h'",
    ] {
        folder.load(&with(right), &[]).unwrap_or_else(|mistakes| panic!("{right}: {mistakes}"));
    }
}

#[test]
fn what_kubernetes_sets_for_a_service_is_no_mistake() {
    let links = [
        ("PAYOPS_SERVICE_HOST", "10.0.0.1"),
        ("PAYOPS_PORT", "tcp://10.0.0.1:50051"),
        ("PAYOPS_PORT_50051_TCP_ADDR", "10.0.0.1"),
    ];
    Folder::new().load(&with(""), &links).unwrap();
}

#[test]
fn webhooks_are_off_unless_an_address_and_a_secret_are_given() {
    let folder = Folder::new();
    assert_eq!(folder.load(&with(""), &[]).unwrap().webhook.listen, None);
    let listen = "webhook.listen = '127.0.0.1:50053'\n";
    let config = folder.load(&with(&format!("{listen}webhook.secret_file = 'webhook_secret'")), &[]).unwrap();
    assert_eq!(config.webhook.listen, Some("127.0.0.1:50053".parse().unwrap()));
    assert_eq!(config.webhook.path, "/webhooks/dintero");
    let secrets = |config: &Config| {
        let list = config.webhook.secret.as_ref().unwrap().read_list().unwrap();
        list.iter().map(|secret| secret.expose_secret().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(secrets(&config), ["the webhook_secret"]);
    let variable = [("PAYOPS_WEBHOOK_SECRET", "hunter2\nhunter3")];
    let config = folder.load(&with(listen), &variable).unwrap();
    assert_eq!(secrets(&config), ["hunter2", "hunter3"]);
    let everything = format!("{config:?} {:?}", config.describe());
    assert!(!everything.contains("hunter"), "{everything}");
    let row = config.describe().iter().find(|row| row.key == "webhook.secret_file").unwrap();
    assert_eq!(row.value, "set from the environment");
}

#[test]
fn secrets_are_shown_by_their_source_alone() {
    let folder = Folder::new();
    let config = folder
        .load(&with("server.connections_max = 7"), &[ID, SECRET, ("PAYOPS_LOG_LEVEL", "debug")])
        .unwrap();
    let row = |key: &str| config.describe().iter().find(|setting| setting.key == key).unwrap();
    assert!(row("account.T12345678.client_secret").value.starts_with("set from file "));
    assert_eq!(row("account.P00000001.client_secret").value, "set from the environment");
    assert_eq!(
        (row("server.connections_max").value.as_str(), &row("server.connections_max").origin),
        ("7", &Origin::File)
    );
    assert_eq!(row("log.level").origin, Origin::Environment("PAYOPS_LOG_LEVEL".into()));
    assert_eq!(
        (row("psp.path_prefix").value.as_str(), &row("psp.path_prefix").origin),
        ("\"/v1\"", &Origin::Default)
    );
    let everything = format!("{config:?} {:?}", config.describe());
    assert!(!everything.contains("hunter2") && !everything.contains("the client_secret"), "{everything}");
}

#[test]
fn the_sandbox_needs_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (listen, sandbox) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
    let config = Config::sandbox(listen, sandbox, folder.path());
    assert_eq!(config.server.listen, listen);
    assert_eq!(config.psp.base_url.as_str(), "http://127.0.0.1:2/");
    assert_eq!(config.psp.token_base_url, config.psp.base_url);
    assert!(config.journal.directory.starts_with(folder.path()));
    // A lost request is given up in minutes, not in hours.
    assert_eq!(config.exactly_once.settle_max, Duration::from_secs(10));
    assert!(config.read_back.schedule.last() <= Some(&config.read_back.then_every));
    let [account] = &config.accounts[..] else { panic!("one account") };
    assert_eq!(account.id.as_str(), "T12345678");
    assert_eq!(account.client_id.read().unwrap().expose_secret(), "sandbox-client");
    assert_eq!(account.client_secret.read().unwrap().expose_secret(), "sandbox-secret");
    assert!(config.describe().iter().any(|row| row.key == "server.listen" && row.origin == Origin::Sandbox));
}

/// The example, with its credential files in a folder of the test.
fn example(folder: &Path) -> String {
    fs::create_dir_all(folder.join("T12345678")).unwrap();
    for name in [
        "T12345678/client_id",
        "T12345678/client_secret",
        "callers.toml",
        "ca.pem",
        "tls.crt",
        "tls.key",
        "client_ca.crt",
        "webhook_secret",
        "audit_key",
        "postgres_password",
        "postgres_ca.pem",
    ] {
        fs::write(folder.join(name), "x".repeat(32)).unwrap();
    }
    EXAMPLE.replace("/etc/payops", folder.to_str().unwrap())
}

#[test]
fn the_example_loads_and_changes_no_default() {
    let folder = tempfile::tempdir().unwrap();
    let text = example(folder.path());
    let config = Config::load(Some((Path::new("payops.toml"), &text)), []).unwrap();
    let given: Vec<&str> = config
        .describe()
        .iter()
        .filter(|row| row.origin == Origin::File)
        .map(|row| row.key.as_str())
        .collect();
    let expected = [
        "callers.file",
        "journal.directory",
        "account.T12345678.client_id",
        "account.T12345678.client_secret",
    ];
    assert_eq!(given, expected, "what has a default is commented out");
}

#[test]
fn the_example_mentions_every_key_with_its_default() {
    let folder = tempfile::tempdir().unwrap();
    let text = example(folder.path());
    // The journal is in a folder, or in the database that is commented out.
    let folder_alone = |line: &&str| !line.starts_with("directory = ");
    let all = text.lines().filter(folder_alone).map(uncommented).collect::<Vec<_>>().join("\n");
    let config = Config::load(Some((Path::new("payops.toml"), &all)), []).unwrap();
    let least = Folder::new().load(&with(""), &[]).unwrap();
    for (row, default) in config.describe().iter().zip(least.describe()) {
        assert_eq!(row.key, default.key);
        let expected = if row.key == "journal.directory" { Origin::Default } else { Origin::File };
        assert_eq!(row.origin, expected, "{} is in the example", row.key);
        if let Some(default) = &default.default {
            assert_eq!(&row.value, default, "{} has its default in the example", row.key);
            let leaf = row.key.rsplit('.').next().unwrap();
            assert!(
                text.contains(&format!("\n#{leaf} = {default}\n")),
                "{} is written as its default",
                row.key
            );
        }
    }
}

/// `#key = value` without its mark; prose has a space after the mark.
fn uncommented(line: &str) -> &str {
    match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => key,
        _ => line,
    }
}
