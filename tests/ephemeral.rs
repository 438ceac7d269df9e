//! Laws of a TPM that keeps nothing: made at each launch that a broker grants, forgotten with it, never on a disk. Component, protocol and broker are the real
//! ones.
#![expect(clippy::expect_used, reason = "a test says what it expects")]

#[path = "backup/owner.rs"]
mod owner;
#[path = "world/stage.rs"]
mod stage;
#[path = "world/toy.rs"]
mod toy;

use husk::attest::launch::{Kbs, LaunchConfig, Mode, Serve, Staleness};
use husk::frontend::svsm::{Attested as _, Persistence, Serving};
use husk::nv::NvFault;
use husk::release::statement::{LifeWord, Outcome, Statement};
use husk::release::ticket::TicketOrder;
use husk::release::{Head, ReleaseFault};
use husk::seams::{Cells, DerivedKeyRequest};
use husk::volume::blocks::BLOCK_BYTES;
use husk::volume::suspend::SUSPEND_BYTES_MAX;
use husk::vtpm::{Backup, FlashOrigin, Vtpm, VtpmFault};
use owner::Owner;
use stage::{LEASE_MS, Machine, Mishap, RamDisk, Stage, blank};
use std::cell::RefCell;
use toy::{INCREMENT, MEASURE, RESET_COUNT, SHOW};

type Disk = RefCell<RamDisk>;

/// TPM2_Clear.
const CLEAR: u32 = 0x126;
/// TPM2_Startup.
const STARTUP: u32 = 0x144;

fn is_blank(disk: &Disk) -> bool {
    disk.borrow().image.iter().all(|byte| *byte == 0)
}

fn statement(stage: &Stage) -> Statement {
    Owner::new(stage).statement(stage)
}

#[test]
fn what_was_stored_ends_with_the_launch_and_nothing_is_on_a_disk() {
    for serve in [Serve::Lease, Serve::PerCommand, Serve::Detect] {
        let (stage, disk) = (Stage::ephemeral(1, serve), blank());
        let mut last = 0;
        for _ in 0..3 {
            let mut machine = Machine::booted(&stage, &disk);
            machine.ask(STARTUP).expect("it starts");
            assert_eq!(machine.ask(SHOW), Ok(0), "it begins with nothing");
            assert_eq!(machine.ask(INCREMENT), Ok(1));
            machine.reset().expect("a guest may reset");
            assert_eq!(machine.ask(SHOW), Ok(1), "as long as the launch lasts it remembers");
            let resets = machine.ask(RESET_COUNT).expect("it shows");
            assert!(resets > last, "each launch and each reset has a token of its own");
            last = resets;
            machine.shut_down().expect("it ends");
            assert!(is_blank(&disk));
        }
    }
}

#[test]
fn the_broker_knows_of_the_launch_and_of_no_state() {
    let (stage, disk) = (Stage::ephemeral(2, Serve::Lease), blank());
    let before = statement(&stage);
    assert_eq!((before.life, before.confirmed), (LifeWord::Virgin as u8, 0));
    let mut machine = Machine::booted(&stage, &disk);
    let said = statement(&stage);
    assert_eq!((said.life, said.confirmed, said.released), (LifeWord::Ephemeral as u8, 1, 0));
    assert_eq!((Head::from(&said.head), said.epoch.get(), said.token.get()), (Head::NONE, 0, 1));
    let steps = stage.steps.get();
    for count in 1..=20 {
        assert_eq!(machine.ask(INCREMENT), Ok(count));
        machine.ask(MEASURE).expect("it measures");
    }
    assert_eq!(stage.steps.get(), steps, "no commit goes to a disk or to the broker");
    machine.shut_down().expect("it ends");
    assert_eq!(statement(&stage).released, 1);
    let log = stage.log();
    let told = |what: &str| log.iter().filter(|entry| entry.contains(what)).count();
    assert_eq!(
        (told("to run a TPM that keeps nothing"), told("of a TPM that keeps nothing")),
        (1, 1),
        "{log:?}"
    );
}

#[test]
fn what_resetcount_is_counted_from_is_told() {
    let (stage, disk) = (Stage::ephemeral(3, Serve::Lease), blank());
    let mut machine = Machine::booted(&stage, &disk);
    machine.ask(STARTUP).expect("it starts");
    machine.reset().expect("it resets");
    machine.ask(STARTUP).expect("it starts");
    machine.ask(CLEAR).expect("it clears");
    assert_eq!((statement(&stage).token.get(), statement(&stage).reset_base.get()), (2, 2));
    machine.reset().expect("it resets");
    assert_eq!(machine.ask(RESET_COUNT), Ok(u64::from(statement(&stage).reset_count())));
    assert_eq!(machine.ask(RESET_COUNT), Ok(1));
    machine.shut_down().expect("it ends");
    let mut machine = Machine::booted(&stage, &disk);
    assert_eq!(statement(&stage).reset_base.get(), 0, "another TPM counts anew");
    assert_eq!(machine.ask(RESET_COUNT), Ok(4));
}

