//! Laws of a volume whose key takes a broker's secret *and* the chip's: neither alone opens anything.
#![expect(clippy::expect_used, reason = "a test says what it expects")]

#[path = "world/stage.rs"]
mod stage;
#[path = "world/toy.rs"]
mod toy;

use husk::fault::Fault;
use husk::keys::Mode;
use husk::volume::VolumeFault;
use stage::{LEASE_MS, Machine, RamDisk, Stage};
use std::cell::RefCell;
use toy::{INCREMENT, SHOW};

/// Where a checkpoint's mode stands in its area (`volume/format.md` §3).
const MODE_AT: usize = 10;
const DISK_BYTES: usize = 64 * 1024;

fn blank() -> RefCell<RamDisk> {
    RefCell::new(RamDisk { image: vec![0; DISK_BYTES] })
}

/// A machine that made a TPM, counted once, and was killed; its lease is over.
fn counted(stage: &Stage, disk: &RefCell<RamDisk>) {
    let mut machine = Machine::launch(stage, disk);
    machine.boot(1).expect("it boots");
    machine.ask(INCREMENT).expect("it counts");
    machine.kill();
    stage.pass_ms(LEASE_MS.into());
}

#[track_caller]
fn refused(stage: &Stage, disk: &RefCell<RamDisk>, fault: impl Into<Fault>) {
    let before = disk.borrow().image.clone();
    assert_eq!(Machine::launch(stage, disk).boot(1), Err(fault.into()));
    assert!(disk.borrow().image == before, "a launch that is refused writes nothing");
    stage.pass_ms(LEASE_MS.into());
}

#[test]
fn the_brokers_secret_on_another_chip_opens_nothing() {
    let (stage, disk) = (Stage::on_chip(1), blank());
    counted(&stage, &disk);
    assert_eq!(disk.borrow().image[MODE_AT], Mode::SealedOnChip as u8);
    stage.chip.set(1);
    refused(&stage, &disk, VolumeFault::Damaged);
    stage.chip.set(0);
    let mut machine = Machine::launch(&stage, &disk);
    machine.boot(1).expect("it opens on its own chip");
    assert_eq!(machine.ask(SHOW), Ok(1));
}

#[test]
fn an_old_disk_on_the_right_chip_opens_nothing() {
    let (stage, disk) = (Stage::on_chip(2), blank());
    counted(&stage, &disk);
    let old = disk.borrow().image.clone();
    counted(&stage, &disk);
    counted(&stage, &disk);
    disk.borrow_mut().image = old;
    refused(&stage, &disk, VolumeFault::RolledBack);
}

/// Each set of inputs is a mode of the volume, and the configuration names it.
#[test]
fn a_volume_with_other_inputs_than_the_configuration_names_does_not_open() {
    for (stage, mode) in [
        (Stage::on_chip(3), Mode::Sealed),
        (Stage::serving(3, husk::attest::launch::Serve::Lease), Mode::SealedOnChip),
    ] {
        let disk = blank();
        counted(&stage, &disk);
        for area in [0, DISK_BYTES / 2] {
            let header = area + MODE_AT;
            if disk.borrow().image[header] != 0 {
                disk.borrow_mut().image[header] = mode as u8;
            }
        }
        refused(&stage, &disk, VolumeFault::OtherInputs);
        let mut rewritten = disk.borrow_mut();
        for area in [0, DISK_BYTES / 2] {
            if rewritten.image[area + MODE_AT] != 0 {
                rewritten.image[area + MODE_AT] = Mode::HwSealed as u8;
            }
        }
        drop(rewritten);
        refused(&stage, &disk, VolumeFault::HwSealed);
    }
}
