//! A file system for device nodes that is mounted nowhere (fsopen(2), fsmount(2)): reachable by its descriptor and whoever inherits it, and
//! gone with the last of them. A host's `/run` is mounted without devices (nodev), and the nodes in `/dev` belong to root.

use std::ffi::{CStr, c_void};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd};

use napi_derive::napi;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, makedev, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};

use crate::error::{Result, failed};

/// The folder. The descriptor is close-on-exec and the caller's.
#[napi]
pub fn open_device_folder() -> Result<i32> {
    let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
    let folder = mount_detached(c"64k", attributes)
        .map_err(|errno| failed("mount a tmpfs for devices", errno))?;
    Ok(folder.into_raw_fd())
}

/// A block device and who may open it.
#[napi(object, object_to_js = false)]
pub struct BlockDevice {
    /// Of the node in the folder.
    pub name: String,
    /// Its number.
    pub major: u32,
    /// Its number.
    pub minor: u32,
    /// Owner of the node.
    pub uid: u32,
    /// Owner's group.
    pub gid: u32,
    /// Permissions, exactly.
    pub mode: u32,
}

/// Makes the node of a block device in a folder.
#[napi]
#[allow(
    clippy::needless_pass_by_value,
    reason = "JavaScript objects arrive owned"
)]
pub fn make_block_device(folder: i32, device: BlockDevice) -> Result<()> {
    // SAFETY: the caller keeps the descriptor open through its call.
    let folder = unsafe { BorrowedFd::borrow_raw(folder) };
    make_node(folder, &device).map_err(|errno| {
        failed(
            format_args!("make the block device \"{}\"", device.name),
            errno,
        )
    })
}

/// Removes a node. Who has it open keeps it.
#[napi]
pub fn remove_block_device(folder: i32, name: String) -> Result<()> {
    // SAFETY: the caller keeps the descriptor open through its call.
    let folder = unsafe { BorrowedFd::borrow_raw(folder) };
    unlinkat(folder, name.as_str(), UnlinkatFlags::NoRemoveDir)
        .map_err(|errno| failed(format_args!("unlink \"{name}\""), errno))
}

fn make_node(folder: impl AsFd, device: &BlockDevice) -> nix::Result<()> {
    let name = device.name.as_str();
    let number = makedev(u64::from(device.major), u64::from(device.minor));
    mknodat(&folder, name, SFlag::S_IFBLK, Mode::empty(), number)?;
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    fchownat(
        &folder,
        name,
        Some(uid),
        Some(gid),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )?;
    let mode = Mode::from_bits_truncate(device.mode);
    fchmodat(&folder, name, mode, FchmodatFlags::FollowSymlink)
}

/// A tmpfs of at most `size` that is mounted nowhere, its root for everybody to read.
pub fn mount_detached(size: &CStr, attributes: u64) -> nix::Result<OwnedFd> {
    // SAFETY: the name is a C string that outlives the call, which touches no other memory of ours.
    let context = opened(unsafe {
        libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), libc::FSOPEN_CLOEXEC)
    })?;
    set(&context, c"mode", c"0755")?;
    set(&context, c"size", size)?;
    // SAFETY: the command takes no pointer.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            libc::FSCONFIG_CMD_CREATE,
            std::ptr::null::<c_void>(),
            std::ptr::null::<c_void>(),
            0,
        )
    })?;
    // SAFETY: the call takes no pointer.
    opened(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            libc::FSMOUNT_CLOEXEC,
            attributes,
        )
    })
}

fn set(context: &OwnedFd, key: &CStr, value: &CStr) -> nix::Result<()> {
    // SAFETY: key and value are C strings that outlive the call, which touches no other memory of ours.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            libc::FSCONFIG_SET_STRING,
            key.as_ptr(),
            value.as_ptr(),
            0,
        )
    })
    .map(drop)
}

/// The descriptor that a raw system call has returned.
fn opened(result: libc::c_long) -> nix::Result<OwnedFd> {
    let result = Errno::result(result)?;
    let fd = i32::try_from(result).map_err(|_| Errno::EBADF)?;
    // SAFETY: the call has just made the descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
