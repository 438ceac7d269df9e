//! Endorsement keys: which there are, the templates that they are made from, and how they are challenged.

use sha2::{Digest, Sha256};

/// TPM_ALG_RSA, TPM_ALG_ECC, TPM_ALG_SHA256, TPM_ALG_SHA384, TPM_ALG_AES, TPM_ALG_CFB, TPM_ALG_NULL (TPM 2.0 part 2, table
/// TPM_ALG_ID).
const RSA: u16 = 0x0001;
const ECC: u16 = 0x0023;
const SHA256: u16 = 0x000B;
const SHA384: u16 = 0x000C;
const AES: u16 = 0x0006;
const CFB: u16 = 0x0043;
const NULL: u16 = 0x0010;
const KEYEDHASH: u16 = 0x0008;
/// TPM_ECC_NIST_P256 and TPM_ECC_NIST_P384 (part 2, table TPM_ECC_CURVE).
const NIST_P256: u16 = 0x0003;
const NIST_P384: u16 = 0x0004;

/// TPMA_OBJECT of the low range: fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt.
const ATTRIBUTES_LOW: u32 = 0x0003_00B2;
/// TPMA_OBJECT of the high range: as the low one, and userWithAuth.
const ATTRIBUTES_HIGH: u32 = 0x0003_00F2;

/// TPMA_OBJECT of the object of a challenge: userWithAuth, noDA.
const ATTRIBUTES_CHALLENGE: u32 = 0x0000_0440;

/// PolicyA with SHA-256: TPM2_PolicySecret with TPM_RH_ENDORSEMENT (TCG EK Credential Profile, annex "EK policies").
const POLICY_A_SHA256: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xB3, 0xF8, 0x1A, 0x90, 0xCC, 0x8D, 0x46, 0xA5, 0xD7, 0x24, 0xFD,
    0x52, 0xD7, 0x6E, 0x06, 0x52, 0x0B, 0x64, 0xF2, 0xA1, 0xDA, 0x1B, 0x33, 0x14, 0x69, 0xAA,
];
/// PolicyB with SHA-384: PolicyA, or what an NV index says (the same annex).
const POLICY_B_SHA384: [u8; 48] = [
    0xB2, 0x6E, 0x7D, 0x28, 0xD1, 0x1A, 0x50, 0xBC, 0x53, 0xD8, 0x82, 0xBC, 0xF5, 0xFD, 0x3A, 0x1A, 0x07,
    0x41, 0x48, 0xBB, 0x35, 0xD3, 0xB4, 0xE4, 0xCB, 0x1C, 0x0A, 0xD9, 0xBD, 0xE4, 0x19, 0xCA, 0xCB, 0x47,
    0xBA, 0x09, 0x69, 0x96, 0x46, 0x15, 0x0F, 0x9F, 0xC0, 0x00, 0xF3, 0xF8, 0x0E, 0x12,
];

/// The largest public area of an endorsement key, or template of one, in bytes (RSA-2048 has 314).
pub const ENDORSEMENT_BYTES_MAX: usize = 320;

/// Bytes of a template or public area.
pub(super) type Public = heapless::Vec<u8, ENDORSEMENT_BYTES_MAX>;

/// An endorsement key, by the template of the TCG EK Credential Profile that makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndorsementKey {
    /// RSA-2048, template L-1.
    Rsa2048,
    /// ECC NIST P-256, template L-2.
    P256,
    /// ECC NIST P-384, template H-3.
    P384,
}

impl EndorsementKey {
    /// Every key, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::Rsa2048, Self::P256, Self::P384];

    /// The NV index that the profile reserves for this key's certificate; it also names the template.
    #[must_use]
    pub const fn certificate_index(self) -> u32 {
        match self {
            Self::Rsa2048 => 0x01C0_0002,
            Self::P256 => 0x01C0_000A,
            Self::P384 => 0x01C0_0016,
        }
    }

    /// This key in a set of keys.
    #[must_use]
    pub const fn bit(self) -> u8 {
        match self {
            Self::Rsa2048 => 1,
            Self::P256 => 2,
            Self::P384 => 4,
        }
    }

    /// Whether its user role takes a policy (PolicyA) and no authorization: so the profile's low range has it.
    #[must_use]
    pub const fn wants_policy(self) -> bool {
        matches!(self, Self::Rsa2048 | Self::P256)
    }

    /// The TPMT_PUBLIC that TPM2_CreatePrimary makes this key from.
    #[must_use]
    pub fn template(self) -> Public {
        match self {
            Self::Rsa2048 => Template::new(RSA, SHA256, ATTRIBUTES_LOW)
                .sized(&POLICY_A_SHA256)
                .words(&[AES, 128, CFB, NULL, 2048, 0, 0])
                .sized(&[0; 256]),
            Self::P256 => Template::new(ECC, SHA256, ATTRIBUTES_LOW)
                .sized(&POLICY_A_SHA256)
                .words(&[AES, 128, CFB, NULL, NIST_P256, NULL])
                .sized(&[0; 32])
                .sized(&[0; 32]),
            Self::P384 => Template::new(ECC, SHA384, ATTRIBUTES_HIGH)
                .sized(&POLICY_B_SHA384)
                .words(&[AES, 256, CFB, NULL, NIST_P384, NULL])
                .words(&[0, 0]),
        }
        .0
    }
}

