//! What a delivery is answered, and what it hints at.

use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::SecretString;
use serde_json::json;
use sha1::Sha1;
use tower::ServiceExt as _;

use super::*;
use crate::config::Source;

const SECRET: &str = "whsec_example";
const CARD: &str = "T12345678.465UfBENeLpkBvwmqfTC4k";

/// A receiver, and what it hinted at.
struct Room {
    router: Router,
    hints: Arc<Mutex<Vec<String>>>,
}

impl Room {
    fn new(secret: Source) -> Self {
        let settings = config::Webhook {
            listen: None,
            path: "/webhooks/dintero".to_owned(),
            secret: Some(secret),
            message_timeout: Duration::from_secs(10),
            connections_max: 1,
        };
        let hints = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&hints);
        let hint = move |transaction: TransactionId| noted.lock().unwrap().push(transaction.to_string());
        let router = Receiver::new(settings, vec!["T12345678".parse().unwrap()], hint).router();
        Self { router, hints }
    }

    fn usual() -> Self {
        Self::new(Source::Value(SecretString::from(SECRET)))
    }

    async fn send(&self, request: http::request::Builder, body: impl Into<Body>) -> u16 {
        let request = request.method("POST").uri("/webhooks/dintero").body(body.into()).unwrap();
        self.router.clone().oneshot(request).await.unwrap().status().as_u16()
    }

    async fn signed(&self, body: &str) -> u16 {
        self.send(
            Request::builder().header("event-signature", sign(SECRET, body.as_bytes())),
            body.to_owned(),
        )
        .await
    }

    fn hints(&self) -> Vec<String> {
        self.hints.lock().unwrap().clone()
    }
}

fn sign(secret: &str, body: &[u8]) -> String {
    let mut hmac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).unwrap();
    hmac.update(body);
    hmac.finalize().into_bytes().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

/// As in [D 10.1].
fn message(transaction: &str, delivery: u128) -> String {
    json!({
        "account_id": "T12345678", "event": "checkout_transaction",
        "event_delivery": Uuid::from_u128(delivery).to_string(),
        "transaction": { "id": transaction, "status": "CAPTURED" },
    })
    .to_string()
}

#[tokio::test]
async fn a_genuine_delivery_hints_at_its_transaction_once() {
    let room = Room::usual();
    for _ in 0..3 {
        assert_eq!(room.signed(&message(CARD, 1)).await, 200, "a duplicate is no failure");
    }
    assert_eq!(room.hints(), [CARD]);
    assert_eq!(room.signed(&message(CARD, 2)).await, 200);
    assert_eq!(room.hints(), [CARD, CARD]);
}

/// The header is not signed: whoever repeats a delivery can write another one there.
#[tokio::test]
async fn a_replay_with_another_header_is_still_a_duplicate() {
    let room = Room::usual();
    let body = message(CARD, 1);
    for delivery in [1_u128, 2, 3] {
        let request = Request::builder()
            .header("event-signature", sign(SECRET, body.as_bytes()))
            .header("event-delivery", Uuid::from_u128(delivery).to_string());
        assert_eq!(room.send(request, body.clone()).await, 200);
    }
    assert_eq!(room.hints(), [CARD]);
}

/// Without a name in the body the header's has to do.
#[tokio::test]
async fn a_delivery_is_known_by_its_header_where_its_body_does_not_say() {
    let room = Room::usual();
    let body = json!({ "transaction": { "id": CARD } }).to_string();
    for delivery in [1_u128, 1, 2] {
        let request = Request::builder()
            .header("event", "checkout_transaction")
            .header("event-signature", sign(SECRET, body.as_bytes()))
            .header("event-delivery", Uuid::from_u128(delivery).to_string());
        assert_eq!(room.send(request, body.clone()).await, 200);
    }
    assert_eq!(room.hints().len(), 2);
}

#[tokio::test]
async fn what_is_not_signed_by_a_secret_is_refused_and_hints_at_nothing() {
    let room = Room::usual();
    let body = message(CARD, 1);
    let right = sign(SECRET, body.as_bytes());
    for header in [None, Some(""), Some("00"), Some(&sign("other", body.as_bytes())), Some(&right[1..])] {
        let request = header
            .iter()
            .fold(Request::builder(), |request, header| request.header("event-signature", *header));
        assert_eq!(room.send(request, body.clone()).await, 401, "{header:?}");
    }
    let other = message("T12345678.other", 1);
    assert_eq!(room.send(Request::builder().header("event-signature", &right), other).await, 401);
    // What was refused is not remembered: the genuine one is still new.
    assert_eq!(room.signed(&body).await, 200);
    assert_eq!(room.hints(), [CARD]);
}

