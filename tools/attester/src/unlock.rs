//! The guest's side of earning a secret: `src/release/protocol.md`, section 14.
//!
//! **What.** [`unlock`] has one conversation with a broker, in which the TPM opens a credential and quotes PCRs, and yields the secret.
//! **Trust.** The tenant that the configuration names; the TPM. Not the way to the broker.
//! **Laws.** The keys of the session are drawn here and end with it. What the credential carried, and the secret, are wiped.
//! **Not here.** Where the secret goes (`husk-unlock`).

mod frames;

pub use frames::Frames;

use crate::tpm::{Keys, Tpm, TpmError};
use crate::wire::{NONCE_BYTES, Selection};
use husk::attest::launch::LaunchConfig;
use husk::release::ReleaseFault;
use husk::release::session::SessionMemory;
use husk::release::unlock::{Guest, open, qualifying, verdict};
use husk::release::wire::{
    UNLOCK_SECRET_BYTES_MAX, UnlockAsk, UnlockChallenge, UnlockShow, UnlockVerdict, WireCredential,
    WirePublic,
};
use husk::seams::{Channel, Entropy};
use zerocopy::FromZeros as _;
use zerocopy::byteorder::little_endian::U16;
use zeroize::Zeroizing;

/// TPM_ALG_SHA256: the bank.
const SHA256: u16 = 0x000B;

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum UnlockError {
    /// The broker was not reached, or is none of the tenant's.
    #[error("{}; {}", .0.fault().means(), .0.fault().next())]
    Broker(ReleaseFault),
    /// The TPM did not do its part.
    #[error("the TPM: {0}")]
    Tpm(#[from] TpmError),
    /// The broker gives nothing.
    #[error("the broker gives nothing: {}", meaning(*.0))]
    Refused(UnlockVerdict),
    /// A part does not fit its place.
    #[error("the TPM's keys or quotes are longer than this protocol has them")]
    TooLong,
    /// The name is no name.
    #[error("a secret's name has 1 to 64 bytes")]
    Name,
}

impl From<ReleaseFault> for UnlockError {
    fn from(fault: ReleaseFault) -> Self {
        Self::Broker(fault)
    }
}

/// What a verdict means, and what to do.
const fn meaning(verdict: UnlockVerdict) -> &'static str {
    match verdict {
        UnlockVerdict::Ok => "it says that all is well",
        UnlockVerdict::Malformed => "it does not understand the request; are both sides of one version?",
        UnlockVerdict::OtherTpm => {
            "this TPM is not the one that the VM has shown to it; the tenant needs an authority for endorsement keys (`husk tenant authority`), and the VM must have been \
             started since"
        }
        UnlockVerdict::NothingThere => {
            "the VM has no secret of that name; its tenant keeps one with `husk vm unlock put`"
        }
        UnlockVerdict::Unproven => "what the TPM signed is not of this conversation",
        UnlockVerdict::OldInstance => "this is not the VM's newest instance, or the VM is halted",
        UnlockVerdict::OtherPcrs => {
            "the PCRs have other values than the tenant allows: other firmware, kernel or command line; the tenant's log says which"
        }
    }
}

/// Has the secret of that name given to this guest.
///
/// # Errors
/// [`UnlockError`].
pub fn unlock(
    name: &str,
    config: &LaunchConfig,
    (channel, entropy): (&mut dyn Channel, &mut dyn Entropy),
    tpm: &mut Tpm,
) -> Result<Zeroizing<Vec<u8>>, UnlockError> {
    let mut memory = Box::new(SessionMemory::new());
    let mut guest = Guest::hello(config, (channel, entropy), &mut memory)?;
    let (kind, _) = tpm.certified_key()?;
    let keys = tpm.keys(kind)?;
    let earned = converse(name, (&mut guest, channel), (tpm, &keys));
    // The kernel's resource manager does it anyway; at a bare TPM the slots are free again.
    tpm.forget(&keys)?;
    earned
}

fn converse(
    name: &str,
    (guest, channel): (&mut Guest<'_>, &mut dyn Channel),
    (tpm, keys): (&mut Tpm, &Keys),
) -> Result<Zeroizing<Vec<u8>>, UnlockError> {
    let ask = asking(name, keys)?;
    let UnlockChallenge { verdict: number, pcrs, credential, .. } = guest.ask(channel, &ask)?;
    settled(number)?;
    let carried = carried(tpm, keys, &credential)?;
    let selection = Selection { bank: SHA256, pcrs: pcrs.get() };
    let data = qualifying(guest.transcript(), &carried, &ask);
    let values = tpm.values(selection)?;
    let (quote, signature) = tpm.quote(keys, &data, selection)?;
    let mut show = UnlockShow::new_zeroed();
    show.quote_bytes = put(&mut show.quote, &quote)?;
    show.signature_bytes = put(&mut show.signature, &signature)?;
    put(&mut show.values, &values)?;
    let answer = guest.show(channel, &show)?;
    settled(answer.verdict)?;
    let mut room = Zeroizing::new([0; UNLOCK_SECRET_BYTES_MAX]);
    let length = open(guest.transcript(), &carried, &answer, &mut room)?;
    let secret = room.get(..length).ok_or(UnlockError::TooLong)?;
    Ok(Zeroizing::new(secret.to_vec()))
}

fn asking(name: &str, keys: &Keys) -> Result<UnlockAsk, UnlockError> {
    let mut ask = UnlockAsk::new_zeroed();
    if name.is_empty() {
        return Err(UnlockError::Name);
    }
    put(&mut ask.name, name.as_bytes()).map_err(|_| UnlockError::Name)?;
    let public = |place: &mut WirePublic, area: &[u8]| {
        place.bytes = put(&mut place.public, area)?;
        Ok::<(), UnlockError>(())
    };
    public(&mut ask.endorsement, &keys.endorsement.public)?;
    public(&mut ask.attestation, &keys.attestation.public)?;
    Ok(ask)
}

/// What the credential carries, which the TPM alone opens.
fn carried(
    tpm: &mut Tpm,
    keys: &Keys,
    credential: &WireCredential,
) -> Result<Zeroizing<[u8; NONCE_BYTES]>, UnlockError> {
    let refused = || UnlockError::Broker(ReleaseFault::ReplyRefused);
    let blob = credential.blob.get(..usize::from(credential.blob_bytes.get())).ok_or_else(refused)?;
    let secret = credential.secret.get(..usize::from(credential.secret_bytes.get())).ok_or_else(refused)?;
    let opened = tpm.activate(keys, blob, secret)?;
    let carried: &[u8; NONCE_BYTES] = opened.as_slice().try_into().map_err(|_| refused())?;
    Ok(Zeroizing::new(*carried))
}

fn settled(number: u8) -> Result<(), UnlockError> {
    match verdict(number) {
        UnlockVerdict::Ok => Ok(()),
        refused => Err(UnlockError::Refused(refused)),
    }
}

/// Puts a part to the front of its place; its length.
fn put(place: &mut [u8], part: &[u8]) -> Result<U16, UnlockError> {
    place.get_mut(..part.len()).ok_or(UnlockError::TooLong)?.copy_from_slice(part);
    u16::try_from(part.len()).map(U16::new).map_err(|_| UnlockError::TooLong)
}
