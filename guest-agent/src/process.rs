//! One process of a container: init, or an exec.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::bundle::Terminal;
use crate::console::{self, Size};
use crate::descriptors::Descriptors;
use crate::error::{Error, Result};
use crate::files;
use crate::proto::Stdio;
use crate::stdio::{ChildEnds, Endpoints};

/// Where a process is in its life.
pub enum State {
    /// An exec that has not been started, and the ends for its standard streams.
    Registered {
        /// What it will be.
        program: Program,
        /// Handed to crun at start.
        ends: ChildEnds,
    },
    /// An exec that crun is starting.
    Starting,
    /// An exec that could not be started; only deletion is left.
    Failed,
    /// An init that is set up and blocked before its program.
    Created {
        /// Process id in the guest.
        pid: i32,
    },
    /// Runs.
    Running {
        /// Process id in the guest.
        pid: i32,
    },
    /// Reaped, but not reported: an init waits for its execs.
    Exiting,
    /// Reported.
    Stopped,
}

/// What an exec runs.
pub enum Program {
    /// A program in the container: an OCI `Process`, JSON as the host gave it.
    Oci(Vec<u8>),
    /// The agent's own, on the container's files.
    Files(files::Task),
}

/// A process with its streams. Dropping it closes them.
pub struct Process {
    /// Where it is.
    pub state: State,
    /// Its streams.
    pub endpoints: Endpoints,
    /// Whether it is the agent's own, outside of the container's cgroup.
    pub is_transfer: bool,
    /// Our sides of what an exec has from descriptor 3 on.
    pub descriptors: Arc<Descriptors>,
    declared: Stdio,
    size: Size,
    terminal: Option<OwnedFd>,
}

impl Process {
    /// An init that crun has created as `pid`.
    pub fn created(pid: i32, declared: Stdio, endpoints: Endpoints) -> Self {
        Self::new(State::Created { pid }, declared, endpoints)
    }

    /// An exec to be started later.
    pub fn registered(
        program: Program,
        declared: Stdio,
        (descriptors, further): (Descriptors, Vec<OwnedFd>),
    ) -> Result<Self> {
        let (endpoints, mut ends) = Endpoints::new(&declared)?;
        ends.further = further;
        let is_transfer = matches!(program, Program::Files(_));
        let process = Self::new(State::Registered { program, ends }, declared, endpoints);
        Ok(Self {
            is_transfer,
            descriptors: Arc::new(descriptors),
            ..process
        })
    }

    fn new(state: State, declared: Stdio, endpoints: Endpoints) -> Self {
        Self {
            state,
            endpoints,
            is_transfer: false,
            descriptors: Arc::default(),
            size: Size::new(declared.columns, declared.rows),
            declared,
            terminal: None,
        }
    }

    /// The terminal to ask crun for.
    pub fn wanted_terminal(&self) -> Terminal {
        self.declared.terminal.then_some(self.size)
    }

    /// Takes the terminal that crun has made.
    pub fn attach_terminal(&mut self, master: OwnedFd) -> Result<()> {
        console::resize(&master, self.size)?;
        self.endpoints.attach_terminal(&master, &self.declared)?;
        self.terminal = Some(master);
        Ok(())
    }

    /// Resizes the terminal, or remembers the size for when there is one. Without a terminal nothing happens.
    pub fn resize(&mut self, size: Size) -> Result<()> {
        self.size = size;
        self.terminal
            .as_ref()
            .map_or(Ok(()), |master| console::resize(master, size))
    }

    /// The process id, while there is a process.
    pub fn pid(&self) -> Option<i32> {
        match self.state {
            State::Created { pid } | State::Running { pid } => Some(pid),
            _ => None,
        }
    }

    /// Whether its exit is still to be reported.
    pub fn is_live(&self) -> bool {
        matches!(
            self.state,
            State::Starting | State::Created { .. } | State::Running { .. } | State::Exiting
        )
    }

    /// The process id to signal. `name` is for the error.
    pub fn signal_target(&self, name: &str) -> Result<i32> {
        match self.state {
            State::Created { pid } | State::Running { pid } => Ok(pid),
            State::Registered { .. } | State::Starting | State::Failed => Err(Error::FailedPrecondition(format!(
                "Cannot signal {name}: it has not been started"
            ))),
            State::Exiting | State::Stopped => Err(Error::NotFound(format!("Cannot signal {name}: it has exited"))),
        }
    }
}

/// How an error names a process.
pub fn name(container_id: &str, exec_id: &str) -> String {
    if exec_id.is_empty() {
        format!("container \"{container_id}\"")
    } else {
        format!("exec \"{exec_id}\" of container \"{container_id}\"")
    }
}
