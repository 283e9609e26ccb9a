//! `GET …/transactions` `[D 6.2]`: a bare array, paged by id, filtered.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use serde_json::Value;

use crate::sandbox::ledger::{Ledger, Transaction};
use crate::sandbox::products::product;
use crate::sandbox::state::Now;
use crate::sandbox::token::Bearer;
use crate::sandbox::wire::Refusal;

/// Filters by what the sandbox's transactions do not have: none passes.
const ABSENT: [&str; 8] = [
    "card_brand",
    "store_id",
    "terminal_id",
    "payout_correlation_id",
    "payout_destination_id",
    "payment_operation",
    "customer_id",
    "token_id",
];

type Query = [(String, String)];

/// The account's transactions that pass every filter, the newest first.
pub fn list(ledger: &Ledger, bearer: &Bearer, query: &Query, now: Now) -> Result<Value, Refusal> {
    let filters = Filters::read(query).map_err(Refusal::bad_request)?;
    let mut found = ledger
        .newest_first()
        .filter(|transaction| transaction.opening.account == bearer.account)
        .skip_while(|transaction| filters.after.as_ref().is_some_and(|after| *after != transaction.id));
    if filters.after.is_some() && found.next().is_none() {
        return Err(Refusal::bad_request("starting_after names no transaction of the account"));
    }
    let page = found.filter(|transaction| filters.pass(transaction, now)).take(filters.limit);
    Ok(page.map(|transaction| include(transaction.shown(now.instant), query)).collect())
}

/// Applies `includes=events.success.true`, which leaves failed events out. Other values change nothing here.
pub fn include(mut transaction: Value, query: &Query) -> Value {
    let only_successful = values(query, "includes").any(|value| value == "events.success.true");
    if only_successful && let Some(Value::Array(events)) = transaction.get_mut("events") {
        events.retain(|event| event.get("success").and_then(Value::as_bool) != Some(false));
    }
    transaction
}

struct Filters<'a> {
    query: &'a Query,
    limit: usize,
    after: Option<String>,
    amount: (Option<i64>, Option<i64>, Option<i64>),
    created: Range,
    captured: Range,
    refunded: Range,
}

#[derive(Clone, Copy)]
struct Range(Option<Timestamp>, Option<Timestamp>);

impl<'a> Filters<'a> {
    fn read(query: &'a Query) -> Result<Self, String> {
        let limit = match integer(query, "limit")? {
            None => 10,
            Some(limit) => usize::try_from(limit)
                .ok()
                .filter(|limit| (1..=100).contains(limit))
                .ok_or("limit is 1 to 100")?,
        };
        Ok(Self {
            query,
            limit,
            after: values(query, "starting_after").next().map(str::to_owned),
            amount: (integer(query, "amount")?, integer(query, "amount.gte")?, integer(query, "amount.lte")?),
            created: Range::read(query, "created_at.gte", "created_at.lte")?,
            captured: Range::read(query, "captured_at.gte", "captured_at.lte")?,
            refunded: Range::read(query, "refunded_at.gte", "refunded_at.lte")?,
        })
    }

    fn pass(&self, transaction: &Transaction, now: Now) -> bool {
        let opening = &transaction.opening;
        let (exact, least, most) = self.amount;
        let equal = [
            ("id", Some(transaction.id.as_str())),
            ("status", Some(&*transaction.status_shown(now.instant))),
            ("payment_product", Some(product(&opening.product_type))),
            ("payment_product_type", Some(&*opening.product_type)),
            ("merchant_reference", opening.merchant_reference.as_deref()),
            ("merchant_reference_2", opening.merchant_reference_2.as_deref()),
            ("session_id", Some(transaction.session_id())),
            ("currency", Some(&*opening.currency)),
            ("channel", Some("ecommerce")),
        ]
        .into_iter()
        .chain(ABSENT.map(|name| (name, None)))
        .all(|(name, value)| self.one_of(name, value));
        equal
            && exact.is_none_or(|amount| opening.amount == amount)
            && least.is_none_or(|amount| opening.amount >= amount)
            && most.is_none_or(|amount| opening.amount <= amount)
            && self.created.holds(&[transaction.created_at])
            && self.captured.holds(&transaction.captured_at)
            && self.refunded.holds(&transaction.refunded_at)
            && self.found(transaction)
    }

    /// Without the filter, or where one of its values is this one.
    fn one_of(&self, name: &str, value: Option<&str>) -> bool {
        let mut wanted = values(self.query, name).peekable();
        wanted.peek().is_none() || wanted.any(|wanted| Some(wanted) == value)
    }

    /// `search` matches ids and merchant references; the sandbox has no customers to search.
    fn found(&self, transaction: &Transaction) -> bool {
        let opening = &transaction.opening;
        let places = [
            Some(transaction.id.as_str()),
            Some(transaction.session_id()),
            opening.merchant_reference.as_deref(),
            opening.merchant_reference_2.as_deref(),
        ];
        values(self.query, "search").all(|search| places.iter().flatten().any(|place| place.contains(search)))
    }
}

impl Range {
    fn read(query: &Query, from: &str, to: &str) -> Result<Self, String> {
        let time = |name: &str, shift: i64| {
            let text = values(query, name).next();
            text.map(|text| instant(text, shift).ok_or(format!("{name} must be ISO 8601"))).transpose()
        };
        Ok(Self(time(from, 0)?, time(to, 1)?))
    }

    fn holds(self, times: &[Timestamp]) -> bool {
        let within =
            |time: &Timestamp| self.0.is_none_or(|from| *time >= from) && self.1.is_none_or(|to| *time <= to);
        (self.0.is_none() && self.1.is_none()) || times.iter().any(within)
    }
}

/// ISO 8601, UTC if no zone is given. A date alone is shifted by so many days, as documented for upper bounds.
fn instant(text: &str, shift: i64) -> Option<Timestamp> {
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Some(instant);
    }
    let date_only = !text.contains(['T', 't', ' ']);
    let civil = if date_only {
        text.parse::<Date>().ok()?.checked_add(shift.days()).ok()?.at(0, 0, 0, 0)
    } else {
        text.parse::<DateTime>().ok()?
    };
    Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

fn values<'a>(query: &'a Query, name: &str) -> impl Iterator<Item = &'a str> {
    query.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
}

fn integer(query: &Query, name: &str) -> Result<Option<i64>, String> {
    let text = values(query, name).next();
    text.map(|text| text.parse().map_err(|_| format!("{name} must be an integer"))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_alone_as_an_upper_bound_covers_its_day() {
        assert_eq!(instant("2026-05-04", 1), Some("2026-05-05T00:00:00Z".parse().unwrap()));
        assert_eq!(instant("2026-05-04", 0), Some("2026-05-04T00:00:00Z".parse().unwrap()));
        assert_eq!(instant("2026-05-04T10:00:00", 1), Some("2026-05-04T10:00:00Z".parse().unwrap()));
        assert_eq!(instant("yesterday", 0), None);
    }
}
