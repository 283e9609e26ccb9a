//! The access token of one account [D 2]: fetched once for many callers,
//! refreshed early, and handed out only with enough life left.

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use zeroize::{Zeroize as _, Zeroizing};

use crate::clock::Clock;
use crate::config::{Account, Psp as Settings};
use crate::psp::NotSent;
use crate::psp::dintero::transport::{Transport, TransportError};
use crate::psp::dintero::{retry_after, wire};

/// After a failed fetch nobody asks again for this long, and twice as long after
/// each further one: a hundred waiting callers must not become a hundred
/// requests, nor a wrong secret an attack on the token endpoint.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// A PSP that is out of reach is looked for at least this often.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Credentials that are refused are tried again at least this often: they may
/// have been mended at the PSP.
const PAUSE_MAX_REJECTED: Duration = Duration::from_secs(30);

/// A token is used for at most this time, whatever the PSP claims.
const LIFE_MAX: Duration = Duration::from_hours(7 * 24);

/// An access token and when it lives.
pub struct Token {
    /// What goes behind `Bearer`.
    pub bearer: SecretString,
    life: Duration,
    /// What the PSP claims: the upper bound.
    life_claimed: Duration,
    /// Boot clock when it was asked for: it cannot have been made earlier.
    asked_at: Duration,
    /// Boot clock when it arrived: it cannot have been made later.
    received_at: Duration,
}

/// The tokens of one account.
pub struct Tokens<T> {
    transport: T,
    account: Account,
    url: String,
    audience: String,
    timeout: Duration,
    life_min: Duration,
    clock: Clock,
    current: ArcSwapOption<Token>,
    /// Held during a fetch: single flight. Remembers the last failure.
    fetching: Mutex<Option<Failure>>,
}

struct Failure {
    until: Duration,
    error: NotSent,
    /// How many there were, one after the other.
    count: u32,
}

impl Failure {
    fn after(previous: Option<&Self>, error: NotSent, boot: Duration) -> Self {
        let count = previous.map_or(0, |previous| previous.count).saturating_add(1);
        let doubled = PAUSE_AFTER_FAILURE.saturating_mul(1 << (count - 1).min(10));
        let pause = match &error {
            NotSent::RateLimited { retry_after } => *retry_after,
            NotSent::CredentialsRejected(_) => doubled.min(PAUSE_MAX_REJECTED),
            _ => doubled.min(PAUSE_MAX),
        };
        Self { until: boot.saturating_add(pause), error, count }
    }

    /// What a caller is told who comes within the pause.
    fn repeated(&self, boot: Duration) -> NotSent {
        match &self.error {
            NotSent::RateLimited { .. } => {
                NotSent::RateLimited { retry_after: self.until.saturating_sub(boot) }
            }
            other => other.clone(),
        }
    }
}

impl Token {
    /// The life that is surely left.
    pub fn life_left_at_least(&self, boot: Duration) -> Duration {
        self.asked_at.saturating_add(self.life).saturating_sub(boot)
    }

    /// The life that may be left: after it the PSP surely refuses (A3).
    pub fn life_left_at_most(&self, boot: Duration) -> Duration {
        self.received_at.saturating_add(self.life_claimed).saturating_sub(boot)
    }

    /// Half of its life is over: time to fetch the next one [D 12 #25].
    fn is_aging(&self, boot: Duration) -> bool {
        self.life_left_at_least(boot) < self.life / 2
    }
}

impl<T: Transport> Tokens<T> {
    /// The tokens of `account`; nothing is fetched yet.
    pub fn new(
        settings: &Settings,
        account: &Account,
        life_min: Duration,
        transport: T,
        clock: Clock,
    ) -> Self {
        let base = settings.token_base_url.as_str().trim_end_matches('/');
        let prefix = settings.token_path_prefix.trim_end_matches('/');
        Self {
            transport,
            url: format!("{base}{prefix}/accounts/{}/auth/token", account.id),
            // The audience's host is this one, whatever host is called [D 2.1].
            audience: format!("https://api.dintero.com/v1/accounts/{}", account.id),
            account: account.clone(),
            timeout: settings.token_timeout,
            life_min,
            clock,
            current: ArcSwapOption::empty(),
            fetching: Mutex::new(None),
        }
    }

    /// A token with at least `token_life_min` left. Many callers share one
    /// fetch; an aging token is replaced in the background.
    pub async fn get(self: &Arc<Self>) -> Result<Arc<Token>, NotSent> {
        if let Some(token) = self.usable() {
            if token.is_aging(self.clock.boot())
                && let Ok(guard) = self.fetching.try_lock()
            {
                drop(guard);
                let tokens = Arc::clone(self);
                tokio::spawn(async move { tokens.refresh(true).await });
            }
            return Ok(token);
        }
        self.refresh(false).await
    }

