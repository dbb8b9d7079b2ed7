//! Tap devices.

use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};

use napi_derive::napi;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::error::{Result, failed};
use crate::netns::run_in;

const TUN_DEVICE: &str = "/dev/net/tun";

nix::ioctl_write_ptr_bad!(
    /// TUNSETIFF of <linux/if_tun.h>: binds the file to the tap of that name and makes the tap when there is none.
    tun_set_interface,
    nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
    libc::ifreq
);

nix::ioctl_write_int_bad!(
    /// TUNSETPERSIST of <linux/if_tun.h>: whether the tap stays when nobody has it open.
    tun_set_persistent,
    nix::request_code_write!(b'T', 203, size_of::<libc::c_int>())
);

/// Which tap to open.
#[napi(object, object_to_js = false)]
pub struct TapOptions {
    /// Network namespace (a path) that the tap is in.
    pub netns_path: String,
    /// Name of the tap, at most 15 bytes.
    pub name: String,
    /// It stays until it is removed, or its namespace goes.
    pub stays: bool,
}

/// Opens a single-queue tap without packet information and with virtio-net headers, and makes it when there is none. Unless it
/// stays, it goes away with the last file descriptor of it, whose close takes the kernel 16 ms then. The descriptor is non-blocking,
/// is not inherited by children, and belongs to the caller.
#[napi]
pub fn open_tap(options: TapOptions) -> Result<i32> {
    let TapOptions {
        netns_path,
        name,
        stays,
    } = options;
    run_in(netns_path, "open-tap", move || open_here(&name, stays)).map(IntoRawFd::into_raw_fd)
}

fn open_here(name: &str, stays: bool) -> Result<OwnedFd> {
    let request = interface_request(name)?;
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let tap = open(TUN_DEVICE, flags, Mode::empty())
        .map_err(|errno| failed(format_args!("open \"{TUN_DEVICE}\""), errno))?;
    // SAFETY: the descriptor is open and `request` is a complete ifreq that lives through the call.
    unsafe { tun_set_interface(tap.as_raw_fd(), &raw const request) }
        .map_err(|errno| failed(format_args!("ioctl TUNSETIFF \"{name}\""), errno))?;
    // SAFETY: the descriptor is open, and the argument is a number.
    unsafe { tun_set_persistent(tap.as_raw_fd(), i32::from(stays)) }
        .map_err(|errno| failed(format_args!("ioctl TUNSETPERSIST \"{name}\""), errno))?;
    Ok(tap)
}

fn interface_request(name: &str) -> Result<libc::ifreq> {
    // SAFETY: an ifreq is integers, addresses and pointers only, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: the kernel reads a C string.
    let room = request.ifr_name.len() - 1;
    if name.is_empty() || name.len() > room || name.bytes().any(|byte| byte == 0) {
        return Err(failed(
            format_args!("interface name \"{name}\""),
            Errno::EINVAL,
        ));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(flags).map_err(|_| failed("interface flags", Errno::ERANGE))?;
    Ok(request)
}
