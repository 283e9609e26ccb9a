//! Who may call: names, and how each proves to be who it is, from one file that may change while we run.
//!
//! ```toml
//! [[caller]]
//! name = "orders"
//! token_sha256 = ["<64 hexadecimal digits>"]   # several, while a token is being replaced
//!
//! [[caller]]
//! name = "returns"                             # by its certificate: SPIFFE ids or DNS names
//! certificate_names = ["spiffe://example.org/ns/shop/sa/returns"]
//!
//! [[caller]]
//! name = "stock"                               # by the tokens of an issuer: its name, a colon, whom they name
//! subjects = ["login:stock-service", "cluster:shop/stock"]
//!
//! [[caller]]
//! name = "anna"                                # a person: two of them end a review
//! token_sha256 = ["<64 hexadecimal digits>"]
//! review = true                                # may look into and decide the operations of every caller
//!
//! [[group]]                                    # what callers may is in rules: theirs, and those of their groups
//! name = "shops"
//! callers = ["orders", "returns"]
//! allow = [{ rpcs = ["GetTransaction"], accounts = ["P12345678"] }]
//!
//! [[issuer]]
//! name = "login"
//! url = "https://login.example.org"            # what its tokens have in `iss`
//! audiences = ["payops"]                       # and in `aud`
//!
//! [[issuer]]                                   # the projected service-account tokens of a cluster
//! name = "cluster"
//! kubernetes = true
//! url = "https://kubernetes.default.svc.cluster.local"
//! audiences = ["payops"]
//! jwks_url = "https://kubernetes.default.svc/openid/v1/jwks"
//! ca_file = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
//! token_file = "/var/run/secrets/kubernetes.io/serviceaccount/token"
//! ```
//!
//! Tokens are long and random ([`new_token`]), so a plain SHA-256 is enough: there is nothing to guess.

mod certificate;
mod file;
mod parse;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    sync::Arc,
};

use sha2::{Digest as _, Sha256};
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};

use crate::issuer::{Issuers, SubjectKind, Verified};
use crate::policy::Rights;

pub use crate::callers::certificate::Certificate;
pub use crate::callers::file::CallersFile;

/// What every token begins with, so that people and scanners recognise a leaked one.
pub const TOKEN_PREFIX: &str = "payops_";

/// The random part of a token, in bytes.
const TOKEN_RANDOM_BYTES: usize = 32;

/// A longer token is none of ours and is not worth a hash.
const TOKEN_BYTES_MAX: usize = 512;

type Hash = [u8; 32];

/// The callers of one version of the file. Its `Debug` shows names, never hashes.
#[derive(Clone, Default)]
pub struct Callers {
    names: Vec<String>,
    /// Those that may review.
    reviewers: BTreeSet<String>,
    /// What each may, by its name.
    rights: BTreeMap<String, Arc<Rights>>,
    /// What those may whom an issuer admits and nobody declares, by its name.
    admitted: BTreeMap<String, Arc<Rights>>,
    groups: BTreeSet<String>,
    /// Each hash, and the place of its caller in `names`.
    hashes: Vec<(Hash, u32)>,
    /// Each name that a certificate may have, and the place of its caller.
    certificate_names: BTreeMap<String, u32>,
    /// Each subject, with its issuer's name and a colon before it, and the place of its caller.
    subjects: BTreeMap<String, u32>,
    issuers: Arc<Issuers>,
}

impl Callers {
    /// The name of the caller whose token this is.
    ///
    /// Compares with every hash in constant time: how long it takes tells nothing but how many there are.
    pub fn authenticate(&self, token: &str) -> Option<&str> {
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let presented = hash(token);
        let mut caller = u32::MAX;
        for (known, place) in &self.hashes {
            caller.conditional_assign(place, known.ct_eq(&presented));
        }
        self.name(caller)
    }

