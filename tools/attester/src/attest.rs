//! The guest's side of the conversation.

use crate::tpm::{Keys, Tpm, TpmError};
use crate::wire::{
    Challenge, Evidence, Failure, Identity, Kind, NONCE_BYTES, Step, WireError, binding, receive, send,
};
use std::io::{Read, Write};

/// Why a guest did not attest.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// Whoever asks broke off, or asks something else.
    #[error("whoever asks: {0}")]
    Wire(#[from] WireError),
    /// The TPM did not do its part.
    #[error("{}: {}", .0.text(), .1)]
    Tpm(Step, TpmError),
}

impl AttestError {
    /// What whoever asks is told of it.
    #[must_use]
    pub const fn failure(&self) -> Failure {
        match self {
            Self::Wire(_) => Failure { step: Step::Request, code: 0 },
            Self::Tpm(step, TpmError::Refused(code)) => Failure { step: *step, code: *code },
            Self::Tpm(step, _) => Failure { step: *step, code: 0 },
        }
    }
}

/// Answers one request: who this is, and what its TPM says. `bound` is what is bound to it.
///
/// # Errors
/// [`AttestError`]; whoever asks was told, as far as the pipe still takes words.
pub fn serve(
    (from, to): (&mut dyn Read, &mut dyn Write),
    tpm: &mut Tpm,
    bound: &[u8],
) -> Result<(), AttestError> {
    let served = converse((from, to), tpm, bound);
    if let Err(error) = &served {
        tell(to, error);
    }
    served
}

/// Says that it failed. Where the pipe is broken nobody listens, and the error is reported all the same.
pub fn tell(to: &mut dyn Write, error: &AttestError) {
    send(to, Kind::Failure, &error.failure().to_bytes()).ok();
}

fn converse(
    (from, to): (&mut dyn Read, &mut dyn Write),
    tpm: &mut Tpm,
    bound: &[u8],
) -> Result<(), AttestError> {
    if !receive(from, Kind::Hello)?.is_empty() {
        return Err(WireError::Malformed("something follows it").into());
    }
    let failed = |step| move |error| AttestError::Tpm(step, error);
    let (key, certificate) = tpm.certified_key().map_err(failed(Step::Certificate))?;
    let keys = tpm.keys(key).map_err(failed(Step::Keys))?;
    let answered = answer((from, to), tpm, &keys, (certificate, bound));
    // The kernel's resource manager does it anyway; at a bare TPM the slots are free again.
    tpm.forget(&keys).map_err(failed(Step::Keys)).and(answered)
}

fn answer(
    (from, to): (&mut dyn Read, &mut dyn Write),
    tpm: &mut Tpm,
    keys: &Keys,
    (certificate, bound): (Vec<u8>, &[u8]),
) -> Result<(), AttestError> {
    let identity = Identity {
        ek: keys.endorsement.public.clone(),
        certificate,
        ak: keys.attestation.public.clone(),
        bound: bound.to_vec(),
    };
    let identity = identity.to_bytes();
    send(to, Kind::Identity, &identity)?;
    let challenge = Challenge::parse(&receive(from, Kind::Challenge)?)?;
    let failed = |step| move |error| AttestError::Tpm(step, error);
    let carried = tpm.activate(keys, &challenge.blob, &challenge.secret).map_err(failed(Step::Activate))?;
    let carried: &[u8; NONCE_BYTES] = carried
        .as_slice()
        .try_into()
        .map_err(|_| WireError::Malformed("its credential is of another size"))?;
    let data = binding(&challenge.nonce, carried, &identity);
    let values = tpm.values(challenge.selection).map_err(failed(Step::Quote))?;
    let (quote, signature) = tpm.quote(keys, &data, challenge.selection).map_err(failed(Step::Quote))?;
    send(to, Kind::Evidence, &Evidence { quote, signature, values }.to_bytes())?;
    Ok(())
}
