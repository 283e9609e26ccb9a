//! A boundary of one's own in front of a sandbox of one's own, and callers
//! that act through the public API.

use std::{net::SocketAddr, time::Duration};

use payops::{
    app,
    config::{Account, Config, Source},
    grpc::pb::{self, payment_operations_service_client::PaymentOperationsServiceClient},
    sandbox,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, transport::Channel};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::sandbox::world::World;
pub use crate::started::free_address;

/// How long a test waits for a condition.
const PATIENCE: Duration = Duration::from_secs(30);

pub const SERVICE: &str = "payops.v1.PaymentOperationsService";
pub const REVIEW_SERVICE: &str = "payops.v1.OperationReviewService";

/// What the sandbox may have beside its own account.
pub const SECOND_ACCOUNT: &str = "T87654321";

/// A line of a callers file that lets a caller do everything.
pub const ALLOW_ALL: &str = "allow = [{ rpcs = [\"*\"], accounts = [\"*\"] }]\n";

/// The boundary under test.
pub struct TestApp {
    pub world: World,
    pub address: SocketAddr,
    pub config: Config,
    stop: CancellationToken,
    server: Option<JoinHandle<Result<(), app::Error>>>,
    /// Journal and callers file; ends with the test.
    _directory: tempfile::TempDir,
}

/// A caller with its token.
#[derive(Clone)]
pub struct Caller {
    pub token: String,
    pub client: PaymentOperationsServiceClient<Channel>,
}

/// What came of a money call.
pub type Outcome = Result<Answered, Box<Refused>>;

/// An OK answer with its metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    pub operation: pb::Operation,
    pub replayed: bool,
}

/// An error with its details.
#[derive(Clone, Debug)]
pub struct Refused {
    pub code: Code,
    pub status: Status,
    pub details: ErrorDetails,
}

impl TestApp {
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// Like the sandbox of the command line, but quick to read back.
    pub async fn start_with(adjust: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(World::start().await, adjust).await
    }

    /// In front of a sandbox that was made for the test.
    pub async fn start_in(world: World, adjust: impl FnOnce(&mut Config)) -> Self {
        let mut app = Self::make(world, adjust);
        app.serve().await;
        app
    }

    /// In front of a sandbox with another account, which is served, too.
    pub async fn start_with_two_accounts(adjust: impl FnOnce(&mut Config)) -> Self {
        let second = sandbox::Account {
            id: SECOND_ACCOUNT.to_owned(),
            client_id: "other-client".to_owned(),
            client_secret: "other-secret".to_owned(),
        };
        let account = Account {
            id: second.id.parse().unwrap(),
            client_id: Source::Value(second.client_id.clone().into()),
            client_secret: Source::Value(second.client_secret.clone().into()),
        };
        let accounts = vec![sandbox::Account::default(), second];
        let settings = sandbox::Settings { accounts, ..sandbox::Settings::default() };
        Self::start_in(World::start_with(settings).await, |config| {
            config.accounts.push(account);
            adjust(config);
        })
        .await
    }

    /// Does not wait for a readiness that may never come.
    pub async fn start_unready(adjust: impl FnOnce(&mut Config)) -> Self {
        let mut app = Self::make(World::start().await, adjust);
        app.begin_serving().await;
        app
    }

    fn make(world: World, adjust: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let callers = directory.path().join("callers.toml");
        // Two services, and two persons who review.
        let entries = [("orders", false), ("returns", false), ("anna", true), ("ben", true)];
        let entries = entries.map(|(name, review)| {
            let hash = payops::callers::token_hash(&format!("token-of-{name}"));
            format!(
                "[[caller]]\nname = \"{name}\"\ntoken_sha256 = [\"{hash}\"]\nreview = {review}\n{ALLOW_ALL}"
            )
        });
        std::fs::write(&callers, entries.concat()).unwrap();
        let sandbox = world.base.strip_prefix("http://").unwrap().parse().unwrap();
        let mut config = Config::sandbox("127.0.0.1:0".parse().unwrap(), sandbox, directory.path());
        config.read_back.schedule = [20, 50, 100, 200].map(Duration::from_millis).to_vec();
        config.read_back.then_every = Duration::from_millis(500);
        adjust(&mut config);
        Self {
            world,
            address: "127.0.0.1:0".parse().unwrap(),
            config,
            stop: CancellationToken::new(),
            server: None,
            _directory: directory,
        }
    }

