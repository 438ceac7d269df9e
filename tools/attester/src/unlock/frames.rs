//! Frames on whatever carries bytes to a relay.
//!
//! **Trust.** None: the session's keys seal what passes.
//! **Laws.** A reply is a whole frame within bounds, or none.

use crate::tpm::Way;
use husk::release::wire::FRAME_BYTES_MAX;
use husk::seams::{Channel, ChannelError};

/// Size of a frame's length field, which counts what follows it.
const LENGTH_BYTES: usize = 4;

/// Frames on a way.
#[expect(missing_debug_implementations, reason = "a way shows nothing")]
pub struct Frames<'w>(&'w mut dyn Way);

impl<'w> Frames<'w> {
    /// Frames on that way.
    #[must_use]
    pub const fn over(way: &'w mut dyn Way) -> Self {
        Self(way)
    }
}

impl Channel for Frames<'_> {
    fn exchange(&mut self, request: &[u8], reply: &mut [u8]) -> Result<usize, ChannelError> {
        let silent = |_| ChannelError::Unreachable;
        self.0.write_all(request).and_then(|()| self.0.flush()).map_err(silent)?;
        let (length, rest) =
            reply.split_first_chunk_mut::<LENGTH_BYTES>().ok_or(ChannelError::ReplyTooLong)?;
        self.0.read_exact(length).map_err(silent)?;
        let bytes = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if bytes > FRAME_BYTES_MAX - LENGTH_BYTES {
            return Err(ChannelError::ReplyTooLong);
        }
        let rest = rest.get_mut(..bytes).ok_or(ChannelError::ReplyTooLong)?;
        self.0.read_exact(rest).map_err(silent)?;
        Ok(LENGTH_BYTES + bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::{Channel, ChannelError, Frames};
    use std::io::{self, Read, Write};

    /// Answers with what it was given, in pieces of that many bytes.
    struct Says(Vec<u8>, usize);

    impl Read for Says {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let length = self.1.min(into.len()).min(self.0.len());
            into[..length].copy_from_slice(&self.0[..length]);
            self.0.drain(..length);
            Ok(length)
        }
    }

    impl Write for Says {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reply_is_a_whole_frame_within_bounds() {
        let frame = [3, 0, 0, 0, 1, 2, 3];
        let exchange = |bytes: &[u8], room: usize, pieces| {
            let mut reply = vec![0; room];
            let read = Frames::over(&mut Says(bytes.to_vec(), pieces)).exchange(b"ask", &mut reply);
            read.map(|length| reply[..length].to_vec())
        };
        for pieces in [1, 2, 7] {
            assert_eq!(exchange(&frame, 8192, pieces).unwrap(), frame);
        }
        for cut in 0..frame.len() {
            assert_eq!(exchange(&frame[..cut], 8192, 7), Err(ChannelError::Unreachable));
        }
        assert_eq!(exchange(&frame, 6, 7), Err(ChannelError::ReplyTooLong));
        for length in [8189, u32::MAX] {
            let bytes = [&length.to_le_bytes()[..], &[0; 9000]].concat();
            assert_eq!(exchange(&bytes, 8192, 9000), Err(ChannelError::ReplyTooLong));
        }
    }
}
