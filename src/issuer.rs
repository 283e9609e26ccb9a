//! Who signs tokens (JWT): verifies that a token was signed by an issuer that
//! is trusted here, for us, and for now, and says whom it names.
//!
//! What a token says of itself is believed of nothing but where to look: its
//! `iss` picks the issuer, its `kid` the key, and the key its algorithm.
//!
//! Its times are judged by the machine's wall clock as it is now, and not by
//! [`crate::clock`], which must not follow a clock that is set: an issuer's
//! times are those of the world, a machine whose clock is corrected after the
//! start must come to judge them rightly, and the certificates of the same
//! callers are judged by the wall clock, too. No money rests on it: a fence
//! does not.

mod cache;
mod fetch;
mod keys;
mod review;
mod token;

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{Mutex, Semaphore},
    time::Instant,
};
use url::Url;

use crate::issuer::cache::Cache;
use crate::issuer::keys::Keys;
use crate::issuer::token::Token;

pub use crate::issuer::fetch::check;

/// Keys are fetched again when they are this old: one that the issuer has
/// taken back is believed for no longer.
const REFRESH_EVERY: Duration = Duration::from_mins(5);
/// While there are keys, callers who name others make one fetch in this time,
/// and no more. One that fails for their age is repeated as often.
const FETCH_EVERY: Duration = Duration::from_mins(1);
/// The first pause after a failed fetch while there are no keys at all; it
/// doubles up to the second.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How far our clock and an issuer's may be apart.
const LEEWAY: Duration = Duration::from_secs(30);
/// How long a token that was verified is known without being verified again.
const CACHED_FOR: Duration = Duration::from_mins(1);

/// Reviews of tokens that an issuer is asked for at once.
const REVIEWS_MAX: usize = 8;

/// An issuer, as the callers file declares it.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What the callers file calls it.
    pub name: String,
    /// What its tokens call it (`iss`), to the letter.
    pub url: String,
    /// For whom its tokens may be made (`aud`): one of these.
    pub audiences: Vec<String>,
    /// Where a cluster says whether a token still counts (`TokenReview`); its word is asked for where it is given.
    pub token_review_url: Option<Url>,
    /// Where its keys are; found by discovery where it is not given.
    pub jwks_url: Option<Url>,
    /// Certificates (PEM) that are trusted for this issuer instead of those of the system.
    pub ca_file: Option<PathBuf>,
    /// A token that its keys are asked for with, read again each time.
    pub token_file: Option<PathBuf>,
    /// The algorithms that its keys may be for.
    pub algorithms: Vec<Algorithm>,
    /// Whom its tokens name, and how.
    pub subject: SubjectKind,
    /// Claims that every token must have, with these values.
    pub require: BTreeMap<String, serde_json::Value>,
    /// Whether everybody whom it names is a caller, or those alone who are declared.
    pub admits_all: bool,
}

/// How a token names its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectKind {
    /// By the text of this claim.
    Claim(String),
    /// As a service account of Kubernetes: namespace, slash, name.
    ServiceAccount,
}

/// An algorithm that tokens may be signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

/// Whom a token names that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The issuer, as the callers file calls it.
    pub issuer: Arc<str>,
    /// Whom it names.
    pub subject: Arc<str>,
}

/// Why a token lets nobody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It never will.
    Invalid(&'static str),
    /// It did once.
    Expired,
    /// Nobody can tell: the keys of its issuer have never been fetched, or it does not say whether the token counts.
    Unavailable {
        /// When they will be asked for again.
        retry_after: Duration,
    },
}

/// All issuers of one version of the callers file.
#[derive(Default)]
pub struct Issuers {
    issuers: Vec<Arc<Issuer>>,
    verified: Cache,
}

/// One issuer and its keys.
struct Issuer {
    settings: Settings,
    name: Arc<str>,
    /// The last good ones.
    keys: ArcSwapOption<Keys>,
    /// Held during a fetch: single flight.
    fetches: Mutex<Fetches>,
    /// Reviews of tokens under way.
    reviews: Semaphore,
}

