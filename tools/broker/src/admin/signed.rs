//! The envelope of a request.

#![allow(missing_debug_implementations, reason = "structures of the wire are never printed")]
#![allow(clippy::allow_attributes, reason = "an expectation is not seen inside the derive")]

use super::REQUEST_BYTES_MAX;
use crate::vault::{OperatorKey, VaultError};
use crate::world::World;
use husk::release::ticket::OperatorCertificate;
use husk::release::transcript::{Digest, verifies};
use husk::release::wire::{POINT_BYTES, SIGNATURE_BYTES};
use sha2::{Digest as _, Sha384};
use std::mem::offset_of;
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const LABEL: &[u8] = b"HUSK v1 tenant request\0";

/// What stands before a request's JSON.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Head {
    /// Who asks, by the tenant's word.
    pub certificate: OperatorCertificate,
    /// The broker that is asked.
    pub broker: [u8; 16],
    /// Random: the request is done once under this name.
    pub nonce: [u8; 16],
    /// The broker's clock, as it said it was.
    pub time_ms: U64,
    /// By the operator's key, over everything before it and the JSON.
    pub signature: [u8; SIGNATURE_BYTES],
}

impl Head {
    fn digest(&self, json: &[u8]) -> Digest {
        let signed = &self.as_bytes()[..offset_of!(Self, signature)];
        Sha384::new().chain_update(LABEL).chain_update(signed).chain_update(json).finalize().into()
    }

    /// Whether an operator whom `root` certified signed it with this JSON. Both signatures are checked whatever the first comes to.
    #[must_use]
    pub fn holds(&self, root: &[u8; POINT_BYTES], json: &[u8]) -> bool {
        let certified = self.certificate.is_by(&self.certificate.tenant, root);
        let signed = verifies(&self.certificate.key, &self.digest(json), &self.signature);
        certified & signed
    }
}

/// Head and JSON of what came, if it has that shape.
#[must_use]
pub fn parsed(bytes: &[u8]) -> Option<(Head, &[u8])> {
    let (head, json) = Head::read_from_prefix(bytes).ok()?;
    (bytes.len() <= REQUEST_BYTES_MAX).then_some((head, json))
}

/// A request to `broker`, whose clock stood at `time_ms`.
///
/// # Errors
/// [`VaultError::Entropy`], [`VaultError::Bug`].
pub fn signed(
    world: &dyn World,
    operator: &OperatorKey,
    (broker, time_ms): ([u8; 16], u64),
    json: &[u8],
) -> Result<Vec<u8>, VaultError> {
    let certificate = *operator.certificate();
    let (nonce, signature) = ([0; 16], [0; SIGNATURE_BYTES]);
    let mut head = Head { certificate, broker, nonce, time_ms: U64::new(time_ms), signature };
    world.fill(&mut head.nonce).map_err(|_| VaultError::Entropy)?;
    head.signature = operator.sign_digest(&head.digest(json))?;
    Ok([head.as_bytes(), json].concat())
}

#[cfg(test)]
mod tests {
    use super::{Head, parsed, signed};
    use crate::ids::TenantId;
    use crate::vault::{OperatorKey, TenantRoot};
    use crate::world::Machine;

    #[test]
    fn every_byte_of_a_request_is_signed() {
        let world = Machine::start();
        let root = TenantRoot::generate(&world).unwrap();
        let operator = OperatorKey::generate(&world, &root, TenantId([3; 16]), (&[], 0, 1)).unwrap();
        let sent = signed(&world, &operator, ([4; 16], 5), b"{}").unwrap();
        let holds = |bytes: &[u8]| parsed(bytes).is_some_and(|(head, json)| head.holds(root.point(), json));
        assert!(holds(&sent));
        for at in 0..sent.len() {
            let mut altered = sent.clone();
            altered[at] ^= 1;
            assert!(!holds(&altered), "byte {at}");
        }
        for cut in 0..sent.len() {
            assert!(!holds(&sent[..cut]), "cut at {cut}");
        }
        assert!(!holds(&[&sent[..], b" "].concat()));
        let other = TenantRoot::generate(&world).unwrap();
        assert!(!parsed(&sent).unwrap().0.holds(other.point(), b"{}"), "another root");
        assert_eq!(size_of::<Head>(), sent.len() - 2, "no padding");
    }
}
