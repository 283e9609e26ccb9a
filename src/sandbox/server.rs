//! The HTTP/1.1 server: accepts, serves and drains.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::line::Line;

/// The most connections at a time; the next one waits in the kernel.
const CONNECTIONS_MAX: usize = 4_096;

/// How long a request's head may take, and a connection be idle: long, since an idle connection that closes while a
/// request is on its way would be a fault that no one asked for.
const HEAD_TIMEOUT: Duration = Duration::from_mins(10);

/// How long answers may still take after the server was told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves until `stop` is cancelled, and then for as long as answers are due, within bounds.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> io::Result<()> {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tasks = TaskTracker::new();
    let accepting = async {
        loop {
            let permit = Arc::clone(&permits).acquire_owned().await.map_err(io::Error::other)?;
            match listener.accept().await {
                Ok((stream, _)) => {
                    drop(tasks.spawn(connection(stream, permit, router.clone(), stop.clone())));
                }
                // A peer that left early, or no descriptors for the moment: neither ends the server.
                Err(error) => {
                    tracing::warn!(%error, "the sandbox could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    };
    let outcome = stop.run_until_cancelled(accepting).await.unwrap_or(Ok(()));
    drop(listener);
    tasks.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, tasks.wait()).await.is_err() {
        tracing::warn!("the sandbox stops with connections open");
    }
    outcome
}

async fn connection(
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
    router: Router,
    stop: CancellationToken,
) {
    let Ok(line) = Line::new(stream) else { return };
    let handle = line.connection();
    let service = service_fn(move |mut request: Request<Incoming>| {
        handle.mend(); // a cut beyond the end of one answer is not meant for the next
        request.extensions_mut().insert(handle.clone());
        router.clone().oneshot(request.map(Body::new))
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(line), service));
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a sandbox connection ended early"); // often on request
    }
    drop(permit);
}
