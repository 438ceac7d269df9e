//! A TPM from a backup, in a generation of its own.

use super::boot::{Opening, TpmMemory, Unsealed, identity, slack};
use super::trust::Trust;
use crate::engine::{Engine, Start};
use crate::fault::Fault;
use crate::keys::{BackupSecret, CreateKey, VolumeKey};
use crate::nv::{Envelope, NvFault, NvImage, NvStore};
use crate::release::open::RestoreGrant;
use crate::release::restore::RestoreOrder;
use crate::release::tenure::Tenure;
use crate::release::wire::{BACKUP_CHUNK_BYTES, BACKUP_PART_BYTES_MAX};
use crate::release::{Head, ReleaseFault};
use crate::seams::Platform;
use crate::volume::backup::open_part;
use crate::volume::{STATE_BYTES_MAX, Stamp};
use zeroize::Zeroize;

/// Takes the state out of the backup that the tenant ordered. Nothing is written yet: until CONFIRM everything is as it was, and the order open.
pub(super) fn restore<'m, E: Engine>(
    memory: TpmMemory<'m>,
    engine: E,
    opening: Opening<'m, '_, RestoreGrant>,
    platform: &mut Platform<'_>,
) -> Result<Unsealed<'m, E>, Fault> {
    let Opening { client, further, grant } = opening;
    let RestoreGrant { creation, backup, next, pending } = grant;
    let standing = pending.standing();
    let (token, generation) = (standing.token(), standing.generation());
    let identity = identity(client.config().config(), generation);
    let slack = slack(client.config().config());
    let stamp = Stamp { token, fingerprint: engine.fingerprint().0 };
    let mut tenure = Tenure::new(client, pending);
    let TpmMemory { durable, current, workspace } = memory;
    let mut image = NvImage::new(durable, current);
    let taken = take(&mut tenure, platform, (BackupSecret::released(backup), &stamp), &mut image);
    let (sequence, start) = match taken {
        Ok(taken) => taken,
        Err(fault) => {
            // The alarm is a courtesy to the tenant: whether it is heard changes nothing about this fault.
            if tenure.state_missing(platform, fault.code()).is_err() {
                platform.console.line("husk: the broker did not hear of", fault.code());
            }
            return Err(fault);
        }
    };
    // The blocks of a flash are no part of a backup: a guest's firmware begins with what it is brought, as on its first launch.
    image.forget_blocks();
    let key = CreateKey::granted(VolumeKey::sealed(&next, further, &identity), creation).beyond(sequence);
    let nv = NvStore::create(image, key, stamp, workspace).deferring(slack);
    let done = match start {
        Start::Clone => "husk: another VM's TPM is cloned: generation",
        Start::Load => "husk: a TPM that was prepared is taken over: generation",
        Start::Manufacture | Start::Restore => "husk: a backup is restored: generation",
    };
    platform.console.line(done, generation);
    Ok(Unsealed { engine, nv, start, trust: Trust::granted(tenure) })
}

/// Fills the image; the sequence of the state in the backup, and what is to become of it.
fn take(
    tenure: &mut Tenure<'_>,
    platform: &mut Platform<'_>,
    (secret, stamp): (BackupSecret, &Stamp),
    image: &mut NvImage<'_>,
) -> Result<(u64, Start), Fault> {
    let order = tenure.restore_order(platform)?;
    if order.header.fingerprint != stamp.fingerprint {
        return Err(NvFault::OtherEngine.into());
    }
    image.load(|state| {
        let received = received(tenure, platform, (&secret, &order), state);
        if received.is_err() {
            state.zeroize();
        }
        received
    })?;
    let sequence = order.header.head.sequence.get();
    if !order.is_clone {
        // Nobody has tried anything of a TPM that nobody has served, unless this VM had it already.
        let is_new = order.header.is_prepared() && *tenure.standing().head() == Head::NONE;
        return Ok((sequence, if is_new { Start::Load } else { Start::Restore }));
    }
    // The first power-on of another TPM: resetCount is 1, nothing was tried, and no clock has been shown.
    let mut envelope = Envelope::new();
    envelope.reset_base.set(stamp.token.wrapping_sub(1));
    image.store_envelope(&envelope);
    Ok((sequence, Start::Clone))
}

/// The whole state, part by part; its length in bytes.
fn received(
    tenure: &mut Tenure<'_>,
    platform: &mut Platform<'_>,
    (secret, order): (&BackupSecret, &RestoreOrder),
    state: &mut [u8; STATE_BYTES_MAX],
) -> Result<usize, Fault> {
    let header = &order.header;
    let state_bytes = header.state_bytes.get() as usize;
    let state = state.get_mut(..state_bytes).ok_or(ReleaseFault::BackupRefused)?;
    let (mut come, mut buffer) = (order.begin(), [0; BACKUP_PART_BYTES_MAX]);
    for (number, room) in (1..).zip(state.chunks_mut(BACKUP_CHUNK_BYTES)) {
        let bytes = tenure.restore_part(platform, number, &mut buffer)?;
        let part = buffer.get_mut(..bytes).ok_or(ReleaseFault::BackupRefused)?;
        come.take(part);
        let chunk = open_part(secret, header, number, part).map_err(|_| ReleaseFault::BackupRefused)?;
        if chunk.len() != room.len() {
            return Err(ReleaseFault::BackupRefused.into());
        }
        room.copy_from_slice(chunk);
    }
    buffer.zeroize();
    if order.is(come) { Ok(state_bytes) } else { Err(ReleaseFault::BackupRefused.into()) }
}
