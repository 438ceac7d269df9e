//! A secret that a guest earns by its TPM: `protocol.md`, section 14.
//!
//! **What.** [`Guest`] is the guest's end of such a session; [`qualifying`], [`seal`] and [`open`] are compiled by both ends.
//! **Trust.** The tenant root key that the configuration names, and what it signed. Whoever carries the frames may do what it likes.
//! **Laws.** The session is the one of a VM, but for the proof: what a report is there, a quote is here. What is quoted names the session, so that only
//! who holds its keys has use of the quote; what is sealed takes the session's keys and the TPM that was challenged.
//! **Not here.** The TPM, which the guest asks itself; who gets what (the broker).

use super::ReleaseFault;
use super::frame;
use super::record::Caller;
use super::session::{SessionMemory, greet, settled};
use super::transcript::{AgreementKey, Digest};
use super::wire::{
    CREDENTIAL_SECRET_BYTES, Operation, UNLOCK_SECRET_BYTES_MAX, UnlockAnswer, UnlockAsk, UnlockChallenge,
    UnlockSecret, UnlockShow, UnlockVerdict,
};
use crate::attest::launch::LaunchConfig;
use crate::seams::{Channel, Entropy};
use crate::secret::Secret;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use hkdf::Hkdf;
use sha2::{Digest as _, Sha256, Sha384};
use zerocopy::byteorder::little_endian::U16;
use zerocopy::{FromBytes, FromZeros, IntoBytes};
use zeroize::Zeroize;

const QUOTE_LABEL: &[u8] = b"HUSK v1 unlock quote\0";
const SECRET_LABEL: &[u8] = b"HUSK v1 unlock secret\0";

/// What a credential carries.
type Carried = [u8; CREDENTIAL_SECRET_BYTES];

/// The qualifying data of the quote: this session, what only the TPM could open, and what was asked for with which keys.
#[must_use]
pub fn qualifying(transcript: &Digest, carried: &Carried, ask: &UnlockAsk) -> [u8; 32] {
    let labelled = Sha256::new().chain_update(QUOTE_LABEL).chain_update(transcript);
    labelled.chain_update(carried).chain_update(Sha256::digest(ask.as_bytes())).finalize().into()
}

/// Seals a secret for who opened the credential in that session. Once for each credential.
///
/// # Errors
/// [`ReleaseFault::Misuse`] if the secret is longer than any.
pub fn seal(transcript: &Digest, carried: &Carried, secret: &[u8]) -> Result<UnlockAnswer, ReleaseFault> {
    let mut plain = UnlockSecret::new_zeroed();
    plain.secret.get_mut(..secret.len()).ok_or(ReleaseFault::Misuse)?.copy_from_slice(secret);
    plain.bytes = U16::new(u16::try_from(secret.len()).map_err(|_| ReleaseFault::Misuse)?);
    let mut answer = UnlockAnswer::new_zeroed();
    answer.sealed.copy_from_slice(plain.as_bytes());
    plain.as_mut_bytes().zeroize();
    let cipher = cipher(transcript, carried)?;
    let tag =
        cipher.encrypt_inout_detached(&Nonce::default(), SECRET_LABEL, answer.sealed.as_mut_slice().into());
    answer.tag = tag.map_err(|_| ReleaseFault::Misuse)?.into();
    Ok(answer)
}

/// Opens what [`seal`] sealed, into `secret`; its length.
///
/// # Errors
/// [`ReleaseFault::ReplyRefused`].
pub fn open(
    transcript: &Digest,
    carried: &Carried,
    answer: &UnlockAnswer,
    secret: &mut [u8; UNLOCK_SECRET_BYTES_MAX],
) -> Result<usize, ReleaseFault> {
    let mut sealed = answer.sealed;
    let cipher = cipher(transcript, carried)?;
    let tag = Tag::from(answer.tag);
    let opened =
        cipher.decrypt_inout_detached(&Nonce::default(), SECRET_LABEL, sealed.as_mut_slice().into(), &tag);
    let length = opened.ok().and_then(|()| {
        let plain = UnlockSecret::ref_from_bytes(&sealed).ok()?;
        secret.copy_from_slice(&plain.secret);
        Some(usize::from(plain.bytes.get())).filter(|length| *length <= UNLOCK_SECRET_BYTES_MAX)
    });
    sealed.zeroize();
    length.ok_or(ReleaseFault::ReplyRefused)
}

/// The key follows from a fresh secret and is used once, so that the nonce may be zero.
fn cipher(transcript: &Digest, carried: &Carried) -> Result<Aes256Gcm, ReleaseFault> {
    let hkdf = Hkdf::<Sha384>::new(Some(transcript), carried);
    let key = Secret::<32>::try_fill(|bytes| hkdf.expand(SECRET_LABEL, bytes));
    Ok(key.map_err(|_| ReleaseFault::Misuse)?.with(|key| Aes256Gcm::new(key.into())))
}

