//! What `husk-evidence` says of reports that are well signed but do not agree with their certificate, or say what no
//! recorded report says. Only a simulated processor can make them.

use husk::attest::report::{Layout, PlatformInfo, Policy, ReportDefect};
use husk::seams::{REPORT_BYTES, Reporter};
use husk_evidence::{EvidenceError, Vek, Verifier};
use husk_psp::{Identity, LocalGuest, Processor, PspReporter};

const POLICY: u64 = Policy::RESERVED_ONE.union(Policy::SMT).bits();

/// A chip, and a report of it that is as it should be.
struct Chip {
    identity: Identity,
    verifier: Verifier,
    report: Layout,
}

impl Chip {
    #[expect(clippy::unwrap_used, reason = "a helper of tests")]
    fn new() -> Self {
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
        Self { identity, verifier, report: zerocopy::transmute!(report) }
    }

    /// The verdict on the report after `change`, signed again.
    #[expect(clippy::unwrap_used, reason = "a helper of tests")]
    fn verdict(&self, change: impl FnOnce(&mut Layout)) -> Result<Vek, EvidenceError> {
        let mut report = self.report;
        change(&mut report);
        self.identity.sign(&mut report).unwrap();
        let raw: [u8; REPORT_BYTES] = zerocopy::transmute!(report);
        self.verifier.verify(&raw, self.identity.certificate()).map(|verified| verified.vek)
    }
}

#[test]
fn every_patch_level_must_be_the_certificate_s() {
    let chip = Chip::new();
    assert!(chip.verdict(|_| {}).is_ok());
    for part in [0, 1, 6, 7] {
        let verdict = chip.verdict(|report| report.reported_tcb[part] ^= 1);
        assert_eq!(verdict.err(), Some(EvidenceError::WrongTcb), "byte {part}");
    }
    assert!(
        chip.verdict(|report| report.current_tcb[7] += 1).is_ok(),
        "what runs may be newer than what is reported"
    );
}

#[test]
fn the_chip_must_be_the_certificate_s_or_masked() {
    let chip = Chip::new();
    for byte in 0..64 {
        let verdict = chip.verdict(|report| report.chip_id[byte] ^= 1);
        assert_eq!(verdict.err(), Some(EvidenceError::WrongChip), "byte {byte}");
    }
    let masked = chip.verdict(|report| report.chip_id = [0; 64]).unwrap();
    assert_eq!(
        masked,
        Vek::Vcek { hwid: chip.identity.hwid().to_vec() },
        "the certificate still names the chip"
    );
}

#[test]
fn the_key_must_be_the_one_that_the_report_names() {
    let chip = Chip::new();
    let with_flags = |flags| chip.verdict(|report| report.key_flags.set(flags)).err();
    assert_eq!(with_flags(0b10), Some(EvidenceError::Masked));
    assert_eq!(with_flags(7 << 2), Some(EvidenceError::NotSigned));
    let wrong = EvidenceError::WrongKind { report: "VLEK", certificate: "VCEK" };
    assert_eq!(with_flags(1 << 2), Some(wrong));
    assert_eq!(with_flags(2 << 2), Some(EvidenceError::Malformed(ReportDefect::KeyFlags)));
    assert_eq!(with_flags(1), None, "an author key is no matter of the signature");
}

#[test]
fn the_product_must_be_the_certificate_s() {
    let chip = Chip::new();
    for cpuid in [[0x19, 0x01, 0], [0x1A, 0x02, 0], [0x19, 0x50, 0], [0, 0, 0], [0xFF, 0xFF, 0xFF]] {
        let verdict = chip.verdict(|report| report.cpuid = cpuid);
        assert!(matches!(verdict, Err(EvidenceError::WrongProduct { .. })), "{cpuid:x?}");
    }
    assert!(
        chip.verdict(|report| report.cpuid = [0x19, 0xA0, 2]).is_ok(),
        "another model of the same product"
    );
    let before_cpuid = |report: &mut Layout| {
        report.version.set(2);
        report.cpuid = [0; 3];
        report.launch_mit_vector.set(0);
        report.current_mit_vector.set(0);
    };
    assert!(chip.verdict(before_cpuid).is_ok(), "version 2 names no CPU: the certificate says");
}

#[test]
fn what_the_signature_covers_and_policy_decides_is_let_through() {
    let chip = Chip::new();
    assert!(chip.verdict(|report| report.platform_info.set(u64::MAX)).is_ok(), "unknown platform bits");
    assert!(chip.verdict(|report| report.policy.set(POLICY | Policy::DEBUG.bits())).is_ok());
    assert!(chip.verdict(|report| report.vmpl.set(3)).is_ok());
    let info = PlatformInfo::from_bits_retain(chip.report.platform_info.get());
    assert!(info.contains(PlatformInfo::ALIAS_CHECK_COMPLETE), "as a broker demands of new silicon");
}

#[test]
fn every_flipped_bit_of_a_simulated_report_is_refused() {
    let chip = Chip::new();
    let endorsement = chip.verifier.endorse(chip.identity.certificate()).unwrap();
    let mut report: [u8; REPORT_BYTES] = zerocopy::transmute!(chip.report);
    assert!(endorsement.verify(&report).is_ok());
    for (byte, bit) in (0..REPORT_BYTES).map(|byte| (byte, byte % 8)) {
        report[byte] ^= 1 << bit;
        assert!(endorsement.verify(&report).is_err(), "byte {byte:#x}, bit {bit}");
        report[byte] ^= 1 << bit;
    }
}
