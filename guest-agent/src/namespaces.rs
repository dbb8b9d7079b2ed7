//! Namespaces that the containers of the sandbox share.

mod holder;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

use crate::error::{Context, Error, Result};
use crate::sandbox::lock;
use holder::IdMaps;

/// As the OCI specification and the kernel call them.
const SHAREABLE: [&str; 4] = ["pid", "ipc", "uts", "user"];

/// The namespaces of the sandbox: its own container's, or, when there never was one, those of a holder: the guest's with a PID
/// namespace beside, or all of them below a user namespace when the first container to join wants one. Open files keep them; a PID namespace is
/// of use only while its init lives.
#[derive(Default)]
pub struct SharedNamespaces(Mutex<Option<Held>>);

struct Held {
    init: i32,
    files: BTreeMap<&'static str, File>,
}

impl SharedNamespaces {
    /// Takes those of the sandbox's own container.
    pub fn take_of(&self, init: i32) -> Result<()> {
        *lock(&self.0) = Some(Held::of(init)?);
        Ok(())
    }

    /// Paths by which a container with this OCI configuration joins the namespaces called `types`.
    pub fn paths(&self, types: &[String], config: &[u8]) -> Result<Vec<(String, String)>> {
        if types.is_empty() {
            return Ok(Vec::new());
        }
        let mut held = lock(&self.0);
        let held = match &mut *held {
            Some(held) => held,
            none => {
                let maps = types
                    .iter()
                    .any(|name| name == "user")
                    .then(|| IdMaps::of(config))
                    .transpose()?;
                none.insert(Held::of(holder::start(maps.as_ref())?)?)
            }
        };
        types.iter().map(|name| Ok((name.clone(), held.path(name)?))).collect()
    }
}

impl Held {
    fn of(init: i32) -> Result<Self> {
        let open = |name: &'static str| {
            let path = format!("/proc/{init}/ns/{name}");
            Ok((name, File::open(&path).context(|| format!("open {path}"))?))
        };
        let files = SHAREABLE.into_iter().map(open).collect::<Result<_>>()?;
        Ok(Self { init, files })
    }

    fn path(&self, name: &str) -> Result<String> {
        let file = self.files.get(name).ok_or_else(|| {
            Error::InvalidArgument(format!(
                "Cannot share the namespace \"{}\": pid, ipc, uts and user can be",
                name.escape_default()
            ))
        })?;
        if name == "pid" && !self.init_lives(file) {
            return Err(Error::FailedPrecondition(
                "Cannot share the sandbox's PID namespace: its first process has ended".into(),
            ));
        }
        // Of PID 1, whose files crun can reach.
        Ok(format!("/proc/1/fd/{}", file.as_raw_fd()))
    }

    /// Its id may have become another process's: that one has another namespace.
    fn init_lives(&self, namespace: &File) -> bool {
        let now = std::fs::metadata(format!("/proc/{}/ns/pid", self.init));
        matches!((now, namespace.metadata()), (Ok(now), Ok(then)) if now.ino() == then.ino())
    }
}
