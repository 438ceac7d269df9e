//! Laws on reports of real silicon, down to AMD's roots. `HUSK_EVIDENCE_DIR` adds reports to the one that comes with
//! the `sev` crate.

mod support;

use husk::attest::report::{Generation, Tcb};
use husk::seams::REPORT_BYTES;
use husk_evidence::{EvidenceError, Silicon, Vek, VekCertificate, Verifier};
use sev::certs::snp::{Certificate, Chain, Verifiable, builtin, ca};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;
use support::{folder, read, reals, sev_crate_data, verifier};

/// 2026-01-01, in seconds since 1970.
const NEW_YEAR_2026: u64 = 1_767_225_600;

#[test]
fn every_real_report_verifies_down_to_amd_s_root() {
    let verifier = verifier();
    for real in reals() {
        let verified = verifier.verify(&real.report, &real.vek).unwrap();
        assert!(!verified.silicon.is_simulated(), "{}", real.name);
        assert_eq!(verified.dates.len(), 3);
        assert!(verified.current_tcb().covers(verified.reported_tcb()), "{}", real.name);
        println!("evidence: {} is {:?} by {:?}", real.name, verified.silicon, verified.vek.kind());
    }
}

#[test]
fn what_a_real_report_says_is_what_is_known_about_it() {
    let Some(_) = folder() else { return };
    let (verifier, reals) = (verifier(), reals());
    let by_name = |name: &str| reals.iter().find(|real| real.name == name).unwrap();
    let genoa = by_name("oak_genoa_oc.report.bin");
    let genoa = verifier.verify(&genoa.report, &genoa.vek).unwrap();
    assert_eq!(genoa.silicon, Silicon::Amd { generation: Generation::Genoa });
    assert_eq!(genoa.reported_tcb(), Tcb { fmc: None, bootloader: 10, tee: 0, snp: 25, microcode: 84 });
    assert_eq!(genoa.chip(), Some(&genoa.report.chip_id()[..]));
    let vlek = by_name("tr_test-vlek-report.bin");
    let vlek = verifier.verify(&vlek.report, &vlek.vek).unwrap();
    assert_eq!(vlek.vek, Vek::Vlek { csp: "CN=cc-us-east-2.amazonaws.com".to_owned() });
    assert_eq!(vlek.chip(), None);
    assert_eq!(
        vlek.out_of_date(NEW_YEAR_2026).unwrap().name,
        "SEV-VLEK",
        "its certificate ended in December 2025"
    );
    assert_eq!(genoa.out_of_date(NEW_YEAR_2026), None);
}

#[test]
fn a_report_of_a_provider_s_key_needs_the_provider_intermediate() {
    let Some(_) = folder() else { return };
    let reals = reals();
    let vlek = reals.iter().find(|real| real.name.contains("vlek")).unwrap();
    let without = Verifier::new().unwrap();
    let issuer = "SEV-VLEK-Milan".to_owned();
    assert_eq!(without.verify(&vlek.report, &vlek.vek).err(), Some(EvidenceError::UnknownIssuer { issuer }));
}

#[test]
fn every_flipped_bit_of_a_real_report_is_refused() {
    let verifier = verifier();
    for (index, real) in reals().iter().enumerate() {
        let endorsement = verifier.endorse(&real.vek).unwrap();
        // Every bit of the first report, one bit of each byte of the others.
        let bits = if index == 0 { 0..8 } else { 3..4 };
        for (byte, bit) in (0..REPORT_BYTES).flat_map(|byte| bits.clone().map(move |bit| (byte, bit))) {
            let mut report = real.report;
            report[byte] ^= 1 << bit;
            assert!(endorsement.verify(&report).is_err(), "{}: byte {byte:#x}, bit {bit}", real.name);
        }
        assert!(endorsement.verify(&real.report).is_ok());
    }
}

