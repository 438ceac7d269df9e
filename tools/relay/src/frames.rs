//! Frames on a byte stream.

use husk::release::wire::FRAME_BYTES_MAX;
use std::io::{self, Read};

/// Size of the length field, which counts what follows it.
const LENGTH_BYTES: usize = 4;

/// Reads the rest of a frame whose first byte was read already.
///
/// # Errors
/// What the stream gives; [`io::ErrorKind::InvalidData`] for a length that no frame has.
pub fn read_after(first: u8, stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [first, 0, 0, 0];
    stream.read_exact(&mut length[1..])?;
    let rest = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if rest == 0 || rest > FRAME_BYTES_MAX - LENGTH_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "this is not a frame's length"));
    }
    let mut frame = vec![0; LENGTH_BYTES + rest];
    frame[..LENGTH_BYTES].copy_from_slice(&length);
    stream.read_exact(&mut frame[LENGTH_BYTES..])?;
    Ok(frame)
}

/// Reads a frame; none at an orderly end of the stream.
///
/// # Errors
/// As [`read_after`].
pub fn read(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut first = [0];
    match stream.read(&mut first)? {
        0 => Ok(None),
        _ => read_after(first[0], stream).map(Some),
    }
}

/// Whether `bytes` are one frame, as far as a pipe needs to know.
#[must_use]
pub fn is_frame(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else { return false };
    !rest.is_empty()
        && bytes.len() <= FRAME_BYTES_MAX
        && usize::try_from(u32::from_le_bytes(*length)) == Ok(rest.len())
}

#[cfg(test)]
mod tests {
    use super::{is_frame, read};

    #[test]
    fn only_whole_frames_within_bounds_are_read() {
        let frame = [3, 0, 0, 0, 1, 2, 3];
        assert_eq!(read(&mut &frame[..]).unwrap().unwrap(), frame);
        assert!(is_frame(&frame));
        assert!(read(&mut &[][..]).unwrap().is_none());
        for cut in 1..frame.len() {
            assert!(read(&mut &frame[..cut]).is_err());
            assert!(!is_frame(&frame[..cut]));
        }
        for length in [0, 8189, u32::MAX] {
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.resize(9000, 0);
            assert!(read(&mut &bytes[..]).is_err());
            assert!(!is_frame(&bytes));
        }
        let mut longest = 8188u32.to_le_bytes().to_vec();
        longest.resize(8192, 0);
        assert!(is_frame(&read(&mut &longest[..]).unwrap().unwrap()));
    }
}
