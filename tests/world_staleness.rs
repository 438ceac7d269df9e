//! Laws of bounded staleness: what a boot may lose is the newest of what may be stale, as much as the tenant allowed, and nothing
//! else, whatever disk a host shows and whoever dies.
#![expect(clippy::expect_used, reason = "a test says what it expects")]

#[path = "world/stage.rs"]
mod stage;
#[path = "world/toy.rs"]
mod toy;

use husk::attest::launch::{NvIndices, Staleness};
use husk::fault::Family;
use husk::frontend::svsm::{Attested as _, Persistence};
use husk::release::ReleaseFault;
use stage::{LEASE_MS, Machine, Mishap, RamDisk, Stage};
use std::cell::RefCell;
use toy::{CALLS_ALL_STALE, INCREMENT, MEASURE, NOTE, SHOW, SHOW_NOTE};

/// TPM2_Startup.
const STARTUP: u32 = 0x144;
const COMMITS: u64 = 3;
const STALE: Staleness = match NvIndices::new(0x0180_0000, 0x0180_00FF) {
    Some(indices) => Staleness { commits: 3, seconds: 60, indices },
    None => panic!("they are indices"),
};

type Disk = RefCell<RamDisk>;

fn blank() -> Disk {
    RefCell::new(RamDisk { image: vec![0; 64 * 1024] })
}

fn copy(disk: &Disk) -> Disk {
    RefCell::new(RamDisk { image: disk.borrow().image.clone() })
}

fn started<'s>(stage: &'s Stage, disk: &'s Disk) -> Machine<'s> {
    let mut machine = Machine::launch(stage, disk);
    machine.boot(8).expect("it boots");
    machine.ask(STARTUP).expect("it starts");
    machine
}

/// What a launch on a copy of this disk remembers: counter and note; nothing where it is refused.
fn shown(stage: &Stage, disk: &Disk) -> Option<(u64, u64)> {
    let disk = copy(disk);
    let mut machine = Machine::launch(stage, &disk);
    let booted = machine.boot(8);
    if let Err(fault) = booted {
        assert_eq!(fault.family(), Family::Seal, "{fault:?}");
        return None;
    }
    machine.ask(STARTUP).expect("it starts");
    let shown = (machine.ask(SHOW).expect("it shows"), machine.ask(SHOW_NOTE).expect("it shows"));
    machine.kill();
    Some(shown)
}

/// Whether a host that shows an older disk, of the state behind each command of `script`, makes a boot lose more than it may:
/// anything of the counter, or more than so many notes.
fn too_much_is_lost(script: &[u32]) -> bool {
    (0..=script.len()).any(|cut| {
        let (stage, disk) = (Stage::stale(1, STALE), blank());
        let mut machine = started(&stage, &disk);
        let mut told = (0, 0);
        let mut kept = copy(&disk);
        for (at, command) in script.iter().enumerate() {
            let number = machine.ask(*command).expect("it answers");
            match *command {
                NOTE => told.1 = number,
                _ => told.0 = number,
            }
            if at < cut {
                kept = copy(&disk);
            }
        }
        machine.kill();
        let lost = |(counter, note): (u64, u64)| counter < told.0 || note + COMMITS < told.1 || note > told.1;
        shown(&stage, &kept).is_some_and(lost)
    })
}

const SCRIPTS: [&[u32]; 4] = [
    &[NOTE, NOTE, NOTE, NOTE, NOTE, NOTE, NOTE, NOTE],
    &[NOTE, NOTE, INCREMENT],
    &[NOTE, INCREMENT, NOTE, NOTE, INCREMENT, NOTE],
    &[INCREMENT, NOTE, NOTE, NOTE, INCREMENT, INCREMENT],
];

#[test]
fn a_boot_loses_no_more_than_the_tenant_allowed_and_never_what_is_strict() {
    for script in SCRIPTS {
        assert!(!too_much_is_lost(script), "{script:x?}");
    }
}

/// Amendment 12: the classifier forgets a field.
#[test]
fn the_mutant_whose_classifier_forgets_a_field_is_found() {
    CALLS_ALL_STALE.set(true);
    let found = SCRIPTS.iter().any(|script| too_much_is_lost(script));
    CALLS_ALL_STALE.set(false);
    assert!(found, "a strict commit is lost, and nobody noticed");
}

/// A write and a flush; and an exchange where it is anchored.
#[test]
fn deferred_commits_ask_nobody_until_so_many_wait() {
    let (stage, disk) = (Stage::stale(2, STALE), blank());
    let mut machine = started(&stage, &disk);
    machine.ask(INCREMENT).expect("it counts");
    let mut steps_of = |code| {
        let before = stage.steps.get();
        machine.ask(code).expect("it answers");
        stage.steps.get() - before
    };
    assert_eq!([NOTE, NOTE, NOTE, NOTE, NOTE, INCREMENT, NOTE].map(&mut steps_of), [2, 2, 2, 3, 2, 3, 2]);
    machine.kill();
    assert_eq!(shown(&stage, &disk), Some((2, 6)), "an honest disk loses nothing");
}

