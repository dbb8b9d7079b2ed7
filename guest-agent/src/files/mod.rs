//! Files from and into a container, as a program of its own beside it: what it reads and writes may take long, and what it is
//! given may be made to harm.
//!
//! It runs as the guest's root, outside of the container. Every path is resolved by the kernel as if the container's root were
//! "/" (openat2(2)), so that nothing outside of it is reached, whatever the container changes meanwhile.

mod archive;
mod extract;
mod root;
mod single;

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::resource::{Resource, setrlimit};

use crate::error::{Error, Result, clean};
use crate::proto::FileOperation;
use root::Root;

/// Name under which the agent's file is this program.
pub const NAME: &str = "caisson-files";
/// Address space; a hostile archive can claim names of any length.
const MEMORY_LIMIT: u64 = 256 * 1024 * 1024;
/// Length of an error text.
const TEXT_LIMIT: usize = 900;

/// What to do, with the owner and the mode of what is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// What.
    pub operation: FileOperation,
    /// Where, absolute in the container.
    pub path: PathBuf,
    /// Of a written file.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
}

impl Task {
    /// The arguments that tell the program, behind its name. `root` is the descriptor of the container's root.
    pub fn arguments(&self, root: RawFd) -> Vec<OsString> {
        let (uid, gid) = self.owner;
        let operation = self.operation as i32;
        let numbers = [
            operation.to_string(),
            root.to_string(),
            self.mode.to_string(),
            uid.to_string(),
            gid.to_string(),
        ];
        let path = self.path.clone().into_os_string();
        numbers.into_iter().map(OsString::from).chain([path]).collect()
    }

    fn parse(arguments: &[OsString]) -> Option<(Self, OwnedFd)> {
        let [operation, root, mode, uid, gid, path] = arguments else {
            return None;
        };
        let number = |text: &OsString| text.to_str()?.parse::<u32>().ok();
        let fd = RawFd::try_from(number(root)?).ok()?;
        // SAFETY: the agent has opened it for us, and nobody else in this process knows of it.
        let root = unsafe { OwnedFd::from_raw_fd(fd) };
        let task = Self {
            operation: FileOperation::try_from(i32::try_from(number(operation)?).ok()?).ok()?,
            path: PathBuf::from(OsString::from_vec(path.clone().into_vec())),
            mode: number(mode)?,
            owner: (number(uid)?, number(gid)?),
        };
        Some((task, root))
    }
}

/// The program. What it fails with goes to stderr as `<kind> <text>`.
pub fn run() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let Some((task, root)) = Task::parse(&arguments) else {
        return ExitCode::from(64);
    };
    // Best effort: without it the guest's memory is the limit.
    let _ = setrlimit(Resource::RLIMIT_AS, MEMORY_LIMIT, MEMORY_LIMIT);
    match perform(&task, &Root::new(root)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(
                io::stderr(),
                "{} {}",
                kind(&error),
                clean(&error.to_string(), TEXT_LIMIT)
            );
            ExitCode::FAILURE
        }
    }
}

fn perform(task: &Task, root: &Root) -> Result<()> {
    match task.operation {
        FileOperation::Read => single::read(root, &task.path, &mut io::stdout().lock()),
        FileOperation::Write => single::write(root, task, &mut io::stdin().lock()),
        FileOperation::Archive => archive::archive(root, &task.path, io::stdout().lock()),
        FileOperation::Extract => extract::extract(root, task, io::stdin().lock()),
        FileOperation::Unspecified => Err(Error::InvalidArgument("Cannot move files: no operation".into())),
    }
}

/// The name of an error's kind, as the host has it.
fn kind(error: &Error) -> &'static str {
    match error {
        Error::InvalidArgument(_) => "invalid_argument",
        Error::NotFound(_) => "not_found",
        Error::Io { cause, .. } => match cause.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => "not_found",
            Some(libc::EISDIR | libc::ELOOP | libc::ENAMETOOLONG | libc::EINVAL) => "invalid_argument",
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => "permission_denied",
            Some(libc::ENOSPC | libc::EDQUOT | libc::ENOMEM | libc::EFBIG) => "resource_exhausted",
            _ => "internal",
        },
        _ => "internal",
    }
}

/// Refuses what cannot be done with a path.
fn refuse<T>(action: &str, path: &std::path::Path, fact: &str) -> Result<T> {
    Err(Error::InvalidArgument(format!(
        "Cannot {action} \"{}\": {fact}",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_come_back_as_the_task() {
        let task = Task {
            operation: FileOperation::Write,
            path: "/a b/c".into(),
            mode: 0o644,
            owner: (1, 2),
        };
        // A descriptor that is ours to give away.
        let fd = std::os::fd::IntoRawFd::into_raw_fd(std::fs::File::open("/").expect("the root"));

        let (parsed, _root) = Task::parse(&task.arguments(fd)).expect("good arguments");

        assert_eq!(parsed, task);
        assert!(Task::parse(&["1".into()]).is_none());
    }
}
