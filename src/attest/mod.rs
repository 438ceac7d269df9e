//! What proves which VM this is.
//!
//! **What.** Attestation reports as raw bytes ([`report`]), the processor's messages ([`guest_message`]), what
//! REPORT_DATA binds ([`binding`], for a KBS [`runtime`]) and the launch configuration ([`launch`]).
//! **Trust.** The processor's authenticated answers.
//! **Laws.** The host never chooses what REPORT_DATA binds. A launch configuration counts only if the VM's own report
//! carries its digest.
//! **Not here.** Verifying a report down to AMD's roots: that is the broker's, in `tools/evidence`.

pub mod binding;
mod fault;
pub mod guest_message;
pub mod launch;
pub mod report;
pub mod runtime;

pub use fault::AttestFault;
