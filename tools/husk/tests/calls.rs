//! SVSM calls by VMMCALL on the whole stack: a guest's kernel below the image makes every call, good and bad.

#![expect(clippy::expect_used, clippy::panic, reason = "a test stops at the first surprise")]
#![allow(dead_code, reason = "the world has more than these tests use")]
#![allow(clippy::allow_attributes, reason = "as above")]

#[path = "below/caller.rs"]
mod caller;
#[path = "below/layer.rs"]
mod layer;
#[path = "calls/operation.rs"]
mod operation;
#[path = "below/world.rs"]
mod world;

use caller::{Caller, Outcome, Registers, UNDEFINED};
use husk::frontend::crb::handover::{self, Doorbell, Handover};
use operation::{CERTIFICATES, MANIFEST, NONCE, OPERATION, Operation, REPORT};
use std::process::Command;
use world::World;

/// Result codes (AMD 58019, section 4; the last two of this front-end's own).
const SUCCESS: u64 = 0;
const UNSUPPORTED_PROTOCOL: u64 = 0x8000_0001;
const UNSUPPORTED_CALL: u64 = 0x8000_0002;
const INVALID_ADDRESS: u64 = 0x8000_0003;
const INVALID_PARAMETER: u64 = 0x8000_0005;
/// RAX of the calls.
const ATTEST_ALL: u64 = 1 << 32;
const ATTEST_SINGLE: u64 = 1 << 32 | 1;
const QUERY: u64 = 2 << 32;
const SEND: u64 = 2 << 32 | 1;
/// The image's own protocol: something was written to a CRB in memory.
const DOORBELL: u64 = 0x4855_534B << 32;
/// Memory of the guest, of the layer, of the payload, of a device, and none.
const BUFFER: u64 = 0x40_0000;
const LAYER: u64 = 0x1000_0000;
const PAYLOAD: u64 = 0x1080_0000;
const CRB: u64 = 0xFED4_0000;
const BEYOND: u64 = 1 << 40;

/// TPM2_GetRandom of 16 bytes.
const GET_RANDOM: [u8; 12] = [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7B, 0, 16];
/// TPM2_CreatePrimary under the owner with an empty password: a storage key, RSA-2048 with AES-128-CFB. It takes long.
const CREATE_PRIMARY: [u8; 67] = [
    0x80, 2, 0, 0, 0, 67, 0, 0, 1, 0x31, 0x40, 0, 0, 1, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0, 0, 4, 0, 0,
    0, 0, 0, 26, 0, 1, 0, 0x0B, 0, 3, 0, 0x72, 0, 0, 0, 6, 0, 0x80, 0, 0x43, 0, 0x10, 8, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0,
];

fn request(platform_command: u32, locality: u8, stated: u32, command: &[u8]) -> Vec<u8> {
    [&platform_command.to_le_bytes()[..], &[locality], &stated.to_le_bytes(), command].concat()
}

fn sends(command: &[u8]) -> Vec<u8> {
    request(8, 0, u32::try_from(command.len()).expect("little"), command)
}

fn at(rax: u64, rcx: u64) -> Registers {
    [rax, rcx, 0x1111, 0x2222, 0x3333]
}

/// Everything but RAX is as it was.
fn refused(code: u64, request: Registers) -> Outcome {
    let [_, rcx, rdx, r8, r9] = request;
    Outcome { raised: 0, registers: [code, rcx, rdx, r8, r9] }
}

/// The response code of a TPM response that lies behind its size at `address`.
fn response_code(guest: &mut Caller, address: u64) -> u32 {
    let head = guest.read(address, 14);
    u32::from_be_bytes(head[10..].try_into().expect("four bytes"))
}

/// A number of the budget.
fn granted(name: &str) -> u64 {
    let budget = include_str!("../../../firmware/budget.toml");
    let line = budget.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
    let number = line.and_then(|line| line.split('#').next()?.trim().parse().ok());
    number.unwrap_or_else(|| panic!("firmware/budget.toml does not grant {name}"))
}

