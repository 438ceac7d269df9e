//! Laws of suspend: a saved TPM is resumed once, by the launch that saved it, with nothing in between, or not at all.
#![expect(clippy::expect_used, reason = "a test stops at the first surprise")]

#[path = "support/disk.rs"]
mod disk;
#[path = "support/tpm.rs"]
mod tpm;
#[path = "support/vtpm_bench.rs"]
mod vtpm_bench;

use husk::fault::{Family, Fault};
use husk::volume::VolumeFault;
use husk::volume::suspend::SuspendHeader;
use husk::vtpm::VtpmFault;
use vtpm_bench::{Bench, Machine};

const INDEX: u32 = 0x0150_0001;
const PLAIN: u32 = tpm::NV_AUTH_AND_OWNER | tpm::NV_NO_DA;
const PCR: u32 = 10;
const ZEROS: [u8; 32] = [0; 32];

fn pcr(machine: &mut Machine<'_>) -> Vec<u8> {
    tpm::pcr_of(&machine.send(&tpm::pcr_read(PCR)).ok()).to_vec()
}

/// A TPM that was started and measured something.
fn measured<'b>(bench: &'b mut Bench) -> (Machine<'b>, Vec<u8>) {
    let mut machine = bench.start();
    machine.send(&tpm::pcr_extend(PCR, &[3; 32])).ok();
    let value = pcr(&mut machine);
    (machine, value)
}

/// A resume that was refused left the TPM off, and only a reset, with PCRs that start anew, brings it back.
#[track_caller]
fn refused(machine: &mut Machine<'_>, object: &[u8], fault: impl Into<Fault>) {
    let fault = fault.into();
    assert_eq!(machine.resume(object), Err(fault));
    assert_eq!(fault.family(), Family::Seal);
    assert!(!machine.is_on() && !machine.is_latched());
    assert_eq!(machine.execute(&tpm::pcr_read(PCR)), Err(VtpmFault::PoweredOff.into()));
    assert_eq!(machine.resume(object), Err(VtpmFault::NothingSuspended.into()), "there is no second try");
    machine.restart();
    assert_ne!(machine.send(&tpm::startup_state()).code(), 0, "Startup(STATE) stays refused");
    machine.send(&tpm::startup_clear()).ok();
    assert_eq!(pcr(machine), ZEROS);
}

#[test]
fn what_was_suspended_goes_on_where_it_was() {
    let mut bench = Bench::new(1, 512);
    let (mut machine, value) = measured(&mut bench);
    machine.send(&tpm::nv_define(INDEX, PLAIN, 8, b"")).ok();
    let key = machine.send(&tpm::create_primary(tpm::OWNER, &tpm::ecc_storage_template())).ok().handle();
    let session = machine.send(&tpm::start_session(tpm::SE_POLICY)).ok().handle();
    machine.send(&tpm::policy_pcr(session, PCR)).ok();
    let digest = machine.send(&tpm::policy_digest(session)).ok();
    let before = machine.clock();
    for round in 0..3 {
        let object = machine.suspend().unwrap();
        if round > 0 {
            machine.power_off();
        }
        machine.resume(&object).unwrap();
        assert_eq!(pcr(&mut machine), value, "round {round}");
        assert_eq!(machine.send(&tpm::policy_digest(session)).ok(), digest);
        machine.send(&tpm::read_public(key)).ok();
        let after = machine.clock();
        assert_eq!((after.reset_count, after.restart_count), (before.reset_count, 0));
        assert!(after.safe && after.clock_ms >= before.clock_ms, "{before:?} {after:?}");
        machine.send(&tpm::nv_write(INDEX, b"", &[round; 8])).ok();
    }
    machine.reset();
    let reset = machine.clock();
    assert_eq!((reset.reset_count, pcr(&mut machine)), (before.reset_count + 1, ZEROS.to_vec()));
    assert!(reset.clock_ms >= before.clock_ms);
    drop(machine);
    let mut machine = bench.start();
    assert_eq!(tpm::nv_data_of(&machine.send(&tpm::nv_read(INDEX, b"", 8)).ok()), [2; 8]);
}

#[test]
fn a_tpm_that_waits_for_startup_is_suspended_too() {
    let mut bench = Bench::new(2, 512);
    let mut machine = bench.launch();
    let object = machine.suspend().unwrap();
    machine.resume(&object).unwrap();
    assert_ne!(machine.send(&tpm::startup_state()).code(), 0);
    machine.send(&tpm::startup_clear()).ok();
}

#[test]
fn what_was_suspended_is_resumed_once() {
    let mut bench = Bench::new(3, 512);
    let (mut machine, value) = measured(&mut bench);
    let object = machine.suspend().unwrap();
    machine.resume(&object).unwrap();
    assert_eq!(pcr(&mut machine), value);
    refused(&mut machine, &object, VtpmFault::NothingSuspended);
}

