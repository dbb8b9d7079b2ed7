//! The container's cgroup (version 2), straight through its files.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Context, Error, Result};
use crate::{log, polled};

/// Where the hierarchy is mounted.
pub const ROOT: &str = "/sys/fs/cgroup";
/// The directory of all containers, below [`ROOT`].
const PARENT: &str = "caisson";
const CONTROLLERS: [&str; 6] = ["cpu", "memory", "pids", "io", "cpuset", "hugetlb"];
/// Without these resources are not limited as asked for.
const REQUIRED: [&str; 4] = ["cpu", "memory", "pids", "io"];
/// Ids that one listing returns at most.
const PROCESS_LIMIT: usize = 16_384;
/// Nesting that a workload may build for itself and still be listed.
const DEPTH_LIMIT: usize = 16;
/// More than any file of a cgroup that we read holds; `cgroup.procs` is read to [`PROCESS_LIMIT`] lines.
const FILE_LIMIT: u64 = 256 * 1024;
/// Freezing waits for every task to leave the kernel.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);

/// Lets the containers' cgroups have their controllers.
pub fn enable_controllers() -> Result<()> {
    let available =
        fs::read_to_string(format!("{ROOT}/cgroup.controllers")).context(|| "read the cgroup controllers".into())?;
    let parent = Path::new(ROOT).join(PARENT);
    fs::create_dir_all(&parent).context(|| format!("create cgroup {}", parent.display()))?;
    for controller in CONTROLLERS {
        if available.split_ascii_whitespace().any(|name| name == controller) {
            for directory in [Path::new(ROOT), &parent] {
                fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"))
                    .context(|| format!("enable cgroup controller {controller}"))?;
            }
        } else if REQUIRED.contains(&controller) {
            log::warn(&format!(
                "Cannot limit by cgroup controller {controller}: the kernel lacks it"
            ));
        }
    }
    Ok(())
}

/// Kills every process of every container.
pub fn kill_all() -> Result<()> {
    Cgroup(Path::new(ROOT).join(PARENT)).kill()
}

/// One container's cgroup.
#[derive(Clone, Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// The cgroup of the container `id`. `id` has been checked to be a plain name.
    pub fn of(id: &str) -> Self {
        Self(Path::new(ROOT).join(PARENT).join(id))
    }

    /// Its path for the OCI configuration, from the hierarchy's root.
    pub fn oci_path(id: &str) -> String {
        format!("/{PARENT}/{id}")
    }

    /// Reads one of its files. A cgroup that is gone is [`Error::NotFound`].
    pub fn read(&self, file: &str) -> Result<String> {
        let path = self.0.join(file);
        read_bounded(&path).map_err(|cause| match cause.kind() {
            ErrorKind::NotFound => Error::NotFound(format!("Cannot read {}: there is no such file", path.display())),
            _ => Error::Io {
                action: format!("read {}", path.display()),
                cause,
            },
        })
    }

    /// Kills every process in it and below. Nothing to do when it is gone.
    pub fn kill(&self) -> Result<()> {
        match fs::write(self.0.join("cgroup.kill"), "1") {
            Err(error) if !is_gone(&error) => {
                Err(error).context(|| format!("kill the processes of {}", self.0.display()))
            }
            _ => Ok(()),
        }
    }

    /// Process ids in it and below, bounded.
    pub fn processes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        collect_processes(&self.0, DEPTH_LIMIT, &mut found);
        found
    }

    /// Freezes or thaws, and waits until it is done.
    pub async fn set_frozen(&self, frozen: bool) -> Result<()> {
        let wanted = if frozen { "1" } else { "0" };
        let events = Watch::open(&self.0.join("cgroup.events"))?;
        fs::write(self.0.join("cgroup.freeze"), wanted).context(|| format!("freeze or thaw {}", self.0.display()))?;
        let reached = async {
            while field(&events.read()?, "frozen") != Some(u64::from(frozen)) {
                events.changed().await?;
            }
            Ok(())
        };
        let Ok(result) = tokio::time::timeout(FREEZE_LIMIT, reached).await else {
            if frozen {
                // Half frozen is worse than running.
                let _ = fs::write(self.0.join("cgroup.freeze"), "0");
            }
            return Err(Error::DeadlineExceeded(format!(
                "Cannot freeze or thaw {} within {} s",
                self.0.display(),
                FREEZE_LIMIT.as_secs()
            )));
        };
        result
    }

    /// How often the OOM killer has killed in it.
    pub fn oom_kills(&self) -> u64 {
        self.read("memory.events")
            .ok()
            .and_then(|text| field(&text, "oom_kill"))
            .unwrap_or(0)
    }

    /// Tells of changes of `memory.events`.
    pub fn watch_memory_events(&self) -> Result<Watch> {
        Watch::open(&self.0.join("memory.events"))
    }

    /// Removes what is left of it, children first. Fails while processes are in it.
    pub fn remove(&self) -> Result<()> {
        match remove_tree(&self.0, DEPTH_LIMIT) {
            Err(error) if !is_gone(&error) => Err(error).context(|| format!("remove cgroup {}", self.0.display())),
            _ => Ok(()),
        }
    }
}

