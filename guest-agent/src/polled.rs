//! Descriptors in the runtime's event loop.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor for these events.
pub fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the OwnedFd is the descriptor's only owner and moves in: the number stays valid and the same for as long
    // as the registration lives.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}
