//! Accepts connections, so many and no more, and serves HTTP/2 on them within
//! bounds that are all set here: nothing is left to what a library thinks best.

mod connection;
pub(crate) mod http1;
mod places;
pub mod tls;

use std::{convert::Infallible, future::poll_fn, io, pin::Pin, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::body::Body;
use tower::{Service, ServiceExt as _};

use crate::callers::Certificate;
use crate::config;
use crate::listener::connection::{Connection, Spoken};
use crate::listener::places::{Call, Place, Places};
use crate::listener::tls::Tls;

/// What a client may send on one stream before it is read. A longer message
/// comes in pieces.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// What it may send on all of them: what a connection can make us hold.
const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;
/// The longest frame: the least that HTTP/2 allows to say.
const FRAME_BYTES_MAX: u32 = 16 * 1024;
/// What we hold of an answer that a client does not take.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Streams that a client opened and reset before they were looked at: more,
/// and its connection ends (rapid reset, CVE-2023-44487).
const RESETS_PENDING_MAX: usize = 64;
/// Streams that we had to reset for a client's mistakes: more, and its
/// connection ends.
const RESETS_OWN_MAX: usize = 256;

/// How long a client that is asked to go may take for that, once no call of it
/// is under way.
const LEAVES_WITHIN: Duration = Duration::from_secs(2);

/// Who is at the other end, as far as the connection itself tells. It is in
/// the extensions of every request.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// What its certificate names; none where it showed none, or nothing is asked for.
    pub certificate: Option<Arc<Certificate>>,
}

/// What bounds the connections of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The open connections. Beyond them the longest idle one has to go.
    pub connections_max: usize,
    /// How long a connection takes new calls.
    pub age_max: Duration,
    /// How long it may take to its first call, TLS included.
    pub first_call_timeout: Duration,
    /// How long it may be without one after that.
    pub idle_max: Duration,
    /// The open calls of one.
    pub streams_max: u32,
    /// The headers of one call.
    pub header_bytes_max: u32,
    /// How often a client is asked whether it is there,
    pub keepalive_interval: Duration,
    /// and how long it may take to say so.
    pub keepalive_timeout: Duration,
}

/// What serves the connections of a listener.
struct Room<S> {
    service: S,
    bounds: Bounds,
    tls: Option<Arc<Tls>>,
    /// The handshakes under way.
    handshakes: Semaphore,
    stop: CancellationToken,
}

pin_project! {
    /// The body of an answer, with the call that is over when it is.
    struct Answer<B> {
        #[pin]
        body: B,
        call: Call,
    }
}

impl From<&config::Server> for Bounds {
    fn from(server: &config::Server) -> Self {
        Self {
            connections_max: server.connections_max,
            age_max: server.connection_age_max,
            first_call_timeout: server.first_call_timeout,
            idle_max: server.connection_idle_max,
            streams_max: server.concurrent_streams_max,
            header_bytes_max: server.header_bytes_max,
            keepalive_interval: server.keepalive_interval,
            keepalive_timeout: server.keepalive_timeout,
        }
    }
}

