//! Answers to queries by UDP. Our sockets are on ports of their own, while an answer has to come from port 53: it is sent with
//! headers of our making (raw(7)).

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket};

use super::lookup::PORT;

const IP_HEAD: usize = 20;
const UDP_HEAD: usize = 8;

/// Sends datagrams from port 53 of any address of the loopback.
pub struct Sender(OwnedFd);

impl Sender {
    /// Needs CAP_NET_RAW, which the agent has.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // This protocol is for sending only: it receives nothing, and takes the IP header from us.
        Ok(Self(socket(
            AddressFamily::Inet,
            SockType::Raw,
            flags,
            SockProtocol::Raw,
        )?))
    }

    /// Sends one, or drops it where there is no room: so does a network.
    pub fn send(&self, from: Ipv4Addr, to: SocketAddrV4, payload: &[u8]) {
        if let Some(packet) = packet(from, to, payload) {
            let _ = sendto(
                self.0.as_raw_fd(),
                &packet,
                &SockaddrIn::from(SocketAddrV4::new(*to.ip(), 0)),
                MsgFlags::empty(),
            );
        }
    }
}

/// `None`: it is too long for a datagram. The kernel fills in the IP header's checksum; that of UDP may be left out.
fn packet(from: Ipv4Addr, to: SocketAddrV4, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(UDP_HEAD + payload.len()).ok()?;
    let total = u16::try_from(IP_HEAD + UDP_HEAD + payload.len()).ok()?;
    let mut packet = Vec::with_capacity(usize::from(total));
    packet.extend([0x45, 0]);
    packet.extend(total.to_be_bytes());
    // No identification, no fragments, 64 hops, UDP, checksum.
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.ip().octets());
    packet.extend(PORT.to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_has_the_addresses_and_lengths() {
        let to = SocketAddrV4::new(Ipv4Addr::new(10, 1, 2, 3), 0x1234);
        let got = packet(Ipv4Addr::new(127, 0, 0, 11), to, b"hello").expect("short enough");

        assert_eq!(got.len(), 33);
        assert_eq!(got[..4], [0x45, 0, 0, 33]);
        assert_eq!(got[12..20], [127, 0, 0, 11, 10, 1, 2, 3]);
        assert_eq!(got[20..28], [0, 53, 0x12, 0x34, 0, 13, 0, 0]);
        assert_eq!(&got[28..], b"hello");
        assert!(packet(Ipv4Addr::LOCALHOST, to, &[0; 65_508]).is_none());
    }
}
