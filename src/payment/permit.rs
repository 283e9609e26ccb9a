//! What policy says of a command, should it begin now. The currency of a
//! transaction is known only once it has been read, so a permit may depend on it.

use std::{any::Any, collections::BTreeMap, fmt, sync::Arc};

use crate::payment::id::{AccountId, Currency};

/// Whether a command may begin, by the currency of its transaction. What has
/// begun is answered whatever it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    by_currency: BTreeMap<Currency, Ruling>,
    otherwise: Ruling,
    /// Held for as long as the command is worked on.
    pub held: Held,
}

/// Something that is let go when the last of those who hold it is through,
/// whether or not the caller still waits. No part of what a permit says.
#[derive(Clone, Default)]
pub struct Held(Option<Arc<dyn Any + Send + Sync>>);

/// How far, or why not at all.
pub type Ruling = Result<Allowed, Denied>;

/// How far a command is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// The most that may be begun in a day with it, in minor units.
    pub day_max: Option<i64>,
}

/// The most that a caller may begin in a day: of one kind, on one account, in
/// this currency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayMax {
    /// The transaction's.
    pub currency: Currency,
    /// In minor units.
    pub amount: i64,
}

/// Why policy says no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No rule is about this RPC.
    #[error("no rule of the callers file allows this caller to call {0}")]
    Rpc(&'static str),
    /// The rules about the RPC are about other accounts.
    #[error("no rule of the callers file allows this caller to call {rpc} on account {account}")]
    Account {
        /// What was called.
        rpc: &'static str,
        /// The transaction's.
        account: AccountId,
    },
    /// The rules about the RPC and the account are about other currencies.
    #[error("no rule of the callers file allows this caller to call {rpc} on a transaction in {currency}")]
    Currency {
        /// What was called.
        rpc: &'static str,
        /// The transaction's.
        currency: String,
    },
    /// The amount is more than one operation may have.
    #[error(
        "the rules of the callers file allow this caller at most {max} minor units of {currency} in one {rpc}"
    )]
    Amount {
        /// What was called.
        rpc: &'static str,
        /// The transaction's.
        currency: Currency,
        /// The most, in minor units.
        max: i64,
    },
}

impl Permit {
    /// Whatever the currency is.
    pub fn plain(ruling: Ruling) -> Self {
        Self { by_currency: BTreeMap::new(), otherwise: ruling, held: Held::default() }
    }

    /// For these currencies, and for all others.
    pub fn by_currency(by_currency: BTreeMap<Currency, Ruling>, otherwise: Ruling) -> Self {
        Self { by_currency, otherwise, held: Held::default() }
    }

    /// Whether the currency decides, so that the transaction is read before
    /// anything is sent.
    #[cfg(test)]
    pub fn needs_currency(&self) -> bool {
        !self.by_currency.is_empty()
    }

    /// Why the command may not begin, in whatever currency its transaction is.
    pub fn denied(&self) -> Option<&Denied> {
        let rulings = self.by_currency.values().chain([&self.otherwise]);
        let denied: Vec<&Denied> = rulings.map(|ruling| ruling.as_ref().err()).collect::<Option<_>>()?;
        denied.into_iter().max_by_key(|denied| denied.stage())
    }

    /// What it says for a transaction in this currency.
    pub fn ruling(&self, currency: &str) -> Ruling {
        let named = self.by_currency.iter().find(|(known, _)| known.as_str() == currency);
        match named.map_or(&self.otherwise, |(_, ruling)| ruling) {
            Err(Denied::Currency { rpc, .. }) => Err(Denied::Currency { rpc, currency: currency.to_owned() }),
            ruling => ruling.clone(),
        }
    }
}

impl Held {
    /// Holds it.
    pub fn new(what: Arc<dyn Any + Send + Sync>) -> Self {
        Self(Some(what))
    }
}

impl PartialEq for Held {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Held {}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Held" } else { "nothing" })
    }
}

impl Default for Permit {
    /// Of whoever is asked by no policy: payops itself.
    fn default() -> Self {
        Self::plain(Ok(Allowed::default()))
    }
}

impl Denied {
    /// How far a rule went along with the request: the further, the closer.
    pub fn stage(&self) -> u8 {
        match self {
            Self::Rpc(_) => 0,
            Self::Account { .. } => 1,
            Self::Currency { .. } => 2,
            Self::Amount { .. } => 3,
        }
    }
}
