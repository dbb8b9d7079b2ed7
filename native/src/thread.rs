//! Work on a thread of its own, because what it changes (a namespace) a thread cannot take back.

use nix::errno::Errno;

/// Does `work` on a new thread of that name, and waits for it. The error is one of making the thread.
pub fn spend_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> nix::Result<T> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN)))?
        .join()
        .map_err(|_panic| Errno::ECANCELED)
}
