//! The rules of a callers file: `allow`, under a `[[caller]]` or a `[[group]]`.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
    sync::Arc,
};

use toml::{
    Spanned, Table, Value,
    de::{DeTable, DeValue},
};

use super::{is_name, pace::pace, unknown};
use crate::callers::Callers;
use crate::config::Mistakes;
use crate::payment::{
    Amount,
    id::{AccountId, Currency},
};
use crate::policy::{Bounds, Rights, Rpc, Rule};

/// Of whatever there is.
const ALL: &str = "*";

/// Where a rule stands in the text.
pub(super) struct Lines<'a> {
    text: &'a str,
    document: Option<Spanned<DeTable<'a>>>,
}

/// Whose rules are read.
pub(super) struct Whose<'a> {
    /// `caller` or `group`.
    pub(super) table: &'static str,
    /// Which one of those in the file, from 0.
    pub(super) place: usize,
    pub(super) name: &'a str,
}

impl<'a> Lines<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        Self { text, document: DeTable::parse(text).ok() }
    }

    fn rule(&self, Whose { table, place, .. }: &Whose<'_>, nth: usize) -> usize {
        let list = self.document.as_ref().and_then(|document| document.get_ref().get(*table));
        let rule = list.and_then(|list| list.get_ref().get(*place)).and_then(|entry| {
            let rules: &Spanned<DeValue<'_>> = entry.get_ref().get("allow")?;
            rules.get_ref().get(nth)
        });
        let before = rule.and_then(|rule| self.text.get(..rule.span().start)).unwrap_or_default();
        before.matches('\n').count() + 1
    }
}

/// What stands under `allow`.
pub(super) fn rules(
    allow: Option<Value>,
    whose: &Whose<'_>,
    lines: &Lines<'_>,
    mistakes: &mut Mistakes,
) -> Vec<Arc<Rule>> {
    let Whose { table, place, name } = whose;
    let at = format!("{table}[{place}].allow");
    let list = match allow {
        None => return Vec::new(),
        Some(Value::Array(list)) if !list.is_empty() => list,
        Some(_) => {
            mistakes.add(
                at,
                "is no list of rules, or empty",
                format!("write each one under its own [[{table}.allow]]"),
            );
            return Vec::new();
        }
    };
    let rule = |(nth, entry)| {
        let at = format!("{at}[{nth}]");
        let Value::Table(mut entry) = entry else {
            mistakes.add(at, "is not a table", format!("write each one under its own [[{table}.allow]]"));
            return None;
        };
        let rule = Rule {
            of: format!("{table} {name:?}"),
            nth: nth + 1,
            line: lines.rule(whose, nth),
            rpcs: rpcs(entry.remove("rpcs"), &at, mistakes),
            accounts: accounts(entry.remove("accounts"), &at, mistakes),
            currencies: currencies(&mut entry, &at, mistakes),
        };
        unknown(&entry, &format!("{at}."), mistakes);
        Some(Arc::new(rule))
    };
    list.into_iter().enumerate().filter_map(rule).collect()
}

fn rpcs(value: Option<Value>, at: &str, mistakes: &mut Mistakes) -> BTreeSet<Rpc> {
    let listed =
        named(value, &format!("{at}.rpcs"), "name at least one RPC, or \"*\" for all", mistakes, |text| {
            let review =
                ["ListOperations", "GetOperationEvidence", "WatchOperationRecord", "ResolveOperation"];
            if review.contains(&text) {
                return Err("goes with review = true, and not with a rule".to_owned());
            }
            Rpc::from_str(text)
        });
    listed.unwrap_or_else(|| Rpc::ALL.into())
}

fn accounts(value: Option<Value>, at: &str, mistakes: &mut Mistakes) -> Option<BTreeSet<AccountId>> {
    let remedy = "name at least one account, such as \"P12345678\", or \"*\" for all";
    named(value, &format!("{at}.accounts"), remedy, mistakes, |text| {
        text.parse::<AccountId>().map_err(|invalid| invalid.to_string())
    })
}

