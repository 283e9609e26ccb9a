//! A call that outlives its caller. A caller who hangs up, or whose deadline
//! passes, stops waiting; the operation does not stop.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use opentelemetry::trace::FutureExt as _;
use tokio_util::task::TaskTracker;
use tower::{Layer, Service};
use tracing::Instrument as _;

use crate::failure::Failure;

/// Makes [`Detached`] services whose calls run on `tasks`.
#[derive(Clone, Debug)]
pub struct DetachLayer(TaskTracker);

/// Runs each call as a task of its own.
///
/// # Cancel safety
///
/// Dropping the future of a call stops the waiting, not the call.
#[derive(Clone, Debug)]
pub struct Detached<S> {
    inner: S,
    tasks: TaskTracker,
}

impl DetachLayer {
    /// The tracker is what a shutdown waits for.
    pub fn new(tasks: TaskTracker) -> Self {
        Self(tasks)
    }
}

impl<S> Layer<S> for DetachLayer {
    type Service = Detached<S>;

    fn layer(&self, inner: S) -> Detached<S> {
        Detached { inner, tasks: self.0.clone() }
    }
}

impl<R, S> Service<R> for Detached<S>
where
    S: Service<R, Error = Failure>,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
{
    type Response = S::Response;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, Failure>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        // In the caller's span: otherwise the trace ends here.
        let task = self.tasks.spawn(self.inner.call(request).in_current_span().with_current_context());
        Box::pin(async move {
            task.await.unwrap_or_else(|error| {
                tracing::error!(%error, "an operation's task ended early; reading back will settle it");
                Err(Failure::Internal)
            })
        })
    }
}
