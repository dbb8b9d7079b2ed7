//! From the kernel's hand-over to a guest that can serve.

mod initramfs;
mod modules;
pub mod phases;
mod stage1;
mod stage2;
mod uevent;

use std::path::Path;

pub use stage1::leave_initramfs;
pub use stage2::prepare;

/// Where the agent lies on the image; on the initramfs it is `/init`.
pub const AGENT: &str = "/sbin/caisson-agent";

/// Whether this is the initramfs: only there the agent is `/init`.
pub fn on_initramfs() -> bool {
    Path::new("/init").exists() && !Path::new(AGENT).exists()
}

/// Reads the switches of the kernel command line that concern the agent.
pub fn apply_command_line() {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if line.split_ascii_whitespace().any(|word| word == "caisson.log=debug") {
        crate::log::enable_debug();
    }
}
