//! A container: its cgroup, its init and its execs.

mod control;
mod create;
mod exits;
mod start;
mod transfer;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, RwLock};
use tokio::task::AbortHandle;

use crate::bundle::Bundle;
use crate::cgroup::Cgroup;
use crate::console::Size;
use crate::descriptors::Descriptors;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::forward::Peer;
use crate::notify::NotifySocket;
use crate::process::{Process, Program, State, name};
use crate::proto::{CreateExecRequest, CreateFileTransferRequest, Stdio};
use crate::reaper::Reaper;
use crate::root_image::RootImage;
use crate::sandbox::lock;
use crate::volumes::HeldVolumes;
use crate::{bundle, ids};

/// Execs that a container may have registered at once.
const EXEC_LIMIT: usize = 1024;

/// One container. Calls on it may come at the same time.
pub struct Container {
    id: String,
    cgroup: Cgroup,
    reaper: Reaper,
    events: Events,
    /// Of init.
    descriptors: Descriptors,
    /// Shared by starts of execs; whole for what must not meet them.
    operation: RwLock<()>,
    /// Tells that a process has changed its state.
    changed: Notify,
    inner: Mutex<Inner>,
}

/// What goes with the container.
type Held = (HeldVolumes, Option<NotifySocket>);

struct Inner {
    init: Process,
    execs: BTreeMap<String, Process>,
    paused: bool,
    oom_kills: u64,
    oom_watch: Option<AbortHandle>,
    /// Held for their removal with the container.
    _bundle: Bundle,
    _held: Held,
    _root: Option<RootImage>,
}

impl Inner {
    fn process(&mut self, container_id: &str, exec_id: &str) -> Result<&mut Process> {
        if exec_id.is_empty() {
            return Ok(&mut self.init);
        }
        let found = self.execs.get_mut(exec_id);
        found.ok_or_else(|| {
            Error::NotFound(format!(
                "Cannot find {}",
                name(container_id, &exec_id.escape_default().to_string())
            ))
        })
    }

    fn init_has_exited(&self) -> bool {
        matches!(self.init.state, State::Exiting | State::Stopped)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(task) = &self.oom_watch {
            task.abort();
        }
    }
}

impl Container {
    /// Works on one process; empty `exec_id` is init.
    pub fn with_process<T>(&self, exec_id: &str, work: impl FnOnce(&mut Process) -> Result<T>) -> Result<T> {
        work(lock(&self.inner).process(&self.id, exec_id)?)
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Connects to a descriptor that a process was given; empty `exec_id` is init. The error is the reason for the peer.
    pub async fn connect(&self, exec_id: &str, number: u32) -> std::result::Result<Peer, String> {
        if exec_id.is_empty() {
            return self.descriptors.connect(number).await;
        }
        let descriptors = self.with_process(exec_id, |process| Ok(Arc::clone(&process.descriptors)));
        descriptors.map_err(|error| error.to_string())?.connect(number).await
    }

    /// Registers an exec; nothing runs yet.
    pub fn create_exec(&self, request: CreateExecRequest) -> Result<()> {
        let exec_id = request.exec_id;
        ids::check_exec_id(&exec_id)?;
        let what = name(&self.id, &exec_id);
        bundle::adapt_process(&request.oci_process_json, None)?;
        let mut inner = lock(&self.inner);
        self.check_can_exec(&inner, &what)?;
        let program = Program::Oci(request.oci_process_json);
        let descriptors = Descriptors::open(&request.descriptors)?;
        self.register(
            &mut inner,
            exec_id,
            program,
            request.stdio.unwrap_or_default(),
            descriptors,
        )
    }

    /// Registers a transfer of files; nothing runs yet. A paused container has files, too.
    pub fn create_file_transfer(&self, request: CreateFileTransferRequest) -> Result<()> {
        let (exec_id, task, stdio) = transfer::plan(request)?;
        let mut inner = lock(&self.inner);
        if inner.init_has_exited() {
            return Err(Error::FailedPrecondition(format!(
                "Cannot reach the files of container \"{}\": it has exited",
                self.id
            )));
        }
        self.register(&mut inner, exec_id, Program::Files(task), stdio, Default::default())
    }

    fn register(
        &self,
        inner: &mut Inner,
        exec_id: String,
        program: Program,
        stdio: Stdio,
        descriptors: (Descriptors, Vec<OwnedFd>),
    ) -> Result<()> {
        let what = name(&self.id, &exec_id);
        if inner.execs.contains_key(&exec_id) {
            return Err(Error::AlreadyExists(format!("Cannot create {what}: it exists")));
        }
        if inner.execs.len() >= EXEC_LIMIT {
            return Err(Error::ResourceExhausted(format!(
                "Cannot create {what}: the container has {EXEC_LIMIT} of {EXEC_LIMIT}"
            )));
        }
        inner
            .execs
            .insert(exec_id, Process::registered(program, stdio, descriptors)?);
        Ok(())
    }

    fn check_can_exec(&self, inner: &Inner, what: &str) -> Result<()> {
        if inner.init_has_exited() {
            return Err(Error::FailedPrecondition(format!(
                "Cannot run {what}: the container has exited"
            )));
        }
        if inner.paused {
            return Err(Error::FailedPrecondition(format!(
                "Cannot run {what}: the container is paused"
            )));
        }
        Ok(())
    }

    /// Resizes the terminal of a process, now or when it has one.
    pub fn resize(&self, exec_id: &str, size: Size) -> Result<()> {
        self.with_process(exec_id, |process| process.resize(size))
    }

    /// Forgets an exec that has stopped or never run.
    pub fn delete_exec(&self, exec_id: &str) -> Result<()> {
        let mut inner = lock(&self.inner);
        if inner.process(&self.id, exec_id)?.is_live() {
            return Err(Error::FailedPrecondition(format!(
                "Cannot delete {}: it is running",
                name(&self.id, exec_id)
            )));
        }
        inner.execs.remove(exec_id);
        Ok(())
    }

    /// Waits until `reached` holds; it is looked at after every change of a process.
    async fn wait_for(&self, mut reached: impl FnMut(&mut Inner) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Listen before looking, or a change in between would be missed.
            changed.as_mut().enable();
            if reached(&mut lock(&self.inner)) {
                return;
            }
            changed.await;
        }
    }
}

/// What creation hands out: the container and init's process id.
type Created = (Arc<Container>, i32);
