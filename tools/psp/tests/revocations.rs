//! Laws of revocation lists, on lists of the published simulated root: signature, order, what they revoke.
#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

use husk_evidence::{EvidenceError, RevocationList, Verifier};
use husk_psp::{Identity, Revocations};

const DATES: (u64, u64) = (1_700_000_000, 1_800_000_000);
const ROOT: &str = "ARK-Husk-Simulated-Published";

fn list(number: u32, own: &[u32], of_intermediate: &[u32]) -> Vec<u8> {
    let what =
        Revocations { number, dates: DATES, own: own.to_vec(), of_intermediate: of_intermediate.to_vec() };
    Identity::published_revocations(&what).unwrap()
}

fn verifier() -> Verifier {
    let chain = Identity::published(0).unwrap().chain_pem().unwrap();
    Verifier::new().unwrap().accept_simulated(chain.as_bytes()).unwrap()
}

#[test]
fn what_a_root_revoked_is_refused_by_name() {
    let chip = Identity::published(0).unwrap();
    // The published intermediate has serial number 2, every VCEK 0, as AMD's have.
    for (own, of_intermediate, refused) in [
        (&[][..], &[][..], None),
        (&[1, 3], &[1], None),
        (&[2], &[], Some("SEV-Husk-Simulated-Published")),
        (&[], &[7, 0], Some("SEV-VCEK")),
        (&[0], &[], None),
        (&[], &[2], None),
    ] {
        let verdict = verifier().with_revocations(&list(1, own, of_intermediate)).unwrap();
        let verdict = verdict.endorse(chip.certificate()).map(drop);
        let expected = refused.map(|name| EvidenceError::Revoked { name: name.into(), issuer: ROOT.into() });
        assert_eq!(verdict.err(), expected, "{own:?} {of_intermediate:?}");
    }
}

#[test]
fn an_older_list_never_takes_a_newer_ones_place() {
    let known = verifier().with_revocations(&list(300, &[], &[])).unwrap();
    for number in [0, 1, 255, 299] {
        let older = EvidenceError::OlderList { issuer: ROOT.into() };
        assert_eq!(known.clone().with_revocations(&list(number, &[], &[])).err(), Some(older), "{number}");
    }
    let same = known.clone().with_revocations(&list(300, &[2], &[]));
    assert!(same.is_err(), "the same number with another content");
    assert!(known.clone().with_revocations(&list(300, &[], &[])).is_ok(), "the same list again");
    assert!(known.clone().with_revocations(&list(301, &[], &[])).is_ok());
    let back =
        Revocations { number: 302, dates: (DATES.0 - 1, DATES.1), own: vec![], of_intermediate: vec![] };
    let back = Identity::published_revocations(&back).unwrap();
    assert!(known.with_revocations(&back).is_err(), "a higher number, but an earlier date");
}

#[test]
fn a_list_that_no_root_signed_as_it_is_counts_for_nothing() {
    let whole = list(1, &[2], &[0]);
    let parsed = RevocationList::parse(&whole).unwrap();
    assert_eq!((parsed.issuer(), parsed.number(), parsed.revoked()), (ROOT, &[1][..], 2));
    assert_eq!((parsed.dates().not_before, parsed.dates().not_after), DATES);
    let believing = verifier();
    for byte in 0..whole.len() {
        let mut altered = whole.clone();
        altered[byte] ^= 1;
        assert!(believing.clone().with_revocations(&altered).is_err(), "byte {byte}");
    }
    for cut in [0, 1, whole.len() - 1] {
        assert!(RevocationList::parse(&whole[..cut]).is_err(), "{cut}");
    }
    let stranger = Verifier::new().unwrap().with_revocations(&whole).err();
    assert_eq!(stranger, Some(EvidenceError::UnknownIssuer { issuer: ROOT.into() }));
}
