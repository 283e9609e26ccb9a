//! Access tokens `[D 2.2]`: issued for client credentials, opaque to the client, refused once expired.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use axum::body::Bytes;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::Account;
use super::fields::Invalid;
use super::random::Random;
use super::wire::Refusal;

/// The most accounts, each with its API client.
pub const ACCOUNTS_MAX: usize = 10_000;

/// The longest life of a token: a year.
const LIFE_MAX: Duration = Duration::from_hours(365 * 24);

/// The most tokens that are remembered; the oldest go first.
const TOKENS_MAX: usize = 100_000;

/// The accounts, their credentials, and the tokens that were issued.
#[derive(Debug)]
pub struct Tokens {
    clients: Vec<(Account, Scopes)>,
    /// How long a new token lives.
    pub life: Duration,
    issued: HashMap<String, Issued>,
    oldest_first: VecDeque<String>,
    random: Random,
}

/// What an API client may do `[D 2.4]`. `admin:checkout` is the first two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scopes {
    /// `read:checkout`: GET and the list.
    pub read: bool,
    /// `write:checkout`: capture, refund, void and PUT.
    pub write: bool,
    /// `admin:hooks`, `write:hooks`: subscriptions to webhooks, and reading them.
    pub hooks: bool,
}

/// Whom a valid token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The account.
    pub account: String,
    /// The API client, which becomes `created_by` on events.
    pub client_id: String,
    /// What the client might do when the token was issued.
    pub scopes: Scopes,
}

#[derive(Debug)]
struct Issued {
    bearer: Bearer,
    expires: Instant,
}

impl Scopes {
    const ALL: Self = Self { read: true, write: true, hooks: true };

    /// Reads `scopes`; all when absent.
    pub fn read(value: Option<Value>) -> Result<Self, Invalid> {
        let Some(value) = value else { return Ok(Self::ALL) };
        let mut scopes = Self { read: false, write: false, hooks: false };
        let remedy =
            "send an array of admin:checkout, read:checkout, write:checkout, admin:hooks, write:hooks";
        let invalid = || Invalid::new("scopes", remedy);
        for scope in value.as_array().ok_or_else(invalid)? {
            match scope.as_str() {
                Some("admin:checkout") => (scopes.read, scopes.write) = (true, true),
                Some("read:checkout") => scopes.read = true,
                Some("write:checkout") => scopes.write = true,
                Some("admin:hooks" | "write:hooks") => scopes.hooks = true,
                _ => return Err(invalid()),
            }
        }
        Ok(scopes)
    }
}

impl Tokens {
    /// No token issued yet.
    pub fn new(accounts: Vec<Account>, life: Duration, seed: u64) -> Self {
        let random = Random::new(seed ^ 0x0074_6f6b_656e);
        let clients = accounts.into_iter().map(|account| (account, Scopes::ALL)).collect();
        let life = life.min(LIFE_MAX);
        Self { clients, life, issued: HashMap::new(), oldest_first: VecDeque::new(), random }
    }

    /// The account that new transactions belong to unless they say otherwise.
    pub fn first_account(&self) -> Option<&str> {
        self.clients.first().map(|(account, _)| account.id.as_str())
    }

    /// Gives an account another API client, or opens the account; `false` when there are too many.
    pub fn put_client(&mut self, account: Account, scopes: Scopes) -> bool {
        let full = self.clients.len() >= ACCOUNTS_MAX;
        match self.clients.iter_mut().find(|(known, _)| known.id == account.id) {
            Some(known) => *known = (account, scopes),
            None if full => return false,
            None => self.clients.push((account, scopes)),
        }
        true
    }

