//! The program itself, as a process in a place of its own.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{ExitStatus, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use payops::config::Postgres;
use payops::grpc::pb::{self, health, health::health_client::HealthClient};
use secrecy::ExposeSecret as _;
use tokio::process::{Child, Command};
use tonic::transport::Channel;

use crate::sandbox::world::World;
use crate::support::{ALLOW_ALL, Caller, SERVICE, eventually, free_address};

pub const PAYOPS: &str = env!("CARGO_BIN_EXE_payops");
pub const TOKEN: &str = "token-of-orders";

/// A folder with everything that a process needs, and a PSP that outlives it.
pub struct Place {
    pub world: Arc<World>,
    folder: tempfile::TempDir,
    pub address: SocketAddr,
}

impl Place {
    pub async fn new() -> Self {
        Self::in_front_of(World::start().await)
    }

    /// In front of a sandbox that was made for the test.
    pub fn in_front_of(world: impl Into<Arc<World>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = Self { world: world.into(), folder, address: free_address() };
        place.write("callers.toml", &callers_file(&[payops::callers::token_hash(TOKEN)]));
        place.write("client_id", "sandbox-client");
        place.write("client_secret", "sandbox-secret\n");
        let base = &place.world.base;
        place.write(
            "payops.toml",
            &format!(
                "[server]\nlisten = \"{}\"\n[callers]\nfile = \"callers.toml\"\n\
                 [journal]\ndirectory = \"journal\"\nnew = true\n\
                 [psp]\nbase_url = \"{base}\"\ntoken_base_url = \"{base}\"\n\
                 [[account]]\nid = \"T12345678\"\nclient_id_file = \"client_id\"\n\
                 client_secret_file = \"client_secret\"\n",
                place.address
            ),
        );
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Adds lines to a section of the configuration.
    pub fn set(&self, section: &str, lines: &str) {
        let text = fs::read_to_string(self.path("payops.toml")).unwrap();
        let heading = format!("[{section}]\n");
        let there = if text.contains(&heading) { text } else { format!("{heading}{text}") };
        self.write("payops.toml", &there.replacen(&heading, &format!("{heading}{lines}"), 1));
    }

    /// Keeps the journal in a database, and not in the folder.
    pub fn on(&self, database: &Postgres) {
        let text = fs::read_to_string(self.path("payops.toml")).unwrap();
        self.write("payops.toml", &text.replace("directory = \"journal\"\n", ""));
        let password = database.password.as_ref().unwrap().read().unwrap();
        self.write("postgres_password", password.expose_secret());
        let Postgres { url, connections_max, commit_wait, .. } = database;
        self.set(
            "journal.postgres",
            &format!(
                "url = \"{url}\"\npassword_file = \"postgres_password\"\nconnections_max = {connections_max}\n\
                 commit_wait = \"{}ms\"\n",
                commit_wait.as_millis()
            ),
        );
    }

    /// From the second start on a journal that is not there is one that was lost.
    pub fn no_longer_new(&self) {
        let text = fs::read_to_string(self.path("payops.toml")).unwrap();
        self.write("payops.toml", &text.replace("new = true\n", ""));
    }

    /// Starts the boundary and waits until it serves.
    pub async fn serve(&self) -> Child {
        self.serve_by(&mut self.command()).await
    }

    /// The same with a command that starts it.
    pub async fn serve_by(&self, command: &mut Command) -> Child {
        let child = self.begin(command);
        eventually("the boundary serves", async || self.health().await == Some(1)).await;
        child
    }

    /// Starts the boundary and waits for nothing.
    pub fn begin(&self, command: &mut Command) -> Child {
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        command.stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    pub fn command(&self) -> Command {
        payops(&["serve", "--config", self.path("payops.toml").to_str().unwrap()])
    }

    pub async fn health(&self) -> Option<i32> {
        let request = health::HealthCheckRequest { service: SERVICE.to_owned() };
        let answer = HealthClient::new(self.channel()).check(request).await;
        answer.ok().map(|answer| answer.get_ref().status)
    }

    pub fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy()
    }

    pub fn orders(&self) -> Caller {
        let client =
            pb::payment_operations_service_client::PaymentOperationsServiceClient::new(self.channel());
        Caller { token: TOKEN.to_owned(), client }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }
}

/// A caller who may do everything, by any of these tokens' hashes.
pub fn callers_file(hashes: &[String]) -> String {
    format!("[[caller]]\nname = \"orders\"\ntoken_sha256 = {hashes:?}\n{ALLOW_ALL}")
}

pub fn payops(arguments: &[&str]) -> Command {
    let mut command = Command::new(PAYOPS);
    // Only what the test gives: a variable of the machine is no setting.
    command.args(arguments).env_clear().env("PATH", std::env::var("PATH").unwrap_or_default());
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

pub async fn run(arguments: &[&str]) -> Output {
    let output = payops(arguments).output();
    tokio::time::timeout(Duration::from_secs(20), output).await.expect("it ends by itself").unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn signal(child: &Child, signal: rustix::process::Signal) {
    let id = i32::try_from(child.id().expect("it runs")).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(id).unwrap(), signal).unwrap();
}

pub async fn ended(child: &mut Child) -> ExitStatus {
    tokio::time::timeout(Duration::from_secs(20), child.wait()).await.expect("it ends").unwrap()
}
