use super::{Envelope, NvFault};
use crate::volume::STATE_BYTES_MAX;
use crate::volume::blocks::{BLOCKS_MAX, Entry};
use zerocopy::{FromBytes as _, IntoBytes};
use zeroize::Zeroize;

/// The TPM's durable bytes in RAM: as last committed, and as they are to become.
///
/// Both buffers are handed in at boot and have [`STATE_BYTES_MAX`] bytes.
#[expect(missing_debug_implementations, reason = "it holds the TPM's secrets")]
pub struct NvImage<'m> {
    durable: &'m mut [u8; STATE_BYTES_MAX],
    durable_len: usize,
    current: &'m mut [u8; STATE_BYTES_MAX],
    current_len: usize,
    version: u64,
    durable_version: u64,
}

impl<'m> NvImage<'m> {
    /// An image of nothing: version 0, which is not committed by anything.
    pub fn new(durable: &'m mut [u8; STATE_BYTES_MAX], current: &'m mut [u8; STATE_BYTES_MAX]) -> Self {
        Self { durable, durable_len: 0, current, current_len: 0, version: 0, durable_version: 0 }
    }

    /// Lets `read` fill the image from the volume; both halves hold the same afterwards.
    ///
    /// # Errors
    /// What `read` returns, or [`NvFault::EnvelopeRefused`]; the image is empty then.
    pub fn load<F: From<NvFault>>(
        &mut self,
        read: impl FnOnce(&mut [u8; STATE_BYTES_MAX]) -> Result<usize, F>,
    ) -> Result<(), F> {
        (self.durable_len, self.current_len) = (0, 0);
        let len = read(self.durable)?.min(STATE_BYTES_MAX);
        Envelope::parse(&self.durable[..len])?;
        self.current[..len].copy_from_slice(&self.durable[..len]);
        (self.durable_len, self.current_len) = (len, len);
        self.durable_version = self.version;
        Ok(())
    }

    /// The state as last committed.
    #[must_use]
    pub fn durable(&self) -> &[u8] {
        &self.durable[..self.durable_len.min(STATE_BYTES_MAX)]
    }

    /// The state as it is to become.
    #[must_use]
    pub fn current(&self) -> &[u8] {
        &self.current[..self.current_len.min(STATE_BYTES_MAX)]
    }

    /// The engine's part of the current state; empty in an image of nothing.
    #[must_use]
    pub fn engine_state(&self) -> &[u8] {
        self.current().get(self.envelope().front_bytes()..).unwrap_or(&[])
    }

    /// Husk's own part of the state as last committed, and the engine's.
    #[must_use]
    pub fn durable_parts(&self) -> Option<(&[u8], &[u8])> {
        let front = Envelope::parse(self.durable()).unwrap_or_default().front_bytes();
        self.durable().split_at_checked(front)
    }

    /// Husk's own part of the current state, and the engine's.
    #[must_use]
    pub fn current_parts(&self) -> Option<(&[u8], &[u8])> {
        self.current().split_at_checked(self.envelope().front_bytes())
    }

    /// Husk's own part of the current state.
    #[must_use]
    pub fn envelope(&self) -> Envelope {
        Envelope::parse(self.current()).unwrap_or_default()
    }

