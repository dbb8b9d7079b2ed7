//! The calls of bpf(2) that lead queries to our sockets. Each attribute structure is the head of `union bpf_attr` in
//! <linux/bpf.h> up to the last field that is set; the kernel takes the rest for zero.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;

const MAP_TYPE_SOCKMAP: u32 = 15;
const PROG_TYPE_SK_LOOKUP: u32 = 30;
const ATTACH_SK_LOOKUP: u32 = 36;

/// One instruction (struct `bpf_insn`).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Instruction {
    /// Class, source and operation together.
    pub code: u8,
    /// Destination in the low four bits, source in the high ones.
    pub registers: u8,
    /// Of memory, or of a jump's target from the instruction behind it.
    pub offset: i16,
    /// A number.
    pub immediate: i32,
}

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[repr(C)]
struct MapElement {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface_index: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// A map of sockets by their index.
pub fn socket_map(sockets: &[BorrowedFd<'_>]) -> io::Result<OwnedFd> {
    let attributes = MapCreate {
        map_type: MAP_TYPE_SOCKMAP,
        key_size: 4,
        value_size: 8,
        max_entries: u32::try_from(sockets.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
    };
    // SAFETY: the structure is complete and holds no pointer.
    let map = unsafe { open_with(MAP_CREATE, &attributes) }?;
    for (index, socket) in (0_u32..).zip(sockets) {
        let value = u64::from(number(socket.as_raw_fd()));
        let attributes = MapElement {
            map_fd: number(map.as_raw_fd()),
            padding: 0,
            key: address(&raw const index),
            value: address(&raw const value),
            flags: 0,
        };
        // SAFETY: the structure is complete; key and value are of the map's sizes and live through the call.
        unsafe { call(MAP_UPDATE_ELEM, &attributes) }?;
    }
    Ok(map)
}

/// Loads a program that says which socket a packet gets.
pub fn load_socket_lookup(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let attributes = ProgLoad {
        prog_type: PROG_TYPE_SK_LOOKUP,
        instruction_count: u32::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        instructions: address(instructions.as_ptr()),
        license: address(license.as_ptr()),
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"caisson\0\0\0\0\0\0\0\0\0",
        interface_index: 0,
        expected_attach_type: ATTACH_SK_LOOKUP,
    };
    // SAFETY: the structure is complete; instructions and license live through the call.
    unsafe { open_with(PROG_LOAD, &attributes) }
}

/// Attaches such a program to a network namespace, for as long as the link is open.
pub fn attach_socket_lookup(program: &OwnedFd, netns: &impl AsRawFd) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        prog_fd: number(program.as_raw_fd()),
        target_fd: number(netns.as_raw_fd()),
        attach_type: ATTACH_SK_LOOKUP,
        flags: 0,
    };
    // SAFETY: the structure is complete and holds no pointer.
    unsafe { open_with(LINK_CREATE, &attributes) }
}

/// # Safety
///
/// `attributes` is what the command takes, and what it points to lives through the call.
unsafe fn open_with<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: as promised to us.
    let result = unsafe { call(command, attributes) }?;
    // SAFETY: the kernel has just made the descriptor (close-on-exec, as all of bpf(2)), and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// # Safety
///
/// As of `open_with`.
unsafe fn call<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    let attributes: *const T = attributes;
    // SAFETY: as promised to us; the size is that of the structure.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    libc::c_int::try_from(result)
        .ok()
        .filter(|result| *result >= 0)
        .ok_or_else(io::Error::last_os_error)
}

fn number(fd: libc::c_int) -> u32 {
    // An open descriptor is not negative.
    u32::try_from(fd).unwrap_or(u32::MAX)
}

fn address<T>(pointer: *const T) -> u64 {
    pointer.addr() as u64
}
