//! What anybody outside can make us read, each as a function of any bytes: none
//! may panic, and what is accepted has to mean the same when it is read again.
//!
//! `cargo test fuzz` runs each on its seeds and on some thousands of mutations
//! of them, or for as many seconds as `PAYOPS_FUZZ_SECONDS` says;
//! `tests/fuzz/run` as long as it is told to, guided by coverage.

use std::{cell::RefCell, collections::BTreeMap, path::Path, sync::Mutex};

use axum::body::Body as AxumBody;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::BodyExt as _;
use opentelemetry::trace::TraceContextExt as _;
use prost::Message as _;
use secrecy::SecretString;
use sha1::Sha1;
use tonic::metadata::MetadataMap;
use url::Url;

use crate::callers::Callers;
use crate::config::{self, Config};
use crate::grpc::{command, pb};
use crate::inbound;
use crate::issuer::{self, Algorithm, SubjectKind};
use crate::payment::{
    Action, Amount, Caller, Command, Guards, Operation, Refund,
    card::is_card_number_in,
    id::{AccountId, CallerName, Currency, IdempotencyKey, OperationId, Reference, Tag, TransactionId},
    item::Decimal,
    permit::Permit,
};
use crate::psp::dintero::wire;
use crate::psp::{judge, rules};
use crate::webhook::Receiver;

/// A target and its name, which is also that of the file of its seeds.
type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 9] = [
    ("token", token),
    ("keys", keys),
    ("ids", ids),
    ("metadata", metadata),
    ("psp", psp),
    ("webhook", webhook),
    ("config", configuration),
    ("callers", callers),
    ("command", any_command),
];

const TRANSACTION: &str = "T12345678.465UfBENeLpkBvwmqfTC4k";

/// The key of RFC 8037, appendix A.2.
const JWKS: &[u8] = br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","alg":"EdDSA","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

/// Runs the target of that name.
#[cfg(fuzzing)]
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap();
    target(data);
}

/// A bearer token of anybody's making: one of an issuer, or one of our own.
pub fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for subject in [SubjectKind::Claim("sub".to_owned()), SubjectKind::ServiceAccount] {
        let read = issuer::verify_by(JWKS, text, &settings(subject));
        assert!(read.is_err(), "nobody signed {text:?}");
    }
    let known = Callers::parse(&format!(
        "[[caller]]\nname = \"orders\"\ntoken_sha256 = [\"{}\"]\n",
        crate::callers::token_hash("token-of-orders")
    ));
    let is_known = known.unwrap().authenticate(text).is_some();
    assert_eq!(is_known, text == "token-of-orders");
}

/// The keys that an issuer publishes.
pub fn keys(data: &[u8]) {
    let token = "eyJhbGciOiJFZERTQSIsImtpZCI6ImEifQ.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIn0.AA";
    let read = issuer::verify_by(data, token, &settings(SubjectKind::Claim("sub".to_owned())));
    assert!(read.is_err());
}

/// Every name and number that callers give as text.
pub fn ids(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(id) = text.parse::<TransactionId>() {
        // It stands in a URL as it is, as one part of the path.
        let url = Url::parse(&format!("https://psp.example/v1/transactions/{id}/capture")).unwrap();
        let parts: Vec<_> = url.path_segments().unwrap().collect();
        assert_eq!(parts, ["v1", "transactions", text, "capture"]);
        assert!(url.query().is_none() && url.fragment().is_none());
        assert!(text.starts_with(id.account().as_str()));
    }
    if let Ok(id) = text.parse::<OperationId>() {
        assert_eq!(id.to_string().parse::<OperationId>().unwrap(), id);
    }
    if let Ok(key) = text.parse::<IdempotencyKey>() {
        assert_eq!(key.as_str(), text);
        key.minted_at();
        let tag = Tag::derive(&"orders".parse().unwrap(), &key);
        assert!(Tag::is_form_of(tag.as_str()) && tag.marks(&format!("order-1-{tag}")));
    }
    if let Ok(decimal) = text.parse::<Decimal>() {
        assert_eq!(decimal.to_string().parse::<Decimal>().unwrap(), decimal);
        assert!(serde_json::from_str::<serde_json::Number>(decimal.as_str()).is_ok());
    }
    for accepted in [
        text.parse::<AccountId>().map(|id| id.to_string()),
        text.parse::<CallerName>().map(|name| name.to_string()),
        text.parse::<Reference>().map(|reference| reference.as_str().to_owned()),
        text.parse::<Currency>().map(|currency| currency.to_string()),
    ] {
        assert!(accepted.is_err() || accepted.as_deref() == Ok(text));
    }
    Tag::is_form_of(text);
    is_card_number_in(text);
}

