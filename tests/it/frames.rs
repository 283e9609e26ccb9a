//! HTTP/2 frame by frame, for clients that keep to no rule.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// What every client says first.
pub const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// How long a frame may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A connection on which nothing is sent by itself.
pub struct Wire {
    stream: TcpStream,
}

impl Frame {
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, flags, stream, payload: payload.into() }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], self.kind, self.flags];
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    /// The headers of a call that is complete but for its message, with a token
    /// or without.
    pub fn call(stream: u32, flags: u8, path: &str, token: Option<&str>) -> Self {
        let mut block = vec![0x83, 0x86];
        let mut header = |name: &str, value: &str| {
            // Without indexing, both in full, and not compressed (RFC 7541, 6.2.2).
            block.push(0);
            for text in [name, value] {
                length(text.len(), &mut block);
                block.extend(text.as_bytes());
            }
        };
        header(":path", path);
        header(":authority", "payops");
        header("te", "trailers");
        header("content-type", "application/grpc");
        if let Some(token) = token {
            header("authorization", &format!("Bearer {token}"));
        }
        Self::new(HEADERS, flags, stream, block)
    }

    /// The settings in it: which, and how much.
    pub fn settings(&self) -> Vec<(u16, u32)> {
        let setting = |bytes: &[u8]| {
            let [a, b, rest @ ..] = bytes else { panic!("a setting is six bytes") };
            (u16::from_be_bytes([*a, *b]), u32::from_be_bytes(rest.try_into().unwrap()))
        };
        self.payload.chunks(6).map(setting).collect()
    }

    /// Why the server ends the connection, where it does.
    pub fn reason(&self) -> Option<h2::Reason> {
        let code = self.payload.get(4..8).filter(|_| self.kind == GOAWAY)?;
        Some(u32::from_be_bytes(code.try_into().unwrap()).into())
    }
}

/// A length as HPACK writes it, with a prefix of seven bits.
fn length(length: usize, block: &mut Vec<u8>) {
    if length < 127 {
        block.push(u8::try_from(length).unwrap());
        return;
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

impl Wire {
    /// A connection that says nothing.
    pub async fn silent(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap() }
    }

    /// A connection that has greeted, and has acknowledged the server's settings.
    pub async fn greeted(address: SocketAddr) -> Self {
        let mut wire = Self::silent(address).await;
        let said = [&Frame::new(SETTINGS, 0, 0, []).bytes()[..], &Frame::new(SETTINGS, ACK, 0, []).bytes()];
        // The server may have ended it already: whoever reads will see.
        drop(wire.write(&[GREETING, said[0], said[1]].concat()).await);
        wire
    }

    /// Whether the server has ended the connection, as far as that is known here; what it sent before is dropped.
    pub fn is_ended(&mut self) -> bool {
        let mut dropped = [0; 4096];
        loop {
            match self.stream.try_read(&mut dropped) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }

    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    pub async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.write(&frame.bytes()).await
    }

    /// Whether the server answers a ping: it is there, and reads.
    pub async fn answers_pings(&mut self) -> bool {
        const WORD: [u8; 8] = *b"are you?";
        if self.send(&Frame::new(PING, 0, 0, WORD)).await.is_err() {
            return false;
        }
        while let Some(frame) = self.next().await {
            if frame.kind == PING && frame.flags & ACK != 0 && frame.payload == WORD {
                return true;
            }
        }
        false
    }

    /// The next frame; none where the server has ended the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        tokio::time::timeout(PATIENCE, self.read()).await.expect("neither a frame nor an end").ok()
    }

    /// Reads until the server has ended the connection: what it sent.
    pub async fn rest(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        frames
    }

    /// Reads until the server says why it ends the connection, or just ends it.
    pub async fn goodbye(&mut self) -> Option<h2::Reason> {
        self.rest().await.iter().rev().find_map(Frame::reason)
    }

    async fn read(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap()];
        self.stream.read_exact(&mut payload).await?;
        Ok(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }
}
