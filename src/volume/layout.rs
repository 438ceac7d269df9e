//! Where things lie, and the headers as bytes (`format.md` §2, §3).

use super::VolumeFault;
use crate::keys::derive::SALT_BYTES;
use crate::keys::{Identity, Mode, ObjectName, ObjectSort, VolumeKey};
use crate::release::HEAD_DIGEST_BYTES;
use crate::seams::Geometry;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The largest durable state in bytes: the reference engine's 128 KiB of NV memory and what surrounds it.
pub const STATE_BYTES_MAX: usize = 160 * 1024;
/// The largest volume in bytes; more of a disk is not used.
pub const VOLUME_BYTES_MAX: u64 = 1024 * 1024;
/// The smallest volume in bytes.
pub const VOLUME_BYTES_MIN: u64 = 16 * 1024;
/// The largest record in bytes, header and tag included.
pub const RECORD_BYTES_MAX: usize = 32 * 1024;
/// The largest unit in bytes; areas begin on multiples of it.
pub const UNIT_BYTES_MAX: usize = 4096;
/// The smallest unit in bytes.
pub const UNIT_BYTES_MIN: usize = 512;
/// Size of an AES-GCM tag in bytes (NIST SP 800-38D, section 5.2.1.2).
pub const TAG_BYTES: usize = 16;
/// Size of the length in front of a checkpoint's state.
pub const STATE_LENGTH_BYTES: usize = 4;
/// The largest checkpoint in bytes.
pub const CHECKPOINT_BYTES_MAX: usize =
    (CheckpointHeader::BYTES + STATE_LENGTH_BYTES + STATE_BYTES_MAX + TAG_BYTES)
        .next_multiple_of(UNIT_BYTES_MAX);

/// `format.md`, this version.
pub const FORMAT: u16 = 1;
const CHECKPOINT_MAGIC: [u8; 8] = *b"HUSKCKPT";
const RECORD_MAGIC: [u8; 4] = *b"HREC";

/// A length of this format in 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "no length here exceeds the volume's 1 MiB")]
#[must_use]
pub const fn length(bytes: usize) -> U32 {
    U32::new(bytes as u32)
}

/// One half of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Area {
    /// The first half.
    A,
    /// The second half.
    B,
}

impl Area {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// The one that is not this.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// Where areas and units lie on one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Size of an area in bytes, a multiple of [`UNIT_BYTES_MAX`].
    pub area_bytes: usize,
    /// Size of a unit in bytes: a power of two.
    pub unit_bytes: usize,
}

impl Layout {
    /// The layout of a volume on a disk of that shape.
    ///
    /// # Errors
    /// [`VolumeFault::TooSmall`], [`VolumeFault::BlockSize`].
    pub fn of(geometry: &Geometry) -> Result<Self, VolumeFault> {
        let block = usize::try_from(geometry.block_bytes).map_err(|_| VolumeFault::BlockSize)?;
        if !block.is_power_of_two() || block > UNIT_BYTES_MAX {
            return Err(VolumeFault::BlockSize);
        }
        if geometry.size_bytes < VOLUME_BYTES_MIN {
            return Err(VolumeFault::TooSmall);
        }
        let half = usize::try_from(geometry.size_bytes.min(VOLUME_BYTES_MAX) / 2)
            .map_err(|_| VolumeFault::Bounds)?;
        Ok(Self { area_bytes: half - half % UNIT_BYTES_MAX, unit_bytes: block.max(UNIT_BYTES_MIN) })
    }

    /// Where `area` begins on the disk, in bytes.
    #[must_use]
    pub const fn start(&self, area: Area) -> u64 {
        match area {
            Area::A => 0,
            Area::B => self.area_bytes as u64,
        }
    }

    /// Size in bytes of a checkpoint of a state of `state_bytes`.
    #[must_use]
    pub const fn checkpoint_bytes(&self, state_bytes: usize) -> usize {
        let bytes = CheckpointHeader::BYTES + STATE_LENGTH_BYTES + state_bytes + TAG_BYTES;
        self.whole_units(bytes + self.unit_bytes - 1)
    }

