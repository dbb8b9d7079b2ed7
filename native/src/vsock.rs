//! AF_VSOCK sockets (vsock(7)) and the kernel's vhost-vsock. All sockets are non-blocking, close-on-exec, and the caller's.

use std::os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _, OwnedFd};

use napi_derive::napi;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, connect, getpeername,
    getsockname, getsockopt, listen, socket, socketpair, sockopt,
};
use nix::sys::stat::Mode;

use crate::error::{Result, failed};

const FLAGS: SockFlag = SockFlag::SOCK_NONBLOCK.union(SockFlag::SOCK_CLOEXEC);
const VHOST_VSOCK: &str = "/dev/vhost-vsock";

nix::ioctl_write_ptr!(
    /// VHOST_VSOCK_SET_GUEST_CID of <linux/vhost.h>.
    set_guest_cid,
    0xaf,
    0x60,
    u64
);

/// One end of a connection.
#[napi(object)]
pub struct VsockAddress {
    /// Context id: 2 is the host, 1 this machine itself.
    pub cid: u32,
    /// Port.
    pub port: u32,
}

/// A connection that was accepted.
#[napi(object, object_from_js = false)]
pub struct AcceptedVsock {
    /// Its descriptor.
    pub fd: i32,
    /// Who connected.
    pub peer: VsockAddress,
}

/// Starts to connect. Wait for the descriptor to be writable, then ask `socketError`.
#[napi]
pub fn connect_vsock(cid: u32, port: u32) -> Result<i32> {
    let fd = new_socket()?;
    match connect(fd.as_raw_fd(), &VsockAddr::new(cid, port)) {
        Ok(()) | Err(Errno::EINPROGRESS | Errno::EINTR) => Ok(fd.into_raw_fd()),
        Err(errno) => Err(failed(format_args!("connect vsock {cid}:{port}"), errno)),
    }
}

/// Fails with the error that a socket has kept (SO_ERROR of socket(7)).
#[napi]
pub fn socket_error(fd: i32) -> Result<()> {
    // SAFETY: the caller has the descriptor open; one that is not gives an error.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    match getsockopt(&borrowed, sockopt::SocketError) {
        Ok(0) => Ok(()),
        Ok(code) => Err(failed("connect", Errno::from_raw(code))),
        Err(errno) => Err(failed("getsockopt SO_ERROR", errno)),
    }
}

/// Listens. A `cid` of 4294967295 is every one of this machine, such a port a free one.
#[napi]
pub fn listen_vsock(cid: u32, port: u32, backlog: i32) -> Result<i32> {
    let what = || format!("listen on vsock {cid}:{port}");
    let fd = new_socket()?;
    bind(fd.as_raw_fd(), &VsockAddr::new(cid, port)).map_err(|errno| failed(what(), errno))?;
    let backlog = Backlog::new(backlog).map_err(|errno| failed(what(), errno))?;
    listen(&fd, backlog).map_err(|errno| failed(what(), errno))?;
    Ok(fd.into_raw_fd())
}

/// The next connection of a listening socket, or null when none waits.
#[napi]
pub fn accept_vsock(listener: i32) -> Result<Option<AcceptedVsock>> {
    loop {
        let fd = match accept4(listener, FLAGS) {
            // SAFETY: accept4 has just made the descriptor, and nobody else has it.
            Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
            Err(Errno::EAGAIN) => return Ok(None),
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(failed("accept", errno)),
        };
        // One whose peer has gone already has no name.
        if let Ok(peer) = getpeername::<VsockAddr>(fd.as_raw_fd()) {
            return Ok(Some(AcceptedVsock {
                fd: fd.into_raw_fd(),
                peer: address(peer),
            }));
        }
    }
}

/// The own end of a socket.
#[napi]
pub fn vsock_name(fd: i32) -> Result<VsockAddress> {
    getsockname::<VsockAddr>(fd)
        .map(address)
        .map_err(|errno| failed("getsockname", errno))
}

/// A unix socket without a peer, in whose place `replaceFd` puts another socket.
#[napi]
pub fn open_unconnected() -> Result<i32> {
    let (kept, _closed) = socketpair(AddressFamily::Unix, SockType::Stream, None, FLAGS)
        .map_err(|errno| failed("socketpair", errno))?;
    Ok(kept.into_raw_fd())
}

/// Puts `source` in the place of `target` (dup3(2)) and closes `source`'s own number.
#[napi]
pub fn replace_fd(target: i32, source: i32) -> Result<()> {
    // SAFETY: touches no memory; the caller owns both descriptors, and `source` is closed once.
    unsafe {
        if libc::dup3(source, target, libc::O_CLOEXEC) < 0 {
            return Err(failed("dup3", Errno::last()));
        }
        libc::close(source);
    }
    Ok(())
}

/// Opens the kernel's vhost-vsock and takes `cid` for its guest, for as long as the descriptor, or one inherited from
/// it, is open. `EADDRINUSE`: another guest has it.
#[napi]
pub fn open_vhost_vsock(cid: u32) -> Result<i32> {
    let device = open(VHOST_VSOCK, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| failed(format_args!("open \"{VHOST_VSOCK}\""), errno))?;
    let wanted = u64::from(cid);
    // SAFETY: the descriptor is open and `wanted` lives through the call.
    unsafe { set_guest_cid(device.as_raw_fd(), &raw const wanted) }
        .map_err(|errno| failed(format_args!("take the vsock CID {cid}"), errno))?;
    Ok(device.into_raw_fd())
}

fn new_socket() -> Result<OwnedFd> {
    socket(AddressFamily::Vsock, SockType::Stream, FLAGS, None)
        .map_err(|errno| failed("socket AF_VSOCK", errno))
}

fn address(address: VsockAddr) -> VsockAddress {
    VsockAddress {
        cid: address.cid(),
        port: address.port(),
    }
}