#[tokio::test]
async fn what_is_genuine_and_not_for_us_succeeds_and_hints_at_nothing() {
    let room = Room::usual();
    for body in [
        json!({ "event": "ping" }).to_string(),
        json!({ "event": "settlement_add", "transaction": { "id": CARD } }).to_string(),
        json!({ "event": 7 }).to_string(),
        json!({ "event": "checkout_transaction" }).to_string(),
        json!({ "event": "checkout_transaction", "transaction": CARD }).to_string(),
        json!({ "event": "checkout_transaction", "transaction": { "id": "../../x" } }).to_string(),
        message("P12345678.465UfBENeLpkBvwmqfTC4k", 1),
        "[]".to_owned(),
        "null".to_owned(),
    ] {
        assert_eq!(room.signed(&body).await, 200, "{body}");
    }
    assert_eq!(room.hints(), [""; 0]);
}

#[tokio::test]
async fn what_is_genuine_and_no_json_is_a_mistake() {
    let room = Room::usual();
    for body in ["", "{", "hello", "{\"event\": \"ping\"} {}", &"[".repeat(60_000)] {
        assert_eq!(room.signed(body).await, 400);
    }
    let request = Request::builder().header("event-signature", sign(SECRET, &[0xff, 0xfe]));
    assert_eq!(room.send(request, vec![0xff, 0xfe]).await, 400);
}

#[tokio::test]
async fn a_body_of_64_kib_is_read_and_a_longer_one_is_not() {
    let room = Room::usual();
    for (bytes, status) in [(BODY_BYTES_MAX, 200), (BODY_BYTES_MAX + 1, 413), (3 * DISCARDED_BYTES_MAX, 413)]
    {
        let body = format!("\"{}\"", "x".repeat(bytes - 2));
        assert_eq!(room.signed(&body).await, status, "{bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_arrive_is_waited_for_so_long() {
    let room = Room::usual();
    let request = Request::builder().header("event-signature", sign(SECRET, b""));
    let never = Body::from_stream(futures::stream::pending::<Result<Vec<u8>, io::Error>>());
    let begun = Instant::now();
    assert_eq!(room.send(request, never).await, 408);
    assert_eq!(begun.elapsed(), Duration::from_secs(10));
}

#[tokio::test]
async fn other_methods_and_paths_are_not_there() {
    let room = Room::usual();
    for (method, path, status) in
        [("GET", "/webhooks/dintero", 405), ("POST", "/", 404), ("POST", "/webhooks", 404)]
    {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        assert_eq!(room.router.clone().oneshot(request).await.unwrap().status().as_u16(), status, "{path}");
    }
}

/// One line, then two, then the other one.
#[tokio::test]
async fn a_secret_rotates_without_a_gap_and_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("webhook_secret");
    let room = Room::new(Source::File(file.clone()));
    let body = message(CARD, 1);
    let by = async |secret: &str| {
        let request = Request::builder().header("event-signature", sign(secret, body.as_bytes()));
        room.send(request, body.clone()).await
    };
    for (secrets, old, new) in [("old\n", 200, 401), ("new\nold\n", 200, 200), ("new\n", 401, 200)] {
        std::fs::write(&file, secrets).unwrap();
        assert_eq!((by("old").await, by("new").await), (old, new), "{secrets:?}");
    }
    // Dintero sends again what was answered 503.
    std::fs::remove_file(&file).unwrap();
    assert_eq!(by("new").await, 503);
}

#[test]
fn no_secret_is_shown() {
    let settings = config::Webhook {
        listen: None,
        path: "/".to_owned(),
        secret: Some(Source::Value(SecretString::from(SECRET))),
        message_timeout: Duration::from_secs(1),
        connections_max: 1,
    };
    assert!(!format!("{settings:?}").contains(SECRET));
}

proptest::proptest! {
    /// Whatever comes is answered, and only a signature opens the door.
    #[test]
    fn nothing_that_can_be_sent_is_a_panic(
        body in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        header in "[ -~]{0,60}",
        genuine in proptest::bool::ANY,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let room = Room::usual();
            let signature = if genuine { sign(SECRET, &body) } else { header };
            let status = room.send(Request::builder().header("event-signature", signature), body).await;
            assert!(if genuine { [200, 400].contains(&status) } else { status == 401 }, "{status}");
            assert_eq!(room.hints(), [""; 0]);
        });
    }
}
