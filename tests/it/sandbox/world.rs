//! A sandbox of one's own, and a client that speaks to it over real HTTP.

use std::time::Duration;

use payops::sandbox::{Account, Sandbox, Settings};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// The chair and the shipping of the guide.
pub const AMOUNT: i64 = 29_990;

/// How long a test waits for a condition.
const PATIENCE: Duration = Duration::from_secs(10);

/// A sandbox, an API client's token, and an HTTP client that neither follows redirects nor repeats anything.
pub struct World {
    pub base: String,
    pub token: String,
    pub client: reqwest::Client,
    server: JoinHandle<()>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn read(response: reqwest::Response) -> reqwest::Result<Self> {
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Self { status, headers, text: response.text().await? })
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The last event of the transaction in the body.
    pub fn last_event(&self) -> Value {
        self.json()["events"].as_array().unwrap().last().unwrap().clone()
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }
}

impl World {
    pub async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    pub async fn start_with(settings: Settings) -> Self {
        let account = settings.accounts[0].clone();
        let sandbox = Sandbox::bind(settings).await.unwrap();
        let base = format!("http://{}", sandbox.local_addr());
        let server = tokio::spawn(async move { sandbox.serve(std::future::pending()).await.unwrap() });
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .build()
            .unwrap();
        let mut world = Self { base, token: String::new(), client, server };
        world.token = world.token_for(&account).await;
        world
    }

    /// The body of a token request.
    pub fn grant(account: &str) -> Value {
        let audience = format!("https://api.dintero.com/v1/accounts/{account}");
        json!({ "grant_type": "client_credentials", "audience": audience })
    }

    pub async fn ask_token(&self, account: &Account, body: &Value) -> Answer {
        let path = format!("/v1/accounts/{}/auth/token", account.id);
        let request = self.request(Method::POST, &path);
        let request = request.basic_auth(&account.client_id, Some(&account.client_secret));
        send(request.body(body.to_string())).await.unwrap()
    }

    pub async fn token_for(&self, account: &Account) -> String {
        let answer = self.ask_token(account, &Self::grant(&account.id)).await.expect(200);
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        request.header("content-type", "application/json").header("user-agent", "payops/test")
    }

    /// A request with the token.
    pub fn authorized(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).bearer_auth(&self.token)
    }

    pub async fn try_post(&self, path: &str, body: &Value) -> reqwest::Result<Answer> {
        send(self.authorized(Method::POST, path).body(body.to_string())).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.try_post(path, body).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        send(self.authorized(Method::GET, path)).await.unwrap()
    }

    pub async fn try_capture(&self, id: &str, amount: i64) -> reqwest::Result<Answer> {
        let body = json!({ "amount": amount, "capture_reference": "cap-1" });
        self.try_post(&format!("/v1/transactions/{id}/capture"), &body).await
    }

    pub async fn capture(&self, id: &str, amount: i64) -> Answer {
        self.try_capture(id, amount).await.unwrap()
    }

    pub async fn refund(&self, id: &str, amount: i64) -> Answer {
        let body = json!({ "amount": amount, "refund_reference": "ref-1" });
        self.post(&format!("/v1/transactions/{id}/refund"), &body).await
    }

    pub async fn void(&self, id: &str) -> Answer {
        send(self.authorized(Method::POST, &format!("/v1/transactions/{id}/void"))).await.unwrap()
    }

    pub async fn transaction(&self, id: &str) -> Answer {
        self.get(&format!("/v1/transactions/{id}")).await.expect(200)
    }

    pub async fn status(&self, id: &str) -> String {
        self.transaction(id).await.json()["status"].as_str().unwrap().to_owned()
    }

    /// The admin API.
    pub async fn admin(&self, method: Method, path: &str, body: Value) -> Answer {
        let request = self.request(method, &format!("/sandbox/v1{path}"));
        let request = if body.is_null() { request } else { request.body(body.to_string()) };
        send(request).await.unwrap()
    }

    /// Makes a transaction and gives its id.
    pub async fn make(&self, body: Value) -> String {
        let made = self.admin(Method::POST, "/transactions", body).await.expect(201);
        made.json()["id"].as_str().unwrap().to_owned()
    }

    /// An authorized card payment with a chair and shipping.
    pub async fn card(&self) -> String {
        self.of("dintero_psp.creditcard").await
    }

    /// A transaction of a product, with a chair and shipping.
    pub async fn of(&self, product_type: &str) -> String {
        self.make(json!({ "payment_product_type": product_type, "items": chair_and_shipping() })).await
    }

    pub async fn fault(&self, body: Value) {
        self.admin(Method::POST, "/faults", body).await.expect(201);
    }

    pub async fn clear_faults(&self) {
        let cleared = self.admin(Method::DELETE, "/faults", Value::Null).await;
        assert!(cleared.status.is_success(), "{cleared:?}");
    }

    /// What moved: kind, amount, source.
    pub async fn ledger(&self, id: &str) -> Vec<(String, i64, String)> {
        let effects = self.effects(id).await;
        let text = |effect: &Value, name: &str| effect[name].as_str().unwrap().to_owned();
        let moved = |effect: &Value| {
            (text(effect, "kind"), effect["amount"].as_i64().unwrap(), text(effect, "source"))
        };
        effects.iter().map(moved).collect()
    }

    pub async fn effects(&self, id: &str) -> Vec<Value> {
        let ledger = self.admin(Method::GET, &format!("/ledger?transaction={id}"), Value::Null).await;
        ledger.json().as_array().unwrap().clone()
    }

    pub async fn requests(&self, id: &str) -> Vec<Value> {
        let requests = self.admin(Method::GET, &format!("/requests?transaction={id}"), Value::Null).await;
        requests.json().as_array().unwrap().clone()
    }

    /// Waits until `condition` holds.
    pub async fn eventually(&self, what: &str, condition: impl AsyncFn(&Self) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !condition(self).await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("{what} did not come about"));
    }

    /// Sends a capture over a bare socket and reads until the connection ends.
    pub async fn raw_capture(&self, id: &str) -> (Vec<u8>, std::io::Result<()>) {
        let address = self.base.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let body = json!({ "amount": AMOUNT, "capture_reference": "cap-1" }).to_string();
        let head = format!(
            "POST /v1/transactions/{id}/capture HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            self.token,
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut received = Vec::new();
        let ended = stream.read_to_end(&mut received).await.map(drop);
        (received, ended)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub async fn send(request: RequestBuilder) -> reqwest::Result<Answer> {
    Answer::read(request.send().await?).await
}

pub fn chair_and_shipping() -> Value {
    json!([
        { "line_id": "1", "id": "chair-1", "description": "Chair", "quantity": 1, "amount": 26_090 },
        { "line_id": "ship-1", "amount": 3_900, "quantity": 1, "type": "shipping" }
    ])
}