/// Bytes of a public area or sensitive area of the object of a challenge.
type Area = heapless::Vec<u8, 96>;

/// The secret of a challenge.
pub const CHALLENGE_SECRET_BYTES: usize = 32;

/// What an endorsement key activates a credential for (TPM 2.0 part 1, "Credential Protection"): an object that only says which
/// conversation the credential belongs to, so that one of another conversation does not open. Both ends can make it; the secret is in the
/// credential, not in the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChallengeObject {
    conversation: [u8; 48],
}

impl ChallengeObject {
    /// The object of the conversation with that digest.
    #[must_use]
    pub const fn of(conversation: [u8; 48]) -> Self {
        Self { conversation }
    }

    /// Its TPM Name: SHA-256's number, and the digest of the public area.
    #[must_use]
    pub fn name(&self) -> [u8; 34] {
        let mut name = [0; 34];
        name[..2].copy_from_slice(&SHA256.to_be_bytes());
        name[2..].copy_from_slice(&Sha256::digest(self.public()));
        name
    }

    /// TPMT_PUBLIC of a keyed hash object without a scheme: data, and no more.
    pub(super) fn public(&self) -> Area {
        let unique = Sha256::new().chain_update([0; 32]).chain_update(self.conversation).finalize();
        let mut area = Area::new();
        put(&mut area, &KEYEDHASH.to_be_bytes());
        put(&mut area, &SHA256.to_be_bytes());
        put(&mut area, &ATTRIBUTES_CHALLENGE.to_be_bytes());
        put(&mut area, &[0; 2]);
        put(&mut area, &NULL.to_be_bytes());
        put(&mut area, &[0, 32]);
        put(&mut area, &unique);
        area
    }

    /// TPMT_SENSITIVE: no authorization, a seed of zeros, the digest as data.
    #[cfg_attr(not(feature = "engine-reference"), expect(dead_code, reason = "no engine is linked"))]
    pub(super) fn sensitive(&self) -> Area {
        let mut area = Area::new();
        put(&mut area, &KEYEDHASH.to_be_bytes());
        put(&mut area, &[0, 0, 0, 32]);
        put(&mut area, &[0; 32]);
        put(&mut area, &[0, 48]);
        put(&mut area, &self.conversation);
        area
    }
}

/// Appends to an area, which has room for all of its parts; one that did not would be too short, and the TPM would refuse it.
fn put(area: &mut Area, bytes: &[u8]) {
    if area.extend_from_slice(bytes).is_err() {
        area.clear();
    }
}

/// A TPMT_PUBLIC under construction. All of them fit; one that did not would be too short, and the TPM would refuse it.
struct Template(Public);

impl Template {
    fn new(algorithm: u16, name: u16, attributes: u32) -> Self {
        Self(Public::new()).words(&[algorithm, name]).put(&attributes.to_be_bytes())
    }

    fn put(mut self, bytes: &[u8]) -> Self {
        if self.0.extend_from_slice(bytes).is_err() {
            self.0.clear();
        }
        self
    }

    fn words(self, words: &[u16]) -> Self {
        words.iter().fold(self, |template, word| template.put(&word.to_be_bytes()))
    }

    fn sized<const N: usize>(self, bytes: &[u8; N]) -> Self {
        let [.., high, low] = N.to_be_bytes();
        self.put(&[high, low]).put(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::{EndorsementKey, POLICY_A_SHA256, POLICY_B_SHA384};
    use sha2::{Digest, Sha256, Sha384};

    #[test]
    fn templates_have_the_profile_s_sizes() {
        let sizes = EndorsementKey::ALL.map(|key| key.template().len());
        assert_eq!(sizes, [314, 122, 74]);
    }

    /// TPM 2.0 part 3, PolicySecret and PolicyOR, over the profile's PolicyC.
    #[test]
    fn policies_are_what_their_definition_gives() {
        let (policy_secret, policy_or) = (0x151_u32.to_be_bytes(), 0x171_u32.to_be_bytes());
        let endorsement = 0x4000_000B_u32.to_be_bytes();
        let a = Sha256::new().chain_update([0; 32]).chain_update(policy_secret).chain_update(endorsement);
        assert_eq!(Sha256::digest(a.finalize())[..], POLICY_A_SHA256);
        let a = Sha384::new().chain_update([0; 48]).chain_update(policy_secret).chain_update(endorsement);
        let a = Sha384::digest(a.finalize());
        let c = [
            0xD6, 0x03, 0x2C, 0xE6, 0x1F, 0x2F, 0xB3, 0xC2, 0x40, 0xEB, 0x3C, 0xF6, 0xA3, 0x32, 0x37, 0xEF,
            0x2B, 0x6A, 0x16, 0xF4, 0x29, 0x3C, 0x22, 0xB4, 0x55, 0xE2, 0x61, 0xCF, 0xFD, 0x21, 0x7A, 0xD5,
            0xB4, 0x94, 0x7C, 0x2D, 0x73, 0xE6, 0x30, 0x05, 0xEE, 0xD2, 0xDC, 0x2B, 0x35, 0x93, 0xD1, 0x65,
        ];
        let b = Sha384::new().chain_update([0; 48]).chain_update(policy_or).chain_update(a).chain_update(c);
        assert_eq!(b.finalize()[..], POLICY_B_SHA384);
    }
}
