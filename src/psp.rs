//! What payops needs of a payment service provider (PSP), and what its answers
//! mean. Errors are sorted by the one question that matters: can the request
//! have taken effect?

pub mod dintero;
#[cfg(test)]
pub(crate) mod fake;
pub mod guard;
pub mod judge;
pub mod rules;
pub mod transaction;

use std::time::Duration;

use crate::clock::Timestamp;
use crate::payment::{
    Command,
    id::{AccountId, TransactionId},
    outcome::PspError,
};
use crate::psp::transaction::Transaction;

/// How payops introduces itself; the PSP stores it on events [D 2.5] [D 5.2].
pub const SYSTEM_NAME: &str = "payops";

/// A PSP without idempotency keys: it can be sent a command and be read.
pub trait Psp: Clone + Send + Sync + 'static {
    /// A request that is complete, its token included.
    type Prepared: Prepared;

    /// Builds the whole request. Sends nothing that could move money.
    fn prepare(&self, command: &Command) -> impl Future<Output = Result<Self::Prepared, NotSent>> + Send;

    /// Writes the request once, on one connection, and waits for the answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the waiting, not the effect.
    fn send(&self, prepared: Self::Prepared) -> impl Future<Output = Received> + Send;

    /// Reads a transaction.
    fn read(
        &self,
        transaction: &TransactionId,
    ) -> impl Future<Output = Result<Transaction, ReadError>> + Send;

    /// Reads a transaction for somebody with nothing under way, who can do
    /// without: where the PSP is in trouble, this is what it is spared first.
    fn look(
        &self,
        transaction: &TransactionId,
    ) -> impl Future<Output = Result<Transaction, ReadError>> + Send {
        self.read(transaction)
    }

    /// The ids of one page of transactions on which money moved. Never evidence
    /// of anything: it only says what is worth reading.
    fn list(&self, page: &Page) -> impl Future<Output = Result<Vec<TransactionId>, ReadError>> + Send;

    /// Whether this boundary serves the transaction's account.
    fn serves(&self, transaction: &TransactionId) -> bool;
}

/// What can be asked of a request before it is sent.
pub trait Prepared: Send + 'static {
    /// After this time the PSP refuses the request, whenever it arrives: an
    /// upper bound of what is left of the token's life.
    fn life_left(&self) -> Duration;
}

/// Which transactions are asked for. There is no such filter for what was
/// voided [D 6.2].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Of this account.
    pub account: AccountId,
    /// On which this happened.
    pub moved: Moved,
    /// Then or later.
    pub since: Timestamp,
    /// From behind this one on, the last of the page before.
    pub after: Option<TransactionId>,
    /// So many at most: 1 to 100.
    pub most: u8,
}

/// What happened to a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// It was captured.
    Captured,
    /// It was refunded.
    Refunded,
}

/// No byte of a request left, for this reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The PSP or its token endpoint could not be reached.
    #[error("the PSP cannot be reached: {0}")]
    Unreachable(String),
    /// The PSP asked us to wait.
    #[error("the PSP asks to wait {} s", retry_after.as_secs())]
    RateLimited {
        /// For how long.
        retry_after: Duration,
    },
    /// The PSP refused our own credentials.
    #[error("the PSP refuses the credentials of this boundary: {0}")]
    CredentialsRejected(String),
    /// Most requests of this kind failed lately: no more are begun for a while.
    #[error("requests to the PSP fail, none is begun for {} s", retry_after.as_secs())]
    CircuitOpen {
        /// For how long.
        retry_after: Duration,
    },
    /// Too much is under way.
    #[error("too many operations are under way")]
    Overloaded,
    /// Too much time passed between the record and the first byte.
    #[error("the send window was missed")]
    WindowMissed,
    /// No such account here.
    #[error("the account is not served here")]
    UnknownAccount,
}

/// The answer to one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// No byte left.
    NotSent(String),
    /// 401: the token was refused, nothing was executed (A3, [D 2.2]).
    Unauthorized,
    /// 400, 403, 404 or 422 with an error body: nothing was executed (A6).
    Refused(PspError),
    /// 409 or 429: probably nothing was executed; reads have to show it.
    Pushback {
        /// The HTTP status.
        http_status: u16,
        /// How long the PSP wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// 200 or 202 with a transaction. Proves nothing by itself.
    Answered {
        /// The transaction that was in the answer.
        transaction: Box<Transaction>,
        /// The id of the accepted request; 202 only [D 3.6].
        accepted_request_id: Option<String>,
    },
    /// Anything else: it may have taken effect.
    Unknown(String),
}

/// A transaction could not be read. No evidence of anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// 404.
    #[error("the PSP knows no such transaction")]
    NotFound,
    /// 403.
    #[error("the PSP does not show the transaction to this boundary")]
    Forbidden,
    /// The read was not made.
    #[error("the transaction was not read")]
    NotSent(#[source] NotSent),
    /// The answer cannot be understood, or did not come.
    #[error("the PSP's answer cannot be used: {0}")]
    Unreadable(String),
}

impl ReadError {
    /// How long the PSP wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NotSent(NotSent::RateLimited { retry_after }) => Some(*retry_after),
            _ => None,
        }
    }
}
