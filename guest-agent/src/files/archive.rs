//! A tree of files as a tar stream.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use tar::{Builder, EntryType, Header};

use super::refuse;
use super::root::{self, Root};
use crate::error::{Context, Result};

const BUFFER: usize = 64 * 1024;
/// Directories within directories; each is open while it is walked.
const DEPTH_LIMIT: usize = 512;

/// Writes a directory's content, behind an entry "./" for itself, or one file under its own name. Sockets, FIFOs and devices are left out, and what is mounted
/// below it is an empty directory. A file that changes meanwhile is cut or filled with zeros to the size that it had.
pub fn archive(root: &Root, path: &Path, out: impl Write) -> Result<()> {
    let action = || format!("archive \"{}\"", path.display());
    let found = root.find(path).context(action)?;
    let stat = root::stat(&found).context(action)?;
    let mut builder = Builder::new(BufWriter::with_capacity(BUFFER, out));
    if root::is(&stat, SFlag::S_IFDIR) {
        let mut header = header_of(&stat, EntryType::Directory, 0);
        builder.append_data(&mut header, "./", io::empty()).context(action)?;
        let mut walk = Walk {
            builder: &mut builder,
            device: stat.st_dev,
        };
        walk.content(&found, Path::new(""), 0)?;
    } else if root::is(&stat, SFlag::S_IFREG) {
        let name = path.file_name().unwrap_or(OsStr::new("file"));
        add_file(&mut builder, Path::new(name), &found, &stat).context(action)?;
    } else {
        return refuse("archive", path, "it is neither a directory nor a regular file");
    }
    let mut out = builder.into_inner().context(action)?;
    out.flush().context(action)
}

struct Walk<'a, W: Write> {
    builder: &'a mut Builder<W>,
    device: u64,
}

impl<W: Write> Walk<'_, W> {
    fn content(&mut self, directory: &OwnedFd, path: &Path, depth: usize) -> Result<()> {
        let action = || format!("archive \"{}\"", path.display());
        if depth > DEPTH_LIMIT {
            return refuse("archive", path, "it lies too deep");
        }
        for name in names(directory).context(action)? {
            let child = path.join(&name);
            match self.entry(directory, &name, &child, depth) {
                // Removed meanwhile.
                Err(crate::error::Error::Io { cause, .. }) if cause.raw_os_error() == Some(libc::ENOENT) => {}
                done => done?,
            }
        }
        Ok(())
    }

    fn entry(&mut self, directory: &OwnedFd, name: &OsStr, path: &Path, depth: usize) -> Result<()> {
        let action = || format!("archive \"{}\"", path.display());
        let stat = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).context(action)?;
        if root::is(&stat, SFlag::S_IFDIR) {
            let child = root::child_directory(directory, name).context(action)?;
            let mut header = header_of(&stat, EntryType::Directory, 0);
            self.builder
                .append_data(&mut header, path, io::empty())
                .context(action)?;
            if stat.st_dev == self.device {
                self.content(&child, path, depth + 1)?;
            }
        } else if root::is(&stat, SFlag::S_IFLNK) {
            let target = PathBuf::from(readlinkat(directory, name).context(action)?);
            let mut header = header_of(&stat, EntryType::Symlink, 0);
            self.builder.append_link(&mut header, path, target).context(action)?;
        } else if root::is(&stat, SFlag::S_IFREG) {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let found = openat(directory, name, flags, Mode::empty()).context(action)?;
            let stat = root::stat(&found).context(action)?;
            if root::is(&stat, SFlag::S_IFREG) {
                add_file(self.builder, path, &found, &stat).context(action)?;
            }
        }
        Ok(())
    }
}

fn names(directory: &OwnedFd) -> nix::Result<Vec<OsString>> {
    let file = root::reopen(directory, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(OwnedFd::from(file))?.iter() {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn add_file<W: Write>(builder: &mut Builder<W>, path: &Path, found: &OwnedFd, stat: &FileStat) -> io::Result<()> {
    let size = u64::try_from(stat.st_size).map_err(|_| Errno::EINVAL)?;
    let file = root::reopen(found, OFlag::O_RDONLY)?;
    let mut header = header_of(stat, EntryType::Regular, size);
    let content = Filled { file, left: size };
    builder.append_data(&mut header, path, content)
}

fn header_of(stat: &FileStat, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(u64::from(stat.st_uid));
    header.set_gid(u64::from(stat.st_gid));
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(size);
    header
}

/// Exactly `left` bytes: a header has promised them.
struct Filled<R> {
    file: R,
    left: u64,
}

impl<R: Read> Read for Filled<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(part) = buffer.get_mut(..wanted) else {
            return Ok(0);
        };
        let mut count = self.file.read(part)?;
        if count == 0 {
            part.fill(0);
            count = wanted;
        }
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_shrinks_is_filled() {
        let mut filled = Filled {
            file: &b"abc"[..],
            left: 5,
        };
        let mut out = Vec::new();

        filled.read_to_end(&mut out).expect("memory can be read");

        assert_eq!(out, b"abc\0\0");
    }
}
