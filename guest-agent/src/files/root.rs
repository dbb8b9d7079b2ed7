//! The container's root, and the ways into it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, mkdirat};
use nix::unistd::{Gid, Uid, fchown};

use crate::error::{Context, Error, Result};

/// Times that a lookup is tried again when something was renamed under it.
const RACES: usize = 16;
/// Of directories that are made on the way.
const DIRECTORY_MODE: Mode = Mode::from_bits_truncate(0o755);

/// A directory that paths are resolved in, and never out of.
pub struct Root(OwnedFd);

impl Root {
    /// Takes the descriptor of the directory.
    pub fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// What `path` names, links followed as if this were "/". Opened for nothing but to be looked at.
    pub fn find(&self, path: &Path) -> nix::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        look_up(&self.0, path, OFlag::O_PATH, resolve)
    }

    /// The directory that `path` names, made with its parents when missing.
    pub fn make_directories(&self, path: &Path, owner: (u32, u32)) -> Result<OwnedFd> {
        let action = || format!("make the directory \"{}\"", path.display());
        let mut prefix = PathBuf::from("/");
        let mut here = self.find(&prefix).context(action)?;
        for part in path.components() {
            let Component::Normal(name) = part else {
                if part == Component::ParentDir {
                    prefix.push("..");
                    here = self.find(&prefix).context(action)?;
                }
                continue;
            };
            prefix.push(name);
            here = match self.find(&prefix) {
                Ok(found) => found,
                Err(Errno::ENOENT) => make_directory(&here, name, owner).context(action)?,
                Err(error) => return Err(error).context(action),
            };
            if !is(&stat(&here).context(action)?, SFlag::S_IFDIR) {
                return super::refuse("make the directory", path, "a part of it is no directory");
            }
        }
        Ok(here)
    }
}

/// A directory in `parent` that was not there.
fn make_directory(parent: &OwnedFd, name: &OsStr, owner: (u32, u32)) -> nix::Result<OwnedFd> {
    match mkdirat(parent, name, DIRECTORY_MODE) {
        Ok(()) => {
            let made = child_directory(parent, name)?;
            own(&reopen(&made, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?, owner)?;
            Ok(made)
        }
        // A link that leads nowhere is there, too.
        Err(Errno::EEXIST) => child_directory(parent, name),
        Err(error) => Err(error),
    }
}

/// A directory below `base` by a path that leads through no link, made with its parents when missing.
pub fn directory_beneath(base: &OwnedFd, path: &Path, owner: (u32, u32)) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    match look_up(base, path, flags, resolve) {
        Err(Errno::ENOENT) => {}
        found => return found,
    }
    let mut here = base.try_clone().map_err(|_| Errno::EMFILE)?;
    for part in path.components() {
        here = match child_directory(&here, part.as_os_str()) {
            Err(Errno::ENOENT) => make_directory(&here, part.as_os_str(), owner)?,
            found => found?,
        };
    }
    Ok(here)
}

/// The entry of a directory, which must be a directory itself and no link.
pub fn child_directory(parent: &OwnedFd, name: &OsStr) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    look_up(parent, Path::new(name), OFlag::O_PATH | OFlag::O_DIRECTORY, resolve)
}

fn look_up(base: &OwnedFd, path: &Path, flags: OFlag, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    for _ in 0..RACES {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        match openat2(base, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            found => return found,
        }
    }
    Err(Errno::EAGAIN)
}

/// Opens what was found for its data. Only for files and directories: opening a FIFO or a device does things.
pub fn reopen(found: &OwnedFd, flags: OFlag) -> nix::Result<File> {
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    open(path.as_str(), flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY, Mode::empty()).map(File::from)
}

/// What kind of thing it is, its size and so on.
pub fn stat(fd: &OwnedFd) -> nix::Result<FileStat> {
    fstat(fd)
}

/// Whether it is of this kind.
pub fn is(stat: &FileStat, kind: SFlag) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == kind.bits()
}

/// Gives a file that was made to its owner.
pub fn own(file: &File, (uid, gid): (u32, u32)) -> nix::Result<()> {
    fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

/// Sets the mode, which the file mode creation mask has no part in.
pub fn set_mode(file: &File, mode: u32) -> nix::Result<()> {
    fchmod(file, Mode::from_bits_truncate(mode & 0o7777))
}

/// The last part of a path, and the directory that it lies in.
pub fn split(path: &Path) -> Result<(&Path, &OsStr)> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if !path.as_os_str().as_encoded_bytes().ends_with(b"/") => Ok((parent, name)),
        _ => Err(Error::InvalidArgument(format!(
            "Cannot use the path \"{}\": it names no file",
            path.display()
        ))),
    }
}
