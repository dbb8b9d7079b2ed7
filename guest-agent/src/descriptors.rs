//! Descriptors beyond the standard streams that a container's first process gets. The host has the real ones, and brings
//! their connections and bytes here.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{OFlag, open};
use nix::sys::socket::{Backlog, listen};
use nix::sys::stat::Mode;
use nix::unistd::pipe2;
use tokio::net::unix::pipe;
use tokio::net::{TcpStream, UnixStream};

use crate::error::{Context, Error, Result};
use crate::forward::{self, Peer};
use crate::peer_user;
use crate::proto::{Descriptor, DescriptorKind};
use crate::sandbox::lock;

/// The first of them.
pub const FIRST: u32 = 3;
/// Most that a process gets.
const LIMIT: usize = 64;
/// Connections that wait to be accepted; the kernel has a limit of its own.
const BACKLOG: i32 = 4096;
const DIRECTORY: &str = "/run/caisson/descriptors";

/// Our sides of the descriptors of one process, in their order.
#[derive(Default)]
pub struct Descriptors(Vec<Side>);

enum Side {
    /// A listening socket's inode.
    Unix(OwnedFd),
    Tcp(SocketAddr),
    /// Taken by the one connection that there can be.
    Single(Mutex<Option<Peer>>),
}

impl Descriptors {
    /// Makes the descriptors, which come back in their order, with our sides of them.
    pub fn open(wanted: &[Descriptor]) -> Result<(Self, Vec<OwnedFd>)> {
        if wanted.len() > LIMIT {
            return Err(Error::ResourceExhausted(format!(
                "Cannot make {} descriptors: a process gets at most {LIMIT}",
                wanted.len()
            )));
        }
        let mut sides = Vec::with_capacity(wanted.len());
        let mut ends = Vec::with_capacity(wanted.len());
        for (number, descriptor) in (FIRST..).zip(wanted) {
            let (side, end) = make(descriptor).context(|| format!("make descriptor {number}"))?;
            sides.push(side);
            ends.push(end);
        }
        Ok((Self(sides), ends))
    }

    /// Connects to what the process was given as this descriptor. The error is the reason for the peer.
    pub async fn connect(&self, number: u32) -> std::result::Result<Peer, String> {
        let index = number.checked_sub(FIRST).and_then(|index| usize::try_from(index).ok());
        match index.and_then(|index| self.0.get(index)) {
            None => Err("there is no such descriptor".into()),
            Some(Side::Unix(socket)) => connect_unix(socket).map(Peer::Unix).map_err(reason),
            Some(Side::Tcp(address)) => forward::limited(TcpStream::connect(*address)).await.map(Peer::Tcp),
            Some(Side::Single(peer)) => lock(peer)
                .take()
                .ok_or_else(|| "the descriptor has been connected before".into()),
        }
    }
}

fn make(descriptor: &Descriptor) -> io::Result<(Side, OwnedFd)> {
    let single = |peer| Side::Single(Mutex::new(Some(peer)));
    match descriptor.kind() {
        DescriptorKind::UnixListener => listen_unix(),
        DescriptorKind::Tcp4Listener => listen_tcp(Ipv4Addr::LOCALHOST.into(), descriptor.port),
        // A kernel without IPv6 still has a loopback.
        DescriptorKind::Tcp6Listener => listen_tcp(Ipv6Addr::LOCALHOST.into(), descriptor.port)
            .or_else(|_| listen_tcp(Ipv4Addr::LOCALHOST.into(), descriptor.port)),
        DescriptorKind::Stream => {
            let (own, end) = std::os::unix::net::UnixStream::pair()?;
            own.set_nonblocking(true)?;
            Ok((single(Peer::Unix(UnixStream::from_std(own)?)), end.into()))
        }
        DescriptorKind::PipeReader => {
            let (end, own) = pipe2(OFlag::O_CLOEXEC)?;
            Ok((single(Peer::Writer(pipe::Sender::from_owned_fd(own)?)), end))
        }
        DescriptorKind::PipeWriter => {
            let (own, end) = pipe2(OFlag::O_CLOEXEC)?;
            Ok((single(Peer::Reader(pipe::Receiver::from_owned_fd(own)?)), end))
        }
        DescriptorKind::Unspecified => Err(io::Error::new(io::ErrorKind::InvalidInput, "it has no kind")),
    }
}

