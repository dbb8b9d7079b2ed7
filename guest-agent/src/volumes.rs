//! Volumes of the share that containers of the sandbox have in common.
//!
//! Each is a mount of its own, which the kernel makes when somebody first walks into it. If that were crun, in the container's mount
//! namespace, two containers would have two of it, and a socket that one listens on would not be the other's. So the agent
//! walks into it first, and takes the mount away when no container needs it any more.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::mount::{MntFlags, umount2};

use crate::error::{Context, Error, Result};
use crate::sandbox::lock;

const SHARE: &str = "/run/caisson/shared";

/// Counts the containers that need each volume. Cheap to clone.
#[derive(Clone, Default)]
pub struct Volumes(Arc<Mutex<BTreeMap<PathBuf, usize>>>);

/// The volumes of one container, given back when dropped.
pub struct HeldVolumes {
    volumes: Volumes,
    paths: Vec<PathBuf>,
}

impl Volumes {
    /// Holds the volumes at these paths, relative to the share.
    pub fn hold(&self, paths: &[String]) -> Result<HeldVolumes> {
        let mut held = HeldVolumes {
            volumes: self.clone(),
            paths: Vec::with_capacity(paths.len()),
        };
        for path in paths {
            let path = plan(path)?;
            let mut counts = lock(&self.0);
            let count = counts.entry(path.clone()).or_default();
            *count += 1;
            held.paths.push(path.clone());
            if *count == 1 {
                enter(&path)?;
            }
        }
        Ok(held)
    }
}

impl Drop for HeldVolumes {
    fn drop(&mut self) {
        let mut counts = lock(&self.volumes.0);
        for path in &self.paths {
            let Some(count) = counts.get_mut(path) else { continue };
            *count -= 1;
            if *count == 0 {
                counts.remove(path);
                // A file is no mount.
                let _ = umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
            }
        }
    }
}

fn plan(path: &str) -> Result<PathBuf> {
    let relative = Path::new(path);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || path.is_empty() || path.contains('\0') {
        return Err(Error::InvalidArgument(format!(
            "Cannot use volume \"{}\": it must be a plain path in the share",
            path.escape_default()
        )));
    }
    Ok(Path::new(SHARE).join(relative))
}

fn enter(path: &Path) -> Result<()> {
    let action = || format!("open volume {}", path.display());
    if fs::symlink_metadata(path).context(action)?.is_dir() {
        fs::metadata(path.join(".")).context(action)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_plain_and_in_the_share() {
        assert_eq!(
            plan(".volumes/0").expect("a good path"),
            Path::new("/run/caisson/shared/.volumes/0")
        );
        for bad in ["", "/", "/etc", "..", "a/../b", ".", "a\0"] {
            assert!(plan(bad).is_err(), "{bad:?}");
        }
    }
}