#[test]
fn the_older_instance_is_waited_for_and_fenced() {
    let (stage, disks) = (Stage::ephemeral(4, Serve::Lease), [blank(), blank()]);
    let mut older = Machine::booted(&stage, &disks[0]);
    assert_eq!(older.ask(INCREMENT), Ok(1));
    let refused = Machine::launch(&stage, &disks[1]).boot_at_once();
    assert_eq!(refused, Err(ReleaseFault::Busy.fault()), "it may still be answering");
    stage.pass_ms(u64::from(LEASE_MS));
    let mut newer = Machine::booted(&stage, &disks[1]);
    assert_eq!(newer.ask(SHOW), Ok(0));
    assert_eq!(older.ask(SHOW), Err(ReleaseFault::Fenced.fault()));
    assert!(disks.iter().all(is_blank));
}

/// Where it is told of to nobody, it answers nothing; and whatever happens, the next launch is granted.
#[test]
fn a_launch_that_is_cut_anywhere_leaves_the_way_free_for_the_next() {
    for mishap in Mishap::ALL {
        for step in 0.. {
            let (stage, disk) = (Stage::ephemeral(5, Serve::Lease), blank());
            let from = stage.steps.get();
            stage.plan.set(Some((from + step, mishap)));
            let mut machine = Machine::launch(&stage, &disk);
            let booted_at_all = machine.boot(4).is_ok();
            let answers = booted_at_all && machine.ask(INCREMENT).is_ok();
            let was_reached = stage.steps.get() > from + step;
            stage.plan.set(None);
            let dies = matches!(mishap, Mishap::DiesBefore | Mishap::DiesAfter);
            assert!(answers || dies && was_reached, "{mishap:?} at {step}: what is lost is asked for again");
            assert!(!answers || statement(&stage).confirmed == 1, "{mishap:?} at {step}");
            machine.kill();
            stage.pass_ms(u64::from(LEASE_MS));
            assert_eq!(Machine::booted(&stage, &disk).ask(SHOW), Ok(0), "{mishap:?} at {step}");
            assert!(is_blank(&disk));
            if !was_reached {
                assert!(step >= 4, "hello, report, grant, CONFIRM");
                break;
            }
        }
    }
}

#[test]
fn it_needs_its_lease_and_no_more_than_that() {
    let (stage, disk) = (Stage::ephemeral(6, Serve::Lease), blank());
    let mut machine = Machine::booted(&stage, &disk);
    stage.cut_off.set(true);
    stage.pass_ms(u64::from(LEASE_MS) / 4);
    assert_eq!(machine.ask(INCREMENT), Ok(1), "what is written waits for no anchor");
    stage.pass_ms(u64::from(LEASE_MS));
    assert_eq!(machine.ask(SHOW), Err(ReleaseFault::LeaseOver.fault()));
    assert!(machine.ask(MEASURE).is_ok(), "what tells of nothing needs nothing");
    stage.cut_off.set(false);
    assert_eq!(machine.ask(SHOW), Ok(1));
}

#[test]
fn there_is_nothing_to_suspend_to_copy_or_to_restore() {
    let (stage, disk) = (Stage::ephemeral(7, Serve::Lease), blank());
    let mut machine = Machine::booted(&stage, &disk);
    assert_eq!(machine.ask(INCREMENT), Ok(1));
    let mut room = vec![0xA5; SUSPEND_BYTES_MAX];
    let suspended = machine.call(|vtpm, platform| vtpm.suspend(platform, &mut room));
    assert_eq!(suspended, Err(NvFault::NothingKept.fault()));
    assert!(room.iter().all(|byte| *byte == 0));
    assert_eq!(
        machine.call(|vtpm, platform| vtpm.resume(platform, &mut room)),
        Err(VtpmFault::NothingSuspended.fault())
    );
    machine.reset().expect("only a reset brings it back");
    assert_eq!(machine.ask(SHOW), Ok(1));
    let owner = Owner::new(&stage);
    assert_eq!(owner.hand_in(&stage, &owner.order(&stage)), Outcome::Barred);
    assert_eq!(machine.call(Vtpm::back_up), Ok(Backup::Unwanted));

    // A backup of a TPM that is kept, brought for one that is not.
    let (other, other_disk) = (Stage::new(7), blank());
    let of_other = Owner::new(&other);
    let mut kept = Machine::booted(&other, &other_disk);
    let ticket = of_other.order(&other);
    assert_eq!(of_other.hand_in(&other, &ticket), Outcome::Open);
    assert_eq!(kept.call(Vtpm::back_up), Ok(Backup::Kept));
    let file = of_other.file(&other, &ticket).expect("the broker keeps it");
    let order = owner.restore(&stage, &file);
    assert_ne!(owner.bring(&stage, &order, &file), Some(Outcome::Open));
    assert_eq!(machine.ask(SHOW), Ok(1), "it goes on");
}

/// A UEFI firmware's variables in memory.
struct Variables(Vec<u8>);

impl Cells for Variables {
    fn size_bytes(&self) -> usize {
        self.0.len()
    }

