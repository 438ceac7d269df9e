//! Certificates for the endorsement keys, from the tenant's authority at the broker.
//!
//! **What.** Three requests of a granted instance: which keys are certified, a challenge for them, the answers to it. Both ends compile
//! [`conversation`], which a challenge belongs to.
//! **Trust.** The session's keys: what comes is the broker's word. Its certificates are not looked into.
//! **Laws.** Nothing here concerns the state or the lease: whatever comes of it, the TPM serves.
//! **Not here.** What holds the keys and the certificates (`engine`); who is certified (the broker).

use super::tenure::Tenure;
use super::transcript::Digest;
use super::wire::{
    Activate, Certificates, Certified, Challenge, Endorse, EndorsementRequest, EndorsementVerdict, Operation,
    Wire,
};
use super::{ReleaseFault, frame};
use crate::seams::Platform;
use sha2::{Digest as _, Sha384};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

const LABEL: &[u8] = b"HUSK v1 endorsement\0";

/// Names the conversation that a challenge belongs to: the session with that transcript.
#[must_use]
pub fn conversation(transcript: &Digest) -> Digest {
    Sha384::new().chain_update(LABEL).chain_update(transcript).finalize().into()
}

impl Tenure<'_> {
    /// Token and generation, as the requests here repeat them.
    pub(super) const fn named(&self) -> (U64, U32) {
        (U64::new(self.standing().token()), U32::new(self.standing().generation()))
    }

    /// The keys that the tenant's authority certifies, as a sum.
    ///
    /// # Errors
    /// What an exchange gives.
    pub fn certified_keys(&mut self, platform: &mut Platform<'_>) -> Result<u8, ReleaseFault> {
        let (token, generation) = self.named();
        let body = EndorsementRequest { token, generation };
        let certified: Certified =
            frame::exactly(self.aside(platform, Operation::Endorsement, body.as_bytes())?)?;
        Ok(certified.keys)
    }

    /// Names the keys to certify; the broker's challenge, and the conversation that it belongs to.
    ///
    /// # Errors
    /// What an exchange gives.
    pub fn endorse(
        &mut self,
        platform: &mut Platform<'_>,
        request: &mut Endorse,
    ) -> Result<(Challenge, Digest), ReleaseFault> {
        (request.token, request.generation) = self.named();
        let challenge = frame::exactly(self.aside(platform, Operation::Endorse, request.as_bytes())?)?;
        let transcript = self.transcript().ok_or(ReleaseFault::Misuse)?;
        Ok((challenge, conversation(transcript)))
    }

    /// Answers the challenge; the certificates, as far as there are any yet.
    ///
    /// # Errors
    /// What an exchange gives.
    pub fn activate(
        &mut self,
        platform: &mut Platform<'_>,
        answers: &mut Activate,
    ) -> Result<&Certificates, ReleaseFault> {
        (answers.token, answers.generation) = self.named();
        let body = self.aside(platform, Operation::Activate, answers.as_bytes())?;
        structure(body).ok_or(ReleaseFault::ReplyRefused)
    }
}

/// Bytes as the structure that they are exactly, where they lie.
fn structure<T: Wire>(bytes: &[u8]) -> Option<&T> {
    T::ref_from_bytes(bytes).ok()
}

/// A verdict that this build does not know is a refusal all the same.
#[must_use]
pub const fn verdict(number: u8) -> EndorsementVerdict {
    match EndorsementVerdict::from_number(number) {
        Some(verdict) => verdict,
        None => EndorsementVerdict::Malformed,
    }
}
