//! Connections that the host forwards to a TCP port of the guest's loopback, where the pod's workload listens, or to a
//! descriptor that a container was given.
//!
//! Each has two streams, one for each direction, with the frames of stdio. A stream that closes before its end frame
//! was reset.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::net::{TcpStream, UnixStream, tcp, unix};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::sandbox::lock;
use crate::stdio::frame::{END, HEAD, Head, OUTPUT_LIMIT, PAYLOAD_LIMIT, parse_head, seal};
use crate::vsock::Stream;

/// Connections at once. Each may hold two buffers of 32 KiB while it moves bytes.
const CONNECTION_LIMIT: usize = 512;
/// Time for the workload to accept; a full backlog drops connections silently.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);
/// Time that the host has to open the second stream.
const OUTPUT_WAIT: Duration = Duration::from_secs(10);
/// Time that the host gets to close a stream whose end it has been sent. Closing first could drop what the vsock
/// backend has not delivered yet.
const CLOSE_LIMIT: Duration = Duration::from_secs(60);

/// The connections that there are, by number. `None`: its output was opened.
#[derive(Default)]
pub struct Connections(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    last: u32,
    entries: BTreeMap<u32, Option<oneshot::Sender<Stream>>>,
}

/// The place of one connection, which waits for its output stream. Dropping it gives up the place.
pub struct Waiting {
    /// Names it to the host.
    pub number: u32,
    output: oneshot::Receiver<Stream>,
    table: Arc<Mutex<Table>>,
}

impl Connections {
    /// Takes a place; `None` when all are taken.
    pub fn add(&self) -> Option<Waiting> {
        let (sender, output) = oneshot::channel();
        let mut table = lock(&self.0);
        if table.entries.len() >= CONNECTION_LIMIT {
            return None;
        }
        let mut number = table.last;
        loop {
            number = number.wrapping_add(1).max(1);
            if !table.entries.contains_key(&number) {
                break;
            }
        }
        table.last = number;
        table.entries.insert(number, Some(sender));
        Some(Waiting {
            number,
            output,
            table: Arc::clone(&self.0),
        })
    }

    /// Where to give the output stream of a connection that waits for it.
    pub fn take(&self, number: u32) -> Option<oneshot::Sender<Stream>> {
        lock(&self.0).entries.get_mut(&number)?.take()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        lock(&self.table).entries.remove(&self.number);
    }
}

/// The workload's side of a connection.
pub enum Peer {
    /// To a TCP port.
    Tcp(TcpStream),
    /// To a unix socket.
    Unix(UnixStream),
    /// A pipe that the workload reads.
    Writer(pipe::Sender),
    /// A pipe that the workload writes.
    Reader(pipe::Receiver),
}

/// Connects to `port` of the loopback, IPv4 first. The error is the reason for the peer.
pub async fn connect(port: u16) -> Result<TcpStream, String> {
    let ipv4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let ipv6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    limited(async {
        match TcpStream::connect(ipv4).await {
            Ok(stream) => Ok(stream),
            // Without IPv6 the second error says nothing about the workload.
            Err(error) => TcpStream::connect(ipv6).await.map_err(|_| error),
        }
    })
    .await
}

/// The outcome of a connect, within the time for one.
pub async fn limited(connect: impl Future<Output = io::Result<TcpStream>>) -> Result<TcpStream, String> {
    let stream = match timeout(CONNECT_LIMIT, connect).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Err("connection refused".into()),
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_elapsed) => return Err(format!("no answer within {CONNECT_LIMIT:?}")),
    };
    // Others have cut the bytes into pieces already.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Moves bytes both ways until both have ended, or one of the three sides breaks: then the others are reset.
pub async fn join(peer: Peer, input_stream: Stream, mut waiting: Waiting) {
    let output_stream = timeout(OUTPUT_WAIT, &mut waiting.output).await;
    let streams = match output_stream {
        Ok(Ok(output_stream)) => Some((input_stream, output_stream)),
        Ok(Err(_)) | Err(_) => None,
    };
    match (peer, streams) {
        (Peer::Tcp(mut tcp), streams) => {
            let outcome = match streams {
                Some((from, to)) => {
                    let (reader, writer) = tcp.split();
                    both(input(from, writer), output(reader, to)).await
                }
                None => Err(io::ErrorKind::ConnectionReset.into()),
            };
            if outcome.is_err() {
                let _ = tcp.set_zero_linger();
            }
        }
        // What is dropped is closed.
        (_, None) => {}
        (Peer::Unix(mut socket), Some((from, to))) => {
            let (reader, writer) = socket.split();
            let _ = both(input(from, writer), output(reader, to)).await;
        }
        (Peer::Writer(pipe), Some((from, to))) => {
            let _ = both(input(from, pipe), end(to)).await;
        }
        (Peer::Reader(pipe), Some((from, to))) => {
            let _ = both(input(from, tokio::io::sink()), output(pipe, to)).await;
        }
    }
}

async fn both(
    input: impl Future<Output = io::Result<()>>,
    output: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    tokio::try_join!(input, output).map(drop)
}

/// Copies to the workload until the host's end frame.
async fn input(mut stream: Stream, mut writer: impl AsyncWrite + Unpin) -> io::Result<()> {
    let watch = stream.end_watch()?;
    let mut payload = Vec::new();
    loop {
        let mut head = [0; HEAD];
        stream.read_exact(&mut head).await?;
        match parse_head(head) {
            Some(Head::Data(length)) => {
                payload.resize(length, 0);
                stream.read_exact(&mut payload).await?;
                tokio::select! {
                    written = writer.write_all(&payload) => written?,
                    // Nobody reads from the host while the workload makes no room.
                    () = watch.ended() => return Err(io::ErrorKind::ConnectionReset.into()),
                }
                // An idle connection holds no buffer.
                if length < PAYLOAD_LIMIT / 2 {
                    payload = Vec::new();
                }
            }
            Some(Head::End) => break,
            None => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    // It fails when the workload has closed already.
    let _ = writer.shutdown().await;
    Ok(())
}

/// Copies from the workload until its end.
async fn output(reader: impl Source, mut stream: Stream) -> io::Result<()> {
    loop {
        tokio::select! {
            ready = reader.readable() => ready?,
            // The host sends nothing here.
            _ = stream.read_u8() => return Err(io::ErrorKind::ConnectionReset.into()),
        }
        let mut frame = vec![0; HEAD + OUTPUT_LIMIT];
        loop {
            match reader.try_read(&mut frame[HEAD..]) {
                Ok(0) => return end(stream).await,
                Ok(length) => stream.send(seal(&mut frame, length)).await?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Says that no more comes.
async fn end(mut stream: Stream) -> io::Result<()> {
    stream.send(&END).await?;
    let _ = timeout(CLOSE_LIMIT, stream.read_u8()).await;
    Ok(())
}

/// What bytes are read from without holding a buffer while there are none.
trait Source {
    async fn readable(&self) -> io::Result<()>;
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize>;
}

macro_rules! source {
    ($type:ty) => {
        impl Source for $type {
            async fn readable(&self) -> io::Result<()> {
                <$type>::readable(self).await
            }

            fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
                <$type>::try_read(self, buffer)
            }
        }
    };
}
source!(tcp::ReadHalf<'_>);
source!(unix::ReadHalf<'_>);
source!(pipe::Receiver);