    /// Size in bytes of a record of a delta of `delta_bytes`: a power of two of units.
    #[must_use]
    pub const fn record_bytes(&self, delta_bytes: usize) -> usize {
        let bytes = RecordHeader::BYTES + delta_bytes + TAG_BYTES;
        // Of powers of two the larger is the multiple.
        let power = bytes.next_power_of_two();
        if power < self.unit_bytes { self.unit_bytes } else { power }
    }

    /// `bytes` without what is not a whole unit. Units are powers of two: nothing is divided.
    #[must_use]
    pub(super) const fn whole_units(&self, bytes: usize) -> usize {
        bytes & !(self.unit_bytes - 1)
    }
}

/// A checkpoint's header, as on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CheckpointHeader {
    magic: [u8; 8],
    /// [`FORMAT`].
    pub format: U16,
    /// [`Mode`].
    pub mode: u8,
    zero_8: u8,
    /// The unit when it was written, in bytes.
    pub unit_bytes: U32,
    /// The area when it was written, in bytes.
    pub area_bytes: U32,
    /// The whole object in bytes.
    pub total_bytes: U32,
    /// Raised by each operator restore.
    pub generation: U32,
    zero_32: [u8; 4],
    /// Which engine wrote the state.
    pub fingerprint: [u8; 32],
    /// The tenant.
    pub tenant: [u8; 16],
    /// The VM.
    pub vm: [u8; 16],
    /// The epoch whose key seals it.
    pub epoch: U64,
    /// The fencing token of who wrote it.
    pub token: U64,
    /// The commit's number.
    pub sequence: U64,
    /// Fresh for this object.
    pub salt: [u8; SALT_BYTES],
    /// The head digest before this commit.
    pub previous: [u8; HEAD_DIGEST_BYTES],
}

/// What varies between two checkpoints of one key.
#[derive(Clone, Copy, Debug)]
pub struct Commit {
    /// The commit's number.
    pub sequence: u64,
    /// The fencing token of who writes.
    pub token: u64,
    /// Fresh random bytes.
    pub salt: [u8; SALT_BYTES],
    /// The head digest before it.
    pub previous: [u8; HEAD_DIGEST_BYTES],
}

impl CheckpointHeader {
    /// Size in bytes.
    pub const BYTES: usize = size_of::<Self>();

    /// The header of a new checkpoint of `total_bytes`.
    #[must_use]
    pub fn new(
        layout: &Layout,
        key: &VolumeKey,
        fingerprint: &[u8; 32],
        commit: &Commit,
        total_bytes: usize,
    ) -> Self {
        let Identity { tenant, vm, generation } = *key.identity();
        Self {
            magic: CHECKPOINT_MAGIC,
            format: U16::new(FORMAT),
            mode: key.mode() as u8,
            zero_8: 0,
            unit_bytes: length(layout.unit_bytes),
            area_bytes: length(layout.area_bytes),
            total_bytes: length(total_bytes),
            generation: U32::new(generation),
            zero_32: [0; 4],
            fingerprint: *fingerprint,
            tenant,
            vm,
            epoch: U64::new(key.epoch()),
            token: U64::new(commit.token),
            sequence: U64::new(commit.sequence),
            salt: commit.salt,
            previous: commit.previous,
        }
    }

    /// Reads what claims to be a checkpoint of any format; everything in it stays an allegation until the tag is checked.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, _) = Self::read_from_prefix(bytes).ok()?;
        (header.magic == CHECKPOINT_MAGIC).then_some(header)
    }

    /// Whether a volume of this format could have such a header.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        let (unit, total) = (self.unit_bytes.get() as usize, self.total_bytes.get() as usize);
        self.format.get() == FORMAT
            && Mode::from_number(self.mode).is_some()
            && self.zero_8 == 0
            && self.zero_32 == [0; 4]
            && unit.is_power_of_two()
            && (UNIT_BYTES_MIN..=UNIT_BYTES_MAX).contains(&unit)
            && total.is_multiple_of(unit)
            && (Self::BYTES + STATE_LENGTH_BYTES + TAG_BYTES..=CHECKPOINT_BYTES_MAX).contains(&total)
            && total <= self.area_bytes.get() as usize
            && self.sequence.get() > 0
    }

    /// Whose volume it claims to be.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        Identity { tenant: self.tenant, vm: self.vm, generation: self.generation.get() }
    }

    /// What its key is derived from.
    #[must_use]
    pub const fn name(&self) -> ObjectName<'_> {
        ObjectName {
            sort: ObjectSort::Checkpoint,
            salt: &self.salt,
            token: self.token.get(),
            sequence: self.sequence.get(),
            previous: &self.previous,
        }
    }
}

