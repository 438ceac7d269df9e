use super::{Envelope, NvFault};
use crate::volume::STATE_BYTES_MAX;
use zerocopy::IntoBytes;
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
        self.current().get(Envelope::BYTES..).unwrap_or(&[])
    }

    /// Husk's own part of the state as last committed, and the engine's.
    #[must_use]
    pub fn durable_parts(&self) -> Option<(&[u8], &[u8])> {
        self.durable().split_at_checked(Envelope::BYTES)
    }

    /// Husk's own part of the current state, and the engine's.
    #[must_use]
    pub fn current_parts(&self) -> Option<(&[u8], &[u8])> {
        self.current().split_at_checked(Envelope::BYTES)
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
        let end = Envelope::BYTES + head.len() + rest.len();
        let envelope = self.envelope();
        let room = self.current.get_mut(Envelope::BYTES..end).ok_or(NvFault::TooLarge)?;
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
        let state = self.current.get_mut(Envelope::BYTES..self.current_len);
        self.version += 1;
        state.is_some_and(edit)
    }

    /// Puts `envelope` in place of Husk's own part. Storing what is there already changes nothing.
    pub fn store_envelope(&mut self, envelope: &Envelope) {
        let here = &mut self.current[..Envelope::BYTES];
        if self.current_len >= Envelope::BYTES && *here == *envelope.as_bytes() {
            return;
        }
        here.copy_from_slice(envelope.as_bytes());
        self.current_len = self.current_len.max(Envelope::BYTES);
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
