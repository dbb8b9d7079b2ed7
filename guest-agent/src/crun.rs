//! Running crun, and understanding what it says when it fails.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};

use crate::child;
use crate::error::{Context, Error, Result, clean};
use crate::log;
use crate::reaper::Reaper;
use crate::stdio::ChildEnds;

const PROGRAM: &str = "/usr/bin/crun";
const STATE: &str = "/run/crun";
const PATH: &str = "/usr/bin:/bin:/usr/sbin:/sbin";
const SCRATCH: &str = "/run/caisson/operations";
/// Time after which a crun that hangs is killed. Software emulation is slow, and hooks have limits of their own.
const LIMIT: Duration = Duration::from_secs(300);
/// Bytes of crun's log that are read.
const LOG_LIMIT: u64 = 64 * 1024;
/// Length of an error text; leaves room for its prefix in a status of 1 KiB.
const TEXT_LIMIT: usize = 900;

/// A directory for the files of one crun call, removed with it. Its path is short enough for a socket.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes an empty one.
    pub fn create() -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let path = Path::new(SCRATCH).join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    /// Path of the file called `name` in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, data: &[u8]) -> Result<PathBuf> {
        let path = self.file(name);
        fs::write(&path, data).context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// The process id that crun has written to `pid`.
    pub fn read_pid(&self) -> Result<i32> {
        let path = self.file("pid");
        let text = fs::read_to_string(&path).context(|| format!("read {}", path.display()))?;
        let pid = text.trim().parse().ok().filter(|pid| *pid > 1);
        pid.ok_or_else(|| {
            Error::Internal(format!(
                "Cannot use the process id that crun wrote: \"{}\"",
                clean(&text, 40)
            ))
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for name in ["log", "pid", "console", "process.json", "resources.json"] {
            let _ = fs::remove_file(self.file(name));
        }
        if let Err(error) = fs::remove_dir(&self.0) {
            log::warn(&format!("Cannot remove {}: {error}", self.0.display()));
        }
    }
}

/// Runs `crun <arguments>` and waits for it. `ends` become its standard streams, which the container's process inherits.
/// `action` completes "Cannot …" in the error.
pub async fn run(
    reaper: &Reaper,
    scratch: &Scratch,
    action: &str,
    arguments: &[&OsStr],
    ends: ChildEnds,
) -> Result<()> {
    let log_path = scratch.file("log");
    let mut command = Command::new(PROGRAM);
    command
        .args([
            "--root",
            STATE,
            "--cgroup-manager=cgroupfs",
            "--log-format=json",
            "--log",
        ])
        .arg(&log_path)
        .args(arguments);
    command.env_clear().env("PATH", PATH).current_dir("/");
    // crun copies itself and starts anew, so that a container cannot write to it through /proc; it takes this as the word that it
    // has, and believes it only on a file system that is read-only, as our image is.
    command.env("_LIBCONTAINER_CLONED_BINARY", "1");
    command
        .stdin(to_stdio(ends.stdin))
        .stdout(to_stdio(ends.stdout))
        .stderr(to_stdio(ends.stderr));
    let further = Further::raise(&ends.further).context(|| format!("{action}: pass descriptors on"))?;
    let sources = further.sources();
    let prepare = move || {
        child::prepare()?;
        child::put_from_three(&sources)
    };
    // SAFETY: both only make system calls that are allowed between fork and exec.
    unsafe { command.pre_exec(prepare) };
    let child = command.spawn().context(|| format!("{action}: start {PROGRAM}"))?;
    // The child's ends must not stay open here, or nobody would ever see their end.
    drop((command, further, ends.further));
    let pid =
        i32::try_from(child.id()).map_err(|_| Error::Internal("Cannot use a process id beyond 31 bits".into()))?;
    // No await since the fork: the reaper cannot have seen it die.
    let exit = reaper.watch(pid);
    let status = match tokio::time::timeout(LIMIT, exit).await {
        Ok(Ok(0)) => return Ok(()),
        Ok(status) => status.map_err(|_| Error::Internal("Cannot wait for crun: the reaper has stopped".into()))?,
        Err(_elapsed) => {
            let _ = reaper.kill(pid, libc::SIGKILL);
            return Err(Error::DeadlineExceeded(format!(
                "Cannot {action}: crun did not end within {} s",
                LIMIT.as_secs()
            )));
        }
    };
    let text = read_log(&log_path).unwrap_or_else(|| format!("crun ended with status {status}"));
    Err(classify(&text, format!("Cannot {action}: {text}")))
}

/// Descriptors for a child, out of the way of the numbers that they get there. Those are all taken meanwhile, so that nothing that
/// the start of the child needs has one of them.
struct Further {
    raised: Vec<OwnedFd>,
    _taken: Vec<OwnedFd>,
}

impl Further {
    fn raise(ends: &[OwnedFd]) -> nix::Result<Self> {
        let free = i32::try_from(ends.len()).unwrap_or(i32::MAX).saturating_add(3);
        let duplicate = |end: &OwnedFd, from| {
            let raw = fcntl(end, FcntlArg::F_DUPFD_CLOEXEC(from))?;
            // SAFETY: fcntl has just made the descriptor, and nobody else has it.
            Ok::<_, nix::Error>(unsafe { OwnedFd::from_raw_fd(raw) })
        };
        let mut taken = Vec::new();
        for end in ends {
            while taken.last().is_none_or(|last: &OwnedFd| last.as_raw_fd() < free) {
                taken.push(duplicate(end, 3)?);
            }
        }
        let raised = ends
            .iter()
            .map(|end| duplicate(end, free))
            .collect::<nix::Result<_>>()?;
        Ok(Self { raised, _taken: taken })
    }

    fn sources(&self) -> Vec<i32> {
        self.raised.iter().map(AsRawFd::as_raw_fd).collect()
    }
}

/// Lets the init of a created container go on to its program, which waits for a byte in a FIFO: all that `crun start` does in a container
/// without hooks for that moment, which the host keeps. False: it does not wait, and crun has the words for why.
pub fn release_init(container_id: &str) -> bool {
    let path = Path::new(STATE).join(container_id).join("exec.fifo");
    // Without a reader this fails instead of waiting for one.
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let Ok(mut fifo) = File::options().write(true).custom_flags(flags).open(&path) else {
        return false;
    };
    // First: as long as it is there, crun takes the container for one that has not been started.
    fs::remove_file(&path).is_ok() && fifo.write_all(&[0]).is_ok()
}

/// Whether crun knows the container.
pub fn knows(container_id: &str) -> bool {
    Path::new(STATE).join(container_id).exists()
}

fn to_stdio(fd: Option<OwnedFd>) -> Stdio {
    fd.map_or_else(Stdio::null, Stdio::from)
}

/// The messages of a JSON log, one `{"msg": …, "level": …}` a line, joined.
fn read_log(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(LOG_LIMIT).read_to_string(&mut text).ok()?;
    let text = parse_log(&text);
    (!text.is_empty()).then_some(text)
}

fn parse_log(text: &str) -> String {
    let messages = text.lines().map(|line| {
        let entry: Option<serde_json::Value> = serde_json::from_str(line).ok();
        let message = entry
            .as_ref()
            .and_then(|entry| entry.get("msg"))
            .and_then(|message| message.as_str());
        message.unwrap_or(line).to_owned()
    });
    clean(&messages.collect::<Vec<_>>().join("; "), TEXT_LIMIT)
}

/// Chooses the kind of an error from crun's words: it has no codes. What the caller's configuration causes is theirs to fix.
fn classify(text: &str, message: String) -> Error {
    const CALLER: [&str; 21] = [
        "executable file",
        "not executable",
        "not a regular file",
        "cannot find ",
        "open executable",
        "exec format error",
        "no such file or directory",
        "permission denied",
        "not a directory",
        "is a directory",
        "chdir",
        "cwd",
        "working directory",
        "setresuid",
        "setgid",
        "setgroups",
        "invalid argument",
        "unknown capability",
        "invalid",
        "unknown seccomp",
        "unknown",
    ];
    let lower = text.to_lowercase();
    if lower.contains("does not exist") && lower.contains("container") {
        return Error::NotFound(message);
    }
    if [
        "not running",
        "is not in `created` state",
        "not in created",
        "container is paused",
        "cannot exec in a stopped",
    ]
    .iter()
    .any(|words| lower.contains(words))
    {
        return Error::FailedPrecondition(message);
    }
    if CALLER.iter().any(|words| lower.contains(words)) {
        return Error::InvalidArgument(message);
    }
    Error::Internal(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_become_one_text() {
        let log = "{\"msg\":\"first\",\"level\":\"error\"}\nplain\n{\"msg\":\"a\\nb\"}\n";
        assert_eq!(parse_log(log), "first; plain; a b");
        assert_eq!(parse_log(""), "");
        assert!(parse_log(&"x".repeat(5000)).len() <= TEXT_LIMIT);
    }

    #[test]
    fn kinds_of_errors() {
        let kind = |text: &str| match classify(text, String::new()) {
            Error::InvalidArgument(_) => "invalid",
            Error::NotFound(_) => "not found",
            Error::FailedPrecondition(_) => "precondition",
            Error::Internal(_) => "internal",
            _ => "other",
        };
        assert_eq!(
            kind("executable file `nope` not found in $PATH: No such file or directory"),
            "invalid"
        );
        assert_eq!(kind("chdir to `/nodir`: No such file or directory"), "invalid");
        assert_eq!(
            kind("the path `/x` exists but it is not executable: Operation not permitted"),
            "invalid"
        );
        assert_eq!(kind("container `x` does not exist"), "not found");
        assert_eq!(kind("the container `x` is not running."), "precondition");
        assert_eq!(kind("open `/proc/1/ns`: Too many open files"), "internal");
    }
}
