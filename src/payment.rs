//! The vocabulary: what payops is asked, by whom, and what became of it. No
//! I/O, and nothing here knows gRPC, SQL or the PSP's JSON.
//!
//! - An **operation** is a capture, a void or a refund of one transaction.
//! - A **command** is an operation, whose it is, and its idempotency key.
//! - An **outcome** is the PSP's definite answer. A decline is an answer.

pub mod card;
pub mod fresh;
pub mod id;
pub mod item;
pub mod outcome;
pub mod permit;
mod traced;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::payment::id::{CallerName, Currency, IdempotencyKey, Reference, Tag, TransactionId};
use crate::payment::item::Item;
use crate::payment::permit::Permit;

pub use crate::payment::traced::Traced;

/// Capture, void or refund.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Takes all or part of what is authorized.
    Capture,
    /// Releases the authorization, or what is left of it.
    Void,
    /// Gives back all or part of what is captured.
    Refund,
}

/// An amount that can be moved, in minor units: at least 1, within int32
/// [D 1]. Never zero, never negative, never a float.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Amount(i32);

/// What is asked of the PSP: everything that makes two requests the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// What is acted upon.
    pub transaction: TransactionId,
    /// What is done to it.
    pub action: Action,
}

/// One of the three actions, with what only that one has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// [D 3.1]
    Capture(Capture),
    /// [D 3.3]: no body at all.
    Void,
    /// [D 3.2]
    Refund(Refund),
}

/// The capture's own fields [D 3.1].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// What to capture.
    pub amount: Amount,
    /// The captured lines; empty when the caller named none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Item>,
    /// The caller's own reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
    /// Without the `ext_` that the PSP wants before each key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Release the rest of the authorization; `dintero_psp` only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub final_capture: bool,
}

/// The refund's own fields [D 3.2].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// What to refund.
    pub amount: Amount,
    /// The refunded lines; empty when the caller named none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Item>,
    /// The caller's own reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
    /// Why, for people. The PSP keeps it and never shows it again [D 5.2].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Without the `ext_` that the PSP wants before each key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Where the cardholder approves; `seitatech.in_person` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal_id: Option<String>,
}

/// Who asks, whichever credentials said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The scope of its keys. A person's own name, where it is a reviewer.
    pub name: CallerName,
}

/// An operation, whose it is, and the key that makes it happen at most once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Who asks. The scope of the key.
    pub caller: CallerName,
    /// The caller's name for this one intention.
    pub key: IdempotencyKey,
    /// What is asked.
    pub operation: Operation,
    /// What must hold before anything is sent. Not part of the meaning: a
    /// retry after success could not repeat them truthfully.
    pub guards: Guards,
    /// Whether policy lets it begin. Not part of the meaning either.
    pub permit: Permit,
    /// The call that asks; none where payops does by itself.
    pub traced: Option<Traced>,
}

/// Conditions that the caller sets. Each costs a read of the transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guards {
    /// The transaction must be in this currency.
    pub currency: Option<Currency>,
    /// This much must remain to be captured (capture, void) or refunded
    /// (refund), in minor units.
    pub expected_remaining: Option<i64>,
}

/// SHA-256 over the meaning of an operation. Two requests are the same exactly
/// when their fingerprints are; neither the encoding nor the order of items
/// matters.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 32]);

impl Kind {
    /// The word used in journals, logs and URLs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Void => "void",
            Self::Refund => "refund",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Amount {
    /// The smallest amount there is.
    pub const LEAST: Self = Self(1);
    /// The largest.
    pub const MAX: Self = Self(i32::MAX);

    /// `minor` if it can be moved at all.
    pub fn new(minor: i64) -> Option<Self> {
        i32::try_from(minor).ok().filter(|minor| *minor > 0).map(Self)
    }

    /// In minor units.
    pub fn minor(self) -> i64 {
        i64::from(self.0)
    }
}

impl TryFrom<i64> for Amount {
    type Error = &'static str;

    fn try_from(minor: i64) -> Result<Self, Self::Error> {
        Self::new(minor).ok_or("an amount is 1 to 2147483647 minor units")
    }
}

impl From<Amount> for i64 {
    fn from(amount: Amount) -> Self {
        amount.minor()
    }
}

impl Operation {
    /// Capture, void or refund.
    pub fn kind(&self) -> Kind {
        match self.action {
            Action::Capture(_) => Kind::Capture,
            Action::Void => Kind::Void,
            Action::Refund(_) => Kind::Refund,
        }
    }

    /// What is to be moved; a void has no amount.
    pub fn amount(&self) -> Option<Amount> {
        match &self.action {
            Action::Capture(capture) => Some(capture.amount),
            Action::Refund(refund) => Some(refund.amount),
            Action::Void => None,
        }
    }

