//! Accepts connections, so many and no more, and none that has nothing to say.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// How many bytes every HTTP/2 client says first: "PRI * HTTP/2.0" and so on.
const GREETING_BYTES: usize = 24;

/// How long they may take. From then on HTTP/2's own pings tell whether
/// somebody is there.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that gives its place back when it ends.
pub struct Connection {
    stream: TcpStream,
    /// None once the client has greeted.
    greeting: Option<Greeting>,
    _place: OwnedSemaphorePermit,
}

/// What is waited for first.
struct Greeting {
    missing: usize,
    /// Over when the time is, or when the server stops.
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// The connections to `listener`; beyond `most` they wait in the backlog. A
/// connection whose client does not greet ends after five seconds, or with
/// `stop`: it must not keep its place, nor hold up a drain.
pub fn connections(
    listener: TcpListener,
    most: usize,
    stop: CancellationToken,
) -> impl Stream<Item = io::Result<Connection>> {
    let places = Arc::new(Semaphore::new(most));
    futures::stream::unfold((listener, places, stop), |(listener, places, stop)| async move {
        let place = Arc::clone(&places).acquire_owned().await.ok()?;
        let accepted = listener.accept().await.and_then(|(stream, _)| {
            stream.set_nodelay(true)?;
            let stopped = stop.clone();
            let over = async move {
                drop(tokio::time::timeout(GREETING_TIMEOUT, stopped.cancelled_owned()).await);
            };
            let greeting = Some(Greeting { missing: GREETING_BYTES, over: Box::pin(over) });
            Ok(Connection { stream, greeting, _place: place })
        });
        if accepted.is_err() {
            // Out of file descriptors, most likely: give others time to close.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Some((accepted, (listener, places, stop)))
    })
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
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
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
