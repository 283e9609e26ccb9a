//! The Dintero client. One attempt is one request, written once; nothing here
//! repeats a POST, follows a redirect, or takes a status code for a proof.

pub mod token;
pub mod transport;
pub mod wire;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::config::{Account, Psp as Settings};
use crate::payment::{Command, id::AccountId, id::TransactionId, outcome::PspError};
use crate::psp::dintero::token::{Token, Tokens};
use crate::psp::dintero::transport::{Transport, TransportError};
use crate::psp::transaction::Transaction;
use crate::psp::{Moved, NotSent, Page, Psp, ReadError, Received, SYSTEM_NAME};

const SYSTEM_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Longest wait that a `Retry-After` of the PSP can ask of us.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);

/// A client for the accounts of this boundary.
pub struct Dintero<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    transport: T,
    accounts: HashMap<AccountId, Arc<Tokens<T>>>,
    /// Base URL and path prefix, without a slash at the end.
    transactions: String,
    settings: Settings,
    clock: Clock,
}

/// A request that is complete, with the token that fences it.
pub struct Prepared {
    request: Request<Bytes>,
    account: AccountId,
    token: Arc<Token>,
    clock: Clock,
}

impl<T: Transport> Dintero<T> {
    /// A client for `accounts` over `transport`, which sends only with tokens
    /// that live `token_life_min` yet.
    pub fn new(
        settings: &Settings,
        accounts: &[Account],
        token_life_min: Duration,
        transport: &T,
        clock: &Clock,
    ) -> Self {
        let tokens = |account: &Account| {
            let tokens = Tokens::new(settings, account, token_life_min, transport.clone(), clock.clone());
            (account.id.clone(), Arc::new(tokens))
        };
        let base = settings.base_url.as_str().trim_end_matches('/');
        let prefix = settings.path_prefix.trim_end_matches('/');
        Self {
            shared: Arc::new(Shared {
                transport: transport.clone(),
                accounts: accounts.iter().map(tokens).collect(),
                transactions: format!("{base}{prefix}/transactions"),
                settings: settings.clone(),
                clock: clock.clone(),
            }),
        }
    }

    /// Each account with how long its token surely lives, or with what its token
    /// endpoint last said.
    pub async fn credentials(&self) -> Vec<(AccountId, Result<Duration, NotSent>)> {
        let mut states = Vec::with_capacity(self.shared.accounts.len());
        for (account, tokens) in &self.shared.accounts {
            states.push((
                account.clone(),
                tokens.get().await.map(|token| token.life_left_at_least(self.shared.clock.boot())),
            ));
        }
        states
    }

    fn tokens(&self, account: &AccountId) -> Result<&Arc<Tokens<T>>, NotSent> {
        self.shared.accounts.get(account).ok_or(NotSent::UnknownAccount)
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        agent: &str,
        token: &Token,
    ) -> Result<Request<Bytes>, http::Error> {
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let mut bearer =
            HeaderValue::try_from(&*Zeroizing::new(format!("Bearer {}", token.bearer.expose_secret())))?;
        bearer.set_sensitive(true);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.shared.transactions))
            .header(header::AUTHORIZATION, bearer)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, agent)
            .header("dintero-system-name", SYSTEM_NAME)
            .header("dintero-system-version", SYSTEM_VERSION);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        request.body(bytes)
    }

    /// What a GET of `path` below the transactions answers.
    async fn get(&self, account: &AccountId, path: &str) -> Result<Bytes, ReadError> {
        let tokens = self.tokens(account).map_err(ReadError::NotSent)?;
        let token = tokens.get().await.map_err(ReadError::NotSent)?;
        let mut answer = self.get_with(&token, path).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            // A read may be repeated: nothing moves.
            tokens.reject(&token);
            let token = tokens.get().await.map_err(ReadError::NotSent)?;
            answer = self.get_with(&token, path).await?;
        }
        match answer.status() {
            StatusCode::OK => Ok(answer.into_body()),
            StatusCode::NOT_FOUND => Err(ReadError::NotFound),
            StatusCode::FORBIDDEN => Err(ReadError::Forbidden),
            StatusCode::UNAUTHORIZED => {
                Err(ReadError::NotSent(NotSent::CredentialsRejected("a fresh token is refused".to_owned())))
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let retry_after = retry_after(answer.headers()).unwrap_or(Duration::from_secs(1));
                Err(ReadError::NotSent(NotSent::RateLimited { retry_after }))
            }
            status => Err(ReadError::Unreadable(format!("HTTP {}", status.as_u16()))),
        }
    }

    async fn get_with(&self, token: &Token, path: &str) -> Result<Response<Bytes>, ReadError> {
        let agent = format!("{SYSTEM_NAME}/{SYSTEM_VERSION}");
        let request = self
            .request(Method::GET, path, None, &agent, token)
            .map_err(|error| ReadError::Unreadable(error.to_string()))?;
        self.shared.transport.send(request, self.shared.settings.read_timeout).await.map_err(|error| {
            match error {
                TransportError::NotSent(why) => ReadError::NotSent(NotSent::Unreachable(why)),
                TransportError::Unknown(why) => ReadError::Unreadable(why),
            }
        })
    }
}

