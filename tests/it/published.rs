//! A client that does what `service_config.json` says, and tonic, unlike others, leaves to its user: it repeats a call
//! under the same key, elsewhere, after the pause that the boundary asks for.

use std::time::Duration;

use payops::grpc::pb;
use serde_json::Value;
use tonic::{Code, Status};

use crate::support::{Answered, Caller, Outcome};

const PUBLISHED: &str = include_str!("../../proto/payops/v1/service_config.json");

/// How calls that move money are repeated.
#[derive(Clone, Debug)]
pub struct Retries {
    attempts: usize,
    pause: Duration,
    pause_max: Duration,
    multiplier: u32,
    codes: Vec<String>,
}

impl Retries {
    /// Those of `Capture`.
    pub fn published() -> Self {
        let config: Value = serde_json::from_str(PUBLISHED).unwrap();
        let policy = config["methodConfig"]
            .as_array()
            .unwrap()
            .iter()
            .find(|method| method["name"].as_array().unwrap().iter().any(|name| name["method"] == "Capture"))
            .map(|method| &method["retryPolicy"])
            .unwrap();
        let seconds = |name: &str| {
            let text = policy[name].as_str().unwrap().strip_suffix('s').unwrap();
            Duration::from_secs_f64(text.parse().unwrap())
        };
        let count = |name: &str| policy[name].as_u64().unwrap();
        Self {
            attempts: count("maxAttempts").try_into().unwrap(),
            pause: seconds("initialBackoff"),
            pause_max: seconds("maxBackoff"),
            multiplier: count("backoffMultiplier").try_into().unwrap(),
            codes: serde_json::from_value(policy["retryableStatusCodes"].clone()).unwrap(),
        }
    }

    /// Captures, at one replica after the other; says how often it had to repeat.
    pub async fn capture(
        &self,
        replicas: &[Caller],
        first: usize,
        key: &str,
        message: &pb::CaptureRequest,
    ) -> Result<(Answered, usize), Status> {
        let mut pause = self.pause;
        let mut repeated = 0;
        loop {
            let replica = &replicas[(first + repeated) % replicas.len()];
            let refused = match replica.capture_with(key, message.clone()).await {
                Outcome::Ok(answer) => return Ok((answer, repeated)),
                Outcome::Err(refused) => refused,
            };
            let asked: Option<i64> =
                refused.trailer("grpc-retry-pushback-ms").map(|milliseconds| milliseconds.parse().unwrap());
            repeated += 1;
            if repeated == self.attempts || !self.repeats(&refused.status) || asked.is_some_and(|ms| ms < 0) {
                return Err(refused.status);
            }
            let asked = asked.and_then(|milliseconds| u64::try_from(milliseconds).ok());
            tokio::time::sleep(asked.map_or(pause, Duration::from_millis)).await;
            pause = (pause * self.multiplier).min(self.pause_max);
        }
    }

    /// Whether clients of gRPC repeat by themselves: the codes, what provably never left, and a connection that broke,
    /// which tonic calls UNKNOWN and all others UNAVAILABLE.
    fn repeats(&self, status: &Status) -> bool {
        let name = match status.code() {
            Code::Unavailable => "UNAVAILABLE",
            Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Code::Aborted => "ABORTED",
            _ => "another",
        };
        let told = format!("{status:?}");
        self.codes.iter().any(|code| code == name)
            || ["hyper::Error(Canceled", "hyper::Error(Io"].iter().any(|transport| told.contains(transport))
    }
}
