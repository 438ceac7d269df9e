//! The attestation protocol (AMD 58019, chapter 7) and the manifests.

use crate::attest_op::{ALL, CERTIFICATES, MANIFEST, NONCE, OPERATION, Operation, REPORT, SINGLE};
use crate::guest_ram::{BASE, GuestRam};
use crate::stand_in::{Processor, StandIn, rax};
use husk::attest::binding::{IDENTIFY_LABEL, REPORT_DATA_LABEL};
use husk::engine::EndorsementKey;
use husk::frontend::svsm::{Persistence, Registers, ResultCode, Serving};
use sha2::{Digest, Sha512};
use std::path::PathBuf;

const NONCE_BYTES: [u8; 64] = [0xA5; 64];

/// A call that must succeed: registers, manifest, report, certificates.
fn attest(tpm: &mut StandIn, rax: u64, version: u32) -> (Registers, Vec<u8>, Vec<u8>, Vec<u8>) {
    let mut ram = GuestRam::new();
    let request = Operation::of_version(version).place(&mut ram, rax, &NONCE_BYTES);
    let answer = tpm.call(&mut ram, request);
    assert_eq!(answer.rax, 0);
    assert_eq!(ram.looks_max(), 1, "every byte is looked at once");
    let got = |address, bytes: u64| ram.get(address, usize::try_from(bytes).unwrap()).to_vec();
    let (manifest, report) = (got(MANIFEST, answer.rcx), got(REPORT, answer.r8));
    (answer, manifest, report, got(CERTIFICATES, answer.rdx))
}

/// The golden file of that name; `HUSK_BLESS` writes it.
fn golden(name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/svsm").join(name);
    if std::env::var_os("HUSK_BLESS").is_some() {
        std::fs::write(&path, bytes).unwrap();
    }
    assert!(std::fs::read(&path).unwrap() == bytes, "{} differs", path.display());
}

#[test]
fn section_7_report_data_is_sha_512_of_nonce_and_manifest() {
    for (call, version) in [(ALL, 0), (SINGLE, 0), (SINGLE, 1)] {
        let mut tpm = StandIn::new();
        let (answer, manifest, report, certificates) = attest(&mut tpm, call, version);
        let data: [u8; 64] =
            Sha512::new().chain_update(NONCE_BYTES).chain_update(&manifest).finalize().into();
        assert_eq!(tpm.reported, [data], "one report");
        assert_eq!(report, tpm.report_of(&data));
        assert_eq!((answer.r8, answer.rdx, answer.r9), (1184, 0, 0));
        assert!(certificates.is_empty(), "the host supplied none");
        assert!(!data.ends_with(&REPORT_DATA_LABEL) && !data.ends_with(&IDENTIFY_LABEL));
    }
}

#[test]
fn golden_manifests_are_byte_for_byte_what_manifest_md_says() {
    let (_, version_0, ..) = attest(&mut StandIn::new(), SINGLE, 0);
    assert_eq!(version_0, StandIn::key(EndorsementKey::Rsa2048), "the public area and nothing else");
    let (_, table, ..) = attest(&mut StandIn::new(), ALL, 0);
    golden("services.bin", &table);
    assert_eq!(table[0x30..], version_0);
    let (_, version_1, ..) = attest(&mut StandIn::new(), SINGLE, 1);
    golden("manifest-1.bin", &version_1);
    assert_eq!(version_1[0x0C..0x10], [1, 1, 0, 3]);
    let keys: Vec<u8> = EndorsementKey::ALL.into_iter().flat_map(StandIn::key).collect();
    assert_eq!(version_1[0xC4..], keys);
    let mut unsealed = StandIn::new();
    unsealed.facts.persistence = Persistence::UnsealedForTesting;
    unsealed.facts.serving = Serving::Nothing;
    unsealed.facts.kbs_required = true;
    let (_, other, ..) = attest(&mut unsealed, SINGLE, 1);
    assert_eq!(
        (&other[..0x0C], &other[0x0C..0x0F], &other[0x0F..]),
        (&version_1[..0x0C], &[255, 0, 1][..], &version_1[0x0F..])
    );
}

