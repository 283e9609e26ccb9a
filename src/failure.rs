//! Why a command has no operation to show for an answer. Everything here means
//! that *this call* sent nothing, unless it says otherwise.

use crate::clock::Timestamp;
use crate::journal::{
    self,
    entry::{
        Entry,
        spent::{Spent, Tally, end_of},
    },
};
use crate::payment::{id::OperationId, outcome::Decline, permit::Denied};
use crate::psp::{NotSent, ReadError};

/// A command that was not carried out, or not to its end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// The key belongs to a command with another meaning: to this operation,
    /// if it is recorded yet.
    #[error("the idempotency key was used for another command")]
    KeyReused(Option<OperationId>),
    /// Another operation is open on the transaction.
    #[error("another operation is open on the transaction")]
    Busy(Box<Entry>),
    /// A check before sending said no; the key is free. An earlier attempt may
    /// have left an operation behind.
    #[error("refused before anything was sent: {}", .0.message)]
    Refused(Box<Decline>, Option<OperationId>),
    /// Policy does not let it begin; the key is free. An earlier attempt may
    /// have left an operation behind.
    #[error("policy does not allow it: {0}")]
    Denied(Denied, Option<OperationId>),
    /// There is no room for it in its day; the key is free. An earlier attempt
    /// may have left an operation behind.
    #[error("it is more than the caller may begin today: {0}")]
    Beyond(Box<Beyond>, Option<OperationId>),
    /// No byte of the command ever left; the key is free. This attempt or an
    /// earlier one may have left an operation behind.
    #[error("nothing was sent")]
    NotSent(#[source] NotSent, Option<OperationId>),
    /// The same key is being carried out, and this call cannot wait longer.
    #[error("the operation is under way")]
    InProgress(Option<Box<Entry>>),
    /// The journal cannot be used; this call sent nothing.
    #[error("the journal cannot be used")]
    Journal(#[source] journal::Error),
    /// The journal was lost, and what left before that may still take effect:
    /// nothing is sent yet under a key that may be older.
    #[error("the journal was lost; nothing is sent yet under a key that may be older")]
    JournalLost {
        /// How long that goes on.
        retry_after: std::time::Duration,
    },
    /// The key is older than what the journal keeps: it may have moved money,
    /// so it is never run again. With the state in which it was, if that is
    /// known yet.
    #[error("the idempotency key is older than what the journal keeps")]
    KeyExpired(Option<String>),
    /// The result could not be recorded: it may have happened.
    #[error("the result could not be recorded")]
    Unrecorded(Box<Entry>),
    /// The boundary is stopping.
    #[error("the boundary is stopping")]
    Draining,
    /// There is no such operation of this caller.
    #[error("no such operation")]
    UnknownOperation,
    /// The caller's deadline passed while a read was under way.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// A defect of ours.
    #[error("an internal error")]
    Internal,
}

/// A day's limit, and what is left of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{left} of {max} minor units are left")]
pub struct Beyond {
    /// What is added up.
    pub tally: Tally,
    /// The most that the sum may be, in minor units.
    pub max: i64,
    /// How much more may be begun that day, in minor units.
    pub left: i64,
    /// When the day ends.
    pub ends_at: Timestamp,
}

impl Beyond {
    /// Why the entry was not written: that much was spent.
    pub fn of(entry: &Entry, spent: i64) -> Failure {
        let limited = entry.tally().zip(entry.spent.as_ref());
        limited.map_or(Failure::Internal, |(tally, Spent { day, max, .. })| {
            let left = max.saturating_sub(spent).max(0);
            Failure::Beyond(Box::new(Self { tally, max: *max, left, ends_at: end_of(*day) }), None)
        })
    }
}

impl From<NotSent> for Failure {
    fn from(error: NotSent) -> Self {
        Self::NotSent(error, None)
    }
}

impl From<Decline> for Failure {
    fn from(decline: Decline) -> Self {
        Self::Refused(Box::new(decline), None)
    }
}

impl Failure {
    /// Names the operation that there is, where the failure itself does not.
    #[must_use]
    pub fn of(self, operation: Option<OperationId>) -> Self {
        match self {
            Self::Refused(decline, None) => Self::Refused(decline, operation),
            Self::NotSent(why, None) => Self::NotSent(why, operation),
            Self::Denied(why, None) => Self::Denied(why, operation),
            Self::Beyond(why, None) => Self::Beyond(why, operation),
            other => other,
        }
    }

    /// Whether it says nothing of what its key came to before: an operation of
    /// it may be in the journal.
    pub fn leaves_the_key_open(&self) -> bool {
        match self {
            Self::Refused(_, None)
            | Self::NotSent(_, None)
            | Self::Denied(_, None)
            | Self::Beyond(_, None)
            | Self::Journal(journal::Error::Unavailable(_))
            | Self::JournalLost { .. }
            | Self::KeyExpired(None) => true,
            Self::Refused(_, Some(_))
            | Self::NotSent(_, Some(_))
            | Self::Denied(_, Some(_))
            | Self::Beyond(_, Some(_))
            | Self::Journal(_)
            | Self::KeyExpired(Some(_))
            | Self::KeyReused(_)
            | Self::Busy(_)
            | Self::InProgress(_)
            | Self::Unrecorded(_)
            | Self::Draining
            | Self::UnknownOperation
            | Self::DeadlineExceeded
            | Self::Internal => false,
        }
    }

    /// What a read that failed means for a call that needed it.
    pub fn from_read(error: ReadError) -> Self {
        use crate::payment::outcome::{PspError, Reason};
        match error {
            ReadError::NotFound => Decline {
                reason: Reason::TransactionNotFound,
                message: "the PSP knows no such transaction".to_owned(),
                psp: PspError { http_status: Some(404), ..PspError::default() },
                transaction_status: None,
                sums: None,
            }
            .into(),
            ReadError::Forbidden => {
                let why = "the transaction is not shown to this boundary".to_owned();
                NotSent::CredentialsRejected(why).into()
            }
            ReadError::NotSent(error) => error.into(),
            ReadError::Unreadable(why) => NotSent::Unreachable(why).into(),
        }
    }

    /// What tower's own layers and ours failed with, as one type again.
    pub fn from_stack(error: tower::BoxError) -> Self {
        if error.is::<tower::load_shed::error::Overloaded>() {
            return NotSent::Overloaded.into();
        }
        error.downcast::<Self>().map_or(Self::Internal, |failure| *failure)
    }
}
