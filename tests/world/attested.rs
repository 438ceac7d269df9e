//! Attestation in the whole world: what a manifest says of epoch, token and head is what broker and disk have, and who has lost the
//! right to answer attests nothing.

use crate::attest_op::{MANIFEST, Operation, SINGLE};
use crate::guest_ram::GuestRam;
use crate::stage::{LEASE_MS, Machine, Stage};
use crate::toy::INCREMENT;
use husk::frontend::svsm::{CallMemory, ManifestHeader, ResultCode, call};
use zerocopy::FromBytes;

impl Machine<'_> {
    /// The header of the manifest of version 1, as a guest gets it now.
    fn attest(&mut self) -> Result<ManifestHeader, u64> {
        let mut ram = GuestRam::new();
        let request = Operation::of_version(1).place(&mut ram, SINGLE, &[9; 64]);
        let mut memory = Box::new(CallMemory::EMPTY);
        let answer = self.served(|tpm| call(request, &mut ram, tpm, &mut memory));
        if answer.rax != 0 {
            assert!(ram.written.is_empty(), "who may not attest writes nothing");
            return Err(answer.rax);
        }
        let bytes = ram.get(MANIFEST, usize::try_from(answer.rcx).expect("a size"));
        Ok(ManifestHeader::read_from_prefix(bytes).expect("a header").0)
    }

    fn offer(&mut self) {
        self.served(|tpm| tpm.vtpm.offer_attestation(tpm.platform)).expect("it offers attestation");
    }
}

fn code(code: ResultCode) -> u64 {
    u64::from(code as u32)
}

#[test]
fn a_manifest_follows_every_commit_and_every_launch() {
    let stage = Stage::new(77);
    let disk = crate::blank();
    let mut machine = Machine::launch(&stage, &disk);
    machine.boot(4).expect("it boots");
    assert_eq!(machine.attest(), Err(code(ResultCode::UnsupportedCall)), "nobody offers it yet");
    machine.offer();
    let first = machine.attest().expect("it attests");
    assert_eq!((first.persistence, first.serving, first.kbs), (1, 1, 0));
    assert_eq!((first.tenant, first.vm), ([1; 16], [2; 16]));
    machine.ask(INCREMENT).expect("it counts");
    let second = machine.attest().expect("it attests");
    assert_eq!(second.sequence.get(), first.sequence.get() + 1);
    assert_ne!(second.digest, first.digest);
    assert_eq!((second.epoch, second.token), (first.epoch, first.token));
    machine.shut_down().expect("it shuts down");
    assert!(machine.attest().is_err(), "a TPM that is off attests nothing");
    let mut machine = Machine::launch(&stage, &disk);
    machine.boot(4).expect("it boots");
    machine.offer();
    let third = machine.attest().expect("it attests");
    assert!(third.epoch.get() > second.epoch.get() && third.token.get() > second.token.get());
    assert!(third.sequence.get() > second.sequence.get());
}

#[test]
fn who_has_lost_the_lease_attests_nothing() {
    let stage = Stage::new(78);
    let disk = crate::blank();
    let mut machine = Machine::launch(&stage, &disk);
    machine.boot(4).expect("it boots");
    machine.offer();
    stage.cut_off.set(true);
    machine.attest().expect("the lease still runs");
    stage.pass_ms(u64::from(LEASE_MS));
    assert_eq!(machine.attest(), Err(code(ResultCode::Busy)), "its lease is over");
    // A second instance takes over; the first hears of it and is over for good.
    stage.cut_off.set(false);
    let clone = std::cell::RefCell::new(crate::stage::RamDisk { image: disk.borrow().image.clone() });
    stage.pass_ms(u64::from(LEASE_MS) * 2);
    let mut second = Machine::launch(&stage, &clone);
    second.boot(8).expect("the clone boots once the lease is over");
    second.offer();
    second.attest().expect("it attests");
    assert_eq!(machine.attest(), Err(code(ResultCode::Failed)), "the first was fenced");
    assert_eq!(machine.attest(), Err(code(ResultCode::Failed)), "and stays so");
}
