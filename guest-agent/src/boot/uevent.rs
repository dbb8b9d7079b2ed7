//! Waiting for devices: the kernel tells of each one on a netlink socket.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use tokio::io::Interest;

use crate::error::{Context, Error, Result};
use crate::polled;

/// Multicast group of the kernel's own events.
const KERNEL_GROUP: u32 = 1;

/// Listens from its creation on, so that a check made afterwards cannot miss an event.
pub struct Uevents(OwnedFd);

impl Uevents {
    /// Starts to listen.
    pub fn listen() -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            flags,
            SockProtocol::NetlinkKObjectUEvent,
        )
        .context(|| "open the device event socket".into())?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP)).context(|| "listen for device events".into())?;
        Ok(Self(fd))
    }

    /// Returns when `ready` holds; looks again after each device event, for `limit` at most. `what` names the wanted thing.
    pub fn wait_until(&self, what: &str, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !ready() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(late(what, limit));
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(_) | Err(Errno::EINTR) => drain(self.0.as_raw_fd()),
                Err(error) => return Err(error).context(|| "wait for device events".into()),
            }
        }
        Ok(())
    }
}

/// Returns when `ready` holds, as [`Uevents::wait_until`] does, without holding up the agent meanwhile: for devices that
/// come while it serves.
pub async fn appears(what: &str, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
    if ready() {
        return Ok(());
    }
    let action = || "wait for device events".to_owned();
    let Uevents(fd) = Uevents::listen()?;
    let events = polled::register(fd, Interest::READABLE).context(action)?;
    let wait = async {
        while !ready() {
            let mut guard = events.readable().await.context(action)?;
            drain(events.get_ref().as_raw_fd());
            guard.clear_ready();
        }
        Ok(())
    };
    tokio::time::timeout(limit, wait)
        .await
        .unwrap_or_else(|_elapsed| Err(late(what, limit)))
}

fn late(what: &str, limit: Duration) -> Error {
    Error::DeadlineExceeded(format!(
        "Cannot find {what}: it did not appear within {} s",
        limit.as_secs()
    ))
}

/// Only the fact of an event matters: the condition is looked at again, also after an overflow.
fn drain(fd: RawFd) {
    let mut buffer = [0u8; 4096];
    while matches!(
        recv(fd, &mut buffer, MsgFlags::empty()),
        Ok(1..) | Err(Errno::ENOBUFS | Errno::EINTR)
    ) {}
}
