//! What is known of a container and its sandbox from names and files alone.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

const CONTAINERD_SOCKETS: &str = "/run/containerd/s";
const MOST_SPEC_BYTES: u64 = 4 * 1024 * 1024;
const MOST_ID_BYTES: usize = 76;
/// Annotations that name the group a container belongs to; the first one that is there counts.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// containerd's rule for ids and namespaces: what passes is safe as one path component.
pub fn is_id(text: &str) -> bool {
    text.len() <= MOST_ID_BYTES
        && text
            .split(['.', '_', '-'])
            .all(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// The sandbox of the container of this bundle. Nothing: Node shall say what is wrong with it.
pub fn group_of(bundle: &Path, id: &str) -> Option<String> {
    let file = match File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(bundle.join("config.json"))
    {
        Ok(file) => file,
        Err(error) => return (error.kind() == std::io::ErrorKind::NotFound).then(|| id.to_owned()),
    };
    let stat = file.metadata().ok()?;
    if !stat.is_file() || stat.len() > MOST_SPEC_BYTES {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MOST_SPEC_BYTES).read_to_end(&mut bytes).ok()?;
    group_in(&bytes, id)
}

fn group_in(spec: &[u8], id: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Spec {
        annotations: Option<serde_json::Map<String, serde_json::Value>>,
    }
    let annotations = serde_json::from_slice::<Spec>(spec)
        .ok()?
        .annotations
        .unwrap_or_default();
    let group = GROUPS
        .iter()
        .find_map(|key| annotations.get(*key)?.as_str().filter(|value| !value.is_empty()));
    Some(group.unwrap_or(id).to_owned()).filter(|group| is_id(group))
}

/// Path of the socket on which the daemon of a sandbox serves, as src/shim/socket-path.ts makes it.
pub fn socket_path(
    address: &str,
    namespace: &str,
    sandbox_id: &str,
    state: &Path,
    wish: Option<&str>,
) -> Option<PathBuf> {
    let directory = match wish {
        Some(directory) => directory.into(),
        None if address.is_empty() => state.join(".shims"),
        None => CONTAINERD_SOCKETS.into(),
    };
    // What Go's path.Join would change is left to Node.
    let plain = !address.ends_with('/') && !address.contains("//") && !address.contains("/.");
    let joined = match address {
        "" => format!("{namespace}/{sandbox_id}"),
        _ => format!("{address}/{namespace}/{sandbox_id}"),
    };
    plain.then(|| directory.join(hash(joined.as_bytes())))
}

/// Where the daemon of a sandbox serves its metrics.
pub fn metrics_path(state: &Path, namespace: &str, sandbox_id: &str) -> PathBuf {
    let mut hash = hash(format!("{namespace}/{sandbox_id}").as_bytes());
    hash.truncate(32);
    state.join(".shims").join(format!("{hash}.metrics"))
}

/// The SHA-256 of data, in hex.
pub fn hash(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What `start` has noted about a container and its daemon (src/shim/record.ts).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Whose sandbox.
    pub sandbox_id: String,
    /// Where the daemon serves.
    pub socket_path: PathBuf,
    /// The daemon.
    pub daemon: Identity,
    /// Whether it can have other sandboxes too.
    #[serde(default)]
    pub serves_many: bool,
}

/// A process, known beyond the reuse of its number.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Its number.
    pub pid: i32,
    /// When it started (field 22 of /proc/pid/stat).
    pub start_ticks: String,
}

impl Record {
    /// Path of the record of a container.
    pub fn path(state: &Path, namespace: &str, container_id: &str) -> PathBuf {
        state.join(".shims").join(format!("{namespace}+{container_id}.json"))
    }

    /// The record, or nothing when there is none that can be understood.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }
}

/// Whether a daemon was killed while it made this file, and has left what it had of it.
pub fn is_torn(path: &Path) -> bool {
    let Some((directory, name)) = path.parent().zip(path.file_name()) else {
        return false;
    };
    let begin = [name.as_encoded_bytes(), b"."].concat();
    fs::read_dir(directory).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().as_encoded_bytes().starts_with(&begin))
    })
}

impl Identity {
    /// Whether exactly this process lives; one that is dead but not waited for counts as gone.
    pub fn is_alive(&self) -> bool {
        let Ok(stat) = fs::read(format!("/proc/{}/stat", self.pid)) else {
            return false;
        };
        let stat = String::from_utf8_lossy(&stat);
        // The name in parentheses may hold spaces and parentheses itself.
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map_or("", |(_, rest)| rest)
            .split_whitespace()
            .collect();
        !matches!(fields.first(), None | Some(&("Z" | "X"))) && fields.get(19) == Some(&self.start_ticks.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        for good in ["a", "a-b_c.d", "0"] {
            assert!(is_id(good), "{good}");
        }
        for bad in ["", ".", "..", "a..b", "-a", "a/b", "a\n", "é", &"a".repeat(77)] {
            assert!(!is_id(bad), "{bad}");
        }
    }

    #[test]
    fn groups() {
        let cri = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod","x":"y"},"process":{"args":[]}}"#;
        assert_eq!(group_in(cri.as_bytes(), "c").as_deref(), Some("pod"));
        assert_eq!(group_in(br#"{"annotations":null}"#, "c").as_deref(), Some("c"));
        assert_eq!(
            group_in(br#"{"annotations":{"io.kubernetes.cri.sandbox-id":"../x"}}"#, "c"),
            None
        );
        assert_eq!(group_in(b"{", "c"), None);
    }

    #[test]
    fn socket_paths_are_containerds() {
        let path = |address| socket_path(address, "default", "c1", Path::new("/run/caisson"), None);
        assert_eq!(
            path("/run/containerd/containerd.sock"),
            Some("/run/containerd/s/d25aa4ef11a84e954e74a5bcff06557d0b6ea8d0c00243896f29826694bbd888".into())
        );
        assert_eq!(path("/a//b"), None);
    }
}