#[test]
fn every_flipped_byte_of_a_real_certificate_is_refused() {
    let verifier = verifier();
    let Some(real) = reals().into_iter().next() else { return };
    for byte in 0..real.vek.len() {
        let mut vek = real.vek.clone();
        vek[byte] ^= 0x01;
        assert!(verifier.endorse(&vek).is_err(), "byte {byte}");
    }
    for length in 0..real.vek.len() {
        assert!(verifier.endorse(&real.vek[..length]).is_err(), "cut at {length}");
    }
}

#[test]
fn a_certificate_of_another_chip_or_kind_is_refused() {
    let (verifier, reals) = (verifier(), reals());
    for (one, other) in reals.iter().flat_map(|one| reals.iter().map(move |other| (one, other))) {
        if one.vek != other.vek {
            assert!(
                verifier.verify(&one.report, &other.vek).is_err(),
                "{} under {}'s key",
                one.name,
                other.name
            );
        }
    }
}

/// The `sev` crate on the same bytes. It knows no ASVK, so the provider's report stays out.
#[test]
fn the_sev_crate_agrees_on_every_real_report() {
    for real in reals().iter().filter(|real| !real.name.contains("vlek")) {
        let (ark, ask) = if real.name.contains("genoa") {
            (builtin::genoa::ark().unwrap(), builtin::genoa::ask().unwrap())
        } else {
            (builtin::milan::ark().unwrap(), builtin::milan::ask().unwrap())
        };
        let chain = Chain { ca: ca::Chain { ark, ask }, vek: Certificate::from_der(&real.vek).unwrap() };
        let theirs = AttestationReport::from_bytes(&real.report).unwrap();
        (&chain, &theirs).verify().unwrap();
        let verifier = verifier();
        let ours = verifier.verify(&real.report, &real.vek).unwrap();
        assert_eq!(theirs.measurement[..], ours.report.measurement()[..], "{}", real.name);
        assert_eq!(theirs.chip_id[..], ours.report.chip_id()[..]);
        assert_eq!(theirs.host_data[..], ours.report.host_data()[..]);
        let tcb = ours.reported_tcb();
        let their_tcb = (theirs.reported_tcb.bootloader, theirs.reported_tcb.tee, theirs.reported_tcb.snp);
        assert_eq!(their_tcb, (tcb.bootloader, tcb.tee, tcb.snp), "{}", real.name);
        assert_eq!((theirs.reported_tcb.microcode, theirs.reported_tcb.fmc), (tcb.microcode, tcb.fmc));
        println!("evidence: the sev crate agrees on {}", real.name);
    }
}

#[test]
fn a_turin_certificate_is_read_and_endorsed() {
    let folder = sev_crate_data();
    let vek = verifier().endorse(&read(&folder.join("vcek_turin.der"))).unwrap();
    let vek = vek.certificate();
    assert_eq!(vek.generation, Generation::Turin);
    assert!(vek.tcb.fmc.is_some(), "Turin has an FMC");
    assert!(matches!(&vek.vek, Vek::Vcek { hwid } if hwid.len() == 8), "Turin's HWID has 8 bytes");
}

#[test]
fn a_hardware_identity_is_read_raw_and_wrapped_but_a_forged_certificate_is_not_endorsed() {
    let Some(folder) = folder() else { return };
    let levels = [("tr_test-vcek-invalid-legacy.der", 0xA9), ("tr_test-vcek-invalid-new.der", 0x1E)];
    for (name, microcode) in levels {
        let der = read(&folder.join(name));
        let vek = VekCertificate::from_der(&der).unwrap();
        let expected: Vec<u8> = (0..64).collect();
        assert_eq!(vek.vek, Vek::Vcek { hwid: expected }, "{name}");
        assert_eq!(vek.tcb.microcode, microcode, "{name}: levels from 0x80 take two bytes");
        assert!(matches!(verifier().endorse(&der), Err(EvidenceError::ChainSignature { .. })), "{name}");
    }
}
