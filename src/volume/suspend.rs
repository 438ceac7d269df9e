//! A suspended state: sealed once, for the launch that saved it, at the head where it stood (`format.md` §10).

use super::layout::{FORMAT, TAG_BYTES, length};
use super::{Volume, VolumeFault, seal};
use crate::keys::{Identity, ObjectKey, SuspendSecret};
use crate::release::HEAD_DIGEST_BYTES;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The largest volatile state in bytes.
pub const VOLATILE_BYTES_MAX: usize = 64 * 1024;
/// Where the volatile state begins in a suspended state, in bytes: behind header and length.
pub const STATE_AT: usize = SuspendHeader::BYTES + LENGTH_BYTES;
/// The largest suspended state in bytes.
pub const SUSPEND_BYTES_MAX: usize = total_bytes(VOLATILE_BYTES_MAX);

const MAGIC: [u8; 8] = *b"HUSKSUSP";
const LENGTH_BYTES: usize = 4;
/// The plaintext is a multiple of this, so that its length says little about what the TPM holds.
const PAD_BYTES: usize = 4096;

const fn total_bytes(state_bytes: usize) -> usize {
    SuspendHeader::BYTES + (LENGTH_BYTES + state_bytes).next_multiple_of(PAD_BYTES) + TAG_BYTES
}

/// The header of a suspended state, as the host keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SuspendHeader {
    magic: [u8; 8],
    format: U16,
    mode: u8,
    zero_8: u8,
    total_bytes: U32,
    generation: U32,
    zero_32: [u8; 4],
    fingerprint: [u8; 32],
    tenant: [u8; 16],
    vm: [u8; 16],
    epoch: U64,
    token: U64,
    sequence: U64,
    digest: [u8; HEAD_DIGEST_BYTES],
}

impl SuspendHeader {
    /// Size in bytes.
    pub const BYTES: usize = size_of::<Self>();
}

impl Volume<'_> {
    /// The only header that a state suspended here and now can have.
    fn suspend_header(&self, total: usize) -> SuspendHeader {
        let (key, stamp) = self.sealed_by();
        let Identity { tenant, vm, generation } = *key.identity();
        SuspendHeader {
            magic: MAGIC,
            format: U16::new(FORMAT),
            mode: key.mode() as u8,
            zero_8: 0,
            total_bytes: length(total),
            generation: U32::new(generation),
            zero_32: [0; 4],
            fingerprint: stamp.fingerprint,
            tenant,
            vm,
            epoch: U64::new(key.epoch()),
            token: U64::new(stamp.token),
            sequence: U64::new(self.head().sequence),
            digest: self.head().digest,
        }
    }

    fn suspend_key(&self, secret: &SuspendSecret) -> ObjectKey {
        let (key, stamp) = self.sealed_by();
        secret.key(key, stamp.token, self.head())
    }

    /// Seals the volatile state of `state_bytes` that lies at [`STATE_AT`] in `into`, bound to this head, and returns the
    /// sealed length in bytes.
    ///
    /// # Errors
    /// [`VolumeFault::Bounds`] if `into` is too short for it, or the state longer than [`VOLATILE_BYTES_MAX`].
    pub fn seal_suspended(
        &self,
        secret: &SuspendSecret,
        into: &mut [u8],
        state_bytes: usize,
    ) -> Result<usize, VolumeFault> {
        if state_bytes > VOLATILE_BYTES_MAX {
            return Err(VolumeFault::Bounds);
        }
        let total = total_bytes(state_bytes);
        let object = into.get_mut(..total).ok_or(VolumeFault::Bounds)?;
        object.get_mut(STATE_AT + state_bytes..).ok_or(VolumeFault::Bounds)?.fill(0);
        object[..SuspendHeader::BYTES].copy_from_slice(self.suspend_header(total).as_bytes());
        object[SuspendHeader::BYTES..STATE_AT].copy_from_slice(length(state_bytes).as_bytes());
        seal::seal_once(object, SuspendHeader::BYTES, &self.suspend_key(secret))?;
        Ok(total)
    }

    /// Opens what [`seal_suspended`](Self::seal_suspended) sealed at this very head, in place, and yields the volatile state.
    /// The secret is used up, whatever comes of it.
    ///
    /// # Errors
    /// [`VolumeFault::SuspendOther`], [`VolumeFault::SuspendDamaged`].
    pub fn open_suspended<'o>(
        &self,
        secret: SuspendSecret,
        object: &'o mut [u8],
    ) -> Result<&'o mut [u8], VolumeFault> {
        let header = object.get(..SuspendHeader::BYTES).ok_or(VolumeFault::SuspendDamaged)?;
        if *header != *self.suspend_header(object.len().min(SUSPEND_BYTES_MAX)).as_bytes() {
            return Err(VolumeFault::SuspendOther);
        }
        let plain = seal::open_once(object, SuspendHeader::BYTES, &self.suspend_key(&secret))
            .map_err(|seal::NotAuthentic| VolumeFault::SuspendDamaged)?;
        let (stated, rest) = plain.split_first_chunk_mut().ok_or(VolumeFault::SuspendDamaged)?;
        let state_bytes = usize::try_from(u32::from_le_bytes(*stated)).unwrap_or(usize::MAX);
        rest.get_mut(..state_bytes).ok_or(VolumeFault::SuspendDamaged)
    }
}

#[cfg(test)]
mod tests {
    use super::{STATE_AT, SUSPEND_BYTES_MAX, SuspendHeader, total_bytes};

    #[test]
    fn a_suspended_state_has_the_sizes_of_the_format() {
        assert_eq!((SuspendHeader::BYTES, STATE_AT), (160, 164));
        assert_eq!(total_bytes(0), 160 + 4096 + 16);
        assert_eq!(total_bytes(4092), total_bytes(0));
        assert_eq!(total_bytes(4093), 160 + 8192 + 16);
        assert_eq!(SUSPEND_BYTES_MAX, 160 + 68 * 1024 + 16);
    }
}
