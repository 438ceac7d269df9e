//! Laws of endorsement keys' certificates (TCG EK Credential Profile, chapter 3; RFC 5280): what swtpm's local authority issued for the keys of a real
//! engine verifies, and no byte of it can change. `tests/data/tpm/README.md` says how the files came to be.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use husk::engine::EndorsementKey;
use husk_evidence::{EkAuthorities, EkCertificate, EndorsementPublic, EvidenceError, is_ek_certificate};
use std::path::PathBuf;

/// Some day of 2027.
const NOW: u64 = 1_800_000_000;
const KINDS: [&str; 3] = ["rsa2048", "p256", "p384"];

fn golden(folder: &str, name: &str) -> Vec<u8> {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data");
    std::fs::read(data.join(folder).join(name)).unwrap()
}

fn certificate(kind: &str) -> Vec<u8> {
    golden("tpm", &format!("ek-{kind}.der"))
}

fn authorities() -> EkAuthorities {
    let authorities = EkAuthorities::new(&golden("tpm", "root.pem")).unwrap();
    authorities.with_intermediates(&golden("tpm", "issuer.pem")).unwrap()
}

/// The keys that were certified, in the order of [`KINDS`].
fn keys() -> [EndorsementPublic; 3] {
    let bytes = golden("svsm", "keys-of-libtpms-0.09.bin");
    let (rsa, rest) = bytes.split_at(314);
    let (p256, p384) = rest.split_at(122);
    let all = EndorsementKey::ALL;
    [(all[0], rsa), (all[1], p256), (all[2], p384)]
        .map(|(key, public)| EndorsementPublic::parse(key, public).unwrap())
}

#[test]
fn what_an_authority_issued_is_verified_and_says_which_tpm() {
    for (kind, key) in KINDS.iter().zip(keys()) {
        let verified = authorities().verify(&certificate(kind), NOW).unwrap();
        let said = verified.certificate();
        assert_eq!(
            (said.kind().as_str(), &said.manufacturer, said.model.as_str()),
            (*kind, b"IBM\0", "Husk")
        );
        assert_eq!((said.version.as_str(), said.issuer.as_str()), ("20191023", "CN=swtpm-localca"));
        assert_eq!(said.certifies(&key), Ok(()));
        for other in keys().iter().filter(|other| **other != key) {
            assert_eq!(said.certifies(other), Err(EvidenceError::OtherEndorsementKey), "{kind}");
        }
    }
}

#[test]
fn every_flipped_byte_is_refused() {
    let authorities = authorities();
    for kind in KINDS {
        let honest = certificate(kind);
        assert!(authorities.verify(&honest, NOW).is_ok(), "{kind}");
        for (byte, bit) in support::bits(honest.len()) {
            let mut other = honest.clone();
            other[byte] ^= 1 << bit;
            assert!(authorities.verify(&other, NOW).is_err(), "{kind}: byte {byte:#x}, bit {bit}");
        }
    }
}

#[test]
fn what_is_cut_or_has_a_tail_is_refused() {
    let authorities = authorities();
    for kind in KINDS {
        let honest = certificate(kind);
        assert!(
            (0..honest.len()).all(|length| authorities.verify(&honest[..length], NOW).is_err()),
            "{kind}"
        );
        assert!(authorities.verify(&[&honest[..], &[0]].concat(), NOW).is_err(), "{kind} with a tail");
    }
}

#[test]
fn nobody_but_a_named_root_vouches_and_only_within_the_dates() {
    let der = certificate("rsa2048");
    let chain = |verdict: Result<_, EvidenceError>| match verdict {
        Err(EvidenceError::EkChain { why }) => why,
        other => panic!("{other:?}"),
    };
    let alone = EkAuthorities::new(&golden("tpm", "root.pem")).unwrap();
    assert!(chain(alone.verify(&der, NOW)).contains("UnknownIssuer"), "without the intermediate");
    assert!(EkAuthorities::new(&golden("tpm", "issuer.pem")).unwrap().verify(&der, NOW).is_ok());
    assert!(chain(authorities().verify(&der, 1_000_000_000)).contains("NotValidYet"), "in 2001");
    assert!(chain(authorities().verify(&der, 300_000_000_000)).contains("Expired"), "beyond 9999");
    for (bytes, what) in [
        (&b""[..], "nothing"),
        (b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "no certificate"),
    ] {
        assert!(matches!(EkAuthorities::new(bytes), Err(EvidenceError::BadAuthority(_))), "{what}");
    }
}

#[test]
fn other_certificates_are_not_taken_for_one() {
    use x509_cert::der::pem;
    let (_, root) = pem::decode_vec(&golden("tpm", "root.pem")).unwrap();
    assert!(!is_ek_certificate(&root) && is_ek_certificate(&certificate("p384")));
    assert!(matches!(EkCertificate::parse(&root), Err(EvidenceError::BadEkCertificate(_))));
    assert!(matches!(EkCertificate::parse(&[]), Err(EvidenceError::BadEkCertificate(_))));
}