#[test]
fn tables_11_and_13_every_field_out_of_its_range_is_refused_before_anything_happens() {
    type Spoil = fn(&mut Operation);
    let cases: [(&str, Spoil); 19] = [
        ("report not aligned", |op| op.report.0 += 8),
        ("report reserved", |op| op.report.2 = 1),
        ("nonce of 63 bytes", |op| op.nonce.1 = 63),
        ("nonce of 65 bytes", |op| op.nonce.1 = 65),
        ("nonce of none", |op| op.nonce.1 = 0),
        ("nonce across a page", |op| op.nonce.0 = BASE + 0xFC1),
        ("nonce reserved", |op| op.nonce.2[0] = 1),
        ("nonce reserved, last byte", |op| op.nonce.2[5] = 0x80),
        ("manifest not aligned", |op| op.manifest.0 += 0x800),
        ("manifest reserved", |op| op.manifest.2 = 0x8000_0000),
        ("certificates not aligned", |op| op.certificates.0 += 1),
        ("certificates reserved", |op| op.certificates.2 = 2),
        ("certificates reserved, though none are wanted", |op| op.certificates = (0, 0, 1)),
        ("another service", |op| op.service[15] ^= 1),
        ("no service", |op| op.service = [0; 16]),
        ("the service's GUID in text order", |op| op.service[..4].reverse()),
        ("version 2", |op| op.version = 2),
        ("version 2^32 - 1", |op| op.version = u32::MAX),
        ("reserved at the end", |op| op.reserved = 1),
    ];
    for (what, spoil) in cases {
        let (mut ram, mut tpm) = (GuestRam::new(), StandIn::new());
        let mut operation = Operation::of_version(0);
        spoil(&mut operation);
        let request = operation.place(&mut ram, SINGLE, &NONCE_BYTES);
        let answer = tpm.call(&mut ram, request);
        assert_eq!(answer, Registers { rax: rax(ResultCode::InvalidParameter), ..request }, "{what}");
        assert!(tpm.reported.is_empty() && ram.written.is_empty(), "{what}");
    }
}

#[test]
fn section_7_the_operation_is_aligned_and_in_one_page() {
    let bytes = Operation::of_version(1).bytes();
    for (address, call, code) in [
        (BASE + 0xFA8, SINGLE, 0),
        (BASE + 0xFC0, ALL, 0),
        (BASE + 0xFB0, SINGLE, rax(ResultCode::InvalidParameter)),
        (BASE + 0xFC8, ALL, rax(ResultCode::InvalidParameter)),
        (OPERATION + 4, ALL, rax(ResultCode::InvalidParameter)),
        (BASE - 0x1000, ALL, rax(ResultCode::InvalidAddress)),
    ] {
        let (mut ram, mut tpm) = (GuestRam::new(), StandIn::new());
        if address >= BASE {
            ram.put(address, &bytes);
        }
        let request = Registers { rax: call, rcx: address, ..Registers::default() };
        assert_eq!(tpm.call(&mut ram, request).rax, code, "{address:#x}");
    }
}

/// Linux' sev-guest driver enlarges its buffers by what it reads in RCX, RDX and R8 after SVSM_ERR_INVALID_PARAMETER.
#[test]
fn section_7_a_buffer_that_is_too_small_costs_no_report_and_says_how_large_it_must_be() {
    let small: [fn(&mut Operation); 3] =
        [|op| op.report.1 = 1183, |op| op.manifest.1 = 361, |op| op.certificates.1 = 1047];
    for spoil in small {
        let (mut ram, mut tpm) = (GuestRam::new(), StandIn::new());
        tpm.certificate = vec![0x30; 1000];
        let mut operation = Operation::of_version(0);
        spoil(&mut operation);
        let request = operation.place(&mut ram, ALL, &NONCE_BYTES);
        let answer = tpm.call(&mut ram, request);
        let code = rax(ResultCode::InvalidParameter);
        assert_eq!(answer, Registers { rax: code, rcx: 362, rdx: 1048, r8: 1184, ..request });
        assert!(tpm.reported.is_empty() && ram.written.is_empty());
        operation.report.1 = 1184;
        operation.manifest.1 = 362;
        operation.certificates.1 = 1048;
        let request = operation.place(&mut ram, ALL, &NONCE_BYTES);
        assert_eq!(tpm.call(&mut ram, request).rax, 0, "exactly enough is enough");
    }
}

