//! Laws of backups: what a launch seals to the tenant's recovery key, and who can read it. Component, protocol and broker are the real ones.
#![expect(clippy::expect_used, reason = "a test says what it expects")]

#[path = "backup/owner.rs"]
mod owner;
#[path = "world/stage.rs"]
mod stage;
#[path = "world/toy.rs"]
mod toy;

use husk::fault::Fault;
use husk::keys::BackupSecret;
use husk::release::backup::{BackupHeader, backup_digest};
use husk::release::statement::Outcome;
use husk::volume::backup::{BACKUP_BYTES_MAX, Part, open_part};
use husk::volume::{STATE_BYTES_MAX, VolumeFault};
use husk::vtpm::{Backup, Vtpm};
use owner::Owner;
use stage::{Machine, Mishap, RamDisk, Stage};
use std::cell::RefCell;
use toy::{INCREMENT, SHOW};
use zerocopy::IntoBytes;

fn blank() -> RefCell<RamDisk> {
    RefCell::new(RamDisk { image: vec![0; 64 * 1024] })
}

/// A machine whose TPM has counted so far.
fn counted<'s>(stage: &'s Stage, disk: &'s RefCell<RamDisk>, count: u64) -> Machine<'s> {
    let mut machine = Machine::launch(stage, disk);
    machine.boot(2).expect("it boots");
    while machine.ask(SHOW).expect("it shows") < count {
        machine.ask(INCREMENT).expect("it counts");
    }
    machine
}

fn back_up(machine: &mut Machine<'_>) -> Result<Backup, Fault> {
    machine.call(Vtpm::back_up)
}

#[test]
fn a_backup_is_made_once_and_opens_for_the_recovery_key_alone() {
    let (stage, disk) = (Stage::new(1), blank());
    let owner = Owner::new(&stage);
    let mut machine = counted(&stage, &disk, 3);
    assert_eq!(back_up(&mut machine), Ok(Backup::Unwanted), "nobody ordered one");
    let ticket = owner.order(&stage);
    assert_eq!(owner.hand_in(&stage, &ticket), Outcome::Open);
    machine.shut_down().expect("it ends");
    let mut machine = counted(&stage, &disk, 3);
    assert_eq!(owner.file(&stage, &ticket), Some(Vec::new()), "it is awaited");
    assert_eq!(back_up(&mut machine), Ok(Backup::Kept));
    let file = owner.file(&stage, &ticket).expect("the broker keeps it");
    assert_eq!(owner.count(&file), Some(3));
    assert_eq!(Owner::new(&stage).count(&file), None, "another recovery key");
    assert_eq!(back_up(&mut machine), Ok(Backup::Unwanted), "once");
    assert_eq!(owner.hand_in(&stage, &ticket), Outcome::Used);
    let digest = hex::encode(backup_digest(&file));
    assert!(stage.log().iter().any(|detail| detail.contains(&digest)), "the tenant's log names it");
    machine.ask(INCREMENT).expect("the TPM serves");
}

/// The host carries the file, and so does whoever stores it.
#[test]
fn a_backup_that_was_altered_anywhere_does_not_open() {
    let (stage, disk) = (Stage::new(2), blank());
    let owner = Owner::new(&stage);
    let mut machine = counted(&stage, &disk, 2);
    let ticket = owner.order(&stage);
    assert_eq!(owner.hand_in(&stage, &ticket), Outcome::Open);
    assert_eq!(back_up(&mut machine), Ok(Backup::Kept), "a running instance makes one as well");
    let mut file = owner.file(&stage, &ticket).expect("the broker keeps it");
    assert_eq!(owner.count(&file), Some(2));
    for at in 0..file.len() {
        file[at] ^= 0x40;
        assert_eq!(owner.count(&file), None, "byte {at}");
        file[at] ^= 0x40;
    }
    for cut in [0, BackupHeader::BYTES, file.len() - 1] {
        assert_eq!(owner.count(&file[..cut]), None, "cut at {cut}");
    }
    assert_eq!(owner.count(&[&file[..], &[0]].concat()), None);
}

#[test]
fn a_backup_of_any_size_is_put_together_from_its_parts() {
    let stage = Stage::new(3);
    let owner = Owner::new(&stage);
    for bytes in [1, 4095, 4096, 4097, 3 * 4096, STATE_BYTES_MAX] {
        let state: Vec<u8> = (0..bytes).map(|at| u8::try_from(at % 251).expect("a byte")).collect();
        let (secret, mut header) = owner.header(&stage, bytes);
        secret.seal(&mut header, owner.point(), &mut &*stage.nature).expect("it is sealed");
        let (mut opened, mut sealed) = (Vec::new(), 0);
        let secret = BackupSecret::open(&header, owner.key()).expect("it opens");
        for number in 1..=header.parts() {
            let part = Part::seal(&secret, &header, number, &state).expect("there is a chunk");
            let mut bytes = part.bytes().to_vec();
            sealed += bytes.len();
            let other = open_part(&secret, &header, number + 1, &mut bytes.clone()).err();
            assert_eq!(other, Some(VolumeFault::Damaged), "a part has its place");
            opened.extend_from_slice(open_part(&secret, &header, number, &mut bytes).expect("it opens"));
        }
        assert!(opened == state && Part::seal(&secret, &header, header.parts() + 1, &state).is_err());
        assert_eq!(
            header.total_bytes(),
            u64::try_from(header.as_bytes().len() + sealed).expect("it is small")
        );
        assert!(header.total_bytes() <= u64::try_from(BACKUP_BYTES_MAX).expect("it is small"));
    }
}

/// Whatever goes wrong at whichever step, the TPM loses nothing, and the backup is kept at once or by the next launch.
#[test]
fn a_backup_that_fails_anywhere_is_made_by_the_next_launch() {
    for mishap in Mishap::ALL {
        for step in 0.. {
            let (stage, disk) = (Stage::new(4), blank());
            let owner = Owner::new(&stage);
            let mut machine = counted(&stage, &disk, 1);
            let ticket = owner.order(&stage);
            assert_eq!(owner.hand_in(&stage, &ticket), Outcome::Open);
            let from = stage.steps.get();
            stage.plan.set(Some((from + step, mishap)));
            let made = back_up(&mut machine);
            let was_reached = stage.steps.get() > from + step;
            stage.plan.set(None);
            if !machine.is_dead() {
                assert!(made.is_ok(), "{mishap:?} at {step}: {made:?}");
                assert_eq!(machine.ask(INCREMENT), Ok(2), "{mishap:?} at {step}: the TPM serves");
                machine.shut_down().expect("it ends");
            }
            let mut machine = counted(&stage, &disk, 2);
            let again = back_up(&mut machine).expect("the TPM serves");
            let file = owner.file(&stage, &ticket).expect("the broker keeps it");
            let count = owner.count(&file).expect("it opens");
            assert_eq!(
                again,
                if count == 1 { Backup::Unwanted } else { Backup::Kept },
                "{mishap:?} at {step}"
            );
            if !was_reached {
                assert!(step >= 3, "an order, a header and a part");
                break;
            }
        }
    }
}
