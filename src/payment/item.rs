//! The lines of a capture or refund [D 3.4].

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::payment::id::Invalid;

/// One line. Only `line_id` and `amount` are required [D 3.4]. Extra merchant
/// data (`emd`) is left out on purpose: it holds personal data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The line's id on the transaction, unique within the operation.
    pub line_id: String,
    /// The line's total in minor units; negative only for a gift card.
    pub amount: i64,
    /// SKU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// How many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantity: Option<Decimal>,
    /// Percent: 25 is 25 %.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vat_percent: Option<Decimal>,
    /// Minor units, for display only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vat_amount: Option<i64>,
    /// The PSP's word: physical, digital, service, `gift_card`, shipping,
    /// surcharge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Groups of the product.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// Discounts that the amount already contains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub discount_lines: Vec<DiscountLine>,
    /// The sellers' parts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub splits: Vec<Split>,
    /// The sellers who bear the fees; empty when not said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fee_destinations: Vec<String>,
    /// Who sold it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<Store>,
    /// Cubic metres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_volume: Option<Decimal>,
    /// Kilograms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_weight: Option<Decimal>,
    /// Dimensional weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_dimensional_weight: Option<Decimal>,
    /// An https URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thumbnail_url: Option<String>,
}

/// A group that a product belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The group's id.
    pub id: String,
    /// The group's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A discount that a line's amount already contains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscountLine {
    /// Minor units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<i64>,
    /// Percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentage: Option<Decimal>,
    /// The PSP's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discount_type: Option<String>,
    /// The discount's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discount_id: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Number of the discount line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line_id: Option<i64>,
}

/// A seller's part of a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// The seller.
    pub payout_destination_id: String,
    /// Minor units.
    pub amount: i64,
}

/// The store that sold a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// The store's id.
    pub id: String,
    /// Its trade name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Terminal or workstation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal_id: Option<String>,
    /// The responsible seller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payout_destination_id: Option<String>,
}

/// A decimal number that is never a float on its way: at most nine digits, and
/// six behind the point. Kept without superfluous zeros, so that "2.50" and
/// "2.5" mean the same. Fifteen digits also survive the PSP's JSON numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Decimal(String);

impl Item {
    /// A line with the two fields that every line has.
    pub fn line(line_id: &str, amount: i64) -> Self {
        Self {
            line_id: line_id.to_owned(),
            amount,
            id: None,
            description: None,
            quantity: None,
            vat_percent: None,
            vat_amount: None,
            kind: None,
            groups: Vec::new(),
            discount_lines: Vec::new(),
            splits: Vec::new(),
            fee_destinations: Vec::new(),
            store: None,
            unit_volume: None,
            unit_weight: None,
            unit_dimensional_weight: None,
            thumbnail_url: None,
        }
    }
}

impl Decimal {
    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How many digits stand behind the point.
    pub fn places(&self) -> usize {
        self.0.split_once('.').map_or(0, |(_, fraction)| fraction.len())
    }
}

impl FromStr for Decimal {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = Invalid("a decimal such as 1 or 2.5, at most nine digits and six decimals");
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str, most: usize| {
            (1..=most).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit())
        };
        if !digits(whole, 9) || !digits(fraction, 6) {
            return Err(wrong);
        }
        let whole = match whole.trim_start_matches('0') {
            "" => "0",
            significant => significant,
        };
        Ok(Self(match fraction.trim_end_matches('0') {
            "" => whole.to_owned(),
            fraction => format!("{whole}.{fraction}"),
        }))
    }
}

impl TryFrom<String> for Decimal {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Decimal> for String {
    fn from(decimal: Decimal) -> Self {
        decimal.0
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_has_one_spelling() {
        for (text, canonical) in [("1", "1"), ("01.50", "1.5"), ("0.000", "0"), ("2.123456", "2.123456")] {
            assert_eq!(text.parse::<Decimal>().unwrap().as_str(), canonical);
        }
        for wrong in ["", ".", "1.", ".5", "-1", "1e3", "1,5", "1.1234567", "1234567890", "NaN", "１"] {
            assert!(wrong.parse::<Decimal>().is_err(), "{wrong:?}");
        }
    }
}
