//! The `payops` command.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use payops::{
    app,
    callers::CallersFile,
    cli,
    config::{self, Config, Mistakes},
    listener::tls::Tls,
    policy::Rpc,
    sandbox::{self, DEMO_TRANSACTIONS, Sandbox},
    telemetry,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The configuration is wrong (`EX_CONFIG`).
const EXIT_CONFIGURATION: u8 = 78;
/// Something outside could not be used: an address, a journal.
const EXIT_UNAVAILABLE: u8 = 69;

/// The token of `serve --sandbox`. Worth nothing anywhere else.
const SANDBOX_TOKEN: &str = "sandbox";
/// The callers of `serve --sandbox`: name, token, and whether it is a person
/// who may review. A review takes two.
const SANDBOX_CALLERS: [(&str, &str, bool); 3] =
    [("sandbox", SANDBOX_TOKEN, false), ("anna", "sandbox-anna", true), ("ben", "sandbox-ben", true)];
/// How long the simulated Dintero's access tokens live with `serve --sandbox`:
/// nobody who tries it wants to wait for four hours until a lost request is
/// given up.
const SANDBOX_TOKEN_LIFE: Duration = Duration::from_mins(2);

/// Captures, voids and refunds at Dintero, at most once per key, over gRPC.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, after_help = "Try it: payops serve --sandbox")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the boundary
    Serve(Serve),
    /// Serve a simulated Dintero alone, for tests and staging
    Sandbox {
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:50052")]
        listen: SocketAddr,
        /// Identifiers and faults by probability follow from it
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make a token for a caller
    #[command(subcommand)]
    Token(TokenCommand),
    #[command(subcommand)]
    Batch(cli::batch::Command),
    #[command(subcommand)]
    Operations(cli::operations::Command),
    #[command(subcommand)]
    Policy(cli::policy::Command),
    /// Bring the tables of a journal in PostgreSQL to the form that this payops needs
    Migrate {
        /// The configuration file (or PAYOPS_CONFIG)
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// Look after the journal
    #[command(subcommand)]
    Journal(cli::journal::Command),
    #[command(subcommand)]
    Audit(cli::audit::Command),
    Doctor(cli::doctor::Options),
    /// Print what a shell needs to complete this command, such as for a file of `/etc/bash_completion.d`
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each command
    Man {
        /// Where to write them, such as `/usr/local/share/man/man1`
        #[arg(long)]
        folder: Option<PathBuf>,
    },
}

#[derive(Args)]
struct Serve {
    /// The configuration file (or PAYOPS_CONFIG)
    #[arg(long, conflicts_with = "sandbox")]
    config: Option<PathBuf>,
    /// Serve with an embedded simulated Dintero and a journal that is thrown away: needs no account
    #[arg(long)]
    sandbox: bool,
    /// Where to listen with --sandbox
    #[arg(long, default_value = "127.0.0.1:50051", requires = "sandbox")]
    listen: SocketAddr,
    /// Where the simulated Dintero listens with --sandbox
    #[arg(long, default_value = "127.0.0.1:50052", requires = "sandbox")]
    sandbox_listen: SocketAddr,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Check everything and show what is in force; secrets are not shown
    Check {
        /// The configuration file (or PAYOPS_CONFIG)
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// Print a complete configuration with comments
    Example,
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Print a new token, and the lines of the callers file that let it in
    New {
        /// The caller's name: the scope of its idempotency keys, or a person's name
        #[arg(long)]
        name: String,
        /// For a person who may look into and decide the operations of every caller
        #[arg(long)]
        review: bool,
    },
}

/// Why the command ended badly: what to tell, and the exit code.
struct Failed(String, u8);

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed(why, code)) => {
            // If stderr is gone there is nobody to tell.
            drop(writeln!(io::stderr(), "payops: {}", why.trim_end()));
            ExitCode::from(code)
        }
    }
}

