//! Name servers that are on the loopback of the sandbox's network namespace on the host (Docker's is): here they are on the same
//! addresses, and the host passes queries on.

mod bpf;
mod datagram;
mod lookup;
mod queries;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::error::{Context, Error, Result};
use crate::sandbox::lock;
use datagram::Sender;
pub use queries::Queries;

/// Addresses in a sandbox; a container names three at most (resolv.conf(5)).
const ADDRESS_LIMIT: usize = 8;
/// Clients by TCP at once, of one address.
const CLIENT_LIMIT: usize = 32;
/// How long a client may take for its next query.
const CLIENT_WAIT: Duration = Duration::from_secs(10);
/// Longest query by UDP; usual are some hundred bytes at most.
const QUERY_LIMIT: usize = 4096;
/// Before the next attempt at what has failed: of one client, or for want of descriptors.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// The addresses that are served.
#[derive(Default)]
pub struct Names {
    /// To the host.
    pub queries: Queries,
    /// With what leads packets to our sockets.
    served: Mutex<BTreeMap<Ipv4Addr, OwnedFd>>,
}

impl Names {
    /// Serves these addresses for good. When one fails those before it are served.
    pub async fn serve(&self, addresses: &[String]) -> Result<()> {
        for text in addresses {
            let address = parse(text)?;
            let count = {
                let served = lock(&self.served);
                if served.contains_key(&address) {
                    continue;
                }
                served.len()
            };
            if count >= ADDRESS_LIMIT {
                return Err(Error::ResourceExhausted(format!(
                    "Cannot serve names at {address}: they are at {count} addresses already"
                )));
            }
            let redirection = open(address, &self.queries)
                .await
                .context(|| format!("serve names at {address}"))?;
            lock(&self.served).insert(address, redirection);
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<Ipv4Addr> {
    text.parse()
        .ok()
        .filter(|address: &Ipv4Addr| address.is_loopback() && *address != Ipv4Addr::LOCALHOST)
        .ok_or_else(|| {
            Error::InvalidArgument(format!(
                "Cannot serve names at \"{}\": expected an address of 127.0.0.0/8 that is not the guest's own",
                text.escape_default()
            ))
        })
}

async fn open(address: Ipv4Addr, queries: &Queries) -> io::Result<OwnedFd> {
    let any = SocketAddrV4::new(address, 0);
    let udp = UdpSocket::bind(any).await?;
    let tcp = TcpListener::bind(any).await?;
    let sender = Sender::open()?;
    let redirection = lookup::redirect(address, &udp, &tcp)?;
    tokio::spawn(serve_udp(address, udp, sender, queries.clone()));
    tokio::spawn(serve_tcp(address, tcp, queries.clone()));
    Ok(redirection)
}

async fn serve_udp(address: Ipv4Addr, socket: UdpSocket, sender: Sender, queries: Queries) {
    let sender = Arc::new(sender);
    let mut buffer = vec![0; QUERY_LIMIT + 1];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok((length, SocketAddr::V4(client))) if length <= QUERY_LIMIT => (length, client),
            Ok(_) => continue,
            Err(_) => {
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        let message = buffer[..length].to_vec();
        let (sender, queries) = (Arc::clone(&sender), queries.clone());
        tokio::spawn(async move {
            if let Ok(answer) = queries.ask(address, false, message).await {
                sender.send(address, client, &answer);
            }
        });
    }
}

async fn serve_tcp(address: Ipv4Addr, listener: TcpListener, queries: Queries) {
    let places = Arc::new(Semaphore::new(CLIENT_LIMIT));
    loop {
        // Never closed, so it always comes.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let queries = queries.clone();
                tokio::spawn(async move {
                    let _ = serve_client(address, stream, &queries).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(ERROR_PAUSE).await,
        }
    }
}

/// One query after the other, each behind its length (RFC 1035, 4.2.2). Ends without an answer.
async fn serve_client(address: Ipv4Addr, mut stream: TcpStream, queries: &Queries) -> io::Result<()> {
    loop {
        let message = timeout(CLIENT_WAIT, read_message(&mut stream)).await??;
        let Ok(answer) = queries.ask(address, true, message).await else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        let framed = [&length.to_be_bytes(), &answer[..]].concat();
        timeout(CLIENT_WAIT, stream.write_all(&framed)).await??;
    }
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_loopback_but_not_its_own() {
        assert_eq!(parse("127.0.0.11").expect("one"), Ipv4Addr::new(127, 0, 0, 11));
        assert!(parse("127.255.0.1").is_ok());
        for text in [
            "127.0.0.1",
            "::1",
            "10.0.0.1",
            "0.0.0.0",
            "127.0.0.11:53",
            "localhost",
            "",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
