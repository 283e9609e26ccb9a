//! What became of an operation, once that is definite.

use serde::{Deserialize, Serialize};

/// The sums of a transaction, in minor units. The PSP gives none of them
/// [D 4]; they are added up from its successful events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// Authorized in all.
    pub authorized: i64,
    /// Captured so far.
    pub captured: i64,
    /// Refunded so far.
    pub refunded: i64,
    /// Can still be captured; zero once the rest is void.
    pub capturable: i64,
    /// Can still be refunded.
    pub refundable: i64,
}

/// The PSP's own evidence that an operation took effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The PSP's event, the first where it split the amount over several.
    /// Absent for a void that shows in the status alone.
    pub event_id: Option<String>,
    /// What the events moved, in minor units; zero for a void.
    pub amount: i64,
    /// When, in the PSP's words (ISO 8601).
    pub event_time: Option<String>,
    /// The transaction's status at that time, in the PSP's word.
    pub transaction_status: String,
    /// The transaction's sums at that time.
    pub sums: Sums,
    /// A void that somebody else brought about, by the user agent of its event:
    /// what was asked for is so, and our request had no part in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_others: bool,
}

/// Why an operation did not happen and will not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decline {
    /// In the terms of the contract.
    pub reason: Reason,
    /// A sentence for people.
    pub message: String,
    /// What the PSP itself said.
    #[serde(default)]
    pub psp: PspError,
    /// The transaction's status afterwards, where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction_status: Option<String>,
    /// The transaction's sums afterwards, where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sums: Option<Sums>,
}

/// The reasons for which the answer is no and nothing moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// The PSP or the provider behind it said no.
    Declined,
    /// More than can still be captured or refunded.
    AmountExceedsRemaining,
    /// The transaction's state does not allow it.
    TransactionState,
    /// The caller believed that another amount remains.
    RemainingMismatch,
    /// The transaction is in another currency.
    CurrencyMismatch,
    /// The payment product does not allow it [D 3.7].
    ProductRule,
    /// There is no such transaction.
    TransactionNotFound,
}

/// What the PSP said when it refused. All of it is opaque text: the PSP has no
/// catalogue of codes [D 8].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PspError {
    /// The HTTP status, where the request itself was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// `error.code`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// `error.message`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// `error.type`, such as `INSUFFICIENT_FUNDS`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// The card scheme's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_code: Option<String>,
    /// `retry_policy.retry_codes`, such as `DO_NOT_RETRY`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retry_codes: Vec<String>,
    /// `retry_policy.retry_after` (ISO 8601).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<String>,
}

impl Reason {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Declined => "DECLINED",
            Self::AmountExceedsRemaining => "AMOUNT_EXCEEDS_REMAINING",
            Self::TransactionState => "TRANSACTION_STATE",
            Self::RemainingMismatch => "REMAINING_MISMATCH",
            Self::CurrencyMismatch => "CURRENCY_MISMATCH",
            Self::ProductRule => "PRODUCT_RULE",
            Self::TransactionNotFound => "TRANSACTION_NOT_FOUND",
        }
    }
}
