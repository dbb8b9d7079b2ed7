//! `start`: joins the daemon of the container's sandbox when there is one, else starts it.

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use prost::Message;
use serde::Deserialize;

use crate::daemon_call::Daemon;
use crate::flags::Flags;
use crate::install::{Install, MostHeap};
use crate::messages::{AttachRequest, AttachResponse, BootstrapParams};
use crate::node::{self, Answer};
use crate::offer::Offer;
use crate::pool;
use crate::sandbox::{group_of, is_id, socket_path};

const MOST_STDIN_BYTES: u64 = 10 * 1024 * 1024;
/// Longest reply of a daemon.
pub const MOST_REPLY_BYTES: u64 = 1024 * 1024;
const ATTACH_LIMIT: Duration = Duration::from_secs(5);
/// Longest time until a daemon serves; what hangs ends with it, a starved host may take most of it.
pub const START_LIMIT: Duration = Duration::from_secs(60);
/// The daemon's end of the connection with us.
const HANDSHAKE_FD: RawFd = 3;

/// Returns what to print.
pub fn start(flags: &Flags, arguments: &[String], install: &Install) -> Result<Vec<u8>, String> {
    let stdin = read_stdin()?;
    let bundle = match flags.bundle.as_str() {
        "" => env::current_dir().map_err(|error| format!("Cannot use the working directory as the bundle: {error}"))?,
        bundle => bundle.into(),
    };
    if let Some(answer) = attach(flags, &bundle, &stdin, install) {
        return Ok(answer);
    }
    let offer = || Offer::new(arguments, &bundle, &stdin, install);
    let start = DaemonStart {
        arguments,
        bundle: &bundle,
        stdin: &stdin,
        install,
    };
    let Some(settings) = install.settings() else {
        return start.spawn(None);
    };
    if let Some(answer) = pool::take(&settings.state_directory, offer) {
        return Ok(answer);
    }
    let Some(offer) = settings.one_daemon.then(offer).flatten() else {
        return start.spawn(None);
    };
    match node::offer(&settings.state_directory, &flags.namespace, &offer) {
        Answer::Print(answer) => Ok(answer),
        Answer::Fail(message) => Err(message),
        Answer::Start(socket, lock) => {
            let result = start.spawn(Some(&socket));
            drop(lock);
            result
        }
        Answer::StartOwn => start.spawn(None),
    }
}

/// Reads stdin to its end; a terminal, /dev/null or something closed counts as empty.
pub fn read_stdin() -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = std::io::stdin()
        .lock()
        .take(MOST_STDIN_BYTES + 1)
        .read_to_end(&mut bytes);
    if read.is_ok_and(|length| u64::try_from(length).unwrap_or(u64::MAX) > MOST_STDIN_BYTES) {
        return Err(format!("Cannot read stdin: it has more than {MOST_STDIN_BYTES} bytes"));
    }
    Ok(bytes)
}

/// The short way, taken when all is as usual and a daemon serves: it notes the container and says what to answer. Nothing: the
/// way through Node, which also has the words for what is wrong.
fn attach(flags: &Flags, bundle: &Path, stdin: &[u8], install: &Install) -> Option<Vec<u8>> {
    if !is_id(&flags.namespace) || !is_id(&flags.id) || !bundle.is_absolute() {
        return None;
    }
    let params = BootstrapParams::decode(stdin)
        .ok()
        .filter(|params| params.instance_id == flags.id && params.namespace == flags.namespace);
    let is_current = params.is_some();
    let wish = params
        .and_then(|params| params.socket_dir)
        .filter(|directory| !directory.is_empty());
    let sandbox_id = group_of(bundle, &flags.id)?;
    // Only our own command line's sockets depend on it.
    let state = match flags.address.as_str() {
        "" => install.settings()?.state_directory,
        _ => PathBuf::new(),
    };
    let path = socket_path(&flags.address, &flags.namespace, &sandbox_id, &state, wish.as_deref())?;
    let request = AttachRequest {
        container_id: flags.id.clone(),
        bundle: bundle.to_str()?.to_owned(),
        is_current,
    };
    let response: AttachResponse = Daemon::connect(&path).ok()?.call("Attach", &request, ATTACH_LIMIT)?;
    (!response.answer.is_empty()).then_some(response.answer)
}

