//! File systems that the host asks for.

use std::path::{Component, Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::error::{Context, Error, Result};
use crate::proto::Storage;

/// File systems that one sandbox may have, each at the configuration and later.
pub const STORAGE_LIMIT: usize = 256;
/// Everything that the host may mount lies below it.
const BASE: &str = "/run/caisson";

/// A mount, planned.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    kind: &'static str,
    source: String,
    target: PathBuf,
    flags: MsFlags,
    data: String,
}

/// Mounts one.
pub fn mount_storage(storage: &Storage) -> Result<()> {
    let plan = plan(storage)?;
    let action = || {
        format!(
            "mount {} \"{}\" on {}",
            plan.kind,
            plan.source.escape_default(),
            plan.target.display()
        )
    };
    std::fs::create_dir_all(&plan.target).context(action)?;
    mount(
        Some(plan.source.as_str()),
        &plan.target,
        Some(plan.kind),
        plan.flags,
        Some(plan.data.as_str()),
    )
    .context(action)
}

fn plan(storage: &Storage) -> Result<Plan> {
    // Nothing shared by the host has a device node that the guest should open: a container's devices come from the guest.
    let (kind, source, always) = match storage.r#type.as_str() {
        "virtiofs" if !storage.source.is_empty() => ("virtiofs", storage.source.as_str(), MsFlags::MS_NODEV),
        "virtiofs" => return Err(Error::InvalidArgument("Cannot mount virtiofs: the tag is empty".into())),
        "tmpfs" => ("tmpfs", "tmpfs", MsFlags::MS_NODEV | MsFlags::MS_NOSUID),
        other => {
            return Err(Error::Unimplemented(format!(
                "Cannot mount storage of type \"{}\": virtiofs and tmpfs are known",
                other.escape_default()
            )));
        }
    };
    let (flags, data) = plan_options(kind, &storage.options)?;
    Ok(Plan {
        kind,
        source: source.to_owned(),
        target: plan_target(&storage.target)?,
        flags: flags | always,
        data,
    })
}

fn plan_target(target: &str) -> Result<PathBuf> {
    let path = Path::new(target);
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let below = path
        .strip_prefix(BASE)
        .is_ok_and(|rest| rest.components().next().is_some());
    // The agent's own directories are not to be covered.
    let own = ["bundles", "operations", "roots"]
        .iter()
        .any(|name| path.starts_with(Path::new(BASE).join(name)));
    if !plain || !below || own || target.contains('\0') {
        return Err(Error::InvalidArgument(format!(
            "Cannot mount on \"{}\": it must be a plain path below {BASE}",
            target.escape_default()
        )));
    }
    Ok(path.to_owned())
}

/// Unknown options are refused by name, not passed on.
fn plan_options(kind: &str, options: &[String]) -> Result<(MsFlags, String)> {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in options {
        match option.as_str() {
            "ro" => flags |= MsFlags::MS_RDONLY,
            "rw" => flags -= MsFlags::MS_RDONLY,
            "nosuid" => flags |= MsFlags::MS_NOSUID,
            "nodev" => flags |= MsFlags::MS_NODEV,
            "noexec" => flags |= MsFlags::MS_NOEXEC,
            "noatime" => flags |= MsFlags::MS_NOATIME,
            "nodiratime" => flags |= MsFlags::MS_NODIRATIME,
            "relatime" => flags |= MsFlags::MS_RELATIME,
            "sync" => flags |= MsFlags::MS_SYNCHRONOUS,
            "" => {}
            other if kind == "tmpfs" && is_tmpfs_option(other) => data.push(other),
            other if kind == "virtiofs" && (other == "dax" || other.starts_with("dax=")) && is_value(other) => {
                data.push(other)
            }
            other => {
                return Err(Error::InvalidArgument(format!(
                    "Cannot mount {kind} with option \"{}\": it is unknown",
                    other.escape_default()
                )));
            }
        }
    }
    Ok((flags, data.join(",")))
}

fn is_tmpfs_option(option: &str) -> bool {
    let known = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks"];
    option
        .split_once('=')
        .is_some_and(|(name, value)| known.contains(&name) && is_value(value))
}

fn is_value(value: &str) -> bool {
    value
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'%' | b'='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(kind: &str, target: &str, options: &[&str]) -> Storage {
        Storage {
            r#type: kind.into(),
            source: "caisson".into(),
            target: target.into(),
            options: options.iter().map(|option| (*option).into()).collect(),
        }
    }

    #[test]
    fn virtiofs_and_tmpfs() {
        let got = plan(&storage("virtiofs", "/run/caisson/shared", &["ro", "noatime"])).expect("a good plan");
        assert_eq!(
            (got.kind, got.source.as_str(), got.data.as_str()),
            ("virtiofs", "caisson", "")
        );
        assert_eq!(got.flags, MsFlags::MS_NODEV | MsFlags::MS_RDONLY | MsFlags::MS_NOATIME);

        let got = plan(&storage("tmpfs", "/run/caisson/t", &["size=64m", "mode=1777"])).expect("a good plan");
        assert_eq!(
            (got.source.as_str(), got.data.as_str()),
            ("tmpfs", "size=64m,mode=1777")
        );
    }

    #[test]
    fn other_types_are_unimplemented() {
        assert!(matches!(
            plan(&storage("9p", "/run/caisson/x", &[])),
            Err(Error::Unimplemented(_))
        ));
    }

    #[test]
    fn targets_must_be_plain_and_below_the_base() {
        for target in [
            "",
            "/",
            "/run/caisson",
            "/run/caisson/",
            "/run/caissonx/a",
            "run/caisson/a",
            "/run/caisson/../etc",
            "/etc",
            "/run/caisson/bundles",
            "/run/caisson/operations/1",
        ] {
            assert!(
                matches!(plan(&storage("tmpfs", target, &[])), Err(Error::InvalidArgument(_))),
                "{target:?}"
            );
        }
    }

    #[test]
    fn unknown_options_are_refused() {
        for option in ["exec,suid", "size=1m,mode=0", "fd=3", "default_permissions"] {
            assert!(
                matches!(
                    plan(&storage("tmpfs", "/run/caisson/t", &[option])),
                    Err(Error::InvalidArgument(_))
                ),
                "{option:?}"
            );
        }
        assert!(plan(&storage("virtiofs", "/run/caisson/t", &["size=1m"])).is_err());
    }
}
