//! Names: each a type of its own, checked where it enters and trusted after.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Makes a checked string type: `FromStr` is the only way in.
macro_rules! checked_string {
    ($(#[$doc:meta])* $name:ident, $check:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// What a valid value looks like, as the end of "must be …".
            pub const RULE: &'static str = $rule;

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.to_owned())) } else { Err(Invalid($rule)) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;

            fn try_from(text: String) -> Result<Self, Invalid> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// The rule that a text breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be {0}")]
pub struct Invalid(pub &'static str);

checked_string!(
    /// A Dintero account [D 1]: `T` for sandbox or `P` for production.
    AccountId,
    is_account,
    "T or P and eight digits, such as P12345678"
);

checked_string!(
    /// A Dintero transaction [D 1]. Holds nothing that could change a URL.
    TransactionId,
    is_transaction,
    "an account, a dot and 1 to 64 letters and digits, such as P12345678.465UfBENeLpkBvwmqfTC4k"
);

checked_string!(
    /// The name under which a caller is known. The scope of its keys.
    CallerName,
    |text| {
        (1..=255).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b))
    },
    "1 to 255 letters, digits, '.', '_', '-', '/', ':' or '@'"
);

checked_string!(
    /// The caller's name for one intention.
    IdempotencyKey,
    |text| (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()),
    "1 to 128 visible ASCII characters"
);

checked_string!(
    /// The caller's own reference, which leads the one that the PSP keeps. The
    /// PSP's limit is unknown; 32 in all is the safe assumption [D 12 #15].
    Reference,
    |text| {
        (1..=18).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    },
    "at most 18 characters of A-Z, a-z, 0-9 and '-'"
);

checked_string!(
    /// An ISO 4217 code by its form; whether it is the right one, the
    /// transaction says.
    Currency,
    |text| text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase()),
    "an ISO 4217 code of three capital letters, such as NOK"
);

/// Names an operation for ever: a UUIDv7, so that ids sort by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OperationId(Uuid);

/// The mark by which the PSP's events are recognised as one command's: 13
/// base32 characters (65 bits) of SHA-256 over the scope and the key. Derived,
/// not random: with an empty journal the PSP can still be asked what became of
/// a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tag(String);

impl TransactionId {
    /// The account that the transaction belongs to: its first nine characters.
    pub fn account(&self) -> AccountId {
        AccountId(self.0.chars().take(9).collect())
    }
}

impl IdempotencyKey {
    /// When the key was made, in milliseconds since 1970, if it is a `UUIDv7`
    /// and so tells.
    pub fn minted_at(&self) -> Option<i64> {
        let id = Uuid::try_parse(&self.0).ok().filter(|id| id.get_version_num() == 7)?;
        let (seconds, nanos) = id.get_timestamp()?.to_unix();
        i64::try_from(seconds.checked_mul(1_000)?).ok()?.checked_add(i64::from(nanos / 1_000_000))
    }
}

impl OperationId {
    /// A new id, made now.
    #[expect(clippy::new_without_default, reason = "each call makes another value")]
    pub fn new() -> Self {
        Self(crate::payment::fresh::uuid_v7())
    }

    /// The bytes, as journals keep them.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for OperationId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        // The hyphenated form alone, as it was given out; capitals mean the same.
        let parsed = Uuid::try_parse(text).ok().filter(|_| text.len() == 36);
        parsed.map(Self).ok_or(Invalid("a UUID, as the operation-id metadata gave it"))
    }
}

impl Tag {
    /// How many characters a tag has.
    pub const LEN: usize = 13;

    /// The tag of `key` in the scope of `caller`.
    pub fn derive(caller: &CallerName, key: &IdempotencyKey) -> Self {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        // A caller's name holds no '|', so the three parts cannot run together.
        let hash = Sha256::digest(format!("v1|{caller}|{key}"));
        let mut bits =
            hash.iter().flat_map(|byte| (0..8).rev().map(move |shift| usize::from(byte >> shift & 1)));
        let tag = (0..Self::LEN)
            .filter_map(|_| {
                let index = bits.by_ref().take(5).fold(0, |index, bit| index << 1 | bit);
                ALPHABET.get(index).copied().map(char::from)
            })
            .collect();
        Self(tag)
    }

