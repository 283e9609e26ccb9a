//! An operation that the provider refuses: what its event says, and how an admin asks for it.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::fields::{Fields, Invalid};
use super::wire::{Object, time};

/// The documented values of `error.type` `[D 5.1]`.
const TYPES: [&str; 17] = [
    "ERROR",
    "DECLINED",
    "ISSUER_ERROR",
    "PICK_UP_CARD",
    "INVALID_MERCHANT",
    "INVALID_TRANSACTION",
    "INVALID_AMOUNT",
    "INSUFFICIENT_FUNDS",
    "CLOSED_ACCOUNT",
    "EXPIRED_CARD",
    "EXCEEDS_APPROVAL_LIMIT",
    "EXCEEDS_WITHDRAWAL_FREQUENCY_LIMIT",
    "RESTRICTED_CARD",
    "PIN_REQUIRED",
    "FAILED_VERIFICATION",
    "ADDITIONAL_VERIFICATION_REQUIRED",
    "UNKNOWN",
];

/// The documented values of `error.retry_policy.retry_codes` `[D 5.1]`.
const RETRY_CODES: [&str; 3] = ["DO_NOT_RETRY", "RETRY_IMMEDIATELY", LATER];

/// The only retry code that comes with a time `[D 5.1]`.
const LATER: &str = "RETRY_AFTER_DELAY";

/// How far ahead that time is. In Dintero's example it is some minutes.
const RETRY_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// An operation that the provider refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `error.message`.
    pub message: String,
    /// `error.type` is an array; the sandbox puts one in.
    pub error_type: String,
    /// `error.code`.
    pub code: Option<String>,
    /// `error.result_code`: what the card scheme says.
    pub result_code: Option<String>,
    /// One of the documented retry codes.
    pub retry_code: Option<String>,
    /// The event also carries a `correction`, which tells the unchanged state.
    pub correction: bool,
}

impl Failure {
    /// Not a clear no: what the test cards say `[D 9]`, and an accepted operation that fails.
    pub fn timed_out() -> Self {
        Self::new("Operation timed out", "ERROR")
    }

    /// A clear no.
    pub fn declined() -> Self {
        Self::new("Declined by the provider", "DECLINED")
    }

    fn new(message: &str, error_type: &str) -> Self {
        let (code, result_code, retry_code) = (None, None, None);
        let (message, error_type) = (message.to_owned(), error_type.to_owned());
        Self { message, error_type, code, result_code, retry_code, correction: false }
    }

    /// Reads it from the admin API; what is not sent is as in `otherwise`.
    pub fn read(fields: &mut Fields, otherwise: Self) -> Result<Self, Invalid> {
        let error_type = fields.choice("error_type", &TYPES)?;
        Ok(Self {
            message: fields.text("message")?.unwrap_or(otherwise.message),
            error_type: error_type.map_or(otherwise.error_type, str::to_owned),
            code: fields.text("code")?,
            result_code: fields.text("result_code")?,
            retry_code: fields.choice("retry_code", &RETRY_CODES)?.map(str::to_owned),
            correction: fields.flag("correction")?.unwrap_or(false),
        })
    }

    /// The event's `error` `[D 5.1]`.
    pub fn error(&self, now: Timestamp) -> Value {
        let mut error = Object::new();
        error.insert("message".to_owned(), self.message.clone().into());
        error.insert("type".to_owned(), json!([self.error_type]));
        for (name, value) in [("code", &self.code), ("result_code", &self.result_code)] {
            if let Some(value) = value {
                error.insert(name.to_owned(), value.clone().into());
            }
        }
        if let Some(code) = &self.retry_code {
            let at = time(now.checked_add(RETRY_AFTER).unwrap_or(now));
            let codes = json!({ "retry_codes": [code] });
            let policy =
                if code == LATER { json!({ "retry_codes": [code], "retry_after": at }) } else { codes };
            error.insert("retry_policy".to_owned(), policy);
        }
        Value::Object(error)
    }
}
