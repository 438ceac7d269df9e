//! What the attestation key is made from: TPMT_PUBLIC of TPM 2.0 part 2, as TPM2_CreatePrimary takes it. The endorsement keys' templates are the component's.

/// TPM_ALG_ID of TPM 2.0 part 2.
const ECC: u16 = 0x0023;
const SHA256: u16 = 0x000B;
const ECDSA: u16 = 0x0018;
pub(crate) const NULL: u16 = 0x0010;
/// TPM_ECC_NIST_P256.
const NIST_P256: u16 = 0x0003;

/// TPMA_OBJECT of the attestation key: fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign.
const ATTESTING: u32 = 0x0005_0472;

/// What the attestation key's `unique` begins with: no other program's key is this one.
const OWN: &[u8] = b"husk runtime attestation";

/// The attestation key: ECDSA on P-256, restricted, without authorization. The same template gives the same key in a TPM.
pub(crate) fn attestation() -> Vec<u8> {
    let scheme = words(&[NULL, ECDSA, SHA256, NIST_P256, NULL]);
    let head = [&words(&[ECC, SHA256])[..], &ATTESTING.to_be_bytes(), &sized(b"")].concat();
    [head, scheme, sized(OWN), sized(b"")].concat()
}

fn words(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// A TPM2B. What is put here is shorter than 64 KiB; what were not would be cut, and the TPM would refuse it.
pub(crate) fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&length[..], bytes].concat()
}