    async fn serve(&mut self) {
        self.begin_serving().await;
        let mut health = self.health();
        eventually("the boundary is ready", async || {
            let request = pb::health::HealthCheckRequest { service: SERVICE.to_owned() };
            health.check(request).await.is_ok_and(|answer| answer.get_ref().status == 1)
        })
        .await;
    }

    async fn begin_serving(&mut self) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.address = listener.local_addr().unwrap();
        self.stop = CancellationToken::new();
        let (config, stop) = (self.config.clone(), self.stop.clone());
        self.server = Some(tokio::spawn(async move { app::serve(&config, listener, stop).await }));
    }

    /// Drains, as SIGTERM does.
    pub async fn drain(&mut self) {
        self.stop.cancel();
        self.server.take().unwrap().await.unwrap().unwrap();
    }

    /// Drains, and serves again on the same journal.
    pub async fn restart(&mut self) {
        self.drain().await;
        self.serve().await;
    }

    /// Begins to drain and does not wait.
    pub fn begin_drain(&self) {
        self.stop.cancel();
    }

    /// Waits for the end of a drain that was begun.
    pub async fn drained(&mut self) {
        self.server.take().unwrap().await.unwrap().unwrap();
    }

    /// Serves again on the same journal.
    pub async fn restart_after_drain(&mut self) {
        self.serve().await;
    }

    pub async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    pub fn health(&self) -> pb::health::health_client::HealthClient<Channel> {
        // Plainly, where callers are spoken to by TLS.
        let address = self.config.server.health_listen.unwrap_or(self.address);
        let lazy = Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        pb::health::health_client::HealthClient::new(lazy)
    }

    /// The caller that most tests act as.
    pub async fn orders(&self) -> Caller {
        self.caller("token-of-orders").await
    }

    /// Another caller.
    pub async fn returns(&self) -> Caller {
        self.caller("token-of-returns").await
    }

    pub async fn caller(&self, token: &str) -> Caller {
        Caller { token: token.to_owned(), client: PaymentOperationsServiceClient::new(self.channel().await) }
    }

    /// How many capture, void or refund requests the PSP received for a transaction.
    pub async fn posts(&self, transaction: &str) -> usize {
        let requests = self.world.requests(transaction).await;
        requests.iter().filter(|request| request["method"] == "POST").count()
    }

    /// What moved at the PSP, in truth: kind and amount.
    pub async fn moved(&self, transaction: &str) -> Vec<(String, i64)> {
        let ledger = self.world.ledger(transaction).await;
        ledger.into_iter().map(|(kind, amount, _)| (kind, amount)).collect()
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Caller {
    /// A request with this caller's credentials.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        request
    }

    /// A request with credentials and a key.
    pub fn keyed<T>(&self, key: &str, message: T) -> Request<T> {
        let mut request = self.request(message);
        request.metadata_mut().insert("idempotency-key", key.parse().unwrap());
        request
    }

    pub async fn capture(&self, key: &str, transaction: &str, amount: i64) -> Outcome {
        self.capture_with(key, capture(transaction, amount)).await
    }

    pub async fn capture_with(&self, key: &str, message: pb::CaptureRequest) -> Outcome {
        let answer = self.client.clone().capture(self.keyed(key, message)).await;
        outcome(answer, |message| message.operation)
    }

    pub async fn refund(&self, key: &str, transaction: &str, amount: i64) -> Outcome {
        self.refund_with(key, refund(transaction, amount)).await
    }

    pub async fn refund_with(&self, key: &str, message: pb::RefundRequest) -> Outcome {
        let answer = self.client.clone().refund(self.keyed(key, message)).await;
        outcome(answer, |message| message.operation)
    }

    pub async fn void(&self, key: &str, transaction: &str) -> Outcome {
        self.void_with(key, void(transaction)).await
    }

    pub async fn void_with(&self, key: &str, message: pb::VoidRequest) -> Outcome {
        let answer = self.client.clone().void(self.keyed(key, message)).await;
        outcome(answer, |message| message.operation)
    }

    pub async fn transaction(&self, id: &str) -> Result<pb::Transaction, Box<Refused>> {
        let message = pb::GetTransactionRequest { transaction_id: id.to_owned() };
        let answer = self.client.clone().get_transaction(self.request(message)).await;
        Ok(answer.map_err(refused)?.into_inner().transaction.unwrap())
    }

    /// The operation of one of this caller's keys.
    pub async fn operation(&self, key: &str) -> Result<pb::Operation, Box<Refused>> {
        let name = pb::get_operation_request::Name::IdempotencyKey(key.to_owned());
        self.named(name).await
    }

    pub async fn operation_by_id(&self, id: &str) -> Result<pb::Operation, Box<Refused>> {
        let name = pb::get_operation_request::Name::OperationId(id.to_owned());
        self.named(name).await
    }

    async fn named(&self, name: pb::get_operation_request::Name) -> Result<pb::Operation, Box<Refused>> {
        let message = pb::GetOperationRequest { name: Some(name) };
        let answer = self.client.clone().get_operation(self.request(message)).await;
        Ok(answer.map_err(refused)?.into_inner().operation.unwrap())
    }

    pub async fn watch(
        &self,
        key: &str,
    ) -> Result<tonic::Streaming<pb::WatchOperationResponse>, Box<Refused>> {
        let name = pb::watch_operation_request::Name::IdempotencyKey(key.to_owned());
        let message = pb::WatchOperationRequest { name: Some(name) };
        let answer = self.client.clone().watch_operation(self.request(message)).await;
        Ok(answer.map_err(refused)?.into_inner())
    }

    /// Waits until the operation of `key` has `state`, and gives it.
    pub async fn settled(&self, key: &str, state: pb::OperationState) -> pb::Operation {
        eventually(&format!("operation {key} is {state:?}"), async || {
            self.operation(key).await.is_ok_and(|operation| operation.state() == state)
        })
        .await;
        self.operation(key).await.unwrap()
    }
}

