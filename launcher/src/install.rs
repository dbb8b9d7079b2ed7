//! Where the parts of this installation lie, and the one setting that is needed here.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every sandbox has a Node of its own, so its heap stays small; the inspector must not open on SIGUSR1.
const NODE_FLAGS: [&str; 6] = [
    "--no-warnings",
    "--disable-proto=delete",
    "--disable-sigusr1",
    "--max-semi-space-size=1",
    "--max-old-space-size=256",
    // The daemon collects once when its sandbox has come up (src/shim/trim.ts).
    "--expose-gc",
];
const DEFAULT_STATE: &str = "/run/caisson";

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

    /// Node with the shim's program, without what the caller's environment says to Node.
    pub fn node(&self) -> Command {
        let mut command = Command::new(self.root.join("libexec/node"));
        command.args(NODE_FLAGS).arg(self.program());
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

    /// The setting `state_directory`, found as src/config/load.ts does. Nothing: the configuration cannot be read, which Node
    /// has the words for.
    pub fn state_directory(&self) -> Option<PathBuf> {
        let mut directory = DEFAULT_STATE.to_owned();
        if let Some(path) = self.config_file() {
            for file in [vec![path.clone()], drop_ins(&path)?].concat() {
                let table: toml::Table = fs::read_to_string(file).ok()?.parse().ok()?;
                if let Some(value) = table.get("state_directory") {
                    value.as_str()?.clone_into(&mut directory);
                }
            }
        }
        let directory = PathBuf::from(directory);
        directory.is_absolute().then_some(directory)
    }

    fn config_file(&self) -> Option<PathBuf> {
        let named = env::var_os("CAISSON_CONFIG").filter(|value| !value.is_empty());
        if let Some(path) = named {
            return Some(path.into());
        }
        let in_build = (self.root.file_name() == Some("build".as_ref())).then(|| self.root.join("config.toml"));
        in_build
            .into_iter()
            .chain([PathBuf::from("/etc/caisson/config.toml")])
            .find(|path| path.exists())
    }
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
