//! What the agent reads from outside, as functions of bytes that panic when a promise is broken.
//!
//! The agent is a program, not a library: its modules are taken in by their paths, and what they need of the guest is
//! put in their place.

#[allow(dead_code)]
#[path = "../../src/bundle.rs"]
mod bundle;
#[allow(dead_code)]
#[path = "../../src/error.rs"]
mod error;
#[allow(dead_code)]
#[path = "../../src/ids.rs"]
mod ids;
#[allow(dead_code)]
#[path = "../../src/log.rs"]
mod log;
#[path = "../../src/polled.rs"]
mod polled;

#[allow(dead_code)]
mod stdio;

mod cgroup {
    pub struct Cgroup;

    impl Cgroup {
        pub fn oci_path(id: &str) -> String {
            format!("/caisson/{id}")
        }
    }
}

mod console {
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Size {
        pub columns: u16,
        pub rows: u16,
    }
}

/// A Unix socket in the place of a vsock connection.
#[allow(dead_code)]
mod vsock {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
    use tokio::net::UnixStream;

    pub const WRITE_LIMIT: usize = 32 * 1024;

    pub struct Stream(pub UnixStream);

    impl Stream {
        pub async fn send(&mut self, frame: &[u8]) -> io::Result<()> {
            self.0.write_all(frame).await
        }

        pub async fn readable(&self) -> io::Result<()> {
            self.0.readable().await
        }

        pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
            loop {
                self.0.readable().await?;
                match self.0.try_read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    received => return received,
                }
            }
        }

        pub fn receive_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.try_read(buffer)
        }

        pub fn set_room(&self, _bytes: u64) -> io::Result<()> {
            Ok(())
        }

        /// As a kernel that does not know it.
        pub fn set_low_water(&self, _bytes: i32) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    impl AsyncRead for Stream {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }
}

mod targets;

pub use targets::{frames, hello, spec};
