//! Laws of suspend where a broker leases and a host plays: the right to go on is asked for anew, and a sealed state stays.
#![expect(clippy::expect_used, reason = "a test says what it expects")]

#[path = "world/stage.rs"]
mod stage;
#[path = "world/toy.rs"]
mod toy;

use husk::fault::Fault;
use husk::release::ReleaseFault;
use husk::volume::VolumeFault;
use husk::volume::suspend::{SUSPEND_BYTES_MAX, SuspendHeader, VOLATILE_BYTES_MAX};
use husk::vtpm::{PERMANENT_BYTES_MAX, VtpmFault};
use stage::{LEASE_MS, Machine, RamDisk, Stage};
use std::cell::RefCell;
use toy::{INCREMENT, MEASURE, RESET_COUNT, SHOW};

/// TPM2_Startup.
const STARTUP: u32 = 0x144;

fn blank() -> RefCell<RamDisk> {
    RefCell::new(RamDisk { image: vec![0; 64 * 1024] })
}

fn started<'s>(stage: &'s Stage, disk: &'s RefCell<RamDisk>) -> Machine<'s> {
    let mut machine = Machine::launch(stage, disk);
    machine.boot(1).expect("it boots");
    machine.ask(STARTUP).expect("it starts");
    machine.ask(INCREMENT).expect("it counts");
    machine
}

fn suspend(machine: &mut Machine<'_>) -> Result<Vec<u8>, Fault> {
    let mut bytes = vec![0; SUSPEND_BYTES_MAX];
    let length = machine.call(|vtpm, platform| vtpm.suspend(platform, &mut bytes))?;
    bytes.truncate(length);
    Ok(bytes)
}

fn resume(machine: &mut Machine<'_>, object: &[u8]) -> Result<(), Fault> {
    let mut copy = object.to_vec();
    machine.call(|vtpm, platform| vtpm.resume(platform, &mut copy))
}

fn power_off(machine: &mut Machine<'_>) {
    machine
        .call(|vtpm, _| {
            vtpm.power_off();
            Ok(())
        })
        .expect("it was there");
}

#[test]
fn who_sleeps_beyond_its_lease_asks_again_before_it_goes_on() {
    let (stage, disk) = (Stage::new(1), blank());
    let mut machine = started(&stage, &disk);
    let count = machine.ask(RESET_COUNT);
    let object = suspend(&mut machine).expect("it is saved");
    power_off(&mut machine);
    stage.pass_ms(u64::from(LEASE_MS) * 10);
    stage.cut_off.set(true);
    for _ in 0..3 {
        // Nothing was tried, so nothing is used up.
        assert_eq!(resume(&mut machine, &object), Err(ReleaseFault::LeaseOver.fault()));
        assert_eq!(machine.ask(MEASURE), Err(VtpmFault::PoweredOff.fault()));
    }
    stage.cut_off.set(false);
    assert_eq!(resume(&mut machine, &object), Ok(()));
    assert_eq!(machine.ask(RESET_COUNT), count);
    assert_eq!(machine.ask(INCREMENT), Ok(2));
    assert_eq!(resume(&mut machine, &object), Err(VtpmFault::NothingSuspended.fault()));
    assert_eq!(machine.reset(), Ok(()));
    assert_ne!(machine.ask(RESET_COUNT), count);
}

#[test]
fn who_was_fenced_while_it_slept_never_goes_on() {
    let (stage, first, second) = (Stage::new(2), blank(), blank());
    let mut machine = started(&stage, &first);
    let object = suspend(&mut machine).expect("it is saved");
    stage.pass_ms(u64::from(LEASE_MS));
    second.borrow_mut().image = first.borrow().image.clone();
    let mut successor = Machine::launch(&stage, &second);
    successor.boot(1).expect("the lease is over");
    assert_eq!(resume(&mut machine, &object), Err(ReleaseFault::Fenced.fault()));
    assert_eq!(machine.ask(MEASURE), Err(ReleaseFault::Fenced.fault()));
    assert_eq!(machine.reset(), Err(ReleaseFault::Fenced.fault()));
    assert_eq!(resume(&mut successor, &object), Err(VtpmFault::NothingSuspended.fault()));
    assert_eq!(successor.reset(), Ok(()));
    assert_eq!(successor.ask(SHOW), Ok(1));
}

#[test]
fn what_one_vm_saved_no_other_launch_resumes() {
    let (stage, disk) = (Stage::new(3), blank());
    let mut machine = started(&stage, &disk);
    let object = suspend(&mut machine).expect("it is saved");
    machine.shut_down().expect("it shuts down");
    assert!(resume(&mut machine, &object).is_err(), "an instance that gave its lease back is over");
    let mut next = Machine::launch(&stage, &disk);
    next.boot(1).expect("it boots");
    next.ask(STARTUP).expect("it starts");
    let own = suspend(&mut next).expect("it is saved");
    // Epoch, token, sequence and digest all differ; a header that claims what it should still lacks the secret.
    assert_eq!(resume(&mut next, &object), Err(VolumeFault::SuspendOther.fault()));
    next.reset().expect("it resets");
    next.ask(STARTUP).expect("it starts");
    let newest = suspend(&mut next).expect("it is saved");
    let forged = [&newest[..SuspendHeader::BYTES], &own[SuspendHeader::BYTES..]].concat();
    assert_eq!(resume(&mut next, &forged), Err(VolumeFault::SuspendDamaged.fault()));
    assert_eq!(next.ask(SHOW), Err(VtpmFault::PoweredOff.fault()));
}

#[test]
fn a_suspension_that_the_broker_did_not_hear_of_is_none() {
    let (stage, disk) = (Stage::new(4), blank());
    let mut machine = started(&stage, &disk);
    stage.pass_ms(u64::from(LEASE_MS) * 8 / 10);
    stage.cut_off.set(true);
    assert_eq!(suspend(&mut machine), Err(ReleaseFault::Unreachable.fault()));
    assert_eq!(machine.ask(SHOW), Ok(1), "and nothing happened");
    stage.cut_off.set(false);
    suspend(&mut machine).expect("it is saved");
}

#[test]
fn a_sealed_tpm_gives_no_blob_and_takes_none() {
    let (stage, disk) = (Stage::new(5), blank());
    let mut machine = started(&stage, &disk);
    let stays = VtpmFault::StateStays.fault();
    let mut room = vec![0; PERMANENT_BYTES_MAX.max(VOLATILE_BYTES_MAX)];
    assert_eq!(machine.call(|vtpm, _| vtpm.permanent_for_testing(&mut room)), Err(stays));
    assert_eq!(machine.call(|vtpm, _| vtpm.volatile_for_testing(&mut room)), Err(stays));
    assert!(room.iter().all(|byte| *byte == 0));
    for (permanent, volatile) in [(Some(&room[..]), None), (None, Some(&room[..])), (None, None)] {
        let given = machine.call(|vtpm, platform| vtpm.power_on_for_testing(platform, permanent, volatile));
        assert_eq!(given, Err(stays));
    }
    assert_eq!(machine.ask(INCREMENT), Ok(2), "and nothing happened to it");
}
