//! Where guests meet the TPM.
//!
//! **What.** [`crb`] is the register interface of the TCG PC Client Platform TPM Profile (PTP), for a machine that traps
//! its page and for one that merely shares it; [`acpi`] tells a guest's kernel where it is; [`svsm`] serves the calls of a guest
//! on SEV-SNP; [`flash`] is the chip in which a guest's firmware keeps its variables; [`reply`] turns a fault into a TPM response or a call's result. All but the flash drive one [`Tpm`].
//! **Trust.** None in the guest: every register, byte and order of events is an allegation.
//! **Laws.** One command at a time, copied once into private memory before it is looked at. Every command gets a
//! response. No event in any state panics, stalls or is undefined.
//! **Not here.** What a command means (`engine`), when a response may leave (`nv`, and `vtpm`, which implements [`Tpm`]).

pub mod acpi;
pub mod crb;
mod fault;
pub mod flash;
pub mod reply;
pub mod svsm;

pub use fault::FrontendFault;

use crate::engine::Locality;
use crate::fault::Fault;

/// What a front-end drives: a whole TPM whose answers are already durable when they come back.
pub trait Tpm {
    /// Executes `command`, private bytes that nobody has checked, and writes the response into `response`, which has
    /// at least [`COMMAND_BYTES_MAX`](crate::engine::COMMAND_BYTES_MAX) bytes. Returns the response's length in bytes.
    ///
    /// There always is a response: a failure of any kind is one with a code, made by [`reply`].
    fn execute(&mut self, locality: Locality, command: &[u8], response: &mut [u8]) -> usize;

    /// Whether a dynamic launch was measured since the flag was last reset. (A CRB shows the inverse: in
    /// TPM_LOC_STATE a tpmEstablished of 0 says that it was.)
    fn established(&mut self) -> bool;

    /// Clears the flag.
    ///
    /// # Errors
    /// [`LocalityRefused`](crate::engine::EngineFault::LocalityRefused) below locality 3.
    fn reset_established(&mut self, locality: Locality) -> Result<(), Fault>;

    /// `_TPM_Hash_Start`, from trusted hardware or the firmware that stands for it.
    ///
    /// # Errors
    /// The fault for which no hash sequence was started.
    fn hash_start(&mut self) -> Result<(), Fault>;

    /// `_TPM_Hash_Data`.
    ///
    /// # Errors
    /// The fault for which `data` was not hashed.
    fn hash_data(&mut self, data: &[u8]) -> Result<(), Fault>;

    /// `_TPM_Hash_End`.
    ///
    /// # Errors
    /// The fault for which nothing was measured.
    fn hash_end(&mut self) -> Result<(), Fault>;
}
