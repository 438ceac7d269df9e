//! Derived keys: what MSG_KEY_REQ gets.
//!
//! The simulated processor's key derivation is its own; what matters to those who test with it is which inputs change a key and
//! which requests are refused.

use crate::identity::{Identity, TCB};
use crate::processor::{STATUS_INVALID_KEY, STATUS_INVALID_PARAMETER};
use husk::attest::guest_message::{Envelope, KEY_REQUEST_BYTES, KeyFields, MessageKind};
use husk::attest::report::{Generation, Tcb};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// What of a guest can be mixed into a key.
pub(crate) struct GuestFields {
    pub(crate) policy: u64,
    pub(crate) measurement: [u8; 48],
    pub(crate) launch_mit_vector: u64,
}

/// A key for the guest with those fields, or the STATUS with which the request is refused.
pub(crate) fn derive(
    identity: &Identity,
    guest: &GuestFields,
    asked: &Envelope,
    payload: &[u8],
) -> Result<Zeroizing<[u8; 32]>, u32> {
    let version_2 = asked.kind == MessageKind::KeyRequest2;
    if payload.len() != KEY_REQUEST_BYTES[usize::from(version_2)] {
        return Err(STATUS_INVALID_PARAMETER);
    }
    let word = |at: usize| payload[at..].first_chunk().map_or(u32::MAX, |field| u32::from_le_bytes(*field));
    let long = |at: usize| payload[at..].first_chunk().map_or(u64::MAX, |field| u64::from_le_bytes(*field));
    let (select, vmpl, guest_svn, tcb) = (word(0), word(0x10), word(0x14), long(0x18));
    let mitigations = if version_2 { long(0x20) } else { 0 };
    let known = if version_2 { KeyFields::all() } else { KeyFields::all() - KeyFields::LAUNCH_MIT_VECTOR };
    let fields = KeyFields::from_bits(long(8)).filter(|fields| known.contains(*fields));
    let fields = fields.ok_or(STATUS_INVALID_PARAMETER)?;
    // No ID block, so no SVN but zero; no migration agent, so no VM root key; no VLEK.
    let covered = Tcb::from_bytes(&TCB.to_bytes(), Generation::Milan)
        .covers(Tcb::from_bytes(&tcb.to_le_bytes(), Generation::Milan));
    let levels = vmpl <= 3 && vmpl >= u32::from(asked.vmpck) && guest_svn == 0 && covered;
    if select >> 3 != 0 || word(4) != 0 || !levels || mitigations & !guest.launch_mit_vector != 0 {
        return Err(STATUS_INVALID_PARAMETER);
    }
    if select & 1 != 0 || select >> 1 > 1 {
        return Err(STATUS_INVALID_KEY);
    }
    let chosen =
        |field, bytes: &[u8]| if fields.contains(field) { bytes.to_vec() } else { vec![0; bytes.len()] };
    let mut key = Sha256::new();
    key.update(b"a simulated processor's derived key");
    key.update(identity.root_of_keys().as_slice());
    key.update(fields.bits().to_le_bytes());
    key.update(vmpl.to_le_bytes());
    key.update(chosen(KeyFields::POLICY, &guest.policy.to_le_bytes()));
    key.update(chosen(KeyFields::MEASUREMENT, &guest.measurement));
    key.update(chosen(KeyFields::TCB_VERSION, &tcb.to_le_bytes()));
    key.update(chosen(KeyFields::LAUNCH_MIT_VECTOR, &mitigations.to_le_bytes()));
    Ok(Zeroizing::new(key.finalize().into()))
}
