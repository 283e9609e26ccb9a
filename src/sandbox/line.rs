//! A TCP connection that can be cut or reset at a chosen byte of what the server writes.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How a connection ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// FIN: the peer reads the end of the stream.
    Close,
    /// RST, by closing with a linger of zero.
    Reset,
}

/// A handle to a connection. Handlers find it in the extensions of their request.
#[derive(Clone, Debug, Default)]
pub struct Connection(Arc<Mutex<Option<Cut>>>);

#[derive(Clone, Copy, Debug)]
struct Cut {
    bytes_left: usize,
    end: End,
}

impl Connection {
    /// Ends the connection after `bytes` more bytes of the server's.
    pub fn cut_after(&self, bytes: usize, end: End) {
        self.set(Some(Cut { bytes_left: bytes, end }));
    }

    /// Takes an earlier [`Connection::cut_after`] back, as far as it is not carried out.
    pub fn mend(&self) {
        self.set(None);
    }

    fn set(&self, cut: Option<Cut>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = cut;
    }

    fn cut(&self) -> Option<Cut> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stream beneath the HTTP server.
#[derive(Debug)]
pub struct Line {
    stream: TcpStream,
    connection: Connection,
}

impl Line {
    /// Wraps an accepted stream.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?; // a reset throws away what the kernel still holds back
        Ok(Self { stream, connection: Connection::default() })
    }

    /// The handle that handlers get.
    pub fn connection(&self) -> Connection {
        self.connection.clone()
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(cut) = self.connection.cut() else {
            return Pin::new(&mut self.stream).poll_write(cx, bytes);
        };
        if cut.bytes_left == 0 {
            if cut.end == End::Reset {
                socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
            }
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let most = bytes.get(..cut.bytes_left).unwrap_or(bytes);
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, most))?;
        self.connection.cut_after(cut.bytes_left.saturating_sub(written), cut.end);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
