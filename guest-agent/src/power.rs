//! The end of the machine, wanted or not.

use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::reboot::{RebootMode, reboot};

use crate::{cgroup, log};

/// Time that syncing and unmounting may take before the machine ends without them: a share whose server is gone blocks for ever.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// Ends the machine at once.
///
/// It restarts instead of powering off: without ACPI there is no power-off, while with `reboot=t` on the kernel
/// command line a restart is a triple fault, at which `qemu -no-reboot` exits.
pub fn off() -> ! {
    // It returns only to refuse, which it does outside a machine of our own: then there is nothing to end but this process.
    let Err(_) = reboot(RebootMode::RB_AUTOBOOT);
    std::process::exit(70);
}

/// Prints `text` on the console and ends the machine.
pub fn fatal(text: &str) -> ! {
    log::fatal(text);
    off()
}

/// Makes a panic end the machine with its message on the console.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| fatal(&info.to_string())));
}

/// Kills every container, writes everything back and unmounts the shares, for the host to end the machine then. When that takes too
/// long, or the host does not, the machine ends by itself.
pub fn flush() {
    // The guard thread exists only here, at the very end.
    let guard = thread::Builder::new().stack_size(64 * 1024).spawn(|| {
        thread::sleep(FLUSH_LIMIT);
        off()
    });
    if guard.is_err() {
        off();
    }
    if let Err(error) = cgroup::kill_all() {
        log::warn(&error.to_string());
    }
    nix::unistd::sync();
    for target in mounts_below("/run/caisson").into_iter().rev() {
        let _ = umount2(target.as_str(), MntFlags::MNT_DETACH);
    }
    nix::unistd::sync();
}

/// Mount points below `root`, in the order in which they were mounted.
fn mounts_below(root: &str) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|target| target.starts_with(root))
        .map(String::from)
        .collect()
}
