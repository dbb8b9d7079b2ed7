//! Terminals: crun opens the pty inside the container and sends its master over a socket.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::crun::Scratch;
use crate::error::{Context, Error, Result};

nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, libc::winsize);

/// Columns and rows; 0 when unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

impl Size {
    /// Bounds what the host asks for to what a terminal can have.
    pub fn new(columns: u32, rows: u32) -> Self {
        let bounded = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        Self {
            columns: bounded(columns),
            rows: bounded(rows),
        }
    }
}

/// Sets the size of the terminal, which signals its foreground processes. An unknown size is left alone.
pub fn resize(master: &OwnedFd, size: Size) -> Result<()> {
    if size == Size::default() {
        return Ok(());
    }
    let value = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the request reads one winsize, which lives until the call returns.
    unsafe { set_window_size(master.as_raw_fd(), &value) }
        .map(drop)
        .context(|| "resize the terminal".into())
}

/// The socket that crun sends the terminal to.
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Listens in `scratch`, whose removal removes the socket.
    pub fn listen(scratch: &Scratch) -> Result<Self> {
        let path = scratch.file("console");
        let listener = UnixListener::bind(&path).context(|| format!("listen on {}", path.display()))?;
        listener
            .set_nonblocking(true)
            .context(|| "make the console socket non-blocking".into())?;
        Ok(Self { listener, path })
    }

    /// For crun's `--console-socket`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the terminal that crun has sent. To be called after crun has ended: nothing is waited for.
    pub fn receive(self) -> Result<OwnedFd> {
        let (connection, _) = self
            .listener
            .accept()
            .context(|| "accept crun's console connection".into())?;
        let mut name = [0; 4096];
        let mut control = cmsg_space!([i32; 4]);
        let mut parts = [IoSliceMut::new(&mut name)];
        let message = recvmsg::<()>(
            connection.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT,
        )
        .context(|| "receive the terminal from crun".into())?;
        let mut received = Vec::new();
        for item in message.cmsgs().context(|| "read crun's console message".into())? {
            if let ControlMessageOwned::ScmRights(fds) = item {
                // SAFETY: the kernel has just installed these descriptors for us, nobody else owns them.
                received.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        received
            .into_iter()
            .next()
            .ok_or_else(|| Error::Internal("Cannot use the terminal: crun sent no descriptor".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(Size::new(80, 24), Size { columns: 80, rows: 24 });
        assert_eq!(
            Size::new(70_000, 0),
            Size {
                columns: u16::MAX,
                rows: 0
            }
        );
    }
}