    /// The name of the caller whose certificate this is, or why it is nobody's.
    pub fn of_certificate(&self, certificate: &Certificate) -> Result<&str, &'static str> {
        let place = |name: &String| self.certificate_names.get(name).copied();
        let caller = match certificate {
            Certificate::Nobody(why) => return Err(why),
            Certificate::Spiffe(id) => place(id).ok_or("the certificate's SPIFFE id is no caller's")?,
            Certificate::Dns(names) => {
                let mut callers: Vec<u32> = names.iter().filter_map(place).collect();
                callers.sort_unstable();
                callers.dedup();
                match *callers {
                    [] => return Err("none of the certificate's DNS names is a caller's"),
                    [only] => only,
                    // Which of them is meant is not ours to guess.
                    _ => return Err("the certificate's DNS names are those of several callers"),
                }
            }
        };
        self.name(caller).ok_or("the certificate is no caller's")
    }

    /// Those who sign tokens.
    pub fn issuers(&self) -> &Issuers {
        &self.issuers
    }

    /// The name of the caller whom a token names, or why it names none. One who is not declared has a name that no
    /// declared caller can have: namespace and service account with a slash between them, or the issuer's name, a colon
    /// and the subject.
    pub fn of_subject(&self, verified: &Verified) -> Result<String, &'static str> {
        let Verified { issuer, subject } = verified;
        let known = format!("{issuer}:{subject}");
        if let Some(name) = self.subjects.get(&known).and_then(|place| self.name(*place)) {
            return Ok(name.to_owned());
        }
        match self.issuers.settings(issuer) {
            Some(settings) if settings.admits_all => Ok(match settings.subject {
                SubjectKind::ServiceAccount => (**subject).to_owned(),
                SubjectKind::Claim(_) => known,
            }),
            _ => Err("the token's subject is no caller's"),
        }
    }

    /// Whether the caller of that name may look into and decide the operations of every caller.
    pub fn may_review(&self, name: &str) -> bool {
        self.reviewers.contains(name)
    }

    /// What the caller of that name may. One who is not declared has what the groups of its `issuer` have.
    pub fn rights(&self, name: &str, issuer: Option<&str>) -> Arc<Rights> {
        let admitted = || self.admitted.get(issuer?);
        self.rights.get(name).or_else(admitted).cloned().unwrap_or_default()
    }

    /// Those who are declared and may do nothing.
    pub fn without_rights(&self) -> impl Iterator<Item = &str> {
        let idle = |name: &&str| {
            self.rights.get(*name).is_none_or(|rights| rights.rules.is_empty()) && !self.may_review(name)
        };
        self.names().filter(idle)
    }

    /// Whose undeclared callers have names of that form.
    pub fn issuers_of(&self, name: &str) -> Vec<&str> {
        self.issuers.admitting(name)
    }

    /// The names, in the order of the file.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    fn name(&self, place: u32) -> Option<&str> {
        self.names.get(usize::try_from(place).ok()?).map(String::as_str)
    }
}

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callers").field("names", &self.names).finish_non_exhaustive()
    }
}

/// A new token from the system's random source, and what the callers file needs of it: its SHA-256 in hexadecimal.
pub fn new_token() -> Result<(String, String), getrandom::Error> {
    let mut random = [0; TOKEN_RANDOM_BYTES];
    getrandom::fill(&mut random)?;
    let token = format!("{TOKEN_PREFIX}{}", to_hex(&random));
    let sha256 = token_hash(&token);
    Ok((token, sha256))
}

/// What the callers file holds of a token: its SHA-256 in hexadecimal.
pub fn token_hash(token: &str) -> String {
    to_hex(&hash(token))
}

