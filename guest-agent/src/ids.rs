//! Ids that become file names and cgroup names.

use crate::error::{Error, Result};

/// Longest container id: containerd's limit.
const CONTAINER_ID_LIMIT: usize = 76;
/// Longest exec id.
const EXEC_ID_LIMIT: usize = 128;

/// Refuses a container id that is not `[A-Za-z0-9]+([._-][A-Za-z0-9]+)*` or too long.
pub fn check_container_id(id: &str) -> Result<()> {
    check("container id", id, CONTAINER_ID_LIMIT)
}

/// The same for the sandbox's id, which follows the rule of containers.
pub fn check_sandbox_id(id: &str) -> Result<()> {
    check("sandbox id", id, CONTAINER_ID_LIMIT)
}

/// The same for an exec id.
pub fn check_exec_id(id: &str) -> Result<()> {
    check("exec id", id, EXEC_ID_LIMIT)
}

fn check(what: &str, id: &str, limit: usize) -> Result<()> {
    if id.len() > limit {
        return Err(Error::InvalidArgument(format!(
            "Cannot use {what} of {} bytes: the limit is {limit}",
            id.len()
        )));
    }
    if !is_identifier(id) {
        return Err(Error::InvalidArgument(format!(
            "Cannot use {what} \"{}\": it must match [A-Za-z0-9]+([._-][A-Za-z0-9]+)*",
            id.escape_default()
        )));
    }
    Ok(())
}

/// Whether `id` is made of alphanumeric words with single separators between them.
pub fn is_identifier(id: &str) -> bool {
    id.split(['.', '_', '-'])
        .all(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers() {
        for good in ["a", "A1", "a-b", "a.b_c-d", "0", "constructor"] {
            assert!(is_identifier(good), "{good}");
        }
        for bad in [
            "",
            "-",
            "-a",
            "a-",
            "a--b",
            "a..b",
            "..",
            ".",
            "a/b",
            "a b",
            "é",
            "a\n",
            "__proto__",
            "a\0",
        ] {
            assert!(!is_identifier(bad), "{bad:?}");
        }
    }

    #[test]
    fn lengths() {
        assert!(check_container_id(&"a".repeat(76)).is_ok());
        assert!(check_container_id(&"a".repeat(77)).is_err());
        assert!(check_exec_id(&"a".repeat(128)).is_ok());
        assert!(check_exec_id(&"a".repeat(129)).is_err());
    }
}
