//! What those hear who are not let in.

use super::{Code, Duration, Status, Told};

/// Why nobody is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// There are none.
    Missing,
    /// They are not usable, for this reason.
    Invalid(&'static str),
    /// The token was usable once.
    Expired,
    /// Whether they are usable cannot be told: the token's issuer is not to be asked.
    IssuerUnavailable {
        /// When to ask again.
        retry_after: Duration,
    },
}

/// Nobody that is known. Who is not known cannot be told anything about a key.
pub fn unauthenticated(why: Credentials, trace_id: Option<&str>) -> Status {
    let told = match why {
        Credentials::Missing => {
            let message =
                "no credentials: send metadata authorization: Bearer <token>, or show a certificate";
            Told::new(Code::Unauthenticated, "CREDENTIALS_MISSING", message)
        }
        Credentials::Invalid(why) => {
            let message = format!("the credentials are not usable: {why}");
            Told::new(Code::Unauthenticated, "CREDENTIALS_INVALID", message)
        }
        Credentials::Expired => {
            let message = "the token has expired: get a new one and retry with the same key";
            Told::new(Code::Unauthenticated, "CREDENTIALS_EXPIRED", message)
        }
        // Not the caller's fault: a new token would be no better.
        Credentials::IssuerUnavailable { retry_after } => {
            let message = "the token cannot be verified now, as its issuer does not answer; nothing was sent, \
                           retry with the same key";
            Told::new(Code::Unavailable, "ISSUER_UNAVAILABLE", message).retry(retry_after)
        }
    };
    told.safe_to_use_new_key(false).into_status(trace_id.unwrap_or_default())
}
