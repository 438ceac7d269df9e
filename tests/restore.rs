//! Laws of restores: a TPM from a backup, in a generation of its own, and everything older refused. Component, protocol and broker are the real ones.
#![expect(clippy::expect_used, reason = "a test says what it expects")]

#[path = "backup/owner.rs"]
mod owner;
#[path = "world/stage.rs"]
mod stage;
#[path = "world/toy.rs"]
mod toy;

use husk::release::ReleaseFault;
use husk::release::restore::OpenedBackup;
use husk::release::statement::{LifeWord, Outcome};
use husk::release::ticket::{Ticket, TicketOrder};
use husk::volume::VolumeFault;
use husk::vtpm::{Backup, Vtpm};
use owner::Owner;
use stage::{LEASE_MS, Machine, Mishap, RamDisk, Stage, blank};
use std::cell::RefCell;
use toy::{CLONED, INCREMENT, NOTE, RESET_COUNT, SHOW, SHOW_NOTE, SPENT};
use zerocopy::IntoBytes;

type Disk = RefCell<RamDisk>;

fn copy_of(disk: &Disk) -> Disk {
    RefCell::new(RamDisk { image: disk.borrow().image.clone() })
}

/// A VM that has counted to 2 when its backup was made, and to 5 since, and then was shut down; its disk, and the backup.
struct Past {
    stage: Stage,
    owner: Owner,
    disk: Disk,
    file: Vec<u8>,
}

impl Past {
    fn new(seed: u64) -> Self {
        let (stage, disk) = (Stage::new(seed), blank());
        let owner = Owner::new(&stage);
        let file = {
            let mut machine = Machine::booted(&stage, &disk);
            let count = |machine: &mut Machine<'_>, to| {
                while machine.ask(SHOW).expect("it shows") < to {
                    machine.ask(INCREMENT).expect("it counts");
                }
            };
            count(&mut machine, 2);
            let ticket = owner.order(&stage);
            assert_eq!(owner.hand_in(&stage, &ticket), Outcome::Open);
            assert_eq!(machine.call(Vtpm::back_up), Ok(Backup::Kept));
            count(&mut machine, 5);
            machine.shut_down().expect("it ends");
            owner.file(&stage, &ticket).expect("the broker keeps it")
        };
        Self { stage, owner, disk, file }
    }

    /// Signs an order to restore the backup, and brings both.
    fn ordered(&self) -> (Ticket, OpenedBackup) {
        let order = self.owner.restore(&self.stage, &self.file);
        assert_eq!(self.owner.bring(&self.stage, &order, &self.file), Some(Outcome::Open));
        order
    }

    fn outcome(&self, order: TicketOrder) -> Outcome {
        let ticket = self.owner.plain(&self.stage, order);
        self.owner.hand_in_alone(&self.stage, &ticket)
    }
}

/// Boots, shows that it is the backup's TPM with every guess spent, and ends.
fn is_restored(stage: &Stage, disk: &Disk) {
    let mut machine = Machine::booted(stage, disk);
    assert_eq!(machine.ask(SHOW), Ok(2), "the backup's state");
    assert!(machine.ask(SHOW_NOTE).expect("it shows") >= SPENT, "what was tried since is taken as tried");
    machine.shut_down().expect("it ends");
}

#[test]
fn a_restore_makes_the_backups_tpm_anew_and_nothing_older_opens() {
    let past = Past::new(1);
    let before = past.owner.statement(&past.stage);
    assert_eq!((before.generation.get(), before.restoring), (0, 0));
    let order = past.ordered();
    assert_eq!(past.owner.bring(&past.stage, &order, &past.file), Some(Outcome::Open), "the answer was lost");
    let ordered = past.owner.statement(&past.stage);
    assert_eq!((ordered.generation.get(), ordered.restoring), (0, 1), "until CONFIRM nothing is restored");
    assert!(ordered.token.get() > before.token.get(), "whatever ran is fenced");

    let new = blank();
    let mut machine = Machine::booted(&past.stage, &new);
    assert_eq!(machine.ask(SHOW), Ok(2));
    assert_eq!(machine.ask(SHOW_NOTE), Ok(SPENT));
    assert_eq!(machine.ask(INCREMENT), Ok(3));
    machine.shut_down().expect("it ends");
    let after = past.owner.statement(&past.stage);
    assert_eq!((after.generation.get(), after.restoring), (1, 0));
    assert!(after.head.sequence.get() > before.head.sequence.get(), "the sequence goes on");
    assert!(past.stage.log().iter().any(|detail| detail.contains("restored to generation 1")));
    assert_eq!(past.owner.bring(&past.stage, &order, &past.file), Some(Outcome::Used), "once");

    // The old disk turns up again.
    let mut machine = Machine::launch(&past.stage, &past.disk);
    assert_eq!(machine.boot(4), Err(VolumeFault::OtherGeneration.fault()));
    let mut machine = Machine::booted(&past.stage, &new);
    assert_eq!(machine.ask(SHOW), Ok(3), "and has done no harm");
}

