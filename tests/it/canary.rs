//! Canaries: a string of its own in every secret and every personal field. None of them is ever seen again: not in a log
//! at its most talkative, not in a journal or its audit, not in an error, not in a `Debug`.
//!
//! What callers write into texts of a command (reason, reference, metadata, descriptions) is part of the command: the
//! journal has to keep it, since a retry is compared with it and the PSP may have to be sent it again. It is in the
//! journal, and in nothing else.

use std::{fs, path::Path};

use axum::{Router, body::Bytes, extract::State, http::Request, response::IntoResponse, routing::any};
use payops::config::{Account, Config, Postgres, Source};
use payops::grpc::pb::{self, payment_operations_service_client::PaymentOperationsServiceClient};
use payops::sandbox::{Account as PspAccount, Settings};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::collector::Collector;
use crate::place::Place;
use crate::sandbox::webhooks::sign;
use crate::sandbox::world::World;
use crate::support::{ALLOW_ALL, Caller, Refused, eventually, free_address, line};
use crate::{database, metrics, place};

const CLIENT_ID: &str = "canary-client-id-6b1f";
const CLIENT_SECRET: &str = "canary-client-secret-93ac";
const TOKEN: &str = "canary-token-of-orders-51de";
const STRANGER: &str = "canary-token-of-nobody-77b0";
const WEBHOOK: &str = "canary-webhook-secret-e2c4";
const AUDIT_KEY: &str = "canary-audit-key-a7f0-of-32-bytes";
const API_KEY: &str = "canary-api-key-of-the-collector-3d5e";
/// A token of an issuer that nobody trusts; the middle says `canary-claims-d41a`.
const JWT: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.eyJpc3MiOiJodHRwczovL2EiLCJzdWIiOiJjYW5hcnktY2xhaW1zLWQ0MWEifQ.Y2FuYXJ5LXNpZ25hdHVyZQ";

const REASON: &str = "canary-reason-0f3e";
const NOTE: &str = "canary-note-8d2b";
const DESCRIPTION: &str = "canary-description-4c6a";
const WRONG: &str = "canary of a wrong field, 2e9d";

/// What the PSP tells of a customer.
fn customer() -> Value {
    json!({
        "customer": {"email": "canary-email@example.org", "phone_number": "+47canary-phone"},
        "billing_address": {"first_name": "canary-first-name", "address_line": "canary-address"},
        "shipping_address": {"last_name": "canary-last-name"},
        "card": {"masked_pan": "411111******1111", "brand": "Visa", "payment_token": "canary-payment-token"},
        "metadata": {"merchant_name": "canary-merchant"},
    })
}

/// Everything that must be nowhere.
fn secrets(database_password: &str) -> Vec<String> {
    let mut all: Vec<String> =
        [CLIENT_ID, CLIENT_SECRET, TOKEN, STRANGER, WEBHOOK, AUDIT_KEY, API_KEY, JWT, database_password]
            .map(str::to_owned)
            .into();
    all.extend(JWT.split('.').skip(1).map(str::to_owned));
    all.push("canary-claims-d41a".to_owned());
    texts(&customer(), &mut all);
    all
}

/// The texts in a value that are canaries.
fn texts(value: &Value, all: &mut Vec<String>) {
    match value {
        Value::String(text) if text.contains("canary") || text.contains("****") => all.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| texts(value, all)),
        Value::Object(fields) => fields.values().for_each(|value| texts(value, all)),
        _ => {}
    }
}

/// A way to the PSP on which every transaction gets a customer, and each event one, too.
async fn with_customers(psp: &str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let router = Router::new().fallback(any(pass)).with_state((client, psp.to_owned()));
    tokio::spawn(async move { axum::serve(listener, router).await });
    base
}

async fn pass(
    State((client, psp)): State<(reqwest::Client, String)>,
    request: Request<axum::body::Body>,
) -> impl IntoResponse {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let mut passed = client.request(head.method, format!("{psp}{}", head.uri)).body(body);
    for (name, value) in head.headers.iter().filter(|(name, _)| *name != "host") {
        passed = passed.header(name, value);
    }
    let answer = passed.send().await.unwrap();
    let (status, id) = (answer.status(), answer.headers().get("event-request-id").cloned());
    let bytes = answer.bytes().await.unwrap();
    let bytes = match serde_json::from_slice::<Value>(&bytes) {
        Ok(mut transaction @ Value::Object(_)) if transaction["events"].is_array() => {
            merge(&mut transaction);
            transaction["events"].as_array_mut().unwrap().iter_mut().for_each(merge);
            Bytes::from(transaction.to_string())
        }
        _ => bytes,
    };
    let mut headers = http::HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    headers.extend(id.map(|id| (http::HeaderName::from_static("event-request-id"), id)));
    (status, headers, bytes)
}

fn merge(into: &mut Value) {
    into.as_object_mut().unwrap().extend(customer().as_object().unwrap().clone());
}

