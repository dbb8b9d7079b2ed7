//! What the host side of Caisson needs from Linux and Node cannot do: tap devices in another network namespace,
//! FIFOs, listening sockets to hand over. Every function is synchronous and short.

mod error;
mod fifo;
mod tap;
mod unix;
