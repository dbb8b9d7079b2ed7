//! The allocator's habits: every sandbox pays for what the agent keeps.

/// Blocks from this size on go back to the kernel when freed.
const LARGE: libc::c_int = 64 * 1024;
/// Free memory kept at the heap's end.
const SLACK: libc::c_int = 64 * 1024;

/// Tells the allocator to give memory back early and to keep one arena.
pub fn stay_small() {
    for (option, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, LARGE),
        (libc::M_TRIM_THRESHOLD, SLACK),
        (libc::M_TOP_PAD, 0),
    ] {
        // SAFETY: mallopt takes two integers; no other thread exists yet. An option that it refuses keeps its default.
        unsafe { libc::mallopt(option, value) };
    }
}
