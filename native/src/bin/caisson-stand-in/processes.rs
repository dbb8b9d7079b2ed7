//! `/proc` of a container as the host sees it: files of the guest's processes, as far as programs that list processes read
//! them (psgo of Podman).
//!
//! They are asked for when somebody opens the directory, who waits until they are there (fanotify(7)). Files come as a name
//! that ends with NUL, a big-endian u32 length and so many bytes, one behind the other; a name is a file's, or has a process's
//! directory before it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, openat};
use nix::poll::PollTimeout;
use nix::sys::fanotify::{
    EventFFlags, Fanotify, FanotifyEvent, FanotifyResponse, InitFlags, MarkFlags, MaskFlags,
    Response,
};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};

/// How long somebody waits for the guest; then what is there is shown.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of one file; a process's command line can be long.
const FILE_LIMIT: usize = 64 * 1024;

pub struct Processes {
    /// By the mount that can be written.
    directory: OwnedFd,
    /// None where the kernel cannot do it: nothing is ever shown then.
    fanotify: Option<Fanotify>,
    /// Those who wait, since when.
    waiting: Vec<FanotifyEvent>,
    since: Option<Instant>,
    shown: BTreeSet<String>,
    /// What the processes' PID namespace is called on the host: ours.
    namespace: String,
}

impl Processes {
    /// `directory` is that of a file system that only we write.
    pub fn new(directory: OwnedFd) -> nix::Result<Self> {
        let fanotify = watch(&directory).ok();
        let namespace = fs::read_link("/proc/self/ns/pid")
            .map(|link| link.to_string_lossy().into_owned())
            .unwrap_or_default();
        Ok(Self {
            directory,
            fanotify,
            waiting: Vec::new(),
            since: None,
            shown: BTreeSet::new(),
            namespace,
        })
    }

    /// Readable when somebody opens the directory.
    pub fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.fanotify.as_ref().map(AsFd::as_fd)
    }

    /// How long to wait at most before [`Self::let_go_when_late`].
    pub fn patience(&self) -> PollTimeout {
        let left = |since: Instant| PATIENCE.saturating_sub(since.elapsed());
        self.since
            .and_then(|since| PollTimeout::try_from(left(since)).ok())
            .unwrap_or(PollTimeout::NONE)
    }

    /// Takes those who opened the directory. True: they are the first, and the processes are to be asked for.
    pub fn are_wanted(&mut self) -> bool {
        let Some(fanotify) = &self.fanotify else {
            return false;
        };
        self.waiting
            .extend(fanotify.read_events().unwrap_or_default());
        if self.waiting.is_empty() || self.since.is_some() {
            return false;
        }
        self.since = Some(Instant::now());
        true
    }

    /// Shows these files and no others, and lets those go on who wait. What cannot be shown is left out.
    pub fn show(&mut self, mut files: &[u8]) {
        for process in std::mem::take(&mut self.shown) {
            remove(&self.directory, &process);
        }
        while let Some((name, content, rest)) = next_file(files) {
            files = rest;
            // One that cannot be read is skipped by whoever lists.
            let _ = self.write(name, content);
        }
        self.let_go();
    }

    /// Nobody waits for a guest that does not answer.
    pub fn let_go_when_late(&mut self) {
        if self.since.is_some_and(|since| since.elapsed() >= PATIENCE) {
            self.let_go();
        }
    }

    fn write(&mut self, name: &str, content: &[u8]) -> nix::Result<()> {
        if let Some((process, _)) = name.split_once('/') {
            if self.shown.insert(process.to_owned()) {
                self.make(process)?;
            }
        } else {
            let _ = unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir);
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let file = openat(
            &self.directory,
            name,
            flags,
            Mode::from_bits_truncate(0o444),
        )?;
        File::from(file)
            .write_all(content)
            .map_err(|_| nix::errno::Errno::EIO)
    }

    /// The directory of a process, with what is the same in all.
    fn make(&self, process: &str) -> nix::Result<()> {
        let mode = Mode::from_bits_truncate(0o755);
        for name in [
            process,
            &format!("{process}/attr"),
            &format!("{process}/ns"),
        ] {
            mkdirat(&self.directory, name, mode)?;
        }
        symlinkat(
            self.namespace.as_str(),
            &self.directory,
            format!("{process}/ns/pid").as_str(),
        )
    }

    fn let_go(&mut self) {
        self.since = None;
        let Some(fanotify) = &self.fanotify else {
            return;
        };
        for event in self.waiting.drain(..) {
            if let Some(file) = event.fd() {
                // It has ended meanwhile.
                let _ = fanotify.write_response(FanotifyResponse::new(file, Response::FAN_ALLOW));
            }
        }
    }
}

/// The directory itself, whatever mount it is opened by.
fn watch(directory: &OwnedFd) -> nix::Result<Fanotify> {
    let fanotify = Fanotify::init(
        InitFlags::FAN_CLASS_CONTENT | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK,
        EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC,
    )?;
    let opened = MaskFlags::FAN_OPEN_PERM | MaskFlags::FAN_ONDIR;
    fanotify.mark(MarkFlags::FAN_MARK_ADD, opened, directory, None::<&str>)?;
    Ok(fanotify)
}

fn next_file(files: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let end = files.iter().position(|byte| *byte == 0)?;
    let name = std::str::from_utf8(&files[..end]).ok()?;
    let (length, rest) = files[end + 1..].split_first_chunk::<4>()?;
    let (content, rest) =
        rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let is_plain =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_known = name.split('/').all(is_plain) && content.len() <= FILE_LIMIT;
    is_known.then_some((name, content, rest))
}

fn remove(directory: &OwnedFd, process: &str) {
    for name in ["stat", "status", "cmdline", "attr/current", "ns/pid"] {
        let _ = unlinkat(
            directory,
            format!("{process}/{name}").as_str(),
            UnlinkatFlags::NoRemoveDir,
        );
    }
    for name in [
        &format!("{process}/attr"),
        &format!("{process}/ns"),
        process,
    ] {
        let _ = unlinkat(directory, name, UnlinkatFlags::RemoveDir);
    }
}
