//! What the keys are made from: TPMT_PUBLIC of TPM 2.0 part 2, as TPM2_CreatePrimary takes it.

use husk::engine::EndorsementKey;

/// TPM_ALG_ID of TPM 2.0 part 2.
const RSA: u16 = 0x0001;
const ECC: u16 = 0x0023;
const SHA256: u16 = 0x000B;
const SHA384: u16 = 0x000C;
const AES: u16 = 0x0006;
const CFB: u16 = 0x0043;
const ECDSA: u16 = 0x0018;
pub(crate) const NULL: u16 = 0x0010;
/// TPM_ECC_NIST_P256 and TPM_ECC_NIST_P384.
const NIST_P256: u16 = 0x0003;
const NIST_P384: u16 = 0x0004;

/// TPMA_OBJECT of templates L-1 and L-2, and of H-3 (TCG EK Credential Profile, annex B).
const LOW: u32 = 0x0003_00B2;
const HIGH: u32 = 0x0003_00F2;
/// TPMA_OBJECT of the attestation key: fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign.
const ATTESTING: u32 = 0x0005_0472;

/// PolicyA by SHA-256 and PolicyB by SHA-384 (the same profile, annex "EK policies").
const POLICY_A: &[u8] = b"\x83\x71\x97\x67\x44\x84\xB3\xF8\x1A\x90\xCC\x8D\x46\xA5\xD7\x24\
    \xFD\x52\xD7\x6E\x06\x52\x0B\x64\xF2\xA1\xDA\x1B\x33\x14\x69\xAA";
const POLICY_B: &[u8] = b"\xB2\x6E\x7D\x28\xD1\x1A\x50\xBC\x53\xD8\x82\xBC\xF5\xFD\x3A\x1A\
    \x07\x41\x48\xBB\x35\xD3\xB4\xE4\xCB\x1C\x0A\xD9\xBD\xE4\x19\xCA\
    \xCB\x47\xBA\x09\x69\x96\x46\x15\x0F\x9F\xC0\x00\xF3\xF8\x0E\x12";

/// What the attestation key's `unique` begins with: no other program's key is this one.
const OWN: &[u8] = b"husk runtime attestation";

/// An endorsement key.
pub(crate) fn endorsement(key: EndorsementKey) -> Vec<u8> {
    match key {
        EndorsementKey::Rsa2048 => [
            &head(RSA, SHA256, LOW, POLICY_A)[..],
            &words(&[AES, 128, CFB, NULL, 2048, 0, 0]),
            &sized(&[0; 256]),
        ]
        .concat(),
        EndorsementKey::P256 => {
            let unique = [sized(&[0; 32]), sized(&[0; 32])].concat();
            [head(ECC, SHA256, LOW, POLICY_A), words(&[AES, 128, CFB, NULL, NIST_P256, NULL]), unique]
                .concat()
        }
        EndorsementKey::P384 => {
            let unique = words(&[0, 0]);
            [head(ECC, SHA384, HIGH, POLICY_B), words(&[AES, 256, CFB, NULL, NIST_P384, NULL]), unique]
                .concat()
        }
    }
}

/// The attestation key: ECDSA on P-256, restricted, without authorization. The same template gives the same key in a TPM.
pub(crate) fn attestation() -> Vec<u8> {
    let scheme = words(&[NULL, ECDSA, SHA256, NIST_P256, NULL]);
    [head(ECC, SHA256, ATTESTING, b""), scheme, sized(OWN), sized(b"")].concat()
}

fn head(algorithm: u16, name: u16, attributes: u32, policy: &[u8]) -> Vec<u8> {
    [&words(&[algorithm, name])[..], &attributes.to_be_bytes(), &sized(policy)].concat()
}

fn words(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// A TPM2B. What is put here is shorter than 64 KiB; what were not would be cut, and the TPM would refuse it.
pub(crate) fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&length[..], bytes].concat()
}