#[derive(Default)]
struct Fetches {
    /// When the last one began.
    begun: Option<Instant>,
    /// When the last one ended.
    ended: Option<Instant>,
    /// When the last one began because a caller named an unknown key.
    asked: Option<Instant>,
    /// How many failed, one after the other.
    failures: u32,
}

/// Why keys are to be fetched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// They are old, or there are none.
    Age,
    /// A token names one that is not among them.
    UnknownKey,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rs256, Self::Es256, Self::EdDsa];

    /// Its name in tokens and keys.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of a name, to the letter.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }
}

/// Verifies a token by keys that somebody published.
#[cfg(any(test, fuzzing))]
pub(crate) fn verify_by(jwks: &[u8], token: &str, settings: &Settings) -> Result<String, String> {
    let keys = Keys::read(jwks, &settings.algorithms)?;
    let read = Token::read(token).and_then(|token| token.verify(&keys, settings));
    read.map(|(subject, _)| subject).map_err(|refusal| format!("{refusal:?}"))
}

impl Issuers {
    /// The issuers of these settings. Those that were there `before` keep their keys; where nothing changed, what was
    /// verified stays so.
    pub fn new(settings: Vec<Settings>, before: Option<&Arc<Self>>) -> Arc<Self> {
        let old = before.map_or(&[][..], |before| before.issuers.as_slice());
        if let Some(before) = before
            && old.iter().map(|issuer| &issuer.settings).eq(&settings)
        {
            return Arc::clone(before);
        }
        let issuer = |settings: Settings| {
            let same = old.iter().find(|old| old.settings == settings);
            same.map_or_else(|| Arc::new(Issuer::new(settings)), Arc::clone)
        };
        Arc::new(Self { issuers: settings.into_iter().map(issuer).collect(), verified: Cache::default() })
    }

    /// Verifies a token, and says whom it names.
    ///
    /// May wait for the keys of its issuer to be fetched, which has a bound.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing: a fetch goes on for the others.
    pub async fn verify(&self, token: &str) -> Result<Verified, Refusal> {
        let hash = Sha256::digest(token).into();
        if let Some(verified) = self.verified.get(&hash) {
            return Ok(verified);
        }
        let text = token;
        let token = Token::read(text)?;
        let named = self.issuers.iter().find(|issuer| issuer.settings.url == token.issuer());
        let issuer = named.ok_or(Refusal::Invalid("the token's issuer is not one of the callers file"))?;
        let key = token.key_id(&issuer.settings)?;
        let keys = issuer.keys_with(key).await?;
        let (subject, expires) = token.verify(&keys, &issuer.settings)?;
        // Last: only who has a good token makes anybody ask.
        issuer.review(text, &subject).await?;
        let verified = Verified { issuer: Arc::clone(&issuer.name), subject: subject.into() };
        if let Some(left) = expires.and_then(life_left) {
            self.verified.put(hash, verified.clone(), left.min(CACHED_FOR));
        }
        Ok(verified)
    }

