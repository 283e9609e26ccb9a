//! The audit: what was written, and who has to answer for it. A record for each
//! write of an entry, in the same transaction, and one for each refusal, each
//! change of the configuration, each loss and each forgetting. Nobody changes a
//! record; [`chain`] makes it show, [`verify`] looks.

pub mod archive;
pub mod chain;
pub mod verify;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::journal::entry::{Entry, State};
use crate::payment::{
    Amount,
    id::{AccountId, CallerName, IdempotencyKey, OperationId, TransactionId},
};

pub use self::chain::{Chain, Head, Key};

/// How a revision of an entry came about. Told to the audit together with it,
/// and kept nowhere else.
#[derive(Clone, Debug, Default)]
pub struct Made {
    /// What happened.
    pub event: &'static str,
    /// When.
    pub at: Option<Timestamp>,
    /// The state before it, in the word of journals.
    pub before: Option<&'static str>,
    /// The person who decided it; none where the evidence did.
    pub by: Option<CallerName>,
    /// The call in which a person decided it; else it happened for the call that
    /// began the last attempt.
    pub trace_id: Option<String>,
    /// How long what led to it took.
    pub took: Took,
}

/// How long an attempt took, as far as the process knows that made it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Took {
    /// Its first record.
    pub record: Option<std::time::Duration>,
    /// From the first byte of the request to the last of the answer.
    pub psp: Option<std::time::Duration>,
}

/// No part of what an entry says.
impl PartialEq for Made {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// One record, as it is kept: a line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// A chain begins.
    Chain {
        /// When.
        at: Timestamp,
        /// What for.
        why: String,
        /// The head of the chain that it goes on from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
        /// The version of payops.
        payops: String,
    },
    /// An entry was written.
    Operation(Box<Operation>),
    /// Entries that are over, and did not change since `before`, were forgotten.
    Forgotten {
        /// When.
        at: Timestamp,
        /// See above.
        before: Timestamp,
    },
    /// Somebody was not let in, or not allowed what was asked.
    Refusal(Box<Refusal>),
    /// The configuration in force is another one, or a new one was refused.
    Configuration {
        /// When.
        at: Timestamp,
        /// Which part of it.
        what: String,
        /// The SHA-256 of what is in force now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sha256: Option<String>,
        /// Why the new one was refused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refused: Option<String>,
    },
}

/// A write of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// When.
    pub at: Timestamp,
    /// What happened.
    pub event: String,
    /// Which operation.
    pub operation_id: OperationId,
    /// Whose.
    pub caller: CallerName,
    /// Its key.
    pub key: IdempotencyKey,
    /// Capture, void or refund.
    pub operation: String,
    /// Of which transaction.
    pub transaction_id: TransactionId,
    /// Of which account.
    pub account: AccountId,
    /// How much, in minor units; none for a void.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<i64>,
    /// Of what, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    /// Which attempt.
    pub attempt: u32,
    /// The state before; none for the first write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The state since.
    pub after: String,
    /// Whether it holds its transaction's slot.
    pub open: bool,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The person who decided it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<CallerName>,
    /// The PSP's event that proves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psp_event_id: Option<String>,
    /// The call in which it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The revision that it made of the entry.
    pub revision: u64,
    /// The revision that it was made from.
    pub follows: u64,
    /// The SHA-256 of the entry as it was written, in hexadecimal digits.
    pub sha256: String,
}

/// A refusal by policy, or of somebody who is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// When it happened first.
    pub at: Timestamp,
    /// Whom; none where that was not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<CallerName>,
    /// What was called.
    pub rpc: String,
    /// On which transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction_id: Option<TransactionId>,
    /// On which account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// How much, in minor units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<i64>,
    /// The word that the caller was told.
    pub reason: String,
    /// And the sentence.
    pub why: String,
    /// The first call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// How many like it there were in a short while.
    pub count: u64,
}

impl Refusal {
    /// What it was about.
    #[must_use]
    pub fn on(self, transaction: &TransactionId, amount: Option<Amount>) -> Self {
        let account = Some(transaction.account());
        Self { transaction_id: Some(transaction.clone()), account, amount: amount.map(Amount::minor), ..self }
    }
}

impl Record {
    /// Of an entry that is written, which its journal keeps with this checksum.
    pub(super) fn of(entry: &Entry, checksum: &[u8]) -> Self {
        let Made { event, at, before, by, trace_id, .. } = &entry.made;
        let looked = before.is_some_and(|before| before == entry.state.as_str() && by.is_none());
        let last = entry.history.last().filter(|_| !looked);
        let refused = match &entry.state {
            State::Declined(decline) => Some(format!("{}: {}", decline.reason.as_str(), decline.message)),
            _ => None,
        };
        let proof = match &entry.state {
            State::Succeeded(proof) => proof.event_id.clone(),
            _ => None,
        };
        Self::Operation(Box::new(Operation {
            at: at.unwrap_or(entry.updated_at),
            event: (*event).to_owned(),
            operation_id: entry.id,
            caller: entry.caller.clone(),
            key: entry.key.clone(),
            operation: entry.operation.kind().as_str().to_owned(),
            transaction_id: entry.operation.transaction.clone(),
            account: entry.operation.transaction.account(),
            amount: entry.operation.amount().map(Amount::minor),
            currency: entry.spent.as_ref().map(|spent| spent.currency.as_str().to_owned()),
            attempt: entry.attempt,
            before: before.map(str::to_owned),
            after: entry.state.as_str().to_owned(),
            open: entry.state.is_open(),
            why: last.and_then(|change| change.why.clone()).or(refused),
            by: by.clone(),
            psp_event_id: proof,
            trace_id: trace_id.clone().or_else(|| Some(entry.traced.as_ref()?.trace_id().to_owned())),
            revision: entry.revision,
            follows: entry.follows,
            sha256: hex(checksum),
        }))
    }

    /// As it is kept.
    pub(super) fn text(&self) -> String {
        // A struct of strings and numbers always has a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Lower case.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        _ = write!(text, "{byte:02x}");
        text
    })
}
