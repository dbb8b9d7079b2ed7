//! Stage 2: on the image. Mounts what the guest needs and sets the agent's own limits.

use std::fs;
use std::os::unix::fs::symlink;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, setrlimit};

use super::phases;
use crate::error::{Context, Result};
use crate::{cgroup, child, log};

const NOSUID: MsFlags = MsFlags::MS_NOSUID;
const NODEV: MsFlags = MsFlags::MS_NODEV;
const NOEXEC: MsFlags = MsFlags::MS_NOEXEC;

/// Kind, target, flags and options, in mount order.
const MOUNTS: [(&str, &str, MsFlags, &str); 8] = [
    ("proc", "/proc", NOSUID.union(NODEV).union(NOEXEC), ""),
    ("sysfs", "/sys", NOSUID.union(NODEV).union(NOEXEC), ""),
    ("devtmpfs", "/dev", NOSUID, "mode=0755"),
    (
        "devpts",
        "/dev/pts",
        NOSUID.union(NOEXEC),
        "gid=5,mode=0620,ptmxmode=0666",
    ),
    ("tmpfs", "/dev/shm", NOSUID.union(NODEV), "mode=1777"),
    ("tmpfs", "/run", NOSUID.union(NODEV), "mode=0755"),
    ("tmpfs", "/tmp", NOSUID.union(NODEV), "mode=1777"),
    ("cgroup2", cgroup::ROOT, NOSUID.union(NODEV).union(NOEXEC), ""),
];

/// Late reuse of process ids: a status that is looked for by id is then never somebody else's.
const PID_LIMIT: (&str, &str) = ("/proc/sys/kernel/pid_max", "4194304");

/// Brings the guest to where the runtime can serve; the network is left to [`crate::network`].
pub fn prepare() -> Result<()> {
    for (kind, target, flags, options) in MOUNTS {
        // devtmpfs and sysfs have some of these directories only after their own mount.
        if !fs::exists(target).unwrap_or(false) {
            fs::create_dir_all(target).context(|| format!("create {target}"))?;
        }
        match mount(Some(kind), target, Some(kind), flags, Some(options)) {
            // Stage 1 or the kernel has mounted it.
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => return Err(error).context(|| format!("mount {kind} on {target}")),
        }
    }
    super::apply_command_line();
    phases::import();
    phases::mark("agent");
    if let Err(error) = fs::write(PID_LIMIT.0, PID_LIMIT.1) {
        // A kernel built for small machines has a lower limit of its own.
        log::debug(|| format!("Cannot set {}: {error}", PID_LIMIT.0));
    }
    link_standard_streams();
    limit_self()?;
    cgroup::enable_controllers()
}

/// What udev would make; crun and `/proc/self/fd` users look there.
fn link_standard_streams() {
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        // There already when the kernel or stage 1 made it.
        let _ = symlink(target, link);
    }
}

/// The agent is the last to be killed for memory, and may hold a descriptor per stream of every process.
fn limit_self() -> Result<()> {
    fs::write("/proc/self/oom_score_adj", "-1000").context(|| "protect the agent from the OOM killer".into())?;
    setrlimit(Resource::RLIMIT_NOFILE, child::AGENT_FILES, child::HARD_FILES)
        .context(|| "raise the agent's file limit".into())
}
