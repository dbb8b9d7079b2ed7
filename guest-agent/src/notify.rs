//! The socket of sd_notify(3) that a container may get.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::task::AbortHandle;

use crate::error::{Context, Result};
use crate::events::Events;

const DIRECTORY: &str = "/run/caisson/notify";
const NAME: &str = "notify.sock";
/// Bytes that are taken of a datagram; systemd takes as many.
const LIMIT: usize = 4096;
/// Pause after each datagram: who says much waits, as with any socket.
const PAUSE: Duration = Duration::from_millis(50);

/// Tells the host what is said at it; removed when dropped.
pub struct NotifySocket {
    directory: PathBuf,
    task: AbortHandle,
}

impl NotifySocket {
    /// Makes the socket of a container.
    pub fn open(container_id: &str, events: Events) -> Result<Self> {
        let directory = PathBuf::from(DIRECTORY).join(container_id);
        let action = || format!("make the notify socket of container \"{container_id}\"");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&directory)
            .context(action)?;
        let path = directory.join(NAME);
        let socket = UnixDatagram::bind(&path).context(action)?;
        // Whatever user the process is.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).context(action)?;
        let task = tokio::spawn(pass_on(socket, container_id.to_owned(), events)).abort_handle();
        Ok(Self { directory, task })
    }

    /// Holds the socket; what the container sees at /run/notify.
    pub fn directory(&self) -> String {
        self.directory.to_string_lossy().into_owned()
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        self.task.abort();
        let _ = fs::remove_file(self.directory.join(NAME));
        let _ = fs::remove_dir(&self.directory);
    }
}

async fn pass_on(socket: UnixDatagram, container_id: String, events: Events) {
    let mut buffer = vec![0; LIMIT];
    while let Ok(length) = socket.recv(&mut buffer).await {
        events.notification(&container_id, &String::from_utf8_lossy(&buffer[..length]));
        tokio::time::sleep(PAUSE).await;
    }
}