/// What a list names; none for all that there is.
fn named<T: Ord>(
    value: Option<Value>,
    key: &str,
    remedy: &str,
    mistakes: &mut Mistakes,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Option<BTreeSet<T>> {
    let list = match value {
        Some(Value::Array(list)) if !list.is_empty() => list,
        found => {
            let problem = if found.is_some() { "is no list, or empty" } else { "is missing" };
            mistakes.add(key, problem, remedy);
            return Some(BTreeSet::new());
        }
    };
    if matches!(list.as_slice(), [Value::String(all)] if all == ALL) {
        return None;
    }
    let mut names = BTreeSet::new();
    for (nth, value) in list.iter().enumerate() {
        let at = format!("{key}[{nth}]");
        match value.as_str() {
            Some(ALL) => mistakes.add(at, "is all, beside others", "let \"*\" stand alone, or remove it"),
            Some(text) => match parse(text) {
                Ok(name) => _ = names.insert(name),
                Err(rule) => mistakes.add(at, format!("{text:?} {rule}"), remedy),
            },
            None => mistakes.add(at, "is no text", remedy),
        }
    }
    Some(names)
}

fn currencies(rule: &mut Table, at: &str, mistakes: &mut Mistakes) -> Option<BTreeMap<Currency, Bounds>> {
    let listed = rule.remove("currencies").map(|value| {
        let remedy = "name at least one currency, such as \"NOK\"; leave the key out for all";
        let codes = named(Some(value), &format!("{at}.currencies"), remedy, mistakes, |text| {
            text.parse::<Currency>().map_err(|invalid| invalid.to_string())
        });
        if codes.is_none() {
            mistakes.add(format!("{at}.currencies"), "is all", remedy);
        }
        codes.unwrap_or_default()
    });
    let mut by_currency = |value, key: &str| {
        let most = if key == "amount_max" { Amount::MAX.minor() } else { i64::MAX };
        amounts(value, (&format!("{at}.{key}"), most), listed.as_ref(), mistakes)
    };
    let amounts_max = by_currency(rule.remove("amount_max"), "amount_max");
    let days_max = by_currency(rule.remove("day_max"), "day_max");
    let bounds = |currency: Currency| {
        let (amount_max, day_max) = (amounts_max.get(&currency).copied(), days_max.get(&currency).copied());
        (currency, Bounds { amount_max, day_max })
    };
    listed.map(|listed| listed.into_iter().map(bounds).collect())
}

/// An amount for each of the currencies that the rule names.
fn amounts(
    value: Option<Value>,
    (key, most): (&str, i64),
    listed: Option<&BTreeSet<Currency>>,
    mistakes: &mut Mistakes,
) -> BTreeMap<Currency, i64> {
    let table = match value {
        None => return BTreeMap::new(),
        Some(Value::Table(table)) => table,
        Some(_) => {
            mistakes.add(key, "is no table", "write minor units by currency, such as { NOK = 1_000_000 }");
            return BTreeMap::new();
        }
    };
    let Some(listed) = listed else {
        mistakes.add(key, "is there without currencies", "list the same currencies in currencies");
        return BTreeMap::new();
    };
    for missing in listed.iter().filter(|currency| !table.contains_key(currency.as_str())) {
        mistakes.add(key, format!("has nothing for {missing}"), "give each currency of the rule an amount");
    }
    let mut amounts = BTreeMap::new();
    for (code, value) in table {
        let at = format!("{key}.{code}");
        match (code.parse::<Currency>(), value.as_integer().filter(|amount| (1..=most).contains(amount))) {
            (Ok(currency), Some(amount)) if listed.contains(&currency) => {
                _ = amounts.insert(currency, amount);
            }
            (Ok(currency), Some(_)) => {
                mistakes.add(
                    at,
                    format!("{currency} is not among the rule's currencies"),
                    "list it there, or remove it",
                );
            }
            (Err(invalid), _) => mistakes.add(at, format!("the key {invalid}"), "name a currency"),
            (_, None) => {
                mistakes.add(at, "is no amount", "write whole minor units, from 1 on, without quotes");
            }
        }
    }
    amounts
}

impl Callers {
    /// A `[[group]]`: rules for several callers, and for whomever an issuer admits.
    pub(super) fn add_group(
        &mut self,
        place: usize,
        entry: Value,
        lines: &Lines<'_>,
        mistakes: &mut Mistakes,
    ) {
        let at = format!("group[{place}]");
        let Value::Table(mut entry) = entry else {
            return mistakes.add(at, "is not a table", "write each one under its own [[group]]");
        };
        let name = match entry.remove("name") {
            Some(Value::String(name)) if is_name(&name) => name,
            found => {
                let problem = if found.is_some() { "is not a name" } else { "is missing" };
                mistakes.add(format!("{at}.name"), problem, super::NAME_REMEDY);
                String::new()
            }
        };
        if !name.is_empty() && !self.groups.insert(name.clone()) {
            mistakes.add(
                format!("{at}.name"),
                format!("{name:?} is declared twice"),
                "give each group its own name",
            );
        }
        let callers = members(entry.remove("callers"), &format!("{at}.callers"), mistakes);
        let issuers = members(entry.remove("issuers"), &format!("{at}.issuers"), mistakes);
        if callers.is_empty() && issuers.is_empty() {
            mistakes.add(at.clone(), "has no members", "list callers, or issuers that admit everybody");
        }
        let whose = Whose { table: "group", place, name: &name };
        let rules = rules(entry.remove("allow"), &whose, lines, mistakes);
        let pace = pace(&mut entry, &at, mistakes);
        let join = |rights: &mut Arc<Rights>| {
            let rights = Arc::make_mut(rights);
            rights.rules.extend(rules.iter().cloned());
            rights.pace = rights.pace.or(pace);
        };
        for (nth, member) in callers.iter().enumerate() {
            match self.rights.get_mut(member) {
                Some(rights) => join(rights),
                None => {
                    let problem = format!("{member:?} is no caller of this file");
                    mistakes.add(format!("{at}.callers[{nth}]"), problem, "declare it under [[caller]]");
                }
            }
        }
        for (nth, issuer) in issuers.iter().enumerate() {
            if self.issuers.settings(issuer).is_some_and(|settings| settings.admits_all) {
                join(self.admitted.entry(issuer.clone()).or_default());
            } else {
                let problem = format!("{issuer:?} is no issuer that admits everybody");
                let remedy =
                    "declare it under [[issuer]] with admit = \"all\", or list its callers in callers";
                mistakes.add(format!("{at}.issuers[{nth}]"), problem, remedy);
            }
        }
        unknown(&entry, &format!("{at}."), mistakes);
    }
}

fn members(value: Option<Value>, key: &str, mistakes: &mut Mistakes) -> Vec<String> {
    let names = match value {
        None => return Vec::new(),
        Some(Value::Array(list)) => {
            list.into_iter().map(|value| value.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        }
        Some(_) => None,
    };
    names.unwrap_or_else(|| {
        mistakes.add(key, "is no list of names", "list names in square brackets");
        Vec::new()
    })
}

#[cfg(test)]
mod tests;