fn hash(token: &str) -> Hash {
    Sha256::digest(token).into()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::callers::parse::is_name;

    /// A file with these callers and their tokens.
    fn file(callers: &[(&str, &[&str])]) -> String {
        callers.iter().fold(String::new(), |text, (name, tokens)| {
            let hashes: Vec<String> = tokens.iter().map(|token| to_hex(&hash(token))).collect();
            format!("{text}[[caller]]\nname = {name:?}\ntoken_sha256 = {hashes:?}\n")
        })
    }

    #[test]
    fn the_hash_is_what_sha256sum_prints() {
        assert_eq!(to_hex(&hash("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_token_names_its_caller_and_nobody_else() {
        let callers = Callers::parse(&file(&[("orders", &["a", "b"]), ("billing", &["c"])])).unwrap();
        for (token, name) in [
            ("a", Some("orders")),
            ("b", Some("orders")),
            ("c", Some("billing")),
            ("d", None),
            ("A", None),
            ("a ", None),
            ("", None),
        ] {
            assert_eq!(callers.authenticate(token), name, "{token:?}");
        }
        assert_eq!(callers.authenticate(&"a".repeat(TOKEN_BYTES_MAX + 1)), None);
        assert_eq!(callers.names().collect::<Vec<_>>(), ["orders", "billing"]);
    }

    #[test]
    fn a_certificate_names_its_caller_and_nobody_else() {
        let callers = Callers::parse(
            "[[caller]]\nname = 'orders'\ncertificate_names = ['spiffe://example.org/orders', 'orders.example']\n\
             [[caller]]\nname = 'returns'\ncertificate_names = ['returns.example']",
        )
        .unwrap();
        let dns = |names: &[&str]| Certificate::Dns(names.iter().map(|name| (*name).to_owned()).collect());
        let spiffe = |id: &str| Certificate::Spiffe(id.to_owned());
        for (certificate, due) in [
            (spiffe("spiffe://example.org/orders"), Ok("orders")),
            (spiffe("spiffe://example.org/order"), Err("the certificate's SPIFFE id is no caller's")),
            (dns(&["orders.example"]), Ok("orders")),
            (dns(&["other.example", "returns.example"]), Ok("returns")),
            (dns(&["other.example"]), Err("none of the certificate's DNS names is a caller's")),
            (dns(&["*.example"]), Err("none of the certificate's DNS names is a caller's")),
            (
                dns(&["orders.example", "returns.example"]),
                Err("the certificate's DNS names are those of several callers"),
            ),
            (Certificate::Nobody("why"), Err("why")),
        ] {
            assert_eq!(callers.of_certificate(&certificate), due, "{certificate:?}");
        }
    }

    #[test]
    fn a_caller_may_review_only_where_the_file_says_so() {
        let with = |review: &str| {
            let sha256 = to_hex(&hash("a"));
            Callers::parse(&format!("[[caller]]\nname = 'anna'\ntoken_sha256 = ['{sha256}']\n{review}"))
        };
        assert!(with("review = true").unwrap().may_review("anna"));
        assert!(!with("review = true").unwrap().may_review("orders"));
        for not in ["", "review = false"] {
            assert!(!with(not).unwrap().may_review("anna"), "{not:?}");
        }
        for wrong in ["review = 1", "review = 'true'"] {
            assert!(with(wrong).unwrap_err().to_string().contains("caller[0].review"), "{wrong:?}");
        }
    }

    #[test]
    fn capital_hexadecimal_digits_are_hashes_too() {
        let sha256 = to_hex(&hash("a")).to_uppercase();
        let text = format!("[[caller]]\nname = 'orders'\ntoken_sha256 = ['{sha256}']");
        assert_eq!(Callers::parse(&text).unwrap().authenticate("a"), Some("orders"));
    }

    #[test]
    fn a_new_token_opens_the_door_and_no_two_are_alike() {
        let (token, sha256) = new_token().unwrap();
        let text = format!("[[caller]]\nname = 'orders'\ntoken_sha256 = ['{sha256}']");
        assert_eq!(Callers::parse(&text).unwrap().authenticate(&token), Some("orders"));
        assert!(token.starts_with("payops_") && token.len() == "payops_".len() + 64, "{token}");
        assert_ne!(token, new_token().unwrap().0);
    }

    #[test]
    fn names_are_short_and_plain() {
        for name in ["a", "7", "orders", "orders-eu.v2_x", &"a".repeat(63)] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "-a", ".a", "_a", "Orders", "a b", "a/b", "é", "a\n", &"a".repeat(64)] {
            assert!(!is_name(name), "{name:?}");
        }
    }

    #[test]
    fn every_mistake_is_told_at_once_and_no_hash() {
        let (shared, odd) = (to_hex(&hash("shared")), "abc".repeat(21));
        let empty = to_hex(&hash(""));
        let text = format!(
            "colour = 'blue'
             [[caller]]
             name = 'orders'
             token_sha256 = ['{shared}', '{shared}', '{odd}', '+{odd}', '{empty}', 7]
             [[caller]]
             name = 'orders'
             token_sha256 = ['{shared}']
             [[caller]]
             name = 'Orders'
             token_sha256 = []
             [[caller]]
             token_sha256 = '{shared}'
             tokens = 1
             [[caller]]
             name = 'billing'
             [[caller]]
             name = 'returns'
             certificate_names = ['spiffe://example.org/a', 'spiffe://example.org/a', '*.example', 'spiffe://b', 7]
             [[caller]]
             name = 'stock'
             certificate_names = ['spiffe://example.org/a']
            "
        );
        let mistakes = Callers::parse(&text).unwrap_err();
        let told: Vec<(&str, &str)> =
            mistakes.iter().map(|mistake| (mistake.key.as_str(), mistake.problem.as_str())).collect();
        let expected = [
            ("caller[0].token_sha256[1]", "is already a hash of caller[0]"),
            ("caller[0].token_sha256[2]", "is not a SHA-256"),
            ("caller[0].token_sha256[3]", "is not a SHA-256"),
            ("caller[0].token_sha256[4]", "is the hash of nothing"),
            ("caller[0].token_sha256[5]", "is not a SHA-256"),
            ("caller[1].name", "\"orders\" is declared twice"),
            ("caller[1].token_sha256[0]", "is already a hash of caller[0]"),
            ("caller[2].name", "is not a name"),
            ("caller[2].token_sha256", "is no list, or empty"),
            ("caller[3].name", "is missing"),
            ("caller[3].token_sha256", "is no list, or empty"),
            ("caller[3].tokens", "is unknown"),
            ("caller[4].token_sha256", "is missing"),
            ("caller[5].certificate_names[1]", "is already a name of caller[5]"),
            ("caller[5].certificate_names[2]", "is neither a SPIFFE id nor a DNS name"),
            ("caller[5].certificate_names[3]", "is neither a SPIFFE id nor a DNS name"),
            ("caller[5].certificate_names[4]", "is neither a SPIFFE id nor a DNS name"),
            ("caller[6].certificate_names[0]", "is already a name of caller[5]"),
            ("colour", "is unknown"),
        ];
        assert_eq!(told, expected);
        let message = mistakes.to_string();
        assert!(!message.contains(&shared) && !message.contains(&odd) && !message.contains(&empty));
    }

    #[test]
    fn a_file_without_callers_is_a_mistake() {
        for text in ["", "caller = []", "caller = 7", "[caller]\nname = 'orders'"] {
            let message = Callers::parse(text).unwrap_err().to_string();
            assert!(message.starts_with("caller: is missing; declare at least one [[caller]]"), "{message}");
        }
        let message = Callers::parse("token_sha256 = [abc").unwrap_err().to_string();
        assert!(message.starts_with("callers: line 1 is not TOML") && !message.contains("abc"), "{message}");
    }

    #[test]
    fn debug_shows_no_hash() {
        let callers = Callers::parse(&file(&[("orders", &["a"])])).unwrap();
        assert_eq!(format!("{callers:?}"), "Callers { names: [\"orders\"], .. }");
    }
}
