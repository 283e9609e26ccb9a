//! What goes out, byte for byte, and what each answer is taken for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use serde_json::json;

use super::*;
use crate::config::Config;
use crate::payment::outcome::PspError;
use crate::payment::{
    Action, Amount, Capture, Guards, Operation, Refund,
    item::{DiscountLine, Group, Item, Split, Store},
};

const TRANSACTION: &str = "T12345678.465UfBENeLpkBvwmqfTC4k";

type Answer = Result<Response<Bytes>, TransportError>;

/// Remembers what it was given, and answers what it was told.
#[derive(Clone, Default)]
struct Recorder {
    requests: Arc<Mutex<Vec<Request<Bytes>>>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
}

impl Transport for Recorder {
    async fn send(&self, request: Request<Bytes>, _: Duration) -> Answer {
        let is_token = request.uri().path().ends_with("/auth/token");
        self.requests.lock().unwrap().push(request);
        if is_token {
            let granted = json!({"access_token": "t0ken", "token_type": "Bearer", "expires_in": 14_400});
            return Ok(Response::new(Bytes::from(granted.to_string())));
        }
        self.answers.lock().unwrap().pop_front().expect("an answer")
    }
}

impl Recorder {
    fn answering(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self { answers: Arc::new(Mutex::new(answers.into_iter().collect())), ..Self::default() }
    }

    fn client(&self, adjust: impl FnOnce(&mut Settings)) -> Dintero<Self> {
        let nowhere = "127.0.0.1:1".parse().unwrap();
        let mut config = Config::sandbox(nowhere, nowhere, "unused");
        config.psp.base_url = "https://checkout.example.com".parse().unwrap();
        config.psp.token_base_url = "https://api.example.com".parse().unwrap();
        adjust(&mut config.psp);
        Dintero::new(&config.psp, &config.accounts, Duration::from_mins(1), self, &Clock::system())
    }

    /// The only request beside those for tokens.
    fn sent(&self) -> Request<Bytes> {
        let requests = self.requests.lock().unwrap();
        let mut sent = requests.iter().filter(|request| !request.uri().path().ends_with("/auth/token"));
        let only = sent.next().unwrap().clone();
        assert!(sent.next().is_none(), "one attempt is one request");
        only
    }
}

fn command(action: Action) -> Command {
    Command {
        caller: "orders".parse().unwrap(),
        key: "key-1".parse().unwrap(),
        operation: Operation { transaction: TRANSACTION.parse().unwrap(), action },
        guards: Guards::default(),
        permit: crate::payment::permit::Permit::default(),
        traced: None,
    }
}

fn plain_capture() -> Capture {
    Capture {
        amount: Amount::new(100).unwrap(),
        items: Vec::new(),
        reference: None,
        metadata: BTreeMap::new(),
        final_capture: false,
    }
}

/// A line with everything that a line can have [D 3.4].
fn full_item() -> Item {
    Item {
        id: Some("chair-1".to_owned()),
        description: Some("Chair".to_owned()),
        quantity: Some("1.5".parse().unwrap()),
        vat_percent: Some("25".parse().unwrap()),
        vat_amount: Some(5_218),
        kind: Some("physical".to_owned()),
        groups: vec![
            Group { id: "g1".to_owned(), name: Some("Furniture".to_owned()) },
            Group { id: "g2".to_owned(), name: None },
        ],
        discount_lines: vec![DiscountLine {
            amount: Some(1_000),
            percentage: Some("3.75".parse().unwrap()),
            discount_type: Some("customer".to_owned()),
            discount_id: Some("d1".to_owned()),
            description: Some("Friend".to_owned()),
            line_id: Some(1),
        }],
        splits: vec![Split { payout_destination_id: "seller-1".to_owned(), amount: 20_000 }],
        fee_destinations: vec!["seller-1".to_owned()],
        store: Some(Store {
            id: "s1".to_owned(),
            name: Some("Shop".to_owned()),
            terminal_id: Some("t1".to_owned()),
            payout_destination_id: Some("seller-1".to_owned()),
        }),
        unit_volume: Some("0.25".parse().unwrap()),
        unit_weight: Some("7".parse().unwrap()),
        unit_dimensional_weight: Some("8.125".parse().unwrap()),
        thumbnail_url: Some("https://example.com/chair.png".to_owned()),
        ..Item::line("1", 26_090)
    }
}

