//! Kernel modules of the initramfs: `/modules/order` lists the files in load order.

use std::fs::{File, read_to_string};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::error::{Context, Error, Result};

const DIRECTORY: &str = "/modules";

/// Loads every module of the list. Without a list there is nothing to load.
pub fn load_all() -> Result<()> {
    let order = Path::new(DIRECTORY).join("order");
    if !order.exists() {
        return Ok(());
    }
    let text = read_to_string(&order).context(|| format!("read {}", order.display()))?;
    for name in parse_order(&text)? {
        load(&Path::new(DIRECTORY).join(name))?;
    }
    Ok(())
}

/// One file name a line; blank lines and `#` comments are skipped.
fn parse_order(text: &str) -> Result<Vec<&str>> {
    let names = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    names
        .map(|name| {
            if name.contains('/') || !name.ends_with(".ko") {
                return Err(Error::InvalidArgument(format!(
                    "Cannot load module \"{}\": not a plain *.ko file name",
                    name.escape_default()
                )));
            }
            Ok(name)
        })
        .collect()
}

fn load(path: &Path) -> Result<()> {
    let action = || format!("load kernel module {}", path.display());
    let file = File::open(path).context(action)?;
    // SAFETY: finit_module reads the open file and the NUL-terminated empty parameter string, and writes nothing of ours.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // Already there, or built in.
        Some(libc::EEXIST) => Ok(()),
        Some(libc::ENOENT) => Err(Error::Internal(format!(
            "Cannot {}: it needs a symbol of a module that is not loaded, the order is wrong",
            action()
        ))),
        _ => Err(error).context(action),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_keeps_the_order_and_skips_comments() {
        assert_eq!(
            parse_order("# first\nvirtio.ko\n\n virtio_ring.ko \n").ok(),
            Some(vec!["virtio.ko", "virtio_ring.ko"])
        );
        assert_eq!(parse_order("").ok(), Some(vec![]));
    }

    #[test]
    fn order_refuses_paths() {
        assert!(parse_order("../x.ko").is_err());
        assert!(parse_order("a.ko.xz").is_err());
    }
}
