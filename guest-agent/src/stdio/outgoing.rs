//! What a process has written, as frames that follow each other in one buffer.

use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::uio::readv;

use super::frame::{HEAD, OUTPUT_LIMIT, head};
use crate::vsock::WRITE_LIMIT;

/// Frames that a busy stream moves at once. The process and we take turns on the processor, and each turn costs a flush of
/// the TLB: the more is moved in one, the fewer there are.
const BUSY_FRAMES: usize = 8;

/// A buffer of frames. It holds memory from the first read on, until [`Outgoing::release`].
#[derive(Default)]
pub struct Outgoing {
    /// A frame starts at each multiple of [`WRITE_LIMIT`].
    buffer: Vec<u8>,
    length: usize,
}

/// What a read has found.
pub enum Found {
    /// There are frames, and there may be more.
    Data,
    /// Reading would block.
    Nothing,
    /// Nothing will ever come.
    End,
}

impl Outgoing {
    /// Replaces the frames by what `source` has now. A stream that has filled the buffer gets a larger one.
    pub fn read(&mut self, source: impl AsFd) -> io::Result<Found> {
        let wanted = if self.is_full() { BUSY_FRAMES } else { 1 } * WRITE_LIMIT;
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        self.length = 0;
        let mut payloads: Vec<_> = self
            .buffer
            .chunks_mut(WRITE_LIMIT)
            .map(|frame| IoSliceMut::new(&mut frame[HEAD..]))
            .collect();
        match readv(source, &mut payloads) {
            // A terminal whose other side is closed reports EIO once everything is read.
            Ok(0) | Err(Errno::EIO) => Ok(Found::End),
            Ok(count) => {
                self.seal(count);
                Ok(Found::Data)
            }
            Err(Errno::EAGAIN) => Ok(Found::Nothing),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The frames of the last read.
    pub fn frames(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    /// Whether the last read took all that it could.
    fn is_full(&self) -> bool {
        self.length > 0 && self.length == self.buffer.len()
    }

    /// Whether memory is held.
    pub fn is_held(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Gives the memory back.
    pub fn release(&mut self) {
        *self = Self::default();
    }

    fn seal(&mut self, mut count: usize) {
        for frame in self.buffer.chunks_mut(WRITE_LIMIT) {
            let payload = count.min(OUTPUT_LIMIT);
            if payload == 0 {
                break;
            }
            frame[..HEAD].copy_from_slice(&head(payload));
            self.length += HEAD + payload;
            count -= payload;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    #[test]
    fn frames_follow_each_other() {
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        let mut writer = File::from(writer);
        let mut outgoing = Outgoing::default();

        writer.write_all(b"abc").expect("room");
        assert!(matches!(outgoing.read(&reader), Ok(Found::Data)));
        assert_eq!(outgoing.frames(), b"\0\0\0\x03abc");

        // As much as a pipe takes: the first read fills the buffer, which is larger then.
        writer.write_all(&vec![7; 64 * 1024]).expect("room");
        assert!(matches!(outgoing.read(&reader), Ok(Found::Data)));
        assert_eq!(outgoing.frames().len(), WRITE_LIMIT);
        assert!(matches!(outgoing.read(&reader), Ok(Found::Data)));
        let rest = 64 * 1024 - OUTPUT_LIMIT;
        assert_eq!(outgoing.frames().len(), WRITE_LIMIT + HEAD + rest - OUTPUT_LIMIT);
        assert_eq!(outgoing.frames()[..HEAD], head(OUTPUT_LIMIT));
        assert_eq!(outgoing.frames()[WRITE_LIMIT..][..HEAD], head(rest - OUTPUT_LIMIT));

        drop(writer);
        assert!(matches!(outgoing.read(&reader), Ok(Found::End)));
        outgoing.release();
        assert!(!outgoing.is_held());
    }
}
