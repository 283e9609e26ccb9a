//! The keys that an issuer publishes (JWKS), each pinned to one algorithm.

use jsonwebtoken::{
    DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::issuer::Algorithm;

/// An issuer has a few keys; more are a mistake or an attack.
const KEYS_MAX: usize = 64;

/// An RSA modulus of 2048 to 8192 bits, in bytes.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// What an issuer published.
pub(super) struct Keys {
    keys: Vec<Key>,
    /// When it was asked for them.
    pub(super) fetched: Instant,
}

/// One key, and the one algorithm that it verifies.
pub(super) struct Key {
    id: String,
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
}

#[derive(Deserialize)]
struct Published {
    keys: Vec<Value>,
}

impl Keys {
    /// Reads a JWKS. Keys that are for something else, without a name, or for an algorithm that is not `allowed` are
    /// passed over; a set without any other is none.
    pub(super) fn read(json: &[u8], allowed: &[Algorithm]) -> Result<Self, String> {
        let published: Published =
            serde_json::from_slice(json).map_err(|_| "its keys are not a JWKS".to_owned())?;
        if published.keys.len() > KEYS_MAX {
            return Err(format!("it publishes {} keys, more than {KEYS_MAX}", published.keys.len()));
        }
        let keys: Vec<Key> = published.keys.into_iter().filter_map(|key| Key::read(key, allowed)).collect();
        if keys.is_empty() {
            let names = allowed.iter().map(|algorithm| algorithm.as_str()).collect::<Vec<_>>().join(", ");
            return Err(format!("it publishes no key with a kid that is for {names}"));
        }
        Ok(Self { keys, fetched: Instant::now() })
    }

    /// The keys of that name: one, or one for each algorithm.
    pub(super) fn of(&self, id: &str) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |key| key.id == id)
    }
}

impl Key {
    fn read(json: Value, allowed: &[Algorithm]) -> Option<Self> {
        let key: Jwk = serde_json::from_value(json).ok()?;
        let common = &key.common;
        let is_for_signatures =
            common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature)
                && common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
        let (algorithm, named) = match &key.algorithm {
            AlgorithmParameters::RSA(_) => (Algorithm::Rs256, KeyAlgorithm::RS256),
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                (Algorithm::Es256, KeyAlgorithm::ES256)
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                (Algorithm::EdDsa, KeyAlgorithm::EdDSA)
            }
            _ => return None,
        };
        let is_for_that = common.key_algorithm.is_none_or(|its_own| its_own == named);
        let decoding = DecodingKey::from_jwk(&key).ok()?;
        if let jsonwebtoken::DecodingKeyKind::RsaModulusExponent { n, .. } = decoding.kind()
            && !MODULUS_BYTES.contains(&n.len())
        {
            return None;
        }
        let id = key.common.key_id.filter(|id| !id.is_empty())?;
        (is_for_signatures && is_for_that && allowed.contains(&algorithm)).then_some(Self {
            id,
            algorithm,
            decoding,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn octets(length: usize) -> String {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(vec![0xff; length])
    }

    fn rsa(bits: usize) -> Value {
        json!({"kty": "RSA", "kid": "r", "n": octets(bits / 8), "e": "AQAB"})
    }

    fn ec(curve: &str) -> Value {
        json!({"kty": "EC", "kid": "e", "crv": curve, "x": octets(32), "y": octets(32)})
    }

    fn with(mut key: Value, name: &str, value: Value) -> Value {
        key[name] = value;
        key
    }

    fn read(keys: &[Value], allowed: &[Algorithm]) -> Result<Keys, String> {
        Keys::read(json!({ "keys": keys }).to_string().as_bytes(), allowed)
    }

    #[test]
    fn each_key_is_pinned_to_the_one_algorithm_of_its_kind() {
        let ed = json!({"kty": "OKP", "kid": "o", "crv": "Ed25519", "x": octets(32)});
        let keys = read(&[rsa(2048), ec("P-256"), ed], &Algorithm::ALL).unwrap();
        for (id, algorithm) in [("r", Algorithm::Rs256), ("e", Algorithm::Es256), ("o", Algorithm::EdDsa)] {
            assert_eq!(keys.of(id).map(|key| key.algorithm).collect::<Vec<_>>(), [algorithm]);
        }
        assert_eq!(keys.of("x").count(), 0);
    }

    #[test]
    fn what_is_for_something_else_is_passed_over() {
        for other in [
            json!({"kty": "oct", "kid": "s", "k": octets(32)}),
            json!({"kty": "unknown", "kid": "u"}),
            json!({"kid": "u"}),
            json!(7),
            rsa(1024),
            rsa(16_384),
            with(rsa(2048), "kid", json!("")),
            with(rsa(2048), "kid", json!(7)),
            with(rsa(2048), "n", json!("!")),
            with(rsa(2048), "use", json!("enc")),
            with(rsa(2048), "key_ops", json!(["encrypt"])),
            with(rsa(2048), "alg", json!("RS512")),
            with(rsa(2048), "alg", json!("PS256")),
            with(rsa(2048), "alg", json!("HS256")),
            with(rsa(2048), "alg", json!("none")),
            with(ec("P-256"), "alg", json!("RS256")),
            ec("P-384"),
            ec("secp256k1"),
        ] {
            let told = read(std::slice::from_ref(&other), &Algorithm::ALL).err();
            assert!(told.is_some_and(|told| told.contains("no key with a kid")), "{other}");
            // And does not spoil the others.
            assert!(read(&[other, ec("P-256")], &Algorithm::ALL).is_ok());
        }
        assert!(read(&[rsa(2048)], &[Algorithm::Es256]).is_err());
        assert!(read(&[with(rsa(2048), "alg", json!("RS256"))], &Algorithm::ALL).is_ok());
        assert!(read(&[with(rsa(2048), "use", json!("sig"))], &Algorithm::ALL).is_ok());
    }

    #[test]
    fn what_is_no_set_is_none() {
        for text in ["", "[]", "{}", "{\"keys\": {}}", "{\"keys\": []}", "<html>", "{\"keys\": [7"] {
            assert!(Keys::read(text.as_bytes(), &Algorithm::ALL).is_err(), "{text}");
        }
        let many: Vec<_> =
            (0..=KEYS_MAX).map(|nth| with(ec("P-256"), "kid", json!(nth.to_string()))).collect();
        assert!(read(&many, &Algorithm::ALL).is_err_and(|why| why.contains("65 keys")));
        assert!(read(&many[..KEYS_MAX], &Algorithm::ALL).is_ok());
    }
}