impl<T: Transport> Psp for Dintero<T> {
    type Prepared = Prepared;

    async fn prepare(&self, command: &Command) -> Result<Prepared, NotSent> {
        let operation = &command.operation;
        let tag = command.tag();
        let account = operation.transaction.account();
        let token = self.tokens(&account)?.get().await?;
        let path = format!("/{}/{}", operation.transaction, operation.kind());
        let body = wire::body(operation, &tag);
        // A void has no body, so no field for the mark: the user agent is the
        // only echo that covers it [D 5.2].
        let agent = format!("{SYSTEM_NAME}/{SYSTEM_VERSION} operation/{tag}");
        let request = self
            .request(Method::POST, &path, body.as_ref(), &agent, &token)
            .map_err(|error| NotSent::Unreachable(format!("the request cannot be built: {error}")))?;
        Ok(Prepared { request, account, token, clock: self.shared.clock.clone() })
    }

    async fn send(&self, prepared: Prepared) -> Received {
        let Prepared { request, account, token, .. } = prepared;
        let wait = self.shared.settings.late_answer_timeout;
        let received = match self.shared.transport.send(request, wait).await {
            Ok(answer) => understand(&answer),
            Err(TransportError::NotSent(why)) => Received::NotSent(why),
            Err(TransportError::Unknown(why)) if wrong!(ResendOnIncomplete) && why.contains("incomplete") => {
                Received::NotSent(why)
            }
            Err(TransportError::Unknown(why)) => Received::Unknown(why),
        };
        if received == Received::Unauthorized
            && let Some(tokens) = self.shared.accounts.get(&account)
        {
            tokens.reject(&token);
        }
        received
    }

    async fn read(&self, id: &TransactionId) -> Result<Transaction, ReadError> {
        let body = self.get(&id.account(), &format!("/{id}")).await?;
        let transaction = wire::transaction(&body).map_err(ReadError::Unreadable)?;
        is_about(transaction, id)
    }

    async fn list(&self, page: &Page) -> Result<Vec<TransactionId>, ReadError> {
        let body = self.get(&page.account, &query(page)).await?;
        wire::ids(&body).map_err(ReadError::Unreadable)
    }

    fn serves(&self, transaction: &TransactionId) -> bool {
        self.shared.accounts.contains_key(&transaction.account())
    }
}

impl<T> Clone for Dintero<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl super::Prepared for Prepared {
    fn life_left(&self) -> Duration {
        self.token.life_left_at_most(self.clock.boot())
    }
}

/// What one answer to a POST means.
fn understand(answer: &Response<Bytes>) -> Received {
    let status = answer.status();
    match status {
        StatusCode::OK | StatusCode::ACCEPTED => match wire::transaction(answer.body()) {
            Ok(transaction) => {
                let id = answer.headers().get("event-request-id").and_then(|id| id.to_str().ok());
                let accepted_request_id =
                    id.filter(|id| status == StatusCode::ACCEPTED && (1..=128).contains(&id.len()));
                Received::Answered {
                    transaction: Box::new(transaction),
                    accepted_request_id: accepted_request_id.map(str::to_owned),
                }
            }
            Err(why) => Received::Unknown(format!("HTTP {}: {why}", status.as_u16())),
        },
        StatusCode::UNAUTHORIZED => Received::Unauthorized,
        StatusCode::BAD_REQUEST
        | StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND
        | StatusCode::UNPROCESSABLE_ENTITY => match wire::error(answer.body(), status.as_u16()) {
            Some(error) => Received::Refused(error),
            // Not Dintero's words: somebody in between answered.
            None => Received::Unknown(format!("HTTP {} without the PSP's error body", status.as_u16())),
        },
        StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS => {
            Received::Pushback { http_status: status.as_u16(), retry_after: retry_after(answer.headers()) }
        }
        status if status.is_server_error() && wrong!(ServerErrorIsNo) => {
            Received::Refused(PspError { http_status: Some(status.as_u16()), ..PspError::default() })
        }
        // 503 is described as "Conflict" on capture [D 3.5] and says nothing
        // about what happened; redirects and the rest say even less.
        _ => Received::Unknown(format!("HTTP {}", status.as_u16())),
    }
}

/// The query of a list [D 6.2]. The filter has no upper end: a transaction that
/// moves again meanwhile must not leave the list.
fn query(page: &Page) -> String {
    let filter = match page.moved {
        Moved::Captured => "captured_at.gte",
        Moved::Refunded => "refunded_at.gte",
    };
    let since = jiff::Timestamp::from_millisecond(page.since.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let after = page.after.as_ref().map(|id| format!("&starting_after={id}")).unwrap_or_default();
    format!("?limit={}&{filter}={since:.3}{after}", page.most)
}

/// `Retry-After` in seconds, bounded.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse::<u64>().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// An answer about another transaction is no evidence about this one.
fn is_about(transaction: Transaction, id: &TransactionId) -> Result<Transaction, ReadError> {
    if transaction.id == id.as_str() {
        Ok(transaction)
    } else {
        Err(ReadError::Unreadable("the answer is about another transaction".to_owned()))
    }
}

#[cfg(test)]
mod tests;