#[test]
fn what_ran_is_fenced_by_the_order_and_its_lease_is_waited_for() {
    let past = Past::new(2);
    let mut running = Machine::booted(&past.stage, &past.disk);
    assert_eq!(running.ask(INCREMENT), Ok(6));
    past.ordered();
    assert_eq!(running.ask(INCREMENT), Err(ReleaseFault::Fenced.fault()));
    let new = blank();
    let mut machine = Machine::launch(&past.stage, &new);
    assert_eq!(machine.boot_at_once(), Err(ReleaseFault::Busy.fault()), "it may still be answering");
    past.stage.pass_ms(u64::from(LEASE_MS));
    is_restored(&past.stage, &new);
}

/// Until CONFIRM everything is as it was: the order stays open, or is taken back and the old disk opens.
#[test]
fn a_restore_that_fails_anywhere_is_carried_out_by_the_next_launch() {
    let ends = [Mishap::DiesBefore, Mishap::DiesAfter];
    for (onto_blank, mishaps) in [(true, &ends[..]), (false, &Mishap::ALL)] {
        for &mishap in mishaps {
            for step in 0.. {
                let past = Past::new(3);
                past.ordered();
                let disk = if onto_blank { blank() } else { copy_of(&past.disk) };
                let from = past.stage.steps.get();
                past.stage.plan.set(Some((from + step, mishap)));
                let mut machine = Machine::launch(&past.stage, &disk);
                let booted = machine.boot(4).is_ok();
                let was_reached = past.stage.steps.get() > from + step;
                past.stage.plan.set(None);
                machine.kill();
                past.stage.pass_ms(u64::from(LEASE_MS));
                let said = past.owner.statement(&past.stage);
                let done = said.generation.get() == 1;
                assert_eq!(done, said.restoring == 0, "{mishap:?} at {step}");
                assert!(done || !booted, "{mishap:?} at {step}: nothing is served before CONFIRM");
                if !done && !onto_blank {
                    // Taken back, with the old disk in whatever state the attempt left it.
                    assert_eq!(past.outcome(TicketOrder::Halt), Outcome::Done);
                    assert_eq!(past.outcome(TicketOrder::Resume), Outcome::Done);
                    let mut machine = Machine::launch(&past.stage, &disk);
                    machine.boot(4).expect("the old state opens");
                    assert_eq!(machine.ask(SHOW), Ok(5), "{mishap:?} at {step}");
                    machine.kill();
                    past.stage.pass_ms(u64::from(LEASE_MS));
                    past.ordered();
                }
                is_restored(&past.stage, &disk);
                if !was_reached {
                    assert!(step >= 6, "hello, report, grant, order, a part, a write, a flush, CONFIRM");
                    break;
                }
            }
        }
    }
}

/// Two attempts after each other, each cut before its CONFIRM, leave the old state where it was.
#[test]
fn attempts_that_nobody_confirmed_give_way_before_the_old_state_does() {
    let past = Past::new(4);
    past.ordered();
    for _ in 0..3 {
        let mut machine = Machine::launch(&past.stage, &past.disk);
        past.stage.plan.set(Some((past.stage.steps.get() + 7, Mishap::DiesBefore)));
        assert!(machine.boot(4).is_err());
        past.stage.plan.set(None);
    }
    assert_eq!(past.outcome(TicketOrder::Halt), Outcome::Done);
    assert_eq!(past.outcome(TicketOrder::Resume), Outcome::Done);
    let mut machine = Machine::booted(&past.stage, &past.disk);
    assert_eq!(machine.ask(SHOW), Ok(5));
}

