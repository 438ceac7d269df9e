//! Attestation reports and the certificates of the keys that sign them.

use crate::input::{Input, sized};
use husk::attest::report::{Generation, Layout, Policy, Report, Tcb};
use husk::seams::{REPORT_BYTES, Reporter};
use husk_evidence::{Certificate, RevocationList, VekCertificate, Verifier};
use husk_psp::{Identity, LocalGuest, Processor, PspReporter, Revocations};
use std::sync::OnceLock;

const POLICY: u64 = Policy::RESERVED_ONE.union(Policy::SMT).bits();

/// A simulated chip, one honest report of it, and a verifier that was told to accept it.
struct Chip {
    identity: Identity,
    verifier: Verifier,
    report: [u8; REPORT_BYTES],
}

fn chip() -> &'static Chip {
    static CHIP: OnceLock<Chip> = OnceLock::new();
    CHIP.get_or_init(|| {
        let identity = Identity::published(0).unwrap();
        let mut counter = 0;
        let entropy = Box::new(move |into: &mut [u8]| {
            counter += 1;
            into.fill(counter);
            Ok(())
        });
        let processor = Processor::shared(identity.clone(), entropy);
        let (guest, secrets) = LocalGuest::launch(&processor, &[1], &[2; 32], POLICY).unwrap();
        let mut report = [0; REPORT_BYTES];
        PspReporter::new(guest, secrets, Vec::new()).report(&[3; 64], &mut report).unwrap();
        let chain = identity.chain_pem().unwrap();
        let verifier = Verifier::new().unwrap().accept_simulated(chain.as_bytes()).unwrap();
        Chip { identity, verifier, report }
    })
}

/// How a report comes to be, then its bytes: as they are, over an honest one, or signed again after that.
pub(crate) fn report(data: &[u8]) {
    let chip = chip();
    let mut input = Input::new(data);
    let what = input.byte();
    let mut raw = if what & 1 == 0 { chip.report } else { [0; REPORT_BYTES] };
    while !input.is_over() {
        let at = usize::from(input.short()) % REPORT_BYTES;
        raw[at..].iter_mut().zip(input.sized()).for_each(|(to, from)| *to = *from);
    }
    let signed_again = what & 2 == 2;
    if signed_again {
        let mut layout: Layout = zerocopy::transmute!(raw);
        chip.identity.sign(&mut layout).unwrap();
        raw = zerocopy::transmute!(layout);
    }
    if let Ok(report) = Report::parse(&raw) {
        look_at(&report);
    }
    if let Ok(verified) = chip.verifier.verify(&raw, chip.identity.certificate()) {
        assert!(verified.silicon.is_simulated());
        // The signature covers all but itself and what follows it; of those, only zeros have a meaning.
        assert!(
            signed_again || raw[..0x2A0] == chip.report[..0x2A0],
            "the signature holds for something else"
        );
    }
}

fn look_at(report: &Report<'_>) {
    assert_eq!(report.signed(), &report.raw()[..report.signed().len()]);
    let generation = report.generation().unwrap_or(Generation::Milan);
    for bytes in [report.reported_tcb(), report.committed_tcb(), report.launch_tcb(), report.current_tcb()] {
        let tcb = Tcb::from_bytes(bytes, generation);
        assert!(tcb.covers(tcb));
    }
    let numbers = (report.version(), report.guest_svn(), report.vmpl(), report.policy().abi());
    let switches = (report.author_key_enabled(), report.chip_key_masked(), report.signing_key());
    let newer =
        (report.cpuid(), report.launch_mit_vector(), report.current_mit_vector(), report.platform_info());
    assert!(!format!("{numbers:?} {switches:?} {newer:?} {:?}", report.signature()).is_empty());
}

pub(crate) fn report_seeds() -> Vec<Vec<u8>> {
    let patch = |at: u16, bytes: &[u8]| [&at.to_le_bytes()[..], &sized(bytes)].concat();
    let honest = chip().report;
    let mut seeds = vec![vec![0], [&[1][..], &patch(0, &honest)].concat()];
    // Version, policy, VMPL, algorithm, TCBs, key flags, CPUID, chip.
    for at in [0x00u16, 0x08, 0x30, 0x34, 0x38, 0x48, 0x180, 0x188, 0x1A0, 0x1E0, 0x1F0, 0x2A0, 0x330] {
        for what in [0, 2] {
            seeds.push([&[what][..], &patch(at, &[1, 0])].concat());
        }
    }
    seeds
}

/// A certificate, in DER or as part of a PEM bundle, or a revocation list.
pub(crate) fn certificate(data: &[u8]) {
    let chip = chip();
    if let Ok(certificate) = Certificate::from_der(data, "a certificate of the fuzzer") {
        let dates = certificate.dates();
        assert!(dates.name == certificate.subject() && certificate.key_sha256().is_ok());
        certificate.is_signed_by(&certificate).ok();
    }
    VekCertificate::from_der(data).ok();
    if let Ok(list) = RevocationList::parse(data) {
        assert!(!list.number().is_empty() && list.succeeds(&list));
        let believed = chip.verifier.clone().with_revocations(data).is_ok();
        assert!(!believed || list.der() == a_list().as_slice(), "a list that nobody signed");
    }
    if let Ok(bundle) = Certificate::from_pem_bundle(data, "a bundle of the fuzzer") {
        assert!(!bundle.is_empty());
    }
    if chip.verifier.verify(&chip.report, data).is_ok() {
        assert!(data == chip.identity.certificate(), "a certificate that nobody signed");
    }
}

/// A list of the published root's.
fn a_list() -> Vec<u8> {
    let what = Revocations {
        number: 300,
        dates: (1_700_000_000, 1_800_000_000),
        own: vec![2],
        of_intermediate: vec![0],
    };
    Identity::published_revocations(&what).unwrap_or_default()
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let identity = &chip().identity;
    let chain = identity.chain_pem().unwrap();
    let end = "-----END CERTIFICATE-----";
    let pems = chain.split_inclusive(end).filter(|pem| pem.ends_with(end));
    let mut seeds: Vec<Vec<u8>> = pems.map(|pem| pem.as_bytes().to_vec()).collect();
    seeds.push(identity.certificate().to_vec());
    seeds.push(a_list());
    seeds.push(b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----".to_vec());
    seeds
}
