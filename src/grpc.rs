//! The adapter around the generated server. It decides nothing: requests
//! become commands in [`command`], results become messages in [`render`] and
//! errors in [`status`].

pub mod command;
pub mod limited;
pub mod names;
pub mod render;
pub mod review;
pub mod status;
pub mod violations;

/// The generated contract.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "generated"
)]
pub mod pb {
    tonic::include_proto!("payops.v1");

    /// The standard health service.
    pub mod health {
        tonic::include_proto!("grpc.health.v1");
    }

    /// Every file of the contract, with comments, as reflection serves it.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/payops.descriptors.bin"));
}

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use opentelemetry::KeyValue;
use tokio::time::Instant;
use tonic::{Extensions, Request, Response, Status, metadata::MetadataMap};

use crate::audit::Audit;
use crate::failure::Failure;
use crate::grpc::command::Asked;
use crate::grpc::limited::limited;
use crate::grpc::pb::payment_operations_service_server::PaymentOperationsService;
use crate::grpc::violations::Refused;
use crate::idempotency::Answered;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::operations::{Name, Operations, Patience};
use crate::payment::{Caller, Command, Traced, permit::Held};
use crate::policy::{
    Rights, Rpc,
    pace::{Throttled, UnderWay},
};
use crate::psp::Psp;
use crate::trace;

/// What the layers in front leave in the extensions of every request.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// Its place in the trace of the caller (W3C `traceparent`), or in a new one.
    pub traced: Traced,
    /// When the caller stops waiting; none when it did not say.
    pub deadline: Option<Instant>,
}

/// How long callers wait.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// Without a deadline.
    pub default: Duration,
    /// With one, at most.
    pub max: Duration,
}

/// The generated service over [`Operations`]; its only way to the PSP.
pub struct Adapter<J, P> {
    operations: Operations<J, P>,
    audit: Audit,
    metrics: Metrics,
    waits: Waits,
    /// Open WatchOperation streams.
    watches: Arc<tokio::sync::Semaphore>,
}

/// What every call has besides its message.
struct Call {
    metadata: MetadataMap,
    extensions: Extensions,
}

impl<J: Journal, P: Psp> Adapter<J, P> {
    /// An adapter; at most `watches_max` streams are open at once. What policy
    /// refuses is told to the audit.
    pub fn new(
        operations: Operations<J, P>,
        (audit, metrics): (Audit, Metrics),
        waits: Waits,
        watches_max: usize,
    ) -> Self {
        let watches = Arc::new(tokio::sync::Semaphore::new(watches_max));
        Self { operations, audit, metrics, waits, watches }
    }

    async fn answer(&self, rpc: Rpc, call: &Call, asked: Result<Asked, Refused>) -> Result<Answer, Status> {
        let answer = self.carry_out(call, asked).await;
        let result = match &answer {
            Ok(Answer { entry: Some(Answered { joined: true, .. }), .. }) => "joined".to_owned(),
            Ok(Answer { entry: Some(Answered { replayed: true, .. }), .. }) => "replayed".to_owned(),
            Ok(Answer { entry: Some(_), .. }) => "done".to_owned(),
            Ok(Answer { entry: None, .. }) => "validated".to_owned(),
            Err(status) => {
                let reason = status::reason(status);
                trace::describe(|| [KeyValue::new("payops.reason", reason.clone())]);
                reason
            }
        };
        self.metrics.answered(rpc.as_str(), result);
        answer
    }

