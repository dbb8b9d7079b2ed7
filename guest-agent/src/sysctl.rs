//! Kernel parameters. The guest's kernel and its network are the sandbox's own, so all of them are the sandbox's to set.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};

/// Parameters that one sandbox may set.
const LIMIT: usize = 256;
/// A page is what the kernel takes at most (proc_sys_write).
const VALUE_LIMIT: usize = 4096;

/// Sets them all.
pub fn set(parameters: &BTreeMap<String, String>) -> Result<()> {
    if parameters.len() > LIMIT {
        return Err(Error::ResourceExhausted(format!(
            "Cannot set {} sysctls: the limit is {LIMIT}",
            parameters.len()
        )));
    }
    for (name, value) in parameters {
        let path = Path::new("/proc/sys").join(relative_path(name)?);
        if value.len() > VALUE_LIMIT {
            return Err(refused(name, "its value is longer than a page"));
        }
        if !path.is_file() {
            return Err(refused(name, "the guest's kernel does not have it"));
        }
        std::fs::write(path, value).context(|| {
            format!(
                "set sysctl \"{}\" to \"{}\"",
                name.escape_default(),
                value.escape_default()
            )
        })?;
    }
    Ok(())
}

/// The path below /proc/sys. As sysctl(8): the first separator decides which of `.` and `/` separates.
fn relative_path(name: &str) -> Result<PathBuf> {
    let swapped = |character| match character {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let path: String = match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('.') => name.chars().map(swapped).collect(),
        _ => name.to_owned(),
    };
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) || path.contains('\0') {
        return Err(refused(name, "it is no name of a sysctl"));
    }
    Ok(path.into())
}

fn refused(name: &str, fact: &str) -> Error {
    Error::InvalidArgument(format!("Cannot set sysctl \"{}\": {fact}", name.escape_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_path_of_both_notations() {
        let path = |name| relative_path(name).map(|path| path.to_string_lossy().into_owned()).ok();
        assert_eq!(path("net.ipv4.ip_forward").as_deref(), Some("net/ipv4/ip_forward"));
        assert_eq!(
            path("net/ipv4/conf/eth0.5/mtu").as_deref(),
            Some("net/ipv4/conf/eth0.5/mtu")
        );
        assert_eq!(
            path("net.ipv4.conf.eth0/5.mtu").as_deref(),
            Some("net/ipv4/conf/eth0.5/mtu")
        );
        assert_eq!(
            path("kernel.shm_rmid_forced").as_deref(),
            Some("kernel/shm_rmid_forced")
        );
    }

    #[test]
    fn relative_path_stays_below_the_root() {
        for name in ["", "..", "net/../vm/swappiness", "net//x", "/net/x", "net.x\0"] {
            assert!(relative_path(name).is_err(), "{name}");
        }
    }
}
