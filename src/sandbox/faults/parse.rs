//! Reading a fault from the admin API.

use std::time::Duration;

use http::StatusCode;

use super::{Admission, Application, Delivery, Fault, Hook, Target, Waiting};
use crate::sandbox::failure::Failure;
use crate::sandbox::fields::{Fields, Invalid, required};
use crate::sandbox::ledger::{Completion, Outcome};
use crate::sandbox::wire::INT32_MAX;

/// Every fault by name.
const NAMES: [&str; 32] = [
    "answer_lost_before_applying",
    "answer_lost_after_applying",
    "delayed_answer",
    "delayed_application",
    "unavailable_after_applying",
    "internal_error",
    "unauthorized_once",
    "rate_limited",
    "success_false",
    "accepted_then",
    "wrong_amount",
    "correction_contradicting",
    "read_lag",
    "duplicate_application",
    "backoffice_capture_before",
    "event_without_reference",
    "unknown_enum_values",
    "html_instead_of_json",
    "reset_at_byte",
    "declined",
    "conflict_409",
    "redirect",
    "huge_body",
    "truncated_json",
    "slow_drip",
    "bad_request",
    "not_found",
    "forbidden",
    "webhook_lost",
    "webhook_duplicated",
    "webhook_wrong_signature",
    "webhook_early",
];

/// The longest delay of any fault: a day, in milliseconds.
const DELAY_MS_MAX: u64 = 86_400_000;

/// The largest body of any fault: 1 GiB.
const BYTES_MAX: u64 = 1 << 30;

/// Reads `POST /sandbox/v1/faults`.
pub fn parse(mut fields: Fields) -> Result<Waiting, Invalid> {
    let asked = fields.object().clone();
    let target = fields.choice("operation", &Target::NAMES)?;
    let target = Target(required("operation", target, "say which requests it strikes, or any")?);
    let name = required("fault", fields.choice("fault", &NAMES)?, "name the fault")?;
    let transaction = fields.text("transaction")?;
    let skip = fields.count("skip", 0, u64::MAX)?;
    let threshold = probability(&mut fields)?;
    let times = fields.value("times");
    let left = match (times, threshold) {
        (None, Some(_)) => None,
        (None, None) => Some(1),
        (Some(times), _) => {
            let times = times.as_u64().filter(|times| *times > 0);
            Some(times.ok_or_else(|| Invalid::new("times", "send an integer from 1"))?)
        }
    };
    let fault = fault(name, &mut fields)?;
    if matches!(fault, Fault::Application(_) | Fault::ReadLag(_) | Fault::Hook(_)) && !target.moves_money() {
        return Err(Invalid::new("operation", format!("{name} strikes capture, refund, void, money or any")));
    }
    fields.finish()?;
    Ok(Waiting { target, transaction, skip, left, threshold, name, fault, asked })
}

fn fault(name: &str, fields: &mut Fields) -> Result<Fault, Invalid> {
    Ok(match name {
        "answer_lost_before_applying" => Fault::Admission(Admission::Lost(reset(fields)?)),
        "answer_lost_after_applying" => Fault::Delivery(Delivery::Lost(reset(fields)?)),
        "delayed_answer" => Fault::Delivery(Delivery::Delayed(delay(fields, "delay_ms", 1_000)?)),
        "delayed_application" => {
            let delay = delay(fields, "delay_ms", 1_000)?;
            let answer = fields.value("status").map(|value| read_status(&value, 500..=599)).transpose()?;
            Fault::Admission(Admission::Delayed { delay, answer })
        }
        "unavailable_after_applying" => {
            let (status, code, message) = error(fields, StatusCode::SERVICE_UNAVAILABLE, 500..=599)?;
            Fault::Delivery(Delivery::Error { status, code, message })
        }
        "internal_error" => {
            let (status, code, message) = error(fields, StatusCode::INTERNAL_SERVER_ERROR, 500..=599)?;
            if fields.flag("applied")?.unwrap_or(false) {
                Fault::Delivery(Delivery::Error { status, code, message })
            } else {
                Fault::Admission(Admission::Refused { status, code, message })
            }
        }
        "unauthorized_once" => refused(fields, StatusCode::UNAUTHORIZED)?,
        "bad_request" => refused(fields, StatusCode::BAD_REQUEST)?,
        "forbidden" => refused(fields, StatusCode::FORBIDDEN)?,
        "not_found" => refused(fields, StatusCode::NOT_FOUND)?,
        "conflict_409" => refused(fields, StatusCode::CONFLICT)?,
        "rate_limited" => {
            let retry_after = fields.count("retry_after", 1, 86_400)?;
            let http_date = fields.flag("http_date")?.unwrap_or(false);
            Fault::Admission(Admission::RateLimited { retry_after, http_date })
        }
        "redirect" => {
            let status = status(fields, StatusCode::TEMPORARY_REDIRECT, 300..=399)?;
            let location = fields.text("location")?;
            let plain = location
                .as_deref()
                .is_none_or(|location| location.bytes().all(|byte| byte.is_ascii_graphic()));
            if !plain {
                return Err(Invalid::new("location", "send a URL or a path, escaped"));
            }
            Fault::Admission(Admission::Redirect { status, location })
        }
        "read_lag" => Fault::ReadLag(delay(fields, "delay_ms", 1_000)?),
        "unknown_enum_values" => Fault::Delivery(Delivery::UnknownEnumValues),
        "html_instead_of_json" => Fault::Delivery(Delivery::Html(status(fields, StatusCode::OK, 200..=599)?)),
        "reset_at_byte" => Fault::Delivery(Delivery::ResetAtByte(bytes(fields, "byte", 0, 0)?)),
        "huge_body" => Fault::Delivery(Delivery::HugeBody(bytes(fields, "bytes", 64 << 20, 0)?)),
        "truncated_json" => Fault::Delivery(Delivery::TruncatedJson),
        "slow_drip" => {
            let (bytes, pause) = (bytes(fields, "bytes", 16, 1)?, delay(fields, "delay_ms", 100)?);
            Fault::Delivery(Delivery::SlowDrip { bytes, pause })
        }
        "webhook_lost" => Fault::Hook(Hook::Lost),
        "webhook_duplicated" => Fault::Hook(Hook::Duplicated),
        "webhook_wrong_signature" => Fault::Hook(Hook::WrongSignature),
        "webhook_early" => Fault::Hook(Hook::Early(delay(fields, "delay_ms", 1_000)?)),
        _ => Fault::Application(application(name, fields)?),
    })
}