    async fn carry_out(&self, call: &Call, asked: Result<Asked, Refused>) -> Result<Answer, Status> {
        let trace = call.trace();
        let mut asked = asked.map_err(|refused| status::invalid(refused, trace, true))?;
        let Command { operation, guards, .. } = &asked.command;
        asked.command.permit = call.rights().permit(operation, guards.currency.as_ref());
        asked.command.traced = call.extensions.get::<Inbound>().map(|inbound| inbound.traced.clone());
        let Command { caller, operation, .. } = &asked.command;
        trace::describe(|| {
            let caller = KeyValue::new("payops.caller", caller.as_str().to_owned());
            trace::operation(operation).into_iter().chain([caller])
        });
        let (rpc, amount) = (Rpc::of(operation.kind()).as_str(), operation.amount());
        let (asker, transaction) = (caller.clone(), operation.transaction.clone());
        let denied = |status: Status| {
            let refusal = status::refusal(&status, rpc, Some(asker.clone()), Some(trace));
            self.audit.refused(refusal.on(&transaction, amount));
            status
        };
        if let Some(throttled) = call.extensions.get::<Throttled>() {
            // What is known already costs nobody anything.
            let known = if asked.validate_only { None } else { self.operations.recall(&asked.command).await };
            let known = known.ok_or_else(|| denied(status::throttled(*throttled, true, trace)))?;
            show(&known);
            let operation = status::outcome(&known, trace)?;
            return Ok(Answer { operation, entry: Some(known) });
        }
        asked.command.permit.held = call.place();
        let refused = |failure: Failure| {
            let status = status::money(&failure, Some(&asker), trace);
            match failure {
                Failure::Denied(..) | Failure::Beyond(..) => denied(status),
                _ => status,
            }
        };
        if asked.validate_only {
            let valid = self.operations.validate(&asked.command).await;
            return match valid.map_err(refused)? {
                None => Ok(Answer { operation: render::validated(&asked.command), entry: None }),
                Some(answered) => {
                    show(&answered);
                    let operation = status::outcome(&answered, trace)?;
                    Ok(Answer { operation, entry: Some(answered) })
                }
            };
        }
        let patience = Patience { until: call.until(self.waits), pending_suffices: asked.pending_suffices };
        let answered = self.operations.carry_out(asked.command, patience).await.map_err(refused)?;
        show(&answered);
        let operation = status::outcome(&answered, trace)?;
        Ok(Answer { operation, entry: Some(answered) })
    }

    async fn read<T>(
        &self,
        call: &Call,
        read: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Status> {
        let until = call.until(self.waits);
        let read = tokio::time::timeout_at(until, read).await.unwrap_or(Err(Failure::DeadlineExceeded));
        read.map_err(|failure| status::read(&failure, call.trace()))
    }
}

#[tonic::async_trait]
impl<J: Journal, P: Psp> PaymentOperationsService for Adapter<J, P> {
    async fn capture(
        &self,
        request: Request<pb::CaptureRequest>,
    ) -> Result<Response<pb::CaptureResponse>, Status> {
        let (call, message) = Call::of(request);
        let asked =
            command::capture(message, &call.metadata, &call.caller()?, |id| self.operations.serves(id));
        let answer = self.answer(Rpc::Capture, &call, asked).await?;
        Ok(answer.respond(|operation| pb::CaptureResponse { operation }))
    }

    async fn void(&self, request: Request<pb::VoidRequest>) -> Result<Response<pb::VoidResponse>, Status> {
        let (call, message) = Call::of(request);
        let asked = command::void(&message, &call.metadata, &call.caller()?, |id| self.operations.serves(id));
        let answer = self.answer(Rpc::Void, &call, asked).await?;
        Ok(answer.respond(|operation| pb::VoidResponse { operation }))
    }

    async fn refund(
        &self,
        request: Request<pb::RefundRequest>,
    ) -> Result<Response<pb::RefundResponse>, Status> {
        let (call, message) = Call::of(request);
        let asked =
            command::refund(message, &call.metadata, &call.caller()?, |id| self.operations.serves(id));
        let answer = self.answer(Rpc::Refund, &call, asked).await?;
        Ok(answer.respond(|operation| pb::RefundResponse { operation }))
    }

    async fn get_transaction(
        &self,
        request: Request<pb::GetTransactionRequest>,
    ) -> Result<Response<pb::GetTransactionResponse>, Status> {
        let (call, message) = Call::of(request);
        let id = command::transaction(&message, |id| self.operations.serves(id))
            .map_err(|refused| status::invalid(refused, call.trace(), false))?;
        let allowed = call.rights().may_read(&id.account());
        allowed.map_err(|denied| {
            let status = status::denied(&denied, false, call.trace());
            let caller = call.caller().ok().map(|caller| caller.name);
            let rpc = Rpc::GetTransaction.as_str();
            let refusal = status::refusal(&status, rpc, caller, Some(call.trace()));
            self.audit.refused(refusal.on(&id, None));
            status
        })?;
        let read = self.read(&call, self.operations.transaction(&id)).await?;
        let transaction = Some(render::transaction(&read));
        Ok(Response::new(pb::GetTransactionResponse { transaction }))
    }

    async fn get_operation(
        &self,
        request: Request<pb::GetOperationRequest>,
    ) -> Result<Response<pb::GetOperationResponse>, Status> {
        let (call, message) = Call::of(request);
        let (caller, name) = call.named(command::get_operation(message))?;
        let entry = self.read(&call, self.operations.operation(&caller.name, &name)).await?;
        let operation = Some(render::operation(&entry));
        Ok(Response::new(pb::GetOperationResponse { operation }))
    }