#[test]
fn a_tpm_whose_commits_may_wait_says_so_and_shows_the_head_that_is_anchored() {
    let (stage, disk) = (Stage::stale(8, STALE), blank());
    let mut machine = started(&stage, &disk);
    machine.call(|vtpm, platform| vtpm.offer_attestation(platform)).expect("a reset");
    machine.ask(STARTUP).expect("it starts");
    let before = machine.served(|tpm| tpm.facts()).expect("facts");
    assert_eq!(before.persistence, Persistence::Bounded);
    machine.ask(NOTE).expect("it notes");
    let facts = machine.served(|tpm| tpm.facts()).expect("facts");
    assert_eq!(facts.head, before.head, "the note waits");
    machine.ask(INCREMENT).expect("it counts");
    let facts = machine.served(|tpm| tpm.facts()).expect("facts");
    assert_eq!(facts.head.sequence, before.head.sequence + 2);
}

#[test]
fn without_the_tenants_word_every_commit_is_anchored() {
    let (stage, disk) = (Stage::new(3), blank());
    let mut machine = started(&stage, &disk);
    machine.ask(NOTE).expect("it notes");
    let older = copy(&disk);
    let before = stage.steps.get();
    machine.ask(NOTE).expect("it notes");
    assert_eq!(stage.steps.get() - before, 3);
    machine.kill();
    assert_eq!(shown(&stage, &older), None);
}

#[test]
fn nothing_waits_for_longer_than_it_may_while_anything_is_asked() {
    let (stage, disk) = (Stage::stale(4, STALE), blank());
    let mut machine = started(&stage, &disk);
    machine.ask(INCREMENT).expect("it counts");
    let older = copy(&disk);
    machine.ask(NOTE).expect("it notes");
    stage.pass_ms(60_000);
    stage.cut_off.set(true);
    for _ in 0..3 {
        assert_eq!(machine.ask(SHOW_NOTE), Err(ReleaseFault::Unreachable.fault()));
        assert!(machine.ask(MEASURE).is_ok(), "a measurement needs nobody");
        assert_eq!(machine.ask(NOTE), Err(ReleaseFault::Unreachable.fault()));
    }
    stage.cut_off.set(false);
    assert_eq!(machine.ask(SHOW_NOTE), Ok(1), "nothing was executed meanwhile");
    machine.kill();
    assert_eq!(shown(&stage, &older), None, "it is anchored by now");
    assert_eq!(shown(&stage, &disk), Some((1, 1)));
}

#[test]
fn nothing_waits_behind_a_shutdown_or_a_reset() {
    let ends: [fn(&mut Machine<'_>); 2] =
        [|machine| machine.shut_down().expect("an orderly end"), |machine| machine.reset().expect("a reset")];
    for end in ends {
        let (stage, disk) = (Stage::stale(5, STALE), blank());
        let mut machine = started(&stage, &disk);
        machine.ask(INCREMENT).expect("it counts");
        let older = copy(&disk);
        machine.ask(NOTE).expect("it notes");
        end(&mut machine);
        machine.kill();
        assert_eq!(shown(&stage, &older), None);
        assert_eq!(shown(&stage, &disk), Some((1, 1)));
    }
}

/// What an instance deferred before a newer one was confirmed is nothing to any later launch.
#[test]
fn an_older_instances_chain_is_nothing_after_a_newer_token() {
    let (stage, disk) = (Stage::stale(6, STALE), blank());
    let mut older = started(&stage, &disk);
    older.ask(INCREMENT).expect("it counts");
    let other = copy(&disk);
    older.ask(NOTE).expect("it notes");
    stage.pass_ms(u64::from(LEASE_MS) * 2);
    let mut newer = started(&stage, &other);
    assert_eq!(newer.ask(SHOW_NOTE), Ok(0), "the host hid the note, as it may");
    assert_eq!(older.ask(NOTE), Err(ReleaseFault::Fenced.fault()));
    older.kill();
    newer.kill();
    assert_eq!(shown(&stage, &disk), None);
    assert_eq!(shown(&stage, &other), Some((1, 0)));
}

/// Whoever dies, and whatever is lost on the way, at every step: an honest disk loses nothing that was answered.
#[test]
fn faults_at_every_step_lose_nothing_on_an_honest_disk() {
    const SCRIPT: [u32; 8] = [NOTE, INCREMENT, NOTE, NOTE, NOTE, NOTE, INCREMENT, NOTE];
    let mut struck = 0;
    for (step, mishap) in (0..20).flat_map(|step| Mishap::ALL.map(|mishap| (step, mishap))) {
        let (stage, disk) = (Stage::stale(7, STALE), blank());
        let mut machine = started(&stage, &disk);
        let first = stage.steps.get();
        stage.plan.set(Some((first + step, mishap)));
        let mut told = (0, 0);
        let mut asked = 0;
        for command in SCRIPT {
            asked += 1;
            match (machine.ask(command), command) {
                (Ok(number), NOTE) => told.1 = number,
                (Ok(number), _) => told.0 = number,
                (Err(_), _) => break,
            }
        }
        struck += u32::from(stage.steps.get() > first + step);
        stage.plan.set(None);
        machine.kill();
        let (counter, note) = shown(&stage, &disk).expect("an honest disk always boots");
        let all = counter + note;
        assert!(
            counter >= told.0 && note >= told.1 && all <= asked,
            "{step} {mishap:?}: {told:?}, {counter} {note}"
        );
    }
    assert!(struck > 100, "{struck}");
}
