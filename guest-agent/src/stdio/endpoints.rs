//! The agent's side of one process's streams.

use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::hello::Kind;
use super::pump;
use crate::error::{Context, Result};
use crate::polled;
use crate::proto::Stdio;
use crate::vsock::Stream;

/// Room of a stdio pipe. Bytes in it take memory only while they are there; the more there can be, the fewer are the changes between
/// process and agent, each of which costs a flush of the TLB.
const PIPE_BYTES: i32 = 1024 * 1024;

/// What the process gets as its standard streams; `None` is /dev/null.
#[derive(Default)]
pub struct ChildEnds {
    /// Reading end.
    pub stdin: Option<OwnedFd>,
    /// Writing end.
    pub stdout: Option<OwnedFd>,
    /// Writing end.
    pub stderr: Option<OwnedFd>,
    /// From 3 on.
    pub further: Vec<OwnedFd>,
}

/// The other ends, and the connections that serve them. Dropping it closes everything at once.
pub struct Endpoints {
    stdin: Slot,
    stdout: Slot,
    stderr: Slot,
    /// Whether the process has ended; every output waits for it, to set its mark.
    exited: watch::Sender<bool>,
}

/// One stream. It moves when both its descriptor and its connection are there; either may come first.
enum Slot {
    /// Not declared, or over.
    Closed,
    /// Declared; nobody has asked for it.
    Waiting(Option<OwnedFd>),
    /// The host is being told that it is welcome.
    Opening(Option<OwnedFd>),
    /// The connection is there, the terminal is not.
    Connected(Option<Stream>),
    /// Bytes are moving.
    Moving(AbortHandle),
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Slot::Moving(task) = self {
            task.abort();
        }
    }
}

impl Endpoints {
    /// Makes the pipes that `stdio` declares. With a terminal the slots wait for [`Endpoints::attach_terminal`].
    pub fn new(stdio: &Stdio) -> Result<(Self, ChildEnds)> {
        let mut child = ChildEnds::default();
        let (mut stdin, mut stdout, mut stderr) = (Slot::Closed, Slot::Closed, Slot::Closed);
        if stdio.terminal {
            // Output is read in any case: a full terminal would block the process.
            stdout = Slot::Waiting(None);
            if stdio.stdin {
                stdin = Slot::Waiting(None);
            }
            return Ok((Self::assemble(stdin, stdout, stderr), child));
        }
        if stdio.stdin {
            let (reader, writer) = pipe()?;
            set_nonblocking(&writer)?;
            (child.stdin, stdin) = (Some(reader), Slot::Waiting(Some(writer)));
        }
        if stdio.stdout {
            let (reader, writer) = pipe()?;
            set_nonblocking(&reader)?;
            (child.stdout, stdout) = (Some(writer), Slot::Waiting(Some(reader)));
        }
        if stdio.stderr {
            let (reader, writer) = pipe()?;
            set_nonblocking(&reader)?;
            (child.stderr, stderr) = (Some(writer), Slot::Waiting(Some(reader)));
        }
        Ok((Self::assemble(stdin, stdout, stderr), child))
    }

    fn assemble(stdin: Slot, stdout: Slot, stderr: Slot) -> Self {
        Self {
            stdin,
            stdout,
            stderr,
            exited: watch::Sender::new(false),
        }
    }

    /// Hands over the terminal; `declared` says which streams the host will open.
    pub fn attach_terminal(&mut self, master: &OwnedFd, declared: &Stdio) -> Result<()> {
        let duplicate = || master.try_clone().context(|| "duplicate the terminal".into());
        set_nonblocking(master)?;
        self.stdout
            .provide(Kind::Stdout, duplicate()?, self.exited.subscribe())?;
        if declared.stdin {
            self.stdin.provide(Kind::Stdin, duplicate()?, self.exited.subscribe())?;
        }
        if !declared.stdout {
            self.abandon(Kind::Stdout);
        }
        Ok(())
    }

    /// Reserves a stream for a connection. False: not declared, taken, or over.
    pub fn reserve(&mut self, kind: Kind) -> bool {
        let slot = self.slot(kind);
        let Slot::Waiting(fd) = slot else { return false };
        *slot = Slot::Opening(fd.take());
        true
    }

