//! A static key from a CoCo KBS: one more input of the volume's key.
//!
//! **What.** [`KbsInput::wanted`] speaks RCAR 0.4.0 (request, challenge, attestation, response) through the relay: a nonce, a
//! report that binds it to a TEE key of this launch ([`attest::runtime`](crate::attest::runtime)), a resource that is encrypted to that key ([`jwe`]), and in it
//! the tenant's [`envelope`]. [`frames`] is what the relay maps to HTTP.
//! **Trust.** The tenant root key that the launch configuration names: the envelope's signature is by it. The KBS is not
//! authenticated otherwise, and need not be: whoever plays it can refuse, or hand out that very envelope.
//! **Laws.** One conversation, one request at a time, no retries here. Everything that comes is bounded by a frame, parsed once,
//! and refused whole if anything does not fit. No key without the signature, for this tenant and this VM.
//! **Not here.** What the key opens: `keys::derive`. When the KBS is asked: `vtpm::boot`.

mod answer;
pub mod envelope;
pub mod frames;
pub mod jwe;
mod rcar;

use crate::secret::Secret;

/// The tenant's static key of one VM, out of an envelope that held. Only this box makes one.
#[derive(Debug)]
pub struct KbsSecret(Secret<32>);

impl KbsSecret {
    /// The key, for `keys::derive` alone.
    #[must_use]
    pub const fn secret(&self) -> &Secret<32> {
        &self.0
    }
}

/// What a KBS adds to a launch's keys: a secret, or nothing where the configuration requires none, and only there. Only
/// [`KbsInput::wanted`] makes one.
#[derive(Debug)]
pub struct KbsInput(Option<KbsSecret>);

impl KbsInput {
    /// The secret, where the configuration requires one.
    #[must_use]
    pub const fn secret(&self) -> Option<&KbsSecret> {
        self.0.as_ref()
    }
}
