//! The end of the own process.

use napi_derive::napi;
use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};

use crate::error::{Result, failed};

/// Ends this process at once (exit_group(2)), without Node's own way to its end, which takes as long as that of the process again: nothing
/// that is still to be written is waited for.
#[napi]
pub fn exit_now(code: i32) {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

/// Ends this process by a signal, so that its parent sees that signal; without a core dump, which would be ours and
/// not that of the process we stand for. Returns only for a signal that does not end a process.
#[napi]
pub fn die_of(signal: i32) -> Result<()> {
    // Without it the core is dumped; everything else goes its way.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    // SAFETY: all zeroes is a signal set, sigemptyset makes it a defined one, and all pointers are valid.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        // SIGKILL and SIGSTOP have no action to set.
        libc::signal(signal, libc::SIG_DFL);
        if libc::raise(signal) != 0 {
            return Err(failed(format_args!("raise {signal}"), Errno::last()));
        }
    }
    Ok(())
}