#[test]
fn every_svsm_call_good_and_bad_is_answered_through_vmmcall_as_the_table_says() {
    let world = World::new();
    let mut guest = Caller::start(&world, &["--svsm-calls"]);
    what_is_no_call_is_no_instruction(&mut guest);
    section_4_unknown_protocols_and_calls(&mut guest);
    section_8_the_vtpm_protocol(&mut guest);
    section_8_what_a_guest_may_not_name(&mut guest);
    section_7_the_attestation_protocol(&mut guest, &world);
    section_7_what_is_refused(&mut guest);
    calls_and_the_crb_at_the_same_time(&mut guest);
    a_caller_that_is_started_anew_gets_no_old_answer(&mut guest);
    let counted = guest.end();
    assert!(world::code(&counted, "husk: count: call") > 60, "{counted:#?}");
    for (said, name) in
        [("husk: engine heap, peak bytes", "heap"), ("husk: service stack, peak bytes", "served-stack")]
    {
        let used = world::code(&counted, said);
        eprintln!("{said}: {used}");
        assert!(used <= granted(name), "{said} {used}");
    }
}

#[test]
fn a_closed_gate_is_no_instruction() {
    let world = World::new();
    let mut guest = Caller::start(&world, &[]);
    let buffer = CRB + 0x1000;
    let shared = shared_with_host(&guest.said);
    assert!(shared.iter().any(|pages| pages.contains(&buffer)), "trapped, commands lie there: {shared:x?}");
    assert_eq!(guest.raised_in_32_bits, UNDEFINED);
    for rax in [0, ATTEST_ALL, ATTEST_SINGLE, QUERY, SEND, 3 << 32, 0x4855_534B << 32] {
        let request = at(rax, BUFFER);
        assert_eq!(guest.call(request), Outcome { raised: UNDEFINED, registers: request }, "{rax:#x}");
    }
    guest.end();
}

/// Nothing exits at the PTP's address; the registers are in RAM that is reserved, and the processor that serves looks at them.
#[test]
fn a_private_crb_is_served_in_the_guests_memory_and_nowhere_else() {
    let world = World::new();
    let mut guest = Caller::start(&world, &["--crb", "private", "--svsm-calls"]);
    let base = world::code(&guest.said, "husk: the CRB is in the guest's memory, at");
    assert!(base.is_multiple_of(0x1000) && (0x10_0000..512 << 20).contains(&base), "{base:#x}");
    assert_eq!([CRB, CRB + 0x30, CRB + 0x1000].map(|at| guest.word(at)), [u32::MAX; 3], "a hole");
    assert_eq!(guest.word(base + 0x5C), u32::try_from(base + 0x1000).expect("below 4 GiB"));
    // No command passes through memory that a host would read on silicon; only the layer's devices are there.
    let shared = shared_with_host(&guest.said);
    assert!(shared.iter().all(|pages| LAYER < pages.start && pages.end < PAYLOAD), "{shared:x?}");
    assert!(shared.len() == 3 && shared.iter().all(|pages| !pages.contains(&base)), "{shared:x?}");
    // What a guest's firmware is told.
    let told = guest.read(base + handover::OFFSET as u64, handover::HANDOVER_BYTES as u64);
    let told = Handover::parse(&told.try_into().expect("its size")).expect("the normative layout");
    let doorbell = Some(Doorbell { protocol: u32::try_from(DOORBELL >> 32).expect("a half"), call: 0 });
    assert_eq!(told, Handover { base, register_bytes: 0x1000, buffer_bytes: 0x1000, doorbell });
    guest.write(base + 0x08, &1u32.to_le_bytes());
    while guest.word(base + 0x0C) & 1 == 0 {}
    guest.write(base + 0x40, &1u32.to_le_bytes());
    while guest.word(base + 0x40) & 1 != 0 {}
    guest.write(base + 0x1000, &GET_RANDOM);
    guest.write(base + 0x4C, &1u32.to_le_bytes());
    assert_eq!(guest.call(at(DOORBELL, 7)), refused(SUCCESS, at(DOORBELL, 7)));
    while guest.word(base + 0x4C) & 1 != 0 {}
    assert_eq!(guest.read(base + 0x1000, 10), [0x80, 1, 0, 0, 0, 28, 0, 0, 0, 0]);
    // A call of the vTPM protocol meanwhile, with its buffer in any memory of the guest.
    guest.write(BUFFER, &sends(&GET_RANDOM));
    assert_eq!(guest.call(at(SEND, BUFFER)).answered()[0], SUCCESS);
    assert_eq!(response_code(&mut guest, BUFFER), 0);
    let counted = guest.end();
    assert_eq!(world::code(&counted, "husk: count: crb"), 0, "no access to a register exits");
}

