//! caisson-agent: PID 1 of the guest.
//!
//! Boots it, serves the host over vsock, drives crun, reaps, and moves the processes' bytes. Its end is the end of the machine.

mod boot;
mod bundle;
mod cgroup;
mod child;
mod configure;
mod console;
mod container;
mod crun;
mod descriptors;
mod devices;
mod error;
mod events;
mod files;
mod forward;
mod idle;
mod ids;
mod log;
mod memory;
mod names;
mod namespaces;
mod network;
mod notify;
mod peer_user;
mod polled;
mod power;
mod process;
mod processors;
mod ready;
mod reaper;
mod root_image;
mod rpc;
mod sandbox;
mod server;
mod shown;
mod stats;
mod stdio;
mod storage;
mod sysctl;
mod volumes;
mod vsock;

/// The messages and the service of `agent.proto`.
#[allow(missing_docs, clippy::all, reason = "generated; the documentation is in agent.proto")]
mod proto {
    tonic::include_proto!("caisson.agent.v1");
}

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use error::{Context, Result};
use reaper::Reaper;
use sandbox::Sandbox;
use vsock::Listener;

fn main() -> ExitCode {
    // One file is all programs that the guest needs: which one says its name, as a container has a PID 1 too.
    match program_name().as_deref().and_then(OsStr::to_str) {
        Some(idle::NAME) => return idle::run(),
        Some(files::NAME) => return files::run(),
        _ => {}
    }
    if std::process::id() != 1 {
        println!(
            "caisson-agent {}: runs as PID 1 of a guest only",
            env!("CARGO_PKG_VERSION")
        );
        return ExitCode::from(64);
    }
    power::install_panic_hook();
    memory::stay_small();
    let end = if boot::on_initramfs() {
        boot::leave_initramfs().map(|never| match never {})
    } else {
        run()
    };
    power::fatal(&end.map_or_else(|error| error.to_string(), |()| "the agent has ended".into()))
}

/// The name that this was executed by.
fn program_name() -> Option<OsString> {
    let path = std::env::args_os().next()?;
    Path::new(&path).file_name().map(OsStr::to_owned)
}

/// Stage 2. Returns only when the machine is to end.
fn run() -> Result<()> {
    boot::prepare()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context(|| "start the runtime".into())?;
    runtime.block_on(serve())
}

async fn serve() -> Result<()> {
    network::loopback::bring_up()?;
    let reaper = Reaper::default();
    let sandbox = Arc::new(Sandbox::new(reaper.clone()));
    let control = Listener::bind(server::CONTROL_PORT)?;
    let stdio = Listener::bind(stdio::PORT)?;
    let ready = async {
        ready::announce().await?;
        std::future::pending().await
    };
    // Each runs for ever; the first one that does not ends the machine.
    tokio::select! {
        end = reaper.run() => end,
        end = server::serve(control, Arc::clone(&sandbox)) => end,
        end = stdio::serve(stdio, sandbox) => end,
        end = ready => end,
    }
}
