//! Accepts connections, so many and no more, and none that has nothing to say.

pub(crate) mod http1;
pub mod tls;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::callers::Certificate;
use crate::listener::tls::Tls;

/// How many bytes every HTTP/2 client says first: "PRI * HTTP/2.0" and so on.
const GREETING_BYTES: usize = 24;

/// How long they may take. From then on HTTP/2's own pings tell whether
/// somebody is there.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that gives its place back when it ends.
pub struct Connection {
    stream: Spoken,
    peer: Peer,
    /// None once the client has greeted.
    greeting: Option<Greeting>,
    _place: OwnedSemaphorePermit,
}

/// Who is at the other end, as far as the connection itself tells. It is in
/// the extensions of every request.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// What its certificate names; none where it showed none, or nothing is asked for.
    pub certificate: Option<Arc<Certificate>>,
}

/// What is waited for first.
struct Greeting {
    missing: usize,
    /// Over when the time is, or when the server stops.
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// How it is spoken.
enum Spoken {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The connections to `listener`, by TLS where it is given; beyond `most` they
/// wait in the backlog. A connection whose client does not greet ends after
/// five seconds, or with `stop`: it must not keep its place, nor hold up a
/// drain.
pub fn connections(
    listener: TcpListener,
    most: usize,
    tls: Option<Arc<Tls>>,
    stop: CancellationToken,
) -> impl Stream<Item = io::Result<Connection>> {
    let handshakes_max = tls.as_ref().map_or(1, |tls| tls.handshakes_max());
    let prepared = accepted(listener, most).map(move |accepted| {
        let (tls, stop) = (tls.clone(), stop.clone());
        async move {
            let (stream, place) = accepted?;
            let (stream, peer) = match tls {
                None => (Spoken::Plain(stream), Peer::default()),
                // A task of its own: a handshake is work, and the others wait.
                Some(tls) => {
                    let handshake = stop.clone().run_until_cancelled_owned(tls.accept(stream));
                    match tokio::spawn(handshake).await {
                        Ok(Some(Ok(stream))) => {
                            let peer = Peer { certificate: tls::certificate(&stream).map(Arc::new) };
                            (Spoken::Tls(Box::new(stream)), peer)
                        }
                        Ok(Some(Err(error))) => return Err(error),
                        Ok(None) | Err(_) => return Err(io::ErrorKind::ConnectionAborted.into()),
                    }
                }
            };
            let over = async move {
                drop(tokio::time::timeout(GREETING_TIMEOUT, stop.cancelled_owned()).await);
            };
            let greeting = Some(Greeting { missing: GREETING_BYTES, over: Box::pin(over) });
            Ok(Connection { stream, peer, greeting, _place: place })
        }
    });
    prepared.buffer_unordered(handshakes_max)
}

/// What is accepted, each with its place.
fn accepted(
    listener: TcpListener,
    most: usize,
) -> impl Stream<Item = io::Result<(TcpStream, OwnedSemaphorePermit)>> {
    let places = Arc::new(Semaphore::new(most));
    stream::unfold((listener, places), |(listener, places)| async move {
        let place = Arc::clone(&places).acquire_owned().await.ok()?;
        let accepted = listener.accept().await.and_then(|(stream, _)| {
            stream.set_nodelay(true)?;
            Ok((stream, place))
        });
        if accepted.is_err() {
            // Out of file descriptors, most likely: give others time to close.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Some((accepted, (listener, places)))
    })
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match &mut self.stream {
            Spoken::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Spoken::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        let Some(greeting) = &mut self.greeting else { return read };
        if read.is_pending() {
            return greeting.over.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()));
        }
        greeting.missing = greeting.missing.saturating_sub(buffer.filled().len().saturating_sub(before));
        if greeting.missing == 0 {
            self.greeting = None;
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Spoken::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Spoken::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Spoken::Plain(stream) => Pin::new(stream).poll_flush(context),
            Spoken::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Spoken::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Spoken::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Spoken::Plain(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Spoken::Tls(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Spoken::Plain(stream) => stream.is_write_vectored(),
            Spoken::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
