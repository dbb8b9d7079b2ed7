//! Devices of the guest that a container gets beside those that every container has.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use crate::boot::uevent;
use crate::bundle::Device;
use crate::error::{Context, Error, Result};
use crate::proto::Disk;

const BLOCK: &str = "/sys/block";
/// Nodes that a container may get, and how deep they may lie below /dev.
const NODE_LIMIT: usize = 4096;
const DEPTH_LIMIT: usize = 4;
/// Made by crun for every container, or no business of another one.
const NOT_GIVEN: [&str; 11] = [
    "console", "full", "fd", "mqueue", "null", "ptmx", "pts", "random", "shm", "tty", "urandom",
];

/// How long a disk that was just plugged in may take to be found.
const PLUG_LIMIT: Duration = Duration::from_secs(10);

/// The nodes for disks of the VM, which are known by their serial numbers.
pub async fn of_disks(disks: &[Disk]) -> Result<Vec<Device>> {
    let all_there = || disks.iter().all(|disk| find_disk(&disk.serial).is_ok());
    // Which one is missing is said below.
    let _ = uevent::appears("a disk", PLUG_LIMIT, all_there).await;
    disks.iter().map(of_disk).collect()
}

fn of_disk(disk: &Disk) -> Result<Device> {
    let (major, minor) = find_disk(&disk.serial)?;
    Ok(Device {
        path: disk.path.clone(),
        kind: "b",
        major,
        minor,
        mode: disk.file_mode,
        uid: disk.uid,
        gid: disk.gid,
        access: if disk.read_only { "rm" } else { "rwm" },
    })
}

fn find_disk(serial: &str) -> Result<(u64, u64)> {
    let name = disk_name(serial)?;
    let path = Path::new(BLOCK).join(name).join("dev");
    let text = fs::read_to_string(&path).context(|| format!("read {}", path.display()))?;
    parse_number(&text).ok_or_else(|| Error::Internal(format!("Cannot use {}: it holds no number", path.display())))
}

/// The kernel's name of the disk with this serial number.
pub fn disk_name(serial: &str) -> Result<OsString> {
    for entry in fs::read_dir(BLOCK).context(|| format!("list {BLOCK}"))?.flatten() {
        let found = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
        if found.trim() == serial {
            return Ok(entry.file_name());
        }
    }
    Err(Error::NotFound(format!(
        "Cannot find the disk \"{}\": the VM has none of this serial number",
        serial.escape_default()
    )))
}

fn parse_number(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Every device of the guest.
pub fn all() -> Result<Vec<Device>> {
    let mut found = Vec::new();
    collect(Path::new("/dev"), DEPTH_LIMIT, &mut found)?;
    Ok(found)
}

fn collect(directory: &Path, depth: usize, found: &mut Vec<Device>) -> Result<()> {
    for entry in fs::read_dir(directory)
        .context(|| format!("list {}", directory.display()))?
        .flatten()
    {
        let path = entry.path();
        let Some(text) = path.to_str() else { continue };
        let is_given = !NOT_GIVEN.iter().any(|name| entry.file_name() == *name);
        // Symbolic links are not followed. What is gone meanwhile is no device any more.
        let Ok(status) = entry.metadata() else { continue };
        let kind = status.file_type();
        if kind.is_dir() && is_given && depth > 0 {
            collect(&path, depth - 1, found)?;
        }
        if is_given && (kind.is_char_device() || kind.is_block_device()) && found.len() < NODE_LIMIT {
            found.push(Device {
                path: text.to_owned(),
                kind: if kind.is_block_device() { "b" } else { "c" },
                major: u64::from(libc::major(status.rdev())),
                minor: u64::from(libc::minor(status.rdev())),
                mode: status.mode() & 0o7777,
                uid: status.uid(),
                gid: status.gid(),
                access: "rwm",
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_sysfs() {
        assert_eq!(parse_number("254:16\n"), Some((254, 16)));
        assert_eq!(parse_number(""), None);
        assert_eq!(parse_number("a:b"), None);
    }

    #[test]
    fn all_devices_are_nodes_that_are_there() {
        let found = all().expect("a listing of /dev");
        assert!(found.iter().all(|device| fs::exists(&device.path).unwrap_or(true)));
        assert!(!found.iter().any(|device| device.path == "/dev/null"));
    }
}
