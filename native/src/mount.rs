//! Mounts without a child process: trees by the new mount API (open_tree(2), mount_setattr(2), move_mount(2)), which get their flags while
//! nobody can see them, and file systems by mount(2).

use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd};

use napi::Task;
use napi::bindgen_prelude::AsyncTask;
use napi_derive::napi;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::device_folder::mount_detached;
use crate::error::{Result, failed};
use crate::thread::spend_thread;

/// A tree of mounts to copy.
#[napi(object, object_to_js = false)]
pub struct TreeSource {
    /// Descriptor of the file or directory that is the root of the copy; `O_PATH` is enough.
    pub fd: i32,
    /// Copy the mounts below it, too.
    pub recursive: bool,
}

/// Copies a mount, not attached to any place yet. The descriptor is close-on-exec and the caller's; closing it before
/// `moveMount` gives the copy up.
#[napi]
pub fn clone_tree(source: TreeSource) -> Result<i32> {
    let recursive = if source.recursive {
        libc::AT_RECURSIVE
    } else {
        0
    };
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | (libc::AT_EMPTY_PATH | recursive).cast_unsigned();
    // SAFETY: the path is a C string that outlives the call, which touches no other memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, source.fd, c"".as_ptr(), flags) };
    descriptor(fd).map_err(|errno| failed("open_tree", errno))
}

/// What every mount of a tree becomes.
#[napi(object, object_to_js = false)]
pub struct MountAttributes {
    /// The mounts below the tree's root, too.
    pub recursive: bool,
    /// Adds the read-only flag.
    pub read_only: Option<bool>,
    /// Adds the flags nosuid and nodev.
    pub no_suid_and_dev: Option<bool>,
    /// "private" or "slave"; none leaves it.
    pub propagation: Option<String>,
    /// User namespace by which the ids of files are mapped.
    pub id_map: Option<i32>,
}

/// Changes the mounts of a copied tree.
#[napi]
#[allow(
    clippy::needless_pass_by_value,
    reason = "JavaScript objects arrive owned"
)]
pub fn set_mount_attributes(tree: i32, attributes: MountAttributes) -> Result<()> {
    let mut change = libc::mount_attr {
        attr_set: 0,
        attr_clr: 0,
        propagation: match attributes.propagation.as_deref() {
            None => 0,
            Some("private") => libc::MS_PRIVATE,
            Some("slave") => libc::MS_SLAVE,
            Some(other) => {
                return Err(failed(
                    format_args!("propagation \"{other}\""),
                    Errno::EINVAL,
                ));
            }
        },
        userns_fd: 0,
    };
    if attributes.read_only == Some(true) {
        change.attr_set |= libc::MOUNT_ATTR_RDONLY;
    }
    if attributes.no_suid_and_dev == Some(true) {
        change.attr_set |= libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    }
    if let Some(user_namespace) = attributes.id_map {
        change.attr_set |= libc::MOUNT_ATTR_IDMAP;
        change.userns_fd =
            u64::try_from(user_namespace).map_err(|_| failed("user namespace", Errno::EBADF))?;
    }
    let recursive = if attributes.recursive {
        libc::AT_RECURSIVE
    } else {
        0
    };
    // SAFETY: path and attributes outlive the call, which reads as many bytes of them as it is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree,
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(failed("mount_setattr", Errno::last()))
    }
}

/// Attaches a copied tree at `target`, a file or directory as the tree's root is; its last component is not followed when it
/// is a symbolic link. The target is in the mount namespace whose descriptor is given (its root is where the path begins),
/// else in ours.
#[napi]
pub fn move_mount(tree: i32, target: String, namespace: Option<i32>) -> Result<()> {
    let path = CString::new(target.as_str())
        .map_err(|_| failed(format_args!("mount on \"{target}\""), Errno::EINVAL))?;
    in_namespace(namespace, move || move_here(tree, &path))
        .map_err(|errno| failed(format_args!("move_mount to \"{target}\""), errno))
}

fn move_here(tree: i32, path: &CStr) -> nix::Result<()> {
    // SAFETY: both paths are C strings that outlive the call, which touches no other memory of ours.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree,
            c"".as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    Errno::result(result).map(drop)
}

/// An empty file system in memory of at most 4 MiB, without setuid programs and devices, attached to no place yet. The descriptor is
/// close-on-exec and the caller's; `moveMount` attaches it.
#[napi]
pub fn open_scratch() -> Result<i32> {
    let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    let scratch =
        mount_detached(c"4m", attributes).map_err(|errno| failed("mount a tmpfs", errno))?;
    Ok(scratch.into_raw_fd())
}

/// Detaches the mount at `path` with all that is mounted below it (umount2(2), `MNT_DETACH`); symbolic links are not followed.
/// `namespace` as for `move_mount`.
#[napi]
pub fn detach_mount(path: String, namespace: Option<i32>) -> Result<()> {
    let target = path.clone();
    let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    in_namespace(namespace, move || umount2(target.as_str(), flags))
        .map_err(|errno| failed(format_args!("umount \"{path}\""), errno))
}

