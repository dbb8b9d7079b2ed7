//! A container's root from an image on a disk: EROFS, which all sandboxes of the image share, below a layer in memory.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::devices;
use crate::error::{Context, Result};

const DIRECTORY: &str = "/run/caisson/roots";

/// The mounts of one root. Dropping it unmounts them.
pub struct RootImage {
    directory: PathBuf,
    /// What is mounted by now, in its order.
    mounted: Vec<PathBuf>,
}

impl RootImage {
    /// Mounts the disk with this serial number as the root of the container `id`.
    pub fn mount(id: &str, serial: &str) -> Result<Self> {
        let device = Path::new("/dev").join(devices::disk_name(serial)?);
        let mut root = Self {
            directory: Path::new(DIRECTORY).join(id),
            mounted: Vec::new(),
        };
        let [lower, layer, rootfs] = ["lower", "layer", "rootfs"].map(|name| root.directory.join(name));
        let [upper, work] = ["upper", "work"].map(|name| layer.join(name));
        // Devices of the image are the host's: a container's come from its configuration.
        root.add("erofs", &device, &lower, MsFlags::MS_RDONLY | MsFlags::MS_NODEV, "")?;
        root.add("tmpfs", Path::new("tmpfs"), &layer, MsFlags::MS_NODEV, "mode=0700")?;
        make_directory(&upper, 0o755)?;
        make_directory(&work, 0o700)?;
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        root.add("overlay", Path::new("overlay"), &rootfs, MsFlags::MS_NODEV, &layers)?;
        Ok(root)
    }

    fn add(&mut self, kind: &str, source: &Path, target: &Path, flags: MsFlags, data: &str) -> Result<()> {
        make_directory(target, 0o700)?;
        mount(Some(source), target, Some(kind), flags, Some(data))
            .context(|| format!("mount {kind} on {}", target.display()))?;
        self.mounted.push(target.to_owned());
        Ok(())
    }
}

impl Drop for RootImage {
    /// Known names only: nothing is deleted that might lie behind a mount.
    fn drop(&mut self) {
        for target in self.mounted.iter().rev() {
            if let Err(error) = umount2(target, MntFlags::MNT_DETACH) {
                crate::log::warn(&format!("Cannot unmount {}: {error}", target.display()));
            }
        }
        for name in ["lower", "layer", "rootfs"] {
            let _ = fs::remove_dir(self.directory.join(name));
        }
        let _ = fs::remove_dir(&self.directory);
    }
}

fn make_directory(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .context(|| format!("create {}", path.display()))
}
