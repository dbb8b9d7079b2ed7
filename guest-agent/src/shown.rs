//! The processes of a container for people: texts of procfs, with the ids that they have inside.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;

use crate::proto::{ShowProcessesResponse, ShownProcess};

const PROCESS_LIMIT: usize = 1024;
const COMMAND_LINE_LIMIT: u64 = 4096;
/// Lines of `status` that say something of a process, not of what the kernel is built with.
const STATUS_LINES: [&str; 28] = [
    "Name", "Umask", "State", "Ngid", "Uid", "Gid", "FDSize", "Groups", "VmPeak", "VmSize", "VmLck", "VmHWM", "VmRSS",
    "VmData", "VmStk", "VmExe", "VmLib", "Threads", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "CapInh",
    "CapPrm", "CapEff", "CapBnd", "CapAmb",
];

/// Reads those of them that are still there.
pub fn read(pids: &[i32]) -> ShowProcessesResponse {
    let seen: Vec<Seen> = pids.iter().take(PROCESS_LIMIT).filter_map(|pid| see(*pid)).collect();
    let inside: BTreeMap<u32, u32> = seen.iter().map(|one| (one.outer, one.inner)).collect();
    ShowProcessesResponse {
        processes: seen.iter().filter_map(|one| show(one, &inside)).collect(),
        boot_time_unix_seconds: boot_time(),
    }
}

/// What procfs says of a process.
struct Seen {
    outer: u32,
    inner: u32,
    stat: String,
    status: String,
    command_line: Vec<u8>,
}

fn see(pid: i32) -> Option<Seen> {
    let file = |name: &str| format!("/proc/{pid}/{name}");
    let status = String::from_utf8_lossy(&fs::read(file("status")).ok()?).into_owned();
    let mut command_line = Vec::new();
    fs::File::open(file("cmdline"))
        .ok()?
        .take(COMMAND_LINE_LIMIT)
        .read_to_end(&mut command_line)
        .ok()?;
    Some(Seen {
        outer: pid.unsigned_abs(),
        inner: inner_id(&status, "NSpid")?,
        stat: String::from_utf8_lossy(&fs::read(file("stat")).ok()?).into_owned(),
        status,
        command_line,
    })
}

fn show(seen: &Seen, inside: &BTreeMap<u32, u32>) -> Option<ShownProcess> {
    let parent = value(&seen.status, "PPid")?.trim().parse().ok()?;
    let parent = inside.get(&parent).copied().unwrap_or(0);
    let group = inner_id(&seen.status, "NSpgid")?;
    let session = inner_id(&seen.status, "NSsid")?;
    Some(ShownProcess {
        pid: seen.inner,
        stat: inner_stat(&seen.stat, [seen.inner, parent, group, session])?,
        status: inner_status(&seen.status, seen.inner, parent),
        command_line: seen.command_line.clone(),
    })
}

/// The id in the innermost namespace.
fn inner_id(status: &str, name: &str) -> Option<u32> {
    value(status, name)?.split_ascii_whitespace().last()?.parse().ok()
}

fn value<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

/// A program chooses its name, which stands in parentheses and may have some of its own.
fn inner_stat(stat: &str, [pid, parent, group, session]: [u32; 4]) -> Option<String> {
    let (begin, rest) = stat.trim_end().rsplit_once(')')?;
    let (_, name) = begin.split_once('(')?;
    let name = name.replace(char::is_control, "?");
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    // Behind the session.
    let terminal = fields.nth(3)?;
    let foreground_group = fields.next()?.parse::<i64>().map_or(-1, |id| id.min(0));
    let rest: Vec<&str> = fields.collect();
    Some(format!(
        "{pid} ({name}) {state} {parent} {group} {session} {terminal} {foreground_group} {}\n",
        rest.join(" ")
    ))
}

fn inner_status(status: &str, pid: u32, parent: u32) -> String {
    let is_wanted = |line: &&str| {
        line.split_once(':')
            .is_some_and(|(name, _)| STATUS_LINES.contains(&name))
    };
    let mut text: String = status.lines().filter(is_wanted).flat_map(|line| [line, "\n"]).collect();
    for (name, id) in [("Tgid", pid), ("Pid", pid), ("PPid", parent), ("NSpid", pid)] {
        text.push_str(&format!("{name}:\t{id}\n"));
    }
    text
}

fn boot_time() -> u32 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("btime ")?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_gets_the_ids_of_the_container() {
        let stat = "812 (a) b (c) S 1 812 812 34816 830 4194560 1 2\n";
        assert_eq!(
            inner_stat(stat, [7, 0, 7, 7]).as_deref(),
            Some("7 (a) b (c) S 0 7 7 34816 0 4194560 1 2\n")
        );
        assert_eq!(inner_stat("812", [1, 0, 1, 1]), None);
    }

    #[test]
    fn status_keeps_what_is_of_the_process() {
        let status = "Name:\tsh\nTgid:\t812\nPid:\t812\nPPid:\t1\nUid:\t0\t0\t0\t0\nNSpid:\t812\t7\nSpeculation_Store_Bypass:\tvulnerable\n";
        assert_eq!(inner_id(status, "NSpid"), Some(7));
        assert_eq!(
            inner_status(status, 7, 0),
            "Name:\tsh\nUid:\t0\t0\t0\t0\nTgid:\t7\nPid:\t7\nPPid:\t0\nNSpid:\t7\n"
        );
    }
}
