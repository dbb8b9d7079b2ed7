//! Lets the host's stream connections in and hands them to their process.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::hello::{Hello, LIMIT, ProcessStream, Target, parse, same_token};
use crate::error::{Context, Result, clean};
use crate::forward::{self, Peer};
use crate::log;
use crate::sandbox::Sandbox;
use crate::vsock::{Listener, Stream};

/// Time that the host has for its line.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// Connections that may be in their opening at once.
const OPENING_LIMIT: usize = 64;

/// Serves for ever.
pub async fn serve(listener: Listener, sandbox: Arc<Sandbox>) -> Result<()> {
    let openings = Arc::new(Semaphore::new(OPENING_LIMIT));
    loop {
        let Ok(permit) = Arc::clone(&openings).acquire_owned().await else {
            return Ok(());
        };
        let stream = listener.accept().await.context(|| "accept a stream".into())?;
        let sandbox = Arc::clone(&sandbox);
        tokio::spawn(async move {
            let _permit = permit;
            if tokio::time::timeout(HELLO_LIMIT, open(stream, &sandbox)).await.is_err() {
                log::warn("Cannot open a stream: the host did not introduce it in time");
            }
        });
    }
}

async fn open(mut stream: Stream, sandbox: &Sandbox) {
    let hello = match read_hello(&mut stream, sandbox).await {
        Ok(hello) => hello,
        Err(reason) => return refuse(stream, &reason).await,
    };
    let opened = match hello.target {
        Target::Stdio(wanted) => open_process_stream(stream, &wanted, sandbox).await,
        Target::Tcp(port) => {
            let connect = async { forward::connect(port).await.map(Peer::Tcp) };
            open_connection(stream, connect, sandbox).await
        }
        Target::Descriptor {
            container_id,
            exec_id,
            number,
        } => match sandbox.container(&container_id) {
            Ok(container) => open_connection(stream, container.connect(&exec_id, number), sandbox).await,
            Err(error) => Err((stream, error.to_string())),
        },
        Target::TcpOutput(number) => open_output(stream, number, sandbox).await,
    };
    if let Err((stream, reason)) = opened {
        refuse(stream, &reason).await;
    }
}

/// A stream that is not to be opened, and why.
type Refused = (Stream, String);

async fn open_process_stream(
    mut stream: Stream,
    wanted: &ProcessStream,
    sandbox: &Sandbox,
) -> std::result::Result<(), Refused> {
    let ProcessStream {
        container_id,
        exec_id,
        kind,
    } = wanted;
    match sandbox.with_endpoints(container_id, exec_id, |endpoints| endpoints.reserve(*kind)) {
        Err(error) => return Err((stream, error.to_string())),
        Ok(false) => {
            return Err((
                stream,
                "the stream was not declared, is open already, or is over".into(),
            ));
        }
        Ok(true) => {}
    }
    let stream = stream.write_all(b"OK\n").await.is_ok().then_some(stream);
    let connected = sandbox.with_endpoints(container_id, exec_id, |endpoints| endpoints.connect(*kind, stream));
    // Not found: deleted meanwhile, which has closed the connection.
    if let Ok(Err(error)) = connected {
        log::warn(&error.to_string());
    }
    Ok(())
}

async fn open_connection(
    mut stream: Stream,
    connect: impl Future<Output = std::result::Result<Peer, String>>,
    sandbox: &Sandbox,
) -> std::result::Result<(), Refused> {
    let Some(waiting) = sandbox.connections.add() else {
        return Err((stream, "too many connections are open".into()));
    };
    let peer = match connect.await {
        Ok(peer) => peer,
        Err(reason) => return Err((stream, reason)),
    };
    let answer = format!("OK {}\n", waiting.number);
    if stream.write_all(answer.as_bytes()).await.is_ok() {
        tokio::spawn(forward::join(peer, stream, waiting));
    }
    Ok(())
}

async fn open_output(mut stream: Stream, number: u32, sandbox: &Sandbox) -> std::result::Result<(), Refused> {
    let Some(waiting) = sandbox.connections.take(number) else {
        return Err((stream, "no connection with this number waits for its output".into()));
    };
    if stream.write_all(b"OK\n").await.is_ok() {
        // Given up meanwhile: the host sees this stream close.
        let _ = waiting.send(stream);
    }
    Ok(())
}

async fn refuse(mut stream: Stream, reason: &str) {
    log::debug(|| format!("stream refused: {reason}"));
    let _ = stream
        .write_all(format!("ERR {}\n", clean(reason, 200)).as_bytes())
        .await;
    // The host closes after it has read the line; the caller's time limit bounds this.
    let _ = stream.read_u8().await;
}

/// Reads the line. The host sends nothing more until it is answered, so one that does is refused.
async fn read_hello(stream: &mut Stream, sandbox: &Sandbox) -> std::result::Result<Hello, String> {
    let mut buffer = [0; LIMIT];
    let mut length = 0;
    let line = loop {
        if length == LIMIT {
            return Err(format!("the line is longer than {LIMIT} bytes"));
        }
        match stream.read(&mut buffer[length..]).await {
            Ok(0) | Err(_) => return Err("the connection ended within the line".into()),
            Ok(count) => length += count,
        }
        if let Some(end) = buffer[..length].iter().position(|byte| *byte == b'\n') {
            if end + 1 != length {
                return Err("bytes came before the answer".into());
            }
            break &buffer[..end];
        }
    };
    let hello = parse(line)?;
    match sandbox.stream_token() {
        Some(token) if same_token(&token, &hello.token) => Ok(hello),
        _ => Err("the token is wrong".into()),
    }
}
