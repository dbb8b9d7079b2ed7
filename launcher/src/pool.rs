//! A daemon that waits with a booted VM, taken in the place of a new one. See src/shim/offer.ts.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::install::Install;
use crate::start::{MOST_REPLY_BYTES, Reply, hex, unhex};

const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Daemons that are asked: those of a pool are alike, so one that declines speaks for the others, unless it was just taken.
const MOST_ASKED: usize = 3;
const NAMESPACES: [&str; 7] = ["mnt", "net", "pid", "user", "ipc", "uts", "cgroup"];

/// What the daemon would have from us if we had started it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Offer {
    argv: Vec<String>,
    stdin: String,
    namespaces: Vec<String>,
    program: String,
    config_file: String,
    ttrpc_address: String,
    cgroups: String,
    oom_score: String,
}

/// What to print, when a daemon of the pool has taken the sandbox. Nothing: there is none, or none that suits.
pub fn take(arguments: &[String], bundle: &Path, stdin: &[u8], install: &Install) -> Option<Vec<u8>> {
    let directory = install.state_directory()?.join(".ready");
    let entries = fs::read_dir(directory).ok()?;
    let mut line = None;
    for entry in entries.take(MOST_ASKED) {
        let Ok(stream) = UnixStream::connect(entry.ok()?.path()) else {
            continue;
        };
        if line.is_none() {
            line = Some(offer(arguments, bundle, stdin, install)?);
        }
        if let Some(answer) = ask(stream, line.as_deref()?) {
            return Some(answer);
        }
    }
    None
}

fn offer(arguments: &[String], bundle: &Path, stdin: &[u8], install: &Install) -> Option<String> {
    let link = |name: &str| {
        Some(
            fs::read_link(format!("/proc/self/ns/{name}"))
                .ok()?
                .to_str()?
                .to_owned(),
        )
    };
    let mut argv = vec!["-bundle".to_owned(), bundle.to_str()?.to_owned()];
    argv.extend_from_slice(arguments);
    let offer = Offer {
        argv,
        stdin: hex(stdin),
        namespaces: NAMESPACES.into_iter().map(link).collect::<Option<_>>()?,
        program: install.program().to_str()?.to_owned(),
        config_file: env::var("CAISSON_CONFIG").unwrap_or_default(),
        ttrpc_address: env::var("TTRPC_ADDRESS").unwrap_or_default(),
        cgroups: fs::read_to_string("/proc/self/cgroup").ok()?,
        oom_score: fs::read_to_string("/proc/self/oom_score_adj").ok()?,
    };
    serde_json::to_string(&offer).ok()
}

/// A daemon that we do not confirm ends.
fn ask(mut stream: UnixStream, offer: &str) -> Option<Vec<u8>> {
    stream.set_read_timeout(Some(ANSWER_LIMIT)).ok()?;
    writeln!(stream, "{offer}").ok()?;
    let mut line = Vec::new();
    BufReader::new((&stream).take(MOST_REPLY_BYTES))
        .read_until(b'\n', &mut line)
        .ok()?;
    match serde_json::from_slice(&line).ok()? {
        Reply::Ready { answer } => {
            let answer = unhex(&answer)?;
            writeln!(stream, "{{}}").ok()?;
            Some(answer)
        }
        // The daemon that we start then has its words for what is wrong.
        Reply::Failed { .. } | Reply::Declined => None,
    }
}