    /// The caller's own reference.
    pub fn reference(&self) -> Option<&Reference> {
        match &self.action {
            Action::Capture(capture) => capture.reference.as_ref(),
            Action::Refund(refund) => refund.reference.as_ref(),
            Action::Void => None,
        }
    }

    /// The lines that the caller named.
    pub fn items(&self) -> &[Item] {
        match &self.action {
            Action::Capture(capture) => &capture.items,
            Action::Refund(refund) => &refund.items,
            Action::Void => &[],
        }
    }

    /// The reference that the PSP keeps [D 3.1]: the caller's, then the tag; at
    /// most 32 characters [D 12 #15].
    pub fn event_reference(&self, tag: &Tag) -> String {
        match self.reference() {
            Some(reference) => format!("{}-{tag}", reference.as_str()),
            None => tag.to_string(),
        }
    }

    /// The fingerprint of the meaning, by rule 1: SHA-256 of a prefix and the
    /// operation as JSON, items sorted by line, metadata by key, absent fields
    /// left out. A field that is added later and absent changes nothing.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut canonical = self.clone();
        if let Action::Capture(Capture { items, .. }) | Action::Refund(Refund { items, .. }) =
            &mut canonical.action
        {
            items.sort_by(|a, b| a.line_id.cmp(&b.line_id));
        }
        let mut hash = Sha256::new();
        hash.update(b"payops operation 1\0");
        // A struct of strings and integers always has a JSON form.
        hash.update(serde_json::to_vec(&canonical).unwrap_or_default());
        Fingerprint(hash.finalize().into())
    }
}

impl Command {
    /// The mark by which the PSP's events are recognised as this command's.
    pub fn tag(&self) -> Tag {
        Tag::derive(&self.caller, &self.key)
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = &'static str;

    fn try_from(hex: String) -> Result<Self, Self::Error> {
        let wrong = "a fingerprint is 64 hexadecimal digits";
        let mut bytes = [0; 32];
        if hex.len() != 64 {
            return Err(wrong);
        }
        for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong)?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(items: &[(&str, i64)]) -> Operation {
        let items = items.iter().map(|(line, amount)| Item::line(line, *amount)).collect();
        let capture = Capture {
            amount: Amount::new(300).unwrap(),
            items,
            reference: None,
            metadata: BTreeMap::new(),
            final_capture: false,
        };
        Operation {
            transaction: "T12345678.465UfBENeLpkBvwmqfTC4k".parse().unwrap(),
            action: Action::Capture(capture),
        }
    }

    #[test]
    fn the_order_of_items_is_not_part_of_the_meaning() {
        let one = capture(&[("1", 100), ("2", 200)]);
        let other = capture(&[("2", 200), ("1", 100)]);
        assert_eq!(one.fingerprint(), other.fingerprint());
    }

    #[test]
    fn everything_that_reaches_the_psp_is_part_of_the_meaning() {
        let plain = capture(&[("1", 300)]);
        let mut changed = vec![capture(&[("1", 299)]), capture(&[("2", 300)]), capture(&[])];
        let changes: [fn(&mut Capture); 4] = [
            |c| c.amount = Amount::new(301).unwrap(),
            |c| c.final_capture = true,
            |c| c.reference = Some("order-1".parse().unwrap()),
            |c| drop(c.metadata.insert("a".into(), "b".into())),
        ];
        for change in changes {
            let mut operation = plain.clone();
            let Action::Capture(capture) = &mut operation.action else { unreachable!() };
            change(capture);
            changed.push(operation);
        }
        changed.push(Operation { action: Action::Void, ..plain.clone() });
        let prints: std::collections::HashSet<_> =
            changed.iter().map(|o| o.fingerprint().to_string()).collect();
        assert_eq!(prints.len(), changed.len());
        assert!(!prints.contains(&plain.fingerprint().to_string()));
    }

    #[test]
    fn the_rule_of_the_fingerprint_does_not_drift() {
        // Entries in journals out there were written under this rule.
        assert_eq!(
            capture(&[("1", 300)]).fingerprint().to_string(),
            "21e84511497ba728eca0bb4d4c35e64a212dd3d16fc2c115f7f10c7d6ab6b891",
        );
    }

    #[test]
    fn an_amount_is_within_what_the_psp_can_hold() {
        for wrong in [0, -1, i64::MIN, i64::MAX, 2_147_483_648] {
            assert_eq!(Amount::new(wrong), None, "{wrong}");
        }
        assert_eq!(Amount::new(2_147_483_647).map(Amount::minor), Some(2_147_483_647));
    }
}
