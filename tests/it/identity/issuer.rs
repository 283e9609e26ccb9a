//! An issuer of one's own, over TLS: it publishes keys as `OpenID` Connect wants it, signs whatever it is asked to, and
//! fails in every way that it is told to.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData as _, SanType,
    SigningKey as _,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

use super::pki::{Authority, dns};

/// Where the keys are.
const KEYS: &str = "/keys";

/// The issuer; it serves until the test ends.
pub struct Issuer {
    pub url: String,
    /// Whose certificate it shows.
    pub authority: Authority,
    shown: Arc<Shown>,
}

/// What it shows to those who ask.
struct Shown {
    state: Mutex<State>,
    /// How often it was asked for its keys.
    asked: AtomicUsize,
    reviewed: Mutex<Vec<Value>>,
}

struct State {
    keys: Vec<Value>,
    /// What its discovery document says where the truth is not enough.
    discovery: Option<Value>,
    fault: Fault,
    /// What it wants to be asked with.
    bearer: Option<String>,
    /// Whether a token that it is asked about counts, and for whom; it does not answer where there is nothing.
    reviews: Option<Value>,
}

/// What it does instead of telling its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Nothing,
    Status(u16),
    /// Answers after so many milliseconds.
    Slow(u64),
    /// Says this, whatever it is.
    Says(String),
    RedirectsTo(String),
    HangsUp,
}

/// A key with its name, and the algorithm of its tokens.
pub struct Key {
    pub id: &'static str,
    pub algorithm: &'static str,
    pub pair: KeyPair,
}

impl Key {
    pub fn rsa(id: &'static str) -> Self {
        Self { id, algorithm: "RS256", pair: KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap() }
    }

    pub fn ec(id: &'static str) -> Self {
        Self { id, algorithm: "ES256", pair: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap() }
    }

    pub fn ed(id: &'static str) -> Self {
        Self { id, algorithm: "EdDSA", pair: KeyPair::generate_for(&PKCS_ED25519).unwrap() }
    }

    /// As it is published.
    pub fn published(&self) -> Value {
        let public = self.pair.der_bytes();
        match self.algorithm {
            "RS256" => {
                let (modulus, exponent) = rsa_numbers(public);
                json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.id,
                    "n": encode(modulus), "e": encode(exponent)})
            }
            "ES256" => json!({"kty": "EC", "crv": "P-256", "kid": self.id,
                "x": encode(&public[1..33]), "y": encode(&public[33..65])}),
            _ => json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": self.id, "x": encode(public)}),
        }
    }

    pub fn signature(&self, message: &str) -> Vec<u8> {
        if self.algorithm == "ES256" {
            let key = jsonwebtoken::EncodingKey::from_ec_der(&self.pair.serialize_der());
            let signed = jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::ES256);
            return URL_SAFE_NO_PAD.decode(signed.unwrap()).unwrap();
        }
        self.pair.sign(message.as_bytes()).unwrap()
    }

    pub fn header(&self) -> Value {
        json!({"alg": self.algorithm, "typ": "JWT", "kid": self.id})
    }

    /// A token with all that is due.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&self.header(), claims)
    }

    /// A token with a header of one's own, signed all the same.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let signature = encode(&self.signature(&message));
        format!("{message}.{signature}")
    }
}

/// The part that is signed.
pub fn message(header: &Value, claims: &Value) -> String {
    format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()))
}

pub fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Seconds since 1970, so much later.
pub fn in_seconds(later: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(now).unwrap() + later
}

/// Modulus and exponent of an `RSAPublicKey` in DER.
fn rsa_numbers(der: &[u8]) -> (&[u8], &[u8]) {
    fn integer(der: &[u8]) -> (&[u8], &[u8]) {
        let (length, content) = match der[1] {
            0x82 => (usize::from(der[2]) << 8 | usize::from(der[3]), &der[4..]),
            0x81 => (usize::from(der[2]), &der[3..]),
            short => (usize::from(short), &der[2..]),
        };
        content.split_at(length)
    }
    let (sequence, _) = integer(der);
    let (modulus, rest) = integer(sequence);
    let (exponent, _) = integer(rest);
    (modulus.strip_prefix(&[0]).unwrap_or(modulus), exponent)
}

impl Issuer {
    /// One that publishes these keys.
    pub async fn start(keys: &[&Key]) -> Self {
        Self::start_for("localhost", keys).await
    }

