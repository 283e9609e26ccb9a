//! The standard health service: Check, Watch and List, and a readiness that
//! tells the truth about the journal and the PSP credentials.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::grpc::pb::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
    health_check_response::ServingStatus, health_server,
};

/// Serves while the process does, ready or not: for liveness probes.
pub const LIVENESS: &str = "liveness";
/// Serves as soon as the journal is open: for startup probes.
pub const STARTUP: &str = "startup";
/// Of a journal in a database: does not serve where it was told to run without
/// a synchronous standby.
pub const STANDBY: &str = "standby";

/// Health of the server as a whole and of each service.
#[derive(Clone)]
pub struct Health {
    /// From name to state. The names never change.
    services: Arc<BTreeMap<&'static str, watch::Sender<ServingStatus>>>,
    stopping: CancellationToken,
}

impl Health {
    /// Nothing serves yet, but the process lives. Streams end when `stopping`
    /// is cancelled: a watcher must not keep the server from ending.
    pub fn new(services: &[&'static str], stopping: CancellationToken) -> Self {
        let names = services.iter().copied().chain([""]);
        let mut states: BTreeMap<_, _> =
            names.map(|name| (name, watch::channel(ServingStatus::NotServing).0)).collect();
        for name in [LIVENESS, STARTUP] {
            states.insert(name, watch::channel(ServingStatus::Serving).0);
        }
        Self { services: Arc::new(states), stopping }
    }

    /// Tells of a standby as well, which no readiness changes.
    #[must_use]
    pub fn with_standby(self, standby: bool) -> Self {
        let state = if standby { ServingStatus::Serving } else { ServingStatus::NotServing };
        let mut services = Arc::unwrap_or_clone(self.services);
        services.insert(STANDBY, watch::channel(state).0);
        Self { services: Arc::new(services), ..self }
    }

    /// Says whether calls are taken.
    pub fn set_ready(&self, ready: bool) {
        let state = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for (name, service) in &*self.services {
            if ![LIVENESS, STARTUP, STANDBY].contains(name) {
                service.send_if_modified(|current| std::mem::replace(current, state) != state);
            }
        }
    }

    /// Whether calls are taken.
    pub fn is_ready(&self) -> bool {
        self.services.get("").is_some_and(|state| *state.borrow() == ServingStatus::Serving)
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match self.services.get(request.get_ref().service.as_str()) {
            Some(state) => Ok(Response::new(response(*state.borrow()))),
            None => Err(Status::not_found("there is no service of that name here")),
        }
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let states =
            self.services.iter().map(|(name, state)| ((*name).to_owned(), response(*state.borrow())));
        Ok(Response::new(HealthListResponse { statuses: states.collect() }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let stopping = self.stopping.clone();
        let states: Pin<Box<dyn Stream<Item = ServingStatus> + Send>> =
            match self.services.get(request.get_ref().service.as_str()) {
                Some(state) => Box::pin(WatchStream::new(state.subscribe())),
                // The protocol wants the stream to stay: the name may come.
                None => Box::pin(
                    futures::stream::iter([ServingStatus::ServiceUnknown]).chain(futures::stream::pending()),
                ),
            };
        // The last state, "not serving", still goes out before the end.
        let ended = async move {
            stopping.cancelled().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let messages = states.map(|state| Ok(response(state))).take_until(Box::pin(ended));
        Ok(Response::new(Box::pin(messages)))
    }
}
