//! One daemon for many sandboxes (`daemon = "node"`). See src/shim/node-daemon.ts.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::offer::{Offer, Outcome};
use crate::sandbox::hash;
use crate::start::START_LIMIT;

const LOCK_INTERVAL: Duration = Duration::from_millis(2);
const KEY_LENGTH: usize = 32;

/// What is to be done.
pub enum Answer {
    /// To print it.
    Print(Vec<u8>),
    /// To say it and fail.
    Fail(String),
    /// To start the daemon that listens there. The lock is to be held until it does.
    Start(PathBuf, Option<File>),
    /// To start one for this sandbox alone.
    StartOwn,
}

/// Offers a start to the daemon of our kind.
pub fn offer(state: &Path, namespace: &str, offer: &Offer) -> Answer {
    let directory = state.join(".node");
    let path = directory.join(key(namespace, offer));
    if let Some(answer) = ask(&path, offer) {
        return answer;
    }
    let lock = lock(&directory, START_LIMIT).ok();
    // Whoever had the lock has started it.
    ask(&path, offer).unwrap_or(Answer::Start(path, lock))
}

/// Nothing: there is no such daemon.
fn ask(path: &Path, offer: &Offer) -> Option<Answer> {
    let stream = UnixStream::connect(path).ok()?;
    match offer.make(stream, START_LIMIT) {
        Ok(Outcome::Taken(answer)) => Some(Answer::Print(answer)),
        Ok(Outcome::Failed(message)) => Some(Answer::Fail(message)),
        Ok(Outcome::Declined) => Some(Answer::StartOwn),
        // It hangs; its sandboxes are its own matter.
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Some(Answer::StartOwn),
        // It has just ended.
        Err(_) => None,
    }
}

/// Names what a daemon has from who starts it, and cannot have twice.
fn key(namespace: &str, offer: &Offer) -> String {
    let identity = |stat: Metadata| format!("{}:{}:{}:{}", stat.dev(), stat.ino(), stat.size(), stat.mtime_nsec());
    let program = fs::metadata(&offer.program).map(identity).unwrap_or_default();
    let links = offer.namespaces.join(" ");
    let parts = [
        namespace,
        &offer.program,
        &program,
        &links,
        &offer.cgroups,
        &offer.oom_score,
    ];
    let mut key = hash(parts.join("\0").as_bytes());
    key.truncate(KEY_LENGTH);
    key
}

/// Removes the sockets of daemons that were killed, unless one is being started, which does so itself.
pub fn remove_stale(state: &Path) {
    let directory = state.join(".node");
    let Ok(_lock) = lock(&directory, Duration::ZERO) else {
        return;
    };
    let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        if UnixStream::connect(&path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
            // Left for the next one.
            let _ = fs::remove_file(&path);
        }
    }
}

/// Waits for whoever starts a daemon.
fn lock(directory: &Path, limit: Duration) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let file = File::open(directory)?;
    let deadline = Instant::now() + limit;
    loop {
        // SAFETY: a system call on a descriptor that we have open.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(file);
        }
        if Instant::now() >= deadline {
            return Err(ErrorKind::TimedOut.into());
        }
        sleep(LOCK_INTERVAL);
    }
}
