//! Commands in, responses out, NV changes on the side.
//!
//! **What.** [`Engine`] is a TPM 2.0 that executes one [`Command`] at a time and stores its durable state into an
//! [`NvImage`]. `reference` binds the TCG reference implementation.
//! **Trust.** An engine is measured code; what it is fed is checked here first.
//! **Laws.** An engine never decides what is durable: it marks the image, and `nv` commits it before a response leaves.
//! Nothing outside this box may know which engine runs.
//! **Not here.** Freshness, keys, leases: an engine does not know that they exist.

mod certified;
mod command;
mod endorsement;
mod fault;
#[cfg(feature = "engine-reference")]
pub mod reference;

pub use certified::{CERTIFICATE_BYTES_MAX, CertifiedEngine, Credential, Maker, Written};
pub use command::{Command, Locality, Needs, ResponseCode};
pub use endorsement::{CHALLENGE_SECRET_BYTES, ChallengeObject, ENDORSEMENT_BYTES_MAX, EndorsementKey};
pub use fault::EngineFault;

use crate::nv::NvImage;
use core::ops::RangeInclusive;

/// The largest command or response in bytes (TCG PC Client PTP, MAX_COMMAND_SIZE of the reference engine).
pub const COMMAND_BYTES_MAX: usize = 4096;

/// Names engine, version and format level: ASCII, zero-padded. A volume opens only under an engine that accepts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

/// What a power-on starts from. The engine's own part of the image is [`NvImage::engine_state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Make a new TPM. Only a signed grant leads here.
    Manufacture,
    /// Load the image's engine state.
    Load,
    /// Load the image's engine state, which came from a backup: whatever an attacker may have tried since counts as tried. Failed
    /// authorizations stand at their maximum, lockoutAuth has been tried, every PIN is used up.
    Restore,
    /// Make another TPM of the image's engine state, which came from a backup of that other: seeds and proofs of every hierarchy are new; no
    /// object, no NV index and no authorization of the other's is there any more, so that nothing is left to be guessed at. How the TPM is set up stays:
    /// banks of PCRs, which commands are audited.
    Clone,
}

/// Facts that the world outside gives a TPM at power-on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerOn {
    /// Make or load.
    pub start: Start,
    /// The value that TPMS_CLOCK_INFO.resetCount has after the next Startup, whatever kind of startup it is.
    pub reset_count: u32,
    /// TPMS_CLOCK_INFO.clock is at least this many milliseconds after power-on.
    pub clock_ms_min: u64,
}

/// A handle whose authorization a command tries and whose failure must be charged before it is judged: a PIN index or
/// TPM_RH_LOCKOUT. DA-protected objects are charged by the engine itself at an unorderly restart. A PIN-pass index counts
/// successes, which are never answered before they are durable; a wrong guess on it costs nothing by the specification,
/// or is DA-protected.
pub type Attempts = heapless::Vec<u32, 3>;

/// A TPM 2.0.
pub trait Engine {
    /// Which engine this is.
    fn fingerprint(&self) -> Fingerprint;

