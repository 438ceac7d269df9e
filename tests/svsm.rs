//! Laws of the SVSM calls: every field, every result code, and a guest that does with its memory what it likes.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "support/attest_op.rs"]
mod attest_op;
#[path = "svsm/attestation.rs"]
mod attestation;
#[path = "svsm/codes.rs"]
mod codes;
#[path = "support/guest_ram.rs"]
mod guest_ram;
#[path = "svsm/stand_in.rs"]
mod stand_in;
#[path = "support/tpm.rs"]
mod tpm;
#[path = "svsm/vtpm.rs"]
mod vtpm;
#[path = "svsm/wild.rs"]
mod wild;
