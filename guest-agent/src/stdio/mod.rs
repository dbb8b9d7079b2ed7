//! Stdio of processes: each stream is a vsock connection of its own, so that each has its own back-pressure.
//!
//! The protocol is described at the head of `agent.proto`: a hello line, an answer line, then frames in one direction.

mod endpoints;
pub mod frame;
mod hello;
mod incoming;
mod outgoing;
mod pump;
mod server;

pub use endpoints::{ChildEnds, Endpoints};
pub use server::serve;

/// Port that the host opens streams on.
pub const PORT: u32 = 1025;
/// Bytes of the secret that every stream presents.
pub const TOKEN_BYTES: usize = 16;
