//! A faithful, faulty-on-request Dintero.
//!
//! A real HTTP/1.1 server with the part of Dintero's Checkout API that moves money on existing transactions, and an
//! admin API under `/sandbox/v1/` that makes transactions, asks for faults and tells the truth about what moved. It
//! shares no code with the rest of the crate, so that a mistake in one is not repeated in the other.
//!
//! A request on the PSP's side passes, top to bottom: `server` and `line` (the connection, which can be cut at a
//! chosen byte), `psp` (routes, stages, faults), `token` (who asks), `ledger` (guards, effects, events), `deliver`
//! (the answer, or what becomes of it). What changed a transaction is told to subscribers by `hooks`. Facts are cited from the project's notes as `[D n]`; a citation of section
//! 12 marks an assumption about something that Dintero does not document.
//!
//! ```no_run
//! # async fn start(shutdown: impl Future<Output = ()> + Send) -> std::io::Result<()> {
//! use payops::sandbox::{Sandbox, Settings};
//!
//! let sandbox = Sandbox::bind(Settings::default()).await?; // 127.0.0.1, a free port
//! println!("http://{}", sandbox.local_addr());
//! sandbox.serve(shutdown).await // until `shutdown` is ready
//! # }
//! ```

mod admin;
mod deliver;
mod demo;
mod failure;
mod faults;
mod fields;
mod hooks;
mod ledger;
mod line;
mod products;
mod psp;
mod random;
mod requests;
mod server;
mod state;
mod token;
mod wire;

pub use demo::{DEMO_TRANSACTIONS, Demo};

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::state::State;

/// How a sandbox starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens. Port 0 takes a free one: see [`Sandbox::local_addr`].
    pub listen: SocketAddr,
    /// The accounts, each with its API client.
    pub accounts: Vec<Account>,
    /// How long an access token lives. Default: 14,400 s `[D 2.2]`.
    pub token_life: Duration,
    /// Identifiers, and faults with a probability, follow from it.
    pub seed: u64,
    /// Whether [`DEMO_TRANSACTIONS`] exist at start.
    pub demo_transactions: bool,
}

/// An account and its API client.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// `T` or `P` and eight digits.
    pub id: String,
    /// The user of the token endpoint's Basic credentials.
    pub client_id: String,
    /// The password.
    pub client_secret: String,
}

/// A simulator of Dintero, bound to its address.
#[derive(Debug)]
pub struct Sandbox {
    listener: TcpListener,
    local_addr: SocketAddr,
    settings: Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            accounts: vec![Account::default()],
            token_life: Duration::from_hours(4),
            seed: 1,
            demo_transactions: true,
        }
    }
}

impl Default for Account {
    fn default() -> Self {
        Self {
            id: "T12345678".to_owned(),
            client_id: "sandbox-client".to_owned(),
            client_secret: "sandbox-secret".to_owned(),
        }
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Binds the address; connections wait until [`Sandbox::serve`].
    pub async fn bind(settings: Settings) -> io::Result<Sandbox> {
        let listener = TcpListener::bind(settings.listen).await?;
        let local_addr = listener.local_addr()?;
        Ok(Sandbox { listener, local_addr, settings })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `shutdown` is ready, then finishes the answers that are due (for 5 s at most).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops accepting and ends what was put off; open connections end with the runtime.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> io::Result<()> {
        let stop = CancellationToken::new();
        let _stop_on_drop = stop.clone().drop_guard();
        let state = Arc::new(State::new(self.settings, stop.clone()));
        let router = admin::router().fallback(psp::serve).with_state(state);
        let mut serving = std::pin::pin!(server::serve(self.listener, router, stop.clone()));
        tokio::select! {
            ended = serving.as_mut() => ended,
            () = shutdown => {
                stop.cancel();
                serving.await
            }
        }
    }
}