#[test]
fn nothing_but_the_newest_suspension_is_resumed() {
    let mut bench = Bench::new(4, 512);
    let (mut machine, _) = measured(&mut bench);
    for _ in 0..16 {
        let older = machine.suspend().unwrap();
        let commits = machine.commits(|machine| drop(machine.suspend().unwrap()));
        // TPM Clock is kept with each suspension: within one of its milliseconds the head is the same, and only the secret differs.
        let fault = if commits == 0 { VolumeFault::SuspendDamaged } else { VolumeFault::SuspendOther };
        refused(&mut machine, &older, fault);
    }
    let older = machine.suspend().unwrap();
    machine.send(&tpm::nv_define(INDEX, PLAIN, 8, b"")).ok();
    machine.suspend().unwrap();
    refused(&mut machine, &older, VolumeFault::SuspendOther);
}

#[test]
fn whatever_comes_between_voids_what_was_suspended() {
    let mut bench = Bench::new(5, 512);
    let (mut machine, _) = measured(&mut bench);
    let between: [fn(&mut Machine<'_>); 8] = [
        |machine| drop(machine.send(&tpm::random(8))),
        |machine| drop(machine.send(&tpm::pcr_extend(PCR, &[4; 32])).ok()),
        |machine| drop(machine.send(&tpm::nv_define(INDEX, PLAIN, 8, b"")).ok()),
        |machine| drop(machine.send(&tpm::startup_clear())),
        |machine| drop(machine.execute(&[0x80])),
        |machine| machine.measure(),
        |machine| machine.reset_established(),
        |machine| {
            machine.power_off();
            machine.reset();
        },
    ];
    for act in between {
        let object = machine.suspend().unwrap();
        act(&mut machine);
        refused(&mut machine, &object, VtpmFault::NothingSuspended);
    }
}

#[test]
fn another_launch_resumes_nothing() {
    let mut bench = Bench::new(6, 512);
    let (mut machine, _) = measured(&mut bench);
    let object = machine.suspend().unwrap();
    drop(machine);
    let mut machine = bench.start();
    refused(&mut machine, &object, VtpmFault::NothingSuspended);
    // Not even with a suspension of its own.
    machine.suspend().unwrap();
    refused(&mut machine, &object, VolumeFault::SuspendOther);
}

#[test]
fn the_disk_put_back_to_where_it_stood_makes_no_launch_the_same() {
    let mut bench = Bench::new(7, 512);
    let (mut machine, _) = measured(&mut bench);
    let object = machine.suspend().unwrap();
    let image = machine.disk.image.clone();
    machine.send(&tpm::nv_define(INDEX, PLAIN, 8, b"")).ok();
    drop(machine);
    refused(&mut bench.start_on(&image), &object, VtpmFault::NothingSuspended);
}

#[test]
fn every_edit_of_what_the_host_keeps_is_refused() {
    let mut bench = Bench::new(8, 512);
    let (mut machine, value) = measured(&mut bench);
    let object = machine.suspend().unwrap();
    machine.resume(&object).unwrap();
    let header = SuspendHeader::BYTES;
    let body = (header..object.len()).step_by(977).chain([object.len() - 17, object.len() - 1]);
    for at in (0..header).chain(body) {
        let mut object = machine.suspend().unwrap();
        object[at] ^= 0x40;
        let fault = if at < header { VolumeFault::SuspendOther } else { VolumeFault::SuspendDamaged };
        assert_eq!(machine.resume(&object), Err(fault.into()), "byte {at}");
        assert!(!machine.is_on());
        machine.reset();
    }
    machine.send(&tpm::pcr_extend(PCR, &[3; 32])).ok();
    assert_eq!(pcr(&mut machine), value);
    for length in [0, 1, header - 1, header, header + 15, object.len() - 4096, object.len() - 1] {
        let object = machine.suspend().unwrap();
        let fault = if length < header { VolumeFault::SuspendDamaged } else { VolumeFault::SuspendOther };
        refused(&mut machine, &object[..length], fault);
    }
    let longer = [&machine.suspend().unwrap()[..], &[0; 4096]].concat();
    refused(&mut machine, &longer, VolumeFault::SuspendOther);
}

#[test]
fn what_the_host_keeps_shows_neither_pcrs_nor_their_number() {
    let mut bench = Bench::new(9, 512);
    let (mut machine, value) = measured(&mut bench);
    let first = machine.suspend().unwrap();
    machine.send(&tpm::pcr_extend(PCR + 1, &[4; 32])).ok();
    let second = machine.suspend().unwrap();
    assert!(first.windows(32).chain(second.windows(32)).all(|window| window != value));
    assert_eq!(first.len(), second.len());
    assert_ne!(first[SuspendHeader::BYTES..], second[SuspendHeader::BYTES..]);
}

#[test]
fn a_suspension_is_at_most_one_commit_and_a_resume_writes_nothing() {
    let mut bench = Bench::new(10, 512);
    let (mut machine, _) = measured(&mut bench);
    let mut object = Vec::new();
    let commits = machine.commits(|machine| object = machine.suspend().unwrap());
    assert!(commits <= 1);
    assert_eq!(machine.commits(|machine| machine.resume(&object).unwrap()), 0);
}

#[test]
fn nothing_is_suspended_that_is_off() {
    let mut bench = Bench::new(11, 512);
    let (mut machine, _) = measured(&mut bench);
    machine.power_off();
    assert_eq!(machine.suspend(), Err(VtpmFault::PoweredOff.into()));
    machine.reset();
    machine.suspend().unwrap();
    machine.shut_down();
}
