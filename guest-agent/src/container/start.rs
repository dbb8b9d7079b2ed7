//! Starting the user's processes.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::Container;
use crate::bundle::{Terminal, adapt_process};
use crate::console::ConsoleSocket;
use crate::crun::{self, Scratch};
use crate::error::{Error, Result};
use crate::process::{Program, State, name};
use crate::sandbox::lock;
use crate::stdio::ChildEnds;

impl Container {
    /// Runs the user's program in the created init, and returns its process id.
    pub async fn start_init(self: &Arc<Self>) -> Result<i32> {
        let _whole = self.operation.write().await;
        let pid = match lock(&self.inner).init.state {
            State::Created { pid } => pid,
            State::Exiting | State::Stopped => {
                return Err(Error::FailedPrecondition(format!(
                    "Cannot start container \"{}\": it has exited",
                    self.id
                )));
            }
            _ => {
                return Err(Error::FailedPrecondition(format!(
                    "Cannot start container \"{}\": it has been started",
                    self.id
                )));
            }
        };
        if !crun::release_init(&self.id) {
            self.start_by_crun().await?;
        }
        let mut inner = lock(&self.inner);
        // It may have run and ended already.
        if matches!(inner.init.state, State::Created { .. }) {
            inner.init.state = State::Running { pid };
        }
        Ok(pid)
    }

    async fn start_by_crun(&self) -> Result<()> {
        let scratch = Scratch::create()?;
        let arguments = [OsStr::new("start"), OsStr::new(&self.id)];
        crun::run(
            &self.reaper,
            &scratch,
            &format!("start container \"{}\"", self.id),
            &arguments,
            ChildEnds::default(),
        )
        .await
    }

    /// Runs a registered exec, and returns its process id. After a failure only deletion is left for it.
    pub async fn start_exec(self: &Arc<Self>, exec_id: &str) -> Result<i32> {
        let _shared = self.operation.read().await;
        let (program, ends, terminal) = self.take_registered(exec_id)?;
        // It may die before its process id is known.
        let _hold = self.reaper.hold();
        let launched = match program {
            Program::Files(task) => self.launch_transfer(&task, ends).map(|pid| (pid, None)),
            Program::Oci(process) => match adapt_process(&process, terminal) {
                Ok(process) => self.launch_exec(exec_id, &process, ends, terminal).await,
                Err(error) => Err(error),
            },
        };
        let result = launched.and_then(|(pid, master)| self.adopt(exec_id, pid, master));
        if result.is_err() {
            // Deletion is refused while it starts, so it is there.
            let _ = self.with_process(exec_id, |process| {
                process.state = State::Failed;
                process.endpoints.end_unattached();
                Ok(())
            });
        }
        self.changed.notify_waiters();
        result
    }

    fn take_registered(&self, exec_id: &str) -> Result<(Program, ChildEnds, Terminal)> {
        let what = name(&self.id, exec_id);
        let mut inner = lock(&self.inner);
        let program = match &inner.process(&self.id, exec_id)?.state {
            State::Registered { program, .. } => Some(program),
            _ => None,
        };
        if matches!(program, Some(Program::Oci(_))) {
            self.check_can_exec(&inner, &what)?;
        }
        let process = inner.process(&self.id, exec_id)?;
        match std::mem::replace(&mut process.state, State::Starting) {
            State::Registered { program, ends } => Ok((program, ends, process.wanted_terminal())),
            other => {
                process.state = other;
                Err(Error::FailedPrecondition(format!(
                    "Cannot start {what}: it has been started"
                )))
            }
        }
    }

    async fn launch_exec(
        &self,
        exec_id: &str,
        process: &[u8],
        ends: ChildEnds,
        terminal: Terminal,
    ) -> Result<(i32, Option<OwnedFd>)> {
        let scratch = Scratch::create()?;
        let socket = terminal.map(|_| ConsoleSocket::listen(&scratch)).transpose()?;
        let process_file = scratch.write("process.json", process)?;
        let pid_file = scratch.file("pid");
        let mut arguments = vec![
            OsStr::new("exec"),
            OsStr::new("--detach"),
            OsStr::new("--process"),
            process_file.as_os_str(),
        ];
        arguments.extend([OsStr::new("--pid-file"), pid_file.as_os_str()]);
        if let Some(socket) = &socket {
            arguments.extend([OsStr::new("--console-socket"), socket.path().as_os_str()]);
        }
        let count = ends.further.len().to_string();
        if !ends.further.is_empty() {
            arguments.extend([OsStr::new("--preserve-fds"), OsStr::new(&count)]);
        }
        arguments.push(OsStr::new(&self.id));
        crun::run(
            &self.reaper,
            &scratch,
            &format!("start {}", name(&self.id, exec_id)),
            &arguments,
            ends,
        )
        .await?;
        Ok((scratch.read_pid()?, socket.map(ConsoleSocket::receive).transpose()?))
    }

    /// Takes over the started process: its terminal and, sooner or later, its exit.
    fn adopt(self: &Arc<Self>, exec_id: &str, pid: i32, master: Option<OwnedFd>) -> Result<i32> {
        let exit = self.reaper.watch(pid);
        let attached = self.with_process(exec_id, |process| {
            process.state = State::Running { pid };
            master.map_or(Ok(()), |master| process.attach_terminal(master))
        });
        if let Err(error) = attached {
            // Nobody could use it; its exit is not to be reported.
            let _ = self.reaper.kill(pid, libc::SIGKILL);
            return Err(error);
        }
        tokio::spawn(Arc::clone(self).report_exec(exec_id.to_owned(), exit));
        Ok(pid)
    }
}