fn run(command: Command) -> Result<(), Failed> {
    match command {
        Command::Serve(options) if options.sandbox => {
            wait_for(serve_sandbox(options.listen, options.sandbox_listen))
        }
        Command::Serve(options) => {
            let config = Config::from_path(options.config.as_deref(), config::variables())?;
            wait_for(serve(config))
        }
        Command::Sandbox { listen, seed } => wait_for(sandbox(listen, seed)),
        Command::Config(ConfigCommand::Check { config }) => {
            let config = Config::from_path(config.as_deref(), config::variables())?;
            CallersFile::open(&config.callers.file)?;
            config.server.tls.as_ref().map(Tls::open).transpose()?;
            print(&table(&config))
        }
        Command::Config(ConfigCommand::Example) => print(config::EXAMPLE),
        Command::Migrate { config } => {
            let config = Config::from_path(config.as_deref(), config::variables())?;
            wait_for(migrate(config))
        }
        Command::Journal(command) => {
            wait_for(async { cli::journal::run(&command).await.map_err(Failed::from) })
        }
        Command::Audit(command) => wait_for(async { cli::audit::run(&command).await.map_err(Failed::from) }),
        Command::Policy(command) => Ok(cli::policy::run(&command)?),
        Command::Token(TokenCommand::New { name, review }) => {
            let (token, hash) = payops::callers::new_token().map_err(|error| unavailable(&error))?;
            let text = format!(
                "token (give it to the caller; it is not kept):\n{token}\n\n\
                 callers file:\n[[caller]]\nname = {name:?}\ntoken_sha256 = [\"{hash}\"]\n{}",
                if review {
                    "review = true\n".to_owned()
                } else {
                    rule(" # all; better, name those that it needs")
                }
            );
            let lines = text.split_once("callers file:\n").map_or("", |(_, lines)| lines);
            payops::callers::Callers::parse(lines)?;
            print(&text)
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "payops", &mut text);
            print(&String::from_utf8_lossy(&text))
        }
        Command::Doctor(options) => wait_for(async { cli::doctor::run(options).await.map_err(Failed::from) }),
        Command::Man { folder } => manual(folder.as_deref()),
        Command::Batch(command) => wait_for(async { cli::batch::run(command).await.map_err(Failed::from) }),
        Command::Operations(command) => {
            wait_for(async { cli::operations::run(command).await.map_err(Failed::from) })
        }
    }
}

/// Lets a caller do everything on all accounts.
fn rule(remark: &str) -> String {
    let rpcs = Rpc::ALL.map(Rpc::as_str);
    format!("[[caller.allow]]\nrpcs = {rpcs:?}\naccounts = [\"*\"]{remark}\n")
}

fn manual(folder: Option<&Path>) -> Result<(), Failed> {
    let unwritable = |error: io::Error| Failed(format!("cannot write the manual: {error}"), EXIT_UNAVAILABLE);
    if let Some(folder) = folder {
        return clap_mangen::generate_to(Cli::command(), folder).map_err(unwritable);
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut text).map_err(unwritable)?;
    print(&String::from_utf8_lossy(&text))
}

fn wait_for(work: impl Future<Output = Result<(), Failed>>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| unavailable(&error))?;
    let ended = runtime.block_on(work);
    // What still listens for a late answer is in the journal.
    runtime.shutdown_background();
    ended
}

async fn serve(config: Config) -> Result<(), Failed> {
    let level = telemetry::start(&config.log)?;
    let listener = bind(config.server.listen).await?;
    tracing::info!(listen = %config.server.listen, version = env!("CARGO_PKG_VERSION"), "serving");
    let stop = stop_signal()?;
    tokio::spawn(level.follow(stop.clone()));
    Ok(app::serve(&config, listener, stop).await?)
}

async fn migrate(config: Config) -> Result<(), Failed> {
    let Some(database) = &config.journal.postgres else {
        let why = "journal.postgres.url: is missing; only a journal in PostgreSQL has tables to migrate";
        return Err(Failed(why.to_owned(), EXIT_CONFIGURATION));
    };
    let steps = payops::journal::postgres::migrate(database).await.map_err(|error| unavailable(&error))?;
    print(&format!("The tables are as this payops needs them ({steps} steps taken).\n"))
}

async fn serve_sandbox(listen: SocketAddr, sandbox_listen: SocketAddr) -> Result<(), Failed> {
    let directory = Scratch::new()?;
    let settings = sandbox::Settings {
        listen: sandbox_listen,
        token_life: SANDBOX_TOKEN_LIFE,
        ..sandbox::Settings::default()
    };
    let simulator = Sandbox::bind(settings).await.map_err(|error| cannot_listen(sandbox_listen, &error))?;
    let config = Config::sandbox(listen, simulator.local_addr(), &directory.0);
    telemetry::start(&config.log)?;
    let callers = SANDBOX_CALLERS.map(|(name, token, review)| {
        let hash = payops::callers::token_hash(token);
        let more = if review { "review = true\n".to_owned() } else { rule("") };
        format!("[[caller]]\nname = {name:?}\ntoken_sha256 = [{hash:?}]\n{more}")
    });
    std::fs::write(&config.callers.file, callers.concat()).map_err(|error| unavailable(&error))?;
    let listener = bind(listen).await?;
    let address = listener.local_addr().map_err(|error| unavailable(&error))?;
    print(&welcome(address, simulator.local_addr()))?;

    let stop = stop_signal()?;
    // The simulator outlives the boundary: draining may still need it.
    let ended = CancellationToken::new();
    let simulating = tokio::spawn(simulator.serve(ended.clone().cancelled_owned()));
    let served = app::serve(&config, listener, stop).await;
    ended.cancel();
    drop(simulating.await);
    Ok(served?)
}