    /// Answers `POST /v1/accounts/{account}/auth/token` `[D 2.1]`.
    pub fn issue(
        &mut self,
        account: &str,
        headers: &HeaderMap,
        body: &Bytes,
        now: Instant,
    ) -> Result<Value, Refusal> {
        let unauthorized = |why: &str| Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", why);
        let forbidden = |why: &str| Refusal::new(StatusCode::FORBIDDEN, "FORBIDDEN", why);
        let (client_id, secret) =
            basic(headers).ok_or_else(|| unauthorized("Basic credentials are missing"))?;
        let mut clients = self.clients.iter();
        let client = clients.find(|(one, _)| one.client_id == client_id && one.client_secret == secret);
        let (client, scopes) = client.ok_or_else(|| unauthorized("Invalid client credentials"))?;
        let body: Value = serde_json::from_slice(body)
            .map_err(|_| Refusal::bad_request("The body must be a JSON object"))?;
        let text = |name: &str| body.get(name).and_then(Value::as_str);
        if text("grant_type") != Some("client_credentials") {
            return Err(Refusal::bad_request("grant_type must be client_credentials"));
        }
        let audience = text("audience").ok_or_else(|| Refusal::bad_request("audience is required"))?;
        let plain = format!("https://api.dintero.com/v1/accounts/{account}");
        let with_user = format!("https://{account}@api.dintero.com/v1/accounts/{account}");
        if audience != plain && audience != with_user {
            return Err(forbidden("The audience is not a grant of the client")); // the status is not documented
        }
        if client.id != account {
            return Err(forbidden("The client belongs to another account"));
        }
        let bearer = Bearer { account: client.id.clone(), client_id, scopes: *scopes };
        Ok(json!({
            "access_token": self.mint(bearer, now),
            "token_type": "Bearer",
            "expires_in": self.life.as_secs(),
        }))
    }

    /// Whom the `Authorization` header speaks for, or the documented 401.
    pub fn bearer(&self, headers: &HeaderMap, now: Instant) -> Result<Bearer, Refusal> {
        let token = token(headers).and_then(|token| self.issued.get(token));
        match token {
            Some(issued) if now < issued.expires => Ok(issued.bearer.clone()),
            _ => Err(Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "invalid JWT")),
        }
    }

    /// Makes the tokens of an account, or of all, expire now. Says how many.
    pub fn expire(&mut self, account: Option<&str>) -> usize {
        let before = self.issued.len();
        self.issued.retain(|_, issued| account.is_some_and(|account| issued.bearer.account != account));
        before - self.issued.len()
    }

    /// Earlier tokens keep working `[D 12 #25]`.
    fn mint(&mut self, bearer: Bearer, now: Instant) -> String {
        let header = json!({ "alg": "RS256", "typ": "JWT" });
        let claims = json!({
            "sub": bearer.client_id,
            "aud": format!("https://api.dintero.com/v1/accounts/{}", bearer.account),
            "jti": self.random.uuid(),
        });
        let encode = |part: Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let token = format!("{}.{}.{}", encode(header), encode(claims), self.random.signature());
        self.issued.insert(token.clone(), Issued { bearer, expires: now + self.life });
        self.oldest_first.push_back(token.clone());
        while self.oldest_first.len() > TOKENS_MAX {
            if let Some(oldest) = self.oldest_first.pop_front() {
                self.issued.remove(&oldest);
            }
        }
        token
    }
}

/// A short name for the bearer token of a request, fit for a log: the start of its SHA-256.
pub fn fingerprint(headers: &HeaderMap) -> Option<String> {
    let digest = Sha256::digest(token(headers)?);
    let start = digest.iter().take(6).fold(0_u64, |start, byte| (start << 8) | u64::from(*byte));
    Some(format!("{start:012x}"))
}

fn token(headers: &HeaderMap) -> Option<&str> {
    credentials(headers, "bearer")
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let bytes = STANDARD.decode(credentials(headers, "basic")?).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (client_id, secret) = text.split_once(':')?;
    Some((client_id.to_owned(), secret.to_owned()))
}

fn credentials<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let (given, credentials) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    given.eq_ignore_ascii_case(scheme).then(|| credentials.trim())
}
