//! Messages between the driver of a world and a component's process: a length (four bytes), then so many bytes.

use std::io::{self, Read, Write};

/// The driver's orders, each followed by the time in milliseconds and what it needs.
pub(crate) mod order {
    /// Begins a launch; whatever ran before has lost its power.
    pub(crate) const LAUNCH: u8 = b'L';
    /// Asks the broker for the keys.
    pub(crate) const GRANT: u8 = b'G';
    /// Opens the volume, or makes it, and confirms.
    pub(crate) const FINISH: u8 = b'F';
    /// A TPM command.
    pub(crate) const COMMAND: u8 = b'C';
    /// The machine is reset.
    pub(crate) const RESET: u8 = b'R';
    /// The machine is shut down in order.
    pub(crate) const SHUT_DOWN: u8 = b'S';
}

/// A component's messages.
pub(crate) mod told {
    /// A step is due; the driver says what becomes of it.
    pub(crate) const STEP: u8 = b'?';
    /// The order was carried out: what it yields.
    pub(crate) const DONE: u8 = b'=';
    /// The broker says: busy.
    pub(crate) const BUSY: u8 = b'b';
    /// A fault: its code.
    pub(crate) const FAULT: u8 = b'f';
}

/// Steps at which something can go wrong.
pub(crate) mod step {
    /// Before a write.
    pub(crate) const WRITE: u8 = b'w';
    /// Before a flush.
    pub(crate) const FLUSH: u8 = b'f';
    /// After a flush.
    pub(crate) const FLUSHED: u8 = b'F';
    /// Before a request leaves.
    pub(crate) const REQUEST: u8 = b'q';
    /// Before its reply arrives.
    pub(crate) const REPLY: u8 = b'r';
}

/// What becomes of a step, each followed by the time in milliseconds and a number to choose by.
pub(crate) mod fate {
    /// It goes well.
    pub(crate) const PASS: u8 = b'p';
    /// The message is lost.
    pub(crate) const LOSE: u8 = b'l';
    /// The process ends; of what was not flushed, the number's bits choose the blocks that are on the disk.
    pub(crate) const DIE: u8 = b'd';
}

/// More than any message has.
const BYTES_MAX: usize = 1 << 16;

pub(crate) fn send(to: &mut impl Write, parts: &[&[u8]]) -> io::Result<()> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut message = u32::try_from(length).map_err(io::Error::other)?.to_le_bytes().to_vec();
    parts.iter().for_each(|part| message.extend_from_slice(part));
    to.write_all(&message)?;
    to.flush()
}

/// The next message; an error at the other end's end.
pub(crate) fn receive(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?;
    if length == 0 || length > BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    from.read_exact(&mut message)?;
    Ok(message)
}

/// Eight bytes at `at`.
pub(crate) fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
