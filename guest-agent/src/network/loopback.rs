//! The loopback. By its two ioctls: the first use of rtnetlink takes 10 ms under software emulation, and most guests have no other link.

use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::error::{Context, Result};

nix::ioctl_read_bad!(get_flags, libc::SIOCGIFFLAGS, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_flags, libc::SIOCSIFFLAGS, libc::ifreq);

/// Brings the loopback up (netdevice(7)).
pub fn bring_up() -> Result<()> {
    let action = || "bring interface \"lo\" up".to_owned();
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).context(action)?;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *place = byte.cast_signed();
    }
    // SAFETY: the request has a name that ends with a NUL, and lives until the call returns, which sets its flags.
    unsafe { get_flags(socket.as_raw_fd(), &raw mut request) }.context(action)?;
    let up = libc::c_short::try_from(libc::IFF_UP).unwrap_or_default();
    // SAFETY: the flags were set by the call before.
    let flags = unsafe { request.ifr_ifru.ifru_flags } | up;
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: the request lives until the call returns, which only reads it.
    unsafe { set_flags(socket.as_raw_fd(), &raw const request) }
        .map(drop)
        .context(action)
}