/// The same as the PSP has to see it.
fn full_item_on_the_wire() -> Value {
    json!({
        "line_id": "1", "amount": 26_090, "id": "chair-1", "description": "Chair", "quantity": 1.5, "vat": 25,
        "vat_amount": 5_218, "type": "physical",
        "groups": [{"id": "g1", "name": "Furniture"}, {"id": "g2"}],
        "discount_lines": [{
            "amount": 1_000, "percentage": 3.75, "discount_type": "customer", "discount_id": "d1",
            "description": "Friend", "line_id": 1
        }],
        "splits": [{"payout_destination_id": "seller-1", "amount": 20_000}],
        "fee_split": {"type": "proportional", "destinations": ["seller-1"]},
        "store": {"id": "s1", "name": "Shop", "terminal_id": "t1", "payout_destination_id": "seller-1"},
        "unit_volume": 0.25, "unit_weight": 7, "unit_dimensional_weight": 8.125,
        "thumbnail_url": "https://example.com/chair.png"
    })
}

fn metadata() -> BTreeMap<String, String> {
    [("order".to_owned(), "17".to_owned()), ("shop".to_owned(), "oslo".to_owned())].into()
}

fn status(status: u16, body: impl Into<Bytes>) -> Response<Bytes> {
    Response::builder().status(status).body(body.into()).unwrap()
}

/// What a POST of the action looks like.
async fn posted(action: Action) -> Request<Bytes> {
    let recorder = Recorder::answering([Ok(status(500, ""))]);
    let client = recorder.client(|_| ());
    let prepared = client.prepare(&command(action)).await.unwrap();
    client.send(prepared).await;
    recorder.sent()
}

fn body(request: &Request<Bytes>) -> Value {
    serde_json::from_slice(request.body()).unwrap()
}

#[tokio::test]
async fn a_capture_says_what_it_has_and_nothing_else() {
    let tag = command(Action::Void).tag();
    let plain = posted(Action::Capture(plain_capture())).await;
    let expected = json!({
        "amount": 100, "capture_reference": tag.as_str(), "metadata": {"ext_operation_id": tag.as_str()}
    });
    assert_eq!(body(&plain), expected);
    let full = posted(Action::Capture(Capture {
        items: vec![full_item(), Item::line("ship-1", 3_900)],
        reference: Some("order-1".parse().unwrap()),
        metadata: metadata(),
        final_capture: true,
        ..plain_capture()
    }))
    .await;
    let expected = json!({
        "amount": 100, "capture_reference": format!("order-1-{tag}"), "final_capture": true,
        "metadata": {"ext_order": "17", "ext_shop": "oslo", "ext_operation_id": tag.as_str()},
        "items": [full_item_on_the_wire(), {"line_id": "ship-1", "amount": 3_900}]
    });
    assert_eq!(body(&full), expected);
    assert_eq!(
        full.uri(),
        &format!("https://checkout.example.com/v1/transactions/{TRANSACTION}/capture")[..]
    );
}

#[tokio::test]
async fn a_refund_says_what_it_has_and_nothing_else() {
    let tag = command(Action::Void).tag();
    let refund = Refund {
        amount: Amount::new(3_900).unwrap(),
        items: vec![full_item()],
        reference: Some("return-1".parse().unwrap()),
        reason: Some("broken".to_owned()),
        metadata: metadata(),
        terminal_id: Some("t1".to_owned()),
    };
    let full = posted(Action::Refund(refund.clone())).await;
    let expected = json!({
        "amount": 3_900, "refund_reference": format!("return-1-{tag}"), "reason": "broken", "terminal_id": "t1",
        "metadata": {"ext_order": "17", "ext_shop": "oslo", "ext_operation_id": tag.as_str()},
        "items": [full_item_on_the_wire()]
    });
    assert_eq!(body(&full), expected);
    assert_eq!(full.uri().path(), format!("/v1/transactions/{TRANSACTION}/refund"));
    let (items, metadata) = (Vec::new(), BTreeMap::new());
    let plain = Refund { items, reference: None, reason: None, metadata, terminal_id: None, ..refund };
    let expected = json!({
        "amount": 3_900, "refund_reference": tag.as_str(), "metadata": {"ext_operation_id": tag.as_str()}
    });
    assert_eq!(body(&posted(Action::Refund(plain)).await), expected);
}

