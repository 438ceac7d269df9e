//! Laws of the SVSM calls over the whole TPM with the reference engine.
#![expect(clippy::expect_used, reason = "a test says what it expects")]

#[path = "support/attest_op.rs"]
mod attest_op;
#[path = "support/disk.rs"]
mod disk;
#[path = "support/guest_ram.rs"]
mod guest_ram;
#[path = "support/tpm.rs"]
mod tpm;
#[path = "support/vtpm_bench.rs"]
mod vtpm_bench;

use attest_op::{ALL, MANIFEST, Operation, SINGLE};
use guest_ram::{BASE, GuestRam};
use husk::frontend::svsm::{CallMemory, ManifestHeader, Registers, ResultCode, call};
use tpm::Reply;
use vtpm_bench::{Bench, Machine};
use zerocopy::FromBytes;

const NONCE: [u8; 64] = [0x5A; 64];

impl Machine<'_> {
    fn svsm(&mut self, ram: &mut GuestRam, request: Registers) -> Registers {
        let mut memory = Box::new(CallMemory::EMPTY);
        self.served(|tpm| call(request, ram, tpm, &mut memory))
    }

    /// The manifest that a guest gets, or the result code.
    fn manifest(&mut self, rax: u64, version: u32) -> Result<Vec<u8>, u64> {
        let mut ram = GuestRam::new();
        let request = Operation::of_version(version).place(&mut ram, rax, &NONCE);
        let answer = self.svsm(&mut ram, request);
        let bytes = usize::try_from(answer.rcx).expect("a size");
        if answer.rax == 0 { Ok(ram.get(MANIFEST, bytes).to_vec()) } else { Err(answer.rax) }
    }

    /// A TPM command by SVSM_VTPM_CMD, as Linux' tpm_svsm sends it.
    fn send_by_call(&mut self, command: &[u8]) -> Reply {
        let mut ram = GuestRam::new();
        let size = u32::try_from(command.len()).expect("short");
        ram.put(BASE, &[&8_u32.to_le_bytes()[..], &[0], &size.to_le_bytes(), command].concat());
        let request = Registers { rax: 2 << 32 | 1, rcx: BASE, ..Registers::default() };
        assert_eq!(self.svsm(&mut ram, request).rax, 0);
        let size = u32::from_le_bytes(ram.get(BASE, 4).try_into().expect("four bytes"));
        Reply(ram.get(BASE + 4, size as usize).to_vec())
    }

    /// The keys in a manifest of version 1.
    fn keys(&mut self) -> Vec<Vec<u8>> {
        let manifest = self.manifest(SINGLE, 1).expect("it attests");
        let word =
            |at: usize| u32::from_le_bytes(manifest[at..at + 4].try_into().expect("four bytes")) as usize;
        let entries = (0..3).map(|entry| 0xA0 + 12 * entry);
        entries.map(|at| manifest[word(at + 4)..][..word(at + 8)].to_vec()).collect()
    }

    /// The keys as a guest makes them itself.
    fn made(&mut self) -> Vec<Vec<u8>> {
        let make = |template: &str| {
            let template = tpm::endorsement_template(template);
            let created = self.send(&tpm::create_primary(tpm::ENDORSEMENT, &template)).ok();
            self.send(&tpm::flush(created.handle())).ok();
            tpm::created_public(&created).to_vec()
        };
        ["L-1", "L-2", "H-3"].map(make).to_vec()
    }
}

#[test]
fn commands_by_call_are_commands() {
    let mut bench = Bench::new(41, 512);
    let mut machine = bench.launch();
    assert_eq!(machine.send_by_call(&tpm::random(8)).code(), 0x100, "TPM_RC_INITIALIZE");
    machine.send_by_call(&tpm::startup_clear()).ok();
    assert_eq!(machine.send_by_call(&tpm::random(8)).ok().sized_at(0).len(), 8);
    assert_eq!(machine.send_by_call(b"").code(), 0x142, "TPM_RC_COMMAND_SIZE");
    assert_eq!(machine.send_by_call(&[0xFF; 4087]).code(), 0x1E, "TPM_RC_BAD_TAG");
}

#[test]
fn a_manifest_shows_the_keys_that_the_guest_makes_for_itself() {
    let mut bench = Bench::new(42, 512);
    let mut machine = bench.start();
    let made = machine.made();
    assert_eq!(machine.manifest(SINGLE, 0), Err(u64::from(ResultCode::UnsupportedCall as u32)));
    machine.offer_attestation();
    assert_eq!(machine.manifest(SINGLE, 0).expect("version 0"), made[0]);
    assert_eq!(machine.manifest(ALL, 0).expect("the table")[0x30..], made[0]);
    assert_eq!(machine.keys(), made);
    // Authorizations, full slots, a kill: nothing changes.
    machine.send(&tpm::change_auth_of_hierarchy(tpm::OWNER, b"", b"owner")).ok();
    machine.send(&tpm::change_auth_of_hierarchy(tpm::ENDORSEMENT, b"", b"endorsement")).ok();
    for _ in 0..3 {
        machine.send(&tpm::create_primary(tpm::NULL, &tpm::ecc_storage_template())).ok();
    }
    assert_eq!(machine.send(&tpm::create_primary(tpm::NULL, &tpm::ecc_storage_template())).code(), 0x902);
    assert_eq!(machine.keys(), made);
    drop(machine);
    let mut machine = bench.start();
    machine.offer_attestation();
    assert_eq!(machine.keys(), made, "stable over boots");
    let refused = machine.send(&tpm::create_primary(tpm::ENDORSEMENT, &tpm::endorsement_template("L-2")));
    assert_eq!(refused.code(), 0x9A2, "the endorsement authorization is still set");
}

#[test]
fn a_changed_seed_is_seen_at_once_and_shown_after_a_reset() {
    let mut bench = Bench::new(43, 512);
    let mut machine = bench.start();
    machine.offer_attestation();
    let before = machine.keys();
    machine.send(&tpm::change_eps()).ok();
    for (call, version) in [(ALL, 0), (SINGLE, 0), (SINGLE, 1)] {
        assert_eq!(machine.manifest(call, version), Err(u64::from(ResultCode::InvalidRequest as u32)));
    }
    machine.send(&tpm::random(8)).ok();
    let made = machine.made();
    machine.reset();
    assert_eq!(machine.keys(), made);
    assert!(made.iter().zip(&before).all(|(new, old)| new != old));
}

#[test]
fn offering_attestation_and_attesting_change_nothing_that_is_stored() {
    let mut bench = Bench::new(44, 512);
    let mut machine = bench.start();
    machine.send(&tpm::nv_define(0x0150_0001, tpm::NV_AUTH_AND_OWNER | tpm::NV_NO_DA, 8, b"")).ok();
    machine.offer_attestation();
    machine.disk.take_counts();
    let header = |machine: &mut Machine<'_>| {
        let manifest = machine.manifest(SINGLE, 1).expect("it attests");
        ManifestHeader::read_from_prefix(&manifest).expect("a header").0
    };
    let first = header(&mut machine);
    assert_eq!((first.persistence, first.serving), (255, 0), "a volume of a test says so");
    assert_eq!(header(&mut machine), first);
    let counts = machine.disk.take_counts();
    assert_eq!((counts.writes, counts.flushes), (0, 0));
    machine.send(&tpm::nv_write(0x0150_0001, b"", &[1; 8])).ok();
    assert_eq!(header(&mut machine).sequence.get(), first.sequence.get() + 1);
}