#[test]
fn the_same_backup_twice_is_two_generations_and_the_first_does_not_open() {
    let past = Past::new(5);
    let [one, two] = [blank(), blank()];
    past.ordered();
    is_restored(&past.stage, &one);
    let left = copy_of(&one);
    past.ordered();
    is_restored(&past.stage, &two);
    assert_eq!(past.owner.statement(&past.stage).generation.get(), 2);
    let mut machine = Machine::launch(&past.stage, &left);
    assert_eq!(machine.boot(4), Err(VolumeFault::OtherGeneration.fault()));
    let mut machine = Machine::booted(&past.stage, &two);
    assert_eq!(machine.ask(NOTE), Ok(SPENT + 1), "what it does since is its own");
}

/// The day for which a backup is made: nothing is left of what the broker remembered.
#[test]
fn a_broker_that_has_lost_its_database_takes_a_backup_too() {
    let past = Past::new(6);
    let lost = past.owner.statement(&past.stage);
    // The same tenant's keys; the VM is enrolled anew.
    let stage = Stage::new(6);
    let fresh = past.owner.statement(&stage);
    assert_eq!((fresh.life, fresh.token.get()), (LifeWord::Virgin as u8, 0));
    let ticket = past.owner.restore(&stage, &past.file);
    assert_eq!(past.owner.bring(&stage, &ticket, &past.file), Some(Outcome::Open));
    let disk = blank();
    is_restored(&stage, &disk);
    let said = past.owner.statement(&stage);
    assert_eq!((said.life, said.generation.get()), (LifeWord::Active as u8, 1));
    assert!(said.token.get() > 1, "tokens go on from the backup's");
    assert!(said.head.sequence.get() >= 3 && lost.head.sequence.get() >= 3, "and so does the sequence");
    is_kept(&stage, &disk);
}

/// A TPM that was made in a trusted place: of it nothing was tried, unless its VM had a TPM before.
#[test]
fn a_prepared_tpm_is_taken_over_with_every_guess_left_but_only_as_a_vms_first() {
    let past = Past::new(10);
    let stage = Stage::new(10);
    let prepared = past.owner.prepared(&stage, &past.file);
    let order = past.owner.restore(&stage, &prepared);
    assert_eq!(past.owner.bring(&stage, &order, &prepared), Some(Outcome::Open));
    let first = blank();
    let mut machine = Machine::booted(&stage, &first);
    assert_eq!((machine.ask(SHOW), machine.ask(SHOW_NOTE)), (Ok(2), Ok(0)), "as it was made");
    machine.shut_down().expect("it ends");
    let said = past.owner.statement(&stage);
    assert_eq!((said.life, said.generation.get(), said.restoring), (LifeWord::Active as u8, 1, 0));
    assert_eq!(past.owner.bring(&stage, &order, &prepared), Some(Outcome::Used), "once");
    // The tenant orders it again, for a VM that has served it: guesses may have been made since.
    let again = past.owner.restore(&stage, &prepared);
    assert_eq!(past.owner.bring(&stage, &again, &prepared), Some(Outcome::Open));
    let second = blank();
    is_restored(&stage, &second);
    let mut machine = Machine::launch(&stage, &first);
    assert_eq!(machine.boot(4), Err(VolumeFault::OtherGeneration.fault()));
}

fn is_kept(stage: &Stage, disk: &Disk) {
    let mut machine = Machine::booted(stage, disk);
    assert_eq!(machine.ask(INCREMENT), Ok(3), "it is a VM like any other");
}

