//! From the kernel's hand-over to a guest that can serve.

mod initramfs;
mod modules;
pub mod phases;
mod stage1;
mod stage2;
pub mod uevent;

use std::path::Path;

pub use stage1::leave_initramfs;
pub use stage2::prepare;

/// Where the agent lies on the image; on the initramfs it is `/init`.
pub const AGENT: &str = "/sbin/caisson-agent";

/// Whether this is the initramfs: only there the agent is `/init`.
pub fn on_initramfs() -> bool {
    Path::new("/init").exists() && !Path::new(AGENT).exists()
}

/// The port on the host that waits for the ready line: `caisson.ready_port=N` of the kernel command line, else
/// `fallback`. With the kernel's vsock the ports of the host are shared by all its guests.
pub fn ready_port(fallback: u32) -> u32 {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    parse_ready_port(&line).unwrap_or(fallback)
}

fn parse_ready_port(line: &str) -> Option<u32> {
    line.split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("caisson.ready_port="))
        .and_then(|port| port.parse().ok())
}

/// Reads the switches of the kernel command line that concern the agent.
pub fn apply_command_line() {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if line.split_ascii_whitespace().any(|word| word == "caisson.log=debug") {
        crate::log::enable_debug();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_ready_port_takes_a_number_only() {
        assert_eq!(parse_ready_port("quiet caisson.ready_port=1029 ro"), Some(1029));
        assert_eq!(parse_ready_port("caisson.ready_port=x"), None);
        assert_eq!(parse_ready_port("quiet"), None);
    }
}
