//! File descriptors of this process.

use napi_derive::napi;
use nix::errno::Errno;

use crate::error::{Result, failed};

/// Marks every descriptor from `first` on close-on-exec (close_range(2)): what a caller left open in us does not
/// reach our children.
#[napi]
pub fn close_on_exec_from(first: u32) -> Result<()> {
    let flags = libc::c_int::try_from(libc::CLOSE_RANGE_CLOEXEC).unwrap_or(0);
    // SAFETY: sets a flag on descriptors and touches no memory; descriptors that are not open are skipped.
    let result = unsafe { libc::close_range(first, libc::c_uint::MAX, flags) };
    if result == 0 {
        Ok(())
    } else {
        Err(failed("close_range", Errno::last()))
    }
}