/// The pages of which the image says that a host reads them on SEV-SNP.
fn shared_with_host(said: &[String]) -> Vec<std::ops::Range<u64>> {
    let code = |line: &String, text: &str| {
        let digits = line.strip_prefix(text)?.strip_prefix(" 0x")?;
        Some(u64::from_str_radix(digits, 16).expect("a code"))
    };
    let starts = said.iter().filter_map(|line| code(line, "husk: on SEV-SNP the host reads from"));
    let ends = said.iter().filter_map(|line| code(line, "husk:   up to"));
    starts.zip(ends).map(|(start, end)| start..end).collect()
}

/// KVM's hypercalls (Linux, `include/uapi/linux/kvm_para.h`), VMware's, and the core protocol; nothing outside 64-bit mode.
fn what_is_no_call_is_no_instruction(guest: &mut Caller) {
    assert_eq!(guest.raised_in_32_bits, UNDEFINED);
    for rax in [0, 1, 5, 6, 9, 10, 12, 0x564D_5868, 0xFFFF_FFFF] {
        let request = at(rax, BUFFER);
        assert_eq!(guest.call(request), Outcome { raised: UNDEFINED, registers: request }, "{rax:#x}");
    }
}

fn section_4_unknown_protocols_and_calls(guest: &mut Caller) {
    for (rax, code) in [
        (3 << 32, UNSUPPORTED_PROTOCOL),
        (0xFFFF_FFFF << 32, UNSUPPORTED_PROTOCOL),
        (1 << 32 | 2, UNSUPPORTED_CALL),
        (2 << 32 | 2, UNSUPPORTED_CALL),
        (2 << 32 | 0xFFFF_FFFF, UNSUPPORTED_CALL),
    ] {
        assert_eq!(guest.call(at(rax, BUFFER)), refused(code, at(rax, BUFFER)), "{rax:#x}");
    }
}

fn section_8_the_vtpm_protocol(guest: &mut Caller) {
    assert_eq!(guest.call(at(QUERY, 7)).answered(), [SUCCESS, 1 << 8, 0, 0x2222, 0x3333]);
    // Aligned to nothing, within a page, and across two.
    for address in [BUFFER, BUFFER + 1, BUFFER + 0xFFA, BUFFER + 0xFFF] {
        guest.write(address, &sends(&GET_RANDOM));
        assert_eq!(guest.call(at(SEND, address)), refused(SUCCESS, at(SEND, address)));
        let response = guest.read(address, 32);
        assert_eq!(response[..14], [28, 0, 0, 0, 0x80, 1, 0, 0, 0, 28, 0, 0, 0, 0], "{address:#x}");
    }
    // What is no command is the TPM's business.
    guest.write(BUFFER, &sends(&GET_RANDOM[..11]));
    assert_eq!(guest.call(at(SEND, BUFFER)).answered()[0], SUCCESS);
    assert_eq!(response_code(guest, BUFFER), 0x142, "TPM_RC_COMMAND_SIZE");
}

fn section_8_what_a_guest_may_not_name(guest: &mut Caller) {
    let whole = sends(&GET_RANDOM);
    let cases: [(u64, Vec<u8>, u64); 15] = [
        (0, Vec::new(), INVALID_PARAMETER),
        (BUFFER, request(9, 0, 12, &GET_RANDOM), INVALID_PARAMETER),
        (BUFFER, request(1, 0, 12, &GET_RANDOM), INVALID_PARAMETER),
        (BUFFER, request(8, 1, 12, &GET_RANDOM), INVALID_PARAMETER),
        (BUFFER, request(8, 4, 12, &GET_RANDOM), INVALID_PARAMETER),
        (BUFFER, request(8, 0, 4088, &GET_RANDOM), INVALID_PARAMETER),
        (BUFFER, request(8, 0, u32::MAX, &GET_RANDOM), INVALID_PARAMETER),
        (LAYER, Vec::new(), INVALID_ADDRESS),
        (LAYER - 4, whole[..4].to_vec(), INVALID_ADDRESS),
        (LAYER - 9, whole[..9].to_vec(), INVALID_ADDRESS),
        (PAYLOAD, Vec::new(), INVALID_ADDRESS),
        (CRB + 0x1000, Vec::new(), INVALID_ADDRESS),
        (0xFEE0_0000, Vec::new(), INVALID_ADDRESS),
        (BEYOND, Vec::new(), INVALID_ADDRESS),
        (u64::MAX - 4, Vec::new(), INVALID_ADDRESS),
    ];
    for (address, bytes, code) in cases {
        if !bytes.is_empty() {
            guest.write(address, &bytes);
        }
        assert_eq!(guest.call(at(SEND, address)), refused(code, at(SEND, address)), "{address:#x}");
    }
    // The command fits before the layer and its response does not: nothing of the layer's is written, and the guest is told.
    guest.write(LAYER - 21, &whole);
    assert_eq!(guest.call(at(SEND, LAYER - 21)), refused(INVALID_ADDRESS, at(SEND, LAYER - 21)));
}

