#[path = "../../src/stdio/frame.rs"]
pub mod frame;
#[path = "../../src/stdio/hello.rs"]
pub mod hello;
#[path = "../../src/stdio/incoming.rs"]
mod incoming;
#[path = "../../src/stdio/outgoing.rs"]
mod outgoing;
#[path = "../../src/stdio/pump.rs"]
pub mod pump;

pub const TOKEN_BYTES: usize = 16;
