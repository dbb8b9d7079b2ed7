//! Work in another network namespace.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;

use crate::error::{Result, failed};

/// Does `work` in the network namespace at `path`. setns(2) changes the calling thread for good, so a thread of its own, which
/// gets the name `thread`, is spent on it.
pub fn run_in<T: Send + 'static>(
    path: String,
    thread: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let worker = std::thread::Builder::new()
        .name(thread.into())
        .spawn(move || {
            enter(&path)?;
            work()
        });
    match worker.map(std::thread::JoinHandle::join) {
        Ok(Ok(result)) => result,
        Ok(Err(_panic)) => Err(failed(
            format_args!("thread {thread} panicked"),
            Errno::ECANCELED,
        )),
        Err(error) => Err(failed(
            "clone",
            Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN)),
        )),
    }
}

fn enter(path: &str) -> Result<()> {
    // Non-blocking, so that a path that is a FIFO cannot hold up the caller.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let netns = open(path, flags, Mode::empty())
        .map_err(|errno| failed(format_args!("open \"{path}\""), errno))?;
    setns(&netns, CloneFlags::CLONE_NEWNET)
        .map_err(|errno| failed(format_args!("setns \"{path}\""), errno))
}