#[tokio::test]
async fn a_void_has_no_body() {
    let void = posted(Action::Void).await;
    assert_eq!(void.uri().path(), format!("/v1/transactions/{TRANSACTION}/void"));
    assert!(void.body().is_empty());
    assert_eq!(void.headers().get(header::CONTENT_TYPE), None);
}

#[tokio::test]
async fn every_operation_carries_its_mark_and_says_who_asks() {
    let agent = format!("payops/{SYSTEM_VERSION} operation/{}", command(Action::Void).tag());
    let version = env!("CARGO_PKG_VERSION");
    for action in [Action::Capture(plain_capture()), Action::Void] {
        let request = posted(action).await;
        assert_eq!(request.method(), Method::POST);
        let headers: Vec<(&str, &str)> =
            request.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        for expected in [
            ("authorization", "Bearer t0ken"),
            ("accept", "application/json"),
            ("user-agent", agent.as_str()),
            ("dintero-system-name", "payops"),
            ("dintero-system-version", version),
        ] {
            assert!(headers.contains(&expected), "{expected:?} of {headers:?}");
        }
        assert!(request.headers()["authorization"].is_sensitive(), "a log must not show it");
    }
}

#[tokio::test]
async fn a_token_is_asked_for_as_documented_and_a_path_prefix_is_kept() {
    let recorder = Recorder::answering([Ok(status(500, ""))]);
    let client =
        recorder.client(|settings| settings.path_prefix = "/v1/accounts/T12345678/payments".to_owned());
    client.read(&TRANSACTION.parse().unwrap()).await.unwrap_err();
    let read = recorder.sent();
    let path = format!("/v1/accounts/T12345678/payments/transactions/{TRANSACTION}");
    assert_eq!((read.method(), read.uri().path(), read.uri().query()), (&Method::GET, &path[..], None));
    let token = recorder.requests.lock().unwrap()[0].clone();
    assert_eq!(token.uri(), "https://api.example.com/v1/accounts/T12345678/auth/token");
    assert_eq!(token.headers()["authorization"], "Basic c2FuZGJveC1jbGllbnQ6c2FuZGJveC1zZWNyZXQ=");
    // The audience's host is Dintero's, whatever host is called [D 2.1].
    let audience = "https://api.dintero.com/v1/accounts/T12345678";
    assert_eq!(body(&token), json!({"grant_type": "client_credentials", "audience": audience}));
}

#[tokio::test]
async fn a_transaction_of_an_account_that_is_not_served_goes_nowhere() {
    let recorder = Recorder::default();
    let client = recorder.client(|_| ());
    let other: TransactionId = "P12345678.465UfBENeLpkBvwmqfTC4k".parse().unwrap();
    assert!(!client.serves(&other));
    assert_eq!(client.read(&other).await, Err(ReadError::NotSent(NotSent::UnknownAccount)));
    assert!(recorder.requests.lock().unwrap().is_empty());
}

/// The PSP's error body [D 8].
fn refusal() -> String {
    json!({"error": {"code": "NOT FOUND", "message": "no", "errors": []}}).to_string()
}

fn shown() -> String {
    json!({"id": TRANSACTION, "status": "AUTHORIZED", "currency": "NOK", "amount": 500}).to_string()
}

async fn received(answer: Answer) -> Received {
    let recorder = Recorder::answering([answer]);
    let client = recorder.client(|_| ());
    let prepared = client.prepare(&command(Action::Void)).await.unwrap();
    let received = client.send(prepared).await;
    recorder.sent();
    received
}

