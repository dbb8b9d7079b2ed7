//! Payloads in a stream of frames.

use std::io::{self, IoSlice};

use super::frame::{HEAD, Head, parse_head};

/// Cuts frames, which come in pieces, without copying payloads.
#[derive(Default)]
pub struct Incoming {
    head: [u8; HEAD],
    head_length: usize,
    /// Bytes of the current payload that have not come yet.
    left: usize,
}

impl Incoming {
    /// Adds the payloads in `data` to `payloads`. True: the frame that ends the stream was there.
    pub fn cut<'a>(&mut self, mut data: &'a [u8], payloads: &mut Vec<IoSlice<'a>>) -> io::Result<bool> {
        while !data.is_empty() {
            if self.left > 0 {
                let (payload, rest) = data.split_at(self.left.min(data.len()));
                payloads.push(IoSlice::new(payload));
                self.left -= payload.len();
                data = rest;
                continue;
            }
            let (piece, rest) = data.split_at((HEAD - self.head_length).min(data.len()));
            self.head[self.head_length..][..piece.len()].copy_from_slice(piece);
            self.head_length += piece.len();
            data = rest;
            if self.head_length == HEAD {
                self.head_length = 0;
                match parse_head(self.head) {
                    Some(Head::Data(length)) => self.left = length,
                    Some(Head::End) => return Ok(true),
                    None => return Err(io::ErrorKind::InvalidData.into()),
                }
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(incoming: &mut Incoming, data: &[u8]) -> (Vec<u8>, Option<bool>) {
        let mut payloads = Vec::new();
        let ended = incoming.cut(data, &mut payloads).ok();
        (payloads.iter().flat_map(|payload| payload.to_vec()).collect(), ended)
    }

    #[test]
    fn payloads_come_in_any_pieces() {
        let wire = b"\0\0\0\x03abc\0\0\0\x01d\0\0\0\0";
        for at in 0..wire.len() {
            let mut incoming = Incoming::default();
            let (mut got, ended) = cut(&mut incoming, &wire[..at]);
            assert_eq!(ended, Some(false));
            let (rest, ended) = cut(&mut incoming, &wire[at..]);
            got.extend(rest);
            assert_eq!((got.as_slice(), ended), (&b"abcd"[..], Some(true)));
        }
    }

    #[test]
    fn what_stands_before_a_bad_frame_counts() {
        let wire = b"\0\0\0\x01a\xff\xff\xff\xffb";
        assert_eq!(cut(&mut Incoming::default(), wire), (b"a".to_vec(), None));
    }
}