/// A place with a canary in every secret.
async fn place_with(database: Option<&Postgres>) -> (Place, std::net::SocketAddr) {
    let account = PspAccount {
        client_id: CLIENT_ID.to_owned(),
        client_secret: CLIENT_SECRET.to_owned(),
        ..PspAccount::default()
    };
    let settings = Settings { accounts: vec![account], ..Settings::default() };
    let place = Place::in_front_of(World::start_with(settings).await);
    let between = with_customers(&place.world.base).await;
    let text = fs::read_to_string(place.path("payops.toml")).unwrap();
    place.write("payops.toml", &text.replace(&place.world.base, &between));
    place.write("client_id", CLIENT_ID);
    place.write("client_secret", CLIENT_SECRET);
    let hash = payops::callers::token_hash(TOKEN);
    let issuer = "[[issuer]]\nname = \"other\"\nurl = \"https://issuer.example\"\naudiences = [\"payops\"]\n";
    let caller = format!("[[caller]]\nname = \"orders\"\ntoken_sha256 = [\"{hash}\"]\n{ALLOW_ALL}");
    place.write("callers.toml", &format!("{issuer}{caller}"));
    place.write("webhook_secret", WEBHOOK);
    place.write("audit_key", AUDIT_KEY);
    place.set("audit", "key_file = \"audit_key\"\n");
    let webhook = free_address();
    place.set("webhook", &format!("listen = \"{webhook}\"\nsecret_file = \"webhook_secret\"\n"));
    place.set("log", "level = \"trace\"\nformat = \"json\"\n");
    if let Some(database) = database {
        place.on(database);
    }
    (place, webhook)
}

/// All that a caller is told by an error.
fn told(refused: &Refused) -> String {
    format!("{refused:?} {:?} {}", refused.status, String::from_utf8_lossy(refused.status.details()))
}

/// Whatever can be done, well and badly; gives all the words of the errors.
async fn everything(place: &Place, webhook: std::net::SocketAddr) -> String {
    let client = PaymentOperationsServiceClient::new(place.channel());
    let as_caller = |token: &str| Caller { token: token.to_owned(), client: client.clone() };
    let orders = as_caller(TOKEN);
    let mut errors = String::new();
    let mut refused = |refused: Box<Refused>| errors.push_str(&told(&refused));
    let card = place.world.card().await;
    let item = pb::Item { description: DESCRIPTION.to_owned(), ..line("1", 100) };
    let metadata = [("note".to_owned(), NOTE.to_owned())].into();
    let capture = pb::CaptureRequest { items: vec![item], metadata, ..crate::support::capture(&card, 100) };
    orders.capture_with("captured", capture.clone()).await.unwrap();
    assert!(orders.capture_with("captured", capture).await.unwrap().replayed);
    let refund = pb::RefundRequest { reason: REASON.to_owned(), ..crate::support::refund(&card, 40) };
    orders.refund_with("refunded", refund).await.unwrap();
    orders.void("voided", &place.world.card().await).await.unwrap();
    orders.transaction(&card).await.unwrap();
    for fault in [
        json!({"fault": "declined", "leave_failed_event": true}),
        json!({"fault": "unavailable_after_applying"}),
        json!({"fault": "html_instead_of_json"}),
        json!({"fault": "conflict_409"}),
        json!({"fault": "truncated_json"}),
        json!({"fault": "unauthorized_once"}),
    ] {
        let (key, mut armed) = (fault["fault"].as_str().unwrap().to_owned(), fault.clone());
        armed["operation"] = "capture".into();
        place.world.fault(armed).await;
        let asked = pb::CaptureRequest {
            metadata: [("note".to_owned(), NOTE.to_owned())].into(),
            ..crate::support::capture(&place.world.card().await, 10)
        };
        if let Err(why) = orders.capture_with(&key, asked).await {
            refused(why);
        }
    }
    let wrong = pb::RefundRequest {
        reference: WRONG.to_owned(),
        currency_code: WRONG.to_owned(),
        terminal_id: WRONG.to_owned(),
        ..crate::support::refund(WRONG, 1)
    };
    refused(orders.refund_with("wrong", wrong).await.unwrap_err());
    for token in [STRANGER, JWT] {
        refused(as_caller(token).transaction(&card).await.unwrap_err());
    }
    for secret in [WEBHOOK, "another"] {
        let body = json!({"event": "checkout_transaction", "transaction": merged(&card)}).to_string();
        let delivery = place.world.client.post(format!("http://{webhook}/webhooks/dintero"));
        let signed = delivery.header("event-signature", sign(secret, body.as_bytes()));
        signed.body(body).send().await.unwrap();
    }
    eventually("what is in doubt is found out", async || {
        orders
            .operation("unavailable_after_applying")
            .await
            .is_ok_and(|operation| operation.state() == pb::OperationState::Succeeded)
    })
    .await;
    errors
}

fn merged(card: &str) -> Value {
    let mut transaction = json!({"id": card});
    merge(&mut transaction);
    transaction
}

/// Every file below a folder, as text as far as it is one.
fn files(folder: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.push_str(&files(&path));
        } else {
            all.push_str(&String::from_utf8_lossy(&fs::read(path).unwrap()));
        }
    }
    all
}