/// The daemon's word on how it has come up; see src/shim/handshake.ts.
#[derive(Deserialize)]
#[serde(tag = "tag", rename_all = "lowercase")]
pub enum Reply {
    /// It serves.
    Ready {
        /// What to print, in hex.
        answer: String,
    },
    /// It does not.
    Failed {
        /// Why.
        message: String,
    },
    /// It waits with a VM that does not suit, or has just been taken.
    Declined,
}

/// Of a start that needs a daemon of its own.
struct DaemonStart<'a> {
    arguments: &'a [String],
    bundle: &'a Path,
    stdin: &'a [u8],
    install: &'a Install,
}

impl DaemonStart<'_> {
    /// Runs Node as the daemon, in a session of its own and without our stdio (containerd waits until the last holder of that has
    /// closed it), and waits until it serves; others too, when it is to listen at `node_socket`. A daemon that we do not confirm,
    /// because we have died, ends.
    fn spawn(&self, node_socket: Option<&Path>) -> Result<Vec<u8>, String> {
        let cannot = |fact: String| format!("Cannot start the daemon: {fact}");
        let failed = |error: std::io::Error| cannot(error.to_string());
        let (mut ours, theirs) = UnixStream::pair().map_err(failed)?;
        let their_fd = theirs.as_raw_fd();
        let (most_heap, action) = match node_socket {
            Some(_) => (MostHeap::OfMany, "node-daemon"),
            None => (MostHeap::OfOneSandbox, "daemon"),
        };
        let mut command = self.install.node(most_heap);
        command.arg("-bundle").arg(self.bundle).args(self.arguments).arg(action);
        command
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: only system calls, which are allowed between fork and exec.
        unsafe { command.pre_exec(move || become_daemon(their_fd)) };
        let mut child = command.spawn().map_err(failed)?;
        drop(theirs);

        ours.set_read_timeout(Some(START_LIMIT)).map_err(failed)?;
        let request = serde_json::json!({ "stdin": hex(self.stdin), "nodeSocket": node_socket });
        // A daemon that is gone says so by its reply, or by none.
        let _ = writeln!(ours, "{request}");
        match receive(&ours) {
            Ok(Some(Reply::Ready { answer })) => {
                let answer = unhex(&answer).ok_or_else(|| cannot("it gave an answer that is no hex".into()))?;
                writeln!(ours, "{{}}").map_err(failed)?;
                Ok(answer)
            }
            Ok(Some(Reply::Failed { message })) => Err(message),
            Ok(Some(Reply::Declined) | None) => {
                Err(cannot(format!("it ended before it served ({})", end_of(&mut child))))
            }
            Err(error) => {
                let _ = child.kill();
                Err(cannot(format!(
                    "it does not serve within {} s: {error}",
                    START_LIMIT.as_secs()
                )))
            }
        }
    }
}

fn become_daemon(handshake: RawFd) -> std::io::Result<()> {
    rustix::process::setsid()?;
    // SAFETY: system calls on numbers of descriptors; the child has nothing but itself.
    let result = unsafe {
        // What the caller has left open in us is not for the daemon.
        libc::close_range(4, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed());
        match handshake {
            HANDSHAKE_FD => libc::fcntl(HANDSHAKE_FD, libc::F_SETFD, 0),
            other => libc::dup2(other, HANDSHAKE_FD),
        }
    };
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// The reply, or nothing when the daemon has ended without one.
fn receive(stream: &UnixStream) -> std::io::Result<Option<Reply>> {
    let mut line = Vec::new();
    BufReader::new(stream.take(MOST_REPLY_BYTES)).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line).ok())
}

fn end_of(child: &mut Child) -> String {
    child
        .wait()
        .map_or_else(|error| error.to_string(), |status| status.to_string())
}

/// Two digits for each byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that `hex` has written.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| u8::try_from(digit.to_digit(16)?).ok())
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty()
        .then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_there_and_back() {
        assert_eq!(hex(&[0, 0xff, 0x10]), "00ff10");
        assert_eq!(unhex("00ff10"), Some(vec![0, 0xff, 0x10]));
        assert_eq!(unhex("0"), None);
        assert_eq!(unhex("0g"), None);
    }
}
