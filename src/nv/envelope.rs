//! What Husk itself remembers beside the engine's state: a fixed header in front of it.

use super::NvFault;
use crate::volume::blocks::{BLOCKS_MAX, Entry};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// How many authorization attempts may be open at once.
pub const OPEN_ATTEMPTS_MAX: usize = 8;

/// First bytes of every image.
const MAGIC: [u8; 8] = *b"HUSKNV\0\x01";

/// The durable facts in front of the engine's state; all integers little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Envelope {
    magic: [u8; 8],
    /// TPM Clock never showed a value beyond this many milliseconds.
    pub clock_ms_reserved: U64,
    /// resetCount is the fencing token less this (set to the token by TPM2_Clear).
    pub reset_base: U64,
    attempts: [U32; OPEN_ATTEMPTS_MAX],
    attempts_open: U16,
    pub(super) blocks: U16,
    /// 1 from the making of a TPM until its firmware has allocated its first PCR banks.
    banks_due: u8,
    reserved: [u8; 3],
}

impl Envelope {
    /// Size in bytes.
    pub const BYTES: usize = size_of::<Self>();

    /// The envelope of a TPM that was never used.
    #[must_use]
    pub fn new() -> Self {
        Self {
            magic: MAGIC,
            clock_ms_reserved: U64::new(0),
            reset_base: U64::new(0),
            attempts: [U32::new(0); OPEN_ATTEMPTS_MAX],
            attempts_open: U16::new(0),
            blocks: U16::new(0),
            banks_due: 0,
            reserved: [0; 3],
        }
    }

    /// Reads the envelope at the start of `state`.
    ///
    /// # Errors
    /// [`NvFault::EnvelopeRefused`] if it is not one.
    pub fn parse(state: &[u8]) -> Result<Self, NvFault> {
        let (envelope, _) = Self::read_from_prefix(state).map_err(|_| NvFault::EnvelopeRefused)?;
        let open = usize::from(envelope.attempts_open.get());
        let reserved = envelope.banks_due > 1 || envelope.reserved != [0; 3];
        if envelope.magic != MAGIC || reserved || open > OPEN_ATTEMPTS_MAX {
            return Err(NvFault::EnvelopeRefused);
        }
        if envelope.blocks() > BLOCKS_MAX || state.len() < envelope.front_bytes() {
            return Err(NvFault::EnvelopeRefused);
        }
        Ok(envelope)
    }

    /// How many blocks the guest's flash has; 0 where none is kept.
    #[must_use]
    pub fn blocks(&self) -> usize {
        usize::from(self.blocks.get())
    }

    /// How much of the state is Husk's own, in bytes: this envelope, and behind it the table of the flash's blocks.
    #[must_use]
    pub fn front_bytes(&self) -> usize {
        Self::BYTES + self.blocks() * Entry::BYTES
    }

    /// The same envelope in front of a table of so many blocks.
    pub(super) const fn with_blocks(mut self, blocks: u16) -> Self {
        self.blocks = U16::new(blocks);
        self
    }

    /// Whether a firmware has yet to allocate this TPM's first PCR banks.
    #[must_use]
    pub const fn are_banks_due(&self) -> bool {
        self.banks_due == 1
    }

    /// Notes that a firmware has yet to allocate the first PCR banks.
    pub const fn owe_banks(&mut self) {
        self.banks_due = 1;
    }

    /// Notes that the allocation of PCR banks is the guest's from now on.
    pub const fn give_banks_away(&mut self) {
        self.banks_due = 0;
    }

    /// The handles whose attempts are open.
    pub fn attempts(&self) -> impl Iterator<Item = u32> + '_ {
        self.attempts.iter().take(usize::from(self.attempts_open.get())).map(|handle| handle.get())
    }

    /// Opens an attempt on each of `handles`; returns whether that changed anything. Where there is no room for them, what
    /// is open is closed first: its commands were answered, so their outcome is durable.
    pub fn open_attempts<const N: usize>(&mut self, handles: &heapless::Vec<u32, N>) -> bool {
        const { assert!(N <= OPEN_ATTEMPTS_MAX, "one command's attempts always fit") };
        let before = *self;
        let new = handles.iter().filter(|handle| before.attempts().all(|open| open != **handle)).count();
        if before.attempts().count() + new > OPEN_ATTEMPTS_MAX {
            self.close_attempts();
        }
        for handle in handles {
            if self.attempts().all(|open| open != *handle) {
                self.attempts[usize::from(self.attempts_open.get())] = U32::new(*handle);
                self.attempts_open += 1;
            }
        }
        *self != before
    }

    /// Closes the attempts on `handles`.
    pub fn close_attempts_on(&mut self, handles: &[u32]) {
        let before = *self;
        self.close_attempts();
        for (at, handle) in before.attempts().filter(|open| !handles.contains(open)).enumerate() {
            self.attempts[at] = U32::new(handle);
            self.attempts_open += 1;
        }
    }

    /// Closes every open attempt.
    pub fn close_attempts(&mut self) {
        self.attempts = [U32::new(0); OPEN_ATTEMPTS_MAX];
        self.attempts_open = U16::new(0);
    }
}

impl Default for Envelope {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::{Envelope, NvFault, OPEN_ATTEMPTS_MAX};
    use zerocopy::IntoBytes;

    #[test]
    fn attempts_are_a_bounded_set() {
        let open = |envelope: &mut Envelope, handles: &[u32]| {
            envelope.open_attempts::<3>(&handles.iter().copied().collect())
        };
        let mut envelope = Envelope::new();
        assert!(open(&mut envelope, &[7]) && !open(&mut envelope, &[7]));
        for handle in (100..).take(OPEN_ATTEMPTS_MAX - 1) {
            assert!(open(&mut envelope, &[7, handle]));
        }
        assert!(!open(&mut envelope, &[7, 100]));
        assert_eq!(Envelope::parse(envelope.as_bytes()), Ok(envelope));
        let full = envelope;
        envelope.close_attempts_on(&[7, 102, 8]);
        assert!(envelope.attempts().eq([100, 101, 103, 104, 105, 106]));
        assert_eq!(Envelope::parse(envelope.as_bytes()), Ok(envelope));
        envelope = full;
        assert!(open(&mut envelope, &[7, 8]));
        assert!(envelope.attempts().eq([7, 8]), "what was answered gives way");
        envelope.close_attempts();
        assert_eq!(envelope, Envelope::new());
    }

    #[test]
    fn another_format_is_refused() {
        let mut bytes = [0; Envelope::BYTES];
        bytes.copy_from_slice(Envelope::new().as_bytes());
        // The count of attempts, that of blocks for whose table there is no room, and what is reserved.
        for at in (0..8).chain(Envelope::BYTES - 8..Envelope::BYTES) {
            bytes[at] ^= 0x80;
            assert_eq!(Envelope::parse(&bytes), Err(NvFault::EnvelopeRefused), "byte {at}");
            bytes[at] ^= 0x80;
        }
        bytes[Envelope::BYTES - 4] = 1;
        assert!(Envelope::parse(&bytes).is_ok_and(|envelope| envelope.are_banks_due()));
        bytes[Envelope::BYTES - 4] = 2;
        assert_eq!(Envelope::parse(&bytes), Err(NvFault::EnvelopeRefused));
    }
}