impl Refused {
    /// The contract's reason.
    pub fn reason(&self) -> &str {
        self.details.error_info().map_or("", |info| info.reason.as_str())
    }

    /// A value of the error's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.details.error_info()?.metadata.get(key).map(String::as_str)
    }

    /// The fields that are wrong.
    pub fn fields(&self) -> Vec<&str> {
        let violations = self.details.bad_request().map(|bad| bad.field_violations.as_slice());
        violations.unwrap_or_default().iter().map(|violation| violation.field.as_str()).collect()
    }

    /// A header or trailer.
    pub fn trailer(&self, name: &str) -> Option<&str> {
        self.status.metadata().get(name)?.to_str().ok()
    }
}

pub fn capture(transaction: &str, amount: i64) -> pb::CaptureRequest {
    pb::CaptureRequest { transaction_id: transaction.to_owned(), amount, ..Default::default() }
}

pub fn refund(transaction: &str, amount: i64) -> pb::RefundRequest {
    pb::RefundRequest { transaction_id: transaction.to_owned(), amount, ..Default::default() }
}

pub fn void(transaction: &str) -> pb::VoidRequest {
    pb::VoidRequest { transaction_id: transaction.to_owned(), ..Default::default() }
}

/// A line of an order.
pub fn line(line_id: &str, amount: i64) -> pb::Item {
    pb::Item { line_id: line_id.to_owned(), amount, ..Default::default() }
}

pub fn outcome<M>(
    answer: Result<Response<M>, Status>,
    operation: impl FnOnce(M) -> Option<pb::Operation>,
) -> Outcome {
    let answer = answer.map_err(refused)?;
    let replayed = answer.metadata().get("idempotency-replayed").is_some_and(|value| value == "true");
    Ok(Answered { operation: operation(answer.into_inner()).unwrap(), replayed })
}

pub fn refused(status: Status) -> Box<Refused> {
    Box::new(Refused { code: status.code(), details: status.get_error_details(), status })
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}: did not come about"));
}

/// Reads back nothing on schedule, within a test: only a caller who asks again finds anything out.
pub fn read_on_request_only(config: &mut Config) {
    config.read_back.schedule = vec![Duration::from_mins(5)];
    config.read_back.then_every = Duration::from_mins(5);
}
