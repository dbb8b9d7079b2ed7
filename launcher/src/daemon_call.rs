//! One call of a running daemon's private service, over ttrpc: see src/ttrpc/frame.ts for the frames.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use prost::Message;

use crate::messages::{Request, Response};

const SERVICE: &str = "caisson.shim.v1.Shim";
const HEADER: usize = 10;
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;
const STREAM: u32 = 1;
/// The answers have a few hundred bytes.
const MOST_BYTES: usize = 64 * 1024;

/// A connection with a daemon.
pub struct Daemon(UnixStream);

impl Daemon {
    /// Connects to the daemon that serves at `path`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        UnixStream::connect(path).map(Self)
    }

    /// Makes the only call of this connection. Nothing: the daemon refused, or did not answer in time and form.
    pub fn call<T: Message + Default>(&mut self, method: &str, request: &impl Message, limit: Duration) -> Option<T> {
        let deadline = Instant::now() + limit;
        self.send(method, request, limit).ok()?;
        let header = self.read(HEADER, deadline).ok()?;
        let [a, b, c, d, 0, 0, 0, 1, RESPONSE, _] = header[..] else {
            return None;
        };
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
        if length > MOST_BYTES {
            return None;
        }
        let response = Response::decode(&self.read(length, deadline).ok()?[..]).ok()?;
        let is_refused = response.status.is_some_and(|status| status.code != 0);
        (!is_refused).then(|| T::decode(&response.payload[..]).ok())?
    }

    fn send(&mut self, method: &str, request: &impl Message, limit: Duration) -> io::Result<()> {
        let request = Request {
            service: SERVICE.into(),
            method: method.into(),
            payload: request.encode_to_vec(),
            timeout_nano: i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX),
        }
        .encode_to_vec();
        let length = u32::try_from(request.len()).map_err(io::Error::other)?;
        let mut frame = Vec::with_capacity(HEADER + request.len());
        frame.extend(length.to_be_bytes());
        frame.extend(STREAM.to_be_bytes());
        frame.extend([REQUEST, 0]);
        frame.extend(request);
        self.0.set_write_timeout(Some(limit))?;
        self.0.write_all(&frame)
    }

    /// Waits until the daemon has closed the connection. False: it has not within `limit`.
    pub fn wait_for_end(mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut rest = [0; 256];
        loop {
            match self.read_some(&mut rest, deadline) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == ErrorKind::ConnectionReset,
            }
        }
    }

    fn read(&mut self, length: usize, deadline: Instant) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match self.read_some(&mut bytes[filled..], deadline)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(bytes)
    }

    fn read_some(&mut self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.0.set_read_timeout(Some(left))?;
            match self.0.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}