#[tokio::test]
async fn an_answer_is_definite_only_where_it_is_documented_to_be() {
    let refused = |http_status| {
        let (code, message) = (Some("NOT FOUND".to_owned()), Some("no".to_owned()));
        Received::Refused(PspError { http_status: Some(http_status), code, message, ..PspError::default() })
    };
    for http_status in [400, 403, 404, 422] {
        assert_eq!(received(Ok(status(http_status, refusal()))).await, refused(http_status));
        // Somebody in between says it: not the PSP's word.
        for body in ["", "<html>no</html>", "{}", "{\"error\": \"no\"}", "null"] {
            let received = received(Ok(status(http_status, body))).await;
            assert!(matches!(received, Received::Unknown(_)), "{http_status} {body}: {received:?}");
        }
    }
    assert_eq!(received(Ok(status(401, refusal()))).await, Received::Unauthorized);
    assert_eq!(received(Err(TransportError::NotSent("a".into()))).await, Received::NotSent("a".into()));
    assert_eq!(received(Err(TransportError::Unknown("b".into()))).await, Received::Unknown("b".into()));
    for http_status in [201, 204, 301, 307, 402, 408, 410, 418, 500, 502, 503, 504] {
        for body in [refusal(), shown(), String::new()] {
            let received = received(Ok(status(http_status, body))).await;
            assert!(matches!(received, Received::Unknown(_)), "{http_status}: {received:?}");
        }
    }
    for http_status in [200, 202] {
        for body in ["", "{", "null", "[]", "<html>", "{\"id\": \"T12345678.x\"}"] {
            let received = received(Ok(status(http_status, body))).await;
            assert!(matches!(received, Received::Unknown(_)), "{http_status} {body}: {received:?}");
        }
    }
}

#[tokio::test]
async fn a_pushback_tells_how_long_to_wait_within_reason() {
    for http_status in [409, 429] {
        for (said, retry_after) in [
            (None, None),
            (Some("7"), Some(Duration::from_secs(7))),
            (Some(" 0 "), Some(Duration::ZERO)),
            (Some("999999999999"), Some(RETRY_AFTER_MAX)),
            (Some("-1"), None),
            (Some("soon"), None),
        ] {
            let mut answer = status(http_status, refusal());
            if let Some(said) = said {
                answer.headers_mut().insert("retry-after", said.parse().unwrap());
            }
            assert_eq!(
                received(Ok(answer)).await,
                Received::Pushback { http_status, retry_after },
                "{said:?}"
            );
        }
    }
}

#[tokio::test]
async fn only_an_accepted_request_has_an_id_to_wait_for() {
    for (http_status, said, expected) in
        [(202, "r-1", Some("r-1")), (202, "", None), (202, &"x".repeat(129), None), (200, "r-1", None)]
    {
        let mut answer = status(http_status, shown());
        answer.headers_mut().insert("event-request-id", said.parse().unwrap());
        let Received::Answered { accepted_request_id, .. } = received(Ok(answer)).await else { panic!() };
        assert_eq!(accepted_request_id.as_deref(), expected, "{http_status} {said}");
    }
}

#[tokio::test]
async fn a_read_is_repeated_once_after_a_401_and_its_errors_are_told_apart() {
    let read = async |answers: Vec<Response<Bytes>>| {
        let recorder = Recorder::answering(answers.into_iter().map(Ok));
        recorder.client(|_| ()).read(&TRANSACTION.parse().unwrap()).await
    };
    assert_eq!(read(vec![status(401, ""), status(200, shown())]).await.unwrap().id, TRANSACTION);
    let twice = read(vec![status(401, ""), status(401, "")]).await;
    assert!(matches!(twice, Err(ReadError::NotSent(NotSent::CredentialsRejected(_)))), "{twice:?}");
    assert_eq!(read(vec![status(404, "")]).await, Err(ReadError::NotFound));
    assert_eq!(read(vec![status(403, "")]).await, Err(ReadError::Forbidden));
    let mut limited = status(429, "");
    limited.headers_mut().insert("retry-after", "9".parse().unwrap());
    assert_eq!(read(vec![limited]).await.unwrap_err().retry_after(), Some(Duration::from_secs(9)));
    let other = shown().replace(TRANSACTION, "T12345678.another");
    for answer in [status(500, shown()), status(202, shown()), status(200, "<html>"), status(200, other)] {
        let unreadable = read(vec![answer]).await;
        assert!(matches!(unreadable, Err(ReadError::Unreadable(_))), "{unreadable:?}");
    }
}

