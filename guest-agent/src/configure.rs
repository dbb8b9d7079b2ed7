//! The first call: clock, randomness, name, shares and network.

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use nix::unistd::sethostname;

use crate::boot::phases;
use crate::error::{Context, Error, Result};
use crate::proto::{BootPhase, ConfigureNetworkRequest, ConfigureRequest, ConfigureResponse};
use crate::sandbox::Sandbox;
use crate::storage::{STORAGE_LIMIT, mount_storage};
use crate::{ids, network, sysctl};

const NANOS: i64 = 1_000_000_000;
const SEED_BYTES: std::ops::RangeInclusive<usize> = 32..=256;
const HOSTNAME_LIMIT: usize = 64;

nix::ioctl_write_ptr!(add_entropy, b'R', 0x03, [libc::c_int; 2]);
nix::ioctl_none!(reseed, b'R', 0x07);

/// Does it all. A failed attempt is final: the sandbox stays unusable.
pub async fn configure(sandbox: &Sandbox, request: ConfigureRequest) -> Result<ConfigureResponse> {
    sandbox.begin_configuration()?;
    ids::check_sandbox_id(&request.sandbox_id)?;
    let token =
        request.stream_token.as_slice().try_into().map_err(|_| {
            Error::InvalidArgument("Cannot configure the sandbox: stream_token must have 16 bytes".into())
        })?;
    if request.storages.len() > STORAGE_LIMIT {
        return Err(Error::ResourceExhausted(format!(
            "Cannot mount {} storages: the limit is {STORAGE_LIMIT}",
            request.storages.len()
        )));
    }
    set_clock(request.wall_clock_unix_nanos)?;
    credit_entropy(&request.random_seed)?;
    set_hostname(&request.hostname)?;
    for storage in &request.storages {
        mount_storage(storage)?;
    }
    let wanted = ConfigureNetworkRequest {
        interfaces: request.interfaces,
        routes: request.routes,
        neighbours: request.neighbours,
    };
    // Before the links are up: some parameters are defaults for those to come.
    sysctl::set(&request.sysctls)?;
    network::configure(&wanted).await?;
    phases::mark("configured");
    sandbox.end_configuration(request.sandbox_id, token);
    Ok(ConfigureResponse {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_release: kernel_release(),
        boot_phases: phases::all()
            .into_iter()
            .map(|(name, at_micros)| BootPhase { name, at_micros })
            .collect(),
    })
}

fn set_clock(unix_nanos: i64) -> Result<()> {
    if unix_nanos <= 0 {
        return Err(Error::InvalidArgument(
            "Cannot set the clock: wall_clock_unix_nanos must be positive".into(),
        ));
    }
    let time = TimeSpec::new(unix_nanos / NANOS, unix_nanos % NANOS);
    clock_settime(ClockId::CLOCK_REALTIME, time).context(|| "set the clock".into())
}

/// The kernel's `rand_pool_info`, with room for the largest seed.
#[repr(C)]
struct PoolInfo {
    entropy_bits: libc::c_int,
    bytes: libc::c_int,
    data: [u8; 256],
}

fn credit_entropy(seed: &[u8]) -> Result<()> {
    if !SEED_BYTES.contains(&seed.len()) {
        return Err(Error::InvalidArgument(format!(
            "Cannot use a random_seed of {} bytes: {} to {} are wanted",
            seed.len(),
            SEED_BYTES.start(),
            SEED_BYTES.end()
        )));
    }
    let action = || "credit the random seed".to_owned();
    let length = libc::c_int::try_from(seed.len())
        .map_err(|_| Error::Internal("Cannot use the length of random_seed".into()))?;
    let mut info = PoolInfo {
        entropy_bits: length * 8,
        bytes: length,
        data: [0; 256],
    };
    info.data[..seed.len()].copy_from_slice(seed);
    let file = File::options().write(true).open("/dev/random").context(action)?;
    // SAFETY: the request (whose number counts the two leading integers only) reads them and `bytes` bytes of the data
    // that follow; `info` has the kernel's layout and lives until the call returns.
    unsafe { add_entropy(file.as_raw_fd(), (&raw const info).cast()) }.context(action)?;
    // Else the seed is used a minute later, and until then guests that were restored from one memory draw the same numbers.
    // SAFETY: the request has no argument.
    unsafe { reseed(file.as_raw_fd()) }.map(drop).context(action)
}

fn set_hostname(name: &str) -> Result<()> {
    if name.is_empty() {
        return Ok(());
    }
    if name.len() > HOSTNAME_LIMIT || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::InvalidArgument(format!(
            "Cannot use hostname \"{}\": at most {HOSTNAME_LIMIT} visible ASCII characters",
            name.escape_default()
        )));
    }
    sethostname(name).context(|| format!("set the hostname to \"{name}\""))
}

fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}
