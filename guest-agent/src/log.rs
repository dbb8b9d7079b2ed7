//! Log lines on the console: `caisson-agent: level: text`.
//!
//! Few, escaped, and rate-bounded: parts of them may be chosen by a workload.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::clean;

/// Longest text of a line, in bytes.
const LINE_LIMIT: usize = 512;
/// Lines that may come at once.
const BURST: u32 = 64;
/// Time after which one more line may come.
const REFILL: Duration = Duration::from_millis(100);

static DEBUG: AtomicBool = AtomicBool::new(false);
static BUDGET: Mutex<Option<Budget>> = Mutex::new(None);

/// Token bucket that counts what it refuses.
struct Budget {
    tokens: u32,
    refilled_at: Instant,
    dropped: u64,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self {
            tokens: BURST,
            refilled_at: now,
            dropped: 0,
        }
    }

    /// Takes one line's worth. `Some(n)`: go on, `n` lines were dropped since the last one.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let steps = now.saturating_duration_since(self.refilled_at).as_millis() / REFILL.as_millis();
        if steps > 0 {
            let gained = u32::try_from(steps).unwrap_or(BURST);
            self.tokens = self.tokens.saturating_add(gained).min(BURST);
            self.refilled_at = now;
        }
        if self.tokens == 0 {
            self.dropped += 1;
            return None;
        }
        self.tokens -= 1;
        Some(std::mem::take(&mut self.dropped))
    }
}

/// Lets [`debug`] lines through.
pub fn enable_debug() {
    DEBUG.store(true, Ordering::Relaxed);
}

/// Something asked for did not happen.
pub fn error(text: &str) {
    write("error", text);
}

/// Something abnormal, but nothing asked for failed.
pub fn warn(text: &str) {
    write("warn", text);
}

/// May repeat; off unless the kernel command line says `caisson.log=debug`.
pub fn debug(text: impl FnOnce() -> String) {
    if DEBUG.load(Ordering::Relaxed) {
        write("debug", &text());
    }
}

/// The last words before the machine ends: not rate-bounded.
pub fn fatal(text: &str) {
    emit("fatal", text);
}

fn write(level: &str, text: &str) {
    let dropped = {
        let Ok(mut budget) = BUDGET.lock() else { return };
        let now = Instant::now();
        budget.get_or_insert_with(|| Budget::new(now)).take(now)
    };
    match dropped {
        None => {}
        Some(0) => emit(level, text),
        Some(count) => {
            emit("warn", &format!("{count} log lines dropped"));
            emit(level, text);
        }
    }
}

fn emit(level: &str, text: &str) {
    let line = format!("caisson-agent: {level}: {}\n", clean(text, LINE_LIMIT));
    // A console that cannot be written to leaves nobody to tell.
    if let Some(mut console) = console() {
        let _ = console.write_all(line.as_bytes());
    }
}

/// The console, or standard error where there is none (tests).
fn console() -> Option<File> {
    ["/dev/console", "/dev/stderr"].iter().find_map(|path| {
        OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)
            .ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_drops_beyond_the_burst_and_counts_it() {
        let start = Instant::now();
        let mut budget = Budget::new(start);

        for _ in 0..BURST {
            assert_eq!(budget.take(start), Some(0));
        }
        assert_eq!(budget.take(start), None);
        assert_eq!(budget.take(start), None);

        assert_eq!(budget.take(start + REFILL), Some(2));
        assert_eq!(budget.take(start + REFILL), None);
    }
}
