//! Listening sockets that get every TCP connection to the loopback of a network namespace, whatever its port.
//!
//! A BPF program of the type `sk_lookup` (Documentation/bpf/prog_sk_lookup.rst of Linux, from 5.9 on) is asked for the socket of
//! each connection that is made in the namespace, and names ours for the addresses 127.0.0.1 and ::1. It is attached as
//! long as the descriptor of its link is open, so that nothing outlives the process.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, AsRawFd as _, IntoRawFd, OwnedFd};

use napi_derive::napi;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::bpf::{
    Instruction, attach_socket_lookup, load_socket_lookup, new_socket_map, set_socket,
};
use crate::error::{Result, failed};
use crate::netns::run_in;

/// Listening sockets and what sends them connections. The descriptors are close-on-exec and the caller's.
#[napi(object, object_from_js = false)]
pub struct LoopbackListener {
    /// Listening sockets, non-blocking: for IPv4, and for IPv6 where the host has it.
    pub listeners: Vec<i32>,
    /// Closing it ends the redirection.
    pub link: i32,
}

/// Listens for every TCP connection to 127.0.0.1 and ::1 of the namespace at `netns_path`. The local address of an accepted
/// socket is what its client has connected to.
#[napi]
pub fn listen_loopback(netns_path: String) -> Result<LoopbackListener> {
    let (sockets, link) = run_in(netns_path, "listen-loopback", listen_here)?;
    Ok(LoopbackListener {
        listeners: sockets.into_iter().map(IntoRawFd::into_raw_fd).collect(),
        link: link.into_raw_fd(),
    })
}

fn listen_here() -> Result<(Vec<TcpListener>, OwnedFd)> {
    let mut sockets = vec![listen_on(Ipv4Addr::LOCALHOST.into())?];
    // Without IPv6 in the kernel or on the loopback nobody can connect by it.
    sockets.extend(listen_on(Ipv6Addr::LOCALHOST.into()));
    let map = new_socket_map(2)?;
    for (index, socket) in (0..).zip(&sockets) {
        set_socket(map.as_fd(), index, socket.as_fd())?;
    }
    let program = load_socket_lookup(&lookup_program(map.as_raw_fd()))?;
    let path = "/proc/thread-self/ns/net";
    let netns = open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| failed(format_args!("open \"{path}\""), errno))?;
    let link = attach_socket_lookup(program.as_fd(), netns.as_fd())?;
    Ok((sockets, link))
}

/// The port is any: what connects to it comes by the program, too.
fn listen_on(address: std::net::IpAddr) -> Result<TcpListener> {
    TcpListener::bind(SocketAddr::new(address, 0))
        .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
        .map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EINVAL));
            failed(format_args!("listen on {address}"), errno)
        })
}

// Registers: r0 answers, r1 to r5 arguments, r6 to r9 kept over calls, r10 the frame.
const CONTEXT: u8 = 6;
const SOCKET: u8 = 7;
const FRAME: u8 = 10;

// Fields of `struct bpf_sk_lookup`, and what they hold for our addresses, in the order of the network.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const LOCAL_IP4: i16 = 40;
const LOCAL_IP6: [i16; 4] = [44, 48, 52, 56];
const LOCALHOST_IP4: i32 = i32::from_ne_bytes([127, 0, 0, 1]);
const LOCALHOST_IP6: [i32; 4] = [0, 0, 0, i32::from_ne_bytes([0, 0, 0, 1])];

const MAP_LOOKUP_ELEM: i32 = 1;
const SK_RELEASE: i32 = 86;
const SK_ASSIGN: i32 = 124;
const SK_PASS: i32 = 1;
const PSEUDO_MAP_FD: u8 = 1;

/// The program, which passes on what is not ours: then the kernel goes on to look for a socket itself.
fn lookup_program(map: i32) -> Vec<Instruction> {
    const KEY: i16 = -4;
    let mut code = vec![copy(CONTEXT, 1)];
    // Jumps to the end are filled in when it is known.
    code.extend([
        load(2, CONTEXT, PROTOCOL),
        jump_unless(2, libc::IPPROTO_TCP),
    ]);
    code.push(load(2, CONTEXT, FAMILY));
    let to_ipv4 = code.len();
    code.extend([jump_if(2, libc::AF_INET), jump_unless(2, libc::AF_INET6)]);
    for (field, wanted) in LOCAL_IP6.into_iter().zip(LOCALHOST_IP6) {
        code.extend([load(2, CONTEXT, field), jump_unless(2, wanted)]);
    }
    code.push(store(FRAME, KEY, 1));
    let to_choice = code.len();
    code.push(jump());
    let ipv4 = code.len();
    code.extend([load(2, CONTEXT, LOCAL_IP4), jump_unless(2, LOCALHOST_IP4)]);
    code.push(store(FRAME, KEY, 0));
    let choice = code.len();
    code.extend(load_map(1, map));
    code.extend([
        copy(2, FRAME),
        add(2, i32::from(KEY)),
        call(MAP_LOOKUP_ELEM),
    ]);
    let to_end = code.len();
    code.push(jump_if(0, 0));
    code.extend([
        copy(SOCKET, 0),
        copy(1, CONTEXT),
        copy(2, SOCKET),
        set(3, 0),
    ]);
    code.extend([call(SK_ASSIGN), copy(1, SOCKET), call(SK_RELEASE)]);
    let end = code.len();
    code.extend([set(0, SK_PASS), exit()]);

    aim(&mut code, to_ipv4, ipv4);
    aim(&mut code, to_choice, choice);
    aim(&mut code, to_end, end);
    for index in 0..end {
        if code[index].code == JUMP_UNLESS {
            aim(&mut code, index, end);
        }
    }
    code
}

/// Lets the jump at `from` lead to `to`, which is counted from the instruction behind it.
fn aim(code: &mut [Instruction], from: usize, to: usize) {
    code[from].offset = i16::try_from(to - from - 1).unwrap_or(0);
}

// Codes of Documentation/bpf/standardization/instruction-set.rst: class, source and operation together.
const JUMP: u8 = 0x05;
const JUMP_IF: u8 = 0x15;
const JUMP_UNLESS: u8 = 0x55;

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: to | from << 4,
        offset,
        immediate,
    }
}

fn copy(to: u8, from: u8) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}

fn set(to: u8, value: i32) -> Instruction {
    instruction(0xb7, to, 0, 0, value)
}

fn add(to: u8, value: i32) -> Instruction {
    instruction(0x07, to, 0, 0, value)
}

/// 32 bits of memory into a register.
fn load(to: u8, base: u8, offset: i16) -> Instruction {
    instruction(0x61, to, base, offset, 0)
}

/// 32 bits into memory.
fn store(base: u8, offset: i16, value: i32) -> Instruction {
    instruction(0x62, base, 0, offset, value)
}

fn load_map(to: u8, map: i32) -> [Instruction; 2] {
    [
        instruction(0x18, to, PSEUDO_MAP_FD, 0, map),
        instruction(0, 0, 0, 0, 0),
    ]
}

fn jump() -> Instruction {
    instruction(JUMP, 0, 0, 0, 0)
}

fn jump_if(register: u8, value: i32) -> Instruction {
    instruction(JUMP_IF, register, 0, 0, value)
}

fn jump_unless(register: u8, value: i32) -> Instruction {
    instruction(JUMP_UNLESS, register, 0, 0, value)
}

fn call(helper: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, helper)
}

fn exit() -> Instruction {
    instruction(0x95, 0, 0, 0, 0)
}
