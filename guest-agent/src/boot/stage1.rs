//! Stage 1: on the initramfs. Loads the modules and moves to the image on the first disk.

use std::convert::Infallible;
use std::ffi::CString;
use std::path::Path;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot, execve};

use super::uevent::Uevents;
use super::{AGENT, initramfs, modules, phases};
use crate::error::{Context, Error, Result};

const DISK: &str = "/dev/vda";
const NEW_ROOT: &str = "/newroot";
/// Software emulation on a loaded machine is slow; a disk that is there appears long before.
const DISK_LIMIT: Duration = Duration::from_secs(30);
const NONE: Option<&str> = None;

/// Moves to the image and executes the agent there. Returns only to say why it could not.
pub fn leave_initramfs() -> Result<Infallible> {
    phases::mark("init");
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        std::fs::create_dir_all(target).context(|| format!("create {target}"))?;
        mount(Some(kind), target, Some(kind), MsFlags::empty(), NONE).context(|| format!("mount {target}"))?;
    }
    super::apply_command_line();

    let uevents = Uevents::listen()?;
    modules::load_all()?;
    phases::mark("modules");
    uevents.wait_until(DISK, DISK_LIMIT, || Path::new(DISK).exists())?;
    drop(uevents);

    std::fs::create_dir_all(NEW_ROOT).context(|| format!("create {NEW_ROOT}"))?;
    mount(Some(DISK), NEW_ROOT, Some("erofs"), MsFlags::MS_RDONLY, NONE)
        .context(|| format!("mount {DISK} as erofs"))?;
    move_root()?;
    phases::mark("image");
    execute_agent()
}

/// An initramfs cannot be unmounted or pivoted away from: empty it and cover it with the image.
fn move_root() -> Result<()> {
    for name in ["proc", "sys", "dev"] {
        let (from, to) = (format!("/{name}"), format!("{NEW_ROOT}/{name}"));
        mount(Some(from.as_str()), to.as_str(), NONE, MsFlags::MS_MOVE, NONE)
            .context(|| format!("move {from} to {to}"))?;
    }
    initramfs::free();
    chdir(NEW_ROOT).context(|| format!("enter {NEW_ROOT}"))?;
    mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE).context(|| "move the image to /".into())?;
    chroot(".").context(|| "change root to the image".into())?;
    chdir("/").context(|| "enter the image".into())
}

fn execute_agent() -> Result<Infallible> {
    let path =
        CString::new(AGENT).map_err(|_| Error::Internal("Cannot execute the agent: its path holds a NUL".into()))?;
    let variable = CString::new(format!("{}={}", phases::VARIABLE, phases::export()))
        .map_err(|_| Error::Internal("Cannot execute the agent: its environment holds a NUL".into()))?;
    execve(&path, &[&path], &[&variable]).context(|| format!("execute {AGENT}"))
}