    type WatchOperationStream =
        Pin<Box<dyn Stream<Item = Result<pb::WatchOperationResponse, Status>> + Send>>;

    async fn watch_operation(
        &self,
        request: Request<pb::WatchOperationRequest>,
    ) -> Result<Response<Self::WatchOperationStream>, Status> {
        let (call, message) = Call::of(request);
        let (caller, name) = call.named(command::watch_operation(message))?;
        let permit = Arc::clone(&self.watches)
            .try_acquire_owned()
            .map_err(|_| status::read(&crate::psp::NotSent::Overloaded.into(), call.trace()))?;
        let changes = self.read(&call, self.operations.watch(&caller.name, &name)).await?;
        let trace = call.trace().to_owned();
        let place = call.place();
        // The library's deadline ends with the headers.
        let changes = limited(changes, call.deadline(), || Failure::DeadlineExceeded);
        let messages = changes.map(move |entry| {
            // Held as long as the stream.
            let _held = (&permit, &place);
            match entry {
                Ok(entry) => Ok(pb::WatchOperationResponse { operation: Some(render::operation(&entry)) }),
                Err(failure) => Err(status::read(&failure, &trace)),
            }
        });
        Ok(Response::new(Box::pin(messages)))
    }
}

struct Answer {
    operation: pb::Operation,
    entry: Option<Answered>,
}

impl Answer {
    fn respond<M>(self, message: impl FnOnce(Option<pb::Operation>) -> M) -> Response<M> {
        let mut response = Response::new(message(Some(self.operation)));
        if let Some(answered) = &self.entry {
            status::mark(response.metadata_mut(), answered);
        }
        response
    }
}

impl Call {
    fn of<M>(request: Request<M>) -> (Self, M) {
        let (metadata, extensions, message) = request.into_parts();
        (Self { metadata, extensions }, message)
    }

    /// Who calls. The layer in front lets nobody else pass.
    fn caller(&self) -> Result<Caller, Status> {
        let caller = self.extensions.get::<Caller>().cloned();
        caller.ok_or_else(|| status::unauthenticated(status::Credentials::Missing, Some(self.trace())))
    }

    /// Its place among the caller's calls, as something to hold.
    fn place(&self) -> Held {
        let place = self.extensions.get::<Arc<UnderWay>>().cloned();
        place.map_or_else(Held::default, |place| Held::new(place))
    }

    /// What the caller may. Nothing, unless the layer in front says so.
    fn rights(&self) -> Arc<Rights> {
        self.extensions.get::<Arc<Rights>>().cloned().unwrap_or_default()
    }

    /// The caller and the name, for the two RPCs that look an operation up.
    fn named(&self, name: Result<Name, Refused>) -> Result<(Caller, Name), Status> {
        let name = name.map_err(|refused| status::invalid(refused, self.trace(), false))?;
        Ok((self.caller()?, name))
    }

    fn trace(&self) -> &str {
        self.extensions.get::<Inbound>().map_or("", |inbound| inbound.traced.trace_id())
    }

    /// When the caller stops waiting; none when it did not say.
    fn deadline(&self) -> Option<Instant> {
        self.extensions.get::<Inbound>().and_then(|inbound| inbound.deadline)
    }

    /// When to answer: a little before the caller's deadline, so that the
    /// answer still reaches it.
    fn until(&self, waits: Waits) -> Instant {
        let now = Instant::now();
        let patience = match self.deadline() {
            Some(deadline) => {
                let left = deadline.saturating_duration_since(now);
                left.saturating_sub((left / 5).min(Duration::from_millis(250)))
            }
            None => waits.default,
        };
        now + patience.min(waits.max)
    }
}

/// Shows in the call's span what it came to. The journal has told of the operation
/// itself; that it was asked for again, only the call can tell.
fn show(answered: &Answered) {
    let Answered { entry, replayed, .. } = answered;
    trace::describe(|| {
        [KeyValue::new(trace::STATE, entry.state.as_str()), KeyValue::new("payops.replayed", *replayed)]
    });
    if !replayed {
        // The attempt has named it.
        return;
    }
    trace::describe(|| [KeyValue::new("payops.operation.id", entry.id.to_string())]);
    if let Some(traced) = &entry.traced {
        trace::link(traced);
    }
    tracing::info!(
        operation_id = %entry.id,
        transaction_id = %entry.operation.transaction,
        kind = %entry.operation.kind(),
        state = entry.state.as_str(),
        "told again"
    );
}
