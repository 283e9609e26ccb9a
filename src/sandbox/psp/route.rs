//! From method and path to what is asked.

use http::Method;

use crate::sandbox::ledger::Kind;
use crate::sandbox::token::Scopes;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// `POST /v1/accounts/{account}/auth/token`
    Token { account: String },
    /// `GET …/transactions`
    List,
    /// `GET …/transactions/{id}`
    Get { transaction: String },
    /// `PUT …/transactions/{id}`
    Update { transaction: String },
    /// `POST …/transactions/{id}/capture`, `…/refund`, `…/void`
    Money { kind: Kind, transaction: String },
    /// `POST …/transactions/{id}/authorization`
    Authorization { transaction: String },
    /// `…/hooks/subscriptions…`
    Hooks(HooksCall),
    /// Anything else.
    Unknown,
}

/// What is asked of webhooks `[D 10.1]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HooksCall {
    /// `POST …/subscriptions`
    Subscribe,
    /// `DELETE …/subscriptions/{id}`
    Unsubscribe(String),
    /// `POST …/subscriptions/{id}/ping`
    Ping(String),
    /// `GET …/subscriptions/{id}/deliveries`
    Deliveries(String),
}

impl Call {
    /// Its name in the log and in faults.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Token { .. } => "token",
            Self::List => "list",
            Self::Get { .. } => "get",
            Self::Update { .. } => "update",
            Self::Money { kind, .. } => kind.name(),
            Self::Authorization { .. } => "authorization",
            Self::Hooks(_) => "hooks",
            Self::Unknown => "unknown",
        }
    }

    /// Whether a client with these scopes may ask for it `[D 2.4]`.
    pub fn may(&self, scopes: Scopes) -> bool {
        match self {
            Self::List | Self::Get { .. } => scopes.read,
            Self::Update { .. } | Self::Money { .. } => scopes.write,
            Self::Hooks(_) => scopes.hooks,
            Self::Authorization { .. } | Self::Token { .. } | Self::Unknown => true, // none is listed
        }
    }

    /// The transaction in its path.
    pub fn transaction(&self) -> Option<&str> {
        match self {
            Self::Get { transaction }
            | Self::Update { transaction }
            | Self::Money { transaction, .. }
            | Self::Authorization { transaction } => Some(transaction),
            Self::Token { .. } | Self::List | Self::Hooks(_) | Self::Unknown => None,
        }
    }
}

/// What is asked, and the account in the path: of webhooks, and of the newer base `/v1/accounts/{account}/payments`
/// `[D 12 #23]`.
pub fn route(method: &Method, path: &str) -> (Call, Option<String>) {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let (rest, account) = match parts.as_slice() {
        ["v1", "accounts", account, "auth", "token"] if method == Method::POST => {
            return (Call::Token { account: (*account).to_owned() }, None);
        }
        ["v1", "accounts", account, "payments", "transactions", rest @ ..] => {
            (rest, Some((*account).to_owned()))
        }
        ["v1", "accounts", account, "hooks", "subscriptions", rest @ ..] => {
            return (hooks(method, rest), Some((*account).to_owned()));
        }
        ["v1", "transactions", rest @ ..] => (rest, None),
        _ => return (Call::Unknown, None),
    };
    let call = match (method.as_str(), rest) {
        ("GET", []) => Call::List,
        ("GET", [id]) => Call::Get { transaction: (*id).to_owned() },
        ("PUT", [id]) => Call::Update { transaction: (*id).to_owned() },
        ("POST", [id, "authorization"]) => Call::Authorization { transaction: (*id).to_owned() },
        ("POST", [id, operation]) => match Kind::named(operation) {
            Some(kind) => Call::Money { kind, transaction: (*id).to_owned() },
            None => Call::Unknown,
        },
        _ => Call::Unknown,
    };
    (call, account)
}

fn hooks(method: &Method, rest: &[&str]) -> Call {
    let call = match (method.as_str(), rest) {
        ("POST", []) => HooksCall::Subscribe,
        ("DELETE", [id]) => HooksCall::Unsubscribe((*id).to_owned()),
        ("POST", [id, "ping"]) => HooksCall::Ping((*id).to_owned()),
        ("GET", [id, "deliveries"]) => HooksCall::Deliveries((*id).to_owned()),
        _ => return Call::Unknown,
    };
    Call::Hooks(call)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bases_lead_to_the_same_operation() {
        let call = Call::Money { kind: Kind::Void, transaction: "T12345678.x".to_owned() };
        assert_eq!(route(&Method::POST, "/v1/transactions/T12345678.x/void"), (call.clone(), None));
        let newer = "/v1/accounts/T12345678/payments/transactions/T12345678.x/void";
        assert_eq!(route(&Method::POST, newer), (call, Some("T12345678".to_owned())));
    }

    #[test]
    fn anything_else_is_unknown() {
        for (method, path) in [
            (Method::POST, "/v1/transactions/T12345678.x/settle"),
            (Method::GET, "/v1/transactions/T12345678.x/capture"),
            (Method::DELETE, "/v1/transactions/T12345678.x"),
            (Method::GET, "/"),
        ] {
            assert_eq!(route(&method, path).0, Call::Unknown, "{method} {path}");
        }
    }
}