/// The headers of a call, and how its body is cut: a header a line, an empty
/// line, the body.
pub fn metadata(data: &[u8]) {
    let end = data.windows(2).position(|two| two == b"\n\n").unwrap_or(data.len());
    let (head, body) = data.split_at(end);
    let mut headers = HeaderMap::new();
    for line in head.split(|b| *b == b'\n').take(64) {
        let mut parts = line.splitn(2, |b| *b == b':');
        let name = HeaderName::from_bytes(parts.next().unwrap_or_default());
        let value = HeaderValue::from_bytes(parts.next().unwrap_or_default());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    if let Ok(Some(token)) = crate::auth::bearer(&headers) {
        assert!(!token.is_empty());
    }
    drop(inbound::protocol::timeout(&headers));
    let place = crate::trace::Tracer::off().call(&headers, None);
    assert!(place.span().span_context().is_valid());
    let asked = command::void(
        &pb::VoidRequest::default(),
        &MetadataMap::from_headers(headers.clone()),
        &caller(),
        |_| true,
    );
    assert!(asked.is_err());
    let pieces: Vec<_> = body
        .chunks(7)
        .map(|piece| Ok::<_, tonic::Status>(http_body::Frame::data(Bytes::copy_from_slice(piece))))
        .collect();
    let body = tonic::body::Body::new(http_body_util::StreamBody::new(futures::stream::iter(pieces)));
    let mut request = Request::new(body);
    *request.headers_mut() = headers;
    inbound::protocol::refusal(&request);
    let patience = std::time::Duration::from_secs(1);
    block_on(async {
        let one =
            inbound::protocol::one_message(request, "payops.v1.PaymentOperationsService/Void", patience);
        drop(one.into_body().collect().await);
    });
}

/// What the PSP answers: a transaction, a list or an error.
pub fn psp(data: &[u8]) {
    drop(wire::ids(data));
    drop(wire::error(data, 422));
    let Ok(transaction) = wire::transaction(data) else { return };
    transaction.sums();
    for action in actions() {
        let operation = Operation { transaction: TRANSACTION.parse().unwrap(), action };
        let guards = Guards { currency: "NOK".parse().ok(), expected_remaining: Some(100) };
        drop(rules::check_guards(&operation, &guards, &transaction));
        drop(rules::check(&operation, &transaction));
        let command = Command {
            caller: caller().name,
            key: "key-1".parse().unwrap(),
            operation,
            guards,
            permit: Permit::default(),
            traced: None,
        };
        let tag = command.tag();
        let verdict = judge::judge(&judge::Sought::of(&command, &tag), &transaction);
        if let judge::Verdict::Proven(proof) = verdict
            && let Some(amount) = command.operation.amount()
        {
            // Money is proven to have moved only where an event succeeded, and the tag is in it or in one before.
            assert_eq!(proof.amount, amount.minor());
            assert!(transaction.events.iter().any(|event| event.success == Some(true)));
            let bears_the_tag =
                |text: &Option<String>| text.as_deref().is_some_and(|text| text.contains(tag.as_str()));
            let mut events = transaction.events.iter();
            assert!(events.any(|event| bears_the_tag(&event.event_reference)));
        }
    }
}

/// A delivery that the PSP signed.
pub fn webhook(data: &[u8]) {
    let hinted = std::sync::Arc::new(Mutex::new(Vec::new()));
    let noted = std::sync::Arc::clone(&hinted);
    let settings = config::Webhook {
        listen: None,
        path: "/webhooks/dintero".to_owned(),
        secret: Some(config::Source::Value(SecretString::from("whsec_example"))),
        message_timeout: std::time::Duration::from_secs(1),
        connections_max: 1,
    };
    let accounts = vec!["T12345678".parse().unwrap()];
    let receiver = Receiver::new(settings, accounts, move |transaction: TransactionId| {
        noted.lock().unwrap().push(transaction);
    });
    let mut hmac = Hmac::<Sha1>::new_from_slice(b"whsec_example").unwrap();
    hmac.update(data);
    let signature =
        hmac.finalize().into_bytes().iter().fold(String::new(), |digits, byte| format!("{digits}{byte:02x}"));
    let mut headers = HeaderMap::new();
    headers.insert("event-signature", signature.parse().unwrap());
    let genuine = block_on(receiver.answer(&headers, AxumBody::from(data.to_vec())));
    assert!(genuine.as_u16() != 401);
    let told = hinted.lock().unwrap().len();
    // What the bytes themselves say is no signature of them.
    let forged = data.get(..40).and_then(|start| HeaderValue::from_bytes(start).ok());
    headers.insert("event-signature", forged.unwrap_or(HeaderValue::from_static("none")));
    let refused = block_on(receiver.answer(&headers, AxumBody::from(data.to_vec())));
    assert!(refused.as_u16() == 401 || refused.as_u16() == 413);
    assert_eq!(hinted.lock().unwrap().len(), told);
}

/// The configuration file.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // A path in it would be opened: any but of a folder that is not there.
    if text.contains("..") || text.contains("\"/") || text.contains("'/") || text.contains('\\') {
        return;
    }
    match Config::load(Some((Path::new("/nonexistent/payops.toml"), text)), []) {
        Ok(config) => drop(format!("{config:?}")),
        Err(mistakes) => assert!(!mistakes.to_string().is_empty()),
    }
}

