//! Opening at the anchored head, and only there (`format.md` §7).

use super::commit::Volume;
use super::layout::{Area, Layout, STATE_BYTES_MAX, UNIT_BYTES_MAX};
use super::probe::{Beginning, worse};
use super::replay::{Log, Reached, Until};
use super::window::Wanted;
use super::workspace::Workspace;
use super::{Stamp, VolumeFault};
use crate::keys::{Identity, VolumeKey};
use crate::release::Head;
use crate::release::hw_sealed::{HwSealed, Permit};
use crate::release::unsealed::Unsealed;
use crate::seams::{Disk, Platform};
use zeroize::Zeroize;

/// A volume whose state at the head was read and is authentic. The next write begins a new epoch.
#[must_use]
#[expect(missing_debug_implementations, reason = "its workspace may hold secrets")]
pub struct Opened<'m> {
    work: &'m mut Workspace,
    layout: Layout,
    area: Area,
    identity: Identity,
    mode: crate::keys::Mode,
    reached: Reached,
    /// What the anchor remembers.
    anchored: Head,
}

impl<'m> Opened<'m> {
    /// Length of the state in bytes.
    #[must_use]
    pub const fn state_bytes(&self) -> usize {
        self.reached.state_bytes
    }

    /// Which engine wrote the state.
    #[must_use]
    pub const fn fingerprint(&self) -> &[u8; 32] {
        &self.reached.header.fingerprint
    }

    /// The head that the state is of.
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.reached.head
    }

    /// Writes `state` as the checkpoint of the next epoch into the other area.
    ///
    /// # Errors
    /// [`VolumeFault::WrongKey`] if `key` is not the next epoch's of the same volume; entropy and disk faults;
    /// [`VolumeFault::StateTooLarge`]. The head's area is as it was.
    pub fn begin_epoch(
        self,
        platform: &mut Platform<'_>,
        key: VolumeKey,
        stamp: Stamp,
        state: &[u8],
    ) -> Result<super::Written<'m>, VolumeFault> {
        let next = self.reached.header.epoch.get().checked_add(1);
        if next != Some(key.epoch()) || key.mode() != self.mode || *key.identity() != self.identity {
            return Err(VolumeFault::WrongKey);
        }
        Volume::at(self.work, self.layout, key, stamp, (self.area, self.reached.head, self.anchored))
            .checkpoint(platform, state)
    }
}

/// Reads both areas' beginnings.
pub(super) fn beginnings(
    disk: &mut dyn Disk,
    layout: &Layout,
    work: &mut Workspace,
) -> Result<[(Area, Beginning); 2], VolumeFault> {
    let a = Beginning::read(disk, layout, Area::A, work)?;
    let b = Beginning::read(disk, layout, Area::B, work)?;
    Ok([(Area::A, a), (Area::B, b)])
}

impl<'m> Volume<'m> {
    /// Opens the volume at the head that is wanted, whose epoch `key` is of, or behind it, and leaves the state in `state`. Writes
    /// nothing.
    ///
    /// # Errors
    /// A fault of the Host family if the disk fails, of the Seal family if the disk does not hold that head;
    /// `state` is wiped then.
    pub fn open(
        disk: &mut dyn Disk,
        key: &VolumeKey,
        wanted: &Wanted,
        work: &'m mut Workspace,
        state: &mut [u8; STATE_BYTES_MAX],
    ) -> Result<Opened<'m>, VolumeFault> {
        let found = find(disk, key, wanted, work, state);
        work.wipe();
        match found {
            Ok((layout, area, reached)) => {
                let (identity, mode, anchored) = (*key.identity(), key.mode(), wanted.head);
                Ok(Opened { work, layout, area, identity, mode, reached, anchored })
            }
            Err(fault) => {
                state.zeroize();
                Err(fault)
            }
        }
    }
}

/// Walks the areas that may hold `head`, the newer first.
fn find(
    disk: &mut dyn Disk,
    key: &VolumeKey,
    wanted: &Wanted,
    work: &mut Workspace,
    state: &mut [u8; STATE_BYTES_MAX],
) -> Result<(Layout, Area, Reached), VolumeFault> {
    let layout = Layout::of(&disk.geometry())?;
    let mut areas = beginnings(disk, &layout, work)?;
    let sequence = |beginning: &Beginning| beginning.ours(key, &layout).map_or(0, |h| h.sequence.get());
    if sequence(&areas[1].1) > sequence(&areas[0].1) {
        areas.swap(0, 1);
    }
    let mut telling = VolumeFault::Blank;
    for (area, beginning) in areas {
        let walked = beginning.ours(key, &layout).and_then(|header| {
            if header.sequence.get() > wanted.head.sequence || header.epoch.get() > key.epoch() {
                return Err(VolumeFault::NewerThanAnchor);
            }
            if header.epoch.get() < key.epoch() {
                return Err(VolumeFault::RolledBack);
            }
            Log::new(disk, layout, area, key, work).replay(header, Until::Head(wanted), state)
        });
        match walked {
            Ok(reached) => return Ok((layout, area, reached)),
            Err(VolumeFault::Read) => return Err(VolumeFault::Read),
            Err(fault) => telling = worse(telling, fault),
        }
    }
    Err(telling)
}

