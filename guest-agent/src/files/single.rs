//! One file, read or written.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag};

use super::root::{self, Root};
use super::{Task, refuse};
use crate::error::{Context, Result};

/// Writes the content of a regular file to `out`.
pub fn read(root: &Root, path: &Path, out: &mut impl Write) -> Result<()> {
    let action = || format!("read \"{}\"", path.display());
    let mut file = open_regular(root, path, "read", OFlag::O_RDONLY)?;
    io::copy(&mut file, out).context(action)?;
    out.flush().context(action)
}

/// Fills a regular file with what comes: one that is there keeps its owner and mode, another is made with its directories.
pub fn write(root: &Root, task: &Task, input: &mut impl Read) -> Result<()> {
    let path = &task.path;
    let action = || format!("write \"{}\"", path.display());
    let (parent, name) = root::split(path)?;
    let directory = root.make_directories(parent, task.owner)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = match openat(&directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(made) => {
            let made = File::from(made);
            root::own(&made, task.owner).context(action)?;
            root::set_mode(&made, task.mode).context(action)?;
            made
        }
        Err(Errno::EEXIST) => open_regular(root, path, "write", OFlag::O_WRONLY | OFlag::O_TRUNC)?,
        Err(error) => return Err(error).context(action),
    };
    io::copy(input, &mut file).context(action).map(drop)
}

fn open_regular(root: &Root, path: &Path, verb: &str, flags: OFlag) -> Result<File> {
    let action = || format!("{verb} \"{}\"", path.display());
    let found = root.find(path).context(action)?;
    let stat = root::stat(&found).context(action)?;
    if root::is(&stat, SFlag::S_IFDIR) {
        return refuse(verb, path, "it is a directory");
    }
    if !root::is(&stat, SFlag::S_IFREG) {
        return refuse(verb, path, "it is no regular file");
    }
    root::reopen(&found, flags).context(action)
}
