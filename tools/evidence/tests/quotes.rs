//! Laws of quotes (TPM 2.0 part 2, TPMS_ATTEST and TPMT_SIGNATURE): what tpm2-tools 5.4 wrote about a TPM of libtpms 0.9 verifies, and
//! no byte of it can change. `tests/data/tpm/README.md` says how the files came to be.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use husk::engine::EndorsementKey;
use husk_evidence::{
    AttestationKey, EndorsementPublic, EvidenceError, Hash, Quote, QuoteSignature, VerifiedQuote,
};
use proptest::prelude::*;
use std::path::PathBuf;

const NONCE: [u8; 4] = [0x0B, 0xAD, 0xC0, 0xDE];
/// Banks and their PCRs.
type Banks = &'static [(Hash, &'static [u8])];

/// Name, key, banks.
const KINDS: [(&str, &str, Banks); 4] = [
    ("rsassa", "rsa2048", &[(Hash::Sha256, &[0, 23])]),
    ("rsapss", "rsa2048", &[(Hash::Sha256, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 23])]),
    ("p256", "p256", &[(Hash::Sha1, &[0, 1]), (Hash::Sha256, &[0, 23])]),
    ("p384", "p384", &[(Hash::Sha256, &[0, 1, 2, 3, 4, 5, 6, 7]), (Hash::Sha384, &[0, 23])]),
];

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tpm").join(name)).unwrap()
}

/// The four files of a quote.
#[derive(Clone)]
struct Files([Vec<u8>; 4]);

const NAMES: [&str; 4] = ["quote", "signature", "ak", "pcrs"];

impl Files {
    fn of(kind: &str) -> Self {
        Self(NAMES.map(|name| golden(&format!("{kind}.{name}"))))
    }

    /// Everything that a relying party looks at.
    fn judge(&self) -> Result<VerifiedQuote, EvidenceError> {
        let [quote, signature, key, pcrs] = &self.0;
        let (signature, key) = (QuoteSignature::parse(signature)?, AttestationKey::parse(key)?);
        let quote = Quote::parse(quote)?.verify(&signature, &key)?;
        quote.answers(&NONCE)?;
        quote.pcrs(pcrs)?;
        Ok(quote)
    }
}

#[test]
fn what_tpm2_quote_writes_is_verified_and_says_what_was_asked() {
    for (kind, key, banks) in KINDS {
        let files = Files::of(kind);
        let verified = files.judge().unwrap();
        assert_eq!(verified.key().kind(), key, "{kind}");
        let selected: Vec<_> =
            verified.quote().selection.iter().map(|bank| (bank.hash, &bank.pcrs[..])).collect();
        assert_eq!(selected, banks, "{kind}");
        let values = verified.pcrs(&files.0[3]).unwrap();
        assert!(values.iter().all(|value| value.value.len() == value.hash.bytes()), "{kind}");
        // The other format: values alone.
        let plain: Vec<u8> = values.iter().flat_map(|value| value.value.clone()).collect();
        assert_eq!(verified.pcrs(&plain).unwrap(), values, "{kind}");
        // PCR 0 of a TPM that was started without firmware; PCR 23 was extended.
        assert_eq!((values[0].pcr, values[0].value.iter().all(|byte| *byte == 0)), (0, true), "{kind}");
    }
    let extended = Files::of("rsassa");
    let extended = extended.judge().unwrap().pcrs(&extended.0[3]).unwrap();
    let once = "ee4b0e933b56cdf12a42b1e3f3b9ed1aa70cf9f3cf37325693255c8bfbcb8ba8";
    assert_eq!(hex::encode(&extended[1].value), once, "SHA-256 of 32 zeros and 32 times 22");
}

/// Of a key's public area some bits say nothing about signing; they are part of its name.
#[test]
fn every_flipped_byte_is_refused_or_makes_another_key() {
    for (kind, ..) in KINDS {
        let honest = Files::of(kind);
        let name = honest.judge().unwrap().key().name().map(<[u8]>::to_vec);
        for (which, file) in NAMES.iter().enumerate() {
            for (byte, bit) in support::bits(honest.0[which].len()) {
                let mut files = honest.clone();
                files.0[which][byte] ^= 1 << bit;
                let refused = match files.judge() {
                    Err(_) => true,
                    Ok(verified) => *file == "ak" && verified.key().name() != name.as_deref(),
                };
                assert!(refused, "{kind}: {file}, byte {byte:#x}, bit {bit}");
            }
        }
    }
}

