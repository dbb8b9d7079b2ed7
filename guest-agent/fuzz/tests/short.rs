//! A few seconds of each target on a stable toolchain: inputs that are nearly good, from a seed that stays the same.

use std::panic::catch_unwind;
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_secs(2);
const LINE: &str = "000102030405060708090a0b0c0d0eff c1 e-1 stdout";
const CONFIG: &str = r#"x{"ociVersion":"1.0.2","root":{"path":"/run/caisson/shared/c1/rootfs"},"process":{"args":["a","b"],"user":
{"uid":4294967294,"gid":0},"terminal":true,"consoleSize":{"width":1,"height":2}},"linux":{"cgroupsPath":"/x","resources":
{"memory":{"limit":18446744073709551615,"swap":-1}}},"args":["a"],"user":{"uid":0,"gid":1e3}}"#;
const FRAMES: &[u8] = b"\x80\0\0\0\x03abc\0\0\0\x01d\0\0\0\0\0\0\x80\x01";

/// xorshift64*: good enough to place changes.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(number).unwrap_or(0) % limit.max(1)
    }

    /// `good` with some changes; bytes that are put in often are ones that the good ones have.
    fn nearly(&mut self, good: &[u8]) -> Vec<u8> {
        let mut data = good.to_vec();
        for _ in 0..self.below(6) {
            let place = self.below(data.len());
            let byte = match self.below(3) {
                0 => good[self.below(good.len())],
                1 => u8::try_from(self.below(256)).unwrap_or(0),
                _ => [0, 0xff, b'"', b'\n'][self.below(4)],
            };
            match self.below(4) {
                0 if !data.is_empty() => data[place] = byte,
                1 => data.insert(place, byte),
                2 => {
                    let end = (place + self.below(8)).min(data.len());
                    data.drain(place..end);
                }
                _ => {
                    let end = (place + self.below(64)).min(data.len());
                    let copy = data[place..end].to_vec();
                    let target = self.below(data.len());
                    data.splice(target..target, copy);
                }
            }
        }
        data
    }
}

fn run(target: fn(&[u8]), good: &[u8]) {
    target(good);
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let start = Instant::now();
    while start.elapsed() < TIME {
        let data = random.nearly(good);
        if catch_unwind(|| target(&data)).is_err() {
            panic!("failed for the {} bytes {}", data.len(), data.escape_ascii());
        }
    }
}

#[test]
fn frames() {
    run(caisson_agent_fuzz::frames, FRAMES);
}

#[test]
fn hello() {
    run(caisson_agent_fuzz::hello, LINE.as_bytes());
}

#[test]
fn spec() {
    run(caisson_agent_fuzz::spec, CONFIG.as_bytes());
}