/// Serves `service` on the connections to `listener`, by TLS where it is given.
/// Once `stop` is cancelled none is accepted, no new call is taken, and those
/// under way are finished.
pub async fn serve<S, B>(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    bounds: Bounds,
    service: S,
    stop: CancellationToken,
) where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tower::BoxError>,
{
    let handshakes = Semaphore::new(tls.as_ref().map_or(0, |tls| tls.handshakes_max()));
    let places = Places::new(bounds.connections_max);
    let room = Arc::new(Room { service, bounds, tls, handshakes, stop: stop.clone() });
    let connections = TaskTracker::new();
    while let Some(accepted) = stop.run_until_cancelled(accept(&listener, &places)).await {
        match accepted {
            Ok((stream, place)) => {
                connections.spawn(Arc::clone(&room).connection(stream, place));
            }
            // Out of file descriptors, most likely: give others time to close.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// The next connection, and its place, for which another one may have to go.
async fn accept(listener: &TcpListener, places: &Arc<Places>) -> io::Result<(TcpStream, Arc<Place>)> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let place = places.take().await.ok_or(io::ErrorKind::ConnectionAborted)?;
    Ok((stream, place))
}

impl<S, B> Room<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tower::BoxError>,
{
    async fn connection(self: Arc<Self>, stream: TcpStream, place: Arc<Place>) {
        let greeted = tokio::select! {
            greeted = self.greet(stream) => greeted,
            () = place.wanted() => return,
            () = self.stop.cancelled() => return,
        };
        if let Ok((stream, peer)) = greeted {
            let ended = self.serve(Connection::new(stream, self.stop.clone()), peer, place).await;
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended");
            }
        }
    }

    async fn greet(&self, stream: TcpStream) -> io::Result<(Spoken, Peer)> {
        let Some(tls) = &self.tls else { return Ok((Spoken::Plain(stream), Peer::default())) };
        let _turn = self.handshakes.acquire().await.map_err(io::Error::other)?;
        let stream = Arc::clone(tls).accept(stream).await?;
        let peer = Peer { certificate: tls::certificate(&stream).map(Arc::new) };
        Ok((Spoken::Tls(Box::new(stream)), peer))
    }

    /// Serves calls until the client goes, or has to: for its age, for being
    /// idle, or since somebody else needs the place.
    async fn serve(&self, stream: Connection, peer: Peer, place: Arc<Place>) -> hyper::Result<()> {
        let calls = Arc::clone(&place);
        let service = service_fn(move |mut request: Request<Incoming>| {
            let call = calls.call();
            request.extensions_mut().insert(peer.clone());
            let answer = self.service.clone().oneshot(request.map(Body::new));
            async move { answer.await.map(|answer| answer.map(|body| Answer { body, call })) }
        });
        let mut connection = std::pin::pin!(self.http2().serve_connection(TokioIo::new(stream), service));
        let mut leaving = false;
        let mut old = std::pin::pin!(tokio::time::sleep(self.bounds.age_max));
        loop {
            let may_finish = tokio::select! {
                ended = connection.as_mut() => return ended,
                () = place.wanted() => false,
                // One that made calls before may be about to make another one:
                // it is told first, and asked whether it has heard.
                () = self.idle_too_long(&place, leaving) => {
                    !leaving && place.idle_since().is_none_or(|(_, any)| any)
                }
                () = self.stop.cancelled(), if !leaving => true,
                () = old.as_mut(), if !leaving => true,
            };
            connection.as_mut().graceful_shutdown();
            if may_finish {
                leaving = true;
                continue;
            }
            // Told, as far as that can be done at once; and not waited for.
            poll_fn(|context| {
                drop(connection.as_mut().poll(context));
                Poll::Ready(())
            })
            .await;
            return Ok(());
        }
    }

    /// Ends when no call has been under way for too long.
    async fn idle_too_long(&self, place: &Place, leaving: bool) {
        let Bounds { first_call_timeout, idle_max, .. } = self.bounds;
        loop {
            let now = Instant::now();
            let until = match place.idle_since() {
                _ if leaving => now + LEAVES_WITHIN,
                Some((since, true)) => since + idle_max,
                // The first call may come and go meanwhile.
                Some((since, false)) => (since + first_call_timeout).min(now + idle_max),
                None => now + idle_max,
            };
            tokio::time::sleep_until(until).await;
            let is_over = |(since, any): (Instant, bool)| {
                let most = match any {
                    _ if leaving => LEAVES_WITHIN,
                    true => idle_max,
                    false => first_call_timeout,
                };
                since.elapsed() >= most
            };
            if place.idle_since().is_some_and(is_over) {
                return;
            }
        }
    }

    fn http2(&self) -> http2::Builder<TokioExecutor> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_send_buf_size(ANSWER_BYTES_MAX)
            .max_concurrent_streams(self.bounds.streams_max)
            .max_header_list_size(self.bounds.header_bytes_max)
            .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
            .max_local_error_reset_streams(RESETS_OWN_MAX)
            .keep_alive_interval(self.bounds.keepalive_interval)
            .keep_alive_timeout(self.bounds.keepalive_timeout);
        builder
    }
}

impl<B: http_body::Body> http_body::Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
