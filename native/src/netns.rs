//! Work in another network namespace.

use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
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