async fn sandbox(listen: SocketAddr, seed: u64) -> Result<(), Failed> {
    let settings = sandbox::Settings { listen, seed, ..sandbox::Settings::default() };
    let simulator = Sandbox::bind(settings).await.map_err(|error| cannot_listen(listen, &error))?;
    let account = sandbox::Account::default();
    let (id, client, secret) = (account.id, account.client_id, account.client_secret);
    let base = format!("http://{}", simulator.local_addr());
    print(&format!(
        "A simulated Dintero serves on {base}. Nothing here is real.\n\n\
         Point your client to it instead of api.dintero.com and checkout.dintero.com. An access token:\n\n  \
         curl -s -u {client}:{secret} -X POST {base}/v1/accounts/{id}/auth/token \
         -d '{{\"grant_type\":\"client_credentials\",\"audience\":\"https://api.dintero.com/v1/accounts/{id}\"}}'\n\n\
         Behind your client's back, under {base}/sandbox/v1/: all transactions, a fault to come, what really moved:\n\n  \
         curl -s {base}/sandbox/v1/transactions\n  \
         curl -s -X POST {base}/sandbox/v1/faults \
         -d '{{\"operation\":\"capture\",\"fault\":\"answer_lost_after_applying\"}}'\n  \
         curl -s {base}/sandbox/v1/ledger\n\n\
         docs/sandbox.md describes everything. Ctrl-C ends it and forgets everything.\n"
    ))?;
    simulator.serve(stop_signal()?.cancelled_owned()).await.map_err(|error| unavailable(&error))
}

/// Cancelled by SIGTERM or SIGINT.
fn stop_signal() -> Result<CancellationToken, Failed> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| unavailable(&error))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| unavailable(&error))?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        token.cancel();
    });
    Ok(stop)
}

async fn bind(listen: SocketAddr) -> Result<TcpListener, Failed> {
    TcpListener::bind(listen).await.map_err(|error| cannot_listen(listen, &error))
}

fn welcome(boundary: SocketAddr, simulator: SocketAddr) -> String {
    let demo = DEMO_TRANSACTIONS.first().map_or("", |demo| demo.id);
    let amount = DEMO_TRANSACTIONS.first().map_or(0, |demo| demo.amount);
    format!(
        "payops serves on {boundary}, with a simulated Dintero on http://{simulator}. Nothing here is real.\n\n\
         Paste this into another terminal to capture a payment:\n\n  \
         grpcurl -plaintext -H 'authorization: Bearer {SANDBOX_TOKEN}' -H 'idempotency-key: my-first-capture' \\\n    \
         -d '{{\"transaction_id\": \"{demo}\", \"amount\": {amount}}}' \\\n    \
         {boundary} payops.v1.PaymentOperationsService/Capture\n\n\
         Paste it again: same key, same answer, and the money has moved once:\n\n  \
         curl -s http://{simulator}/sandbox/v1/ledger\n\n\
         Ctrl-C ends it and forgets everything.\n\n"
    )
}

fn table(config: &Config) -> String {
    let rows = config.describe();
    let width = rows.iter().map(|row| row.key.len()).max().unwrap_or_default();
    let lines = rows.iter().map(|row| format!("{:width$}  {}  ({})\n", row.key, row.value, row.origin));
    format!("{}\nThe configuration is complete and consistent.\n", lines.collect::<String>())
}

fn print(text: &str) -> Result<(), Failed> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever read our output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| unavailable(&error)),
    }
}

/// A directory that ends with the process.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failed> {
        let name = format!("payops-sandbox-{}", uuid::Uuid::new_v4().simple());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir(&directory).map_err(|error| {
            Failed(format!("{}: {error}", Path::new(&directory).display()), EXIT_UNAVAILABLE)
        })?;
        Ok(Self(directory))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left behind at worst, in a directory for such things.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

impl From<cli::Failed> for Failed {
    fn from(cli::Failed { why, code }: cli::Failed) -> Self {
        Self(why, code)
    }
}

impl From<Mistakes> for Failed {
    fn from(mistakes: Mistakes) -> Self {
        Self(format!("the configuration is not usable:\n{mistakes}"), EXIT_CONFIGURATION)
    }
}

impl From<app::Error> for Failed {
    fn from(error: app::Error) -> Self {
        match error {
            app::Error::Configuration(mistakes) => mistakes.into(),
            app::Error::Telemetry(why) => Self(why, EXIT_CONFIGURATION),
            other => Self(other.to_string(), EXIT_UNAVAILABLE),
        }
    }
}

fn unavailable(error: &dyn std::fmt::Display) -> Failed {
    Failed(error.to_string(), EXIT_UNAVAILABLE)
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> Failed {
    Failed(format!("cannot listen on {address}: {error}; is another payops running?"), EXIT_UNAVAILABLE)
}
