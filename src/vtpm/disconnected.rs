//! A TPM without a broker: what the disk shows is taken for the newest, because nobody remembers.

use super::boot::{TpmMemory, Unsealed, identity};
use super::trust::Trust;
use crate::engine::{Engine, Start};
use crate::fault::Fault;
use crate::frontend::svsm::Persistence;
use crate::keys::{CreateKey, VolumeKey};
use crate::nv::{Keys, NvImage, NvStore};
use crate::release::Head;
use crate::release::hw_sealed::HwSealed;
use crate::seams::Platform;
use crate::volume::{HwSealedDisk, NewestHead, Stamp, VolumeFault, Wanted, newest_hw_sealed_head};

/// There is no operator restore here: what would raise the generation is a broker.
const GENERATION: u32 = 0;

/// Opens what is there, or makes a TPM against the tenant's permit.
pub(super) fn unseal<'m, E: Engine>(
    memory: TpmMemory<'m>,
    engine: E,
    launch: &HwSealed,
    platform: &mut Platform<'_>,
) -> Result<Unsealed<'m, E>, Fault> {
    let identity = identity(launch.config(), GENERATION);
    let TpmMemory { durable, current, workspace } = memory;
    let found = newest_hw_sealed_head(platform.disk, launch, &identity, workspace, current)?;
    let image = NvImage::new(durable, current);
    let fingerprint = engine.fingerprint().0;
    let (nv, start, head, token) = match found {
        HwSealedDisk::Permits(permit) => {
            let creation = launch.permitted(&permit)?;
            let key = CreateKey::permitted(launch.key(1), &identity, creation);
            let nv = NvStore::create(image, key, Stamp { token: 1, fingerprint }, workspace);
            (nv, Start::Manufacture, Head::NONE, 1)
        }
        HwSealedDisk::Holds(NewestHead { head, epoch, token }) => {
            let (next_epoch, token) =
                epoch.checked_add(1).zip(token.checked_add(1)).ok_or(VolumeFault::Bounds)?;
            let keys = Keys {
                wanted: Wanted::exactly(head),
                current: VolumeKey::hw_sealed(launch.key(epoch), &identity),
                next: VolumeKey::hw_sealed(launch.key(next_epoch), &identity),
            };
            let stamp = Stamp { token, fingerprint };
            (NvStore::open(platform, image, keys, stamp, workspace)?, Start::Load, head, token)
        }
    };
    let trust = Trust::Alone { anchor: launch.believe(head), token, persistence: Persistence::HwSealed };
    Ok(Unsealed { engine, nv, start, trust })
}
