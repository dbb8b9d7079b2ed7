//! What is seen of a container through the stand-in: its network and its files.
//!
//! The request: strings that each end with NUL, the network namespace's path, and for each mount, the root file system first,
//! its destination, its source, and
//!
//! - `rw`, `ro`: the source is bound there
//! - `hidden`: only the guest has that file system; an empty one that cannot be written is shown
//! - `proc`: the container's processes (see [`crate::processes`])

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, fchdir, pivot_root};

use crate::processes::Processes;
use crate::{Result, told};

/// Goes where the container is seen to be, and gives up what is not needed there.
pub fn enter(request: &[u8]) -> Result<Option<Processes>> {
    let mut words = request
        .split(|byte| *byte == 0)
        .map(|word| Path::new(OsStr::from_bytes(word)));
    let netns = words
        .next()
        .ok_or("find the network namespace in the request")?;
    let words: Vec<&Path> = words.collect();
    let (mounts, _) = words.as_chunks::<3>();
    let ([_, rootfs, root_mode], mounts) = mounts
        .split_first()
        .ok_or("find the root file system in the request")?;

    let namespace = open(
        netns,
        OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK,
        Mode::empty(),
    )
    .map_err(told(format!("open {}", netns.display())))?;
    setns(&namespace, CloneFlags::CLONE_NEWNET)
        .map_err(told(format!("join {}", netns.display())))?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(told("make a mount namespace"))?;
    // Nothing of it reaches the host; what is unmounted there goes here, too.
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)
        .map_err(told("separate the mounts"))?;
    let open_root = || {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        open(*rootfs, flags, Mode::empty())
    };
    show(rootfs, root_mode, &open_root).map_err(told(format!("show {}", rootfs.display())))?;
    let root = open_root().map_err(told(format!("open {}", rootfs.display())))?;
    let mut processes = None;
    for [destination, source, mode] in mounts {
        let open_place = || open_inside(&root, destination);
        // One whose place is not there (it is in a file system of the guest's) is not seen.
        if open_place().is_err() {
            continue;
        }
        if *mode == Path::new("proc") {
            processes = Some(
                show_processes(&open_place)
                    .map_err(told(format!("show {}", destination.display())))?,
            );
        } else {
            show(source, mode, &open_place).map_err(told(format!("show {}", source.display())))?;
        }
    }
    fchdir(&root).map_err(told("enter the root file system"))?;
    pivot_root(".", ".").map_err(told("pivot into the root file system"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(told("leave the host's files"))?;
    chdir("/").map_err(told("enter the root file system"))?;
    drop_privileges().map_err(told("drop privileges"))?;
    Ok(processes)
}

/// Makes a mount at the place; opened again, the place is what was mounted.
fn show(
    source: &Path,
    mode: &Path,
    open_place: &dyn Fn() -> nix::Result<OwnedFd>,
) -> nix::Result<()> {
    let place = open_place()?;
    if mode == Path::new("hidden") {
        // What is written there would never reach the guest.
        return mount_at(
            &place,
            Path::new("tmpfs"),
            MsFlags::MS_RDONLY,
            "nr_inodes=2",
        );
    }
    mount_at(&place, source, MsFlags::MS_BIND | MsFlags::MS_REC, "")?;
    if mode == Path::new("ro") {
        make_read_only(open_place)?;
    }
    Ok(())
}

/// A file system that only we can write, by the mount below the one that is seen.
fn show_processes(open_place: &dyn Fn() -> nix::Result<OwnedFd>) -> nix::Result<Processes> {
    let inert = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = "size=32m,nr_inodes=16384,mode=0755";
    mount_at(&open_place()?, Path::new("tmpfs"), inert, options)?;
    let directory = open(
        path_of(&open_place()?).as_str(),
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let own = path_of(&directory);
    mount_at(&open_place()?, Path::new(&own), MsFlags::MS_BIND, "")?;
    make_read_only(open_place)?;
    Processes::new(directory)
}

fn make_read_only(open_place: &dyn Fn() -> nix::Result<OwnedFd>) -> nix::Result<()> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount_at(&open_place()?, Path::new("none"), flags, "")
}

fn mount_at(place: &OwnedFd, source: &Path, flags: MsFlags, options: &str) -> nix::Result<()> {
    // Kind and options are of no meaning for a bind mount.
    mount(
        Some(source),
        path_of(place).as_str(),
        Some("tmpfs"),
        flags,
        Some(options),
    )
}

fn path_of(descriptor: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}

/// Symbolic links of the image lead nowhere but into it.
fn open_inside(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

/// All capabilities; those that a set-user-id program would bring, too.
fn drop_privileges() -> nix::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    // Effective, permitted and inheritable, in two halves (capset(2)).
    let none = [0_u32; 6];
    // SAFETY: version 3 takes a header and two structures of three words each, and both live until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    Errno::result(result).map(drop)
}
