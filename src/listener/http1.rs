//! A small HTTP/1.1 server for an address that anybody can reach: so many
//! connections, so much time for each, one request on each.

use std::{io, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// What the head of a request may take in memory.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The bounds of what others may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once; the next one waits in the backlog.
    pub(crate) connections_max: usize,
    /// How long a head may take to arrive, and then a body.
    pub(crate) message_timeout: Duration,
}

impl Limits {
    /// Head and body, and as much again for answering.
    fn connection_timeout(self) -> Duration {
        self.message_timeout.saturating_mul(3)
    }
}

/// Serves until `stop` is cancelled, then finishes what has begun, within the
/// limits.
///
/// # Cancel safety
///
/// Dropping the future ends every connection.
pub(crate) async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                connections.spawn(connection(stream, place, router.clone(), limits, stop.clone()));
            }
            Err(error) => {
                // Out of file descriptors, most likely: give others time to close.
                tracing::warn!(%error, "a connection for HTTP/1.1 could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

async fn connection(
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) {
    let service = service_fn(|request: Request<Incoming>| router.clone().oneshot(request.map(Body::new)));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.message_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false);
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let served = tokio::time::timeout(limits.connection_timeout(), async {
        tokio::select! {
            ended = serving.as_mut() => ended,
            () = stop.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        }
    });
    match served.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection for HTTP/1.1 ended early"),
        Err(_) => tracing::debug!("a connection for HTTP/1.1 took too long"),
    }
    drop(place);
}