/// A record's header, as on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RecordHeader {
    magic: [u8; 4],
    /// The whole object in bytes.
    pub total_bytes: U32,
    /// The commit's number.
    pub sequence: U64,
    /// The fencing token of who wrote it.
    pub token: U64,
    /// Fresh for this object.
    pub salt: [u8; SALT_BYTES],
    /// The head digest before this commit.
    pub previous: [u8; HEAD_DIGEST_BYTES],
}

impl RecordHeader {
    /// Size in bytes.
    pub const BYTES: usize = size_of::<Self>();

    /// The header of a new record of `total_bytes`.
    #[must_use]
    pub fn new(commit: &Commit, total_bytes: usize) -> Self {
        Self {
            magic: RECORD_MAGIC,
            total_bytes: length(total_bytes),
            sequence: U64::new(commit.sequence),
            token: U64::new(commit.token),
            salt: commit.salt,
            previous: commit.previous,
        }
    }

    /// Reads what may be a header; nothing is checked.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        Self::read_from_prefix(bytes).ok().map(|(header, _)| header)
    }

    /// Whether a record of an area with that unit could have such a header, with `room` bytes left in the area.
    #[must_use]
    pub fn is_well_formed(&self, unit: usize, room: usize) -> bool {
        let total = self.total_bytes.get() as usize;
        self.magic == RECORD_MAGIC
            && total.is_multiple_of(unit)
            && (total / unit).is_power_of_two()
            && total <= RECORD_BYTES_MAX.min(room)
    }

    /// What its key is derived from.
    #[must_use]
    pub const fn name(&self) -> ObjectName<'_> {
        ObjectName {
            sort: ObjectSort::Record,
            salt: &self.salt,
            token: self.token.get(),
            sequence: self.sequence.get(),
            previous: &self.previous,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Area, CHECKPOINT_BYTES_MAX, CheckpointHeader, Geometry, Layout, RecordHeader, VolumeFault};

    fn layout(size_bytes: u64, block_bytes: u32) -> Result<Layout, VolumeFault> {
        Layout::of(&Geometry { size_bytes, block_bytes })
    }

    #[test]
    fn headers_have_the_sizes_of_the_format() {
        assert_eq!(CheckpointHeader::BYTES, 200);
        assert_eq!(RecordHeader::BYTES, 104);
        assert_eq!(CHECKPOINT_BYTES_MAX, 164 * 1024);
    }

    #[test]
    fn areas_do_not_move_with_the_block_size() {
        for size in [16 << 10, (1 << 20) - 1, 1 << 20, 1 << 40] {
            let places =
                [1, 512, 1024, 2048, 4096].map(|block| layout(size, block).map(|l| l.start(Area::B)));
            assert!(places.iter().all(|place| *place == places[0] && place.is_ok()));
        }
        assert_eq!(layout(u64::MAX, 512), Ok(Layout { area_bytes: 512 * 1024, unit_bytes: 512 }));
    }

    #[test]
    fn odd_disks_are_named() {
        assert_eq!(layout(16 * 1024 - 1, 512), Err(VolumeFault::TooSmall));
        for block in [0, 3, 513, 8192, u32::MAX] {
            assert_eq!(layout(1 << 20, block), Err(VolumeFault::BlockSize));
        }
    }

    #[test]
    fn small_changes_are_one_unit_and_larger_ones_powers_of_two() {
        let Ok(layout) = layout(1 << 20, 512) else { panic!() };
        assert_eq!([0, 1, 392].map(|bytes| layout.record_bytes(bytes)), [512; 3]);
        assert_eq!([393, 904, 905, 2000].map(|bytes| layout.record_bytes(bytes)), [1024, 1024, 2048, 4096]);
    }
}
