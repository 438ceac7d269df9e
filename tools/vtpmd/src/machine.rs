//! What is served: a TPM with a power switch.

use husk::fault::Fault;
use husk::frontend::Tpm;
use std::sync::Arc;

/// Ends a running command early, from any thread. The TPM may finish it all the same.
pub type Canceller = Arc<dyn Fn() + Send + Sync>;

/// What a machine says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// The TPM library specification's revision, times 100 (164 is 1.64).
    pub revision: u16,
    /// A word for the model.
    pub model: &'static str,
    /// Whether [`Machine::store_volatile`] does anything.
    pub keeps_volatile: bool,
    /// Whether state blobs leave and enter: of test machines only.
    pub gives_state: bool,
}

/// A part of a machine's state, in clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blob {
    /// What outlives power.
    Permanent,
    /// What does not.
    Volatile,
}

/// A TPM that can be switched on and off.
pub trait Machine: Tpm + Send {
    /// What this machine is.
    fn about(&self) -> About;

    /// Ends commands early, where this machine can.
    fn canceller(&self) -> Option<Canceller>;

    /// Whether the TPM is powered.
    fn is_on(&self) -> bool;

    /// The TPM Init signal: powers on, after powering off where it was on. Begins with the blobs that were written, where
    /// there are some, or resumes from stored volatile state; both are used up by that.
    ///
    /// # Errors
    /// The fault for which the TPM is off.
    fn power_on(&mut self) -> Result<(), Fault>;

    /// Powers off. What was acknowledged is durable already.
    ///
    /// # Errors
    /// The fault that was met; the TPM is off all the same.
    fn power_off(&mut self) -> Result<(), Fault>;

    /// Stores volatile state, for the next [`power_on`](Self::power_on).
    ///
    /// # Errors
    /// The fault for which nothing was stored. Not called unless [`About::keeps_volatile`].
    fn store_volatile(&mut self) -> Result<(), Fault>;

    /// Reads a part of the state of a TPM that is on.
    ///
    /// # Errors
    /// The fault for which there is none. Not called unless [`About::gives_state`].
    fn read_blob(&mut self, blob: Blob) -> Result<Vec<u8>, Fault>;

    /// Takes a part of the state for the next [`power_on`](Self::power_on), in place of what was written before; the TPM is
    /// off.
    ///
    /// # Errors
    /// The fault for which it was not taken. Not called unless [`About::gives_state`].
    fn write_blob(&mut self, blob: Blob, bytes: Vec<u8>) -> Result<(), Fault>;

    /// The orderly end: everything is flushed, every right given back. Nothing is called afterwards.
    ///
    /// # Errors
    /// The fault that left something undone.
    fn shut_down(&mut self) -> Result<(), Fault>;
}