    fn copy_in(&self, offset: usize, into: &mut [u8]) {
        into.fill(0xFF);
        let shown = self.0.get(offset..).unwrap_or_default();
        into.iter_mut().zip(shown).for_each(|(to, from)| *to = *from);
    }

    fn copy_out(&mut self, offset: usize, from: &[u8]) {
        let cells = self.0.get_mut(offset..).unwrap_or_default();
        cells.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }
}

#[test]
fn a_firmwares_variables_end_with_the_launch_too() {
    /// Programs a byte (Intel 290606, "Word/byte program").
    const PROGRAM: u8 = 0x40;
    let (stage, disk) = (Stage::ephemeral(11, Serve::Lease), blank());
    for _ in 0..2 {
        let mut machine = Machine::booted(&stage, &disk);
        let mut cells = Variables(vec![0xFF; 2 * BLOCK_BYTES]);
        let opened = machine.call(|vtpm, platform| vtpm.open_flash(platform, &mut cells));
        let (mut flash, origin) = opened.expect("they are taken as they are");
        assert_eq!((origin, flash.changed().is_empty()), (FlashOrigin::Brought, true));
        assert_eq!(machine.call(|vtpm, _| Ok(vtpm.keeps_flash())), Ok(false));
        let steps = stage.steps.get();
        flash.write(&mut cells, 7, &[PROGRAM]);
        flash.write(&mut cells, 7, &[0x5A]);
        assert!(!flash.changed().is_empty());
        machine.call(|vtpm, platform| vtpm.keep_flash(platform, &cells, &mut flash)).expect("it is kept");
        assert!(flash.changed().is_empty());
        assert_eq!((cells.0[7], stage.steps.get()), (0x5A, steps), "nobody is asked");
        machine.shut_down().expect("it ends");
    }
    assert!(is_blank(&disk));
}

#[test]
fn orders_stop_it_and_let_it_go_on_as_any_other() {
    let (stage, disk) = (Stage::ephemeral(8, Serve::Lease), blank());
    let owner = Owner::new(&stage);
    let ordered = |order| owner.hand_in_alone(&stage, &owner.plain(&stage, order));
    let mut machine = Machine::booted(&stage, &disk);
    assert_eq!(ordered(TicketOrder::Force), Outcome::Open);
    let mut forced = Machine::launch(&stage, &disk);
    forced.boot_at_once().expect("it does not wait");
    assert_eq!(statement(&stage).forced, 0, "once");
    assert_eq!(machine.ask(SHOW), Ok(0), "for as long as its lease lasts, which the statement says");
    assert!(statement(&stage).overlap_ms.get() > 0);
    assert_eq!(ordered(TicketOrder::Halt), Outcome::Done);
    assert_eq!(forced.ask(INCREMENT), Ok(1), "within its lease");
    stage.pass_ms(u64::from(LEASE_MS));
    assert_eq!(forced.ask(SHOW), Err(ReleaseFault::Fenced.fault()));
    assert!(Machine::launch(&stage, &disk).boot(2).is_err());
    assert_eq!(ordered(TicketOrder::Resume), Outcome::Done);
    Machine::booted(&stage, &disk);
    assert_eq!(ordered(TicketOrder::Retire), Outcome::Done);
    stage.pass_ms(u64::from(LEASE_MS));
    assert!(Machine::launch(&stage, &disk).boot(2).is_err());
}

#[test]
fn it_says_what_it_is() {
    let (stage, disk) = (Stage::ephemeral(9, Serve::Lease), blank());
    let mut machine = Machine::booted(&stage, &disk);
    machine.call(Vtpm::offer_attestation).expect("a reset");
    machine.served(|served| {
        let facts = served.facts().expect("facts");
        assert_eq!((facts.persistence, facts.serving), (Persistence::Ephemeral, Serving::Lease));
        assert_eq!((facts.identity.tenant, facts.identity.vm), (stage.launch.tenant, stage.launch.vm));
        assert_eq!((facts.epoch, facts.head, facts.token), (0, Head::NONE, 1));
    });
}

/// Everything that goes into a key needs a key to go into.
#[test]
fn its_configuration_asks_for_no_key() {
    let stage = Stage::ephemeral(10, Serve::Lease);
    let own = stage.launch;
    assert_eq!((own.mode, own.supported()), (Mode::Ephemeral, Ok(())));
    let staleness = "\"husk.staleness_commits\" = \"1\"\n\"husk.staleness_s\" = \"1\"\n\"husk.staleness_nv\" = \"01500000-01500001\"\n";
    let mut text = String::new();
    own.write(&mut text).expect("a configuration");
    let stale = LaunchConfig::parse((text + staleness).as_bytes()).expect("it parses");
    assert!(matches!(stale.staleness, Some(Staleness { commits: 1, .. })));
    let processor = Some(DerivedKeyRequest { guest_svn: None, tcb: None });
    for other in [
        LaunchConfig { kbs: Kbs::Required, ..own },
        LaunchConfig { processor, ..own },
        LaunchConfig { serve: Serve::Nothing, ..own },
        stale,
    ] {
        assert!(other.bind(&other.host_data()).is_err(), "{other:?}");
    }
}