    /// Fetches, in the background, what has not been fetched or has become old. To be called every few seconds.
    pub fn tend(&self) {
        for issuer in &self.issuers {
            if !issuer.is_fresh() {
                let issuer = Arc::clone(issuer);
                tokio::spawn(async move { issuer.fetch_unless(Cause::Age, Issuer::is_fresh).await });
            }
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty()
    }

    /// Whether one of them admits everybody whom it names.
    pub(crate) fn admit_all(&self) -> bool {
        self.issuers.iter().any(|issuer| issuer.settings.admits_all)
    }

    /// Those that admit everybody, and name somebody so.
    pub(crate) fn admitting(&self, caller: &str) -> Vec<&str> {
        let names = |settings: &&Settings| match settings.subject {
            SubjectKind::ServiceAccount => !caller.contains(':') && caller.split('/').count() == 2,
            SubjectKind::Claim(_) => {
                caller.split_once(':').is_some_and(|(issuer, _)| issuer == settings.name)
            }
        };
        let settings = self.issuers.iter().map(|issuer| &issuer.settings);
        settings
            .filter(|settings| settings.admits_all)
            .filter(names)
            .map(|settings| &*settings.name)
            .collect()
    }

    /// What is declared of the issuer of that name.
    pub(crate) fn settings(&self, name: &str) -> Option<&Settings> {
        self.issuers.iter().map(|issuer| &issuer.settings).find(|settings| settings.name == name)
    }
}

impl Issuer {
    fn new(settings: Settings) -> Self {
        let name = settings.name.as_str().into();
        Self {
            settings,
            name,
            keys: ArcSwapOption::empty(),
            fetches: Mutex::default(),
            reviews: Semaphore::new(REVIEWS_MAX),
        }
    }

    fn is_fresh(&self) -> bool {
        self.keys.load().as_ref().is_some_and(|keys| keys.fetched.elapsed() < REFRESH_EVERY)
    }

    fn has(&self, key: &str) -> bool {
        self.keys.load().as_ref().is_some_and(|keys| keys.of(key).next().is_some())
    }

    /// The keys, with that one among them. One that is not known is looked for, in a task of its own: a caller who
    /// hangs up must not end the fetch that others wait for, nor use up the one of this minute.
    async fn keys_with(self: &Arc<Self>, key: &str) -> Result<Arc<Keys>, Refusal> {
        if !self.has(key) {
            let (issuer, key) = (Arc::clone(self), key.to_owned());
            let fetching = tokio::spawn(async move {
                issuer.fetch_unless(Cause::UnknownKey, |issuer| issuer.has(&key)).await
            });
            let pause = fetching.await.unwrap_or(PAUSE_AFTER_FAILURE);
            if self.keys.load().is_none() {
                let retry_after = pause.max(PAUSE_AFTER_FAILURE);
                return Err(Refusal::Unavailable { retry_after });
            }
        }
        match self.keys.load_full() {
            Some(keys) if keys.of(key).next().is_some() => Ok(keys),
            _ => Err(Refusal::Invalid("the token's key (kid) is not one that its issuer publishes")),
        }
    }

