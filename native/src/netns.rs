//! Network namespaces: making them, and work in one.

use std::os::fd::AsRawFd as _;

use napi_derive::napi;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;

use crate::error::{Result, failed};
use crate::thread::spend_thread;

/// Does `work` in the network namespace at `path`. A thread of its own, which gets the name `thread`, is
/// spent on it.
pub fn run_in<T: Send + 'static>(
    path: String,
    thread: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    spend_thread(thread, move || {
        enter(&path)?;
        work()
    })
    .unwrap_or_else(|errno| Err(failed(format_args!("thread {thread}"), errno)))
}

fn enter(path: &str) -> Result<()> {
    // Non-blocking, so that a path that is a FIFO cannot hold up the caller.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let netns = open(path, flags, Mode::empty())
        .map_err(|errno| failed(format_args!("open \"{path}\""), errno))?;
    setns(&netns, CloneFlags::CLONE_NEWNET)
        .map_err(|errno| failed(format_args!("setns \"{path}\""), errno))
}

nix::ioctl_read_bad!(get_flags, libc::SIOCGIFFLAGS, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_flags, libc::SIOCSIFFLAGS, libc::ifreq);

/// Makes a network namespace, its loopback up, which lives as long as the mount of it that is made on the file at `path`.
#[napi]
pub fn make_netns(path: String) -> Result<()> {
    let thread = "make-netns";
    spend_thread(thread, move || {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|errno| failed("unshare the network namespace", errno))?;
        bring_loopback_up()?;
        let source = Some("/proc/thread-self/ns/net");
        mount(
            source,
            path.as_str(),
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .map_err(|errno| {
            failed(
                format_args!("mount a network namespace on \"{path}\""),
                errno,
            )
        })
    })
    .unwrap_or_else(|errno| Err(failed(format_args!("thread {thread}"), errno)))
}

fn bring_loopback_up() -> Result<()> {
    let broken = |errno| failed("bring interface \"lo\" up", errno);
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(broken)?;
    // SAFETY: an ifreq is integers, addresses and pointers only, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: the request has a name that ends with a NUL, and lives until the call returns, which sets its flags.
    unsafe { get_flags(socket.as_raw_fd(), &raw mut request) }.map_err(broken)?;
    // SAFETY: the flags were set by the call before.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::c_short::try_from(libc::IFF_UP).unwrap_or_default();
    // SAFETY: the request lives until the call returns, which only reads it.
    unsafe { set_flags(socket.as_raw_fd(), &raw const request) }.map_err(broken)?;
    Ok(())
}
