//! A `start` that is offered to a daemon which is there already. See src/shim/offer.ts.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::install::Install;
use crate::start::{MOST_REPLY_BYTES, Reply, hex, unhex};

const NAMESPACES: [&str; 7] = ["mnt", "net", "pid", "user", "ipc", "uts", "cgroup"];

/// What the daemon would have from us if we had started it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// The command line, without the action.
    pub argv: Vec<String>,
    /// In hex.
    pub stdin: String,
    /// Links of /proc/self/ns.
    pub namespaces: Vec<String>,
    /// What Node runs.
    pub program: String,
    /// CAISSON_CONFIG.
    pub config_file: String,
    /// Where events go.
    pub ttrpc_address: String,
    /// /proc/self/cgroup.
    pub cgroups: String,
    /// /proc/self/oom_score_adj.
    pub oom_score: String,
}

impl Offer {
    /// Nothing: something here has a name that is no UTF-8, or /proc is not what it should be.
    pub fn new(arguments: &[String], bundle: &Path, stdin: &[u8], install: &Install) -> Option<Self> {
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
        Some(Self {
            argv,
            stdin: hex(stdin),
            namespaces: NAMESPACES.into_iter().map(link).collect::<Option<_>>()?,
            program: install.program().to_str()?.to_owned(),
            config_file: env::var("CAISSON_CONFIG").unwrap_or_default(),
            ttrpc_address: env::var("TTRPC_ADDRESS").unwrap_or_default(),
            cgroups: fs::read_to_string("/proc/self/cgroup").ok()?,
            oom_score: fs::read_to_string("/proc/self/oom_score_adj").ok()?,
        })
    }

    /// What the daemon that listens at the other end says to it. An end without a word is an error: it was about to end. A daemon
    /// that we do not confirm gives the sandbox up.
    pub fn make(&self, mut stream: UnixStream, limit: Duration) -> io::Result<Outcome> {
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        writeln!(stream, "{}", serde_json::to_string(self)?)?;
        let mut line = Vec::new();
        BufReader::new((&stream).take(MOST_REPLY_BYTES)).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(match serde_json::from_slice(&line)? {
            Reply::Ready { answer } => {
                let answer = unhex(&answer).ok_or(ErrorKind::InvalidData)?;
                writeln!(stream, "{{}}")?;
                Outcome::Taken(answer)
            }
            Reply::Failed { message } => Outcome::Failed(message),
            Reply::Declined => Outcome::Declined,
        })
    }
}

/// What became of an offer.
pub enum Outcome {
    /// What to print.
    Taken(Vec<u8>),
    /// Why it could not be done.
    Failed(String),
    /// It does not suit that daemon.
    Declined,
}
