//! A daemon that waits with a booted VM, taken in the place of a new one. See src/shim/ready-daemon.ts.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::offer::{Offer, Outcome};

const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Daemons that are asked: those of a pool are alike, so one that declines speaks for the others, unless it was just taken.
const MOST_ASKED: usize = 3;

/// What to print, when a daemon of the pool has taken the sandbox. Nothing: there is none, or none that suits.
pub fn take(state: &Path, offer: impl Fn() -> Option<Offer>) -> Option<Vec<u8>> {
    let entries = fs::read_dir(state.join(".ready")).ok()?;
    let mut made = None;
    for entry in entries.take(MOST_ASKED) {
        let Ok(stream) = UnixStream::connect(entry.ok()?.path()) else {
            continue;
        };
        if made.is_none() {
            made = Some(offer()?);
        }
        // For what has failed the daemon that we start then has its words.
        if let Ok(Outcome::Taken(answer)) = made.as_ref()?.make(stream, ANSWER_LIMIT) {
            return Some(answer);
        }
    }
    None
}