/// A cgroup file that signals its changes as exceptional conditions.
pub struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    fn open(path: &Path) -> Result<Self> {
        let action = || format!("watch {}", path.display());
        let file = fs::File::open(path).context(action)?;
        Ok(Self(polled::register(file.into(), Interest::PRIORITY).context(action)?))
    }

    /// Its text now. Reading also arms the next notice.
    pub fn read(&self) -> Result<String> {
        let mut buffer = [0u8; 1024];
        let count =
            nix::sys::uio::pread(self.0.get_ref(), &mut buffer, 0).context(|| "read a cgroup event file".into())?;
        Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
    }

    /// Waits for the next change. Read first, then wait, then read again.
    pub async fn changed(&self) -> Result<()> {
        let mut guard = self
            .0
            .ready(Interest::PRIORITY)
            .await
            .context(|| "wait for a cgroup event".into())?;
        guard.clear_ready();
        Ok(())
    }
}

/// The number behind `name` in a file of `name number` lines.
pub fn field(text: &str, name: &str) -> Option<u64> {
    fields(text).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// All `name number` lines of a file.
pub fn fields(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, value)| Some((name, value.trim().parse().ok()?)))
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(FILE_LIMIT).read_to_string(&mut text)?;
    Ok(text)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

fn collect_processes(directory: &Path, depth: usize, found: &mut Vec<i32>) {
    let text = read_bounded(&directory.join("cgroup.procs")).unwrap_or_default();
    found.extend(
        text.lines()
            .filter_map(|line| line.parse::<i32>().ok())
            .filter(|pid| *pid > 1)
            .take(PROCESS_LIMIT - found.len()),
    );
    for child in subdirectories(directory) {
        if depth > 0 && found.len() < PROCESS_LIMIT {
            collect_processes(&child, depth - 1, found);
        }
    }
}

fn remove_tree(directory: &Path, depth: usize) -> io::Result<()> {
    for child in subdirectories(directory) {
        if depth > 0 {
            remove_tree(&child, depth - 1)?;
        }
    }
    fs::remove_dir(directory)
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_finds_whole_names_only() {
        let text = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(field(text, "oom_kill"), Some(2));
        assert_eq!(field(text, "oom"), Some(3));
        assert_eq!(field(text, "kill"), None);
        assert_eq!(field("oom_kill x\n", "oom_kill"), None);
        assert_eq!(field("", "oom_kill"), None);
    }

    #[test]
    fn paths_are_below_the_common_parent() {
        assert_eq!(Cgroup::of("c1").0, Path::new("/sys/fs/cgroup/caisson/c1"));
        assert_eq!(Cgroup::oci_path("c1"), "/caisson/c1");
    }
}
