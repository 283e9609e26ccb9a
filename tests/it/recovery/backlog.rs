//! Operations in doubt, all of which happened, and a program that was killed over them.

use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};
use payops::grpc::pb::{self, OperationState, operation_review_service_client::OperationReviewServiceClient};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Child;

use crate::place::{Place, TOKEN};
use crate::sandbox::world::World;
use crate::support::{ALLOW_ALL, Caller};

const CALLERS: usize = 32;

pub struct Backlog {
    pub place: Place,
    /// Keys and transactions, the longest in doubt first.
    pub asked: Vec<(String, String)>,
    config: String,
}

impl Backlog {
    /// Captures whose answers are lost. Nothing is found out meanwhile: the only reader waits for the PSP's answer.
    pub async fn build(count: usize) -> Self {
        let place = Place::in_front_of(World::start().await);
        let callers =
            [("orders", TOKEN, false), ("anna", "token-of-anna", true)].map(|(name, token, review)| {
                let hash = payops::callers::token_hash(token);
                format!("[[caller]]\nname = \"{name}\"\ntoken_sha256 = [\"{hash}\"]\nreview = {review}\n{ALLOW_ALL}")
            });
        place.write("callers.toml", &callers.concat());
        place.set("log", "level = \"warn\"\n");
        // No answer is no reason not to send the next one here.
        place.set("psp", "circuit_failures = 0\n");
        let config = std::fs::read_to_string(place.path("payops.toml")).unwrap();
        place.set("read_back", "schedule = [\"10ms\"]\nthen_every = \"100ms\"\nin_flight_max = 1\n");
        let lost = json!({"operation": "capture", "fault": "answer_lost_after_applying", "probability": 1});
        let stuck =
            json!({"operation": "get", "fault": "delayed_answer", "delay_ms": 600_000, "probability": 1});
        let mut life = place.serve().await;
        place.world.fault(lost).await;
        place.world.fault(stuck).await;
        let orders = place.orders();
        let in_doubt = stream::iter(0..count).map(|n| doubt(&place, &orders, n)).buffered(CALLERS);
        let asked = in_doubt.collect().await;
        life.kill().await.unwrap();
        place.world.clear_faults().await;
        place.world.admin(Method::DELETE, "/requests", Value::Null).await;
        Self { place, asked, config }
    }

    /// Starts the program again, in front of a PSP that answers a read after `read`, of which `at_once` are allowed at
    /// once. Gives the process, and how long it took to be ready.
    pub async fn restart(&self, read: Duration, at_once: usize) -> (Child, Duration) {
        let late = json!({
            "operation": "get", "fault": "delayed_answer", "probability": 1,
            "delay_ms": u64::try_from(read.as_millis()).unwrap()
        });
        self.place.world.fault(late).await;
        self.place.write("payops.toml", &self.config);
        self.place.no_longer_new();
        self.place.set("read_back", &format!("in_flight_max = {at_once}\n"));
        let began = Instant::now();
        let life = self.place.serve().await;
        (life, began.elapsed())
    }

    /// Asks again for the n-th, and says how long the answer took. It is the truth.
    pub async fn retry(&self, n: usize) -> Duration {
        let (key, transaction) = &self.asked[n];
        let began = Instant::now();
        let answer = self.place.orders().capture(key, transaction, 100).await.unwrap();
        let took = began.elapsed();
        assert_eq!(answer.operation.state(), OperationState::Succeeded, "{key}");
        took
    }

    pub async fn is_settled(&self, n: usize) -> bool {
        let operation = self.place.orders().operation(&self.asked[n].0).await.unwrap();
        operation.state() == OperationState::Succeeded
    }

    /// Whether anything is open still.
    pub async fn is_open(&self) -> bool {
        let mut client = OperationReviewServiceClient::new(self.place.channel());
        let open = [OperationState::Started, OperationState::InDoubt, OperationState::InReview];
        let message = pb::ListOperationsRequest {
            states: open.map(i32::from).to_vec(),
            page_size: 1,
            ..Default::default()
        };
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert("authorization", "Bearer token-of-anna".parse().unwrap());
        !client.list_operations(request).await.unwrap().into_inner().operations.is_empty()
    }

    /// The transactions that were read since the restart, in that order.
    pub async fn reads(&self) -> Vec<String> {
        let requests = self.place.world.admin(Method::GET, "/requests", Value::Null).await.json();
        let reads = requests.as_array().unwrap().iter().filter(|request| request["operation"] == "get");
        reads.map(|request| request["transaction"].as_str().unwrap().to_owned()).collect()
    }

    /// How much moved in truth, how often.
    pub async fn effects(&self) -> usize {
        let ledger = self.place.world.admin(Method::GET, "/ledger", Value::Null).await.json();
        ledger.as_array().unwrap().len()
    }
}

async fn doubt(place: &Place, orders: &Caller, n: usize) -> (String, String) {
    let transaction = place.world.make(json!({"amount": 100})).await;
    let key = format!("key-{n}");
    let refused = orders.capture(&key, &transaction, 100).await.unwrap_err();
    assert_eq!(refused.reason(), "OUTCOME_UNKNOWN", "{refused:?}");
    (key, transaction)
}
