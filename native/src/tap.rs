//! Tap devices.

use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};

use napi_derive::napi;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;

use crate::error::{Result, failed};

const TUN_DEVICE: &str = "/dev/net/tun";

nix::ioctl_write_ptr_bad!(
    /// TUNSETIFF of <linux/if_tun.h>: binds the file to the tap of that name and makes the tap when there is none.
    tun_set_interface,
    nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
    libc::ifreq
);

/// Which tap to open.
#[napi(object, object_to_js = false)]
pub struct TapOptions {
    /// Network namespace (a path) that the tap is in.
    pub netns_path: String,
    /// Name of the tap, at most 15 bytes.
    pub name: String,
}

/// Opens a single-queue tap without packet information and with virtio-net headers, and makes it when there is none; such a
/// tap goes away with the last file descriptor of it. The descriptor is non-blocking, is not inherited by
/// children, and belongs to the caller.
#[napi]
pub fn open_tap(options: TapOptions) -> Result<i32> {
    // setns(2) changes the calling thread for good, so a thread of its own is spent on it.
    let opener = std::thread::Builder::new()
        .name("open-tap".into())
        .spawn(move || open_in_netns(&options));
    let outcome = opener.map(std::thread::JoinHandle::join);
    match outcome {
        Ok(Ok(result)) => result.map(IntoRawFd::into_raw_fd),
        Ok(Err(_panic)) => Err(failed("thread that opens a tap panicked", Errno::ECANCELED)),
        Err(error) => Err(failed(
            "clone",
            Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN)),
        )),
    }
}

fn open_in_netns(options: &TapOptions) -> Result<OwnedFd> {
    let TapOptions { netns_path, name } = options;
    let request = interface_request(name)?;
    // Non-blocking, so that a path that is a FIFO cannot hold up the caller.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let netns = open(netns_path.as_str(), flags, Mode::empty())
        .map_err(|errno| failed(format_args!("open \"{netns_path}\""), errno))?;
    setns(&netns, CloneFlags::CLONE_NEWNET)
        .map_err(|errno| failed(format_args!("setns \"{netns_path}\""), errno))?;
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let tap = open(TUN_DEVICE, flags, Mode::empty())
        .map_err(|errno| failed(format_args!("open \"{TUN_DEVICE}\""), errno))?;
    // SAFETY: the descriptor is open and `request` is a complete ifreq that lives through the call.
    unsafe { tun_set_interface(tap.as_raw_fd(), &raw const request) }
        .map_err(|errno| failed(format_args!("ioctl TUNSETIFF \"{name}\""), errno))?;
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