    /// Gives a reserved stream its connection; `None` when it broke, then the data is discarded.
    pub fn connect(&mut self, kind: Kind, stream: Option<Stream>) -> Result<()> {
        let exited = self.exited.subscribe();
        let slot = self.slot(kind);
        let Slot::Opening(fd) = slot else { return Ok(()) };
        match fd.take() {
            Some(fd) => slot.start(kind, fd, stream, exited),
            None => {
                *slot = Slot::Connected(stream);
                Ok(())
            }
        }
    }

    /// The process has ended: its outputs get their marks, and what nobody has opened is discarded from here on.
    pub fn process_ended(&mut self) {
        self.exited.send_replace(true);
        for kind in [Kind::Stdin, Kind::Stdout, Kind::Stderr] {
            self.abandon(kind);
        }
    }

    fn abandon(&mut self, kind: Kind) {
        let exited = self.exited.subscribe();
        self.slot(kind).abandon(kind, exited);
    }

    /// No terminal will come: ends the streams that wait for one.
    pub fn end_unattached(&mut self) {
        if matches!(self.stdin, Slot::Connected(_)) {
            self.stdin = Slot::Closed;
        }
        for slot in [&mut self.stdout, &mut self.stderr] {
            if let Slot::Connected(stream) = slot {
                let stream = stream.take();
                let exited = self.exited.subscribe();
                *slot = match ended_source() {
                    Ok(source) => Slot::Moving(tokio::spawn(pump::output(source, stream, exited)).abort_handle()),
                    Err(_) => Slot::Closed,
                };
            }
        }
    }

    fn slot(&mut self, kind: Kind) -> &mut Slot {
        match kind {
            Kind::Stdin => &mut self.stdin,
            Kind::Stdout => &mut self.stdout,
            Kind::Stderr => &mut self.stderr,
        }
    }
}

impl Slot {
    /// Takes the descriptor and starts when the connection is there.
    fn provide(&mut self, kind: Kind, fd: OwnedFd, exited: watch::Receiver<bool>) -> Result<()> {
        match self {
            Slot::Waiting(place) | Slot::Opening(place) => *place = Some(fd),
            Slot::Connected(stream) => {
                let stream = stream.take();
                self.start(kind, fd, stream, exited)?;
            }
            Slot::Closed | Slot::Moving(_) => {}
        }
        Ok(())
    }

    fn start(&mut self, kind: Kind, fd: OwnedFd, stream: Option<Stream>, exited: watch::Receiver<bool>) -> Result<()> {
        let action = || "poll a stdio descriptor".to_owned();
        let task = match (kind, stream) {
            (Kind::Stdin, Some(stream)) => {
                let sink = polled::register(fd, Interest::WRITABLE | Interest::ERROR).context(action)?;
                tokio::spawn(pump::input(sink, stream))
            }
            (Kind::Stdin, None) => {
                *self = Slot::Closed;
                return Ok(());
            }
            (Kind::Stdout | Kind::Stderr, stream) => {
                let source = polled::register(fd, Interest::READABLE).context(action)?;
                tokio::spawn(pump::output(source, stream, exited))
            }
        };
        *self = Slot::Moving(task.abort_handle());
        Ok(())
    }

    fn abandon(&mut self, kind: Kind, exited: watch::Receiver<bool>) {
        if let Slot::Waiting(fd) = self {
            let fd = fd.take();
            *self = Slot::Closed;
            if let Some(fd) = fd {
                // Failing to poll leaves the descriptor closed, which also discards.
                let _ = self.start(kind, fd, None, exited);
            }
        }
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let ends = pipe2(OFlag::O_CLOEXEC).context(|| "create a stdio pipe".into())?;
    // Best effort: a pipe of the usual size works, only slower.
    let _ = fcntl(&ends.0, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    Ok(ends)
}

/// Sets it on our end only: the two ends of a pipe, or of a terminal, have flags of their own.
fn set_nonblocking(fd: &OwnedFd) -> Result<()> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .map(drop)
        .context(|| "make a stdio descriptor non-blocking".into())
}

/// A source that is at its end.
fn ended_source() -> io::Result<AsyncFd<OwnedFd>> {
    let (reader, _writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    polled::register(reader, Interest::READABLE)
}
