//! Unix sockets.

use std::os::fd::IntoRawFd as _;
use std::os::unix::net::UnixListener;

use napi_derive::napi;
use nix::errno::Errno;

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
