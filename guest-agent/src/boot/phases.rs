//! The boot timeline: names with the monotonic time since kernel start.
//!
//! Stage 1 hands its part to stage 2 in the environment variable [`VARIABLE`] as `name=micros` words.

use std::sync::Mutex;

use nix::time::{ClockId, clock_gettime};

/// Environment variable that carries the phases over `execve`.
pub const VARIABLE: &str = "CAISSON_BOOT_PHASES";

static PHASES: Mutex<Vec<(String, u64)>> = Mutex::new(Vec::new());

/// Notes that the phase called `name` is reached.
pub fn mark(name: &str) {
    if let Ok(mut phases) = PHASES.lock() {
        phases.push((name.to_owned(), now_micros()));
    }
}

/// What has been noted so far.
pub fn all() -> Vec<(String, u64)> {
    PHASES.lock().map(|phases| phases.clone()).unwrap_or_default()
}

/// The value for [`VARIABLE`].
pub fn export() -> String {
    all()
        .iter()
        .map(|(name, at)| format!("{name}={at}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Takes over what stage 1 has exported.
pub fn import() {
    let text = std::env::var(VARIABLE).unwrap_or_default();
    if let Ok(mut phases) = PHASES.lock() {
        phases.splice(0..0, parse(&text));
    }
}

fn parse(text: &str) -> Vec<(String, u64)> {
    text.split_ascii_whitespace()
        .filter_map(|word| word.split_once('='))
        .filter_map(|(name, at)| Some((name.to_owned(), at.parse().ok()?)))
        .collect()
}

/// CLOCK_MONOTONIC starts with the kernel's timekeeping.
fn now_micros() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .ok()
        .and_then(|time| u64::try_from(time.tv_sec() * 1_000_000 + time.tv_nsec() / 1000).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_skips_what_is_malformed() {
        assert_eq!(
            parse("init=12 modules=x bad =3 root=99"),
            [("init".into(), 12), (String::new(), 3), ("root".into(), 99)]
        );
        assert!(parse("").is_empty());
    }
}
