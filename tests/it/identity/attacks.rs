//! A table of attacks on identity by tokens, each sent over the wire: refused for the right reason, and the next good
//! caller is served. Those by certificates are in `certificates`, those that need time in `tokens`.

use hmac::{Hmac, KeyInit, Mac};
use http::HeaderValue;
use rcgen::{KeyPair, PKCS_RSA_SHA384, PKCS_RSA_SHA512, PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};
use sha2::{Sha256, Sha384, Sha512};
use tonic::{Code, Request};

use payops::grpc::pb::{self, payment_operations_service_client::PaymentOperationsServiceClient};

use super::issuer::{Fault, Issuer, Key, encode, in_seconds, message};
use super::tokens::{declared, marked, trusting, who};
use crate::bad_input::wire::Raw;
use crate::support::{Refused, TestApp, free_address};

/// What has to come of it.
#[derive(Clone, Copy)]
enum Due {
    Caller(&'static str),
    /// `UNAUTHENTICATED` with `CREDENTIALS_INVALID` and these words.
    Invalid(&'static str),
    Expired,
    Missing,
    /// `UNAVAILABLE` with `ISSUER_UNAVAILABLE`.
    Unavailable,
}
use Due::{Caller, Expired, Invalid, Missing, Unavailable};

/// One attempt: its name, the headers that it brings, and what has to come of it.
struct Row {
    name: String,
    headers: Vec<(&'static str, Vec<u8>)>,
    due: Due,
}

fn row(name: &str, token: &str, due: Due) -> Row {
    header(name, &[("authorization", format!("Bearer {token}"))], due)
}

fn header(name: &str, headers: &[(&'static str, String)], due: Due) -> Row {
    let headers = headers.iter().map(|(name, value)| (*name, value.clone().into_bytes())).collect();
    Row { name: name.to_owned(), headers, due }
}

/// The claims, changed.
fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

/// The claims without one.
fn without(mut claims: Value, name: &str) -> Value {
    claims.as_object_mut().unwrap().remove(name);
    claims
}

/// Everything that the rows are made of.
struct World {
    rsa: Key,
    ec: Key,
    ed: Key,
    /// Of nobody; by the name of a key that is published.
    stranger: Key,
    login: Issuer,
    /// Publishes an RSA key, too, which its tokens must not be signed with.
    strict: Issuer,
    strict_rsa: Key,
    strict_ec: Key,
    cluster: Issuer,
    cluster_key: Key,
    /// Declared nowhere.
    foreign: Issuer,
    /// Each of them fails in its own way.
    broken: Vec<(&'static str, Issuer)>,
}

impl World {
    async fn new() -> Self {
        let (rsa, ec, ed) = (Key::rsa("rsa"), Key::ec("ec"), Key::ed("ed"));
        let (strict_rsa, strict_ec, cluster_key) = (Key::rsa("rsa"), Key::ec("ec"), Key::rsa("rsa"));
        let login = Issuer::start(&[&rsa, &ec, &ed]).await;
        let strict = Issuer::start(&[&strict_rsa, &strict_ec]).await;
        let cluster = Issuer::start(&[&cluster_key]).await;
        let foreign = Issuer::start(&[&ec]).await;
        let mut broken = Vec::new();
        // What is too long, or elsewhere, would be right in all else.
        let long = json!({"keys": [ec.published()], "x": "x".repeat(1024 * 1024)}).to_string();
        for (name, fault) in [
            ("slow", Fault::Slow(60_000)),
            ("huge", Fault::Says(long)),
            ("garbage", Fault::Says("<html>".to_owned())),
            ("empty", Fault::Says("{\"keys\": []}".to_owned())),
            (
                "secret",
                Fault::Says(
                    "{\"keys\": [{\"kty\": \"oct\", \"kid\": \"ec\", \"k\": \"c2VjcmV0\"}]}".to_owned(),
                ),
            ),
            ("failing", Fault::Status(500)),
            ("moved", Fault::RedirectsTo("/moved".to_owned())),
            ("hangs-up", Fault::HangsUp),
        ] {
            let issuer = Issuer::start(&[&ec]).await;
            issuer.fails(fault);
            broken.push((name, issuer));
        }
        broken.push(("other-name", Issuer::start_for("other.example", &[&ec]).await));
        let impostor = Issuer::start(&[&ec]).await;
        impostor.discovers(json!({"issuer": login.url, "jwks_uri": format!("{}/keys", impostor.url)}));
        broken.push(("impostor", impostor));
        let elsewhere = Issuer::start(&[&ec]).await;
        let by_address = elsewhere.url.replace("localhost", "127.0.0.1");
        elsewhere.discovers(json!({"issuer": elsewhere.url, "jwks_uri": format!("{by_address}/keys")}));
        broken.push(("elsewhere", elsewhere));
        let plain = Issuer::start(&[&ec]).await;
        plain.discovers(json!({"issuer": plain.url, "jwks_uri": plain.url.replace("https", "http")}));
        broken.push(("plain", plain));
        let stranger = Key::ec("ec");
        Self {
            rsa,
            ec,
            ed,
            stranger,
            login,
            strict,
            strict_rsa,
            strict_ec,
            cluster,
            cluster_key,
            foreign,
            broken,
        }
    }

    async fn boundary(&self) -> TestApp {
        let kubernetes = format!("kubernetes = true\njwks_url = \"{}/keys\"", self.cluster.url);
        let mut issuers = vec![
            declared("login", &self.login, ""),
            declared(
                "strict",
                &self.strict,
                "algorithms = [\"ES256\"]\nrequire = { azp = \"checkout\", level = 2 }",
            ),
            declared("cluster", &self.cluster, &kubernetes),
        ];
        issuers.extend(self.broken.iter().map(|(name, issuer)| declared(name, issuer, "")));
        let orders = ["login:o", "strict:o", "cluster:shop/orders"];
        let app = trusting(&issuers, &orders, &["login:r", "cluster:shop/returns"]).await;
        marked(&app).await;
        app
    }

    fn claims(&self) -> Value {
        self.login.claims("o")
    }

    /// Good tokens, each in its own way.
    #[rustfmt::skip]
    fn good(&self) -> Vec<Row> {
        let claims = || self.claims();
        let ec = |claims: &Value| self.ec.token(claims);
        let strict = with(with(self.strict.claims("o"), "azp", json!("checkout")), "level", json!([1, 2]));
        let account = self.cluster.claims_of_service_account("shop", "returns");
        let typed = |kind: &str| self.ec.token_with(&with(self.ec.header(), "typ", json!(kind)), &claims());
        vec![
            row("RS256", &self.rsa.token(&claims()), Caller("orders")),
            row("ES256", &ec(&claims()), Caller("orders")),
            row("EdDSA", &self.ed.token(&claims()), Caller("orders")),
            row("another subject", &ec(&self.login.claims("r")), Caller("returns")),
            row("for us among others", &ec(&with(claims(), "aud", json!(["other", "payops"]))), Caller("orders")),
            row("expired within the leeway", &ec(&with(claims(), "exp", json!(in_seconds(-10)))), Caller("orders")),
            row("valid within the leeway", &ec(&with(claims(), "nbf", json!(in_seconds(10)))), Caller("orders")),
            row("times with a fraction", &ec(&with(claims(), "exp", json!(4_000_000_000.5))), Caller("orders")),
            row("an access token by its kind", &typed("at+jwt"), Caller("orders")),
            row("the same in full", &typed("application/at+JWT"), Caller("orders")),
            row("no kind", &self.ec.token_with(&without(self.ec.header(), "typ"), &claims()), Caller("orders")),
            row("an issuer that wants more", &self.strict_ec.token(&strict), Caller("orders")),
            row("a service account", &self.cluster_key.token(&account), Caller("returns")),
            row("a token of our own", "token-of-returns", Caller("returns")),
            header("a scheme in small letters", &[("authorization", format!("bearer {}", ec(&claims())))], Caller("orders")),
        ]
    }

    /// Which algorithm, and which key.
    #[rustfmt::skip]
    fn keys(&self) -> Vec<Row> {
        const ALGORITHM: Due = Invalid("is not one that its issuer may use");
        const SIGNATURE: Due = Invalid("signature is not that of its key");
        let claims = self.claims();
        let head = |algorithm: &str, id: &str| json!({"alg": algorithm, "typ": "JWT", "kid": id});
        let unsigned = |algorithm: &str| message(&head(algorithm, "rsa"), &claims);
        let mac = |algorithm: &str, id: &str, secret: &[u8]| {
            let signed = message(&head(algorithm, id), &claims);
            let code = match algorithm {
                "HS256" => hmac::<Hmac<Sha256>>(secret, &signed),
                "HS384" => hmac::<Hmac<Sha384>>(secret, &signed),
                _ => hmac::<Hmac<Sha512>>(secret, &signed),
            };
            format!("{signed}.{}", encode(&code))
        };
        let signed_as = |algorithm: &str, id: &str, key: &Key| key.token_with(&head(algorithm, id), &claims);
        let rsa_with = |algorithm: &'static rcgen::SignatureAlgorithm, name: &str| {
            let pair = KeyPair::from_pem_and_sign_algo(&self.rsa.pair.serialize_pem(), algorithm).unwrap();
            let signed = message(&head(name, "rsa"), &claims);
            format!("{signed}.{}", encode(&pair.sign(signed.as_bytes()).unwrap()))
        };
        let good = self.ec.token(&claims);
        let (signed, signature) = good.rsplit_once('.').unwrap();
        let other = self.ec.token(&self.login.claims("r"));
        let other = other.rsplit_once('.').unwrap().1;
        let with_head = |name: &str, value: Value| self.stranger.token_with(&with(head("ES256", "mine"), name, value), &claims);
        let mine = with(self.stranger.published(), "kid", json!("mine"));
        let pem = self.rsa.pair.public_key_pem();
        let published = self.rsa.published();
        let modulus = published["n"].as_str().unwrap();
        vec![
            row("alg none", &format!("{}.", unsigned("none")), ALGORITHM),
            row("alg None", &format!("{}.", unsigned("None")), ALGORITHM),
            row("alg NONE", &format!("{}.", unsigned("NONE")), ALGORITHM),
            row("alg nOnE with a signature", &signed_as("nOnE", "rsa", &self.rsa), ALGORITHM),
            row("alg empty", &signed_as("", "rsa", &self.rsa), ALGORITHM),
            row("alg absent", &self.rsa.token_with(&json!({"kid": "rsa"}), &claims), Invalid("header cannot be read")),
            row("alg a number", &self.rsa.token_with(&json!({"alg": 256, "kid": "rsa"}), &claims), Invalid("header cannot be read")),
            row("alg a list", &self.rsa.token_with(&json!({"alg": ["none", "RS256"], "kid": "rsa"}), &claims), Invalid("header cannot be read")),
            row("HS256 with the public key in PEM", &mac("HS256", "rsa", pem.as_bytes()), ALGORITHM),
            row("HS256 with the public key in DER", &mac("HS256", "rsa", &self.rsa.pair.subject_public_key_info()), ALGORITHM),
            row("HS256 with the modulus", &mac("HS256", "rsa", modulus.as_bytes()), ALGORITHM),
            row("HS256 with the point of a curve", &mac("HS256", "ec", self.ec.pair.der_bytes()), ALGORITHM),
            row("HS256 with an Ed25519 key", &mac("HS256", "ed", self.ed.pair.der_bytes()), ALGORITHM),
            row("HS384", &mac("HS384", "rsa", pem.as_bytes()), ALGORITHM),
            row("HS512", &mac("HS512", "rsa", pem.as_bytes()), ALGORITHM),
            row("HS256 with nothing", &mac("HS256", "rsa", b""), ALGORITHM),
            row("RS384 by the key of RS256", &rsa_with(&PKCS_RSA_SHA384, "RS384"), ALGORITHM),
            row("RS512 by the key of RS256", &rsa_with(&PKCS_RSA_SHA512, "RS512"), ALGORITHM),
            row("RS512 that says RS256", &rsa_with(&PKCS_RSA_SHA512, "RS256"), SIGNATURE),
            row("PS256", &signed_as("PS256", "rsa", &self.rsa), ALGORITHM),
            row("ES384", &signed_as("ES384", "ec", &self.ec), ALGORITHM),
            row("RS256 by name of an ES256 key", &signed_as("RS256", "ec", &self.rsa), Invalid("is not that of its key")),
            row("ES256 by name of an RS256 key", &signed_as("ES256", "rsa", &self.ec), Invalid("is not that of its key")),
            row("EdDSA by name of an ES256 key", &signed_as("EdDSA", "ec", &self.ed), Invalid("is not that of its key")),
            row("ES256 by name of an Ed25519 key", &signed_as("ES256", "ed", &self.ec), Invalid("is not that of its key")),
            row("an algorithm in small letters", &signed_as("es256", "ec", &self.ec), ALGORITHM),
            row("an algorithm that its issuer may not use", &self.strict_rsa.token(&self.strict.claims("o")), ALGORITHM),
            row("a stranger's signature", &signed_as("ES256", "ec", &self.stranger), SIGNATURE),
            row("another issuer's key of that name", &signed_as("ES256", "ec", &self.strict_ec), SIGNATURE),
            row("the signature of another token", &format!("{signed}.{other}"), SIGNATURE),
            row("no signature", &format!("{signed}."), SIGNATURE),
            row("half a signature", &format!("{signed}.{}", &signature[..40]), SIGNATURE),
            row("a signature and more", &format!("{signed}.{signature}AAAA"), SIGNATURE),
            row("a signature of zeros", &format!("{signed}.{}", encode(&[0; 64])), SIGNATURE),
            row("a signature of ones", &format!("{signed}.{}", encode(&[0xff; 64])), SIGNATURE),
            row("a signature in DER", &format!("{signed}.{}", encode(&self.ec.pair.sign(signed.as_bytes()).unwrap())), SIGNATURE),
            row("a signature that is not base64", &format!("{signed}.!!!!"), Invalid("the token cannot be read")),
            row("a key of its own in the header", &with_head("jwk", mine.clone()), Invalid("not one that its issuer publishes")),
            row("the address of keys in the header", &with_head("jku", json!(format!("{}/keys", self.foreign.url))), Invalid("not one that its issuer publishes")),
            row("the address of a certificate in the header", &with_head("x5u", json!(self.foreign.url)), Invalid("not one that its issuer publishes")),
            row("a certificate in the header", &with_head("x5c", json!(["MIIB"])), Invalid("not one that its issuer publishes")),
            row("a known name and a key of its own", &self.stranger.token_with(&with(head("ES256", "ec"), "jwk", mine), &claims), SIGNATURE),
        ]
    }

    /// The names of keys, and the kinds of tokens.
    #[rustfmt::skip]
    fn heads(&self) -> Vec<Row> {
        const UNKNOWN: Due = Invalid("not one that its issuer publishes");
        let head = |name: &str, value: Value| self.ec.token_with(&with(self.ec.header(), name, value), &self.claims());
        let mut rows = vec![
            row("no kid", &self.ec.token_with(&without(self.ec.header(), "kid"), &self.claims()), Invalid("does not name its key")),
            row("an empty kid", &head("kid", json!("")), Invalid("does not name its key")),
            row("a kid that is nothing", &head("kid", json!(null)), Invalid("does not name its key")),
            row("a kid that is a number", &head("kid", json!(7)), Invalid("header cannot be read")),
            row("a kid that is a table", &head("kid", json!({"$ne": ""})), Invalid("header cannot be read")),
            row("a kid of 257 letters", &head("kid", json!("k".repeat(257))), Invalid("is too long")),
            row("an unknown extension", &head("crit", json!(["exp"])), Invalid("(crit)")),
            row("an extension that changes what is signed", &self.ec.token_with(&json!({"alg": "ES256", "kid": "ec", "b64": false, "crit": ["b64"]}), &self.claims()), Invalid("(crit)")),
        ];
        for id in [
            "../../../../dev/null",
            "..\\..\\windows\\win.ini",
            "/etc/passwd",
            "file:///etc/passwd",
            "ec\0",
            "ec ",
            "EC",
            "ec' OR '1'='1",
            "ec;DROP TABLE keys",
            "ec%00",
            "ec\r\nx: y",
            "{{ec}}",
            "${jndi:ldap://example.org}",
            "$(reboot)",
        ] {
            rows.push(row(&format!("kid {id:?}"), &head("kid", json!(id)), UNKNOWN));
        }
        let address = format!("{}/keys", self.foreign.url);
        rows.push(row("kid an address", &head("kid", json!(address)), UNKNOWN));
        for kind in ["logout+jwt", "dpop+jwt", "secevent+jwt", "id_token", "JWE", "jwt2", ""] {
            rows.push(row(&format!("typ {kind:?}"), &head("typ", json!(kind)), Invalid("of another kind (typ)")));
        }
        rows
    }

    /// What the token says.
    #[rustfmt::skip]
    fn claimed(&self) -> Vec<Row> {
        const AUDIENCE: Due = Invalid("for somebody else (aud)");
        const SUBJECT: Due = Invalid("does not name its subject");
        const NOBODY: Due = Invalid("subject is no caller's");
        const ISSUER: Due = Invalid("issuer is not one of the callers file");
        let token = |claims: Value| self.ec.token(&claims);
        let of = |name: &str, value: Value| token(with(self.claims(), name, value));
        let foreign = self.ec.token(&self.foreign.claims("o"));
        let crossed = self.ec.token(&with(self.strict.claims("o"), "azp", json!("checkout")));
        let strict = |claims: Value| self.strict_ec.token(&claims);
        vec![
            row("a foreign issuer", &foreign, ISSUER),
            row("no issuer", &token(without(self.claims(), "iss")), Invalid("name no issuer (iss)")),
            row("an issuer with a slash", &of("iss", json!(format!("{}/", self.login.url))), ISSUER),
            row("an issuer in capitals", &of("iss", json!(self.login.url.to_uppercase())), ISSUER),
            row("an issuer's host with more", &of("iss", json!(format!("{}.example.org", self.login.url))), ISSUER),
            row("an issuer behind an @", &of("iss", json!(format!("https://localhost@{}", self.login.url.replace("https://", "")))), ISSUER),
            row("a list of issuers", &of("iss", json!([self.login.url])), Invalid("name no issuer (iss)")),
            row("one issuer's token by another's key", &crossed, Invalid("signature is not that of its key")),
            row("no audience", &token(without(self.claims(), "aud")), Invalid("does not say for whom")),
            row("an audience that is nothing", &of("aud", json!(null)), Invalid("does not say for whom")),
            row("replayed from another service", &of("aud", json!("ledger")), AUDIENCE),
            row("replayed from several", &of("aud", json!(["ledger", "stock"])), AUDIENCE),
            row("an empty list of audiences", &of("aud", json!([])), AUDIENCE),
            row("a longer audience", &of("aud", json!("payops2")), AUDIENCE),
            row("a shorter audience", &of("aud", json!("payop")), AUDIENCE),
            row("an audience in capitals", &of("aud", json!("PAYOPS")), AUDIENCE),
            row("audiences in one text", &of("aud", json!("ledger payops")), AUDIENCE),
            row("an audience that is a number", &of("aud", json!(7)), Invalid("does not say for whom")),
            row("an audience that is a table", &of("aud", json!({"payops": true})), Invalid("does not say for whom")),
            row("expired an hour ago", &of("exp", json!(in_seconds(-3_600))), Expired),
            row("expired beyond the leeway", &of("exp", json!(in_seconds(-40))), Expired),
            row("expired in 1970", &of("exp", json!(0)), Expired),
            row("never expires", &token(without(self.claims(), "exp")), Invalid("never expires")),
            row("an expiry that is nothing", &of("exp", json!(null)), Invalid("never expires")),
            row("an expiry that is text", &of("exp", json!("4000000000")), Invalid("never expires")),
            row("an expiry before 1970", &of("exp", json!(-1)), Invalid("never expires")),
            row("an expiry beyond all numbers", &of("exp", json!(1e300)), Invalid("never expires")),
            row("not valid yet", &of("nbf", json!(in_seconds(3_600))), Invalid("not valid yet")),
            row("not valid yet beyond the leeway", &of("nbf", json!(in_seconds(45))), Invalid("not valid yet")),
            row("a beginning that is text", &of("nbf", json!("soon")), Invalid("times (exp, nbf) cannot be read")),
            row("a subject of nobody", &token(self.login.claims("x")), NOBODY),
            row("a longer subject", &token(self.login.claims("oo")), NOBODY),
            row("a subject with a space", &token(self.login.claims("o ")), NOBODY),
            row("a subject in capitals", &token(self.login.claims("O")), NOBODY),
            row("a caller's name for a subject", &token(self.login.claims("orders")), NOBODY),
            row("another issuer's subject", &token(self.login.claims("shop/orders")), NOBODY),
            row("another issuer's subject with its name", &token(self.login.claims("cluster:shop/orders")), NOBODY),
            row("a reviewer's name", &token(self.login.claims("anna")), NOBODY),
            row("no subject", &token(without(self.claims(), "sub")), SUBJECT),
            row("an empty subject", &of("sub", json!("")), SUBJECT),
            row("a subject that is a number", &of("sub", json!(7)), SUBJECT),
            row("a list of subjects", &of("sub", json!(["o"])), Invalid("cannot be read")),
            row("a subject of 256 letters", &of("sub", json!("o".repeat(256))), SUBJECT),
            row("bound to a key", &of("cnf", json!({"jkt": "x"})), Invalid("bound to a key (cnf)")),
            row("bound to a certificate", &of("cnf", json!({"x5t#S256": "x"})), Invalid("bound to a key (cnf)")),
            row("without what its issuer's must have", &strict(self.strict.claims("o")), Invalid("a claim that its issuer's tokens must have")),
            row("with another value of it", &strict(with(with(self.strict.claims("o"), "azp", json!("other")), "level", json!(2))), Invalid("a claim that its issuer's tokens must have")),
            row("with its value as text", &strict(with(with(self.strict.claims("o"), "azp", json!("checkout")), "level", json!("2"))), Invalid("a claim that its issuer's tokens must have")),
        ]
    }

    /// Tokens of a cluster.
    #[rustfmt::skip]
    fn accounts(&self) -> Vec<Row> {
        const NONE: Due = Invalid("not that of a service account");
        let account = || self.cluster.claims_of_service_account("shop", "orders");
        let token = |claims: &Value| self.cluster_key.token(claims);
        let bound = |pointer: &str, value: &str| {
            let mut claims = account();
            *claims.pointer_mut(pointer).unwrap() = json!(value);
            token(&claims)
        };
        vec![
            row("for the cluster's own interface", &token(&with(account(), "aud", json!(["https://kubernetes.default.svc"]))), Invalid("for somebody else (aud)")),
            row("an old one, for nobody and for ever", &token(&without(without(account(), "aud"), "exp")), Invalid("")),
            row("of another namespace", &token(&self.cluster.claims_of_service_account("other", "orders")), Invalid("subject is no caller's")),
            row("of another account", &token(&self.cluster.claims_of_service_account("shop", "order")), Invalid("subject is no caller's")),
            row("of a node", &token(&with(account(), "sub", json!("system:node:worker"))), NONE),
            row("of a person", &token(&with(account(), "sub", json!("shop/orders"))), NONE),
            row("another namespace in the one claim", &bound("/kubernetes.io/namespace", "other"), NONE),
            row("another name in the one claim", &bound("/kubernetes.io/serviceaccount/name", "returns"), NONE),
            row("without the one claim", &token(&without(account(), "kubernetes.io")), NONE),
            row("a slash in its name", &token(&self.cluster.claims_of_service_account("shop/orders", "x")), NONE),
            row("a colon in its name", &token(&self.cluster.claims_of_service_account("shop", "orders:x")), NONE),
        ]
    }

    /// What is no token at all.
    #[rustfmt::skip]
    fn shapes(&self) -> Vec<Row> {
        const HEADER: Due = Invalid("header cannot be read");
        const CLAIMS: Due = Invalid("claims cannot be read");
        const NOT_KNOWN: Due = Invalid("the token is not known");
        let good = self.ec.token(&self.claims());
        let mut parts = good.split('.');
        let [head, claims, signature] = [(); 3].map(|()| parts.next().unwrap().to_owned());
        let nested = encode(format!("{}{}", "[".repeat(2_000), "]".repeat(2_000)).as_bytes());
        let twice = format!("{{\"iss\": \"{0}\", \"iss\": \"{0}\", \"exp\": 4000000000, \"aud\": \"payops\", \"sub\": \"o\"}}", self.login.url);
        let signed = |claims: &str| {
            let signed = format!("{head}.{}", encode(claims.as_bytes()));
            format!("{signed}.{}", encode(&self.ec.signature(&signed)))
        };
        vec![
            row("dots alone", "..", HEADER),
            row("one dot", &format!("{head}.{claims}"), NOT_KNOWN),
            row("three dots", &format!("{good}."), NOT_KNOWN),
            row("an encrypted one", &format!("{head}.{claims}.{signature}.{claims}.{signature}"), NOT_KNOWN),
            row("a header that is not base64", &format!("!.{claims}.{signature}"), HEADER),
            row("a header in another base64", &format!("{head}==.{claims}.{signature}"), HEADER),
            row("a header that is not JSON", &format!("{}.{claims}.{signature}", encode(b"alg=ES256")), HEADER),
            row("a header that is a list", &format!("{}.{claims}.{signature}", encode(b"[]")), HEADER),
            row("a header that is not UTF-8", &format!("{}.{claims}.{signature}", encode(b"{\"alg\": \"\xff\"}")), HEADER),
            row("a header of brackets", &format!("{nested}.{claims}.{signature}"), HEADER),
            row("claims that are not base64", &format!("{head}.!.{signature}"), CLAIMS),
            row("claims that are not JSON", &format!("{head}.{}.{signature}", encode(b"iss")), CLAIMS),
            row("claims that are a list", &format!("{head}.{}.{signature}", encode(b"[1]")), CLAIMS),
            row("claims of brackets", &format!("{head}.{nested}.{signature}"), CLAIMS),
            row("two issuers, one behind the other", &signed(&twice), CLAIMS),
            row("a token of 8193 letters", &"a".repeat(8_193), Invalid("empty or too long")),
            row("a signed token that is too long", &self.ec.token(&with(self.claims(), "x", json!("x".repeat(8_000)))), Invalid("empty or too long")),
            row("a long one of our own", &"a".repeat(8_000), NOT_KNOWN),
            row("nothing", "", Invalid("empty or too long")),
        ]
    }

    /// Where the token is.
    #[rustfmt::skip]
    fn places(&self) -> Vec<Row> {
        let good = self.ec.token(&self.claims());
        let bearer = format!("Bearer {good}");
        let mut rows = vec![
            header("no header", &[], Missing),
            header("two headers", &[("authorization", bearer.clone()), ("authorization", "Bearer token-of-returns".to_owned())], Invalid("more than one authorization header")),
            header("the same header twice", &[("authorization", bearer.clone()), ("authorization", bearer.clone())], Invalid("more than one authorization header")),
            header("two tokens in one header", &[("authorization", format!("{bearer}, {bearer}"))], Invalid("")),
            header("two spaces", &[("authorization", format!("Bearer  {good}"))], Invalid("")),
            header("no space", &[("authorization", format!("Bearer{good}"))], Invalid("expected: Bearer")),
            header("a tab", &[("authorization", format!("Bearer\t{good}"))], Invalid("")),
            header("no scheme", &[("authorization", good.clone())], Invalid("expected: Bearer")),
            header("Basic", &[("authorization", format!("Basic {}", encode(bearer.as_bytes())))], Invalid("the scheme is not Bearer")),
            header("DPoP", &[("authorization", format!("DPoP {good}"))], Invalid("the scheme is not Bearer")),
            header("an empty header", &[("authorization", String::new())], Invalid("expected: Bearer")),
            Row { name: "not ASCII".to_owned(), headers: vec![("authorization", b"Bearer \xff".to_vec())], due: Invalid("is not ASCII") },
        ];
        for place in [
            "proxy-authorization",
            "x-authorization",
            "x-forwarded-authorization",
            "x-amzn-oidc-data",
            "x-jwt-assertion",
            "x-forwarded-user",
            "x-caller",
            "grpcgateway-authorization",
            "access-token",
        ] {
            rows.push(header(&format!("in {place}"), &[(place, bearer.clone())], Missing));
        }
        rows.push(header("in a cookie", &[("cookie", format!("authorization={good}; token={good}"))], Missing));
        rows
    }

    /// Issuers whose keys cannot be had.
    fn unavailable(&self) -> Vec<Row> {
        let rows = self.broken.iter().map(|(name, issuer)| {
            row(&format!("an issuer that is {name}"), &self.ec.token(&issuer.claims("o")), Unavailable)
        });
        rows.collect()
    }
}

fn hmac<M: Mac + KeyInit>(secret: &[u8], message: &str) -> Vec<u8> {
    let mut mac = <M as KeyInit>::new_from_slice(secret).unwrap();
    mac.update(message.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// Sends each, and tells all that is wrong.
async fn hold(app: &TestApp, good: &str, rows: Vec<Row>) -> Vec<String> {
    let mut wrong = Vec::new();
    for Row { name, headers, due } in rows {
        let told = attempt(app, &headers).await;
        let right = match (&told, due) {
            (Ok(caller), Caller(due)) => *caller == due,
            (Err(told), due) => {
                let (code, reason, words) = match due {
                    Caller(_) => (Code::Ok, "", ""),
                    Invalid(words) => (Code::Unauthenticated, "CREDENTIALS_INVALID", words),
                    Expired => (Code::Unauthenticated, "CREDENTIALS_EXPIRED", "get a new one"),
                    Missing => (Code::Unauthenticated, "CREDENTIALS_MISSING", ""),
                    Unavailable => (Code::Unavailable, "ISSUER_UNAVAILABLE", "retry with the same key"),
                };
                told.code == code && told.reason() == reason && told.status.message().contains(words)
            }
            _ => false,
        };
        if !right {
            let told = told.map_err(|told| format!("{} {:?}", told.reason(), told.status));
            wrong.push(format!("{name}: {told:?}"));
        }
        if who(app, good).await.ok() != Some("returns") {
            wrong.push(format!("{name}: the next caller is not served"));
        }
    }
    wrong
}

/// Who the boundary takes the sender of these headers for.
async fn attempt(app: &TestApp, headers: &[(&'static str, Vec<u8>)]) -> Result<&'static str, Box<Refused>> {
    for name in ["orders", "returns"] {
        let key = pb::get_operation_request::Name::IdempotencyKey(format!("of-{name}"));
        let mut raw =
            Raw::rpc("GetOperation", &pb::GetOperationRequest { name: Some(key) }).without("authorization");
        for (name, value) in headers {
            raw.headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        let answer = raw.send(app.address).await.expect("an answer");
        let told = answer.grpc.expect("a status");
        match told.code {
            Code::Ok => return Ok(name),
            Code::NotFound => {}
            _ => return Err(told),
        }
    }
    panic!("somebody else is let in");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attack_by_a_token_is_refused_for_its_reason_and_the_good_ones_are_let_in() {
    let world = World::new().await;
    let app = world.boundary().await;
    let good = world.ec.token(&world.login.claims("r"));
    let tables = [
        ("good", world.good()),
        ("keys", world.keys()),
        ("heads", world.heads()),
        ("claims", world.claimed()),
        ("service accounts", world.accounts()),
        ("shapes", world.shapes()),
        ("places", world.places()),
        ("unavailable", world.unavailable()),
    ];
    let attacks: usize = tables[1..].iter().map(|(_, rows)| rows.len()).sum();
    println!("{attacks} attacks by token, {} good ones", tables[0].1.len());
    assert!(attacks >= 150, "{attacks}");
    let mut wrong = Vec::new();
    for (_, rows) in tables {
        wrong.extend(hold(&app, &good, rows).await);
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(world.foreign.asked(), 0, "what a token says where keys are is not looked at");
    // Two of each hundred names of keys were unknown: one fetch beside the first one.
    assert!(world.login.asked() <= 3, "{}", world.login.asked());
    assert_eq!(app.moved("T12345678.demoCard00000000000001").await, [], "nothing moved");
}

/// An issuer at whose address nobody listens.
#[tokio::test]
async fn an_issuer_that_is_not_there_is_no_reason_to_refuse_its_callers_for_ever() {
    let key = Key::ec("ec");
    let issuer = Issuer::start(&[&key]).await;
    let dead = format!("https://{}", free_address());
    let more = format!("jwks_url = \"{dead}/keys\"");
    let app = trusting(&[declared("login", &issuer, &more)], &["login:o"], &[]).await;
    let refused = app.caller(&key.token(&issuer.claims("o"))).await.operation("k").await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::Unavailable, "ISSUER_UNAVAILABLE"));
}

/// A boundary without issuers takes no token for one of theirs.
#[tokio::test]
async fn without_issuers_a_signed_token_is_not_known() {
    let key = Key::ec("ec");
    let issuer = Issuer::start(&[&key]).await;
    let app = TestApp::start().await;
    let mut client = PaymentOperationsServiceClient::new(app.channel().await);
    let mut request = Request::new(pb::GetTransactionRequest::default());
    let token = format!("Bearer {}", key.token(&issuer.claims("orders")));
    request.metadata_mut().insert("authorization", token.parse().unwrap());
    let refused = client.get_transaction(request).await.unwrap_err();
    assert!(refused.message().contains("the token is not known"), "{refused:?}");
    assert_eq!(issuer.asked(), 0);
}
