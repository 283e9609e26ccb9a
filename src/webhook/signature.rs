//! The signature of a delivery: hex HMAC-SHA1 of the raw body [D 10.1]. SHA-1
//! is Dintero's choice; HMAC does not rest on what is broken in it.

use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha1::Sha1;
use subtle::{Choice, ConstantTimeEq as _};

/// The bytes of a SHA-1.
const BYTES: usize = 20;

/// Reads the header `event-signature`: forty hexadecimal digits.
pub(super) fn parse(header: &[u8]) -> Option<[u8; BYTES]> {
    let (pairs, rest) = header.as_chunks::<2>();
    let mut signature = [0; BYTES];
    if pairs.len() != BYTES || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in signature.iter_mut().zip(pairs) {
        *byte = (digit(*high)? << 4) | digit(*low)?;
    }
    Some(signature)
}

fn digit(letter: u8) -> Option<u8> {
    match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        b'A'..=b'F' => Some(letter - b'A' + 10),
        _ => None,
    }
}

/// Whether one of the secrets signed the body. How long it takes tells nothing
/// about a secret, nor which one it was.
pub(super) fn fits(given: &[u8; BYTES], body: &[u8], secrets: &[SecretString]) -> bool {
    let mut fits = Choice::from(0);
    for secret in secrets {
        // HMAC takes a key of any length.
        let Ok(mut hmac) = Hmac::<Sha1>::new_from_slice(secret.expose_secret().as_bytes()) else { continue };
        hmac.update(body);
        fits |= hmac.finalize().into_bytes().as_slice().ct_eq(given);
    }
    fits.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of [D 10.1].
    const BODY: &[u8] = br#"{"account_id":"T12345678","event":"checkout_transaction"}"#;
    const SIGNATURE: &str = "3898d2af30aa4793c407460bbcd67f4af346f02b";

    fn secrets(list: &[&str]) -> Vec<SecretString> {
        list.iter().map(|secret| SecretString::from(*secret)).collect()
    }

    #[test]
    fn the_signature_of_the_example_fits() {
        let given = parse(SIGNATURE.as_bytes()).unwrap();
        assert!(fits(&given, BODY, &secrets(&["whsec_example"])));
        assert_eq!(parse(SIGNATURE.to_uppercase().as_bytes()), Some(given));
    }

    #[test]
    fn any_of_several_secrets_may_have_signed() {
        let given = parse(SIGNATURE.as_bytes()).unwrap();
        assert!(fits(&given, BODY, &secrets(&["new", "whsec_example"])));
        assert!(fits(&given, BODY, &secrets(&["whsec_example", "new"])));
        assert!(!fits(&given, BODY, &secrets(&["new", "newer"])));
        assert!(!fits(&given, BODY, &[]), "without a secret nothing is genuine");
    }

    #[test]
    fn every_bit_of_body_and_signature_counts() {
        let given = parse(SIGNATURE.as_bytes()).unwrap();
        let secrets = secrets(&["whsec_example"]);
        for place in 0..BYTES {
            let mut forged = given;
            forged[place] ^= 1;
            assert!(!fits(&forged, BODY, &secrets), "{place}");
        }
        let mut forged = BODY.to_vec();
        forged[10] ^= 1;
        assert!(!fits(&given, &forged, &secrets));
    }

    #[test]
    fn what_is_no_signature_is_none() {
        for header in
            ["", "3", "zz98d2af30aa4793c407460bbcd67f4af346f02b", &SIGNATURE[1..], &SIGNATURE.repeat(2)]
        {
            assert_eq!(parse(header.as_bytes()), None, "{header}");
        }
        assert_eq!(parse(&[0xff; 40]), None);
    }
}
