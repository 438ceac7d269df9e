//! Laws of the report's layout, on reports made here and, where `HUSK_EVIDENCE_DIR` names a folder, on real ones.

use husk::attest::report::{
    Generation, Layout, Policy, Report, ReportDefect, SIGNATURE_ALGO_ECDSA_P384_SHA384, SIGNED_BYTES,
    SigningKey, Tcb,
};
use husk::seams::REPORT_BYTES;
use std::io::Write;
use zerocopy::FromZeros;

fn minimal(version: u32) -> Layout {
    let mut layout = Layout::new_zeroed();
    layout.version.set(version);
    layout.policy.set((Policy::RESERVED_ONE | Policy::SMT).bits());
    layout.signature_algo.set(SIGNATURE_ALGO_ECDSA_P384_SHA384);
    if version >= 3 {
        layout.cpuid = [0x19, 0x01, 0x01];
    }
    layout
}

fn raw(layout: &Layout) -> [u8; REPORT_BYTES] {
    zerocopy::transmute!(*layout)
}

fn defect(layout: &Layout) -> Option<ReportDefect> {
    Report::parse(&raw(layout)).err()
}

#[test]
fn versions_two_to_five_are_read_and_no_other() {
    for version in 0..=255 {
        let expected = if (2..=5).contains(&version) { None } else { Some(ReportDefect::Version) };
        assert_eq!(defect(&minimal(version)), expected, "version {version}");
    }
}

/// Which bits of a minimal report may be set without breaking a rule, byte by byte, written down a second time from
/// the table: ranges of offsets that are free, and for the rest the mask of free bits.
fn free_bits(version: u32, offset: usize) -> u8 {
    let free = [
        0x004..0x008, // GUEST_SVN
        0x010..0x034, // FAMILY_ID, IMAGE_ID, VMPL
        0x038..0x048, // CURRENT_TCB, PLATFORM_INFO
        0x050..0x188, // REPORT_DATA to REPORTED_TCB
        0x1A0..0x1EB, // CHIP_ID, COMMITTED_TCB, CURRENT firmware
        0x1EC..0x1EF, // COMMITTED firmware
        0x1F0..0x1F8, // LAUNCH_TCB
        0x2A0..0x2D0, // r
        0x2E8..0x318, // s
    ];
    let only_3 = version >= 3 && (0x188..0x18B).contains(&offset);
    let only_5 = version >= 5 && (0x1F8..0x208).contains(&offset);
    if free.iter().any(|range| range.contains(&offset)) || only_3 || only_5 {
        return 0xFF;
    }
    match offset {
        0x008 | 0x009 => 0xFF, // POLICY: ABI
        0x00A => !0x02,        // bit 17 must stay one
        0x00B => 0x03,         // bits 24, 25
        0x048 => 0x07,         // AUTHOR_KEY_EN, MASK_CHIP_KEY, SIGNING_KEY 1
        _ => 0,
    }
}

#[test]
fn every_flipped_bit_of_a_report_breaks_a_rule_exactly_where_the_table_says() {
    for version in 2..=5 {
        let good = raw(&minimal(version));
        // VERSION itself is the test above; the first four bytes are left alone.
        for offset in 4..REPORT_BYTES {
            for bit in 0..8 {
                let mut bytes = good;
                bytes[offset] ^= 1 << bit;
                let allowed = free_bits(version, offset) & (1 << bit) != 0;
                let parsed = Report::parse(&bytes);
                assert_eq!(
                    parsed.is_ok(),
                    allowed,
                    "version {version}, byte {offset:#x}, bit {bit}: {parsed:?}"
                );
            }
        }
    }
}

#[test]
fn reserved_signing_keys_are_refused() {
    for number in 0..8u32 {
        let mut layout = minimal(5);
        layout.key_flags.set(number << 2);
        match number {
            0 | 1 | 7 => assert_eq!(defect(&layout), None),
            _ => assert_eq!(defect(&layout), Some(ReportDefect::KeyFlags)),
        }
    }
    let mut layout = minimal(5);
    layout.key_flags.set(0b1_1111);
    let bytes = raw(&layout);
    let report = Report::parse(&bytes).unwrap();
    assert!(report.author_key_enabled() && report.chip_key_masked());
    assert_eq!(report.signing_key(), SigningKey::None);
}

