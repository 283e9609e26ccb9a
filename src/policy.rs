//! What a caller may do: the rules that the callers file has for it, and what
//! they decide. No I/O, and no state but how fast callers call ([`pace`]).
//!
//! The first rule that covers the whole request decides: RPC, account, currency
//! and amount. Where none does, the answer is no.

pub mod pace;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    sync::Arc,
};

use crate::payment::{
    Kind, Operation,
    id::{AccountId, Currency},
    permit::{Allowed, Denied, Permit, Ruling},
};
use crate::policy::pace::Pace;

/// What rules are about: the RPCs of `payops.v1.PaymentOperationsService`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rpc {
    /// See [`Kind::Capture`].
    Capture,
    /// See [`Kind::Void`].
    Void,
    /// See [`Kind::Refund`].
    Refund,
    /// Shows a transaction of the PSP.
    GetTransaction,
    /// Shows one of the caller's own operations.
    GetOperation,
    /// Shows one of the caller's own operations and each of its changes.
    WatchOperation,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whose it is, such as `group "shops"`.
    pub of: String,
    /// Which one of those, from 1.
    pub nth: usize,
    /// Where it begins in the file.
    pub line: usize,
    /// What may be called.
    pub rpcs: BTreeSet<Rpc>,
    /// On transactions of which accounts; none for all.
    pub accounts: Option<BTreeSet<AccountId>>,
    /// On transactions in which currencies, and how much; none for all, and
    /// any amount.
    pub currencies: Option<BTreeMap<Currency, Bounds>>,
}

/// How much, in minor units of one currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// In one operation.
    pub amount_max: Option<i64>,
    /// In all operations of one kind on one account that a caller begins in a
    /// day.
    pub day_max: Option<i64>,
}

/// All that one caller may, in the order in which the rules are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// Its own, then those of its groups.
    pub rules: Vec<Arc<Rule>>,
    /// Its own or, where it has none, that of the first of its groups.
    pub pace: Pace,
}

/// What is asked. What is not said is not looked at.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// What is called.
    pub rpc: Rpc,
    /// The transaction's account.
    pub account: Option<&'a AccountId>,
    /// The transaction's currency; none where it is none that a rule names.
    pub currency: Option<&'a Currency>,
    /// In minor units.
    pub amount: Option<i64>,
}

impl Rpc {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Capture,
        Self::Void,
        Self::Refund,
        Self::GetTransaction,
        Self::GetOperation,
        Self::WatchOperation,
    ];

    /// The name in the contract and in rules.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Capture => "Capture",
            Self::Void => "Void",
            Self::Refund => "Refund",
            Self::GetTransaction => "GetTransaction",
            Self::GetOperation => "GetOperation",
            Self::WatchOperation => "WatchOperation",
        }
    }

    /// What carries out such operations.
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Capture => Self::Capture,
            Kind::Void => Self::Void,
            Kind::Refund => Self::Refund,
        }
    }

    /// What the path of a request calls; none where there is no such RPC.
    pub fn of_path(path: &str) -> Option<Self> {
        path.rsplit('/').next()?.parse().ok()
    }

    /// Whether it carries out operations.
    pub fn moves_money(self) -> bool {
        matches!(self, Self::Capture | Self::Void | Self::Refund)
    }
}

impl fmt::Display for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Rpc {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|rpc| rpc.as_str() == text);
        known.ok_or_else(|| format!("must be one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

impl Rule {
    /// Whether it covers all that is asked, or the first thing that it does not.
    pub fn covers(&self, asked: &Asked<'_>) -> Result<(), Denied> {
        let rpc = asked.rpc.as_str();
        if !self.rpcs.contains(&asked.rpc) {
            return Err(Denied::Rpc(rpc));
        }
        if let (Some(accounts), Some(account)) = (&self.accounts, asked.account)
            && !accounts.contains(account)
        {
            return Err(Denied::Account { rpc, account: account.clone() });
        }
        let Some(currencies) = self.currencies.as_ref().filter(|_| asked.rpc.moves_money()) else {
            return Ok(());
        };
        let Some((currency, bounds)) = asked.currency.and_then(|currency| currencies.get_key_value(currency))
        else {
            let currency = asked.currency.map_or("another currency", Currency::as_str).to_owned();
            return Err(Denied::Currency { rpc, currency });
        };
        match (bounds.amount_max, asked.amount) {
            (Some(max), Some(amount)) if amount > max => {
                Err(Denied::Amount { rpc, currency: currency.clone(), max })
            }
            _ => Ok(()),
        }
    }

    /// How far it allows what it covers.
    pub fn allowed(&self, asked: &Asked<'_>) -> Allowed {
        let bounds = asked.currency.and_then(|currency| self.currencies.as_ref()?.get(currency));
        // What has no amount is not counted.
        Allowed { day_max: bounds.and_then(|bounds| bounds.day_max).filter(|_| asked.amount.is_some()) }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of, nth, line, .. } = self;
        write!(f, "{of}, allow {nth} (line {line})")
    }
}

impl Rights {
    /// The first rule that covers all that is asked; where there is none, what
    /// the rule that came closest does not cover.
    pub fn decide(&self, asked: &Asked<'_>) -> Result<&Rule, Denied> {
        let mut closest = Denied::Rpc(asked.rpc.as_str());
        for rule in &self.rules {
            match rule.covers(asked) {
                Ok(()) => return Ok(rule),
                Err(denied) if is_closer(&denied, &closest) => closest = denied,
                Err(_) => {}
            }
        }
        Err(closest)
    }

    /// Whether the RPC may be called at all.
    pub fn may_call(&self, rpc: Rpc) -> Result<(), Denied> {
        let any = self.rules.iter().any(|rule| rule.rpcs.contains(&rpc));
        if any { Ok(()) } else { Err(Denied::Rpc(rpc.as_str())) }
    }

    /// Whether transactions of that account may be shown.
    pub fn may_read(&self, account: &AccountId) -> Result<(), Denied> {
        let rpc = Rpc::GetTransaction;
        self.decide(&Asked { rpc, account: Some(account), currency: None, amount: None }).map(|_| ())
    }

    /// Whether the operation may begin, on a transaction in the `named`
    /// currency, which is verified later, or in whichever it is.
    pub fn permit(&self, operation: &Operation, named: Option<&Currency>) -> Permit {
        let account = operation.transaction.account();
        let asked = Asked {
            rpc: Rpc::of(operation.kind()),
            account: Some(&account),
            currency: named,
            amount: operation.amount().map(crate::payment::Amount::minor),
        };
        let ruling = |currency| -> Ruling {
            let asked = Asked { currency, ..asked };
            self.decide(&asked).map(|rule| rule.allowed(&asked))
        };
        if named.is_some() {
            return Permit::plain(ruling(named));
        }
        let concerned = self
            .rules
            .iter()
            .filter(|rule| !matches!(rule.covers(&asked), Err(denied) if denied.stage() < 2));
        let currencies: BTreeSet<&Currency> =
            concerned.filter_map(|rule| rule.currencies.as_ref()).flat_map(BTreeMap::keys).collect();
        let by_currency = currencies.into_iter().map(|currency| (currency.clone(), ruling(Some(currency))));
        Permit::by_currency(by_currency.collect(), ruling(None))
    }
}

/// Of two that stopped at the amount the more generous rule came closer.
fn is_closer(one: &Denied, other: &Denied) -> bool {
    match (one, other) {
        (Denied::Amount { max: one, .. }, Denied::Amount { max: other, .. }) => one > other,
        _ => one.stage() > other.stage(),
    }
}
