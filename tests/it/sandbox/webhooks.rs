//! Webhooks: who is told, of what, how, and what may go wrong on the way.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, StatusCode};
use reqwest::Method;
use serde_json::{Value, json};
use sha1::Sha1;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::world::{World, send};

pub const SECRET: &str = "whsec_example";

/// A delivery as it arrived.
#[derive(Clone, Debug)]
struct Arrived {
    headers: HeaderMap,
    body: Bytes,
}

/// What is answered, and what arrived.
type Shared = Arc<Mutex<(StatusCode, Vec<Arrived>)>>;

/// Somebody who listens for webhooks, and answers as it is told.
struct Listener {
    address: SocketAddr,
    shared: Shared,
    server: JoinHandle<()>,
}

impl Arrived {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Listener {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared::new(Mutex::new((StatusCode::OK, Vec::new())));
        let router = Router::new().route("/hook", post(receive)).with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, shared, server }
    }

    /// Subscribes, and gives the subscription's path once the ping is there.
    async fn subscribed(&self, world: &World) -> String {
        let path = subscribe(world, &format!("http://{}/hook", self.address)).await;
        world.eventually("the ping is there", async |_| self.events("ping").len() == 1).await;
        path
    }

    fn answers(&self, status: u16) {
        self.shared.lock().unwrap().0 = StatusCode::from_u16(status).unwrap();
    }

    fn events(&self, event: &str) -> Vec<Arrived> {
        let shared = self.shared.lock().unwrap();
        shared.1.iter().filter(|arrived| arrived.header("event") == event).cloned().collect()
    }

    /// What was told of transactions.
    fn told(&self) -> Vec<Arrived> {
        self.events("checkout_transaction")
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn receive(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> (StatusCode, HeaderMap) {
    let mut shared = shared.lock().unwrap();
    shared.1.push(Arrived { headers, body });
    // Whoever follows it comes here once more.
    (shared.0, HeaderMap::from_iter([(http::header::LOCATION, "/hook".parse().unwrap())]))
}

pub fn sign(secret: &str, body: &[u8]) -> String {
    let mut hmac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).unwrap();
    hmac.update(body);
    hmac.finalize().into_bytes().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

/// The body of a new subscription.
pub fn subscription(url: &str) -> Value {
    json!({
        "config": {
            "url": url, "content_type": "application/json", "secret": { "type": "HMAC-SHA1", "value": SECRET },
        },
        "events": ["checkout_transaction"],
    })
}

const PATH: &str = "/v1/accounts/T12345678/hooks/subscriptions";

/// Subscribes, and gives the subscription's path.
pub async fn subscribe(world: &World, url: &str) -> String {
    world.admin(Method::PUT, "/settings", json!({ "webhook_retry_ms": 1 })).await.expect(200);
    let made = world.try_post(PATH, &subscription(url)).await.unwrap().expect(201);
    format!("{PATH}/{}", made.json()["id"].as_str().unwrap())
}

async fn deliveries(world: &World, subscription: &str) -> Vec<Value> {
    let path = format!("{subscription}/deliveries");
    let listed = send(world.authorized(Method::GET, &path)).await.unwrap().expect(200);
    listed.json().as_array().unwrap().clone()
}

/// [D 10.1]: a subscription begins with a ping; every delivery is signed, named, and from Dintero-Hook.
#[tokio::test]
async fn a_delivery_is_signed_and_named() {
    let (world, listener) = (World::start().await, Listener::start().await);
    let path = listener.subscribed(&world).await;
    world.try_post(&format!("{path}/ping"), &Value::Null).await.unwrap().expect(200);
    world.eventually("another ping", async |_| listener.events("ping").len() == 2).await;
    world.card().await;
    world.eventually("it is told", async |_| listener.told().len() == 1).await;
    for arrived in listener.events("ping").into_iter().chain(listener.told()) {
        assert_eq!(arrived.header("event-signature"), sign(SECRET, &arrived.body));
        assert_eq!(arrived.header("content-type"), "application/json");
        assert!(arrived.header("user-agent").starts_with("Dintero-Hook/"), "{arrived:?}");
        assert_eq!(arrived.json()["event"], arrived.header("event"));
        assert_eq!(arrived.json()["event_delivery"], arrived.header("event-delivery"));
        arrived.header("event-delivery").parse::<uuid::Uuid>().unwrap();
    }
}

/// [D 10.1], [D 12 #24]: the guaranteed members, the status, and no events.
#[tokio::test]
async fn a_delivery_tells_which_transaction_and_not_what_happened_to_it() {
    let (world, listener) = (World::start().await, Listener::start().await);
    listener.subscribed(&world).await;
    let id = world
        .make(json!({ "amount": 100, "merchant_reference": "ORDER-1", "merchant_reference_2": "2" }))
        .await;
    world.eventually("it is told", async |_| listener.told().len() == 1).await;
    let body = listener.told()[0].json();
    assert_eq!(body["account_id"], "T12345678");
    let told = body["transaction"].as_object().unwrap();
    let names: Vec<&str> = told.keys().map(String::as_str).collect();
    let expected = [
        "created_at",
        "id",
        "merchant_reference",
        "merchant_reference_2",
        "session_id",
        "status",
        "updated_at",
    ];
    assert_eq!(names, expected);
    assert_eq!(
        (&told["id"], &told["status"], &told["merchant_reference"]),
        (&json!(id), &json!("AUTHORIZED"), &json!("ORDER-1"))
    );
}

/// [D 10.1]: created or updated, at once or later, by whomever.
#[tokio::test]
async fn every_change_is_told() {
    let (world, listener) = (World::start().await, Listener::start().await);
    listener.subscribed(&world).await;
    let mut expected = 0;
    let mut tells = async |what: &str, changes: usize| {
        expected += changes;
        world.eventually(what, async |_| listener.told().len() == expected).await;
    };
    let card = world.card().await;
    tells("creation", 1).await;
    let path = |operation: &str| format!("/v1/transactions/{card}/{operation}");
    world.try_post(&path("capture"), &json!({ "amount": 1_000 })).await.unwrap().expect(200);
    tells("a capture", 1).await;
    world.try_post(&path("refund"), &json!({ "amount": 1_000 })).await.unwrap().expect(200);
    tells("a refund", 1).await;
    world
        .admin(
            Method::POST,
            &format!("/transactions/{card}/backoffice"),
            json!({ "kind": "capture", "amount": 1 }),
        )
        .await
        .expect(200);
    tells("a capture in the Backoffice", 1).await;
    let put = world.authorized(Method::PUT, &format!("/v1/transactions/{card}"));
    send(put.body(json!({ "merchant_reference_2": "x" }).to_string())).await.unwrap().expect(200);
    tells("a new reference", 1).await;
    world.fault(json!({ "operation": "capture", "fault": "success_false" })).await;
    world.try_post(&path("capture"), &json!({ "amount": 1_000 })).await.unwrap().expect(200);
    tells("a failed capture", 1).await;
    world
        .fault(json!({ "operation": "capture", "fault": "accepted_then", "outcome": "done", "delay_ms": 50 }))
        .await;
    world.try_post(&path("capture"), &json!({ "amount": 1_000 })).await.unwrap().expect(202);
    tells("an accepted capture and its end", 2).await;
    let other = world.card().await;
    world.try_post(&format!("/v1/transactions/{other}/void"), &Value::Null).await.unwrap().expect(200);
    tells("a void", 2).await;
    let last = listener.told().into_iter().map(|arrived| arrived.json());
    assert!(
        last.map(|body| body["transaction"]["status"].clone()).any(|status| status == "AUTHORIZATION_VOIDED")
    );
    // What changes nothing is not told.
    world.try_post(&format!("/v1/transactions/{other}/void"), &Value::Null).await.unwrap().expect(400);
    world
        .admin(Method::POST, &format!("/transactions/{other}/events"), json!({ "event": "SETTLEMENT" }))
        .await
        .expect(200);
    tells("an event", 1).await;
}

/// [D 10.1]: five attempts in all; a redirect is a failure and is not followed.
#[tokio::test]
async fn a_delivery_that_fails_is_tried_five_times_and_then_given_up() {
    for failure in [500, 401, 302] {
        let (world, listener) = (World::start().await, Listener::start().await);
        let path = listener.subscribed(&world).await;
        listener.answers(failure);
        world.card().await;
        world
            .eventually("five attempts", async |world| {
                deliveries(world, &path).await[0]["attempts"].as_array().unwrap().len() == 5
            })
            .await;
        let newest = deliveries(&world, &path).await.remove(0);
        assert!(newest["attempts"].as_array().unwrap().iter().all(|attempt| attempt["status"] == failure));
        let told = listener.told();
        assert!(told.iter().all(|arrived| arrived.body == told[0].body), "one and the same delivery");
        // A later one succeeds at once.
        listener.answers(204);
        world.card().await;
        world.eventually("it is told", async |_| listener.told().len() == 6).await;
    }
}

/// [D 10.1]: a subscription with repeated failures is deleted.
#[tokio::test]
async fn a_subscription_that_keeps_failing_is_deleted() {
    let (world, listener) = (World::start().await, Listener::start().await);
    let path = listener.subscribed(&world).await;
    listener.answers(404);
    for _ in 0..20 {
        world.card().await;
    }
    world
        .eventually("the subscription is gone", async |world| {
            send(world.authorized(Method::GET, &format!("{path}/deliveries"))).await.unwrap().status == 404
        })
        .await;
}

#[tokio::test]
async fn nobody_is_told_who_did_not_ask_or_asks_no_more() {
    let (world, listener) = (World::start().await, Listener::start().await);
    let path = listener.subscribed(&world).await;
    let other = json!({ "client_id": "x", "client_secret": "y", "scopes": ["admin:checkout"] });
    world.admin(Method::PUT, "/clients/T87654321", other).await.expect(204);
    world.make(json!({ "account": "T87654321", "amount": 100 })).await;
    let mut passive = subscription(&format!("http://{}/hook", listener.address));
    passive["active"] = false.into();
    world.try_post(PATH, &passive).await.unwrap().expect(201);
    passive["active"] = true.into();
    passive["events"] = json!(["settlement_add"]);
    world.try_post(PATH, &passive).await.unwrap().expect(201);
    let card = world.card().await;
    world.eventually("it is told", async |_| !listener.told().is_empty()).await;
    send(world.authorized(Method::DELETE, &path)).await.unwrap().expect(200);
    world.card().await;
    let path = subscribe(&world, &format!("http://{}/hook", listener.address)).await;
    let last = world.card().await;
    world.eventually("the last one is told", async |_| listener.told().len() == 2).await;
    let ids: Vec<_> =
        listener.told().iter().map(|arrived| arrived.json()["transaction"]["id"].clone()).collect();
    assert_eq!(ids, [card, last]);
    world.admin(Method::POST, "/reset", Value::Null).await.expect(204);
    let token = world.token_for(&payops::sandbox::Account::default()).await;
    let gone = world.request(Method::GET, &format!("{path}/deliveries")).bearer_auth(token);
    send(gone).await.unwrap().expect(404);
}

#[tokio::test]
async fn a_wrong_subscription_is_refused() {
    let world = World::start().await;
    let right = subscription("http://127.0.0.1:1/hook");
    for (pointer, wrong) in [
        ("/config", Value::Null),
        ("/config/url", json!("nowhere")),
        ("/config/url", json!("ftp://127.0.0.1/")),
        ("/config/secret/type", json!("AWS4-HMAC-SHA256")),
        ("/config/secret/value", json!("")),
        ("/events", json!([])),
        ("/events", json!([1])),
    ] {
        let mut body = right.clone();
        *body.pointer_mut(pointer).unwrap() = wrong;
        world.try_post(PATH, &body).await.unwrap().expect(400);
    }
    world.try_post("/v1/accounts/T87654321/hooks/subscriptions", &right).await.unwrap().expect(403);
    world.try_post(&format!("{PATH}/none/ping"), &Value::Null).await.unwrap().expect(404);
    send(world.request(Method::POST, PATH).body(right.to_string())).await.unwrap().expect(401);
}

/// [D 2.4]: subscriptions need scopes of their own.
#[tokio::test]
async fn subscriptions_need_their_own_scopes() {
    let world = World::start().await;
    for (scope, status) in [("admin:checkout", 403), ("write:hooks", 201), ("admin:hooks", 201)] {
        let account = payops::sandbox::Account {
            id: "T87654321".to_owned(),
            client_id: "c".to_owned(),
            client_secret: "s".to_owned(),
        };
        let client = json!({ "client_id": "c", "client_secret": "s", "scopes": [scope] });
        world.admin(Method::PUT, "/clients/T87654321", client).await.expect(204);
        let token = world.token_for(&account).await;
        let request =
            world.request(Method::POST, "/v1/accounts/T87654321/hooks/subscriptions").bearer_auth(token);
        send(request.body(subscription("http://127.0.0.1:1/hook").to_string())).await.unwrap().expect(status);
    }
}

#[tokio::test]
async fn a_webhook_can_be_lost_duplicated_or_forged_while_the_change_is_as_always() {
    let (world, listener) = (World::start().await, Listener::start().await);
    let path = listener.subscribed(&world).await;
    let card = world.card().await;
    world.eventually("creation", async |_| listener.told().len() == 1).await;
    for (fault, arrivals) in [("webhook_lost", 0), ("webhook_duplicated", 2), ("webhook_wrong_signature", 1)]
    {
        let before = listener.told().len();
        world.fault(json!({ "operation": "capture", "transaction": card, "fault": fault })).await;
        let answer =
            world.try_post(&format!("/v1/transactions/{card}/capture"), &json!({ "amount": 10 })).await;
        answer.unwrap().expect(200);
        // Another one, which is as always, tells that the first is over.
        world.card().await;
        world.eventually(fault, async |_| listener.told().len() == before + arrivals + 1).await;
        let all = deliveries(&world, &path).await;
        let struck = all.iter().find(|delivery| delivery["fault"] == fault).unwrap();
        let of_it: Vec<_> =
            listener.told().into_iter().filter(|one| one.header("event-delivery") == struck["id"]).collect();
        assert_eq!(of_it.len(), arrivals, "{fault}");
        let genuine = of_it.iter().all(|one| one.header("event-signature") == sign(SECRET, &one.body));
        assert_eq!(genuine, fault != "webhook_wrong_signature", "{fault}");
    }
    assert_eq!(world.ledger(&card).await.len(), 3);
}

/// [D 12 #6]: told of, and not yet to be seen.
#[tokio::test]
async fn a_webhook_can_come_before_its_change_is_visible() {
    let (world, listener) = (World::start().await, Listener::start().await);
    listener.subscribed(&world).await;
    let card = world.card().await;
    world
        .fault(json!({ "operation": "capture", "fault": "accepted_then", "outcome": "done", "delay_ms": 0 }))
        .await;
    world
        .fault(json!({ "operation": "capture", "fault": "webhook_early", "delay_ms": 300, "skip": 1 }))
        .await;
    let answer = world.try_post(&format!("/v1/transactions/{card}/capture"), &json!({ "amount": 10 })).await;
    answer.unwrap().expect(202);
    let captured = async |world: &World| {
        let read = send(world.authorized(Method::GET, &format!("/v1/transactions/{card}")))
            .await
            .unwrap()
            .expect(200);
        (read.json()["status"].clone(), read.last_event()["event"].clone())
    };
    world.eventually("the end is told", async |_| listener.told().len() == 3).await;
    assert_eq!(world.ledger(&card).await.len(), 1, "the money moved");
    assert_eq!(captured(&world).await, (json!("AUTHORIZED"), json!("INITIATE_CAPTURE")));
    world
        .eventually("it is visible", async |world| {
            captured(world).await == (json!("PARTIALLY_CAPTURED"), json!("CAPTURE"))
        })
        .await;
}
