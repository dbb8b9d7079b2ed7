//! A tar stream as files. The stream may be made by anybody: no entry of it reaches out of the directory, through a ".." as
//! little as through a link, its own or one that is there.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, UtimensatFlags, futimens, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use tar::{Archive, Entry, EntryType};

use super::root::{self, Root};
use super::{Task, refuse};
use crate::error::{Context, Result};

const BUFFER: usize = 64 * 1024;
/// Of one write to a file.
const WRITE_SIZE: usize = 256 * 1024;

/// Puts everything into the directory, which is made when missing. Files that are there are replaced. Everything belongs to
/// the task's owner.
pub fn extract(root: &Root, task: &Task, input: impl Read) -> Result<()> {
    let action = || format!("extract into \"{}\"", task.path.display());
    let target = Target {
        base: root.make_directories(&task.path, task.owner)?,
        owner: task.owner,
    };
    let mut archive = Archive::new(BufReader::with_capacity(BUFFER, input));
    for entry in archive.entries().context(action)? {
        target.add(entry.context(action)?)?;
    }
    // What follows the end of the archive is read, so that its writer comes to its end, too.
    io::copy(&mut archive.into_inner(), &mut io::sink())
        .context(action)
        .map(drop)
}

struct Target {
    base: OwnedFd,
    owner: (u32, u32),
}

impl Target {
    fn add<R: Read>(&self, mut entry: Entry<'_, R>) -> Result<()> {
        let path = clean_path(&entry.path_bytes())?;
        let kind = entry.header().entry_type();
        // The directory itself, or a header for what follows.
        if path.as_os_str().is_empty() || kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let action = || format!("extract \"{}\"", path.display());
        let (parent, name) = root::split(&path)?;
        let parent = match root::directory_beneath(&self.base, parent, self.owner) {
            Err(Errno::ELOOP | Errno::ENOTDIR) => {
                return refuse("extract", &path, "its directory is a link or no directory");
            }
            found => found.context(action)?,
        };
        match kind {
            EntryType::Directory => self.directory(&parent, name, &entry).context(action),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(&parent, name, &mut entry).context(action)
            }
            EntryType::Symlink => self.symlink(&parent, name, &entry).context(action),
            EntryType::Link => self.hard_link(&parent, name, &entry),
            _ => refuse(
                "extract",
                &path,
                "it is neither a file, a directory nor a link; nothing else is put in",
            ),
        }
    }

    fn directory<R: Read>(&self, parent: &OwnedFd, name: &OsStr, entry: &Entry<'_, R>) -> io::Result<()> {
        match mkdirat(parent, name, Mode::S_IRWXU) {
            // One that is there, and no link to one, stays as it is.
            Err(Errno::EEXIST) => return root::child_directory(parent, name).map(drop).map_err(io::Error::from),
            made => made?,
        }
        let made = root::child_directory(parent, name)?;
        let made = root::reopen(&made, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        root::own(&made, self.owner)?;
        root::set_mode(&made, entry.header().mode()?)?;
        Ok(())
    }

    fn file<R: Read>(&self, parent: &OwnedFd, name: &OsStr, entry: &mut Entry<'_, R>) -> io::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let made = replace(parent, name, || {
            openat(parent, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
        })?;
        let file = File::from(made);
        write_content(entry, &file)?;
        root::own(&file, self.owner)?;
        root::set_mode(&file, entry.header().mode()?)?;
        let time = modified(entry)?;
        futimens(&file, &time, &time)?;
        Ok(())
    }

    /// Where it leads is the container's business: nothing here follows it.
    fn symlink<R: Read>(&self, parent: &OwnedFd, name: &OsStr, entry: &Entry<'_, R>) -> io::Result<()> {
        let target = entry.link_name_bytes().ok_or(Errno::EINVAL)?;
        replace(parent, name, || symlinkat(OsStr::from_bytes(&target), parent, name))?;
        let (uid, gid) = self.owner;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        fchownat(parent, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let time = modified(entry)?;
        utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)?;
        Ok(())
    }

    /// Only to what lies in the directory; a link in its place is linked itself.
    fn hard_link<R: Read>(&self, parent: &OwnedFd, name: &OsStr, entry: &Entry<'_, R>) -> Result<()> {
        let target = clean_path(&entry.link_name_bytes().unwrap_or_default())?;
        let action = || format!("link to \"{}\"", target.display());
        let (target_parent, target_name) = root::split(&target)?;
        let source = root::directory_beneath(&self.base, target_parent, self.owner).context(action)?;
        replace(parent, name, || {
            linkat(&source, target_name, parent, name, AtFlags::empty())
        })
        .context(action)
    }
}

/// In large pieces: each write to virtio-fs is a round trip to the host.
fn write_content<R: Read>(entry: &mut Entry<'_, R>, file: &File) -> io::Result<()> {
    let size = usize::try_from(entry.size()).unwrap_or(WRITE_SIZE);
    let mut writer = BufWriter::with_capacity(size.min(WRITE_SIZE), file);
    io::copy(entry, &mut writer)?;
    writer.flush()
}