#[test]
fn fields_lie_where_the_table_puts_them() {
    let mut bytes = raw(&minimal(5));
    // Every free field carries its own offset, so that a shifted field shows.
    for range in [0x050..0x180, 0x1A0..0x1E0] {
        for offset in range {
            bytes[offset] = offset.wrapping_mul(31).to_le_bytes()[0];
        }
    }
    for (offset, value) in
        [(0x038, 1), (0x180, 2), (0x1E0, 3), (0x1F0, 4), (0x1F8, 5), (0x200, 6), (0x004, 7), (0x030, 2)]
    {
        bytes[offset] = value;
    }
    let report = Report::parse(&bytes).unwrap();
    assert_eq!(report.report_data()[..], bytes[0x050..0x090]);
    assert_eq!(report.measurement()[..], bytes[0x090..0x0C0]);
    assert_eq!(report.host_data()[..], bytes[0x0C0..0x0E0]);
    assert_eq!(report.id_key_digest()[..], bytes[0x0E0..0x110]);
    assert_eq!(report.author_key_digest()[..], bytes[0x110..0x140]);
    assert_eq!(report.report_id()[..], bytes[0x140..0x160]);
    assert_eq!(report.report_id_ma()[..], bytes[0x160..0x180]);
    assert_eq!(report.chip_id()[..], bytes[0x1A0..0x1E0]);
    assert_eq!(report.current_tcb()[0], 1);
    assert_eq!(report.reported_tcb()[0], 2);
    assert_eq!(report.committed_tcb()[0], 3);
    assert_eq!(report.launch_tcb()[0], 4);
    assert_eq!((report.launch_mit_vector(), report.current_mit_vector()), (Some(5), Some(6)));
    assert_eq!((report.guest_svn(), report.vmpl()), (7, 2));
    assert_eq!(report.signed(), &bytes[..SIGNED_BYTES]);
    assert_eq!(report.generation(), Some(Generation::Milan));
}

#[test]
fn a_tcb_is_compared_part_by_part_in_its_generation_s_layout() {
    let bytes = [1, 2, 3, 4, 0, 0, 7, 8];
    let milan = Tcb::from_bytes(&bytes, Generation::Milan);
    assert_eq!(milan, Tcb { fmc: None, bootloader: 1, tee: 2, snp: 7, microcode: 8 });
    let turin = Tcb::from_bytes(&bytes, Generation::Turin);
    assert_eq!(turin, Tcb { fmc: Some(1), bootloader: 2, tee: 3, snp: 4, microcode: 8 });
    assert_eq!(Tcb::from_bytes(&turin.to_bytes(), Generation::Turin), turin);
    assert_eq!(Tcb::from_bytes(&milan.to_bytes(), Generation::Milan), milan);
    for part in [0, 1, 6, 7] {
        let mut lower = milan.to_bytes();
        lower[part] -= 1;
        let lower = Tcb::from_bytes(&lower, Generation::Milan);
        assert!(milan.covers(lower) && !lower.covers(milan), "part {part}");
    }
    assert!(!milan.covers(turin), "a chip without an FMC does not cover a floor that names one");
}

#[test]
fn the_signature_is_turned_big_endian() {
    let mut layout = minimal(3);
    layout.signature_r[0] = 0x11;
    layout.signature_r[47] = 0x22;
    layout.signature_s[0] = 0x33;
    let bytes = raw(&layout);
    let signature = Report::parse(&bytes).unwrap().signature();
    assert_eq!((signature[47], signature[0], signature[95], signature[48]), (0x11, 0x22, 0x33, 0));
}

#[test]
fn real_reports_parse() {
    let Some(folder) = std::env::var_os("HUSK_EVIDENCE_DIR") else {
        writeln!(
            std::io::stderr(),
            "evidence: not tried: HUSK_EVIDENCE_DIR is unset, so no real report was parsed"
        )
        .unwrap();
        return;
    };
    let read = |name: &str| std::fs::read(std::path::Path::new(&folder).join(name)).unwrap();
    let milan = hex::decode(read("sev_report_milan.hex").trim_ascii()).unwrap();
    let cases = [
        ("sev_report_milan.hex", milan, 2, None),
        ("tr_test-report.bin", read("tr_test-report.bin"), 2, None),
        ("tr_test-vlek-report.bin", read("tr_test-vlek-report.bin"), 3, Some(Generation::Milan)),
        ("oak_genoa_oc.report.bin", read("oak_genoa_oc.report.bin"), 5, Some(Generation::Genoa)),
    ];
    for (name, bytes, version, generation) in cases {
        let bytes: [u8; REPORT_BYTES] = bytes.try_into().unwrap();
        let report = Report::parse(&bytes).unwrap();
        assert_eq!((report.version(), report.generation()), (version, generation), "{name}");
        assert_eq!(*report.report_id_ma(), [0xFF; 32], "{name}");
    }
}