/// A verdict that this build does not know is a refusal all the same.
#[must_use]
pub const fn verdict(number: u8) -> UnlockVerdict {
    match UnlockVerdict::from_number(number) {
        Some(verdict) => verdict,
        None => UnlockVerdict::Malformed,
    }
}

/// A guest in a session with a broker of its tenant's.
#[derive(Debug)]
#[must_use]
pub struct Guest<'m> {
    caller: Caller,
    memory: &'m mut SessionMemory,
}

impl<'m> Guest<'m> {
    /// Says hello and checks who answers. Of `config` the tenant's id, root key and least key generation are believed, so they must be measured; the VM's id
    /// need not be.
    ///
    /// # Errors
    /// As [`Client::hello`](super::session::Client::hello).
    pub fn hello(
        config: &LaunchConfig,
        (channel, entropy): (&mut dyn Channel, &mut dyn Entropy),
        memory: &'m mut SessionMemory,
    ) -> Result<Self, ReleaseFault> {
        // Nobody comes back to this session, so that its instance is of one use.
        let instance = AgreementKey::generate(entropy)?;
        let (caller, _) = greet(config, (channel, entropy), &instance, memory)?;
        Ok(Self { caller, memory })
    }

    /// The session's transcript hash.
    #[must_use]
    pub const fn transcript(&self) -> &Digest {
        self.caller.transcript()
    }

    /// Asks for a secret; the challenge.
    ///
    /// # Errors
    /// What an exchange gives.
    pub fn ask(
        &mut self,
        channel: &mut dyn Channel,
        ask: &UnlockAsk,
    ) -> Result<UnlockChallenge, ReleaseFault> {
        let reply = self.memory.say(channel, &mut self.caller, Operation::UnlockAsk, ask.as_bytes())?;
        frame::exactly(settled(reply)?)
    }

    /// Shows what was challenged; the answer.
    ///
    /// # Errors
    /// What an exchange gives.
    pub fn show(
        &mut self,
        channel: &mut dyn Channel,
        show: &UnlockShow,
    ) -> Result<UnlockAnswer, ReleaseFault> {
        let reply = self.memory.say(channel, &mut self.caller, Operation::UnlockShow, show.as_bytes())?;
        frame::exactly(settled(reply)?)
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.memory.wipe();
    }
}

#[cfg(test)]
mod tests {
    use super::{ReleaseFault, UNLOCK_SECRET_BYTES_MAX, UnlockAsk, open, qualifying, seal};
    use zerocopy::{FromZeros, IntoBytes};

    #[test]
    fn a_secret_opens_in_its_session_with_its_credential_and_unaltered_only() {
        let (transcript, carried) = ([1; 48], [2; 32]);
        let mut room = [0; UNLOCK_SECRET_BYTES_MAX];
        for secret in [&b"passphrase"[..], b"", &[7; UNLOCK_SECRET_BYTES_MAX]] {
            let answer = seal(&transcript, &carried, secret).unwrap();
            let length = open(&transcript, &carried, &answer, &mut room).unwrap();
            assert_eq!(&room[..length], secret);
            assert!(secret.is_empty() || !answer.as_bytes().windows(secret.len()).any(|part| part == secret));
        }
        let answer = seal(&transcript, &carried, b"passphrase").unwrap();
        let refused = Err(ReleaseFault::ReplyRefused);
        assert_eq!(open(&[3; 48], &carried, &answer, &mut room), refused);
        assert_eq!(open(&transcript, &[3; 32], &answer, &mut room), refused);
        for at in 0..answer.sealed.len() {
            let mut altered = answer;
            altered.sealed[at] ^= 1;
            assert_eq!(open(&transcript, &carried, &altered, &mut room), refused);
        }
        for at in 0..answer.tag.len() {
            let mut altered = answer;
            altered.tag[at] ^= 1;
            assert_eq!(open(&transcript, &carried, &altered, &mut room), refused);
        }
        let longer = seal(&transcript, &carried, &[0; UNLOCK_SECRET_BYTES_MAX + 1]);
        assert_eq!(longer.map(drop), Err(ReleaseFault::Misuse));
    }

    #[test]
    fn what_is_quoted_names_each_of_its_parts() {
        let ask = UnlockAsk::new_zeroed();
        let own = qualifying(&[1; 48], &[2; 32], &ask);
        assert_ne!(own, qualifying(&[3; 48], &[2; 32], &ask));
        assert_ne!(own, qualifying(&[1; 48], &[3; 32], &ask));
        for at in 0..UnlockAsk::BYTES {
            let mut other = ask;
            other.as_mut_bytes()[at] = 1;
            assert_ne!(own, qualifying(&[1; 48], &[2; 32], &other), "byte {at}");
        }
    }
}