    /// Forgets a token that the PSP refused, unless it is replaced already.
    pub fn reject(&self, token: &Arc<Token>) {
        let current = self.current.load();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, token)) {
            self.current.compare_and_swap(&*current, None);
        }
    }

    fn usable(&self) -> Option<Arc<Token>> {
        let boot = self.clock.boot();
        self.current.load_full().filter(|token| token.life_left_at_least(boot) >= self.life_min)
    }

    async fn refresh(self: &Arc<Self>, early: bool) -> Result<Arc<Token>, NotSent> {
        let mut last_failure = self.fetching.lock().await;
        let boot = self.clock.boot();
        // Somebody else may have fetched while we waited.
        if let Some(token) = self.usable()
            && !(early && token.is_aging(boot))
        {
            return Ok(token);
        }
        if let Some(failure) = &*last_failure
            && boot < failure.until
        {
            return Err(failure.repeated(boot));
        }
        match self.fetch().await {
            Ok(token) => {
                let token = Arc::new(token);
                self.current.store(Some(Arc::clone(&token)));
                *last_failure = None;
                Ok(token)
            }
            Err(error) => {
                tracing::warn!(account = %self.account.id, %error, "no access token");
                let failure = Failure::after(last_failure.as_ref(), error.clone(), self.clock.boot());
                *last_failure = Some(failure);
                Err(error)
            }
        }
    }

    async fn fetch(&self) -> Result<Token, NotSent> {
        let request = self.request()?;
        let asked_at = self.clock.boot();
        let answer = self.transport.send(request, self.timeout).await.map_err(|error| match error {
            TransportError::NotSent(why) | TransportError::Unknown(why) => NotSent::Unreachable(why),
        })?;
        let received_at = self.clock.boot();
        let granted = read(&answer);
        // It was written in there.
        if let Ok(mut body) = answer.into_body().try_into_mut() {
            body.zeroize();
        }
        let granted = granted?;
        let life_claimed = Duration::from_secs(granted.expires_in);
        let life = life_claimed.min(LIFE_MAX);
        let token = Token { bearer: granted.access_token, life, life_claimed, asked_at, received_at };
        if token.life_left_at_least(received_at) < self.life_min {
            let life = life.as_secs();
            return Err(NotSent::Unreachable(format!(
                "the PSP's tokens live {life} s, too short to be used"
            )));
        }
        Ok(token)
    }

    /// Credentials are read anew each time: a rotated file needs no restart.
    fn request(&self) -> Result<Request<Bytes>, NotSent> {
        let secret = |source: &crate::config::Source, name: &str| {
            source.read().map_err(|error| {
                NotSent::CredentialsRejected(format!("{name} of {} cannot be read: {error}", self.account.id))
            })
        };
        let client_id = secret(&self.account.client_id, "client_id")?;
        let client_secret = secret(&self.account.client_secret, "client_secret")?;
        let pair =
            SecretString::from(format!("{}:{}", client_id.expose_secret(), client_secret.expose_secret()));
        let basic = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(pair.expose_secret()));
        let unusable =
            |_| NotSent::CredentialsRejected("the credentials do not fit into a header".to_owned());
        let mut authorization =
            HeaderValue::try_from(&*Zeroizing::new(format!("Basic {}", *basic))).map_err(unusable)?;
        authorization.set_sensitive(true);
        let body = serde_json::json!({"grant_type": "client_credentials", "audience": self.audience});
        Request::post(&self.url)
            .header(header::AUTHORIZATION, authorization)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("payops/", env!("CARGO_PKG_VERSION")))
            .body(Bytes::from(body.to_string()))
            .map_err(|error| NotSent::Unreachable(format!("the token request cannot be built: {error}")))
    }
}

#[derive(Deserialize)]
struct Granted {
    access_token: SecretString,
    expires_in: u64,
}

fn read(answer: &Response<Bytes>) -> Result<Granted, NotSent> {
    let status = answer.status();
    match status {
        StatusCode::OK => serde_json::from_slice(answer.body())
            .map_err(|_| NotSent::Unreachable("the token endpoint's answer is not understood".to_owned())),
        StatusCode::TOO_MANY_REQUESTS => {
            let retry_after = retry_after(answer.headers()).unwrap_or(Duration::from_secs(5));
            Err(NotSent::RateLimited { retry_after })
        }
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let said = wire::error(answer.body(), status.as_u16()).and_then(|error| error.message);
            let said = said.unwrap_or_else(|| "no message".to_owned());
            Err(NotSent::CredentialsRejected(format!("HTTP {}: {said}", status.as_u16())))
        }
        _ => Err(NotSent::Unreachable(format!("the token endpoint answered HTTP {}", status.as_u16()))),
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("life", &self.life).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_overwritten_when_it_is_not_needed_any_more_and_never_shown() {
        fn is_overwritten<T: zeroize::ZeroizeOnDrop>(_: &T) {}
        let second = Duration::from_secs(1);
        let bearer = SecretString::from("s3cret");
        let token =
            Token { bearer, life: second, life_claimed: second, asked_at: second, received_at: second };
        is_overwritten(&token.bearer);
        assert!(!format!("{token:?}").contains("s3cret"));
    }

    #[test]
    fn the_pause_grows_with_each_failure_up_to_its_limit() {
        let pauses = |error: &NotSent, count: usize| {
            let mut last = None;
            let mut pauses = Vec::new();
            for _ in 0..count {
                let failure = Failure::after(last.as_ref(), error.clone(), Duration::ZERO);
                pauses.push(failure.until.as_secs());
                last = Some(failure);
            }
            pauses
        };
        assert_eq!(pauses(&NotSent::Unreachable(String::new()), 5), [1, 2, 4, 5, 5]);
        assert_eq!(pauses(&NotSent::CredentialsRejected(String::new()), 7), [1, 2, 4, 8, 16, 30, 30]);
        let limited = NotSent::RateLimited { retry_after: Duration::from_secs(7) };
        assert_eq!(pauses(&limited, 3), [7, 7, 7]);
    }

    #[test]
    fn within_the_pause_callers_are_told_what_is_left_of_it() {
        let limited = NotSent::RateLimited { retry_after: Duration::from_secs(7) };
        let failure = Failure::after(None, limited, Duration::from_secs(100));
        let left = failure.repeated(Duration::from_secs(103));
        assert_eq!(left, NotSent::RateLimited { retry_after: Duration::from_secs(4) });
    }
}
