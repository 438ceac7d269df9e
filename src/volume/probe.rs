//! What the first units of both areas allege (`format.md` §7, §8).

use super::VolumeFault;
use super::layout::{Area, CheckpointHeader, FORMAT, Layout, UNIT_BYTES_MAX};
use super::workspace::Workspace;
use crate::keys::{Mode, VolumeKey};
use crate::release::hw_sealed::Permit;
use crate::seams::Disk;

/// The beginning of an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// Zeros.
    Blank,
    /// No checkpoint.
    Other,
    /// Something that says it is an operator's permit to make a TPM.
    Permit(Permit),
    /// Something that says it is a checkpoint.
    Checkpoint(CheckpointHeader),
}

impl Beginning {
    /// Reads the first unit of `area`.
    pub(super) fn read(
        disk: &mut dyn Disk,
        layout: &Layout,
        area: Area,
        work: &mut Workspace,
    ) -> Result<Self, VolumeFault> {
        let unit = &mut work.log[..layout.unit_bytes.min(UNIT_BYTES_MAX)];
        disk.read(layout.start(area), unit).map_err(|_| VolumeFault::Read)?;
        if unit.iter().all(|byte| *byte == 0) {
            return Ok(Self::Blank);
        }
        if let Some(permit) = Permit::read(unit) {
            return Ok(Self::Permit(permit));
        }
        Ok(CheckpointHeader::parse(unit).map_or(Self::Other, Self::Checkpoint))
    }

    /// The header, if it is one that could be of `key`'s volume (of any epoch) on a disk of this layout.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn ours(&self, key: &VolumeKey, layout: &Layout) -> Result<&CheckpointHeader, VolumeFault> {
        let header = match self {
            Self::Blank => return Err(VolumeFault::Blank),
            Self::Other | Self::Permit(_) => return Err(VolumeFault::NotAVolume),
            Self::Checkpoint(header) => header,
        };
        let (found, wanted) = (header.identity(), key.identity());
        if header.format.get() != FORMAT {
            return Err(VolumeFault::OtherFormat);
        }
        match (Mode::from_number(header.mode), key.mode()) {
            (Some(found), wanted) if found == wanted => {}
            (Some(Mode::UnsealedForTesting), _) => return Err(VolumeFault::Unsealed),
            (Some(Mode::HwSealed), _) => return Err(VolumeFault::HwSealed),
            (Some(found), wanted) if found.has_a_broker() && wanted.has_a_broker() => {
                return Err(VolumeFault::OtherInputs);
            }
            (
                Some(Mode::Sealed | Mode::SealedOnChip | Mode::SealedWithKbs | Mode::SealedWithKbsOnChip),
                _,
            ) => return Err(VolumeFault::Sealed),
            (None, _) => return Err(VolumeFault::OtherFormat),
        }
        if found.tenant != wanted.tenant {
            return Err(VolumeFault::OtherTenant);
        }
        if found.vm != wanted.vm {
            return Err(VolumeFault::OtherVm);
        }
        if found.generation != wanted.generation {
            return Err(VolumeFault::OtherGeneration);
        }
        if header.area_bytes.get() as usize != layout.area_bytes {
            return Err(VolumeFault::OtherSize);
        }
        if !header.is_well_formed() {
            return Err(VolumeFault::Damaged);
        }
        Ok(header)
    }
}

/// How telling a fault is when the two areas disagree: the higher is told.
const fn weight(fault: VolumeFault) -> u8 {
    match fault {
        VolumeFault::Blank => 0,
        VolumeFault::NotAVolume => 1,
        VolumeFault::OtherFormat => 2,
        VolumeFault::Unsealed | VolumeFault::Sealed | VolumeFault::HwSealed | VolumeFault::OtherInputs => 3,
        VolumeFault::OtherTenant => 4,
        VolumeFault::OtherVm => 5,
        VolumeFault::OtherGeneration => 6,
        VolumeFault::OtherSize => 7,
        VolumeFault::NewerThanAnchor => 8,
        VolumeFault::RolledBack => 9,
        VolumeFault::Forked => 10,
        _ => 11,
    }
}

/// Which of two areas' faults says more about the disk.
pub(super) const fn worse(a: VolumeFault, b: VolumeFault) -> VolumeFault {
    if matches!(
        (a, b),
        (VolumeFault::NotAVolume, VolumeFault::NewerThanAnchor | VolumeFault::RolledBack)
            | (VolumeFault::NewerThanAnchor | VolumeFault::RolledBack, VolumeFault::NotAVolume)
    ) {
        // Ours, but where the head should be there is rubbish rather than nothing.
        return VolumeFault::Damaged;
    }
    if weight(a) >= weight(b) { a } else { b }
}
