//! One token: what is read of it before anything is believed, and what has to
//! hold before anything is.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Validation, errors::ErrorKind};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::issuer::keys::Keys;
use crate::issuer::{Algorithm, LEEWAY, Refusal, Settings, SubjectKind, now};

/// Longest name of a key that is looked for.
const KEY_ID_BYTES_MAX: usize = 256;
/// Longest subject.
const SUBJECT_BYTES_MAX: usize = 255;

/// Kinds of JWT that are access tokens or say nothing of their kind. Others,
/// such as the one by which an issuer tells of a logout, are for something else.
const KINDS: [&str; 2] = ["jwt", "at+jwt"];

/// A token of which nothing is believed yet.
pub(super) struct Token<'a> {
    text: &'a str,
    head: Head,
    /// What it says of its issuer.
    issuer: String,
}

#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

#[derive(Deserialize)]
struct Claimed {
    iss: String,
}

#[derive(Deserialize)]
struct Claims {
    /// Text alone: a list of issuers is nobody's token.
    #[serde(rename = "iss")]
    _iss: String,
    #[serde(default)]
    exp: Value,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl<'a> Token<'a> {
    /// Reads what the token says of itself.
    pub(super) fn read(text: &'a str) -> Result<Self, Refusal> {
        let mut parts = text.split('.');
        let (Some(head), Some(claims), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refusal::Invalid("the token is not known"));
        };
        let head: Head = json(head).ok_or(Refusal::Invalid("the token's header cannot be read"))?;
        let Claimed { iss } = json(claims)
            .ok_or(Refusal::Invalid("the token's claims cannot be read, or name no issuer (iss)"))?;
        Ok(Self { text, head, issuer: iss })
    }

    /// Who signed it, by what it says.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The name of the key that signed it, by what it says, if everything else that it says of itself is allowed.
    pub(super) fn key_id(&self, issuer: &Settings) -> Result<&str, Refusal> {
        self.algorithm(issuer)?;
        if self.head.crit.is_some() {
            return Err(Refusal::Invalid("the token asks for an extension (crit) that is not known here"));
        }
        let kind = self.head.typ.as_deref().map(str::to_ascii_lowercase);
        let kind = kind.as_deref().map(|kind| kind.strip_prefix("application/").unwrap_or(kind));
        if kind.is_some_and(|kind| !KINDS.contains(&kind)) {
            return Err(Refusal::Invalid("the token is of another kind (typ): an access token is needed"));
        }
        match self.head.kid.as_deref() {
            None | Some("") => Err(Refusal::Invalid("the token does not name its key (kid)")),
            Some(id) if id.len() > KEY_ID_BYTES_MAX => {
                Err(Refusal::Invalid("the name of the token's key (kid) is too long"))
            }
            Some(id) => Ok(id),
        }
    }

    fn algorithm(&self, issuer: &Settings) -> Result<Algorithm, Refusal> {
        let algorithm = Algorithm::of(&self.head.alg).filter(|named| issuer.algorithms.contains(named));
        algorithm.ok_or(Refusal::Invalid("the token's algorithm (alg) is not one that its issuer may use"))
    }

    /// Whom the token names, and when it expires, if all holds. Expiry is none where it is no whole number.
    pub(super) fn verify(&self, keys: &Keys, issuer: &Settings) -> Result<(String, Option<u64>), Refusal> {
        let (id, algorithm) = (self.key_id(issuer)?, self.algorithm(issuer)?);
        let key = keys.of(id).find(|key| key.algorithm == algorithm);
        let key = key.ok_or(Refusal::Invalid("the token's algorithm (alg) is not that of its key"))?;
        if now().is_none() {
            return Err(Refusal::Invalid("this machine's clock is before 1970"));
        }
        // The key's algorithm, which is also the token's: never the token's alone.
        let mut due = Validation::new(match key.algorithm {
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        });
        due.leeway = LEEWAY.as_secs();
        due.validate_nbf = true;
        due.set_required_spec_claims(&["exp", "iss", "aud"]);
        due.set_issuer(&[&issuer.url]);
        due.set_audience(&issuer.audiences);
        let verified = jsonwebtoken::decode::<Claims>(self.text, &key.decoding, &due);
        let Claims { exp, rest, .. } = verified.map_err(|error| refusal(error.kind()))?.claims;
        if rest.contains_key("cnf") {
            let why = "the token is bound to a key (cnf), which is not verified here";
            return Err(Refusal::Invalid(why));
        }
        if !issuer.require.iter().all(|(claim, due)| rest.get(claim).is_some_and(|value| holds(value, due))) {
            return Err(Refusal::Invalid(
                "the token does not have a claim that its issuer's tokens must have",
            ));
        }
        let subject = match &issuer.subject {
            SubjectKind::Claim(claim) => rest.get(claim).and_then(Value::as_str).map(str::to_owned),
            SubjectKind::ServiceAccount => service_account(&rest),
        };
        let subject = subject.filter(|subject| (1..=SUBJECT_BYTES_MAX).contains(&subject.len()));
        let subject = subject.ok_or(match issuer.subject {
            SubjectKind::Claim(_) => Refusal::Invalid("the token does not name its subject"),
            SubjectKind::ServiceAccount => Refusal::Invalid("the token is not that of a service account"),
        })?;
        Ok((subject, exp.as_u64()))
    }
}

