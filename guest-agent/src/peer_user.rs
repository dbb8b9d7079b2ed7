//! Connecting to unix sockets as somebody else than root.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// "nobody".
const NOBODY: libc::uid_t = 65534;
const UNCHANGED: libc::uid_t = libc::uid_t::MAX;

/// Does something short, without waiting, as a user who is nobody. It is the calling thread's user that changes.
pub fn as_nobody<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let result = set_ids(NOBODY).and_then(|()| work());
    // An agent that is no longer root cannot go on.
    if set_ids(0).is_err() {
        std::process::abort();
    }
    result
}

/// The effective ids; the others stay root's, so that there is a way back.
fn set_ids(id: libc::uid_t) -> io::Result<()> {
    let set = |call: libc::c_long| {
        // SAFETY: the call takes three numbers and changes the credentials of this thread only.
        let result = unsafe { libc::syscall(call, UNCHANGED, id, UNCHANGED) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    if id == 0 {
        set(libc::SYS_setresuid)?;
        set(libc::SYS_setresgid)
    } else {
        set(libc::SYS_setresgid)?;
        set(libc::SYS_setresuid)
    }
}

/// Connects to the stream socket at `path`, or fails when it cannot be done at once. The result is non-blocking.
pub fn connect_at_once(path: &str) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd.into())
}
