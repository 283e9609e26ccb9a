//! A client that sends what a gRPC library would not: HTTP/2 without manners.

use std::{net::SocketAddr, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::{Reason, client::SendRequest};
use http::{HeaderMap, Method, Request, header};
use prost::Message;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{Code, Status};

use crate::support::{Refused, SERVICE, refused};

/// How long an answer may take: these come at once or not at all.
const PATIENCE: Duration = Duration::from_secs(10);

/// One request, as it goes over the wire.
#[derive(Clone, Debug)]
pub struct Raw {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    /// What each DATA frame holds.
    pub frames: Vec<Bytes>,
    /// What follows them.
    pub trailers: HeaderMap,
    /// Never says that this was all.
    pub endless: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Answer {
    pub http: u16,
    pub headers: HeaderMap,
    /// The gRPC status, from the headers or the trailers.
    pub grpc: Option<Box<Refused>>,
    pub body: Bytes,
}

/// How a connection or stream ended without an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended(pub Option<Reason>);

impl Raw {
    /// A request of a caller for an RPC of the service, with all that is due.
    pub fn rpc(rpc: &str, message: &impl Message) -> Self {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("authorization", "Bearer token-of-orders"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        if matches!(rpc, "Capture" | "Void" | "Refund") {
            headers.insert("idempotency-key", "k".parse().unwrap());
        }
        let frames = vec![framed(0, &message.encode_to_vec())];
        let path = format!("/{SERVICE}/{rpc}");
        Self { method: Method::POST, path, headers, frames, trailers: HeaderMap::new(), endless: false }
    }

    pub fn with(mut self, name: &'static str, value: impl AsRef<[u8]>) -> Self {
        self.headers.insert(name, header::HeaderValue::from_bytes(value.as_ref()).unwrap());
        self
    }

    /// A header once more.
    pub fn and(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(name, value.parse().unwrap());
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.remove(name);
        self
    }

    pub fn to(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    pub fn by(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// With a trailer, which a request does not have.
    pub fn trailer(mut self, name: &'static str, value: &str) -> Self {
        self.trailers.insert(name, value.parse().unwrap());
        self
    }

    /// Without an end.
    pub fn endless(mut self) -> Self {
        self.endless = true;
        self
    }

    /// With this body in place of the message.
    pub fn body(mut self, frames: impl IntoIterator<Item = Bytes>) -> Self {
        self.frames = frames.into_iter().collect();
        self
    }

    /// Sends it on a connection of its own.
    pub async fn send(&self, address: SocketAddr) -> Result<Answer, Ended> {
        let stream = TcpStream::connect(address).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let answer = tokio::time::timeout(PATIENCE, self.exchange(client, address)).await;
        connection.abort();
        answer.expect("neither an answer nor an end").map_err(|error| Ended(error.reason()))
    }

    async fn exchange(&self, client: SendRequest<Bytes>, address: SocketAddr) -> Result<Answer, h2::Error> {
        let mut client = client.ready().await?;
        let uri = format!("http://{address}{}", self.path);
        let mut request = Request::builder().method(self.method.clone()).uri(uri).body(()).unwrap();
        *request.headers_mut() = self.headers.clone();
        let (response, mut body) = client.send_request(request, self.frames.is_empty() && !self.endless)?;
        for (index, frame) in self.frames.iter().enumerate() {
            // An answer may come before all is sent: that is no failure.
            let last = index + 1 == self.frames.len() && self.trailers.is_empty() && !self.endless;
            drop(body.send_data(frame.clone(), last));
        }
        if !self.trailers.is_empty() {
            drop(body.send_trailers(self.trailers.clone()));
        }
        let (head, mut body) = response.await?.into_parts();
        let mut received = BytesMut::new();
        while let Some(data) = body.data().await {
            let Ok(data) = data else { break };
            body.flow_control().release_capacity(data.len())?;
            received.extend_from_slice(&data);
        }
        let trailers = body.trailers().await.ok().flatten();
        let status = Status::from_header_map(&head.headers)
            .or_else(|| trailers.as_ref().and_then(Status::from_header_map));
        Ok(Answer {
            http: head.status.as_u16(),
            headers: head.headers,
            grpc: status.map(refused),
            body: received.freeze(),
        })
    }
}

impl Answer {
    pub fn code(&self) -> Option<Code> {
        self.grpc.as_ref().map(|refused| refused.code)
    }

    /// The message of an OK answer.
    pub fn message<M: Message + Default>(&self) -> M {
        M::decode(&self.body[5..]).unwrap()
    }
}

/// A message with the flag and the length that gRPC puts before it.
pub fn framed(flag: u8, message: &[u8]) -> Bytes {
    claiming(flag, u32::try_from(message.len()).unwrap(), message)
}

/// The same with a length of one's own.
pub fn claiming(flag: u8, length: u32, message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(flag);
    frame.put_u32(length);
    frame.put_slice(message);
    frame.freeze()
}

/// Sends bytes over a bare socket and reads until the server ends the connection.
pub async fn bytes(address: SocketAddr, sent: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(sent).await.unwrap();
    let mut received = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut received)).await;
    // A reset is an end as well.
    drop(read.expect("the connection stays open"));
    received
}

/// The reason of the GOAWAY frame among what the server sent, if there is one.
pub fn goaway(mut received: &[u8]) -> Option<Reason> {
    // Nine bytes of head: three of length, the kind, flags, the stream.
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = received {
        let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap();
        let (payload, after) = rest.split_at_checked(length)?;
        if *kind == 7 {
            let code = payload.get(4..8)?;
            return Some(u32::from_be_bytes(code.try_into().unwrap()).into());
        }
        received = after;
    }
    None
}