/// A file system to mount (mount(2)).
#[napi(object, object_to_js = false)]
#[derive(Clone)]
pub struct FileSystem {
    /// Its type, as in `/proc/filesystems`.
    pub kind: String,
    /// What it calls its source.
    pub source: String,
    /// Where it is mounted: a directory.
    pub target: String,
    /// `MS_…`.
    pub flags: u32,
    /// What the file system itself reads, with commas.
    pub data: String,
    /// Where relative paths in `data` begin; without it, nowhere in particular.
    pub directory: Option<String>,
}

/// The kernel reads a page of it, and leaves the rest out without a word.
const DATA_LIMIT: usize = 4095;

/// A mount on its way, on a thread of libuv's pool.
pub struct Mounting(FileSystem);

impl Task for Mounting {
    type Output = Option<String>;
    type JsValue = Option<String>;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        Ok(self.0.mount().err().map(|errno| format!("{errno:?}")))
    }

    fn resolve(&mut self, _env: napi::Env, output: Self::Output) -> napi::Result<Self::JsValue> {
        Ok(output)
    }
}

/// Mounts a file system. Resolves with null, or with the name of the errno.
#[napi(ts_return_type = "Promise<string | null>")]
#[must_use]
pub fn mount_file_system(system: FileSystem) -> AsyncTask<Mounting> {
    AsyncTask::new(Mounting(system))
}

impl FileSystem {
    fn mount(&self) -> nix::Result<()> {
        let Some(directory) = self.directory.clone() else {
            return self.mount_here();
        };
        let system = self.clone();
        // The working directory is that of all threads which share it.
        spend_thread("mount", move || {
            unshare(CloneFlags::CLONE_FS)?;
            nix::unistd::chdir(directory.as_str())?;
            system.mount_here()
        })?
    }

    fn mount_here(&self) -> nix::Result<()> {
        if self.data.len() > DATA_LIMIT {
            return Err(Errno::E2BIG);
        }
        let Self {
            kind,
            source,
            target,
            flags,
            data,
            ..
        } = self;
        let flags = MsFlags::from_bits_retain(libc::c_ulong::from(*flags));
        let [kind, source, data] = [kind, source, data].map(|text| Some(text.as_str()));
        mount(source, target.as_str(), kind, flags, data)
    }
}

/// Does `work` in a mount namespace, or right here. A thread that shares its working directory and root with others, as all
/// of ours do, cannot change the namespace (setns(2)).
fn in_namespace(
    namespace: Option<i32>,
    work: impl FnOnce() -> nix::Result<()> + Send + 'static,
) -> nix::Result<()> {
    let Some(fd) = namespace else {
        return work();
    };
    spend_thread("mount", move || {
        unshare(CloneFlags::CLONE_FS)?;
        // SAFETY: the caller keeps the descriptor open through its call, which waits for this thread.
        let namespace = unsafe { BorrowedFd::borrow_raw(fd) };
        setns(namespace, CloneFlags::CLONE_NEWNS)?;
        work()
    })?
}

/// A new user namespace with these maps (user_namespaces(7)), for mapping the ids of mounts: no process is in it. The
/// descriptor is close-on-exec and the caller's.
#[napi]
#[allow(
    clippy::needless_pass_by_value,
    reason = "JavaScript strings arrive owned"
)]
pub fn create_user_namespace(uid_map: String, gid_map: String) -> Result<i32> {
    let holder = Holder::start()?;
    for (name, map) in [("uid_map", &uid_map), ("gid_map", &gid_map)] {
        let path = format!("/proc/{}/{name}", holder.0);
        std::fs::write(&path, map).map_err(|error| of_io(&path, &error))?;
    }
    let path = format!("/proc/{}/ns/user", holder.0);
    let file = std::fs::File::open(&path).map_err(|error| of_io(&path, &error))?;
    Ok(OwnedFd::from(file).into_raw_fd())
}

/// A child in a user namespace of its own, which it holds until it is killed. It gives no signal when it ends, and only
/// who waits for it by its id is told.
struct Holder(libc::pid_t);

impl Holder {
    fn start() -> Result<Self> {
        // SAFETY: without CLONE_VM this is a fork; the child makes system calls only, which are async-signal-safe.
        let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_NEWUSER, 0, 0, 0, 0) };
        if pid == 0 {
            // SAFETY: touches no memory. It must not outlive who would kill it.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            loop {
                // SAFETY: touches no memory.
                unsafe { libc::pause() };
            }
        }
        match libc::pid_t::try_from(pid) {
            Ok(pid) if pid > 0 => Ok(Self(pid)),
            _ => Err(failed("clone a user namespace", Errno::last())),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // SAFETY: the child is ours and not waited for by anybody else, so the id is still its own.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), libc::__WCLONE);
        }
    }
}

fn of_io(path: &str, error: &std::io::Error) -> napi::Error<crate::error::Code> {
    let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    failed(format_args!("\"{path}\""), errno)
}

/// The descriptor that a raw system call has returned.
fn descriptor(result: libc::c_long) -> std::result::Result<i32, Errno> {
    let fd = i32::try_from(result).map_err(|_| Errno::EBADF)?;
    if fd < 0 {
        return Err(Errno::last());
    }
    // SAFETY: the call has just made the descriptor, and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(fd.into_raw_fd())
}
