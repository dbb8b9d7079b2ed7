//! Numbers of a container's cgroup and of the sandbox's network.

use std::collections::BTreeMap;
use std::fs;

use crate::cgroup::{Cgroup, field, fields};
use crate::error::Result;
use crate::proto::{CpuStats, GetStatsResponse, IoStats, MemoryStats, NetworkStats, PidsStats};

/// Block devices and network interfaces that an answer holds at most.
const DEVICE_LIMIT: usize = 256;

/// Reads everything. A file that the kernel lacks counts as empty; a cgroup that is gone is an error.
pub fn read(cgroup: &Cgroup) -> Result<GetStatsResponse> {
    let cpu = cgroup.read("cpu.stat")?;
    let optional = |file: &str| cgroup.read(file).unwrap_or_default();
    Ok(GetStatsResponse {
        cpu: Some(parse_cpu(&cpu)),
        memory: Some(MemoryStats {
            usage_bytes: number(&optional("memory.current")).unwrap_or(0),
            limit_bytes: number(&optional("memory.max")).unwrap_or(u64::MAX),
            swap_usage_bytes: number(&optional("memory.swap.current")).unwrap_or(0),
            swap_limit_bytes: number(&optional("memory.swap.max")).unwrap_or(u64::MAX),
            peak_bytes: number(&optional("memory.peak")).unwrap_or(0),
            stat: to_map(&optional("memory.stat")),
            events: to_map(&optional("memory.events")),
        }),
        pids: Some(PidsStats {
            current: number(&optional("pids.current")).unwrap_or(0),
            limit: number(&optional("pids.max"))
                .filter(|limit| *limit != u64::MAX)
                .unwrap_or(0),
        }),
        io: parse_io(&optional("io.stat")),
        network: parse_network(&fs::read_to_string("/proc/net/dev").unwrap_or_default()),
    })
}

fn parse_cpu(text: &str) -> CpuStats {
    let get = |name| field(text, name).unwrap_or(0);
    CpuStats {
        usage_usec: get("usage_usec"),
        user_usec: get("user_usec"),
        system_usec: get("system_usec"),
        nr_periods: get("nr_periods"),
        nr_throttled: get("nr_throttled"),
        throttled_usec: get("throttled_usec"),
    }
}

/// A file with one number, or `max` for none.
fn number(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        digits => digits.parse().ok(),
    }
}

fn to_map(text: &str) -> BTreeMap<String, u64> {
    fields(text).map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Lines of `major:minor key=value …`.
fn parse_io(text: &str) -> Vec<IoStats> {
    text.lines().filter_map(parse_io_line).take(DEVICE_LIMIT).collect()
}

fn parse_io_line(line: &str) -> Option<IoStats> {
    let mut words = line.split_ascii_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let mut stats = IoStats {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        ..IoStats::default()
    };
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        let Ok(value) = value.parse() else { continue };
        match key {
            "rbytes" => stats.read_bytes = value,
            "wbytes" => stats.write_bytes = value,
            "rios" => stats.read_operations = value,
            "wios" => stats.write_operations = value,
            _ => {}
        }
    }
    Some(stats)
}

/// Lines of `name: ` and sixteen numbers, after two lines of heading. The loopback is left out.
fn parse_network(text: &str) -> Vec<NetworkStats> {
    text.lines()
        .skip(2)
        .filter_map(parse_network_line)
        .filter(|stats| stats.name != "lo")
        .take(DEVICE_LIMIT)
        .collect()
}

fn parse_network_line(line: &str) -> Option<NetworkStats> {
    let (name, numbers) = line.split_once(':')?;
    let numbers: Vec<u64> = numbers
        .split_ascii_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        _,
        _,
        _,
        _,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
        ..,
    ] = numbers[..]
    else {
        return None;
    };
    let name = name.trim().to_owned();
    Some(NetworkStats {
        name,
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number("max\n"), Some(u64::MAX));
        assert_eq!(number("4096\n"), Some(4096));
        assert_eq!(number(""), None);
    }

    #[test]
    fn io_lines_with_unknown_keys_and_garbage() {
        let got = parse_io("254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16\nnonsense\n");
        assert_eq!(got.len(), 2);
        assert_eq!(
            got[0],
            IoStats {
                major: 254,
                minor: 0,
                read_bytes: 1,
                write_bytes: 2,
                read_operations: 3,
                write_operations: 4
            }
        );
        assert_eq!(
            got[1],
            IoStats {
                major: 8,
                minor: 16,
                ..IoStats::default()
            }
        );
    }

    #[test]
    fn network_lines_without_the_loopback() {
        let text = "Inter-|   Receive |  Transmit\n face |bytes packets |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 4 0 0 0 0 20 5 6 7 0 0 0 0\n";
        let got = parse_network(text);
        assert_eq!(got.len(), 1);
        assert_eq!(
            (
                got[0].name.as_str(),
                got[0].rx_bytes,
                got[0].rx_dropped,
                got[0].tx_bytes,
                got[0].tx_dropped
            ),
            ("eth0", 10, 4, 20, 7)
        );
    }

    #[test]
    fn cpu_fields() {
        let got =
            parse_cpu("usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 0\nnr_throttled 0\nthrottled_usec 1\n");
        assert_eq!(
            (got.usage_usec, got.user_usec, got.system_usec, got.throttled_usec),
            (9, 5, 4, 1)
        );
    }
}
