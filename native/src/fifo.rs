//! Named pipes.

use napi_derive::napi;
use nix::sys::stat::Mode;

use crate::error::{Result, failed};

/// Makes a FIFO (mkfifo(3)); `mode` is subject to the umask.
#[napi]
#[allow(
    clippy::needless_pass_by_value,
    reason = "JavaScript strings arrive owned"
)]
pub fn make_fifo(path: String, mode: u32) -> Result<()> {
    nix::unistd::mkfifo(path.as_str(), Mode::from_bits_truncate(mode))
        .map_err(|errno| failed(format_args!("mkfifo \"{path}\""), errno))
}
