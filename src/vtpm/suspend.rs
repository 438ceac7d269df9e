//! Suspend and resume: PCRs are what they were, and only if nothing came in between.

use super::VtpmFault;
use super::serve::{Power, Vtpm};
use crate::engine::{Engine, EngineFault, Needs, PowerOn, Start};
use crate::fault::Fault;
use crate::keys::SuspendSecret;
use crate::nv::NvFault;
use crate::seams::Platform;
use crate::volume::VolumeFault;
use crate::volume::suspend::{STATE_AT, VOLATILE_BYTES_MAX};
use zeroize::Zeroize;

/// What this launch remembers of the state that it sealed. It is gone with the first thing that is asked of the TPM
/// afterwards, with a reset, and with the attempt to resume.
#[derive(Debug)]
pub(super) struct Suspended {
    secret: SuspendSecret,
    clock_ms: u64,
    power: Power,
    keyed: bool,
}

impl<E: Engine> Vtpm<'_, E> {
    /// Saves the running TPM into `into`, which has
    /// [`SUSPEND_BYTES_MAX`](crate::volume::suspend::SUSPEND_BYTES_MAX) bytes, and returns the length in bytes of what the
    /// host may keep: sealed under a secret that stays here, bound to the newest durable state, and of use for one
    /// [`resume`](Self::resume) by this same launch.
    ///
    /// The TPM goes on, but the first command, measurement or reset makes what was saved void: the caller has stopped every
    /// virtual CPU of the guest before. What was saved earlier is void already.
    ///
    /// # Errors
    /// A [`Fault`]; nothing is saved then, and `into` is wiped.
    pub fn suspend(&mut self, platform: &mut Platform<'_>, into: &mut [u8]) -> Result<usize, Fault> {
        let sealed = self.save(platform, into);
        if sealed.is_err() {
            into.zeroize();
        }
        sealed
    }

    fn save(&mut self, platform: &mut Platform<'_>, into: &mut [u8]) -> Result<usize, Fault> {
        self.alive()?;
        if self.nv.is_ephemeral() {
            return Err(NvFault::NothingKept.into());
        }
        self.begin();
        self.close(platform)?;
        self.trust.allow(platform, Needs::Nv).map_err(|fault| self.latch_if_definite(fault))?;
        let clock_ms = self.clock_ms();
        self.conclude();
        self.commit(platform).map(drop).map_err(|fault| self.latch(fault))?;
        let secret = SuspendSecret::draw(platform.entropy).map_err(|_| VolumeFault::Entropy)?;
        let room = into.get_mut(STATE_AT..).ok_or(EngineFault::StateTooLarge)?;
        let room_bytes = room.len().min(VOLATILE_BYTES_MAX);
        let state_bytes = match self.engine.save_volatile(&mut room[..room_bytes]) {
            Ok(state_bytes) => state_bytes,
            Err(EngineFault::StateTooLarge) => return Err(EngineFault::StateTooLarge.into()),
            Err(fault) => return Err(self.latch(fault.into())),
        };
        let sealed = self.nv.seal_suspended(&secret, into, state_bytes)?;
        let (power, keyed) = (self.power, self.keyed);
        self.suspended = Some(Suspended { secret, clock_ms, power, keyed });
        Ok(sealed)
    }

    /// Whether what was saved last can still be resumed.
    #[must_use]
    pub const fn is_suspended(&self) -> bool {
        self.suspended.is_some()
    }

    /// Powers the TPM on where [`suspend`](Self::suspend) saved it: PCRs, sessions and objects are what they were. The caller
    /// resumes every virtual CPU of the guest where it was in the same breath; a guest that begins anew must find a
    /// [`reset`](Self::reset) instead. `object` is what the host kept, in private memory; it is wiped.
    ///
    /// # Errors
    /// [`ReleaseFault`](crate::release::ReleaseFault) if there is no right to answer now: nothing was tried, and it can be
    /// tried again. [`VtpmFault::NothingSuspended`], [`VolumeFault::SuspendOther`], [`VolumeFault::SuspendDamaged`] or an
    /// [`EngineFault`]: the TPM is off, what was saved is void, and only a [`reset`](Self::reset) brings it back.
    pub fn resume(&mut self, platform: &mut Platform<'_>, object: &mut [u8]) -> Result<(), Fault> {
        if let Some(fault) = self.latched {
            return Err(fault);
        }
        if self.suspended.is_some() {
            self.trust.begin();
            self.trust.allow(platform, Needs::Lease).map_err(|fault| self.latch_if_definite(fault))?;
        }
        self.power_off();
        let resumed = self.load(object);
        object.zeroize();
        resumed
    }

    fn load(&mut self, object: &mut [u8]) -> Result<(), Fault> {
        let Some(suspended) = self.suspended.take() else { return Err(VtpmFault::NothingSuspended.into()) };
        let Suspended { secret, clock_ms, power, keyed } = suspended;
        let state = self.nv.open_suspended(secret, object)?;
        let facts = super::power::power_on_facts(self.nv.image(), self.trust.token(), Start::Load);
        let facts = PowerOn { clock_ms_min: clock_ms, ..facts };
        self.engine.resume_volatile(self.nv.image_mut(), facts, state)?;
        (self.power, self.keyed) = (power, keyed);
        Ok(())
    }
}
