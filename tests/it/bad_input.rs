//! Bad input: each gets the right code, reason and fields at once, nothing reaches the PSP as a command, and
//! the server serves the next call.

mod deadlines;
mod fields;
mod names;
mod review;
mod transport;
pub mod wire;

use std::fmt::Debug;

use h2::Reason;
use payops::grpc::pb::{self, operation_review_service_client::OperationReviewServiceClient};
use tonic::{Code, Request, Status};

use crate::support::{Caller, Refused, TestApp, capture, line, refund, refused, void};

use wire::{Answer, Ended, Raw};

/// Authorized, with one line; there from the start.
const CARD: &str = "T12345678.demoCardOneLine0000001";

/// One row of the table.
pub struct Row {
    name: String,
    sent: Sent,
    due: Told,
    /// What the answer says in so many words: the way out.
    remedy: &'static str,
}

/// What is sent.
enum Sent {
    /// By a client of the contract.
    Call { call: Call, key: Option<String>, authorization: Option<String> },
    /// By a client without manners.
    Raw(Raw),
    /// By something that is not even HTTP/2.
    Bytes(&'static [u8]),
}

/// A call of the contract.
#[derive(Clone)]
enum Call {
    Capture(pb::CaptureRequest),
    Void(pb::VoidRequest),
    Refund(pb::RefundRequest),
    GetTransaction(String),
    GetOperation(pb::GetOperationRequest),
    WatchOperation(pb::WatchOperationRequest),
    HealthCheck(String),
    List(pb::ListOperationsRequest),
    GetEvidence(String),
    WatchRecord(String),
    Resolve(pb::ResolveOperationRequest),
}

/// What has to come of it, and what came.
#[derive(Debug, PartialEq)]
enum Told {
    /// A gRPC status. The last is `safe_to_use_new_key`.
    Status(Code, String, Vec<String>, Option<bool>),
    /// An answer to what is not gRPC.
    Http(u16),
    /// The call or the connection was ended for this reason.
    Ended(Reason),
    /// The server hung up, without a word that only HTTP/2 would understand.
    HungUp,
    /// It was taken.
    Ok,
}

/// Sends each row and looks that the right answer comes, that the PSP gets no command, and that the next good
/// call is served. Tells all that is wrong with the table at once.
async fn hold(app: &TestApp, rows: Vec<Row>) {
    let orders = app.orders().await;
    println!("{} rows of bad input", rows.len());
    let mut wrong = Vec::new();
    for row in rows {
        let commands = commands(app).await;
        let (told, text) = row.sent.send(app, &orders).await;
        let mut must = |holds: bool, what: String| {
            if !holds {
                wrong.push(format!("{}: {what}", row.name));
            }
        };
        must(told == row.due, format!("told {told:?}, and due is {:?} ({text})", row.due));
        must(text.contains(row.remedy), format!("{:?} is not told in {text:?}", row.remedy));
        must(self::commands(app).await == commands, "a command reached the PSP".to_owned());
        let next = orders.transaction(CARD).await;
        must(next.is_ok(), format!("the next call is not served: {next:?}"));
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// How many commands the PSP received, for any transaction.
async fn commands(app: &TestApp) -> usize {
    let requests = app.world.admin(http::Method::GET, "/requests", serde_json::Value::Null).await.json();
    let command =
        |request: &&serde_json::Value| request["method"] == "POST" && request["operation"] != "token";
    requests.as_array().unwrap().iter().filter(command).count()
}

impl Row {
    fn new(name: impl Into<String>, sent: Sent) -> Self {
        Self { name: name.into(), sent, due: Told::Ok, remedy: "" }
    }

    fn call(name: impl Into<String>, call: Call) -> Self {
        let key = call.is_money().then(|| "k".to_owned());
        let authorization = Some("Bearer token-of-orders".to_owned());
        Self::new(name, Sent::Call { call, key, authorization })
    }

    /// A good capture, spoilt.
    fn capture(name: &str, spoil: impl FnOnce(&mut pb::CaptureRequest)) -> Self {
        let mut message = capture(CARD, 100);
        spoil(&mut message);
        Self::call(format!("capture, {name}"), Call::Capture(message))
    }

    /// A good capture of these lines.
    fn lines(name: &str, lines: &[(&str, i64)]) -> Self {
        let items = lines.iter().map(|(id, amount)| line(id, *amount)).collect();
        Self::capture(name, |message| message.items = items)
    }

    /// A good capture of one line, the line spoilt.
    fn item(name: &str, spoil: impl FnOnce(&mut pb::Item)) -> Self {
        let mut item = line("1", 100);
        spoil(&mut item);
        Self::capture(&format!("line, {name}"), |message| message.items = vec![item])
    }

    fn void(name: &str, spoil: impl FnOnce(&mut pb::VoidRequest)) -> Self {
        let mut message = void(CARD);
        spoil(&mut message);
        Self::call(format!("void, {name}"), Call::Void(message))
    }

    fn refund(name: &str, spoil: impl FnOnce(&mut pb::RefundRequest)) -> Self {
        let mut message = refund(CARD, 100);
        spoil(&mut message);
        Self::call(format!("refund, {name}"), Call::Refund(message))
    }

    fn raw(name: &str, raw: Raw) -> Self {
        Self::new(name, Sent::Raw(raw))
    }

    fn bytes(name: &str, bytes: &'static [u8]) -> Self {
        Self::new(name, Sent::Bytes(bytes))
    }

    fn key(mut self, given: Option<&str>) -> Self {
        if let Sent::Call { key, .. } = &mut self.sent {
            *key = given.map(str::to_owned);
        }
        self
    }

    fn authorization(mut self, given: Option<&str>) -> Self {
        if let Sent::Call { authorization, .. } = &mut self.sent {
            *authorization = given.map(str::to_owned);
        }
        self
    }

    /// Something is wrong with the request. The journal was not asked, so no other key is called safe: the same
    /// command may have run before, and this be its retry with a mistake.
    fn invalid<F: AsRef<str>>(self, fields: impl IntoIterator<Item = F>, remedy: &'static str) -> Self {
        let safe = self.sent.is_money().then_some(false);
        self.status(Code::InvalidArgument, "INVALID_REQUEST", fields, safe, remedy)
    }

    /// An answer without violations.
    fn refused(self, code: Code, reason: &'static str, safe: Option<bool>, remedy: &'static str) -> Self {
        self.status(code, reason, [""; 0], safe, remedy)
    }

    fn status<F: AsRef<str>>(
        mut self,
        code: Code,
        reason: &str,
        fields: impl IntoIterator<Item = F>,
        safe: Option<bool>,
        remedy: &'static str,
    ) -> Self {
        let fields = fields.into_iter().map(|field| field.as_ref().to_owned()).collect();
        self.due = Told::Status(code, reason.to_owned(), fields, safe);
        self.remedy = remedy;
        self
    }

    fn due(mut self, due: Told, remedy: &'static str) -> Self {
        (self.due, self.remedy) = (due, remedy);
        self
    }
}

impl Sent {
    /// What is told, and all the words of it.
    async fn send(&self, app: &TestApp, orders: &Caller) -> (Told, String) {
        match self {
            Self::Call { call, key, authorization } => {
                let metadata = [("authorization", authorization), ("idempotency-key", key)];
                let metadata = metadata.map(|(name, value)| (name, value.as_deref()));
                match call.send(app, orders, metadata).await {
                    Ok(()) => (Told::Ok, String::new()),
                    Err(status) => Told::of(&refused(status)),
                }
            }
            Self::Raw(raw) => match raw.send(app.address).await {
                Ok(Answer { grpc: Some(refused), .. }) if refused.code != Code::Ok => Told::of(&refused),
                Ok(Answer { grpc: Some(_), .. }) => (Told::Ok, String::new()),
                Ok(answer) => {
                    let text = String::from_utf8_lossy(&answer.body).into_owned();
                    (Told::Http(answer.http), format!("{text}{:?}", answer.headers))
                }
                Err(Ended(Some(reason))) => (Told::Ended(reason), String::new()),
                Err(Ended(None)) => (Told::HungUp, String::new()),
            },
            Self::Bytes(bytes) => match wire::goaway(&wire::bytes(app.address, bytes).await) {
                Some(reason) => (Told::Ended(reason), String::new()),
                None => (Told::HungUp, String::new()),
            },
        }
    }

    fn is_money(&self) -> bool {
        match self {
            Self::Call { call, .. } => call.is_money(),
            Self::Raw(raw) => raw.headers.contains_key("idempotency-key"),
            Self::Bytes(_) => false,
        }
    }
}

impl Call {
    fn is_money(&self) -> bool {
        matches!(self, Self::Capture(_) | Self::Void(_) | Self::Refund(_))
    }

    async fn send(
        &self,
        app: &TestApp,
        orders: &Caller,
        metadata: [(&'static str, Option<&str>); 2],
    ) -> Result<(), Status> {
        fn request<M: Clone>(message: &M, metadata: [(&'static str, Option<&str>); 2]) -> Request<M> {
            let mut request = Request::new(message.clone());
            for (name, value) in metadata {
                if let Some(value) = value {
                    request.metadata_mut().insert(name, value.parse().unwrap());
                }
            }
            request
        }
        let mut client = orders.client.clone();
        let mut reviews = OperationReviewServiceClient::new(app.channel().await);
        match self {
            Self::Capture(message) => client.capture(request(message, metadata)).await.map(drop),
            Self::Void(message) => client.void(request(message, metadata)).await.map(drop),
            Self::Refund(message) => client.refund(request(message, metadata)).await.map(drop),
            Self::GetTransaction(id) => {
                let message = pb::GetTransactionRequest { transaction_id: id.clone() };
                client.get_transaction(request(&message, metadata)).await.map(drop)
            }
            Self::GetOperation(message) => client.get_operation(request(message, metadata)).await.map(drop),
            Self::WatchOperation(message) => {
                client.watch_operation(request(message, metadata)).await.map(drop)
            }
            Self::List(message) => reviews.list_operations(request(message, metadata)).await.map(drop),
            Self::GetEvidence(id) => {
                let message = pb::GetOperationEvidenceRequest { operation_id: id.clone() };
                reviews.get_operation_evidence(request(&message, metadata)).await.map(drop)
            }
            Self::WatchRecord(id) => {
                let message = pb::WatchOperationRecordRequest { operation_id: id.clone() };
                reviews.watch_operation_record(request(&message, metadata)).await.map(drop)
            }
            Self::Resolve(message) => reviews.resolve_operation(request(message, metadata)).await.map(drop),
            Self::HealthCheck(name) => {
                let message = pb::health::HealthCheckRequest { service: name.clone() };
                app.health().check(request(&message, metadata)).await.map(drop)
            }
        }
    }
}

impl Told {
    /// A status, and all its words. What every error of our own has is looked at here.
    fn of(refused: &Refused) -> (Self, String) {
        let safe = refused.metadata("safe_to_use_new_key").map(|safe| safe.parse().unwrap());
        if let Some(info) = refused.details.error_info() {
            assert_eq!(info.domain, "payops.v1");
            let trace = &refused.details.request_info().expect("a trace id").request_id;
            assert!(trace.len() == 32 && trace.bytes().all(|b| b.is_ascii_hexdigit()), "{trace:?}");
            // Whether and when to retry is told once for machines and once more for people's clients.
            let retry = refused.details.retry_info().and_then(|retry| retry.retry_delay);
            let pushback = retry.map_or("-1".to_owned(), |delay| delay.as_millis().to_string());
            assert_eq!(refused.trailer("grpc-retry-pushback-ms"), Some(pushback.as_str()));
        }
        let violations = refused.details.bad_request().map(|bad| bad.field_violations.as_slice());
        let words = violations.unwrap_or_default().iter().map(|violation| violation.description.as_str());
        let words = words.fold(refused.status.message().to_owned(), |all, word| format!("{all}; {word}"));
        let fields = refused.fields().into_iter().map(str::to_owned).collect();
        (Self::Status(refused.code, refused.reason().to_owned(), fields, safe), words)
    }
}
