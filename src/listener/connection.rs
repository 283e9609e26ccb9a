//! One connection: how it is spoken, and what its client has to say first.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// How many bytes every HTTP/2 client says first: "PRI * HTTP/2.0" and so on.
const GREETING_BYTES: usize = 24;

/// How long they may take.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that ends where its client does not greet in time.
pub(super) struct Connection {
    stream: Spoken,
    /// None once the client has greeted.
    greeting: Option<Greeting>,
}

/// What is waited for first.
struct Greeting {
    missing: usize,
    /// Over when the time is, or when the server stops.
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// How it is spoken.
pub(super) enum Spoken {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    /// Its client has to greet within five seconds, and before `stop`: it must
    /// not hold up a drain.
    pub(super) fn new(stream: Spoken, stop: CancellationToken) -> Self {
        let over = async move {
            drop(tokio::time::timeout(GREETING_TIMEOUT, stop.cancelled_owned()).await);
        };
        Self { stream, greeting: Some(Greeting { missing: GREETING_BYTES, over: Box::pin(over) }) }
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