#[tokio::test]
async fn a_page_of_the_list_is_asked_for_as_documented_and_only_ids_are_taken_from_it() {
    let page = |moved, after: Option<&str>| Page {
        account: "T12345678".parse().unwrap(),
        moved,
        since: crate::clock::Timestamp(1_777_968_000_123),
        after: after.map(|id| id.parse().unwrap()),
        most: 50,
    };
    let since = "2026-05-05T08:00:00.123Z";
    for (page, query) in [
        (page(Moved::Captured, None), format!("limit=50&captured_at.gte={since}")),
        (
            page(Moved::Refunded, Some("T12345678.b")),
            format!("limit=50&refunded_at.gte={since}&starting_after=T12345678.b"),
        ),
    ] {
        let body = json!([{"id": "T12345678.a", "status": 1, "events": "?"}, {"id": "T12345678.b"}]);
        let recorder = Recorder::answering([Ok(status(200, body.to_string()))]);
        let ids = recorder.client(|_| ()).list(&page).await.unwrap();
        assert_eq!(ids.iter().map(TransactionId::as_str).collect::<Vec<_>>(), ["T12345678.a", "T12345678.b"]);
        let asked = recorder.sent();
        assert_eq!((asked.method(), asked.uri().path()), (&Method::GET, "/v1/transactions"));
        assert_eq!(asked.uri().query(), Some(query.as_str()));
    }
    let list = async |answer| {
        let recorder = Recorder::answering([Ok(answer)]);
        recorder.client(|_| ()).list(&page(Moved::Captured, None)).await
    };
    assert_eq!(list(status(200, "[]")).await, Ok(Vec::new()));
    for body in ["", "{}", "{\"data\": []}", "[{}]", "[{\"id\": \"../x\"}]", "[null]", "<html>"] {
        let unreadable = list(status(200, body)).await;
        assert!(matches!(unreadable, Err(ReadError::Unreadable(_))), "{body}: {unreadable:?}");
    }
    let mut limited = status(429, "");
    limited.headers_mut().insert("retry-after", "9".parse().unwrap());
    assert_eq!(list(limited).await.unwrap_err().retry_after(), Some(Duration::from_secs(9)));
}

#[test]
fn what_is_null_or_unknown_is_absent_and_what_is_of_a_wrong_kind_is_no_evidence() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_str(&shown()).unwrap();
        value["events"] = json!([{"event": "CAPTURE", "success": true, "amount": 5}]);
        change(&mut value);
        wire::transaction(value.to_string().as_bytes())
    };
    let plain = with(&|_| ()).unwrap();
    assert_eq!(plain.events[0].amount, Some(5));
    for member in ["payment_product_type", "merchant_reference", "settlement_status", "created_at", "items"] {
        assert_eq!(with(&|value| value[member] = Value::Null).unwrap(), plain, "{member}");
    }
    let event_members = ["id", "event_reference", "request_id", "correlation_request_id", "request_headers"];
    for member in event_members.into_iter().chain(["error", "correction", "transaction_status"]) {
        assert_eq!(with(&|value| value["events"][0][member] = Value::Null).unwrap(), plain, "{member}");
    }
    let headers = json!({"user-agent": "payops/1", "dintero-system-name": "payops"});
    let event =
        with(&|value| value["events"][0]["request_headers"] = headers.clone()).unwrap().events[0].clone();
    assert_eq!(
        (event.user_agent.as_deref(), event.system_name.as_deref()),
        (Some("payops/1"), Some("payops"))
    );
    assert_eq!(with(&|value| value["news"] = json!({"of": ["tomorrow"]})).unwrap(), plain);
    assert_eq!(with(&|value| value["events"] = Value::Null).unwrap().events, []);
    assert_eq!(with(&|value| value["events"][0]["success"] = Value::Null).unwrap().events[0].success, None);
    assert_eq!(with(&|value| value["status"] = "NEWS".into()).unwrap().status, "NEWS");
    let wrong: [&dyn Fn(&mut Value); 8] = [
        &|value| value["amount"] = "500".into(),
        &|value| value["amount"] = json!(500.5),
        &|value| value["status"] = Value::Null,
        &|value| value["events"] = json!({}),
        &|value| value["events"][0] = Value::Null,
        &|value| value["events"][0]["success"] = "true".into(),
        &|value| value["events"][0]["amount"] = json!(1e30),
        &|value| value["events"][0]["correction"] = json!({"remaining_capture_amount": 1}),
    ];
    for (nth, change) in wrong.into_iter().enumerate() {
        let error = with(change).unwrap_err();
        assert!(error.starts_with("not a transaction (line 1"), "{nth}: {error}");
    }
}