fn application(name: &str, fields: &mut Fields) -> Result<Application, Invalid> {
    Ok(match name {
        "success_false" => {
            let status = status(fields, StatusCode::OK, 200..=599)?;
            let failure = Failure::read(fields, Failure::declined())?;
            Application::Fails { failure, status }
        }
        "declined" => {
            let status = status(fields, StatusCode::BAD_REQUEST, 400..=499)?;
            let leave_failed_event = fields.flag("leave_failed_event")?.unwrap_or(false);
            let failure = Failure::read(fields, Failure::declined())?;
            let code = failure.code.clone().unwrap_or_else(|| "DECLINED".to_owned());
            Application::Declined { status, code, failure, leave_failed_event }
        }
        "accepted_then" => {
            let outcome = fields.choice("outcome", &["done", "failed", "never"])?;
            let outcome = match required("outcome", outcome, "send done, failed or never")? {
                "failed" => Outcome::Failed(Failure::read(fields, Failure::timed_out())?),
                "never" => Outcome::Never,
                _ => Outcome::Done,
            };
            Application::AcceptedThen(Completion { outcome, after: delay(fields, "delay_ms", 1_000)? })
        }
        "wrong_amount" => Application::WrongAmount(amount(fields)?),
        "backoffice_capture_before" => Application::BackofficeCaptureBefore(amount(fields)?),
        "correction_contradicting" => Application::Contradicting(fields.flag("success")?.unwrap_or(true)),
        "duplicate_application" => {
            let first = fields.choice("answer", &["first", "second"])? == Some("first");
            Application::Duplicate(first)
        }
        _ => Application::WithoutReference, // NAMES leaves only event_without_reference
    })
}

/// Parts of 2^32: the one place where the sandbox reads a fraction, and it is no money.
#[expect(clippy::float_arithmetic, clippy::as_conversions, reason = "a probability; the cast saturates")]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be within 0 and 1")]
fn probability(fields: &mut Fields) -> Result<Option<u64>, Invalid> {
    let Some(value) = fields.value("probability") else { return Ok(None) };
    let share = value.as_f64().filter(|share| (0.0..=1.0).contains(share));
    let share = share.ok_or_else(|| Invalid::new("probability", "send a number from 0 to 1"))?;
    Ok(Some((share * 4_294_967_296.0) as u64))
}

fn refused(fields: &mut Fields, status: StatusCode) -> Result<Fault, Invalid> {
    let code = fields.text("code")?.unwrap_or_else(|| default_code(status));
    let message = fields.text("message")?;
    let message = message.unwrap_or_else(|| status.canonical_reason().unwrap_or("Refused").to_owned());
    Ok(Fault::Admission(Admission::Refused { status, code, message }))
}

fn error(
    fields: &mut Fields,
    default: StatusCode,
    within: std::ops::RangeInclusive<u64>,
) -> Result<(StatusCode, String, String), Invalid> {
    let status = status(fields, default, within)?;
    let code = fields.text("code")?.unwrap_or_else(|| default_code(status));
    let reason = || status.canonical_reason().unwrap_or("Error").to_owned();
    Ok((status, code, fields.text("message")?.unwrap_or_else(reason)))
}

fn default_code(status: StatusCode) -> String {
    status.canonical_reason().unwrap_or("ERROR").to_uppercase()
}

fn status(
    fields: &mut Fields,
    default: StatusCode,
    within: std::ops::RangeInclusive<u64>,
) -> Result<StatusCode, Invalid> {
    fields.value("status").map_or(Ok(default), |value| read_status(&value, within))
}

fn read_status(
    value: &serde_json::Value,
    within: std::ops::RangeInclusive<u64>,
) -> Result<StatusCode, Invalid> {
    let number = value.as_u64().filter(|number| within.contains(number));
    let status = number.and_then(|number| u16::try_from(number).ok());
    let status = status.and_then(|number| StatusCode::from_u16(number).ok());
    let remedy = || format!("send an HTTP status from {} to {}", within.start(), within.end());
    status.ok_or_else(|| Invalid::new("status", remedy()))
}

fn amount(fields: &mut Fields) -> Result<i64, Invalid> {
    required("amount", fields.integer("amount", 1..=INT32_MAX)?, "send minor units")
}

fn reset(fields: &mut Fields) -> Result<bool, Invalid> {
    Ok(fields.choice("by", &["close", "reset"])? == Some("reset"))
}

fn delay(fields: &mut Fields, name: &'static str, default: u64) -> Result<Duration, Invalid> {
    Ok(Duration::from_millis(fields.count(name, default, DELAY_MS_MAX)?))
}

fn bytes(fields: &mut Fields, name: &'static str, default: u64, least: u64) -> Result<usize, Invalid> {
    let count = fields.count(name, default, BYTES_MAX)?;
    let bytes = usize::try_from(count).ok().filter(|_| count >= least);
    bytes.ok_or_else(|| Invalid::new(name, format!("send an integer from {least}")))
}
