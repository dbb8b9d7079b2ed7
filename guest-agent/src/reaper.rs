//! Reaping: as PID 1 the agent is the parent of every orphan.
//!
//! All statuses come from one `waitpid` loop and are handed out by process id. A container process is not our direct
//! child until crun has exited, and it may die before its id is known: while a [`Hold`] exists, statuses that nobody
//! waits for are kept (bounded).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::error::{Context, Error, Result};

/// Statuses kept while a hold exists; more processes than this do not die during one crun call.
const UNCLAIMED_LIMIT: usize = 4096;

/// Exit status as containers know it: 0..=255, 128 + signal when killed by one.
pub type ExitStatus = u32;

/// Hands out exit statuses. Cheap to clone.
#[derive(Clone, Default)]
pub struct Reaper(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    waiting: BTreeMap<i32, oneshot::Sender<ExitStatus>>,
    unclaimed: VecDeque<(i32, ExitStatus)>,
    holds: usize,
}

/// Keeps statuses of unknown processes for as long as it lives.
pub struct Hold(Reaper);

impl Drop for Hold {
    fn drop(&mut self) {
        let mut table = self.0.table();
        table.holds -= 1;
        if table.holds == 0 {
            table.unclaimed = VecDeque::new();
        }
    }
}

impl Reaper {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while holding the lock, and a panic ends the machine anyway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to keep the statuses of processes that nobody waits for yet.
    pub fn hold(&self) -> Hold {
        self.table().holds += 1;
        Hold(self.clone())
    }

    /// Asks for the status of `pid`. For a process that may have died before, a [`Hold`] must have existed since it was forked.
    pub fn watch(&self, pid: i32) -> oneshot::Receiver<ExitStatus> {
        let (sender, receiver) = oneshot::channel();
        let mut table = self.table();
        // The last one: an earlier process may have had the same id.
        if let Some(index) = table.unclaimed.iter().rposition(|(dead, _)| *dead == pid) {
            if let Some((_, status)) = table.unclaimed.remove(index) {
                let _ = sender.send(status);
            }
        } else {
            table.waiting.insert(pid, sender);
        }
        receiver
    }

    /// Sends `signal` (a Linux number, real-time ones included) to a watched process that has not been reaped, so never to another of the same id.
    pub fn kill(&self, pid: i32, signal: i32) -> Result<()> {
        let table = self.table();
        if !table.waiting.contains_key(&pid) {
            return Err(Error::NotFound(format!("Cannot signal process {pid}: it has exited")));
        }
        // SAFETY: kill takes two integers and touches no memory.
        Errno::result(unsafe { libc::kill(pid, signal) })
            .map(drop)
            .context(|| format!("send signal {signal} to process {pid}"))
    }

    /// Reaps for ever.
    pub async fn run(self) -> Result<()> {
        let mut children = signal(SignalKind::child()).context(|| "listen for SIGCHLD".into())?;
        loop {
            self.reap();
            if children.recv().await.is_none() {
                return Err(Error::Internal("Cannot reap: the signal stream has ended".into()));
            }
        }
    }

    /// Collects everything that has died. Not through `nix`, which loses processes that a real-time signal has killed.
    fn reap(&self) {
        loop {
            let mut status = 0;
            // SAFETY: waitpid writes one integer, to a live one of ours.
            match Errno::result(unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) }) {
                Ok(0) => return,
                Ok(pid) => self.deliver(pid, decode(status)),
                Err(Errno::EINTR) => {}
                // ECHILD: nobody is left.
                Err(_) => return,
            }
        }
    }

    fn deliver(&self, pid: i32, status: ExitStatus) {
        let mut table = self.table();
        if let Some(sender) = table.waiting.remove(&pid) {
            // The waiter may have been deleted with its process.
            let _ = sender.send(status);
        } else if table.holds > 0 {
            if table.unclaimed.len() == UNCLAIMED_LIMIT {
                table.unclaimed.pop_front();
            }
            table.unclaimed.push_back((pid, status));
        }
    }
}

/// Status of a process that has ended, from the word that `waitpid` gives.
fn decode(word: i32) -> ExitStatus {
    let code = if libc::WIFEXITED(word) {
        libc::WEXITSTATUS(word)
    } else {
        128 + libc::WTERMSIG(word)
    };
    code.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_kept_only_while_a_hold_exists() {
        let reaper = Reaper::default();
        reaper.deliver(7, 1);
        let hold = reaper.hold();
        reaper.deliver(8, 2);
        reaper.deliver(8, 3);

        assert_eq!(reaper.watch(8).try_recv(), Ok(3));
        assert!(reaper.watch(7).try_recv().is_err());

        drop(hold);
        assert!(reaper.table().unclaimed.is_empty());
    }

    #[test]
    fn a_watched_process_gets_its_status_and_is_not_signalled_afterwards() {
        let reaper = Reaper::default();
        let mut receiver = reaper.watch(9);

        reaper.deliver(9, 137);

        assert_eq!(receiver.try_recv(), Ok(137));
        assert!(matches!(reaper.kill(9, 0), Err(Error::NotFound(_))));
    }

    #[test]
    fn decode_knows_codes_and_signals() {
        assert_eq!(decode(0x0300), 3);
        assert_eq!(decode(0xff00), 255);
        assert_eq!(decode(9), 137);
        assert_eq!(decode(0x80 | 11), 139);
        assert_eq!(decode(40), 168);
    }
}