/// A part of a token.
fn json<T: for<'de> Deserialize<'de>>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// Whether a claim has this value, alone or among others.
fn holds(claim: &Value, due: &Value) -> bool {
    claim == due || claim.as_array().is_some_and(|all| all.contains(due))
}

/// The namespace and the name, which a token of Kubernetes says twice.
fn service_account(claims: &Map<String, Value>) -> Option<String> {
    let subject = claims.get("sub")?.as_str()?.strip_prefix("system:serviceaccount:")?;
    let (namespace, name) = subject.split_once(':')?;
    let is_plain = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
    };
    let bound = claims.get("kubernetes.io")?;
    let said = (bound.get("namespace")?.as_str()?, bound.pointer("/serviceaccount/name")?.as_str()?);
    (is_plain(namespace) && is_plain(name) && said == (namespace, name))
        .then(|| format!("{namespace}/{name}"))
}

fn refusal(why: &ErrorKind) -> Refusal {
    Refusal::Invalid(match why {
        ErrorKind::ExpiredSignature => return Refusal::Expired,
        ErrorKind::ImmatureSignature => "the token is not valid yet (nbf)",
        ErrorKind::InvalidSignature => "the token's signature is not that of its key",
        ErrorKind::InvalidAudience => "the token is for somebody else (aud)",
        ErrorKind::InvalidIssuer => "the token's issuer is another one (iss)",
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => {
            "the token does not say for whom it is (aud)"
        }
        ErrorKind::MissingRequiredClaim(claim) if claim == "exp" => "the token never expires (exp)",
        ErrorKind::InvalidClaimFormat(_) => "the token's times (exp, nbf) cannot be read",
        _ => "the token cannot be read",
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_account_is_what_both_claims_say() {
        let claims = |subject: &str, namespace: &str, name: &str| {
            let bound = json!({"namespace": namespace, "serviceaccount": {"name": name, "uid": "x"}});
            let claims = json!({"sub": subject, "kubernetes.io": bound});
            service_account(claims.as_object().unwrap())
        };
        let subject = "system:serviceaccount:shop:orders";
        assert_eq!(claims(subject, "shop", "orders").as_deref(), Some("shop/orders"));
        for (subject, namespace, name) in [
            (subject, "shop", "returns"),
            (subject, "other", "orders"),
            ("system:serviceaccount:shop", "shop", ""),
            ("system:serviceaccount:shop:", "shop", ""),
            ("system:serviceaccount::orders", "", "orders"),
            ("system:serviceaccount:a/b:orders", "a/b", "orders"),
            ("system:serviceaccount:shop:a:b", "shop", "a:b"),
            ("system:node:worker", "shop", "orders"),
            ("shop:orders", "shop", "orders"),
        ] {
            assert_eq!(claims(subject, namespace, name), None, "{subject} {namespace} {name}");
        }
        for incomplete in [json!({}), json!({"sub": subject}), json!({"sub": 7, "kubernetes.io": {}})] {
            assert_eq!(service_account(incomplete.as_object().unwrap()), None, "{incomplete}");
        }
    }

    #[test]
    fn a_claim_has_a_value_alone_or_among_others() {
        for (claim, due, expected) in [
            (json!("a"), json!("a"), true),
            (json!(["b", "a"]), json!("a"), true),
            (json!(true), json!(true), true),
            (json!(7), json!(7), true),
            (json!("a b"), json!("a"), false),
            (json!("true"), json!(true), false),
            (json!({"a": "a"}), json!("a"), false),
            (json!(null), json!("a"), false),
        ] {
            assert_eq!(holds(&claim, &due), expected, "{claim} {due}");
        }
    }
}