#[test]
fn what_is_cut_or_has_a_tail_is_refused() {
    for (kind, ..) in KINDS {
        let honest = Files::of(kind);
        for (which, name) in NAMES.iter().enumerate() {
            for length in 0..honest.0[which].len() {
                let mut files = honest.clone();
                files.0[which].truncate(length);
                assert!(files.judge().is_err(), "{kind}: {name} cut at {length}");
            }
            let mut files = honest.clone();
            files.0[which].push(0);
            assert!(files.judge().is_err(), "{kind}: {name} with a tail");
        }
    }
}

#[test]
fn parts_of_different_quotes_do_not_go_together() {
    for (one, other) in [("rsassa", "rsapss"), ("rsassa", "p256"), ("p256", "p384"), ("p384", "p256")] {
        for (which, name) in NAMES.iter().enumerate().take(3) {
            let mut files = Files::of(one);
            files.0[which] = Files::of(other).0[which].clone();
            assert!(files.judge().is_err(), "{one} with the {name} of {other}");
        }
    }
    let verified = Files::of("rsassa").judge().unwrap();
    assert_eq!(verified.answers(&[0x0B, 0xAD, 0xC0, 0xDF]), Err(EvidenceError::QuoteNonce));
    assert_eq!(verified.answers(&[]), Err(EvidenceError::QuoteNonce));
    let other = verified.pcrs(&Files::of("p256").0[3]);
    assert!(matches!(other, Err(EvidenceError::QuotePcrs(_))));
}

/// TPMA_OBJECT lies at offset 6 of a TPM2B_PUBLIC, big-endian.
#[test]
fn a_key_that_may_sign_what_no_tpm_made_is_no_attestation_key() {
    let public = golden("rsassa.ak");
    let attributes = u32::from_be_bytes(public[6..10].try_into().unwrap());
    for (bit, what) in [
        (1, "fixedTPM"),
        (4, "fixedParent"),
        (5, "sensitiveDataOrigin"),
        (16, "restricted"),
        (17, "decrypt"),
        (18, "sign"),
    ] {
        let mut other = public.clone();
        other[6..10].copy_from_slice(&(attributes ^ 1 << bit).to_be_bytes());
        let refused = AttestationKey::parse(&other);
        assert!(matches!(refused, Err(EvidenceError::BadAttestationKey(_))), "{what}");
    }
}

#[test]
fn a_key_in_pem_verifies_and_has_no_name() {
    let mut files = Files::of("rsassa");
    let name = files.judge().unwrap().key().name().map(<[u8]>::to_vec);
    assert_eq!(name.unwrap()[..2], [0, 0x0B]);
    // Without the length in front it is the same.
    files.0[2] = golden("rsassa.ak")[2..].to_vec();
    assert!(files.judge().unwrap().key().name().is_some());
    files.0[2] = golden("rsassa.pem");
    let verified = files.judge().unwrap();
    assert_eq!((verified.key().kind().as_str(), verified.key().name()), ("rsa2048", None));
    let ek = EndorsementPublic::parse(EndorsementKey::P384, &golden("p384.ek")[2..]).unwrap();
    assert_eq!(verified.says_child_of(&ek), None, "nothing to say it by");
}

/// TPM 2.0 part 1, "Names": the qualified name of a child of an endorsement key.
#[test]
fn a_key_made_under_an_endorsement_key_says_so() {
    let ek = EndorsementPublic::parse(EndorsementKey::P384, &golden("p384.ek")[2..]).unwrap();
    assert_eq!(Files::of("p384").judge().unwrap().says_child_of(&ek), Some(true));
    assert_eq!(Files::of("p256").judge().unwrap().says_child_of(&ek), Some(false));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_surprise_the_readers(
        kind in 0..4_usize, which in 0..4_usize,
        edits in prop::collection::vec((0..700_usize, any::<u8>()), 1..8), length in 0..1300_usize,
    ) {
        let mut files = Files::of(KINDS[kind].0);
        for (at, byte) in edits {
            if let Some(place) = files.0[which].get_mut(at) {
                *place = byte;
            }
        }
        files.0[which].truncate(length);
        // Either is fine; a panic is not.
        let said = files.judge().map(|verified| verified.quote().clone());
        prop_assert!(said.is_err() || said.is_ok());
    }
}
