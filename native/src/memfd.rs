//! Files in memory that have no name (memfd_create(2)).

use std::os::fd::{BorrowedFd, IntoRawFd as _, OwnedFd};

use napi_derive::napi;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::error::{Result, failed};

/// Makes one of `mib` MiB, all of it empty, that can be sealed. The descriptor is close-on-exec and the caller's. `name` shows in `/proc`.
#[napi]
#[allow(
    clippy::needless_pass_by_value,
    reason = "JavaScript strings arrive owned"
)]
pub fn make_memfd(name: String, mib: u32) -> Result<i32> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let fd: OwnedFd =
        memfd_create(name.as_str(), flags).map_err(|errno| failed("memfd_create", errno))?;
    nix::unistd::ftruncate(&fd, i64::from(mib) * 1024 * 1024)
        .map_err(|errno| failed("ftruncate", errno))?;
    Ok(fd.into_raw_fd())
}

/// Makes its content and size final for everybody who has it (F_SEAL_WRITE of fcntl(2)); private copies of it can still be mapped. EBUSY as
/// long as somebody has it mapped to write to.
#[napi]
pub fn seal_memfd(fd: i32) -> Result<()> {
    let seals = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SEAL;
    if fd < 0 {
        return Err(failed("fcntl F_ADD_SEALS", Errno::EBADF));
    }
    // SAFETY: the caller has the descriptor open; one that is not gives an error.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl(borrowed, FcntlArg::F_ADD_SEALS(seals))
        .map(drop)
        .map_err(|errno| failed("fcntl F_ADD_SEALS", errno))
}