/// Makes an entry; one that is there and no directory makes room.
fn replace<T>(parent: &OwnedFd, name: &OsStr, make: impl Fn() -> nix::Result<T>) -> nix::Result<T> {
    match make() {
        Err(Errno::EEXIST) => {
            unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?;
            make()
        }
        made => made,
    }
}

fn modified<R: Read>(entry: &Entry<'_, R>) -> io::Result<TimeSpec> {
    let seconds = i64::try_from(entry.header().mtime()?).unwrap_or(0);
    Ok(TimeSpec::new(seconds, 0))
}

/// A relative path of plain names.
fn clean_path(bytes: &[u8]) -> Result<PathBuf> {
    let path = Path::new(OsStr::from_bytes(bytes));
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return refuse("extract", path, "it holds \"..\"");
            }
        }
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tar::{Builder, Header};

    use super::*;
    use crate::proto::FileOperation;

    /// A directory of one test's own, with a place next to it that nothing may reach.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("caisson-extract-{name}-{}", std::process::id()));
            fs::create_dir_all(path.join("root/target")).expect("a temporary directory");
            fs::create_dir(path.join("root/outside")).expect("a temporary directory");
            Self(path)
        }

        fn extract(&self, archive: &[u8]) -> Result<()> {
            let root = Root::new(OwnedFd::from(File::open(self.0.join("root")).expect("the root")));
            let task = Task {
                operation: FileOperation::Extract,
                path: "/target".into(),
                mode: 0,
                owner: (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw()),
            };
            extract(&root, &task, archive)
        }

        fn read(&self, path: &str) -> Option<String> {
            fs::read_to_string(self.0.join("root").join(path)).ok()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Kind, name, and content or link target. The names go in as they are: the crate's own writer refuses hostile ones.
    fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (kind, name, content) in entries {
            let is_file = *kind == EntryType::Regular;
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            header.set_size(if is_file { content.len() as u64 } else { 0 });
            let old = header.as_old_mut();
            old.name[..name.len()].copy_from_slice(name.as_bytes());
            if !is_file {
                old.linkname[..content.len()].copy_from_slice(content.as_bytes());
            }
            header.set_cksum();
            let data = if is_file { content.as_bytes() } else { b"" };
            builder.append(&header, data).expect("memory takes it");
        }
        builder.into_inner().expect("memory takes it")
    }

    #[test]
    fn files_directories_and_links_come_out() {
        let place = Place::new("good");
        let bytes = archive(&[
            (EntryType::Directory, "./", ""),
            (EntryType::Regular, "a/b/file", "content"),
            (EntryType::Symlink, "a/link", "b/file"),
            (EntryType::Link, "hard", "a/b/file"),
            (EntryType::Regular, "/absolute", "below"),
            (EntryType::Regular, "a/b/file", "replaced"),
        ]);

        place.extract(&bytes).expect("a good archive");

        assert_eq!(place.read("target/a/link").as_deref(), Some("replaced"));
        assert_eq!(place.read("target/hard").as_deref(), Some("content"));
        assert_eq!(place.read("target/absolute").as_deref(), Some("below"));
    }

    #[test]
    fn nothing_reaches_out_of_the_directory() {
        let place = Place::new("hostile");
        std::os::unix::fs::symlink("../outside", place.0.join("root/target/existing")).expect("a link");
        for entries in [
            &[(EntryType::Regular, "../outside/x", "x")][..],
            &[(EntryType::Regular, "a/../../outside/x", "x")],
            &[(EntryType::Regular, "existing/x", "x")],
            &[
                (EntryType::Symlink, "up", "../outside"),
                (EntryType::Regular, "up/x", "x"),
            ],
            &[
                (EntryType::Symlink, "deep/up", "/outside"),
                (EntryType::Directory, "deep/up/made", ""),
            ],
            &[(EntryType::Link, "hard", "../outside/secret")],
            &[(EntryType::Link, "hard", "existing/secret")],
            &[(EntryType::Char, "device", "")],
            &[(EntryType::Fifo, "fifo", "")],
        ] {
            fs::write(place.0.join("root/outside/secret"), "secret").expect("a file");
            assert!(place.extract(&archive(entries)).is_err(), "{entries:?}");
        }
        let outside: Vec<_> = fs::read_dir(place.0.join("root/outside"))
            .expect("the directory")
            .collect();
        assert_eq!(outside.len(), 1);
        assert!(!place.0.join("root/target/hard").exists());
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_replaced_and_not_followed() {
        let place = Place::new("replace");
        fs::write(place.0.join("root/outside/kept"), "kept").expect("a file");
        let bytes = archive(&[
            (EntryType::Symlink, "file", "/outside/kept"),
            (EntryType::Regular, "file", "new"),
        ]);

        place.extract(&bytes).expect("a good archive");

        assert_eq!(place.read("outside/kept").as_deref(), Some("kept"));
        assert_eq!(place.read("target/file").as_deref(), Some("new"));
    }
}
