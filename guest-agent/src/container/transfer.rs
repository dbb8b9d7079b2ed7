//! Moving files: a process of the agent's own beside the container.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio as Stream};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::Container;
use crate::error::{Context, Error, Result};
use crate::process::State;
use crate::proto::{CreateFileTransferRequest, FileOperation, Stdio};
use crate::sandbox::lock;
use crate::stdio::ChildEnds;
use crate::{child, files, ids};

/// The kernel's limit for one path.
const PATH_LIMIT: usize = 4095;

/// What a request asks for, and the streams that go with it.
pub(super) fn plan(request: CreateFileTransferRequest) -> Result<(String, files::Task, Stdio)> {
    ids::check_exec_id(&request.exec_id)?;
    let operation = request.operation();
    let (stdin, stdout) = match operation {
        FileOperation::Read | FileOperation::Archive => (false, true),
        FileOperation::Write | FileOperation::Extract => (true, false),
        FileOperation::Unspecified => {
            return Err(Error::InvalidArgument(
                "Cannot move files: no operation is named".into(),
            ));
        }
    };
    let path = &request.path;
    if !path.starts_with('/') || path.contains('\0') || path.len() > PATH_LIMIT {
        return Err(Error::InvalidArgument(format!(
            "Cannot move files: the path must be absolute, without NUL, of at most {PATH_LIMIT} bytes"
        )));
    }
    let task = files::Task {
        operation,
        path: PathBuf::from(request.path),
        mode: request.mode & 0o7777,
        owner: (request.uid, request.gid),
    };
    let stdio = Stdio {
        stdin,
        stdout,
        stderr: true,
        ..Stdio::default()
    };
    Ok((request.exec_id, task, stdio))
}

impl Container {
    /// Starts it and returns its process id.
    pub(super) fn launch_transfer(&self, task: &files::Task, ends: ChildEnds) -> Result<i32> {
        let root = self.open_root()?;
        let number = root.as_raw_fd();
        let mut command = Command::new("/proc/self/exe");
        command.arg0(files::NAME).args(task.arguments(number));
        command.env_clear().current_dir("/");
        command
            .stdin(ends.stdin.map_or_else(Stream::null, Stream::from))
            .stdout(ends.stdout.map_or_else(Stream::null, Stream::from))
            .stderr(ends.stderr.map_or_else(Stream::null, Stream::from));
        let prepare = move || {
            child::prepare()?;
            child::keep_open(number)
        };
        // SAFETY: both only make system calls that are allowed between fork and exec; the descriptor is open in the parent.
        unsafe { command.pre_exec(prepare) };
        let child = command
            .spawn()
            .context(|| format!("reach the files of container \"{}\"", self.id))?;
        i32::try_from(child.id()).map_err(|_| Error::Internal("Cannot use a process id beyond 31 bits".into()))
    }

    /// The container's root directory as its init sees it, mounts included.
    fn open_root(&self) -> Result<OwnedFd> {
        let inner = lock(&self.inner);
        // It is not reaped while it is in this state, so the id is its own.
        let State::Running { pid } = inner.init.state else {
            return Err(Error::FailedPrecondition(format!(
                "Cannot reach the files of container \"{}\": it is not running",
                self.id
            )));
        };
        let path = format!("/proc/{pid}/root");
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        open(path.as_str(), flags, Mode::empty()).context(|| format!("open the root of container \"{}\"", self.id))
    }

    /// Ends transfers: they are not in the container's cgroup.
    pub(super) fn kill_transfers(&self) {
        let inner = lock(&self.inner);
        for process in inner.execs.values().filter(|process| process.is_transfer) {
            if let Some(pid) = process.pid() {
                let _ = self.reaper.kill(pid, libc::SIGKILL);
            }
        }
    }
}
