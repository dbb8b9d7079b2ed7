//! Stands on the host for the first process of a container, whose real one is in a guest.
//!
//! Its pid is what callers know of the container. They signal it, wait for it, and look through it into the container's
//! namespaces: it is in the container's network, and its root is the container's root file system with its volumes
//! (`podman cp` works there). It executes nothing and opens nothing once it is inside.
//!
//! Its arguments are for those who list processes. Over fd 3, a stream socket:
//!
//! - in: a big-endian u32 length and so many bytes, strings that each end with NUL: the network namespace's path, and for
//!   each mount, the root file system first, its destination, its source, and "rw", "ro", or "hidden" for a file system
//!   that only the guest has
//! - out: a zero byte when everything is as it should be; or what went wrong, and the end
//! - out: a byte for each signal that comes
//! - in: a byte, the exit code. It ends so, above 128 by the signal. The end of the connection: by SIGKILL

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{ExitCode, exit};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, fchdir, pivot_root};

/// Bytes of the request. A path has at most 4096, and a container hardly ever a thousand mounts.
const REQUEST_LIMIT: usize = 8 * 1024 * 1024;
/// Stopping, continuing, and what nobody sends to a container's process: they are not passed on.
const OWN_SIGNALS: [Signal; 7] = [
    Signal::SIGCHLD,
    Signal::SIGCONT,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGURG,
    Signal::SIGWINCH,
];

type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    // Before anybody knows the pid: no signal may end us on its own.
    let Ok(signals) = take_signals() else {
        return ExitCode::FAILURE;
    };
    // SAFETY: whoever started us has put a socket there for us, and nothing else has opened anything yet but the signals'.
    let mut socket = unsafe { UnixStream::from_raw_fd(3) };
    if socket.set_nonblocking(false).is_err() {
        return ExitCode::from(64);
    }
    let entered = read_request(&mut socket).and_then(|request| enter(&request));
    let answer = entered.as_ref().err().map_or(&b"\0"[..], String::as_bytes);
    if socket.write_all(answer).is_err() || entered.is_err() {
        return ExitCode::FAILURE;
    }
    end_like(serve(&mut socket, &signals))
}

/// Blocks every signal; they are read from the descriptor.
fn take_signals() -> nix::Result<SignalFd> {
    let mut all = SigSet::all();
    for own in OWN_SIGNALS {
        all.remove(own);
    }
    all.thread_block()?;
    SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

fn read_request(socket: &mut UnixStream) -> Result<Vec<u8>> {
    let mut head = [0; 4];
    socket
        .read_exact(&mut head)
        .map_err(told("read the request"))?;
    let length = usize::try_from(u32::from_be_bytes(head)).map_err(told("read the request"))?;
    if length > REQUEST_LIMIT {
        return Err(format!(
            "read a request of {length} bytes: at most {REQUEST_LIMIT}"
        ));
    }
    let mut request = vec![0; length];
    socket
        .read_exact(&mut request)
        .map_err(told("read the request"))?;
    Ok(request)
}

/// Goes where the container is seen to be, and gives up what is not needed there.
fn enter(request: &[u8]) -> Result<()> {
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
    for [destination, source, mode] in mounts {
        let open_place = || open_inside(&root, destination);
        // One whose place is not there (it is in a file system of the guest's) is not seen.
        if open_place().is_ok() {
            show(source, mode, &open_place).map_err(told(format!("show {}", source.display())))?;
        }
    }
    fchdir(&root).map_err(told("enter the root file system"))?;
    pivot_root(".", ".").map_err(told("pivot into the root file system"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(told("leave the host's files"))?;
    chdir("/").map_err(told("enter the root file system"))?;
    drop_privileges().map_err(told("drop privileges"))
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
        return mount_at(&place, Path::new("tmpfs"), MsFlags::MS_RDONLY);
    }
    mount_at(&place, source, MsFlags::MS_BIND | MsFlags::MS_REC)?;
    if mode == Path::new("ro") {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount_at(&open_place()?, source, flags)?;
    }
    Ok(())
}

fn mount_at(place: &OwnedFd, source: &Path, flags: MsFlags) -> nix::Result<()> {
    let path = format!("/proc/self/fd/{}", place.as_raw_fd());
    // Of no meaning for a bind mount.
    let (kind, options) = (Some("tmpfs"), Some("nr_inodes=2"));
    mount(Some(source), path.as_str(), kind, flags, options)
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

/// Passes signals on until the exit code comes.
fn serve(socket: &mut UnixStream, signals: &SignalFd) -> u8 {
    loop {
        let mut polled = [
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        if poll(&mut polled, PollTimeout::NONE).is_err() {
            continue;
        }
        let has_ended = polled[0].any().unwrap_or(true);
        while let Ok(Some(received)) = signals.read_signal() {
            // Fails when the other side is gone, which the next read shows.
            let _ = socket.write_all(&[u8::try_from(received.ssi_signo).unwrap_or(0)]);
        }
        let mut code = [128 + 9];
        if has_ended {
            let _ = socket.read(&mut code);
            return code[0];
        }
    }
}

/// Ends with the exit code, above 128 by the signal if that ends anybody, without a core dump.
fn end_like(code: u8) -> ! {
    let number = i32::from(code) - 128;
    if number > 0 {
        let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
        if let Ok(wanted) = Signal::try_from(number)
            && !OWN_SIGNALS.contains(&wanted)
            && wanted != Signal::SIGSTOP
        {
            let _ = SigSet::from(wanted).thread_unblock();
            let _ = raise(wanted);
        }
    }
    exit(i32::from(code))
}

fn told<E: Display>(action: impl Display) -> impl Fn(E) -> String {
    move |error| format!("cannot {action}: {error}")
}
