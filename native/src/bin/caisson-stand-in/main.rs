//! Stands on the host for the first process of a container, whose real one is in a guest.
//!
//! Its pid is what callers know of the container. They signal it, wait for it, and look through it into the container's
//! namespaces: it is in the container's network, its root is the container's root file system with its volumes (`podman cp`
//! works there), and it is process 1 of a PID namespace of its own. It executes nothing there, and opens nothing but what it
//! makes itself.
//!
//! Its arguments are for those who list processes. To have a PID namespace it forks at once: the pid is written in digits to
//! stdout, and the process that was started ends. Over fd 3, a stream socket; in:
//!
//! - frames of a big-endian u32 length and so many bytes. The first one is what it is to show (see [`view`]); each later
//!   one is `e` and a byte, the exit code that it ends with; or `p` and files (see [`processes`])
//! - the end of the connection: it ends as if by SIGKILL
//!
//! Out:
//!
//! - a zero byte when everything is shown as it should be; or what went wrong, and the end
//! - a byte for each signal that comes, and a zero byte when somebody wants to see the container's processes

mod processes;
mod view;

use std::fmt::Display;
use std::io::{Read, Write};
use std::os::fd::{AsFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::process::{ExitCode, exit};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{ForkResult, dup2_stdout, fork, setsid};

use processes::Processes;

/// Bytes of a frame. A path has at most 4096, and a container hardly ever a thousand mounts or processes.
const FRAME_LIMIT: usize = 16 * 1024 * 1024;
/// Stopping, continuing, and what nobody sends to a container's process: they are not passed on.
const OWN_SIGNALS: [Signal; 7] = [
    Signal::SIGCHLD,
    Signal::SIGCONT,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGURG,
    Signal::SIGWINCH,
];
/// What is said when somebody wants to see the processes; no signal has this number.
const PROCESSES_WANTED: u8 = 0;
const LOST: u8 = 128 + 9;

type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    // Before anybody knows the pid: no signal may end us on its own.
    let Ok(signals) = take_signals() else {
        return ExitCode::FAILURE;
    };
    match in_pid_namespace() {
        Ok(Fork::Inside) => {}
        Ok(Fork::Starter) => return ExitCode::SUCCESS,
        Err(_) => return ExitCode::FAILURE,
    }
    // SAFETY: whoever started us has put a socket there for us, and nothing else has opened anything yet but the signals'.
    let mut socket = unsafe { UnixStream::from_raw_fd(3) };
    if socket.set_nonblocking(false).is_err() {
        return ExitCode::from(64);
    }
    let entered = read_frame(&mut socket).and_then(|request| view::enter(&request));
    let answer = entered.as_ref().err().map_or(&b"\0"[..], String::as_bytes);
    let answered = socket.write_all(answer);
    match entered {
        Ok(processes) if answered.is_ok() => {
            exit(i32::from(serve(&mut socket, &signals, processes)))
        }
        _ => ExitCode::FAILURE,
    }
}

/// Blocks every signal; they are read from the descriptor.
fn take_signals() -> nix::Result<SignalFd> {
    let mut all = SigSet::all();
    for own in OWN_SIGNALS {
        all.remove(own);
    }
    all.thread_block()?;
    SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

enum Fork {
    /// The process that callers are to know.
    Inside,
    /// The one that was started, which has told its pid.
    Starter,
}

/// Goes on in a child that is process 1 of a PID namespace.
fn in_pid_namespace() -> nix::Result<Fork> {
    unshare(CloneFlags::CLONE_NEWPID)?;
    // SAFETY: there is one thread only.
    if let ForkResult::Parent { child } = unsafe { fork() }? {
        // Whoever does not hear it closes the socket, which ends the child.
        let _ = write!(std::io::stdout(), "{child}").and_then(|()| std::io::stdout().flush());
        return Ok(Fork::Starter);
    }
    dup2_stdout(std::io::stdin())?;
    setsid()?;
    // Those who enter our PID namespace may leave us children, whom nobody waits for.
    // SAFETY: ignoring is no handler.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }?;
    Ok(Fork::Inside)
}

fn read_frame(socket: &mut UnixStream) -> Result<Vec<u8>> {
    let mut head = [0; 4];
    socket.read_exact(&mut head).map_err(told("read a frame"))?;
    let length = usize::try_from(u32::from_be_bytes(head)).map_err(told("read a frame"))?;
    if length > FRAME_LIMIT {
        return Err(format!(
            "cannot read a frame of {length} bytes: at most {FRAME_LIMIT}"
        ));
    }
    let mut frame = vec![0; length];
    socket
        .read_exact(&mut frame)
        .map_err(told("read a frame"))?;
    Ok(frame)
}

/// Passes signals on and shows processes until the exit code comes.
fn serve(socket: &mut UnixStream, signals: &SignalFd, mut processes: Option<Processes>) -> u8 {
    loop {
        let watch = processes.as_ref().and_then(Processes::watch);
        let wait = processes
            .as_ref()
            .map_or(PollTimeout::NONE, Processes::patience);
        let mut polled = vec![
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        polled.extend(watch.map(|watch| PollFd::new(watch, PollFlags::POLLIN)));
        if poll(&mut polled, wait).is_err() {
            continue;
        }
        let is_ready = |index: usize| {
            polled
                .get(index)
                .is_some_and(|one| one.any() != Some(false))
        };
        let [has_frame, is_watched] = [is_ready(0), is_ready(2)];
        while let Ok(Some(received)) = signals.read_signal() {
            // Fails when the other side is gone, which the next read shows.
            let _ = socket.write_all(&[u8::try_from(received.ssi_signo).unwrap_or(0)]);
        }
        if let Some(processes) = &mut processes {
            if is_watched && processes.are_wanted() {
                let _ = socket.write_all(&[PROCESSES_WANTED]);
            }
            processes.let_go_when_late();
        }
        if !has_frame {
            continue;
        }
        match read_frame(socket).as_deref() {
            Ok([b'p', files @ ..]) => {
                if let Some(processes) = &mut processes {
                    processes.show(files);
                }
            }
            Ok([b'e', code]) => return *code,
            _ => return LOST,
        }
    }
}

fn told<E: Display>(action: impl Display) -> impl Fn(E) -> String {
    move |error| format!("cannot {action}: {error}")
}
