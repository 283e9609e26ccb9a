//! PostgreSQL servers of one's own: a primary with a synchronous standby, which
//! the tests of one process share, and others that a test may stop.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use payops::config::{Postgres, Source};
use secrecy::SecretString;

/// How long a server may take to start or to end.
const PATIENCE: Duration = Duration::from_mins(1);
/// The service's role and its password.
pub const ROLE: &str = "payops";
pub const PASSWORD: &str = "s3cret-of-the-database-5a7f";

/// A primary and, if wanted, its standby.
pub struct Cluster {
    pub primary: Server,
    pub standby: Option<Server>,
}

/// One server; ends with this process at the latest.
pub struct Server {
    directory: PathBuf,
    pub port: u16,
    running: Option<Child>,
}

/// The one that tests share; nobody stops it.
pub fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(Cluster::start)
}

impl Cluster {
    /// A primary with a synchronous standby.
    pub fn start() -> Self {
        let mut cluster = Self::start_alone();
        cluster.standby = Some(Server::copy_of(&cluster.primary, free_port()));
        cluster.primary.require_standby();
        cluster.until_in_step();
        cluster
    }

    /// A primary whose machine nothing outlives.
    pub fn start_alone() -> Self {
        let primary = Server::new();
        primary.sql("postgres", &format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'"));
        primary.sql("postgres", &format!("GRANT pg_read_all_stats TO {ROLE}"));
        Self { primary, standby: None }
    }

    /// The primary's machine fails, the standby takes over, and another machine
    /// becomes its standby, under the address of the one that failed.
    pub fn fail_over(&mut self) {
        let standby = self.standby.take().expect("there is one");
        // What it acknowledges is to be on a second machine, too.
        standby.require_standby();
        self.primary.stop();
        standby.promote();
        let failed = std::mem::replace(&mut self.primary, standby);
        let port = failed.port;
        drop(failed);
        self.standby = Some(Server::copy_of(&self.primary, port));
        self.until_in_step();
    }

    /// Waits until the standby acknowledges.
    pub fn until_in_step(&self) {
        self.primary.until("SELECT count(*) > 0 FROM pg_stat_replication WHERE sync_state = 'sync'");
    }

    /// An empty database of one's own, which the service's role may change.
    pub fn database(&self) -> Postgres {
        let name = format!("t{}", uuid::Uuid::new_v4().simple());
        self.primary.sql("postgres", &format!("CREATE DATABASE {name} OWNER {ROLE}"));
        self.at(&name)
    }

    /// How a database is reached, on whichever server takes writes.
    pub fn at(&self, name: &str) -> Postgres {
        let servers = std::iter::once(&self.primary).chain(&self.standby);
        let hosts: Vec<_> = servers.map(|server| format!("127.0.0.1:{}", server.port)).collect();
        Postgres {
            url: format!("postgres://{ROLE}@{}/{name}", hosts.join(",")),
            password: Some(Source::Value(SecretString::from(PASSWORD))),
            ca_file: None,
            connections_max: 4,
            without_standby: false,
            migrate: true,
            commit_wait: Duration::from_secs(5),
        }
    }
}

/// The database that an address names.
pub fn name(database: &Postgres) -> &str {
    database.url.rsplit('/').next().unwrap()
}

impl Server {
    fn new() -> Self {
        let directory = directory();
        let data = directory.join("data");
        let mut command = program("initdb");
        command
            .args(["-U", "postgres", "--auth-local=trust", "--auth-host=scram-sha-256", "-N", "-D"])
            .arg(&data);
        run(&mut command);
        let settings = "fsync = off\nwal_level = replica\nmax_connections = 200\nshared_buffers = 32MB\n\
                        listen_addresses = '127.0.0.1'\nwal_keep_size = 64MB\n\
                        wal_retrieve_retry_interval = 100ms\nshared_preload_libraries = 'pg_stat_statements'\n";
        let mut file = fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).unwrap();
        file.write_all(settings.as_bytes()).unwrap();
        let mut server = Self { directory, port: free_port(), running: None };
        server.start();
        server
    }

