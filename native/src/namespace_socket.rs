//! Sockets of another network namespace, which stay in it wherever they are used. All are non-blocking, close-on-exec, and the
//! caller's.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, IntoRawFd as _, OwnedFd};

use napi_derive::napi;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};

use crate::error::{Result, failed};
use crate::netns::run_in;

const FLAGS: SockFlag = SockFlag::SOCK_NONBLOCK.union(SockFlag::SOCK_CLOEXEC);

/// A UDP socket on a free port of 127.0.0.1, which nobody outside of the namespace can send to.
#[napi]
pub fn open_udp_in_namespace(netns_path: String) -> Result<i32> {
    let open = || {
        let fd = new_socket(SockType::Datagram)?;
        let address = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
        bind(fd.as_raw_fd(), &address).map_err(|errno| failed("bind a UDP socket", errno))?;
        Ok(fd.into_raw_fd())
    };
    run_in(netns_path, "open-udp", open)
}

/// Starts to connect to a TCP port. Wait for the descriptor to be writable, then ask `socketError`.
#[napi]
pub fn connect_in_namespace(netns_path: String, address: String, port: u16) -> Result<i32> {
    let what = format!("connect to {address}:{port}");
    let address: Ipv4Addr = address.parse().map_err(|_| failed(&what, Errno::EINVAL))?;
    let open = move || {
        let fd = new_socket(SockType::Stream)?;
        let address = SockaddrIn::from(SocketAddrV4::new(address, port));
        match connect(fd.as_raw_fd(), &address) {
            Ok(()) | Err(Errno::EINPROGRESS | Errno::EINTR) => Ok(fd.into_raw_fd()),
            Err(errno) => Err(failed(&what, errno)),
        }
    };
    run_in(netns_path, "connect", open)
}

fn new_socket(kind: SockType) -> Result<OwnedFd> {
    socket(AddressFamily::Inet, kind, FLAGS, None).map_err(|errno| failed("socket", errno))
}