/// Nobody finds it by a path: the inode is what we connect to.
fn listen_unix() -> io::Result<(Side, OwnedFd)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(DIRECTORY)?;
    let path = Path::new(DIRECTORY).join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    let listener = UnixListener::bind(&path)?;
    let bound = Bound(path);
    // Whoever connects is nobody here.
    fs::set_permissions(&bound.0, fs::Permissions::from_mode(0o777))?;
    let inode = open(&bound.0, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    listen(&listener, Backlog::new(BACKLOG)?)?;
    Ok((Side::Unix(inode), listener.into()))
}

/// A path that is removed when dropped.
struct Bound(PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn listen_tcp(address: std::net::IpAddr, port: u32) -> io::Result<(Side, OwnedFd)> {
    let port = u16::try_from(port).unwrap_or(0);
    let listener = TcpListener::bind((address, port)).or_else(|_| TcpListener::bind((address, 0)))?;
    listen(&listener, Backlog::new(BACKLOG)?)?;
    Ok((Side::Tcp(listener.local_addr()?), listener.into()))
}

/// A service that trusts its peer's user id must not take a client of the host for the guest's root.
fn connect_unix(socket: &OwnedFd) -> io::Result<UnixStream> {
    let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
    let stream = peer_user::as_nobody(|| peer_user::connect_at_once(&path))?;
    UnixStream::from_std(stream)
}

fn reason(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener as StdListener;

    fn descriptor(kind: DescriptorKind) -> Descriptor {
        Descriptor {
            kind: kind.into(),
            port: 0,
        }
    }

    #[test]
    fn too_many_and_unknown_ones_are_refused() {
        let many = vec![descriptor(DescriptorKind::Tcp4Listener); LIMIT + 1];
        assert!(matches!(Descriptors::open(&many), Err(Error::ResourceExhausted(_))));
        assert!(Descriptors::open(&[descriptor(DescriptorKind::Unspecified)]).is_err());
    }

    #[tokio::test]
    async fn a_listening_socket_takes_connections_until_its_holder_closes_it() {
        let (sides, mut ends) = Descriptors::open(&[descriptor(DescriptorKind::Tcp4Listener)]).expect("a socket");
        assert!(sides.connect(FIRST).await.is_ok());
        assert!(sides.connect(FIRST).await.is_ok());
        ends.clear();
        assert_eq!(sides.connect(FIRST).await.err().as_deref(), Some("connection refused"));
        assert!(sides.connect(FIRST + 1).await.is_err());
        assert!(sides.connect(0).await.is_err());
    }

    #[tokio::test]
    async fn a_pipe_is_connected_once() {
        let (sides, _ends) = Descriptors::open(&[descriptor(DescriptorKind::PipeReader)]).expect("a pipe");
        assert!(sides.connect(FIRST).await.is_ok());
        assert!(sides.connect(FIRST).await.is_err());
    }

    #[test]
    fn a_full_backlog_does_not_block() {
        let directory = std::env::temp_dir().join(format!("caisson-backlog-{}", std::process::id()));
        let _ = fs::remove_file(&directory);
        let listener = StdListener::bind(&directory).expect("a socket");
        let bound = Bound(directory);
        listen(&listener, Backlog::new(0).expect("a backlog")).expect("listening");
        let path = bound.0.to_string_lossy().into_owned();
        let mut taken = Vec::new();
        let refused = loop {
            match peer_user::connect_at_once(&path) {
                Ok(stream) => taken.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    }
}
