//! A copy of the newest state, for the tenant's recovery key, where the tenant wants one.

use super::Vtpm;
use super::trust::Trust;
use crate::engine::Engine;
use crate::fault::Fault;
use crate::keys::BackupSecret;
use crate::nv::{Newest, NvFault};
use crate::release::ReleaseFault;
use crate::release::backup::{BackupHeader, BackupOrder};
use crate::release::tenure::Tenure;
use crate::release::wire::{BackupVerdict, WireHead};
use crate::seams::{Console, Platform};
use crate::volume::backup::Part;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

/// What became of a backup. The TPM works in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backup {
    /// Nobody wants one.
    Unwanted,
    /// The broker keeps it.
    Kept,
    /// The broker did not take it; one is made at the next launch, where it is still wanted.
    Refused(BackupVerdict),
    /// The broker did not answer as it should, or showed an order that is not the tenant's.
    Unanswered(ReleaseFault),
}

impl Backup {
    /// For a console that shows static text.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Unwanted => "husk: no backup is wanted",
            Self::Kept => "husk: the broker keeps a backup",
            Self::Refused(_) => "husk: no backup was made: refused",
            Self::Unanswered(_) => "husk: no backup was made: no answer",
        }
    }

    /// Says it, where anything was wanted.
    pub fn show(self, console: &mut dyn Console) {
        if self != Self::Unwanted {
            console.line(self.text(), self.number());
        }
    }

    /// What goes with the text: a verdict or a fault's code.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Unwanted | Self::Kept => 0,
            Self::Refused(verdict) => verdict as u32,
            Self::Unanswered(fault) => fault.fault().code(),
        }
    }
}

impl<E: Engine> Vtpm<'_, E> {
    /// Seals the newest state to the tenant's recovery key, if the tenant's operator ordered a backup, and has the broker keep it. Between commands, at any
    /// time; a firmware does it at each launch, before its guest runs.
    ///
    /// # Errors
    /// What anchoring gives where commits wait for it. A backup that is not to be had is no error: see [`Backup`].
    pub fn back_up(&mut self, platform: &mut Platform<'_>) -> Result<Backup, Fault> {
        self.alive()?;
        if self.nv.is_ephemeral() {
            return Ok(Backup::Unwanted);
        }
        let Trust::Sealed { tenure, .. } = &mut self.trust else { return Ok(Backup::Unwanted) };
        let order = match tenure.backup_order(platform) {
            Ok(Some(order)) => order,
            Ok(None) => return Ok(Backup::Unwanted),
            Err(fault) => return Ok(Backup::Unanswered(fault)),
        };
        self.close(platform)?;
        let newest = self.nv.newest().ok_or(NvFault::NotCommitted)?;
        let fingerprint = self.engine.fingerprint().0;
        let Self { nv, trust, .. } = self;
        let Trust::Sealed { tenure, .. } = trust else { return Ok(Backup::Unwanted) };
        let state = nv.image().durable();
        Ok(match made(tenure, platform, (&order, &newest, fingerprint), state) {
            Ok(BackupVerdict::Kept) => Backup::Kept,
            Ok(refused) => Backup::Refused(refused),
            Err(fault) => Backup::Unanswered(fault),
        })
    }
}

/// Seals `state` and hands it over, part by part.
fn made(
    tenure: &mut Tenure<'_>,
    platform: &mut Platform<'_>,
    (order, newest, fingerprint): (&BackupOrder, &Newest, [u8; 32]),
    state: &[u8],
) -> Result<BackupVerdict, ReleaseFault> {
    let secret = BackupSecret::draw(platform.entropy).map_err(|_| ReleaseFault::Entropy)?;
    let mut header = BackupHeader::of(order);
    (header.tenant, header.vm) = (newest.identity.tenant, newest.identity.vm);
    header.generation = U32::new(newest.identity.generation);
    (header.epoch, header.head) = (U64::new(newest.epoch), WireHead::from(&newest.head));
    (header.token, header.fingerprint) = (U64::new(tenure.standing().token()), fingerprint);
    header.state_bytes = U32::new(u32::try_from(state.len()).map_err(|_| ReleaseFault::Misuse)?);
    secret.seal(&mut header, &order.recovery, platform.entropy)?;
    let mut verdict = tenure.keep_backup_part(platform, 0, header.as_bytes())?;
    for number in 1..=header.parts() {
        if verdict != BackupVerdict::Kept {
            break;
        }
        let part = Part::seal(&secret, &header, number, state).map_err(|_| ReleaseFault::Misuse)?;
        verdict = tenure.keep_backup_part(platform, number, part.bytes())?;
    }
    Ok(verdict)
}
