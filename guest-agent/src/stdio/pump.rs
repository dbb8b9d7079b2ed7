//! Moving bytes between a process's pipe or terminal and its stream.
//!
//! No buffer is held while a stream is idle.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::uio::writev;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::sync::watch;
use tokio::time::timeout;

use super::frame::{END, EXIT_MARK};
use super::incoming::Incoming;
use super::outgoing::{Found, Outgoing};
use crate::vsock::Stream;

/// Most bytes of stdin held at once.
const INPUT_LIMIT: usize = 256 * 1024;
/// What a busy stdin waits for: fewer bytes are not worth a turn of the process.
const INPUT_MUCH: i32 = 64 * 1024;
/// Bytes of stdin that the host may send before we read them. The kernel tells the host of new room when little is left: the more
/// there is, the less often the host stops.
const INPUT_ROOM: u64 = 1024 * 1024;
/// First buffer of an idle stdin.
const INPUT_FIRST: usize = 16 * 1024;
/// Time that the host gets to close a stream whose end it has been sent. Closing first could drop what the vsock
/// backend has not delivered yet.
const CLOSE_LIMIT: Duration = Duration::from_secs(60);

/// A stream that has data again so soon is busy: its writer makes many small pieces. After it, the buffer is given back.
const BUSY: Duration = Duration::from_millis(100);
/// Time that a busy writer gets to make more, so that frames become large. Each frame costs an exit of the virtual
/// machine, whatever its size; an interactive stream is never delayed.
const GATHER: Duration = Duration::from_millis(1);

/// Sends everything from `source` until its end, and the exit mark once the process has ended. Without a stream, or once it
/// is broken, the bytes are discarded so that the process never blocks on a reader that is gone.
pub async fn output(source: AsyncFd<OwnedFd>, mut stream: Option<Stream>, mut exited: watch::Receiver<bool>) {
    let mut marked = false;
    let mut outgoing = Outgoing::default();
    loop {
        let end = tokio::select! {
            ready = source.readable() => {
                let Ok(mut guard) = ready else { break };
                if outgoing.is_held() {
                    tokio::time::sleep(GATHER).await;
                }
                let end = drain(&source, &mut outgoing, &mut stream).await;
                // What comes after the last read is a new event, which this does not clear.
                guard.clear_ready();
                end
            }
            () = ended(&mut exited), if !marked => {
                marked = true;
                let end = drain(&source, &mut outgoing, &mut stream).await;
                send(&mut stream, &EXIT_MARK).await;
                end
            }
            () = tokio::time::sleep(BUSY), if outgoing.is_held() => {
                outgoing.release();
                continue;
            }
        };
        match end {
            Ok(More::Later) => {}
            Ok(More::Never) | Err(_) => break,
        }
    }
    // Nobody can read from us what comes now: the process gets EPIPE as with any closed pipe.
    drop(source);
    drop(outgoing);
    if let Some(mut stream) = stream
        && stream.send(&END).await.is_ok()
    {
        let _ = timeout(CLOSE_LIMIT, stream.read_u8()).await;
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
async fn drain(source: &AsyncFd<OwnedFd>, outgoing: &mut Outgoing, stream: &mut Option<Stream>) -> io::Result<More> {
    loop {
        match outgoing.read(source.get_ref()) {
            Ok(Found::Data) => send(stream, outgoing.frames()).await,
            Ok(Found::Nothing) => return Ok(More::Later),
            Ok(Found::End) => return Ok(More::Never),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends frames, or forgets a stream that is broken.
async fn send(stream: &mut Option<Stream>, frames: &[u8]) {
    if let Some(open) = stream
        && open.send(frames).await.is_err()
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

async fn receive(sink: &AsyncFd<OwnedFd>, stream: Stream) -> io::Result<()> {
    // Best effort: with less room the host stops more often.
    let _ = stream.set_room(INPUT_ROOM);
    let mut incoming = Incoming::default();
    let mut input = Input::default();
    loop {
        let received = input.receive(&stream).await?;
        if received.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut payloads = Vec::new();
        let ended = incoming.cut(received, &mut payloads);
        write_all(sink, &mut payloads).await?;
        if ended? {
            return Ok(());
        }
    }
}

/// What has come of a stdin. It holds memory while the stream is busy.
#[derive(Default)]
struct Input {
    buffer: Vec<u8>,
    /// The last read has filled the buffer.
    was_full: bool,
}

impl Input {
    /// Waits for more and returns it; nothing: the connection has ended.
    async fn receive(&mut self, stream: &Stream) -> io::Result<&[u8]> {
        let count = match self.receive_busy(stream).await {
            Some(count) => count?,
            None => {
                self.buffer = Vec::new();
                stream.readable().await?;
                self.buffer.resize(INPUT_FIRST, 0);
                stream.receive(&mut self.buffer).await?
            }
        };
        self.was_full = count == self.buffer.len();
        if self.was_full && count < INPUT_LIMIT {
            let received = std::mem::replace(&mut self.buffer, vec![0; INPUT_LIMIT]);
            self.buffer[..count].copy_from_slice(&received);
        }
        Ok(&self.buffer[..count])
    }

    /// The same of a stream that has had data a moment ago: waits for much first. `None`: it is idle.
    async fn receive_busy(&mut self, stream: &Stream) -> Option<io::Result<usize>> {
        if self.buffer.is_empty() {
            return None;
        }
        if self.was_full
            && let Some(received) = self.receive_now(stream)
        {
            return Some(received);
        }
        let gathers = stream.set_low_water(INPUT_MUCH).is_ok();
        if !gathers {
            tokio::time::sleep(GATHER).await;
        } else if let Ok(received) = timeout(GATHER, stream.receive(&mut self.buffer)).await {
            return Some(received);
        }
        // Refused at most by a kernel that has refused the other one.
        let _ = stream.set_low_water(1);
        match self.receive_now(stream) {
            Some(received) => Some(received),
            None => timeout(BUSY, stream.receive(&mut self.buffer)).await.ok(),
        }
    }

    /// What is there already; `None`: nothing.
    fn receive_now(&mut self, stream: &Stream) -> Option<io::Result<usize>> {
        match stream.receive_now(&mut self.buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            received => Some(received),
        }
    }
}

async fn write_all(sink: &AsyncFd<OwnedFd>, mut data: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !data.is_empty() {
        let mut guard = sink.ready(Interest::WRITABLE).await?;
        match guard.try_io(|fd| Ok(writev(fd.get_ref(), data)?)) {
            Ok(Ok(count)) => IoSlice::advance_slices(&mut data, count),
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
