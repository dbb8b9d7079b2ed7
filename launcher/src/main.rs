//! `containerd-shim-caisson-v2`, as containerd executes it for every container: a small program that answers by itself where it
//! can, and runs Node where it must: as the daemon of a new sandbox, or for a `delete` that has something to clean up.

mod daemon_call;
mod delete;
mod flags;
mod install;
mod messages;
mod node;
mod offer;
mod pool;
mod sandbox;
mod start;

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use flags::Flags;
use install::{Install, MostHeap};

/// Field 3 of containerd.types.RuntimeInfo: the options that came in, which go back.
const INFO_OPTIONS: u8 = 3 << 3 | 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    match answer(&arguments) {
        Ok(answer) => match std::io::stdout().write_all(&answer) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(message) => {
            let _ = writeln!(std::io::stderr(), "{message}");
            ExitCode::FAILURE
        }
    }
}

/// What to print. containerd takes stdout and stderr of `start` together as the answer, so nothing else is ever printed.
fn answer(arguments: &[String]) -> Result<Vec<u8>, String> {
    let flags = flags::parse(arguments.iter().cloned());
    if flags.version {
        return Ok(format!("containerd-shim-caisson-v2 {}\n", env!("CARGO_PKG_VERSION")).into());
    }
    let install = Install::find().ok_or("Cannot find the files of Caisson: /proc/self/exe says nothing")?;
    if flags.info {
        return info(&install);
    }
    match flags.action.as_str() {
        "start" => start::start(&flags, &without_action(arguments, &flags), &install),
        "delete" => delete::delete(&flags, &install).map_or_else(|| run_node(arguments, &install), Ok),
        _ => run_node(arguments, &install),
    }
}

fn without_action(arguments: &[String], flags: &Flags) -> Vec<String> {
    let end = arguments.iter().rposition(|argument| *argument == flags.action);
    arguments[..end.unwrap_or(0)].to_vec()
}

/// The description of the runtime, made by the build (src/shim/info.ts), with the options from stdin in it.
fn info(install: &Install) -> Result<Vec<u8>, String> {
    let path = install.library("runtime-info.bin");
    let mut bytes = fs::read(&path).map_err(|error| format!("Cannot read \"{}\": {error}", path.display()))?;
    let options = start::read_stdin()?;
    if !options.is_empty() {
        bytes.push(INFO_OPTIONS);
        prost::encoding::encode_varint(u64::try_from(options.len()).unwrap_or_default(), &mut bytes);
        bytes.extend(options);
    }
    Ok(bytes)
}

/// Becomes Node. Returns only when that fails.
fn run_node(arguments: &[String], install: &Install) -> Result<Vec<u8>, String> {
    let error = install.node(MostHeap::OfOneSandbox).args(arguments).exec();
    Err(format!("Cannot run Node: {error}"))
}