    /// Powers the TPM on (TPM Init signal). Powers it off first where it was on.
    ///
    /// # Errors
    /// [`EngineFault`]; the engine is off then.
    fn power_on(&mut self, nv: &mut NvImage<'_>, power_on: PowerOn) -> Result<(), EngineFault>;

    /// Powers the TPM off and wipes what it holds in RAM.
    fn power_off(&mut self);

    /// Executes one command; `response` has at least [`COMMAND_BYTES_MAX`] bytes. Returns the response's length.
    ///
    /// # Errors
    /// [`EngineFault`] if there is no response to give; the engine is in failure mode then.
    fn execute(
        &mut self,
        command: &Command<'_>,
        nv: &mut NvImage<'_>,
        response: &mut [u8],
    ) -> Result<usize, EngineFault>;

    /// The handles that `command` would try whose attempts must be opened first. Changes nothing that can be seen.
    ///
    /// The image is lent because asking an engine is running it: whatever it does at a command's start (forgiving a
    /// failed authorization when its time has come) it may do here.
    ///
    /// # Errors
    /// [`EngineFault`] if the engine cannot say.
    fn attempts(&mut self, command: &Command<'_>, nv: &mut NvImage<'_>) -> Result<Attempts, EngineFault>;

    /// Charges one failed attempt on `handle`, after Startup. A handle that is gone is no error.
    ///
    /// # Errors
    /// [`EngineFault`] if the charge did not take.
    fn charge(&mut self, nv: &mut NvImage<'_>, handle: u32) -> Result<(), EngineFault>;

    /// TPMS_CLOCK_INFO.clock in milliseconds; 0 before Startup and in failure mode. The image is lent as for
    /// [`attempts`](Engine::attempts).
    fn clock_ms(&mut self, nv: &mut NvImage<'_>) -> u64;

    /// `_TPM_Hash_Start` at locality 4.
    ///
    /// # Errors
    /// [`EngineFault`] in failure mode.
    fn hash_start(&mut self, nv: &mut NvImage<'_>) -> Result<(), EngineFault>;

    /// `_TPM_Hash_Data`.
    ///
    /// # Errors
    /// [`EngineFault`] in failure mode.
    fn hash_data(&mut self, nv: &mut NvImage<'_>, data: &[u8]) -> Result<(), EngineFault>;

    /// `_TPM_Hash_End`.
    ///
    /// # Errors
    /// [`EngineFault`] in failure mode.
    fn hash_end(&mut self, nv: &mut NvImage<'_>) -> Result<(), EngineFault>;

    /// TPM_ESTABLISHED as the CRB's `tpmEstablished` shows it.
    fn established(&mut self) -> bool;

    /// Clears TPM_ESTABLISHED; allowed at localities 3 and 4 only.
    ///
    /// # Errors
    /// [`EngineFault::LocalityRefused`] at another locality.
    fn reset_established(&mut self, locality: Locality) -> Result<(), EngineFault>;

    /// Writes the volatile state of the running TPM into `into` and returns its length in bytes.
    ///
    /// # Errors
    /// [`EngineFault`] if `into` is too small or the engine fails.
    fn save_volatile(&mut self, into: &mut [u8]) -> Result<usize, EngineFault>;

    /// Works out the public areas of the endorsement keys from the stored state's primary seed, so that
    /// [`endorsement_key`](Engine::endorsement_key) can tell them; cheap where the seed is the one of the last time. The engine is off, before
    /// and afterwards; nothing is stored, and no later power-on shows any trace.
    ///
    /// # Errors
    /// [`EngineFault`] if the state does not load or the engine makes no keys from it.
    fn learn_endorsement(&mut self, nv: &mut NvImage<'_>) -> Result<(), EngineFault>;

    /// Writes the public area (TPMT_PUBLIC) of an endorsement key into `into`, which has at least
    /// [`ENDORSEMENT_BYTES_MAX`] bytes, and returns its length in bytes. Takes no slot and no authorization of the running TPM.
    ///
    /// # Errors
    /// [`EngineFault::EndorsementUnknown`] if it was not learned, or the guest has changed the seed since.
    fn endorsement_key(
        &self,
        nv: &NvImage<'_>,
        key: EndorsementKey,
        into: &mut [u8],
    ) -> Result<usize, EngineFault>;

    /// Whether the change from the engine's state `old` to `new` is of nothing but the data of ordinary NV indices among `named`, whose
    /// change a boot may lose, where the tenant opted into that: never of a counter of failed authorizations, an orderly flag, an NV counter, a
    /// PIN index, a seed, an authorization, an index's attributes. An engine that cannot tell says no.
    fn may_be_stale(&self, _old: &[u8], _new: &[u8], _named: &RangeInclusive<u32>) -> bool {
        false
    }

    /// Powers on and resumes `volatile` as if power had never gone.
    ///
    /// # Errors
    /// [`EngineFault`] if the state does not load; the engine is off then.
    fn resume_volatile(
        &mut self,
        nv: &mut NvImage<'_>,
        power_on: PowerOn,
        volatile: &[u8],
    ) -> Result<(), EngineFault>;
}
