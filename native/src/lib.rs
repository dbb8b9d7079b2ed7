//! What the host side of Caisson needs from Linux and Node cannot do: tap devices in another network namespace,
//! connections to and from its loopback, mounts, device nodes, FIFOs, pseudo terminals, AF_VSOCK, sockets and descriptors to hand over, ends by a
//! signal. Every function is synchronous and short.

mod bpf;
mod descriptor;
mod device_folder;
mod end;
mod error;
mod fd;
mod fifo;
mod landlock;
mod loopback;
mod memfd;
mod mount;
mod namespace_socket;
mod netns;
mod pty;
mod readiness;
mod tap;
mod thread;
mod unix;
mod vsock;
