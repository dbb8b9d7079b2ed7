//! What a child of the agent must not inherit from it.

use std::io;

/// Descriptors that the agent itself may have open.
pub const AGENT_FILES: u64 = 16_384;
/// Hard limit of descriptors, for everything in the guest.
pub const HARD_FILES: u64 = 524_288;
/// Soft limit that a container's process starts with when its configuration names none.
const CHILD_FILES: u64 = 1024;

/// Runs in the child between fork and exec: resets the OOM score, the file limit and the signal mask.
/// Makes only system calls, as nothing else is allowed there.
pub fn prepare() -> io::Result<()> {
    reset_oom_score()?;
    let limit = libc::rlimit {
        rlim_cur: CHILD_FILES,
        rlim_max: HARD_FILES,
    };
    // SAFETY: setrlimit reads one rlimit, which lives until the call returns.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    let mut empty = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that sigprocmask then reads; no old mask is asked for.
    check(unsafe {
        libc::sigemptyset(empty.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, empty.as_ptr(), std::ptr::null_mut())
    })
}

/// Lets the program that is about to be executed have a descriptor of ours.
pub fn keep_open(fd: libc::c_int) -> io::Result<()> {
    // SAFETY: fcntl changes the flag of one descriptor.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) })
}

/// Gives the program that is about to be executed these descriptors as 3, 4 and so on. Each of them is beyond those numbers.
pub fn put_from_three(sources: &[libc::c_int]) -> io::Result<()> {
    for (target, source) in (3..).zip(sources) {
        // SAFETY: dup2 puts an open descriptor in the place of one that the program would not have got.
        check(unsafe { libc::dup2(*source, target) })?;
    }
    Ok(())
}

/// The agent's score of -1000 would make the whole container unkillable.
fn reset_oom_score() -> io::Result<()> {
    // SAFETY: the path is NUL-terminated, the buffer has the given length, the descriptor is closed once.
    unsafe {
        let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(fd)?;
        let written = libc::write(fd, c"0".as_ptr().cast(), 1);
        libc::close(fd);
        if written == 1 {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
