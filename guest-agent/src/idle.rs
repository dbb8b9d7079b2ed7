//! The program that keeps a container without a program of its own alive: it reaps its orphans.
//!
//! The only signal that ends it is a SIGKILL from outside of the container: as PID 1 it ignores the others, and so nothing in the
//! container can end the container.

use std::process::ExitCode;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// Name under which the agent's file is this program; the host binds it into the container.
pub const NAME: &str = "caisson-idle";

/// Returns only when it cannot do its work.
pub fn run() -> ExitCode {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    if children.thread_block().is_err() {
        return ExitCode::from(70);
    }
    while children.wait().is_ok() {
        reap();
    }
    ExitCode::from(70)
}

/// Collects every orphan that has ended.
fn reap() {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return,
            // EINVAL: it was ended by a real-time signal, which nix has no name for; it is reaped.
            Ok(_) | Err(Errno::EINTR | Errno::EINVAL) => {}
            Err(_) => return,
        }
    }
}
