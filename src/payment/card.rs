//! Card numbers, which have no business here: where one is written into a
//! text, that text would keep it in a journal, and send it on to the PSP.

use uuid::Uuid;

/// How many digits a card number has.
const DIGITS: std::ops::RangeInclusive<usize> = 13..=19;

/// How many characters may stand between two groups of digits.
const BETWEEN_MAX: usize = 3;

/// Whether a text holds what reads as the number of a payment card: 13 to 19
/// digits, in groups or not, with a right last digit (Luhn).
///
/// A UUID, or a longer word of hexadecimal digits, is none, whatever digits it
/// happens to hold. Nor is a number that begins with 0 or 1, as no card's of
/// the schemes that shops take does: times in milliseconds do.
pub fn is_card_number_in(text: &str) -> bool {
    let mut groups: Vec<&str> = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (word, after) = rest.split_at(rest.find(|c: char| !is_of_word(c)).unwrap_or(rest.len()));
        let (between, after) = after.split_at(after.find(is_of_word).unwrap_or(after.len()));
        rest = after;
        if is_hexadecimal(word) {
            groups.clear();
        } else {
            for part in word.split_inclusive('-') {
                let part = part.trim_end_matches('-');
                // Letters end a number and begin another one.
                for (nth, digits) in part.split(|c: char| !c.is_ascii_digit()).enumerate() {
                    if nth > 0 {
                        groups.clear();
                    }
                    if !digits.is_empty() {
                        groups.push(digits);
                        if ends_with_card_number(&groups) {
                            return true;
                        }
                    }
                }
            }
        }
        let is_gap = between.chars().all(|c| c.is_whitespace() || is_dash(c));
        if !is_gap || between.chars().count() > BETWEEN_MAX {
            groups.clear();
        }
    }
    false
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-'
}

fn is_dash(c: char) -> bool {
    matches!(c, '-' | '\u{2010}'..='\u{2015}' | '\u{2212}')
}

/// A word that is an id or a hash: a UUID, or 16 and more hexadecimal digits
/// with a letter among them.
fn is_hexadecimal(word: &str) -> bool {
    let is_hash = word.len() >= 16
        && word.bytes().all(|b| b.is_ascii_hexdigit())
        && word.bytes().any(|b| b.is_ascii_alphabetic());
    is_hash || (word.len() == 36 && Uuid::try_parse(word).is_ok())
}

/// Whether the last of these groups of digits make a card number together.
fn ends_with_card_number(groups: &[&str]) -> bool {
    let mut digits = 0_usize;
    for (from, group) in groups.iter().enumerate().rev() {
        digits = digits.saturating_add(group.len());
        if digits > *DIGITS.end() {
            return false;
        }
        let number = || groups.iter().skip(from).flat_map(|group| group.bytes());
        let begins = number().next().is_some_and(|first| !matches!(first, b'0' | b'1'));
        if DIGITS.contains(&digits) && begins && is_luhn(number().rev()) {
            return true;
        }
    }
    false
}

/// Whether the check digit is right; the last digit comes first.
fn is_luhn(from_the_end: impl Iterator<Item = u8>) -> bool {
    let sum: u32 = from_the_end
        .map(|digit| u32::from(digit.saturating_sub(b'0')))
        .enumerate()
        .map(|(nth, digit)| match nth % 2 {
            0 => digit,
            _ if digit > 4 => digit * 2 - 9,
            _ => digit * 2,
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Numbers that schemes publish for tests.
    const NUMBERS: [&str; 8] = [
        "4111111111111111",
        "5555555555554444",
        "378282246310005",
        "6011111111111117",
        "3530111333300000",
        "30569309025904",
        "4222222222222",
        "6799990100000000019",
    ];

    #[test]
    fn a_card_number_is_found_however_it_is_written() {
        for number in NUMBERS {
            let grouped = |by: &str| {
                let groups: Vec<_> = number.as_bytes().chunks(4).map(String::from_utf8_lossy).collect();
                groups.join(by)
            };
            for written in [
                number.to_owned(),
                grouped(" "),
                grouped("-"),
                grouped(" - "),
                grouped("\u{2013}"),
                grouped("\u{a0}"),
                format!("card {number}, expires 12/29"),
                format!("kort:{number}."),
                format!("kort{number}x"),
                format!("order 1007 {}", grouped(" ")),
                format!("{} 12", grouped(" ")),
            ] {
                assert!(is_card_number_in(&written), "{written}");
            }
        }
    }

    #[test]
    fn what_is_no_card_number_is_let_through() {
        for text in [
            "",
            "goodwill, approved by Anna",
            // One digit is wrong, missing, or too many.
            "4111111111111112",
            "411111111111",
            "41111111111111111111111",
            // Something else stands between.
            "4111 1111, 1111 1111",
            "4111/1111/1111/1111",
            "4111    1111 1111 1111",
            // No scheme begins so: times in milliseconds, and numbers padded with zeros.
            "1764331200001",
            "1764331200019",
            "0000000000000000",
            // Ids and hashes.
            "41111111-1111-1111-8111-1111111111aa",
            "a4111111111111111",
            "4111111111111111deadbeef",
            // An address, a telephone number.
            "Storgata 12, 0155 Oslo, +47 22 86 44 00",
        ] {
            assert!(!is_card_number_in(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_number_with_a_right_last_digit_is_one(digits in "[2-9][0-9]{11,17}") {
            let right = (0..10).filter(|last| is_card_number_in(&format!("{digits}{last}"))).count();
            prop_assert_eq!(right, 1);
        }

        #[test]
        fn no_text_is_too_strange(text in any::<String>()) {
            is_card_number_in(&text);
        }
    }
}