fn section_7_the_attestation_protocol(guest: &mut Caller, world: &World) {
    for (rax, version, form) in
        [(ATTEST_ALL, 0, "services"), (ATTEST_SINGLE, 0, "vtpm 0"), (ATTEST_SINGLE, 1, "vtpm 1")]
    {
        let operation = Operation { version, ..Operation::sound() };
        operation.place(guest);
        let [code, manifest, certificates, report, r9] = guest.call(at(rax, OPERATION)).answered();
        assert_eq!((code, report, r9), (SUCCESS, 1184, 0x3333), "{form}");
        assert!(manifest > 0 && certificates > 48, "{form}: {manifest} {certificates}");
        let mut keep = |name: &str, address, bytes| {
            let path = world.folder().join(name);
            std::fs::write(&path, guest.read(address, bytes)).expect("a file");
        };
        keep("report", REPORT, report);
        keep("manifest", MANIFEST, manifest);
        keep("certificates", CERTIFICATES, certificates);
        let seen = verified(world, &hex(&operation::nonce()));
        assert_eq!((&seen["report"]["vmpl"], &seen["silicon"]), (&0.into(), &"simulated".into()));
        assert_eq!(seen["manifest"]["form"], form);
    }
    // Without certificates, the rest is the same.
    Operation { certificates: (0, 0, 0), ..Operation::sound() }.place(guest);
    let [code, manifest, certificates, report, _] = guest.call(at(ATTEST_SINGLE, OPERATION)).answered();
    assert_eq!((code, certificates, report), (SUCCESS, 0, 1184));
    assert!(manifest > 0);
}

