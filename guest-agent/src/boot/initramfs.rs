//! Freeing the initramfs: its files are memory for as long as they exist.

use std::fs::{self, DirEntry};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Depth that an initramfs never has.
const DEPTH_LIMIT: usize = 32;

/// Deletes everything below `/` that lies on the initramfs itself. Never enters another file system: behind a mount
/// there may be the host's data.
pub fn free() {
    if let Ok(root) = fs::symlink_metadata("/") {
        remove_children(Path::new("/"), root.dev(), DEPTH_LIMIT);
    }
}

fn remove_children(directory: &Path, device: u64, depth: usize) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        remove(&entry, device, depth);
    }
}

/// What cannot be removed stays: it only costs memory.
fn remove(entry: &DirEntry, device: u64, depth: usize) {
    let path = entry.path();
    let Ok(metadata) = fs::symlink_metadata(&path) else {
        return;
    };
    if metadata.dev() != device {
        return;
    }
    if !metadata.is_dir() {
        let _ = fs::remove_file(&path);
    } else if depth > 0 {
        remove_children(&path, device, depth - 1);
        let _ = fs::remove_dir(&path);
    }
}
