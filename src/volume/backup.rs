//! The parts of a backup: a state in chunks, each sealed under a key of its own (`format.md` §13).

use super::layout::{STATE_BYTES_MAX, TAG_BYTES};
use super::{VolumeFault, seal};
use crate::keys::BackupSecret;
use crate::release::backup::BackupHeader;
use crate::release::wire::{BACKUP_CHUNK_BYTES, BACKUP_PART_BYTES_MAX};

/// The longest backup in bytes.
pub const BACKUP_BYTES_MAX: usize =
    BackupHeader::BYTES + STATE_BYTES_MAX + STATE_BYTES_MAX.div_ceil(BACKUP_CHUNK_BYTES) * TAG_BYTES;

/// A part as it is sealed; what its buffer holds beyond is nobody's.
#[expect(missing_debug_implementations, reason = "it may hold the TPM's secrets")]
pub struct Part {
    bytes: [u8; BACKUP_PART_BYTES_MAX],
    length: usize,
}

impl Part {
    /// Seals the chunk of that number, counted from 1, of `state`.
    ///
    /// # Errors
    /// [`VolumeFault::Bounds`] if there is none.
    pub fn seal(
        secret: &BackupSecret,
        header: &BackupHeader,
        number: u32,
        state: &[u8],
    ) -> Result<Self, VolumeFault> {
        let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        let chunk = index.and_then(|index| state.chunks(BACKUP_CHUNK_BYTES).nth(index));
        let chunk = chunk.ok_or(VolumeFault::Bounds)?;
        let mut part = Self { bytes: [0; BACKUP_PART_BYTES_MAX], length: chunk.len() + TAG_BYTES };
        let (body, _) = part.bytes.split_at_mut_checked(chunk.len()).ok_or(VolumeFault::Bounds)?;
        body.copy_from_slice(chunk);
        let object = part.bytes.get_mut(..part.length).ok_or(VolumeFault::Bounds)?;
        seal::seal_once(object, 0, &secret.part(header, number))?;
        Ok(part)
    }

    /// The sealed bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }
}

/// Opens the part of that number, in place, and yields its chunk.
///
/// # Errors
/// [`VolumeFault::Damaged`] if it is not what was sealed under that number, in the backup of that header.
pub fn open_part<'p>(
    secret: &BackupSecret,
    header: &BackupHeader,
    number: u32,
    part: &'p mut [u8],
) -> Result<&'p [u8], VolumeFault> {
    let opened = seal::open_once(part, 0, &secret.part(header, number));
    opened.map(|chunk| &*chunk).map_err(|seal::NotAuthentic| VolumeFault::Damaged)
}