#[test]
fn certificates_come_as_a_table_that_names_the_key_that_signed() {
    let guid = |text: &str| hex::decode(text).unwrap();
    for (signing_key, name) in
        [(0, guid("8d75da6364e66445adc5f4b93be8accd")), (1, guid("c24b07a85ba23e48aae639c045a0b8a1"))]
    {
        let mut tpm = StandIn::new();
        (tpm.certificate, tpm.signing_key) = (vec![0x30; 1000], signing_key);
        let (_, _, _, table) = attest(&mut tpm, SINGLE, 0);
        let entry = [&name[..], &48_u32.to_le_bytes(), &1000_u32.to_le_bytes(), &[0; 24]].concat();
        assert_eq!((&table[..48], &table[48..]), (&entry[..], &[0x30; 1000][..]));
    }
}

#[test]
fn a_guest_that_wants_no_certificates_gets_none_wherever_its_buffer_points() {
    let (mut ram, mut tpm) = (GuestRam::new(), StandIn::new());
    tpm.certificate = vec![0x30; 1000];
    let operation = Operation { certificates: (1, 0, 0), ..Operation::of_version(0) };
    let request = operation.place(&mut ram, SINGLE, &NONCE_BYTES);
    let answer = tpm.call(&mut ram, request);
    assert_eq!((answer.rax, answer.rdx), (0, 0));
}

#[test]
fn memory_that_the_guest_may_not_name_is_an_invalid_address() {
    for forbidden in [OPERATION, NONCE, REPORT, MANIFEST, CERTIFICATES] {
        let (mut ram, mut tpm) = (GuestRam::new(), StandIn::new());
        tpm.certificate = vec![0x30; 100];
        let request = Operation::of_version(0).place(&mut ram, SINGLE, &NONCE_BYTES);
        ram.forbidden = forbidden..forbidden + 1;
        let answer = tpm.call(&mut ram, request);
        assert_eq!(answer, Registers { rax: rax(ResultCode::InvalidAddress), ..request }, "{forbidden:#x}");
    }
}

#[test]
fn without_the_right_to_answer_nothing_leaves() {
    for permits in [0, 1] {
        let (mut ram, mut tpm) = (GuestRam::new(), StandIn::new());
        tpm.permits = permits;
        let request = Operation::of_version(1).place(&mut ram, SINGLE, &NONCE_BYTES);
        let answer = tpm.call(&mut ram, request);
        assert_eq!(answer, Registers { rax: rax(ResultCode::Busy), ..request });
        assert!(ram.written.is_empty(), "asked for before the work and again before the answer");
    }
}

#[test]
fn a_report_that_says_something_else_never_leaves() {
    for processor in [Processor::OtherData, Processor::OtherVmpl, Processor::Silent] {
        let (mut ram, mut tpm) = (GuestRam::new(), StandIn::new());
        tpm.processor = processor;
        let request = Operation::of_version(0).place(&mut ram, ALL, &NONCE_BYTES);
        let answer = tpm.call(&mut ram, request);
        assert_eq!(answer, Registers { rax: rax(ResultCode::NoReport), ..request }, "{processor:?}");
        assert!(ram.written.is_empty());
    }
}

#[test]
fn a_tpm_whose_seed_was_changed_shows_no_key_at_all() {
    for (call, version) in [(ALL, 0), (SINGLE, 0), (SINGLE, 1)] {
        let (mut ram, mut tpm) = (GuestRam::new(), StandIn::new());
        tpm.endorsement_known = false;
        let request = Operation::of_version(version).place(&mut ram, call, &NONCE_BYTES);
        assert_eq!(
            tpm.call(&mut ram, request),
            Registers { rax: rax(ResultCode::InvalidRequest), ..request }
        );
        assert!(tpm.reported.is_empty() && ram.written.is_empty());
    }
}

#[test]
fn a_guest_that_changes_operation_and_nonce_while_they_are_used_gets_what_was_taken_first() {
    let (mut ram, mut tpm) = (GuestRam::new(), StandIn::new());
    let request = Operation::of_version(1).place(&mut ram, SINGLE, &NONCE_BYTES);
    ram.scribble = Some(0x11);
    let answer = tpm.call(&mut ram, request);
    assert_eq!(answer.rax, 0);
    let manifest = ram.get(MANIFEST, usize::try_from(answer.rcx).unwrap());
    let data: [u8; 64] = Sha512::new().chain_update(NONCE_BYTES).chain_update(manifest).finalize().into();
    assert_eq!(tpm.reported, [data]);
}
