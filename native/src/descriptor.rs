//! Descriptors that another process hands over: taking them, and telling what they are.

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use napi_derive::napi;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    SockFlag, SockaddrIn, SockaddrIn6, SockaddrStorage, accept4, getpeername, getsockname,
    getsockopt, sockopt,
};
use nix::sys::stat::{SFlag, fstat};

use crate::error::{Result, failed};

/// What a descriptor leads to.
#[napi(object, object_from_js = false)]
pub struct DescriptorFacts {
    /// "socket", "fifo", "file", "directory", "character device", "block device" or "other".
    pub kind: String,
    /// Of a socket (socket(2)): its domain, its type and its protocol; 0 otherwise.
    pub domain: i32,
    /// "stream", "datagram", "seqpacket" or "other"; empty for what is no socket.
    pub socket_type: String,
    /// Of a socket.
    pub protocol: i32,
    /// A socket that connections can be accepted from.
    pub is_listening: bool,
    /// A socket with a peer.
    pub is_connected: bool,
    /// Its own port, of a TCP socket; else 0.
    pub port: u32,
    /// "r", "w" or "rw": how it was opened.
    pub access: String,
}

/// Tells what a descriptor leads to. `EBADF`: it is not open.
#[napi]
pub fn describe_fd(fd: i32) -> Result<DescriptorFacts> {
    // SAFETY: only borrowed for this call; one that is not open gives an error.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let status = fstat(fd).map_err(|errno| failed("fstat", errno))?;
    let kind = match SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFSOCK => "socket",
        SFlag::S_IFIFO => "fifo",
        SFlag::S_IFREG => "file",
        SFlag::S_IFDIR => "directory",
        SFlag::S_IFCHR => "character device",
        SFlag::S_IFBLK => "block device",
        _ => "other",
    };
    let mut described = DescriptorFacts {
        kind: kind.into(),
        domain: 0,
        socket_type: String::new(),
        protocol: 0,
        is_listening: false,
        is_connected: false,
        port: 0,
        access: access(fd)?.into(),
    };
    if kind == "socket" {
        described.domain = option(fd, libc::SO_DOMAIN)?;
        described.protocol = option(fd, libc::SO_PROTOCOL)?;
        described.socket_type = match option(fd, libc::SO_TYPE)? {
            libc::SOCK_STREAM => "stream",
            libc::SOCK_DGRAM => "datagram",
            libc::SOCK_SEQPACKET => "seqpacket",
            _ => "other",
        }
        .into();
        described.is_listening =
            getsockopt(&fd, sockopt::AcceptConn).map_err(|errno| failed("getsockopt", errno))?;
        described.is_connected = getpeername::<SockaddrStorage>(fd.as_raw_fd()).is_ok();
        described.port = own_port(fd);
    }
    Ok(described)
}

fn access(fd: BorrowedFd<'_>) -> Result<&'static str> {
    let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(|errno| failed("fcntl", errno))?;
    Ok(match OFlag::from_bits_retain(flags) & OFlag::O_ACCMODE {
        OFlag::O_RDONLY => "r",
        OFlag::O_WRONLY => "w",
        _ => "rw",
    })
}

fn own_port(fd: BorrowedFd<'_>) -> u32 {
    let name = getsockname::<SockaddrStorage>(fd.as_raw_fd()).ok();
    let port = name.and_then(|name| {
        let ipv4 = name.as_sockaddr_in().map(SockaddrIn::port);
        ipv4.or_else(|| name.as_sockaddr_in6().map(SockaddrIn6::port))
    });
    port.unwrap_or(0).into()
}

/// An integer option of the socket layer. nix has none for the domain and the protocol.
fn option(fd: BorrowedFd<'_>, name: i32) -> Result<i32> {
    let mut value: libc::c_int = 0;
    let mut length: libc::socklen_t = 4;
    // SAFETY: the descriptor is borrowed, and the value has the four bytes that `length` says; both live through the call.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(value)
    } else {
        Err(failed("getsockopt", Errno::last()))
    }
}

/// Duplicates a descriptor of another process (pidfd_getfd(2), Linux 5.6). The duplicate is close-on-exec and the caller's.
#[napi]
pub fn take_fd(pid: i32, fd: i32) -> Result<i32> {
    let cannot = |errno| failed(format_args!("take descriptor {fd} of process {pid}"), errno);
    // SAFETY: both calls take numbers only, and the descriptors that they return are nobody else's.
    unsafe {
        let process = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        let process = i32::try_from(Errno::result(process).map_err(cannot)?).unwrap_or(-1);
        let process = OwnedFd::from_raw_fd(process);
        let taken = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0);
        let taken = i32::try_from(Errno::result(taken).map_err(cannot)?).unwrap_or(-1);
        Ok(taken)
    }
}

/// Makes a descriptor non-blocking, for everybody who has it.
#[napi]
pub fn set_non_blocking(fd: i32) -> Result<()> {
    // SAFETY: only borrowed for this call; one that is not open gives an error.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let cannot = |errno| failed("fcntl", errno);
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).map_err(cannot)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))
        .map(drop)
        .map_err(cannot)
}

/// The next connection of a listening stream socket, non-blocking, close-on-exec and the caller's; null when none waits.
#[napi]
pub fn accept_stream(listener: i32) -> Result<Option<i32>> {
    loop {
        match accept4(listener, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC) {
            Ok(fd) => return Ok(Some(fd)),
            Err(Errno::EAGAIN) => return Ok(None),
            Err(Errno::EINTR | Errno::ECONNABORTED) => {}
            Err(errno) => return Err(failed("accept", errno)),
        }
    }
}
