//! The process that stands for a sandbox without a container of its own: the init of its PID namespace.

use std::ffi::CString;
use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::error::{Context, Error, Result};
use crate::{child, idle};

/// As many lines as the kernel takes (user_namespaces(7)).
const MAX_LINES: usize = 340;

/// The maps of a user namespace, as the kernel reads them.
pub struct IdMaps {
    users: String,
    groups: String,
}

impl IdMaps {
    /// Those of an OCI configuration (`linux.uidMappings`, `linux.gidMappings`).
    pub fn of(config: &[u8]) -> Result<Self> {
        let config: Value = serde_json::from_slice(config)
            .map_err(|error| Error::InvalidArgument(format!("Cannot parse the configuration: {error}")))?;
        Ok(Self {
            users: lines(&config, "uidMappings")?,
            groups: lines(&config, "gidMappings")?,
        })
    }
}

fn lines(config: &Value, name: &str) -> Result<String> {
    let wrong = || {
        Error::InvalidArgument(format!(
            "Cannot make the sandbox's user namespace: linux.{name} is no list of 1 to {MAX_LINES} mappings"
        ))
    };
    let mappings = config.pointer(&format!("/linux/{name}")).and_then(Value::as_array);
    let mappings = mappings
        .filter(|list| (1..=MAX_LINES).contains(&list.len()))
        .ok_or_else(wrong)?;
    let line = |mapping: &Value| {
        let number = |field| mapping.get(field).and_then(Value::as_u64);
        let (inside, outside, size) = (number("containerID")?, number("hostID")?, number("size")?);
        Some(format!("{inside} {outside} {size}\n"))
    };
    mappings.iter().map(|mapping| line(mapping).ok_or_else(wrong)).collect()
}

/// Starts it; it ends with the machine. All but the PID namespace it shares with the agent; with maps it has the user, IPC and UTS
/// namespaces of its own, and is their root.
pub fn start(maps: Option<&IdMaps>) -> Result<i32> {
    let action = || "start the init of a PID namespace".to_owned();
    let name = CString::new(idle::NAME).map_err(|_| Error::Internal("Cannot use a name with NUL".into()))?;
    let arguments = [name.as_ptr(), std::ptr::null()];
    let below_user = libc::CLONE_NEWUSER | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    let flags = libc::CLONE_NEWPID | libc::SIGCHLD | maps.map_or(0, |_| below_user);
    // It waits for its maps by reading: its end of the pipe closes when it executes.
    let (go, mut tell) = std::io::pipe().context(action)?;
    // SAFETY: without CLONE_VM this is a fork; the child makes system calls only and then becomes another program or ends.
    // The arguments live until then.
    let pid = unsafe {
        let pid = libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0);
        if pid == 0 {
            if child::prepare().is_ok() && become_root(go.as_raw_fd()) {
                libc::execv(c"/proc/self/exe".as_ptr(), arguments.as_ptr());
            }
            libc::_exit(70);
        }
        pid
    };
    let pid = i32::try_from(pid).map_err(|_| Errno::ERANGE).context(action)?;
    if pid < 0 {
        return Err(Errno::last()).context(action);
    }
    let told = maps
        .map_or(Ok(()), |maps| write_maps(pid, maps))
        .and_then(|()| tell.write_all(&[0]).context(action));
    if told.is_err() {
        // The reaper collects it.
        let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    told.map(|()| pid)
}

fn write_maps(pid: i32, IdMaps { users, groups }: &IdMaps) -> Result<()> {
    for (name, map) in [("uid_map", users), ("gid_map", groups)] {
        let path = format!("/proc/{pid}/{name}");
        fs::write(&path, map).context(|| format!("write {path}"))?;
    }
    Ok(())
}

/// In the child: waits for the maps, then is root of its user namespace, which it would otherwise only be a stranger in. Makes
/// only system calls.
fn become_root(go: libc::c_int) -> bool {
    let mut byte = 0_u8;
    // SAFETY: read writes at most one byte to a buffer of one byte; the others touch no memory.
    unsafe {
        libc::read(go, (&raw mut byte).cast(), 1) == 1 && libc::setresgid(0, 0, 0) == 0 && libc::setresuid(0, 0, 0) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_lines_of_three_numbers() {
        let config = br#"{"linux":{"uidMappings":[{"containerID":0,"hostID":100000,"size":65536}],
            "gidMappings":[{"containerID":0,"hostID":7,"size":1},{"containerID":1,"hostID":9,"size":2}]}}"#;
        let maps = IdMaps::of(config).expect("maps");
        assert_eq!(
            (maps.users.as_str(), maps.groups.as_str()),
            ("0 100000 65536\n", "0 7 1\n1 9 2\n")
        );
    }

    #[test]
    fn a_user_namespace_needs_both_maps() {
        for config in [
            "{}",
            r#"{"linux":{"uidMappings":[]}}"#,
            r#"{"linux":{"uidMappings":[{"hostID":1}]}}"#,
        ] {
            assert!(IdMaps::of(config.as_bytes()).is_err(), "{config}");
        }
    }
}
