//! What the host side of Caisson needs from Linux and Node cannot do: tap devices in another network namespace,
//! mounts, FIFOs, pseudo terminals, sockets and descriptors to hand over, ends by a signal. Every function is synchronous and short.

mod end;
mod error;
mod fd;
mod fifo;
mod mount;
mod pty;
mod readiness;
mod tap;
mod unix;
mod vsock;