    /// Whether the PSP's `event_reference` carries this tag: its last 13
    /// characters, alone or behind a dash.
    pub fn marks(&self, event_reference: &str) -> bool {
        event_reference
            .strip_suffix(self.0.as_str())
            .is_some_and(|before| before.is_empty() || before.ends_with('-'))
    }

    /// Whether the PSP's `event_reference` ends in what could be a tag.
    pub fn is_form_of(event_reference: &str) -> bool {
        let end = event_reference.rsplit('-').next().unwrap_or_default();
        end.len() == Self::LEN && end.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_account(text: &str) -> bool {
    matches!(text.as_bytes(), [b'T' | b'P', digits @ ..] if digits.len() == 8 && digits.iter().all(u8::is_ascii_digit))
}

fn is_transaction(text: &str) -> bool {
    text.split_once('.').is_some_and(|(account, rest)| {
        is_account(account)
            && (1..=64).contains(&rest.len())
            && rest.bytes().all(|b| b.is_ascii_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_id_holds_nothing_that_could_change_a_url() {
        for wrong in [
            "",
            "T12345678",
            "T12345678.",
            "T1234567.abc",
            "X12345678.abc",
            "T12345678.a/b",
            "T12345678.a%2Fb",
            "T12345678.a?b",
            "T12345678.a#b",
            "T12345678...",
            "T12345678.a.b",
            "T12345678.å",
            "T12345678.a\n",
            " T12345678.a",
            "../T12345678.a",
            "T１2345678.a",
        ] {
            assert!(wrong.parse::<TransactionId>().is_err(), "{wrong:?}");
        }
        let long = format!("T12345678.{}", "a".repeat(65));
        assert!(long.parse::<TransactionId>().is_err());
        let id: TransactionId = "P12345678.465UfBENeLpkBvwmqfTC4k".parse().unwrap();
        assert_eq!(id.account().as_str(), "P12345678");
    }

    #[test]
    fn a_tag_is_derived_from_scope_and_key_and_never_drifts() {
        let tag = |caller: &str, key: &str| Tag::derive(&caller.parse().unwrap(), &key.parse().unwrap());
        assert_eq!(tag("orders", "key-1"), tag("orders", "key-1"));
        assert_ne!(tag("orders", "key-1"), tag("returns", "key-1"));
        assert_ne!(tag("orders", "a"), tag("orders", "A"));
        // Events at the PSP were marked under this rule.
        assert_eq!(tag("orders", "key-1").as_str(), "dbleolsjcgd67");
    }

    #[test]
    fn a_tag_marks_a_reference_by_its_end_alone() {
        let tag = Tag::derive(&"orders".parse().unwrap(), &"key-1".parse().unwrap());
        assert!(tag.marks(tag.as_str()));
        assert!(tag.marks(&format!("order-1-{tag}")));
        assert!(!tag.marks(&format!("x{tag}")));
        assert!(!tag.marks(&format!("{tag}-1")));
        assert!(!tag.marks(""));
        assert!(!tag.marks("æøå"));
    }

    #[test]
    fn what_could_be_a_tag_is_told_by_its_form() {
        for caller in ["orders", "returns"] {
            for key in (0..100).map(|number| format!("key-{number}")) {
                let tag = Tag::derive(&caller.parse().unwrap(), &key.parse().unwrap());
                assert!(Tag::is_form_of(tag.as_str()) && Tag::is_form_of(&format!("order-1-{tag}")), "{tag}");
                assert!(
                    !Tag::is_form_of(&format!("x{tag}")) && !Tag::is_form_of(&format!("{tag}-1")),
                    "{tag}"
                );
            }
        }
        for other in ["", "-", "ORDER-1", "abcdefghij018", "ABCDEFGHIJ234", "æøåæøåabcdefg"] {
            assert!(!Tag::is_form_of(other), "{other}");
        }
    }

    #[test]
    fn keys_and_references_have_bounds() {
        assert!("k".repeat(128).parse::<IdempotencyKey>().is_ok());
        for wrong in ["", "a b", "a\tb", "é", &"k".repeat(129)] {
            assert!(wrong.parse::<IdempotencyKey>().is_err(), "{wrong:?}");
        }
        for wrong in ["", "a_b", &"r".repeat(19)] {
            assert!(wrong.parse::<Reference>().is_err(), "{wrong:?}");
        }
    }
}
