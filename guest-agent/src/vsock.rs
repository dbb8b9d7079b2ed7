//! AF_VSOCK sockets for the runtime.
//!
//! Only the host (CID 2) is ever let in. A kernel that may split a packet of more than 32 KiB into several descriptors, which some
//! vsock backends drop, never gets more in one write.

use std::io;
use std::io::ErrorKind::{Interrupted, WouldBlock};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, connect, getpeername, getsockopt, listen,
    socket, sockopt,
};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use crate::error::{Context as _, Result};
use crate::log;
use crate::polled;

/// CID of the host.
pub const HOST_CID: u32 = libc::VMADDR_CID_HOST;
/// Largest single write that every kernel sends in one descriptor.
pub const WRITE_LIMIT: usize = 32 * 1024;
/// The first kernel whose packets are socket buffers, which can lie in several places.
const FIRST_WITH_SOCKET_BUFFERS: (u32, u32) = (6, 3);

/// Pause between attempts to write to a peer that has half-closed and makes no room.
const HALF_CLOSED_PAUSE: Duration = Duration::from_secs(1);

/// Connections that wait to be accepted: the next one is reset, and an exec or a copy fails. A guest whose CPU is busy has them wait.
const BACKLOG: i32 = 1024;

/// Pause before the next attempt to accept when descriptors or memory run short.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

// linux/vm_sockets.h
const SO_VM_SOCKETS_BUFFER_SIZE: libc::c_int = 0;
const SO_VM_SOCKETS_BUFFER_MAX_SIZE: libc::c_int = 2;

const FLAGS: SockFlag = SockFlag::SOCK_NONBLOCK.union(SockFlag::SOCK_CLOEXEC);

/// A listening port.
pub struct Listener(AsyncFd<OwnedFd>);

