//! Where the parts of this installation lie, and the settings that are needed here.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The inspector must not open on SIGUSR1.
const NODE_FLAGS: [&str; 5] = [
    "--no-warnings",
    "--disable-proto=delete",
    "--disable-sigusr1",
    "--max-semi-space-size=1",
    // The daemon collects once when its sandbox has come up (src/shim/trim.ts).
    "--expose-gc",
];
const DEFAULT_STATE: &str = "/run/caisson";

/// Where a daemon that grows without end is stopped.
#[derive(Clone, Copy)]
pub enum MostHeap {
    /// A daemon of one sandbox takes a few MiB.
    OfOneSandbox,
    /// Of a thousand, a thousand times as much.
    OfMany,
}

/// Of the configuration.
pub struct Settings {
    /// Where runtime state lives.
    pub state_directory: PathBuf,
    /// Whether one daemon serves many sandboxes.
    pub one_daemon: bool,
}

/// `bin/` that we lie in, with `lib/` and `libexec/` beside it.
pub struct Install {
    root: PathBuf,
}

impl Install {
    /// Found through symbolic links, whatever PATH and the working directory are.
    pub fn find() -> Option<Self> {
        let root = env::current_exe().ok()?.parent()?.parent()?.to_owned();
        Some(Self { root })
    }

    /// A file of `lib/`.
    pub fn library(&self, name: &str) -> PathBuf {
        self.root.join("lib").join(name)
    }

    /// The shim's program for Node.
    pub fn program(&self) -> PathBuf {
        self.library("containerd-shim-caisson-v2.js")
    }

    /// Node with the shim's program, without what the caller's environment says to Node. An installation without a Node of its
    /// own (the npm package) is told by `CAISSON_NODE` which one to run.
    pub fn node(&self, most_heap: MostHeap) -> Command {
        let node = named("CAISSON_NODE").map_or_else(|| self.root.join("libexec/node"), PathBuf::from);
        let mut command = Command::new(node);
        let mib = match most_heap {
            MostHeap::OfOneSandbox => 256,
            MostHeap::OfMany => 2048,
        };
        command.args(NODE_FLAGS).arg(format!("--max-old-space-size={mib}"));
        command.arg(self.program());
        for (name, _) in env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"NODE_") {
                command.env_remove(name);
            }
        }
        // Made by the build. Node would make one itself, at its end, when everything else is cleaned up.
        let cache = self.library("compile-cache");
        if cache.is_dir() {
            command
                .env("NODE_COMPILE_CACHE", cache)
                .env("NODE_COMPILE_CACHE_PORTABLE", "1");
        }
        // Few of Node's threads ever allocate, and each arena keeps what they have once had.
        command.env("MALLOC_ARENA_MAX", "1");
        command
    }

    /// The settings that count here, found as src/config/load.ts does. Nothing: the configuration cannot be read, which Node
    /// has the words for.
    pub fn settings(&self) -> Option<Settings> {
        let mut directory = DEFAULT_STATE.to_owned();
        let mut daemon = String::new();
        if let Some(path) = self.config_file() {
            for file in [vec![path.clone()], drop_ins(&path)?].concat() {
                let table: toml::Table = fs::read_to_string(file).ok()?.parse().ok()?;
                for (key, setting) in [("state_directory", &mut directory), ("daemon", &mut daemon)] {
                    if let Some(value) = table.get(key) {
                        value.as_str()?.clone_into(setting);
                    }
                }
            }
        }
        let state_directory = PathBuf::from(directory);
        state_directory.is_absolute().then_some(Settings {
            state_directory,
            one_daemon: daemon == "node",
        })
    }

    fn config_file(&self) -> Option<PathBuf> {
        if let Some(path) = named("CAISSON_CONFIG") {
            return Some(path.into());
        }
        let in_build = (self.root.file_name() == Some("build".as_ref())).then(|| self.root.join("config.toml"));
        in_build
            .into_iter()
            .chain([PathBuf::from("/etc/caisson/config.toml")])
            .find(|path| path.exists())
    }
}

fn named(variable: &str) -> Option<OsString> {
    env::var_os(variable).filter(|value| !value.is_empty())
}

fn drop_ins(config: &Path) -> Option<Vec<PathBuf>> {
    let directory = config.parent()?.join("config.d");
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return (error.kind() == std::io::ErrorKind::NotFound).then(Vec::new),
    };
    let mut files = entries
        .map(|entry| Some(entry.ok()?.path()))
        .collect::<Option<Vec<_>>>()?;
    files.retain(|path| path.extension() == Some(&OsString::from("toml")));
    files.sort();
    Some(files)
}
