//! Unix sockets.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, IntoRawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use napi_derive::napi;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, UnixAddr, accept4, recvmsg, sendmsg,
    sendto,
};

use crate::error::{Result, failed};

/// Makes a listening stream socket at `path` (unix(7)) and returns its descriptor, which is close-on-exec and the
/// caller's: for a child that takes over a listening socket. Node's own servers accept connections themselves as
/// soon as they listen.
#[napi]
#[allow(
    clippy::needless_pass_by_value,
    reason = "JavaScript strings arrive owned"
)]
pub fn listen_unix(path: String) -> Result<i32> {
    UnixListener::bind(&path)
        .map(|listener| listener.into_raw_fd())
        .map_err(|error| {
            let errno = error.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw);
            failed(format_args!("listen on \"{path}\""), errno)
        })
}

/// Connects to the stream socket at `path`, sends `data` with a duplicate of `fd` (`SCM_RIGHTS`, unix(7)), and closes
/// the connection.
#[napi]
#[allow(
    clippy::needless_pass_by_value,
    reason = "JavaScript strings arrive owned"
)]
pub fn send_fd(path: String, fd: i32, data: String) -> Result<()> {
    connect_with_fd(&path, fd, &data).map(drop)
}

/// The same, and returns the connection, which is the caller's: for a peer that answers.
#[napi]
#[allow(
    clippy::needless_pass_by_value,
    reason = "JavaScript strings arrive owned"
)]
pub fn open_with_fd(path: String, fd: i32, data: String) -> Result<i32> {
    connect_with_fd(&path, fd, &data).map(IntoRawFd::into_raw_fd)
}

fn connect_with_fd(path: &str, fd: i32, data: &str) -> Result<UnixStream> {
    let stream = UnixStream::connect(path).map_err(|error| {
        let errno = error.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw);
        failed(format_args!("connect to \"{path}\""), errno)
    })?;
    send_rights(stream.as_raw_fd(), fd, data, MsgFlags::empty())
        .map_err(|errno| failed(format_args!("send a descriptor to \"{path}\""), errno))?;
    Ok(stream)
}

/// Sends `data` with a duplicate of `fd` over the connected stream socket `socket`, without waiting. Returns how many
/// bytes were sent: the descriptor went with the first, and `EAGAIN` says that there was room for none.
#[napi]
#[allow(
    clippy::needless_pass_by_value,
    reason = "JavaScript strings arrive owned"
)]
pub fn send_with_fd(socket: i32, fd: i32, data: String) -> Result<u32> {
    let sent = send_rights(socket, fd, &data, MsgFlags::MSG_DONTWAIT)
        .map_err(|errno| failed("send a descriptor", errno))?;
    Ok(u32::try_from(sent).unwrap_or(u32::MAX))
}

fn send_rights(socket: i32, fd: i32, data: &str, flags: MsgFlags) -> nix::Result<usize> {
    let parts = [IoSlice::new(data.as_bytes())];
    let fds = [fd];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<UnixAddr>(
        socket,
        &parts,
        &rights,
        flags | MsgFlags::MSG_NOSIGNAL,
        None,
    )
}

/// Sends a datagram to the socket at `path`; an abstract one (unix(7)) begins with `@`.
#[napi]
#[allow(
    clippy::needless_pass_by_value,
    reason = "JavaScript strings arrive owned"
)]
pub fn send_datagram(path: String, data: String) -> Result<()> {
    let cannot = |errno| failed(format_args!("send to \"{path}\""), errno);
    let address = match path.strip_prefix('@') {
        Some(name) => UnixAddr::new_abstract(name.as_bytes()),
        None => UnixAddr::new(path.as_str()),
    }
    .map_err(cannot)?;
    let socket = UnixDatagram::unbound()
        .map_err(|error| cannot(error.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw)))?;
    sendto(
        socket.as_raw_fd(),
        data.as_bytes(),
        &address,
        MsgFlags::MSG_NOSIGNAL,
    )
    .map_err(cannot)?;
    Ok(())
}

/// A descriptor that came over a unix socket.
#[napi(object, object_from_js = false)]
pub struct ReceivedFd {
    /// Close-on-exec, and the caller's.
    pub fd: i32,
    /// What came with it.
    pub data: String,
}

const MAX_DATA: usize = 4096;

/// Takes the next connection of a listening socket and the descriptor that is sent over it. Waits for both.
#[napi]
pub fn receive_fd(listener: i32) -> Result<ReceivedFd> {
    let connection =
        accept4(listener, SockFlag::SOCK_CLOEXEC).map_err(|errno| failed("accept", errno))?;
    // SAFETY: accept4 has just made the descriptor, and nobody else has it.
    let connection = unsafe { <UnixStream as std::os::fd::FromRawFd>::from_raw_fd(connection) };
    let mut data = [0; MAX_DATA];
    let mut control = nix::cmsg_space!(i32);
    let (length, fd) = {
        let mut parts = [IoSliceMut::new(&mut data)];
        let message = recvmsg::<UnixAddr>(
            connection.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )
        .map_err(|errno| failed("receive a descriptor", errno))?;
        let mut messages = message
            .cmsgs()
            .map_err(|errno| failed("receive a descriptor", errno))?;
        let fd = messages.find_map(|entry| match entry {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        });
        (message.bytes, fd)
    };
    let fd = fd.ok_or_else(|| failed("receive a descriptor: none came", Errno::EBADMSG))?;
    let data = String::from_utf8_lossy(data.get(..length).unwrap_or_default()).into_owned();
    Ok(ReceivedFd { fd, data })
}