impl Listener {
    /// Listens on `port` of every local CID.
    pub fn bind(port: u32) -> Result<Self> {
        let action = || format!("listen on vsock port {port}");
        let fd = socket(AddressFamily::Vsock, SockType::Stream, FLAGS, None).context(action)?;
        bind(fd.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, port)).context(action)?;
        listen(&fd, Backlog::new(BACKLOG).context(action)?).context(action)?;
        Ok(Self(
            polled::register(fd, Interest::READABLE | Interest::WRITABLE).context(action)?,
        ))
    }

    /// Waits for the next connection from the host. Others are closed at once, and so are those for which something runs short: the guest
    /// goes on with the ones that it has.
    pub async fn accept(&self) -> io::Result<Stream> {
        loop {
            let mut guard = self.0.readable().await?;
            let accepted = guard.try_io(|listener| {
                let raw = accept4(listener.as_raw_fd(), FLAGS)?;
                // SAFETY: accept4 has just returned this descriptor, nobody else owns it.
                Ok(unsafe { OwnedFd::from_raw_fd(raw) })
            });
            let Ok(accepted) = accepted else { continue };
            match accepted {
                Ok(fd) if is_host(&fd) => match Stream::new(fd) {
                    Ok(stream) => return Ok(stream),
                    Err(error) => log::warn(&format!("Cannot serve a connection of the host: {error}")),
                },
                Ok(_) => {}
                Err(error) if is_transient(&error) => {}
                Err(error) if is_shortage(&error) => {
                    log::warn(&format!("Cannot accept a connection of the host: {error}"));
                    tokio::time::sleep(SHORTAGE_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether the peer of `fd` is the host.
fn is_host(fd: &OwnedFd) -> bool {
    getpeername::<VsockAddr>(fd.as_raw_fd()).is_ok_and(|peer| peer.cid() == HOST_CID)
}

/// Errors that belong to the connection that was being accepted, not to the listener.
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNABORTED | libc::EINTR | libc::ECONNRESET | libc::EPERM)
    )
}

/// What others may give back.
fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

/// A connected socket.
pub struct Stream(AsyncFd<OwnedFd>);

impl Stream {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(polled::register(fd, Interest::READABLE | Interest::WRITABLE)?))
    }

    /// Dials the host.
    pub async fn connect_host(port: u32) -> io::Result<Self> {
        let fd = socket(AddressFamily::Vsock, SockType::Stream, FLAGS, None)?;
        match connect(fd.as_raw_fd(), &VsockAddr::new(HOST_CID, port)) {
            Ok(()) => return Self::new(fd),
            Err(nix::Error::EINPROGRESS | nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let stream = Self::new(fd)?;
        drop(stream.0.ready(Interest::WRITABLE).await?);
        match getsockopt(stream.0.get_ref(), sockopt::SocketError)? {
            0 => Ok(stream),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }
}

impl Stream {
    /// Writes all of `data`, or fails once the peer does not receive any more.
    ///
    /// For streams on which the peer sends nothing: a closing peer wakes only readers while there is no room for more.
    pub async fn send(&self, mut data: &[u8]) -> io::Result<()> {
        let mut limit = send_limit();
        while !data.is_empty() {
            let piece = &data[..data.len().min(limit)];
            match write(&self.0, piece) {
                Ok(count) => {
                    data = &data[count..];
                    continue;
                }
                // No memory of this size in one piece.
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && limit > WRITE_LIMIT => {
                    limit = WRITE_LIMIT;
                    continue;
                }
                Err(_) => {}
            }
            let written = tokio::select! {
                biased;
                guard = self.0.writable() => guard?.try_io(|fd| write(fd, piece)).unwrap_or_else(|_| Err(WouldBlock.into())),
                closed = self.peer_ended() => {
                    closed?;
                    let written = write(&self.0, piece);
                    if written.as_ref().is_err_and(|error| error.kind() == WouldBlock) {
                        // It has only ended its own direction, which stays known: wait without spinning.
                        tokio::time::sleep(HALF_CLOSED_PAUSE).await;
                    }
                    written
                }
            };
            match written {
                Ok(count) => data = &data[count..],
                Err(error) if matches!(error.kind(), WouldBlock | Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until there is something to read, the end included.
    pub async fn readable(&self) -> io::Result<()> {
        drop(self.0.readable().await?);
        Ok(())
    }

    /// Reads what there is once there is something. After a read that has found less than it had room for, or nothing, that is: as
    /// much as [`Stream::set_low_water`] says.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut guard = self.0.readable().await?;
            let count = match read(&self.0, buffer) {
                Err(error) if error.kind() == Interrupted => continue,
                Err(error) if error.kind() == WouldBlock => None,
                other => Some(other?),
            };
            // Less than there was room for: whatever comes from here on is a new event.
            if count.is_none_or(|count| count < buffer.len()) {
                guard.clear_ready();
            }
            if let Some(count) = count {
                return Ok(count);
            }
        }
    }

    /// Reads what there is, without waiting.
    pub fn receive_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        read(&self.0, buffer)
    }

    /// How many bytes the host may send before somebody has read them.
    pub fn set_room(&self, bytes: u64) -> io::Result<()> {
        for option in [SO_VM_SOCKETS_BUFFER_MAX_SIZE, SO_VM_SOCKETS_BUFFER_SIZE] {
            set_option(&self.0, libc::AF_VSOCK, option, &bytes)?;
        }
        Ok(())
    }

    /// How many bytes have to be there for a new event, the end apart. Kernels before 6.1 refuse it.
    pub fn set_low_water(&self, bytes: libc::c_int) -> io::Result<()> {
        set_option(&self.0, libc::SOL_SOCKET, libc::SO_RCVLOWAT, &bytes)
    }

    /// Returns when the peer has ended its direction.
    async fn peer_ended(&self) -> io::Result<()> {
        read_closed(&self.0).await
    }

    /// Returns when the connection is over, however that came. For streams on which the peer sends nothing more. What a new CID of this
    /// guest breaks, the kernel tells only those who wait to write.
    pub async fn broken(&self) {
        loop {
            let Ok(mut guard) = self.0.ready(Interest::READABLE | Interest::WRITABLE).await else {
                return;
            };
            if let Ok(Ok(0) | Err(_)) = guard.try_io(|fd| read(fd, &mut [0; 64])) {
                return;
            }
        }
    }

    /// Tells of the peer's end also while nobody reads. With a registration of its own, so that the readers' stays as it is.
    pub fn end_watch(&self) -> io::Result<EndWatch> {
        let duplicate = self.0.get_ref().try_clone()?;
        Ok(EndWatch(polled::register(duplicate, Interest::READABLE)?))
    }
}

/// Waits for the end of the peer's direction, whatever is still to be read.
pub struct EndWatch(AsyncFd<OwnedFd>);

impl EndWatch {
    /// Returns when the peer has ended its direction, or the connection is broken.
    pub async fn ended(&self) {
        let _ = read_closed(&self.0).await;
    }
}

async fn read_closed(fd: &AsyncFd<OwnedFd>) -> io::Result<()> {
    loop {
        let mut guard = fd.readable().await?;
        if guard.ready().is_read_closed() {
            return Ok(());
        }
        guard.clear_ready();
    }
}

/// Largest write of a stream. A large one becomes packets of 64 KiB that the kernel hands to the device all at once, while each
/// small one costs two switches of the process and an exit of the virtual machine.
fn send_limit() -> usize {
    static LIMIT: LazyLock<usize> = LazyLock::new(|| {
        let release = nix::sys::utsname::uname().ok();
        let release = release.as_ref().and_then(|uname| uname.release().to_str());
        limit_of(release.unwrap_or_default())
    });
    *LIMIT
}

fn limit_of(release: &str) -> usize {
    let mut numbers = release.split(['.', '-']).map_while(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < FIRST_WITH_SOCKET_BUFFERS => usize::MAX,
        _ => WRITE_LIMIT,
    }
}

fn read(fd: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(nix::unistd::read(fd.get_ref(), buffer)?)
}

fn set_option<T: Copy>(fd: &AsyncFd<OwnedFd>, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<T>()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the pointer is to a value of this size, which the kernel only reads.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), size) };
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

fn write(fd: &AsyncFd<OwnedFd>, data: &[u8]) -> io::Result<usize> {
    Ok(nix::unistd::write(fd.get_ref(), data)?)
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let unfilled = buffer.initialize_unfilled();
            match guard.try_io(|fd| nix::unistd::read(fd.get_ref(), unfilled).map_err(io::Error::from)) {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        // SIGPIPE is ignored by the Rust runtime, so a broken connection shows as EPIPE.
        let data = &data[..data.len().min(WRITE_LIMIT)];
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            match guard.try_io(|fd| write(fd, data)) {
                Ok(Err(error)) if error.kind() == Interrupted => {}
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Nothing: half-closing has no meaning in our protocols, and backends differ in what they make of it.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_writes_are_for_kernels_without_socket_buffers_in_vsock() {
        assert_eq!(limit_of("6.1.0-57-cloud-amd64"), usize::MAX);
        assert_eq!(limit_of("5.10.1"), usize::MAX);
        for release in ["6.3.0", "6.12.95+deb13-amd64", "6.17", "7.0.0", "6", "", "next"] {
            assert_eq!(limit_of(release), WRITE_LIMIT);
        }
    }
}
