//! Frames: a 4-byte big-endian length of 1..=32768 and that many bytes; length 0 is the end of the stream, length 2^32-1
//! (only from us) the mark behind everything that the exited process itself has written.

use crate::vsock::WRITE_LIMIT;

/// Bytes of a frame's head.
pub const HEAD: usize = 4;
/// Largest payload that a peer may send.
pub const PAYLOAD_LIMIT: usize = 32 * 1024;
/// Largest payload that we send: with its head, it is one write.
pub const OUTPUT_LIMIT: usize = WRITE_LIMIT - HEAD;
/// The frame that ends a stream.
pub const END: [u8; HEAD] = [0; HEAD];

/// The frame behind the last byte that the process itself has written.
pub const EXIT_MARK: [u8; HEAD] = [0xff; HEAD];

/// What a head announces.
#[derive(Debug, PartialEq, Eq)]
pub enum Head {
    /// So many bytes follow.
    Data(usize),
    /// Nothing follows, ever.
    End,
}

/// Reads a head; `None` for a length beyond the limit.
pub fn parse_head(head: [u8; HEAD]) -> Option<Head> {
    match usize::try_from(u32::from_be_bytes(head)).ok()? {
        0 => Some(Head::End),
        length if length <= PAYLOAD_LIMIT => Some(Head::Data(length)),
        _ => None,
    }
}

/// The head of a frame of `length` payload bytes, at most [`PAYLOAD_LIMIT`].
pub fn head(length: usize) -> [u8; HEAD] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

/// Writes the head for the `length` payload bytes that lie behind it in `frame`, and returns the whole frame.
/// `length` is at most [`OUTPUT_LIMIT`].
pub fn seal(frame: &mut [u8], length: usize) -> &[u8] {
    frame[..HEAD].copy_from_slice(&head(length));
    &frame[..HEAD + length]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        assert_eq!(parse_head([0, 0, 0, 0]), Some(Head::End));
        assert_eq!(parse_head([0, 0, 0, 1]), Some(Head::Data(1)));
        assert_eq!(parse_head([0, 0, 0x80, 0]), Some(Head::Data(32768)));
        assert_eq!(parse_head([0, 0, 0x80, 1]), None);
        assert_eq!(parse_head([0xff; 4]), None);
    }

    #[test]
    fn a_head_says_what_is_parsed() {
        assert_eq!(parse_head(head(3)), Some(Head::Data(3)));
    }

    #[test]
    fn seal_puts_the_length_in_front() {
        let mut frame = *b"....abcdef";
        assert_eq!(seal(&mut frame, 3), b"\0\0\0\x03abc");
    }

    #[test]
    fn a_full_frame_fits_into_one_write() {
        assert_eq!(HEAD + OUTPUT_LIMIT, 32768);
    }
}