#[test]
fn nothing_is_ordered_but_a_whole_backup_of_this_vm_that_opens() {
    let past = Past::new(7);
    let (stage, owner) = (&past.stage, &past.owner);
    let before = owner.statement(stage);
    let honest = owner.restore(stage, &past.file);
    let mut altered = past.file.clone();
    *altered.last_mut().expect("a byte") ^= 1;
    assert_eq!(owner.bring(stage, &honest, &altered), Some(Outcome::Untrusted), "not the one that is named");
    let named = owner.restore(stage, &altered);
    assert_eq!(owner.bring(stage, &named, &altered), Some(Outcome::Untrusted), "it does not open");
    let shorter = &past.file[..past.file.len() - 1];
    let named = owner.restore(stage, shorter);
    assert_eq!(owner.bring(stage, &named, shorter), Some(Outcome::Untrusted), "it is cut");
    let stranger = Owner::new(stage);
    let other_key = (honest.0, stranger.restore(stage, &past.file).1);
    assert_eq!(owner.bring(stage, &other_key, &past.file), Some(Outcome::Untrusted), "another backup's key");
    assert_eq!(owner.hand_in_alone(stage, &honest.0), Outcome::Asked, "an order without its backup is none");
    for at in [0, 120, 300, Ticket::BYTES - 1] {
        let mut changed = honest;
        changed.0.as_mut_bytes()[at] ^= 1;
        let outcome = owner.bring(stage, &changed, &past.file);
        assert!(matches!(outcome, None | Some(Outcome::Untrusted)), "byte {at}: {outcome:?}");
    }
    let after = owner.statement(stage);
    assert_eq!((after.token, after.restoring), (before.token, 0), "nothing was changed");
    let stale = owner.restore(stage, &past.file);
    drop(Machine::booted(stage, &past.disk));
    assert_eq!(owner.bring(stage, &stale, &past.file), Some(Outcome::Overtaken));
    past.stage.pass_ms(u64::from(LEASE_MS));
    let mut machine = Machine::booted(stage, &past.disk);
    assert_eq!(machine.ask(SHOW), Ok(5), "and the VM goes on");
}

/// Another VM of the tenant's, with a name and a broker's row of its own.
const OTHER: [u8; 16] = [9; 16];

#[test]
fn a_clone_is_another_tpm_and_the_original_goes_on() {
    let past = Past::new(8);
    let stage = Stage::of_vm(8, OTHER);
    let order = past.owner.clone(&stage, &past.file);
    assert_eq!(past.owner.bring(&stage, &order, &past.file), Some(Outcome::Open));
    let whose = format!("clone of VM {}'s", hex::encode(past.stage.launch.vm));
    assert!(stage.log().iter().any(|detail| detail.contains(&whose)), "the tenant's log says so");
    let disk = blank();
    let mut machine = Machine::booted(&stage, &disk);
    assert_eq!(machine.ask(SHOW), Ok(2 + CLONED), "the engine was told to make another TPM of it");
    assert_eq!(machine.ask(RESET_COUNT), Ok(1), "whose first power-on this is");
    assert_eq!(machine.ask(SHOW_NOTE), Ok(0), "and in which nothing was tried");
    assert_eq!(machine.ask(INCREMENT), Ok(3 + CLONED));
    machine.shut_down().expect("it ends");
    let mut machine = Machine::booted(&stage, &disk);
    assert_eq!((machine.ask(SHOW), machine.ask(RESET_COUNT)), (Ok(3 + CLONED), Ok(2)), "once");
    let again = past.owner.bring(&stage, &past.owner.clone(&stage, &past.file), &past.file);
    assert_eq!(again, Some(Outcome::Barred), "a VM that has a TPM becomes no clone");
    let mut original = Machine::booted(&past.stage, &past.disk);
    assert_eq!(original.ask(INCREMENT), Ok(6), "nothing has happened to it");
    let mut wrong = Machine::launch(&past.stage, &disk);
    past.stage.pass_ms(2 * u64::from(LEASE_MS));
    assert_eq!(wrong.boot(4), Err(VolumeFault::OtherVm.fault()), "and the clone's disk is not its own");
}

#[test]
fn a_vm_is_no_clone_of_itself_and_no_other_is_restored_from_its_backup() {
    let past = Past::new(9);
    let itself = past.owner.clone(&past.stage, &past.file);
    assert_eq!(past.owner.bring(&past.stage, &itself, &past.file), Some(Outcome::Untrusted));
    let stage = Stage::of_vm(9, OTHER);
    let restore = past.owner.restore(&stage, &past.file);
    assert_eq!(past.owner.bring(&stage, &restore, &past.file), Some(Outcome::Untrusted));
    let disk = blank();
    let mut machine = Machine::booted(&stage, &disk);
    assert_eq!(machine.ask(SHOW), Ok(0), "a TPM of its own");
}