    /// Whether the current state differs from the committed one.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.version != self.durable_version
    }

    /// The version that is committed.
    #[must_use]
    pub const fn durable_version(&self) -> u64 {
        self.durable_version
    }

    /// Counts changes; a [`Committed`](super::Committed) names the version that it made durable.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Puts `state` in place of the engine's part. Storing what is there already changes nothing.
    ///
    /// # Errors
    /// [`NvFault::TooLarge`]; the image is unchanged then.
    pub fn store_engine_state(&mut self, state: &[u8]) -> Result<(), NvFault> {
        self.store_engine_parts(&[], state)
    }

    /// Puts `head` and then `rest` in place of the engine's part, as [`store_engine_state`](Self::store_engine_state).
    ///
    /// # Errors
    /// [`NvFault::TooLarge`]; the image is unchanged then.
    pub fn store_engine_parts(&mut self, head: &[u8], rest: &[u8]) -> Result<(), NvFault> {
        let envelope = self.envelope();
        let front = envelope.front_bytes();
        let end = front + head.len() + rest.len();
        let room = self.current.get_mut(front..end).ok_or(NvFault::TooLarge)?;
        let (head_room, rest_room) = room.split_at_mut_checked(head.len()).ok_or(NvFault::TooLarge)?;
        if self.current_len == end && head_room == head && rest_room == rest {
            return Ok(());
        }
        head_room.copy_from_slice(head);
        rest_room.copy_from_slice(rest);
        self.current[..Envelope::BYTES].copy_from_slice(envelope.as_bytes());
        self.current_len = end;
        self.version += 1;
        Ok(())
    }

    /// Lets `edit` change the engine's part in place; what it says. An image of nothing has no such part.
    pub fn edit_engine_state(&mut self, edit: impl FnOnce(&mut [u8]) -> bool) -> bool {
        let front = self.envelope().front_bytes();
        let state = self.current.get_mut(front..self.current_len);
        self.version += 1;
        state.is_some_and(edit)
    }

    /// Puts `envelope` in place of the one that is there, but for the count of blocks. Storing what is there already changes nothing.
    pub fn store_envelope(&mut self, envelope: &Envelope) {
        let envelope = envelope.with_blocks(self.envelope().blocks.get());
        let here = &mut self.current[..Envelope::BYTES];
        if self.current_len >= Envelope::BYTES && *here == *envelope.as_bytes() {
            return;
        }
        here.copy_from_slice(envelope.as_bytes());
        self.current_len = self.current_len.max(Envelope::BYTES);
        self.version += 1;
    }

    /// How many blocks the guest's flash has; 0 where none is kept.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.envelope().blocks()
    }

    /// How the current state names a block; nothing beyond the last one.
    #[must_use]
    pub fn block(&self, number: usize) -> Option<Entry> {
        let (front, _) = self.current_parts()?;
        let (entry, _) = Entry::read_from_prefix(front.get(place_of(number)..)?).ok()?;
        Some(entry)
    }

    /// Makes room for the table of a flash of so many blocks, all of them erased, between envelope and engine.
    ///
    /// # Errors
    /// [`NvFault::FlashSize`] if there is a table, or no flash has that size; [`NvFault::TooLarge`]. The image is unchanged then.
    pub(super) fn make_blocks(&mut self, blocks: usize) -> Result<(), NvFault> {
        let envelope = self.envelope();
        let count = u16::try_from(blocks).map_err(|_| NvFault::FlashSize)?;
        if envelope.blocks() != 0 || !(1..=BLOCKS_MAX).contains(&blocks) {
            return Err(NvFault::FlashSize);
        }
        let table_bytes = blocks * Entry::BYTES;
        let moved = self.current_len.max(Envelope::BYTES) - Envelope::BYTES;
        let behind = self.current.get_mut(Envelope::BYTES..).ok_or(NvFault::TooLarge)?;
        let room = behind.get_mut(..table_bytes + moved).ok_or(NvFault::TooLarge)?;
        room.rotate_right(table_bytes);
        room.get_mut(..table_bytes).ok_or(NvFault::TooLarge)?.fill(0);
        let envelope = envelope.with_blocks(count);
        self.current[..Envelope::BYTES].copy_from_slice(envelope.as_bytes());
        self.current_len = Envelope::BYTES + table_bytes + moved;
        self.version += 1;
        Ok(())
    }

    /// Has the current state name a block so.
    ///
    /// # Errors
    /// [`NvFault::FlashSize`] for a block that there is not; the image is unchanged then.
    pub(super) fn name_block(&mut self, number: usize, entry: &Entry) -> Result<(), NvFault> {
        if number >= self.blocks() {
            return Err(NvFault::FlashSize);
        }
        let at = place_of(number);
        let here = self.current.get_mut(at..at + Entry::BYTES).ok_or(NvFault::FlashSize)?;
        if *here != *entry.as_bytes() {
            here.copy_from_slice(entry.as_bytes());
            self.version += 1;
        }
        Ok(())
    }

    /// Forgets the guest's flash.
    pub fn forget_blocks(&mut self) {
        let envelope = self.envelope();
        let table_bytes = envelope.front_bytes() - Envelope::BYTES;
        if table_bytes == 0 {
            return;
        }
        if let Some(behind) = self.current.get_mut(Envelope::BYTES..self.current_len) {
            behind.rotate_left(table_bytes.min(behind.len()));
        }
        let end = self.current_len.saturating_sub(table_bytes);
        if let Some(keys) = self.current.get_mut(end..self.current_len) {
            keys.zeroize();
        }
        self.current_len = end;
        self.current[..Envelope::BYTES].copy_from_slice(envelope.with_blocks(0).as_bytes());
        self.version += 1;
    }

    /// Forgets the state, the committed one too: an image of nothing again, whose version no proof reaches.
    pub(super) fn wipe(&mut self) {
        self.durable.zeroize();
        self.current.zeroize();
        (self.durable_len, self.current_len) = (0, 0);
        self.version += 1;
    }

    /// Takes the current state as committed; only the store calls this, with a proof in hand.
    pub(super) fn settle(&mut self) {
        self.durable[..self.current_len].copy_from_slice(&self.current[..self.current_len]);
        self.durable_len = self.current_len;
        self.durable_version = self.version;
    }
}

/// Where a block's entry lies in a state.
const fn place_of(number: usize) -> usize {
    Envelope::BYTES + number * Entry::BYTES
}