/// The newest state that a volume holds whose head nobody remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewestHead {
    /// The head.
    pub head: Head,
    /// The epoch whose key opens it.
    pub epoch: u64,
    /// The token under which it was written.
    pub token: u64,
}

/// Looks for the longest authentic chain of an unsealed volume; `None` if both areas are blank. `state` is used and
/// wiped. Nobody vouches for the result: a sealed volume's head comes from its anchor alone.
///
/// # Errors
/// As [`Volume::open`].
pub fn newest_unsealed_head(
    disk: &mut dyn Disk,
    unsealed: &Unsealed,
    identity: &Identity,
    work: &mut Workspace,
    state: &mut [u8; STATE_BYTES_MAX],
) -> Result<Option<NewestHead>, VolumeFault> {
    match newest(disk, &|epoch| VolumeKey::unsealed(&unsealed.key(epoch), identity), work, state) {
        Ok(newest) => Ok(Some(newest)),
        Err(VolumeFault::Blank) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// What a disk holds for a launch without a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HwSealedDisk {
    /// A TPM; whether this is its newest state nobody can tell.
    Holds(NewestHead),
    /// No TPM, and an allegation that one may be made.
    Permits(Permit),
}

/// Looks for the longest authentic chain under the processor's key, or else for a permit. `state` is used and wiped.
///
/// # Errors
/// As [`Volume::open`]; [`VolumeFault::Blank`] for a disk with neither.
pub fn newest_hw_sealed_head(
    disk: &mut dyn Disk,
    launch: &HwSealed,
    identity: &Identity,
    work: &mut Workspace,
    state: &mut [u8; STATE_BYTES_MAX],
) -> Result<HwSealedDisk, VolumeFault> {
    let found = newest(disk, &|epoch| VolumeKey::hw_sealed(launch.key(epoch), identity), work, state);
    let fault = match found {
        Ok(newest) => return Ok(HwSealedDisk::Holds(newest)),
        Err(VolumeFault::Read) => return Err(VolumeFault::Read),
        Err(fault) => fault,
    };
    // As long as there is a permit nobody has been answered: what lies beside it is a making that was cut short.
    let layout = Layout::of(&disk.geometry())?;
    let areas = beginnings(disk, &layout, work)?;
    let permit = areas.iter().find_map(|(_, beginning)| match beginning {
        Beginning::Permit(permit) => Some(*permit),
        Beginning::Blank | Beginning::Other | Beginning::Checkpoint(_) => None,
    });
    permit.map(HwSealedDisk::Permits).ok_or(fault)
}

/// Takes every permit away, durably: the TPM is made.
///
/// # Errors
/// [`VolumeFault::Read`], [`VolumeFault::Write`], [`VolumeFault::Flush`].
pub fn spend_permits(disk: &mut dyn Disk) -> Result<(), VolumeFault> {
    let layout = Layout::of(&disk.geometry())?;
    let mut unit = [0; UNIT_BYTES_MAX];
    let unit = &mut unit[..layout.unit_bytes.min(UNIT_BYTES_MAX)];
    for area in Area::ALL {
        disk.read(layout.start(area), unit).map_err(|_| VolumeFault::Read)?;
        if Permit::read(unit).is_some() {
            unit.fill(0);
            disk.write(layout.start(area), unit).map_err(|_| VolumeFault::Write)?;
        }
    }
    disk.flush().map_err(|_| VolumeFault::Flush)
}

/// The longest authentic chain under keys of this kind.
fn newest(
    disk: &mut dyn Disk,
    key_of: &dyn Fn(u64) -> VolumeKey,
    work: &mut Workspace,
    state: &mut [u8; STATE_BYTES_MAX],
) -> Result<NewestHead, VolumeFault> {
    let layout = Layout::of(&disk.geometry())?;
    let (mut newest, mut telling): (Option<NewestHead>, _) = (None, VolumeFault::Blank);
    for (area, beginning) in beginnings(disk, &layout, work)? {
        let alleged = match &beginning {
            Beginning::Checkpoint(header) => header.epoch.get(),
            Beginning::Blank | Beginning::Other | Beginning::Permit(_) => 0,
        };
        let key = key_of(alleged);
        let walked = beginning
            .ours(&key, &layout)
            .and_then(|header| Log::new(disk, layout, area, &key, work).replay(header, Until::Last, state));
        match walked {
            Ok(Reached { head, token, .. })
                if newest.is_none_or(|newest| head.sequence > newest.head.sequence) =>
            {
                newest = Some(NewestHead { head, epoch: alleged, token });
            }
            Ok(_) => {}
            Err(VolumeFault::Read) => return Err(VolumeFault::Read),
            Err(fault) => telling = worse(telling, fault),
        }
    }
    work.wipe();
    state.zeroize();
    newest.ok_or(telling)
}
