//! `delete`: makes sure that nothing of a container is left, as long as that takes no more than asking its daemon.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::daemon_call::Daemon;
use crate::flags::Flags;
use crate::install::Install;
use crate::messages::{DeleteResponse, RemoveRequest, RemoveResponse, Timestamp};
use crate::node;
use crate::sandbox::{Identity, Record, group_of, is_id, is_torn, metrics_path, socket_path};

/// containerd kills us after 5 s; Node, which waits longer, has to be done by then.
const REMOVE_LIMIT: Duration = Duration::from_millis(250);
const END_LIMIT: Duration = Duration::from_millis(500);
const EXIT_LIMIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 150_000_000,
};
/// 128 + SIGKILL: what containerd reports for a task whose shim is gone.
const KILLED: u32 = 137;

/// Returns what to print, or nothing when there is more to do: then the same `delete` in Node does all of it, also what has
/// been done here.
pub fn delete(flags: &Flags, install: &Install) -> Option<Vec<u8>> {
    let Flags { namespace, id, .. } = flags;
    if !is_id(namespace) || !is_id(id) {
        return None;
    }
    let state = install.settings()?.state_directory;
    let bundle = match flags.bundle.as_str() {
        "" => env::current_dir().ok(),
        bundle => Some(bundle.into()),
    };
    let record_path = Record::path(&state, namespace, id);
    let own = Record::read(&record_path);
    if own.is_none() && is_torn(&record_path) {
        return None;
    }
    let in_bundle = || group_of(bundle.as_deref()?, id);
    let sandbox_id = match &own {
        Some(record) => record.sandbox_id.clone(),
        None => in_bundle().unwrap_or_else(|| id.clone()),
    };
    // Containers that containerd added to a running sandbox by itself have no record of their own.
    let record = own.or_else(|| Record::read(&Record::path(&state, namespace, &sandbox_id)));
    if !is_id(&sandbox_id) {
        return None;
    }
    let socket = record
        .as_ref()
        .map(|record| record.socket_path.clone())
        .or_else(|| address_in(bundle.as_deref()?))
        .or_else(|| socket_path(&flags.address, namespace, &sandbox_id, &state, None))?;
    if record
        .as_ref()
        .is_some_and(|record| record.serves_many && !record.daemon.is_alive())
    {
        node::remove_stale(&state);
    }
    if record.is_none() && is_torn(&socket) {
        return None;
    }
    if !goes_on(&socket, id, record.as_ref())? {
        remove(&socket)?;
        remove(&metrics_path(&state, namespace, &sandbox_id))?;
        if state.join(namespace).join(&sandbox_id).exists() {
            return None;
        }
    }
    if bundle.is_some_and(|bundle| has_mounts(&bundle)) {
        return None;
    }
    remove(&record_path)?;
    Some(response())
}

/// Has the daemon forget the container. True: it goes on for other containers; false: it is gone for sure.
fn goes_on(socket: &Path, id: &str, record: Option<&Record>) -> Option<bool> {
    match Daemon::connect(socket) {
        Ok(mut daemon) => {
            let request = RemoveRequest {
                container_id: id.to_owned(),
            };
            let response: RemoveResponse = daemon.call("Remove", &request, REMOVE_LIMIT)?;
            if response.remaining > 0 {
                return Some(true);
            }
            if !daemon.wait_for_end(END_LIMIT) {
                return None;
            }
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {}
        Err(_) => return None,
    }
    // One with other sandboxes goes on; it has closed the socket of this one last.
    record
        .is_none_or(|record| record.serves_many || has_exited(&record.daemon))
        .then_some(false)
}

/// Waits for the end of a daemon that has closed its socket.
fn has_exited(daemon: &Identity) -> bool {
    if !daemon.is_alive() {
        return true;
    }
    // Opened before the look that decides, so that it is of this very process.
    let pidfd = Pid::from_raw(daemon.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    if !daemon.is_alive() {
        return true;
    }
    let Some(pidfd) = pidfd else { return false };
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&EXIT_LIMIT)).is_ok_and(|count| count > 0)
}

fn address_in(bundle: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(bundle.join("address")).ok()?;
    let path = text.trim().strip_prefix("unix://")?;
    path.starts_with('/').then(|| path.into())
}

/// Whether something is mounted on the root file system. What cannot be told is Node's to look at.
fn has_mounts(bundle: &Path) -> bool {
    let Some(bundle) = bundle.to_str() else { return true };
    fs::read("/proc/self/mountinfo").map_or(true, |mounts| {
        let wanted = format!(" {bundle}/rootfs");
        mounts.windows(wanted.len()).any(|window| window == wanted.as_bytes())
    })
}

/// Removes a file; gone already is fine.
fn remove(path: &Path) -> Option<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => None,
        _ => Some(()),
    }
}

fn response() -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let exited_at = Timestamp {
        seconds: i64::try_from(now.as_secs()).unwrap_or_default(),
        nanos: i32::try_from(now.subsec_nanos()).unwrap_or_default(),
    };
    DeleteResponse {
        exit_status: KILLED,
        exited_at: Some(exited_at),
    }
    .encode_to_vec()
}