/// What `husk evidence verify` makes of the files of an attestation.
fn verified(world: &World, nonce: &str) -> serde_json::Value {
    let path = |name: &str| world.folder().join(name).display().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_husk"))
        .args(["evidence", "verify", "--json", "--report", &path("report"), "--certificate"])
        .args([&path("certificates"), "--accept-simulated-silicon", &path("psp/chain.pem")])
        .args(["--manifest", &path("manifest"), "--nonce", nonce])
        .output()
        .expect("husk starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn section_7_what_is_refused(guest: &mut Caller) {
    let sound = Operation::sound();
    // A buffer that is too small: every size is told.
    Operation { version: 1, ..sound }.place(guest);
    let [_, manifest, certificates, report, _] = guest.call(at(ATTEST_SINGLE, OPERATION)).answered();
    let short = |bytes: u64| u32::try_from(bytes - 1).expect("little");
    for small in [
        Operation { version: 1, report: (REPORT, short(report), 0), ..sound },
        Operation { version: 1, manifest: (MANIFEST, short(manifest), 0), ..sound },
        Operation { version: 1, certificates: (CERTIFICATES, short(certificates), 0), ..sound },
    ] {
        small.place(guest);
        let told = guest.call(at(ATTEST_SINGLE, OPERATION)).answered();
        assert_eq!(told, [INVALID_PARAMETER, manifest, certificates, report, 0x3333]);
    }
    for (operation, code) in [
        (Operation { service: [0; 16], ..sound }, INVALID_PARAMETER),
        (Operation { version: 2, ..sound }, INVALID_PARAMETER),
        (Operation { reserved: 1, ..sound }, INVALID_PARAMETER),
        (Operation { nonce: (NONCE, 63), ..sound }, INVALID_PARAMETER),
        (Operation { nonce: (BUFFER + 0xFC1, 64), ..sound }, INVALID_PARAMETER),
        (Operation { report: (REPORT + 8, 0x1000, 0), ..sound }, INVALID_PARAMETER),
        (Operation { manifest: (MANIFEST + 0x800, 0x1000, 0), ..sound }, INVALID_PARAMETER),
        (Operation { certificates: (CERTIFICATES + 1, 0x4000, 0), ..sound }, INVALID_PARAMETER),
        (Operation { report: (REPORT, 0x1000, 1), ..sound }, INVALID_PARAMETER),
        (Operation { nonce: (LAYER, 64), ..sound }, INVALID_ADDRESS),
        (Operation { report: (LAYER, 0x1000, 0), ..sound }, INVALID_ADDRESS),
        (Operation { manifest: (PAYLOAD, 0x1000, 0), ..sound }, INVALID_ADDRESS),
        (Operation { certificates: (CRB, 0x4000, 0), ..sound }, INVALID_ADDRESS),
    ] {
        operation.place(guest);
        let request = at(ATTEST_SINGLE, OPERATION);
        assert_eq!(guest.call(request), refused(code, request), "{operation:x?}");
    }
    // The operation itself: eight bytes' alignment, one page, the guest's memory.
    for (rax, bytes) in [(ATTEST_ALL, 0x40), (ATTEST_SINGLE, 0x58)] {
        for (address, code) in [
            (OPERATION + 4, INVALID_PARAMETER),
            (BUFFER + 0x1000 - bytes + 8, INVALID_PARAMETER),
            (LAYER, INVALID_ADDRESS),
            (PAYLOAD, INVALID_ADDRESS),
            (CRB, INVALID_ADDRESS),
            (BEYOND, INVALID_ADDRESS),
        ] {
            assert_eq!(guest.call(at(rax, address)), refused(code, at(rax, address)), "{address:#x}");
        }
    }
}

fn calls_and_the_crb_at_the_same_time(guest: &mut Caller) {
    // A long command by the CRB, and a call while it runs: each has its own answer.
    guest.start_command(&CREATE_PRIMARY);
    guest.write(BUFFER, &sends(&GET_RANDOM));
    assert_eq!(guest.call(at(SEND, BUFFER)).answered()[0], SUCCESS);
    assert_eq!(response_code(guest, BUFFER), 0);
    while guest.word(CRB + 0x4C) & 1 != 0 {}
    let response = guest.read(CRB + 0x1000, 14);
    assert_eq!((response[6..10].to_vec(), response[10]), (vec![0; 4], 0x80), "a handle");
    let handle = response[10..14].to_vec();
    flush(guest, &handle);
    // A long command by a call of the other processor, and a short one by the CRB.
    guest.start_second();
    guest.write(BUFFER, &sends(&CREATE_PRIMARY));
    guest.second_calls(at(SEND, BUFFER));
    guest.start_command(&GET_RANDOM);
    while guest.word(CRB + 0x4C) & 1 != 0 {}
    assert_eq!(guest.read(CRB + 0x1000, 10)[..10], [0x80, 1, 0, 0, 0, 28, 0, 0, 0, 0]);
    assert_eq!(guest.second_outcome(), refused(SUCCESS, at(SEND, BUFFER)));
    assert_eq!(response_code(guest, BUFFER), 0);
    let handle = guest.read(BUFFER + 14, 4);
    flush(guest, &handle);
}

/// INIT takes a processor out of its call. What it calls next has its own answer.
fn a_caller_that_is_started_anew_gets_no_old_answer(guest: &mut Caller) {
    guest.write(BUFFER, &sends(&CREATE_PRIMARY));
    guest.second_calls(at(SEND, BUFFER));
    assert!(guest.second_waits(), "a long command");
    guest.start_second();
    guest.second_calls(at(QUERY, 7));
    assert_eq!(guest.second_outcome().answered(), [SUCCESS, 1 << 8, 0, 0x2222, 0x3333]);
    guest.write(BUFFER, &sends(&GET_RANDOM));
    assert_eq!(guest.call(at(SEND, BUFFER)).answered()[0], SUCCESS);
    assert_eq!(response_code(guest, BUFFER), 0);
}

/// TPM2_FlushContext.
fn flush(guest: &mut Caller, handle: &[u8]) {
    guest.write(BUFFER, &sends(&[&[0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x65], handle].concat()));
    assert_eq!(guest.call(at(SEND, BUFFER)).answered()[0], SUCCESS);
    assert_eq!(response_code(guest, BUFFER), 0);
}