    /// The same with a certificate of another name, which is not its own.
    pub async fn start_for(name: &str, keys: &[&Key]) -> Self {
        let authority = Authority::new();
        let pair = authority.signed(|params| {
            params.subject_alt_names = vec![dns(name), SanType::IpAddress([127, 0, 0, 1].into())];
        });
        let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        let tls = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let state = State {
            keys: keys.iter().map(|key| key.published()).collect(),
            discovery: None,
            fault: Fault::Nothing,
            bearer: None,
            reviews: None,
        };
        let shown = Arc::new(Shown {
            state: Mutex::new(state),
            asked: AtomicUsize::new(0),
            reviewed: Mutex::default(),
        });
        tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(tls)), Arc::clone(&shown), url.clone()));
        Self { url, authority, shown }
    }

    /// How often it was asked for its keys.
    pub fn asked(&self) -> usize {
        self.shown.asked.load(Ordering::SeqCst)
    }

    pub fn publish(&self, keys: &[&Key]) {
        self.shown.state.lock().unwrap().keys = keys.iter().map(|key| key.published()).collect();
    }

    pub fn fails(&self, fault: Fault) {
        self.shown.state.lock().unwrap().fault = fault;
    }

    pub fn discovers(&self, document: Value) {
        self.shown.state.lock().unwrap().discovery = Some(document);
    }

    /// What it says of every token: the status of a `TokenReview`.
    pub fn says_of_tokens(&self, status: Option<Value>) {
        self.shown.state.lock().unwrap().reviews = status;
    }

    /// The reviews that it was asked for, each with the token that came with it.
    pub fn reviewed(&self) -> Vec<Value> {
        self.shown.reviewed.lock().unwrap().clone()
    }

    pub fn wants(&self, bearer: &str) {
        self.shown.state.lock().unwrap().bearer = Some(bearer.to_owned());
    }

    /// Claims of a token for payops, of this subject.
    pub fn claims(&self, subject: &str) -> Value {
        json!({"iss": self.url, "aud": "payops", "sub": subject, "iat": in_seconds(0), "exp": in_seconds(300)})
    }

    /// Claims of a projected service-account token.
    pub fn claims_of_service_account(&self, namespace: &str, name: &str) -> Value {
        let mut claims = self.claims(&format!("system:serviceaccount:{namespace}:{name}"));
        claims["aud"] = json!(["payops"]);
        claims["nbf"] = json!(in_seconds(0));
        claims["kubernetes.io"] = json!({
            "namespace": namespace,
            "serviceaccount": {"name": name, "uid": "11111111-2222-3333-4444-555555555555"},
            "pod": {"name": format!("{name}-0"), "uid": "x"},
        });
        claims
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, shown: Arc<Shown>, url: String) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, shown, url) = (acceptor.clone(), Arc::clone(&shown), url.clone());
        tokio::spawn(async move {
            // A client that does not trust it breaks off.
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(|request: Request<Incoming>| {
                let (shown, url) = (Arc::clone(&shown), url.clone());
                async move {
                    if request.uri().path() == "/review" {
                        review(&shown, request).await
                    } else {
                        answer(&shown, &url, &request).await
                    }
                }
            });
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn answer(shown: &Shown, url: &str, request: &Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
    let (keys, discovery, fault, bearer) = {
        let state = shown.state.lock().unwrap();
        (state.keys.clone(), state.discovery.clone(), state.fault.clone(), state.bearer.clone())
    };
    let say = |status: u16, text: String| {
        let mut answer = Response::new(Full::new(Bytes::from(text)));
        *answer.status_mut() = StatusCode::from_u16(status).unwrap();
        Ok(answer)
    };
    let brought =
        request.headers().get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
    match request.uri().path() {
        "/.well-known/openid-configuration" => {
            let told = json!({"issuer": url, "jwks_uri": format!("{url}{KEYS}")});
            say(200, discovery.unwrap_or(told).to_string())
        }
        "/moved" => say(200, json!({ "keys": keys }).to_string()),
        KEYS => {
            shown.asked.fetch_add(1, Ordering::SeqCst);
            if bearer.is_some_and(|due| brought != Some(format!("Bearer {due}"))) {
                return say(401, String::new());
            }
            match fault {
                Fault::Nothing => {}
                Fault::Status(status) => return say(status, json!({ "keys": keys }).to_string()),
                Fault::Slow(milliseconds) => {
                    tokio::time::sleep(std::time::Duration::from_millis(milliseconds)).await;
                }
                Fault::Says(text) => return say(200, text),
                Fault::RedirectsTo(location) => {
                    let mut answer = say(302, String::new())?;
                    answer.headers_mut().insert(header::LOCATION, location.parse().unwrap());
                    return Ok(answer);
                }
                // The connection ends without a word.
                Fault::HangsUp => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
            say(200, json!({ "keys": keys }).to_string())
        }
        _ => say(404, String::new()),
    }
}

/// A `TokenReview`, as a cluster answers it.
async fn review(shown: &Shown, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
    let bearer = request.headers().get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
    let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    let question: Value = serde_json::from_slice(&body).unwrap();
    shown.reviewed.lock().unwrap().push(json!({"asked": question, "with": bearer}));
    let Some(status) = shown.state.lock().unwrap().reviews.clone() else {
        return Err(io::ErrorKind::ConnectionAborted.into());
    };
    let answer = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status});
    Ok(Response::builder().status(201).body(Full::new(Bytes::from(answer.to_string()))).unwrap())
}