    /// A standby that follows `primary`.
    fn copy_of(primary: &Self, port: u16) -> Self {
        let directory = directory();
        let mut command = program("pg_basebackup");
        command.arg("-h").arg(&primary.directory).args(["-p", &primary.port.to_string(), "-U", "postgres"]);
        command.args(["-R", "-c", "fast", "-D"]).arg(directory.join("data"));
        run(&mut command);
        let mut server = Self { directory, port, running: None };
        server.start();
        server
    }

    /// From now on a commit waits for a standby.
    fn require_standby(&self) {
        self.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'");
        self.sql("postgres", "SELECT pg_reload_conf()");
    }

    pub fn start(&mut self) {
        // Whatever becomes of this process, the server ends when its pipe does,
        // and leaves nothing behind unless it was told to.
        let script = "\"$0\" -D \"$1/data\" -p \"$2\" -k \"$1\" >>\"$1/log\" 2>&1 & server=$!; read word; \
                      kill -QUIT $server; wait $server; [ \"$word\" = keep ] || rm -rf \"$1\"";
        let mut command = as_postgres("sh");
        command.args(["-c", script]).arg(path_of("postgres")).arg(&self.directory).arg(self.port.to_string());
        let child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        self.running = Some(child);
        self.until("SELECT true");
    }

    /// From now on speaks TLS, too, with this certificate and key (PEM).
    pub fn use_tls(&self, certificate: &str, key: &str) {
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let file = self.directory.join(name);
            fs::write(&file, text).unwrap();
            run(Command::new("chmod").arg("600").arg(&file));
            if is_root() {
                run(Command::new("chown").arg("postgres:").arg(&file));
            }
            let setting = if name == "server.crt" { "ssl_cert_file" } else { "ssl_key_file" };
            self.sql("postgres", &format!("ALTER SYSTEM SET {setting} = '{}'", file.display()));
        }
        self.sql("postgres", "ALTER SYSTEM SET ssl = on");
        self.sql("postgres", "SELECT pg_reload_conf()");
        self.until("SELECT current_setting('ssl') = 'on'");
    }

    /// As if its machine had failed. What it wrote stays.
    pub fn stop(&mut self) {
        let mut child = self.running.take().expect("it runs");
        child.stdin.take().unwrap().write_all(b"keep\n").unwrap();
        child.wait().unwrap();
    }

    /// Takes over from the primary that it followed.
    pub fn promote(&self) {
        self.sql("postgres", "SELECT pg_promote()");
        self.until("SELECT NOT pg_is_in_recovery()");
    }

    /// Runs statements as the superuser, and gives what they print.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql).unwrap_or_else(|told| panic!("{sql}: {told}"))
    }

    /// The same, or what is wrong.
    pub fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let output = self.psql(database, sql).output().unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Waits until a query says that it is so.
    pub fn until(&self, sql: &str) {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let output = self.psql("postgres", sql).output().unwrap();
            if output.status.success() && output.stdout.starts_with(b"t") {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        panic!("{sql}: did not come about\n{log}");
    }

    fn psql(&self, database: &str, sql: &str) -> Command {
        let mut command = program("psql");
        command.arg("-h").arg(&self.directory).args([
            "-p",
            &self.port.to_string(),
            "-U",
            "postgres",
            "-XAtq",
        ]);
        command.args(["-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql]);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            drop(child.stdin.take());
            drop(child.wait());
        }
        drop(fs::remove_dir_all(&self.directory));
    }
}

fn directory() -> PathBuf {
    let directory = tempfile::Builder::new().prefix("payops-pg-").tempdir().unwrap().keep();
    if is_root() {
        run(Command::new("chown").arg("postgres:").arg(&directory));
    }
    directory
}

/// PostgreSQL refuses to run as root.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn as_postgres(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir("/");
    command
}

fn program(name: &str) -> Command {
    as_postgres(path_of(name))
}

/// Debian keeps them out of the path.
fn path_of(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = versions.map(|version| version.path().join("bin").join(name)).collect();
    found.retain(|path| path.is_file());
    found.sort();
    found.pop().unwrap_or_else(|| name.into())
}

fn run(command: &mut Command) {
    let output =
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}: tests/run installs it"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Below those that the system gives to whoever asks: it is still free when its
/// server comes back.
fn free_port() -> u16 {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let any = || 12_000 + u16::try_from(uuid::Uuid::new_v4().as_u128() % 20_000).unwrap();
    std::iter::repeat_with(any).take(1_000).find(free).expect("a port is free")
}
