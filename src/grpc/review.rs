//! The adapter around the generated review service. It decides nothing.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt as _};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::{Call, Waits};
use crate::failure::Failure;
use crate::grpc::command::review::{self as command, Resolve};
use crate::grpc::limited::limited;
use crate::grpc::pb::{self, operation_review_service_server::OperationReviewService};
use crate::grpc::render::review as render;
use crate::grpc::status;
use crate::journal::{Journal, entry::Entry};
use crate::psp::{NotSent, Psp};
use crate::review::{self, Confirmed, Refusal, Reviews};

/// The generated service over [`Reviews`].
pub struct ReviewAdapter<J, P> {
    reviews: Reviews<J, P>,
    waits: Waits,
    /// Open `WatchOperationRecord` streams. A limit of their own: callers who
    /// watch do not keep reviewers out.
    watches: Arc<Semaphore>,
}

impl<J: Journal, P: Psp> ReviewAdapter<J, P> {
    /// An adapter; at most `watches_max` streams are open at once.
    pub fn new(reviews: Reviews<J, P>, waits: Waits, watches_max: usize) -> Self {
        Self { reviews, waits, watches: Arc::new(Semaphore::new(watches_max)) }
    }

    async fn within<T>(
        &self,
        call: &Call,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Status> {
        match tokio::time::timeout_at(call.until(self.waits), work).await {
            Ok(done) => done.map_err(|refusal| status::review(&refusal, call.trace())),
            Err(_) => Err(status::read(&Failure::DeadlineExceeded, call.trace())),
        }
    }

    fn record(&self, entry: &Entry) -> pb::OperationRecord {
        render::record(entry, self.reviews.quiet_at(entry))
    }
}

#[tonic::async_trait]
impl<J: Journal, P: Psp> OperationReviewService for ReviewAdapter<J, P> {
    async fn list_operations(
        &self,
        request: Request<pb::ListOperationsRequest>,
    ) -> Result<Response<pb::ListOperationsResponse>, Status> {
        let (call, message) = Call::of(request);
        let listing =
            command::list(&message).map_err(|refused| status::invalid(refused, call.trace(), false))?;
        let work = self.reviews.list(&listing.filter, listing.before, listing.most);
        let page = self.within(&call, work).await?;
        let operations =
            page.entries.iter().map(|entry| render::listed(entry, self.reviews.quiet_at(entry))).collect();
        let next_page_token = page.next.map(|next| listing.token(next)).unwrap_or_default();
        Ok(Response::new(pb::ListOperationsResponse { operations, next_page_token }))
    }

    async fn get_operation_evidence(
        &self,
        request: Request<pb::GetOperationEvidenceRequest>,
    ) -> Result<Response<pb::GetOperationEvidenceResponse>, Status> {
        let (call, message) = Call::of(request);
        let id = call.operation_id(&message.operation_id)?;
        let evidence = self.within(&call, self.reviews.evidence(id)).await?;
        Ok(Response::new(render::evidence(&evidence)))
    }

    type WatchOperationRecordStream =
        Pin<Box<dyn Stream<Item = Result<pb::WatchOperationRecordResponse, Status>> + Send>>;

    async fn watch_operation_record(
        &self,
        request: Request<pb::WatchOperationRecordRequest>,
    ) -> Result<Response<Self::WatchOperationRecordStream>, Status> {
        let (call, message) = Call::of(request);
        let id = call.operation_id(&message.operation_id)?;
        let permit = Arc::clone(&self.watches)
            .try_acquire_owned()
            .map_err(|_| status::read(&NotSent::Overloaded.into(), call.trace()))?;
        let changes = self.within(&call, self.reviews.watch(id)).await?;
        let trace = call.trace().to_owned();
        let changes = changes.map({
            let (reviews, trace) = (self.reviews.clone(), trace.clone());
            move |entry| match entry {
                Ok(entry) => {
                    let record = Some(render::record(&entry, reviews.quiet_at(&entry)));
                    Ok(pb::WatchOperationRecordResponse { record })
                }
                Err(refusal) => Err(status::review(&refusal, &trace)),
            }
        });
        // The library's deadline ends with the headers.
        let changes =
            limited(changes, call.deadline(), move || status::read(&Failure::DeadlineExceeded, &trace));
        let messages = changes.map(move |message| {
            // Held as long as the stream.
            let _permit = &permit;
            message
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn resolve_operation(
        &self,
        request: Request<pb::ResolveOperationRequest>,
    ) -> Result<Response<pb::ResolveOperationResponse>, Status> {
        let (call, message) = Call::of(request);
        let resolve = command::resolve(message, &call.caller()?)
            .map_err(|refused| status::invalid(refused, call.trace(), false))?;
        let work = async {
            match resolve {
                Resolve::Propose(step, decision) => {
                    let entry = self.reviews.propose(call.traced(step), decision).await?;
                    Ok(Confirmed { entry, by_proof: false })
                }
                Resolve::Confirm(step, proposal, although) => {
                    self.reviews.confirm(call.traced(step), proposal, although).await
                }
            }
        };
        let Confirmed { entry, by_proof: ended_by_proof } = self.within(&call, work).await?;
        let record = Some(self.record(&entry));
        Ok(Response::new(pb::ResolveOperationResponse { record, ended_by_proof }))
    }
}

impl Call {
    fn traced(&self, step: review::Step) -> review::Step {
        review::Step { trace_id: Some(self.trace().to_owned()), ..step }
    }

    fn operation_id(&self, id: &str) -> Result<crate::payment::id::OperationId, Status> {
        command::operation_id(id).map_err(|refused| status::invalid(refused, self.trace(), false))
    }
}
