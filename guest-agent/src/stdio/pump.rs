//! Moving bytes between a process's pipe or terminal and its stream.
//!
//! No buffer is held while a stream is idle.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::sync::watch;

use super::frame::{END, EXIT_MARK, HEAD, Head, OUTPUT_LIMIT, parse_head, seal};
use crate::vsock::Stream;

/// Payload bytes of stdin held at once.
const INPUT_CHUNK: usize = 16 * 1024;
/// Time that the host gets to close a stream whose end it has been sent. Closing first could drop what the vsock
/// backend has not delivered yet.
const CLOSE_LIMIT: Duration = Duration::from_secs(60);

/// A stream that has data again so soon is busy: its writer makes many small pieces.
const BUSY: Duration = Duration::from_millis(3);
/// Time that a busy writer gets to make more, so that frames become large. Each frame costs an exit of the virtual
/// machine, whatever its size; an interactive stream is never delayed.
const GATHER: Duration = Duration::from_millis(1);

/// Sends everything from `source` until its end, and the exit mark once the process has ended. Without a stream, or once it
/// is broken, the bytes are discarded so that the process never blocks on a reader that is gone.
pub async fn output(source: AsyncFd<OwnedFd>, mut stream: Option<Stream>, mut exited: watch::Receiver<bool>) {
    let mut marked = false;
    let mut sent_at: Option<Instant> = None;
    loop {
        let end = tokio::select! {
            ready = source.readable() => {
                let Ok(mut guard) = ready else { break };
                if sent_at.is_some_and(|at| at.elapsed() < BUSY) {
                    tokio::time::sleep(GATHER).await;
                }
                let end = drain(&source, &mut stream).await;
                sent_at = Some(Instant::now());
                // What comes after the last read is a new event, which this does not clear.
                guard.clear_ready();
                end
            }
            () = ended(&mut exited), if !marked => {
                marked = true;
                let end = drain(&source, &mut stream).await;
                send(&mut stream, &EXIT_MARK).await;
                end
            }
        };
        match end {
            Ok(More::Later) => {}
            Ok(More::Never) | Err(_) => break,
        }
    }
    // Nobody can read from us what comes now: the process gets EPIPE as with any closed pipe.
    drop(source);
    if let Some(mut stream) = stream
        && stream.send(&END).await.is_ok()
    {
        let _ = tokio::time::timeout(CLOSE_LIMIT, stream.read_u8()).await;
    }
}

/// Resolves when the process has ended (or the endpoints are gone, and the task with them).
async fn ended(exited: &mut watch::Receiver<bool>) {
    let _ = exited.wait_for(|ended| *ended).await;
}

/// Whether a source may have more data.
enum More {
    Later,
    Never,
}

/// Forwards what `source` has now, until reading would block.
async fn drain(source: &AsyncFd<OwnedFd>, stream: &mut Option<Stream>) -> io::Result<More> {
    let mut frame = vec![0; HEAD + OUTPUT_LIMIT];
    loop {
        match nix::unistd::read(source.get_ref(), &mut frame[HEAD..]) {
            Ok(0) => return Ok(More::Never),
            Ok(length) => send(stream, seal(&mut frame, length)).await,
            Err(Errno::EAGAIN) => return Ok(More::Later),
            Err(Errno::EINTR) => {}
            // A terminal whose other side is closed, everything read.
            Err(Errno::EIO) => return Ok(More::Never),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Sends a frame, or forgets a stream that is broken.
async fn send(stream: &mut Option<Stream>, frame: &[u8]) {
    if let Some(open) = stream
        && open.send(frame).await.is_err()
    {
        *stream = None;
    }
}

/// Receives stdin until its end frame, and closes `sink` then. Closes the stream when the reader of `sink` is gone.
pub async fn input(sink: AsyncFd<OwnedFd>, stream: Stream) {
    tokio::select! {
        // Both ways of ending are the same: the stream and our end of the pipe are closed.
        _ = receive(&sink, stream) => {}
        () = reader_gone(&sink) => {}
    }
}

async fn receive(sink: &AsyncFd<OwnedFd>, mut stream: Stream) -> io::Result<()> {
    loop {
        let mut head = [0; HEAD];
        stream.read_exact(&mut head).await?;
        match parse_head(head) {
            Some(Head::Data(length)) => copy_payload(sink, &mut stream, length).await?,
            Some(Head::End) => return Ok(()),
            None => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

async fn copy_payload(sink: &AsyncFd<OwnedFd>, stream: &mut Stream, mut left: usize) -> io::Result<()> {
    let mut buffer = vec![0; left.min(INPUT_CHUNK)];
    while left > 0 {
        let wanted = left.min(buffer.len());
        let count = stream.read(&mut buffer[..wanted]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        write_all(sink, &buffer[..count]).await?;
        left -= count;
    }
    Ok(())
}

async fn write_all(sink: &AsyncFd<OwnedFd>, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        let mut guard = sink.ready(Interest::WRITABLE).await?;
        match guard.try_io(|fd| nix::unistd::write(fd.get_ref(), data).map_err(io::Error::from)) {
            Ok(Ok(count)) => data = &data[count..],
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
    Ok(())
}

/// The kernel reports an error on a pipe whose last reader is gone.
async fn reader_gone(sink: &AsyncFd<OwnedFd>) {
    let _ = sink.ready(Interest::ERROR).await;
}
