//! Acting on a container that is there.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use super::Container;
use crate::bundle;
use crate::crun::{self, Scratch};
use crate::error::{Error, Result};
use crate::process::{State, name};
use crate::proto;
use crate::sandbox::lock;
use crate::stdio::ChildEnds;

/// The largest Linux signal number.
const SIGNAL_LIMIT: u32 = 64;

impl Container {
    /// Sends a signal by its Linux number to a process, or to every process of the container.
    pub fn signal(&self, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        let number = i32::try_from(signal)
            .ok()
            .filter(|_| (1..=SIGNAL_LIMIT).contains(&signal));
        let number = number.ok_or_else(|| {
            Error::InvalidArgument(format!(
                "Cannot send signal {signal}: the numbers are 1..={SIGNAL_LIMIT}"
            ))
        })?;
        let pid = self.with_process(exec_id, |process| process.signal_target(&name(&self.id, exec_id)))?;
        if !all {
            return self.reaper.kill(pid, number);
        }
        if number == libc::SIGKILL {
            return self.cgroup.kill();
        }
        for pid in self.cgroup.processes() {
            // SAFETY: kill takes two integers and touches no memory. One that is gone meanwhile needs no signal.
            unsafe { libc::kill(pid, number) };
        }
        Ok(())
    }

    /// All processes, with the exec that one is, if it is one.
    pub fn list(&self) -> Vec<proto::Process> {
        let execs: BTreeMap<i32, String> = lock(&self.inner)
            .execs
            .iter()
            .filter_map(|(id, process)| Some((process.pid()?, id.clone())))
            .collect();
        let pids = self.cgroup.processes().into_iter();
        pids.map(|pid| proto::Process {
            guest_pid: pid.unsigned_abs(),
            exec_id: execs.get(&pid).cloned().unwrap_or_default(),
        })
        .collect()
    }

    /// Freezes every process. Waits for starts of execs to end first: a frozen one would never end.
    pub async fn pause(&self) -> Result<()> {
        let _whole = self.operation.write().await;
        {
            let inner = lock(&self.inner);
            if inner.paused || !matches!(inner.init.state, State::Running { .. }) {
                return Err(Error::FailedPrecondition(format!(
                    "Cannot pause container \"{}\": it is not running",
                    self.id
                )));
            }
        }
        self.cgroup.set_frozen(true).await?;
        lock(&self.inner).paused = true;
        Ok(())
    }

    /// Thaws them.
    pub async fn resume(&self) -> Result<()> {
        let _whole = self.operation.write().await;
        {
            let inner = lock(&self.inner);
            if !inner.paused || inner.init_has_exited() {
                return Err(Error::FailedPrecondition(format!(
                    "Cannot resume container \"{}\": it is not paused",
                    self.id
                )));
            }
        }
        self.cgroup.set_frozen(false).await?;
        lock(&self.inner).paused = false;
        Ok(())
    }

    /// Changes the limits that are set in `resources`, an OCI `LinuxResources`.
    pub async fn update(&self, resources: &[u8]) -> Result<()> {
        bundle::check_object("the OCI resources", resources)?;
        let _whole = self.operation.write().await;
        if lock(&self.inner).init_has_exited() {
            return Err(Error::FailedPrecondition(format!(
                "Cannot update container \"{}\": it has exited",
                self.id
            )));
        }
        let scratch = Scratch::create()?;
        let file = scratch.write("resources.json", resources)?;
        let arguments = [
            OsStr::new("update"),
            OsStr::new("--resources"),
            file.as_os_str(),
            OsStr::new(&self.id),
        ];
        crun::run(
            &self.reaper,
            &scratch,
            &format!("update container \"{}\"", self.id),
            &arguments,
            ChildEnds::default(),
        )
        .await
    }
}
