//! Reset and shutdown.

use super::Vtpm;
use super::serve::{Endorsement, Power};
use crate::engine::{Engine, PowerOn, Start};
use crate::fault::Fault;
use crate::nv::NvImage;
use crate::release::ReleaseFault;
use crate::seams::Platform;

/// What the world tells a TPM at power-on, given its memory and the fencing token.
pub(super) fn power_on_facts(nv: &NvImage<'_>, token: u64, start: Start) -> PowerOn {
    let envelope = nv.envelope();
    let low = (token.wrapping_sub(envelope.reset_base.get()) & u64::from(u32::MAX)).to_le_bytes();
    let reset_count = u32::from_le_bytes([low[0], low[1], low[2], low[3]]);
    PowerOn { start, reset_count, clock_ms_min: envelope.clock_ms_reserved.get() }
}

impl<E: Engine> Vtpm<'_, E> {
    /// Whether this TPM still has the PCR banks that the engine made it with, because no firmware has allocated its first ones: a firmware
    /// that does so for a new TPM asks this, and says [`give_banks_away`](Self::give_banks_away) when it is done.
    #[must_use]
    pub fn are_banks_due(&self) -> bool {
        self.nv.image().envelope().are_banks_due()
    }

    /// Notes that the first PCR banks are allocated: from here on the allocation is the guest's alone. Durable with the
    /// [`reset`](Self::reset) that has to follow an allocation anyway; if that is not reached, the banks are due again.
    pub fn give_banks_away(&mut self) {
        let mut envelope = self.nv.image().envelope();
        envelope.give_banks_away();
        self.nv.image_mut().store_envelope(&envelope);
    }

    /// Resets the TPM together with its machine: PCRs are cleared, what is durable stays. The caller resets every
    /// virtual CPU of the guest in the same breath.
    ///
    /// # Errors
    /// A [`Fault`]; the TPM is off then. Where the fault is that the broker does not answer, the reset can be tried again.
    pub fn reset(&mut self, platform: &mut Platform<'_>) -> Result<(), Fault> {
        if let Some(fault) = self.latched {
            return Err(fault);
        }
        self.power_off();
        self.begin();
        // What waits for its anchor was written under the token that is given up.
        self.close(platform)?;
        if self.power == Power::ResetDue {
            match self.trust.bump(platform) {
                Ok(token) => self.nv.retoken(token),
                Err(ReleaseFault::Undecided) => return Err(ReleaseFault::Undecided.into()),
                Err(definite) => return Err(self.latch(definite.into())),
            }
        }
        self.power = Power::Off;
        self.keyed = false;
        if self.endorsement == Endorsement::Learned {
            let learned = self.engine.learn_endorsement(self.nv.image_mut());
            learned.map_err(|fault| self.latch(fault.into()))?;
        }
        let facts = power_on_facts(self.nv.image(), self.trust.token(), Start::Load);
        let on = self.engine.power_on(self.nv.image_mut(), facts);
        on.map_err(|fault| self.latch(fault.into()))?;
        self.power = Power::Initialized;
        self.commit(platform).map(drop).map_err(|fault| self.latch(fault))
    }

    /// Lets this TPM be attested: from here on its endorsement keys are worked out at each power-on (tens of milliseconds, once for
    /// each seed). Resets the TPM to begin with, so the firmware calls this before its guest runs.
    ///
    /// # Errors
    /// As [`reset`](Vtpm::reset).
    pub fn offer_attestation(&mut self, platform: &mut Platform<'_>) -> Result<(), Fault> {
        self.endorsement = Endorsement::Learned;
        self.reset(platform)
    }

    /// Whether the TPM is powered.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        matches!(self.power, Power::Initialized | Power::Started)
    }

    /// Cuts the TPM's power; what was acknowledged is durable already. [`reset`](Vtpm::reset) brings it back, or, if it was
    /// suspended and nothing was asked of it since, [`resume`](Vtpm::resume).
    pub fn power_off(&mut self) {
        if self.suspended.is_none() {
            // A suspension has done so already, durably: what is saved stands at the head.
            self.conclude();
        }
        self.engine.power_off();
        self.power = match self.power {
            Power::Started | Power::ResetDue => Power::ResetDue,
            Power::Initialized | Power::Off => Power::Off,
        };
    }

    /// Shuts down in order: what is open is closed and committed, then the right to answer is given up, so that the next
    /// launch need not wait. Whatever this returns, the TPM is off.
    ///
    /// # Errors
    /// A [`Fault`] if the last commit or the release did not reach the broker: the next launch waits for the lease.
    pub fn shutdown(&mut self, platform: &mut Platform<'_>) -> Result<(), Fault> {
        if let Some(fault) = self.latched {
            return Err(fault);
        }
        self.power_off();
        self.begin();
        self.power = Power::Off;
        self.close(platform)?;
        self.commit(platform).map(drop).map_err(|fault| self.latch(fault))?;
        Ok(self.trust.release(platform)?)
    }

    /// Notes what a TPM that was started leaves to its next power-on: Clock as it stands, and no attempt. Whatever was
    /// tried has been answered, so its outcome is durable; what a launch before this one left open was charged at Startup.
    ///
    /// The note is durable with the next commit. Without one everything is as after a crash.
    pub(super) fn conclude(&mut self) {
        if self.power != Power::Started {
            return;
        }
        let clock_ms = self.clock_ms();
        if clock_ms == 0 {
            // An engine that failed: what it showed before, and what was tried, it does not know any more.
            return;
        }
        let mut envelope = self.nv.image().envelope();
        envelope.close_attempts();
        envelope.clock_ms_reserved.set(clock_ms.saturating_add(1));
        self.nv.image_mut().store_envelope(&envelope);
    }
}