    /// Fetches the keys, unless there is enough, or it is too early. The last good ones stay until there are new ones.
    /// Says how long nothing will be fetched.
    async fn fetch_unless(&self, cause: Cause, enough: impl Fn(&Self) -> bool) -> Duration {
        let asked = Instant::now();
        let mut fetches = self.fetches.lock().await;
        let early = fetches.pause(cause, self.keys.load().is_some());
        // One that failed meanwhile has told what another one would.
        let failed_meanwhile = self.keys.load().is_none() && fetches.ended >= Some(asked);
        if enough(self) || !early.is_zero() || failed_meanwhile {
            return early;
        }
        fetches.begun = Some(Instant::now());
        if cause == Cause::UnknownKey {
            fetches.asked = fetches.begun;
        }
        let fetched = fetch::keys(&self.settings).await;
        fetches.ended = Some(Instant::now());
        match fetched {
            Ok(keys) => {
                fetches.failures = 0;
                self.keys.store(Some(Arc::new(keys)));
            }
            Err(why) => {
                fetches.failures = fetches.failures.saturating_add(1);
                let kept = self.keys.load().is_some();
                tracing::warn!(issuer = %self.name, why, kept, "the keys of an issuer could not be fetched");
            }
        }
        fetches.pause(cause, self.keys.load().is_some())
    }
}

impl Fetches {
    /// How long it is until the next fetch.
    fn pause(&self, cause: Cause, has_keys: bool) -> Duration {
        let (last, pause) = match (has_keys, cause) {
            (true, Cause::UnknownKey) => (self.asked, FETCH_EVERY),
            (true, Cause::Age) => (self.begun, FETCH_EVERY),
            (false, _) => {
                let doubled = 1_u32.checked_shl(self.failures.saturating_sub(1)).unwrap_or(u32::MAX);
                (self.ended, PAUSE_AFTER_FAILURE.saturating_mul(doubled).min(PAUSE_MAX))
            }
        };
        last.map_or(Duration::ZERO, |last| pause.saturating_sub(last.elapsed()))
    }
}

/// Seconds since 1970 by the wall clock; see the module.
fn now() -> Option<u64> {
    Some(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// How long a token that expires then is still taken.
fn life_left(expires: u64) -> Option<Duration> {
    Some(Duration::from_secs(expires.checked_sub(now()?)?))
}

impl fmt::Debug for Issuers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.issuers.iter().map(|issuer| &issuer.settings)).finish()
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pause_is_a_minute_while_there_are_keys_and_grows_while_there_are_none() {
        use Cause::{Age, UnknownKey};
        let mut fetches = Fetches::default();
        for (cause, has_keys) in [(Age, true), (UnknownKey, true), (Age, false), (UnknownKey, false)] {
            assert_eq!(fetches.pause(cause, has_keys), Duration::ZERO);
        }
        fetches.begun = Some(Instant::now());
        fetches.ended = fetches.begun;
        assert_eq!(fetches.pause(Age, true), FETCH_EVERY);
        // A fetch that nobody asked for does not use up the one of this minute.
        assert_eq!(fetches.pause(UnknownKey, true), Duration::ZERO);
        fetches.asked = fetches.begun;
        assert_eq!(fetches.pause(UnknownKey, true), FETCH_EVERY);
        let pauses = [0, 1, 2, 3, 5, 6, 7, 100].map(|failures| {
            fetches.failures = failures;
            fetches.pause(UnknownKey, false).as_secs()
        });
        assert_eq!(pauses, [1, 1, 2, 4, 16, 30, 30, 30]);
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(fetches.pause(UnknownKey, true), Duration::from_secs(1));
        assert_eq!(fetches.pause(UnknownKey, false), Duration::ZERO);
    }

    fn settings(name: &str, audience: &str) -> Settings {
        Settings {
            name: name.to_owned(),
            url: format!("https://{name}.example"),
            audiences: vec![audience.to_owned()],
            token_review_url: None,
            jwks_url: None,
            ca_file: None,
            token_file: None,
            algorithms: Algorithm::ALL.to_vec(),
            subject: SubjectKind::Claim("sub".to_owned()),
            require: BTreeMap::new(),
            admits_all: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_old_after_five_minutes_and_used_until_there_are_others() {
        let issuer = Issuer::new(settings("a", "payops"));
        assert!(!issuer.is_fresh());
        let octets = "A".repeat(43);
        let published = serde_json::json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "1", "x": octets, "y": octets}]});
        let keys = Keys::read(published.to_string().as_bytes(), &Algorithm::ALL).unwrap();
        issuer.keys.store(Some(Arc::new(keys)));
        tokio::time::advance(Duration::from_secs(299)).await;
        assert!(issuer.is_fresh());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!issuer.is_fresh() && issuer.has("1"));
    }

    #[test]
    fn issuers_that_did_not_change_keep_their_keys() {
        let first = Issuers::new(vec![settings("a", "payops"), settings("b", "payops")], None);
        let same = Issuers::new(vec![settings("a", "payops"), settings("b", "payops")], Some(&first));
        assert!(Arc::ptr_eq(&first, &same));
        let other = Issuers::new(vec![settings("a", "other"), settings("b", "payops")], Some(&first));
        assert!(!Arc::ptr_eq(&first.issuers[0], &other.issuers[0]));
        assert!(Arc::ptr_eq(&first.issuers[1], &other.issuers[1]));
    }
}
