//! Laws of serving without a trusted clock: the broker permits each command, or a second instance shows afterwards.
#![expect(clippy::expect_used, reason = "a test says what it expects")]

#[path = "world/stage.rs"]
mod stage;
#[path = "world/toy.rs"]
mod toy;

use husk::attest::launch::Serve;
use husk::engine::ResponseCode;
use husk::release::ReleaseFault;
use stage::{LEASE_MS, Machine, Mishap, RamDisk, Stage};
use std::cell::RefCell;
use toy::{INCREMENT, KEYED, MEASURE, RESET_COUNT, SHOW};

/// TPM2_Startup.
const STARTUP: u32 = 0x144;
/// The ways without a clock.
const CLOCKLESS: [Serve; 2] = [Serve::PerCommand, Serve::Detect];

fn blank() -> RefCell<RamDisk> {
    RefCell::new(RamDisk { image: vec![0; 64 * 1024] })
}

fn copy(from: &RefCell<RamDisk>, to: &RefCell<RamDisk>) {
    to.borrow_mut().image.clone_from(&from.borrow().image);
}

/// How many exchanges and disk steps `act` takes.
fn steps(stage: &Stage, act: impl FnOnce()) -> usize {
    let before = stage.steps.get();
    act();
    stage.steps.get() - before
}

/// An older instance that the host kept, and a newer one on a copy of its disk.
fn fork<'s>(stage: &'s Stage, disks: &'s [RefCell<RamDisk>; 2]) -> [Machine<'s>; 2] {
    let mut older = Machine::launch(stage, &disks[0]);
    older.boot(1).expect("it boots");
    older.ask(STARTUP).expect("it starts");
    assert_eq!(older.ask(INCREMENT), Ok(1));
    stage.pass_ms(u64::from(LEASE_MS));
    copy(&disks[0], &disks[1]);
    let mut newer = Machine::launch(stage, &disks[1]);
    newer.boot(1).expect("the lease is over");
    newer.ask(STARTUP).expect("it starts");
    [older, newer]
}

#[test]
fn without_a_clock_the_broker_permits_each_command_and_each_needs_its_own_permission() {
    let (stage, disk) = (Stage::serving(1, Serve::PerCommand), blank());
    let mut machine = Machine::launch(&stage, &disk);
    machine.boot(1).expect("it boots");
    for _ in 0..3 {
        assert_eq!(steps(&stage, || assert_eq!(machine.ask(SHOW), Ok(0))), 1, "one exchange a read");
        assert_eq!(steps(&stage, || assert_eq!(machine.ask(MEASURE), Ok(0))), 0, "none a measurement");
    }
    // RENEW, write, flush, ANCHOR; and the ANCHORED is the right to answer.
    assert_eq!(steps(&stage, || assert_eq!(machine.ask(INCREMENT), Ok(1))), 4);
    // What was permitted to one command is of no use to the next.
    stage.cut_off.set(true);
    assert_eq!(machine.ask(SHOW), Err(ReleaseFault::LeaseOver.fault()));
}

#[test]
fn where_each_command_is_permitted_an_older_instance_answers_nothing_more() {
    let (stage, disks) = (Stage::serving(2, Serve::PerCommand), [blank(), blank()]);
    let [mut older, mut newer] = fork(&stage, &disks);
    assert_eq!(newer.ask(SHOW), Ok(1));
    assert_eq!(older.ask(SHOW), Err(ReleaseFault::Fenced.fault()));
    assert_eq!(older.ask(MEASURE), Err(ReleaseFault::Fenced.fault()), "for good");
    assert_eq!(newer.ask(INCREMENT), Ok(2));
}

#[test]
fn where_forks_are_only_detected_the_older_answers_on_under_another_reset_count_and_commits_nothing() {
    let (stage, disks) = (Stage::serving(3, Serve::Detect), [blank(), blank()]);
    let [mut older, mut newer] = fork(&stage, &disks);
    assert_eq!(newer.ask(INCREMENT), Ok(2));
    assert_eq!(older.ask(SHOW), Ok(1), "nobody keeps it from answering: that is what detect says");
    let counts = [&mut older, &mut newer].map(|one| one.ask(RESET_COUNT).expect("it shows its reset count"));
    assert!(counts[0] < counts[1], "a quote tells them apart: {counts:?}");
    let image = disks[0].borrow().image.clone();
    assert_eq!(older.ask(INCREMENT), Err(ReleaseFault::Fenced.fault()));
    assert_eq!(disks[0].borrow().image, image, "and nothing is written");
    assert_eq!(older.ask(SHOW), Err(ReleaseFault::Fenced.fault()), "who learns of it is over");
}

#[test]
fn an_unreachable_broker_stops_what_is_gated_before_it_runs_and_it_recovers_without_a_restart() {
    for serve in CLOCKLESS {
        let (stage, disk) = (Stage::serving(4, serve), blank());
        let mut machine = Machine::launch(&stage, &disk);
        machine.boot(1).expect("it boots");
        assert_eq!(machine.ask(INCREMENT), Ok(1));
        let image = disk.borrow().image.clone();
        stage.cut_off.set(true);
        for code in [INCREMENT, KEYED] {
            assert_eq!(machine.ask(code), Err(ReleaseFault::Unreachable.fault()), "{serve:?}");
            assert_eq!(machine.code_of(code), ResponseCode::NV_UNAVAILABLE);
        }
        assert_eq!(disk.borrow().image, image, "nothing was executed");
        let read = if serve == Serve::Detect { Ok(1) } else { Err(ReleaseFault::LeaseOver.fault()) };
        assert_eq!(machine.ask(SHOW), read);
        assert_eq!(machine.ask(MEASURE), Ok(1), "measurements wait for nobody");
        machine.measure().expect("of locality 4 neither");
        stage.cut_off.set(false);
        assert_eq!(machine.ask(INCREMENT), Ok(2), "{serve:?}");
    }
}

#[test]
fn without_a_clock_nothing_acknowledged_is_lost_wherever_it_dies() {
    for serve in CLOCKLESS {
        let story = |stage: &Stage, disk: &RefCell<RamDisk>| {
            let mut machine = Machine::launch(stage, disk);
            let mut acknowledged = 0;
            if machine.boot(4).is_ok() {
                for _ in 0..2 {
                    acknowledged = machine.ask(INCREMENT).unwrap_or(acknowledged);
                }
                machine.reset().ok();
                acknowledged = machine.ask(INCREMENT).unwrap_or(acknowledged);
            }
            machine.kill();
            acknowledged
        };
        let steps = {
            let (stage, disk) = (Stage::serving(5, serve), blank());
            assert_eq!(story(&stage, &disk), 3);
            stage.steps.get()
        };
        for mishap in Mishap::ALL {
            for step in 0..steps {
                let (stage, disk) = (Stage::serving(5, serve), blank());
                stage.plan.set(Some((step, mishap)));
                let acknowledged = story(&stage, &disk);
                stage.plan.set(None);
                let mut next = Machine::launch(&stage, &disk);
                next.boot(8).expect("an honest disk always boots");
                let found = next.ask(SHOW).expect("it shows the counter");
                assert!((acknowledged..=acknowledged + 1).contains(&found), "{serve:?} {mishap:?} at {step}");
            }
        }
    }
}