fn must_be_nowhere(words: &[String], place: &str, text: &str) {
    for word in words {
        assert!(!text.contains(word.as_str()), "{word} is in the {place}");
    }
}

#[tokio::test]
async fn no_secret_and_nothing_personal_is_ever_told() {
    let shared = database::shared().database();
    for database in [None, Some(&shared)] {
        let (place, webhook) = place_with(database).await;
        let stdout = fs::File::create(place.path("stdout")).unwrap();
        let log = fs::File::create(place.path("log")).unwrap();
        let collector = Collector::start().await;
        let scrape = free_address();
        place.set("metrics", &format!("listen = \"{scrape}\"\n"));
        let mut command: Command = place.command();
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", collector.http));
        command.env("OTEL_EXPORTER_OTLP_HEADERS", format!("x-api-key={API_KEY}"));
        command.env("OTEL_BSP_SCHEDULE_DELAY", "50").env("OTEL_METRIC_EXPORT_INTERVAL", "200");
        let mut life = command.stdout(stdout).stderr(log).spawn().unwrap();
        eventually("the boundary serves", async || place.health().await == Some(1)).await;
        let errors = everything(&place, webhook).await;
        let scraped = metrics::scrape(&place.world, scrape).await;
        let rows = database.map(|database| rows(database::name(database)));
        place::signal(&life, rustix::process::Signal::TERM);
        assert_eq!(place::ended(&mut life).await.code(), Some(0));
        let config = place.path("payops.toml").display().to_string();
        let audit = place::text(&place::run(&["audit", "export", "--config", &config]).await.stdout);
        assert!(audit.contains("\"refusal\"") && audit.contains("\"refunded\""), "{audit}");

        let secrets = secrets(database::PASSWORD);
        let free_texts = [REASON, NOTE, DESCRIPTION, WRONG].map(str::to_owned);
        let (log, stdout) = (place.log(), fs::read_to_string(place.path("stdout")).unwrap());
        // It is as talkative as it can be, or this would prove nothing.
        assert!(log.contains("\"level\":\"TRACE\"") && log.contains("\"level\":\"DEBUG\""));
        let exported = collector.text();
        let told = ["payops.v1.PaymentOperationsService/Refund", "payops.reason", "payops.answers"];
        assert!(told.iter().all(|told| exported.contains(told)) && scraped.contains("payops_answers_total"));
        for (name, text) in [
            ("log", &log),
            ("output", &stdout),
            ("errors", &errors),
            ("audit", &audit),
            ("collector", &exported),
            ("metrics", &scraped),
        ] {
            must_be_nowhere(&secrets, name, text);
            must_be_nowhere(&free_texts, name, text);
        }
        let journal = rows.unwrap_or_else(|| files(&place.path("journal")));
        must_be_nowhere(&secrets, "journal", &journal);
        // A command is kept as it was given; what never became one is not.
        assert!([REASON, NOTE, DESCRIPTION].iter().all(|text| journal.contains(text)));
        assert!(!journal.contains(WRONG));
    }
}

/// All rows of all tables, as JSON.
fn rows(database: &str) -> String {
    let server = &database::shared().primary;
    let tables = server.sql(
        database,
        "SELECT table_schema || '.' || table_name FROM information_schema.tables \
         WHERE table_schema NOT IN ('pg_catalog', 'information_schema') AND table_name NOT LIKE 'pg_stat%'",
    );
    assert!(!tables.is_empty());
    let row = |table: &str| server.sql(database, &format!("SELECT row_to_json(t) FROM {table} t"));
    tables.lines().map(row).collect::<Vec<_>>().join("\n")
}

/// What a developer prints.
#[test]
fn no_debug_shows_a_secret() {
    let mut config = Config::sandbox(
        "127.0.0.1:0".parse().unwrap(),
        "127.0.0.1:1".parse().unwrap(),
        tempfile::tempdir().unwrap().path(),
    );
    let source = |text: &str| Source::Value(text.to_owned().into());
    config.accounts = vec![Account {
        id: "T12345678".parse().unwrap(),
        client_id: source(CLIENT_ID),
        client_secret: source(CLIENT_SECRET),
    }];
    config.webhook.secret = Some(source(WEBHOOK));
    config.audit.key = Some(source(AUDIT_KEY));
    let callers = format!(
        "[[caller]]\nname = \"orders\"\ntoken_sha256 = [\"{}\"]\n",
        payops::callers::token_hash(TOKEN)
    );
    let callers = payops::callers::Callers::parse(&callers).unwrap();
    let events = [merged("e")];
    let mut transaction = json!({"id": "T12345678.a", "status": "AUTHORIZED", "currency": "NOK", "amount": 1, "events": events});
    merge(&mut transaction);
    let read = payops::psp::dintero::wire::transaction(transaction.to_string().as_bytes()).unwrap();
    let keys = payops::journal::audit::Key::configured(&config.audit).unwrap();
    let names = callers.names().collect::<Vec<_>>();
    let printed = format!("{config:?} {:?} {names:?} {read:?} {keys:?}", config.describe());
    must_be_nowhere(&secrets(database::PASSWORD), "Debug", &printed);
}
