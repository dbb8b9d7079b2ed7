//! The first and the last step of a container's life.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, RwLock};

use super::{Container, Created, Held, Inner};
use crate::bundle::{Additions, Bundle};
use crate::cgroup::Cgroup;
use crate::console::{ConsoleSocket, Size};
use crate::crun::{self, Scratch};
use crate::descriptors::Descriptors;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::log;
use crate::process::{Process, State};
use crate::proto::{CreateContainerRequest, Stdio};
use crate::reaper::{ExitStatus, Reaper};
use crate::root_image::RootImage;
use crate::sandbox::lock;
use crate::stdio::{ChildEnds, Endpoints};

/// Time that a killed init has to be reported, its execs included.
const STOP_LIMIT: Duration = Duration::from_secs(30);

impl Container {
    /// Creates it through crun: init is blocked before its program. After an error nothing is left.
    pub async fn create(
        request: CreateContainerRequest,
        additions: &Additions,
        held: Held,
        (descriptors, further): (Descriptors, Vec<OwnedFd>),
        reaper: Reaper,
        events: Events,
    ) -> Result<Created> {
        let id = request.container_id;
        let declared = request.stdio.unwrap_or_default();
        let terminal = declared.terminal.then(|| Size::new(declared.columns, declared.rows));
        let root = match request.root_disk.as_str() {
            "" => None,
            serial => Some(RootImage::mount(&id, serial)?),
        };
        let bundle = Bundle::create(&id, &request.oci_config_json, terminal, additions)?;
        // crun has read the configuration when it answers: it need not stay in memory until then.
        drop(request.oci_config_json);
        let (endpoints, mut ends) = Endpoints::new(&declared)?;
        ends.further = further;

        // Init may die before its process id is known.
        let _hold = reaper.hold();
        let launched = Launch {
            id: &id,
            reaper: &reaper,
            bundle: &bundle,
            declared: &declared,
            no_pivot: request.no_pivot_root,
        }
        .run(ends)
        .await;
        let prepared = launched.and_then(|(pid, master)| Ok((pid, prepare_init(pid, master, declared, endpoints)?)));
        let (pid, init) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                remove_leftovers(&reaper, &id).await;
                return Err(error);
            }
        };
        let exit = reaper.watch(pid);

        let cgroup = Cgroup::of(&id);
        let inner = Inner {
            init,
            execs: BTreeMap::new(),
            paused: false,
            oom_kills: cgroup.oom_kills(),
            oom_watch: None,
            _bundle: bundle,
            _held: held,
            _root: root,
        };
        let container = Arc::new(Self {
            id,
            cgroup,
            reaper,
            events,
            descriptors,
            operation: RwLock::new(()),
            changed: Notify::new(),
            inner: Mutex::new(inner),
        });
        container.watch_memory();
        tokio::spawn(Arc::clone(&container).report_init(exit));
        Ok((container, pid))
    }

    /// Kills what is left, waits for the exit to be reported, and removes every trace. Refused while init runs.
    pub async fn delete(&self) -> Result<()> {
        let _whole = self.operation.write().await;
        if matches!(lock(&self.inner).init.state, State::Running { .. }) {
            return Err(Error::FailedPrecondition(format!(
                "Cannot delete container \"{}\": it is running",
                self.id
            )));
        }
        self.cgroup.kill()?;
        if tokio::time::timeout(
            STOP_LIMIT,
            self.wait_for(|inner| matches!(inner.init.state, State::Stopped)),
        )
        .await
        .is_err()
        {
            return Err(Error::DeadlineExceeded(format!(
                "Cannot delete container \"{}\": its init does not die",
                self.id
            )));
        }
        if crun::knows(&self.id) {
            delete_by_crun(&self.reaper, &self.id).await?;
        }
        if let Err(error) = self.cgroup.remove() {
            log::warn(&error.to_string());
        }
        Ok(())
    }
}

/// One `crun create`.
struct Launch<'a> {
    id: &'a str,
    reaper: &'a Reaper,
    bundle: &'a Bundle,
    declared: &'a Stdio,
    no_pivot: bool,
}

impl Launch<'_> {
    /// Returns init's process id and its terminal.
    async fn run(&self, ends: ChildEnds) -> Result<(i32, Option<OwnedFd>)> {
        let scratch = Scratch::create()?;
        let socket = self
            .declared
            .terminal
            .then(|| ConsoleSocket::listen(&scratch))
            .transpose()?;
        let pid_file = scratch.file("pid");
        let mut arguments = vec![
            OsStr::new("create"),
            OsStr::new("--bundle"),
            self.bundle.path().as_os_str(),
            OsStr::new("--pid-file"),
            pid_file.as_os_str(),
        ];
        if self.no_pivot {
            arguments.push(OsStr::new("--no-pivot"));
        }
        if let Some(socket) = &socket {
            arguments.extend([OsStr::new("--console-socket"), socket.path().as_os_str()]);
        }
        let count = ends.further.len().to_string();
        if !ends.further.is_empty() {
            arguments.extend([OsStr::new("--preserve-fds"), OsStr::new(&count)]);
        }
        arguments.push(OsStr::new(self.id));
        crun::run(
            self.reaper,
            &scratch,
            &format!("create container \"{}\"", self.id),
            &arguments,
            ends,
        )
        .await?;
        Ok((scratch.read_pid()?, socket.map(ConsoleSocket::receive).transpose()?))
    }
}

fn prepare_init(pid: i32, master: Option<OwnedFd>, declared: Stdio, endpoints: Endpoints) -> Result<Process> {
    let mut init = Process::created(pid, declared, endpoints);
    if let Some(master) = master {
        init.attach_terminal(master)?;
    }
    Ok(init)
}

/// After a failed creation. Best effort: the error of the creation is the one to report.
async fn remove_leftovers(reaper: &Reaper, id: &str) {
    let cgroup = Cgroup::of(id);
    let _ = cgroup.kill();
    if crun::knows(id)
        && let Err(error) = delete_by_crun(reaper, id).await
    {
        log::warn(&error.to_string());
    }
    if let Err(error) = cgroup.remove() {
        log::warn(&error.to_string());
    }
}

async fn delete_by_crun(reaper: &Reaper, id: &str) -> Result<()> {
    let scratch = Scratch::create()?;
    let arguments = [OsStr::new("delete"), OsStr::new("--force"), OsStr::new(id)];
    crun::run(
        reaper,
        &scratch,
        &format!("delete container \"{id}\""),
        &arguments,
        ChildEnds::default(),
    )
    .await
}

/// What arrives when a process has been reaped.
pub(super) type Exit = tokio::sync::oneshot::Receiver<ExitStatus>;