/// The callers file.
pub fn callers(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if text.contains("ca_file") || text.contains("token_file") || text.contains('\\') {
        return;
    }
    match Callers::parse(text) {
        Ok(callers) => assert!(callers.names().len() > 0 || !callers.issuers().is_empty()),
        Err(mistakes) => assert!(!mistakes.to_string().is_empty()),
    }
}

/// A message of the wire, as each of the requests.
pub fn any_command(data: &[u8]) {
    let Some((which, message)) = data.split_first() else { return };
    let mut headers = HeaderMap::new();
    headers.insert("idempotency-key", HeaderValue::from_static("key-1"));
    let metadata = MetadataMap::from_headers(headers);
    let caller = caller();
    let asked = match which % 8 {
        0 | 1 => pb::CaptureRequest::decode(message)
            .ok()
            .map(|m| command::capture(m, &metadata, &caller, |_| true)),
        2 => pb::VoidRequest::decode(message).ok().map(|m| command::void(&m, &metadata, &caller, |_| true)),
        3 => {
            pb::RefundRequest::decode(message).ok().map(|m| command::refund(m, &metadata, &caller, |_| true))
        }
        4 => return drop(pb::GetOperationRequest::decode(message).map(command::get_operation)),
        5 => return drop(pb::WatchOperationRequest::decode(message).map(command::watch_operation)),
        6 => return drop(pb::ListOperationsRequest::decode(message).map(|m| command::review::list(&m))),
        _ => {
            let resolve = |m| command::review::resolve(m, &caller);
            return drop(pb::ResolveOperationRequest::decode(message).map(resolve));
        }
    };
    match asked {
        None => {}
        Some(Err(refused)) => assert!(!refused.violations.is_empty()),
        Some(Ok(asked)) => accepted(&asked.command),
    }
}

/// What is accepted is the same after a time in the journal, and is sent as valid JSON.
fn accepted(command: &Command) {
    let operation = &command.operation;
    let stored = serde_json::to_string(operation).unwrap();
    let read: Operation = serde_json::from_str(&stored).unwrap();
    assert_eq!(&read, operation);
    assert_eq!(read.fingerprint(), operation.fingerprint());
    let tag = command.tag();
    assert!(operation.event_reference(&tag).len() <= 32);
    if let Some(body) = wire::body(operation, &tag) {
        let text = body.to_string();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), body);
        assert_eq!(body["amount"].as_i64(), operation.amount().map(Amount::minor));
    }
    if let Action::Refund(Refund { reason: Some(reason), .. }) = &operation.action {
        assert!(!is_card_number_in(reason) && reason.chars().count() <= 255);
    }
}

fn actions() -> [Action; 3] {
    let amount = Amount::new(100).unwrap();
    let capture = crate::payment::Capture {
        amount,
        items: Vec::new(),
        reference: None,
        metadata: BTreeMap::new(),
        final_capture: false,
    };
    let refund = Refund {
        amount,
        items: Vec::new(),
        reference: None,
        reason: None,
        metadata: BTreeMap::new(),
        terminal_id: None,
    };
    [Action::Capture(capture), Action::Void, Action::Refund(refund)]
}

fn caller() -> Caller {
    Caller { name: "orders".parse().unwrap() }
}

fn settings(subject: SubjectKind) -> issuer::Settings {
    issuer::Settings {
        name: "issuer".to_owned(),
        url: "https://issuer.example".to_owned(),
        audiences: vec!["payops".to_owned()],
        jwks_url: None,
        token_review_url: None,
        ca_file: None,
        token_file: None,
        algorithms: Algorithm::ALL.to_vec(),
        subject,
        require: BTreeMap::new(),
        admits_all: false,
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: RefCell<tokio::runtime::Runtime> = RefCell::new(
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap()
        );
    }
    RUNTIME.with_borrow(|runtime| runtime.block_on(future))
}

#[cfg(test)]
#[path = "briefly.rs"]
mod briefly;
