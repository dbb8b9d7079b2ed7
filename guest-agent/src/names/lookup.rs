//! The BPF program that leads what is sent to port 53 of one address to our sockets (type `sk_lookup`,
//! Documentation/bpf/prog_sk_lookup.rst of Linux). Bound to the port ourselves we would keep the workload from it: a name server
//! that listens on every address is one that people run.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::bpf::{Instruction, attach_socket_lookup, load_socket_lookup, socket_map};

/// The port of DNS.
pub const PORT: u16 = 53;

// Keys of the map.
const UDP: i32 = 0;
const TCP: i32 = 1;

/// Leads UDP and TCP for port 53 of `address` to these sockets, for as long as the result is open.
pub fn redirect(address: Ipv4Addr, udp: &impl AsFd, tcp: &impl AsFd) -> io::Result<OwnedFd> {
    let map = socket_map(&[udp.as_fd(), tcp.as_fd()])?;
    let program = load_socket_lookup(&program(address, map.as_raw_fd()))?;
    attach_socket_lookup(&program, &File::open("/proc/self/ns/net")?)
}

// Registers: r0 answers, r1 to r5 arguments, r6 to r9 kept over calls, r10 the frame.
const CONTEXT: u8 = 6;
const SOCKET: u8 = 7;
const FRAME: u8 = 10;

// Fields of `struct bpf_sk_lookup`. The address is in the order of the network, the port in the machine's.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const LOCAL_IP4: i16 = 40;
const LOCAL_PORT: i16 = 60;

const MAP_LOOKUP_ELEM: i32 = 1;
const SK_RELEASE: i32 = 86;
const SK_ASSIGN: i32 = 124;
const SK_PASS: i32 = 1;
const PSEUDO_MAP_FD: u8 = 1;
const KEY: i16 = -4;

// Codes of Documentation/bpf/standardization/instruction-set.rst. The comparisons are of 32 bits.
const LOAD: u8 = 0x61;
const STORE: u8 = 0x62;
const JUMP_UNLESS: u8 = 0x56;
const JUMP_IF: u8 = 0x16;
const COPY: u8 = 0xbf;
const SET: u8 = 0xb7;
const ADD: u8 = 0x07;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const LOAD_64: u8 = 0x18;
/// Of 64 bits: a pointer.
const JUMP_IF_NULL: u8 = 0x15;

/// Passes on what is not ours: then the kernel goes on to look for a socket itself.
fn program(address: Ipv4Addr, map: i32) -> [Instruction; 27] {
    let address = i32::from_ne_bytes(address.octets());
    let mut code = [
        instruction(COPY, CONTEXT, 1, 0, 0),
        instruction(LOAD, 2, CONTEXT, FAMILY, 0),
        unless(2, libc::AF_INET),
        instruction(LOAD, 2, CONTEXT, LOCAL_IP4, 0),
        unless(2, address),
        instruction(LOAD, 2, CONTEXT, LOCAL_PORT, 0),
        unless(2, i32::from(PORT)),
        instruction(STORE, FRAME, 0, KEY, UDP),
        instruction(LOAD, 2, CONTEXT, PROTOCOL, 0),
        // Over the two instructions that take it for TCP.
        instruction(JUMP_IF, 2, 0, 2, libc::IPPROTO_UDP),
        unless(2, libc::IPPROTO_TCP),
        instruction(STORE, FRAME, 0, KEY, TCP),
        instruction(LOAD_64, 1, PSEUDO_MAP_FD, 0, map),
        instruction(0, 0, 0, 0, 0),
        instruction(COPY, 2, FRAME, 0, 0),
        instruction(ADD, 2, 0, 0, i32::from(KEY)),
        instruction(CALL, 0, 0, 0, MAP_LOOKUP_ELEM),
        instruction(JUMP_IF_NULL, 0, 0, 0, 0),
        instruction(COPY, SOCKET, 0, 0, 0),
        instruction(COPY, 1, CONTEXT, 0, 0),
        instruction(COPY, 2, SOCKET, 0, 0),
        instruction(SET, 3, 0, 0, 0),
        instruction(CALL, 0, 0, 0, SK_ASSIGN),
        instruction(COPY, 1, SOCKET, 0, 0),
        instruction(CALL, 0, 0, 0, SK_RELEASE),
        instruction(SET, 0, 0, 0, SK_PASS),
        instruction(EXIT, 0, 0, 0, 0),
    ];
    let end = code.len() - 2;
    for (index, jump) in code.iter_mut().enumerate() {
        if matches!(jump.code, JUMP_UNLESS | JUMP_IF_NULL) {
            jump.offset = i16::try_from(end - index - 1).unwrap_or(0);
        }
    }
    code
}

/// A jump to the end, whose offset is filled in when that is known.
fn unless(register: u8, value: i32) -> Instruction {
    instruction(JUMP_UNLESS, register, 0, 0, value)
}

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: to | from << 4,
        offset,
        immediate,
    }
}
