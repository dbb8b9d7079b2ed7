//! Landlock (landlock(7)).

use napi_derive::napi;

/// The version of Landlock's interface that this kernel has; 0 when it has none or it is switched off.
#[napi]
pub fn landlock_version() -> u32 {
    const CREATE_RULESET_VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the kernel takes no pointer and makes nothing: it answers a number.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).unwrap_or(0)
}
