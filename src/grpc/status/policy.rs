//! What those hear who are known, and may not.

use super::{Code, Duration, Status, Told};
use crate::failure::Beyond;
use crate::payment::permit::Denied;
use crate::policy::pace::{Rate, Throttled};

/// Policy says no before anything was looked up: the key may belong to a
/// command that has run.
pub fn denied(denied: &Denied, money: bool, trace_id: &str) -> Status {
    let told = told_denied(denied);
    let told = if money { told.safe_to_use_new_key(false) } else { told };
    told.into_status(trace_id)
}

pub(super) fn told_denied(denied: &Denied) -> Told {
    let reason = match denied {
        Denied::Rpc(_) => "RPC_NOT_ALLOWED",
        Denied::Account { .. } => "ACCOUNT_NOT_ALLOWED",
        Denied::Currency { .. } => "CURRENCY_NOT_ALLOWED",
        Denied::Amount { .. } => "AMOUNT_LIMIT",
    };
    let told = Told::new(Code::PermissionDenied, reason, denied.to_string());
    match denied {
        Denied::Rpc(rpc) => told.with("rpc", rpc),
        Denied::Account { rpc, account } => told.with("rpc", rpc).with("account", account),
        Denied::Currency { rpc, currency } => told.with("rpc", rpc).with("currency", currency),
        Denied::Amount { rpc, currency, max } => {
            told.with("rpc", rpc).with("currency", currency).with("amount_max", max)
        }
    }
}

/// Another day, the same key may be used.
pub(super) fn told_beyond(beyond: &Beyond) -> Told {
    let Beyond { tally, max, left, ends_at } = beyond;
    let (kind, account, currency) = (tally.kind, &tally.account, &tally.currency);
    let ends = jiff::Timestamp::from_millisecond(ends_at.0).map(|at| at.to_string()).unwrap_or_default();
    let message = format!(
        "the rules of the callers file allow this caller {max} minor units of {currency} a day, for each {kind} on \
         account {account} together: {left} are left until {ends}"
    );
    Told::new(Code::PermissionDenied, "DAILY_LIMIT", message)
        .with("rpc", crate::policy::Rpc::of(kind))
        .with("account", account)
        .with("currency", currency)
        .with("day_max", max)
        .with("left", left)
        .with("day_ends", ends)
}

/// Who calls too fast, or has too much under way. Its key was not looked up.
pub fn throttled(throttled: Throttled, money: bool, trace_id: &str) -> Status {
    let told = |message: String| Told::new(Code::ResourceExhausted, "CALLER_RATE_LIMIT", message);
    let told = match throttled {
        Throttled::Rate { rate: Rate { per_second, burst }, retry_after } => {
            let message = format!(
                "this caller may make {per_second} requests a second, and {burst} at once; nothing was sent, retry with \
                 the same key"
            );
            let told = told(message).with("requests_per_second", per_second);
            // Not at the very moment: others of this caller wait for it as well.
            told.retry(retry_after.max(Duration::from_millis(50)))
        }
        Throttled::InFlight { max } => {
            let message = format!(
                "this caller may have {max} requests under way at once, with those that it no longer waits for; \
                 nothing was sent, retry with the same key"
            );
            told(message).with("in_flight_max", max).retry(Duration::from_millis(500))
        }
    };
    let told = if money { told.safe_to_use_new_key(false) } else { told };
    told.into_status(trace_id)
}
