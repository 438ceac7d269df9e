//! Laws of the whole: component, protocol, broker and disk as one deterministic world.
#![expect(clippy::expect_used, reason = "a test says what it expects")]

#[path = "support/attest_op.rs"]
mod attest_op;
#[path = "world/attested.rs"]
mod attested;
#[path = "support/guest_ram.rs"]
mod guest_ram;
#[path = "world/stage.rs"]
mod stage;
#[path = "world/toy.rs"]
mod toy;

use husk::engine::ResponseCode;
use husk::release::ReleaseFault;
use stage::{LEASE_MS, Machine, Mishap, RamDisk, Stage};
use std::cell::RefCell;
use toy::{
    AUTH_FAIL, BREAK, CLOCK_MIN, COMPLETE, FORGIVE, GUESS, INCREMENT, JUDGED, KEYED, MEASURE, RESET_COUNT,
    SHOW, TRY,
};

/// TPM2_Startup.
const STARTUP: u32 = 0x144;

fn blank() -> RefCell<RamDisk> {
    RefCell::new(RamDisk { image: vec![0; 64 * 1024] })
}

/// What a guest knows: what was acknowledged to it, and whether it was left waiting for one more.
#[derive(Debug, Default)]
struct Guest {
    acknowledged: u64,
    waiting: bool,
}

impl Guest {
    fn increment(&mut self, machine: &mut Machine<'_>) -> bool {
        self.waiting = true;
        let Ok(counter) = machine.ask(INCREMENT) else { return false };
        assert!(counter > self.acknowledged, "{counter} after {}", self.acknowledged);
        *self = Self { acknowledged: counter, waiting: false };
        true
    }

    /// After a crash the state is the one before or the one after, never another.
    fn finds(&mut self, counter: u64) {
        let after = self.acknowledged + u64::from(self.waiting);
        assert!((self.acknowledged..=after).contains(&counter), "{counter}, {self:?}");
        *self = Self { acknowledged: counter, waiting: false };
    }
}

/// Two boots with a few commits each, the first ended in order; stops early where something dies.
fn story(stage: &Stage, disk: &RefCell<RamDisk>, guest: &mut Guest) -> bool {
    for orderly in [true, false] {
        let mut machine = Machine::launch(stage, disk);
        if machine.boot(4).is_err() || machine.ask(STARTUP).is_err() {
            return machine.is_dead();
        }
        for _ in 0..3 {
            if !guest.increment(&mut machine) {
                return machine.is_dead();
            }
        }
        if orderly && machine.shut_down().is_err() {
            return machine.is_dead();
        }
        machine.kill();
    }
    false
}

/// The honest disk boots after whatever happened, and holds what was acknowledged.
fn recovers(stage: &Stage, disk: &RefCell<RamDisk>, guest: &mut Guest) {
    stage.plan.set(None);
    let mut machine = Machine::launch(stage, disk);
    machine.boot(8).expect("an honest disk always boots");
    guest.finds(machine.ask(SHOW).expect("it shows the counter"));
    assert!(guest.increment(&mut machine), "it serves");
    machine.shut_down().expect("it shuts down");
}

#[test]
fn a_mishap_at_any_step_loses_nothing_that_was_acknowledged() {
    let steps = {
        let (stage, disk) = (Stage::new(1), blank());
        assert!(!story(&stage, &disk, &mut Guest::default()));
        stage.steps.get()
    };
    assert!(steps > 30, "the story has {steps} steps");
    for mishap in Mishap::ALL {
        for step in 0..steps {
            let (stage, disk, mut guest) = (Stage::new(1), blank(), Guest::default());
            stage.plan.set(Some((step, mishap)));
            story(&stage, &disk, &mut guest);
            recovers(&stage, &disk, &mut guest);
        }
    }
}

#[test]
fn a_lost_message_does_not_end_a_serving_instance() {
    for mishap in
        [Mishap::RequestLost, Mishap::ReplyLost, Mishap::BrokerCrashesBefore, Mishap::BrokerCrashesAfter]
    {
        let (stage, disk, mut guest) = (Stage::new(2), blank(), Guest::default());
        let mut machine = Machine::launch(&stage, &disk);
        machine.boot(1).expect("it boots");
        for _ in 0..4 {
            stage.plan.set(Some((stage.steps.get() + 2, mishap)));
            assert!(guest.increment(&mut machine), "{mishap:?}");
        }
        assert_eq!(machine.ask(SHOW), Ok(4));
    }
}

#[test]
fn an_old_disk_is_refused_and_the_newest_still_boots() {
    let (stage, disk, mut guest) = (Stage::new(3), blank(), Guest::default());
    let mut yesterdays = Vec::new();
    for _ in 0..4 {
        let mut machine = Machine::launch(&stage, &disk);
        machine.boot(2).expect("it boots");
        for _ in 0..3 {
            yesterdays.push(disk.borrow().image.clone());
            assert!(guest.increment(&mut machine));
        }
        machine.kill();
        stage.pass_ms(u64::from(LEASE_MS));
    }
    let newest = disk.borrow().image.clone();
    yesterdays.push(vec![0; newest.len()]);
    for (age, image) in yesterdays.into_iter().enumerate() {
        disk.borrow_mut().image.clone_from(&image);
        let fault = Machine::launch(&stage, &disk).boot(2).expect_err("an old disk is refused");
        assert_eq!(fault.family().word(), "seal", "image {age}: {fault}");
        assert_eq!(disk.borrow().image, image, "nothing is written");
    }
    disk.borrow_mut().image = newest;
    recovers(&stage, &disk, &mut guest);
}

#[test]
fn two_instances_never_both_answer() {
    let worlds = if std::env::var_os("HUSK_LONG").is_some() { 1_000 } else { 40 };
    for seed in 0..worlds {
        let (stage, first, second) = (Stage::new(100 + seed), blank(), blank());
        let mut draw = dice(seed);
        let mut newest = 0;
        let mut machines = [Machine::launch(&stage, &first), Machine::launch(&stage, &second)];
        for _ in 0..60 {
            let which = usize::from(draw(2) == 1);
            match draw(10) {
                0 => {
                    // The host kills one, copies the other's disk to it and starts it again.
                    machines[which].kill();
                    let image = [&first, &second][1 - which].borrow().image.clone();
                    [&first, &second][which].borrow_mut().image = image;
                    machines[which] = Machine::launch(&stage, [&first, &second][which]);
                }
                1 | 2 => {
                    // Whatever this boot finds, it finds nothing older than what was answered: asked below.
                    machines[which].boot(1).ok();
                }
                3 => stage.pass_ms(u64::from(draw(u64::from(LEASE_MS)))),
                4 => stage.restart_broker(),
                5 => {
                    let mishaps = [Mishap::RequestLost, Mishap::ReplyLost];
                    stage.plan.set(Some((stage.steps.get(), mishaps[usize::from(draw(2) == 1)])));
                }
                6 | 7 => {
                    if let Ok(counter) = machines[which].ask(SHOW) {
                        assert!(counter >= newest, "seed {seed}: {counter} after {newest} was answered");
                        newest = counter;
                    }
                }
                _ => {
                    if let Ok(counter) = machines[which].ask(INCREMENT) {
                        assert!(counter > newest, "seed {seed}: {counter} after {newest} was answered");
                        newest = counter;
                    }
                }
            }
        }
    }
}

#[test]
fn a_second_instance_waits_however_long_the_first_idles_within_its_lease() {
    let (stage, disk) = (Stage::new(5), blank());
    let mut first = Machine::launch(&stage, &disk);
    first.boot(1).expect("it boots");
    let mut second = Machine::launch(&stage, &disk);
    assert_eq!(second.boot(1), Err(ReleaseFault::Busy.fault()));
    assert_eq!(first.ask(INCREMENT), Ok(1), "being asked about does not disturb the first");
}

#[test]
fn an_unreachable_broker_stops_writes_before_they_run_and_measurements_never() {
    let (stage, disk) = (Stage::new(6), blank());
    let mut machine = Machine::launch(&stage, &disk);
    machine.boot(1).expect("it boots");
    assert_eq!(machine.ask(INCREMENT), Ok(1));
    // Long enough that the last contact is not recent, short enough that the lease lasts.
    stage.pass_ms(u64::from(LEASE_MS) * 8 / 10);
    let image = disk.borrow().image.clone();
    stage.cut_off.set(true);
    for _ in 0..3 {
        assert_eq!(machine.ask(INCREMENT), Err(ReleaseFault::Unreachable.fault()));
    }
    assert_eq!(disk.borrow().image, image, "nothing was executed");
    assert_eq!(machine.ask(SHOW), Ok(1), "reads go on while the lease lasts");
    stage.pass_ms(u64::from(LEASE_MS));
    assert_eq!(machine.ask(SHOW), Err(ReleaseFault::LeaseOver.fault()));
    assert_eq!(machine.ask(MEASURE), Ok(1), "and measurements for ever");
    stage.cut_off.set(false);
    assert_eq!(machine.ask(INCREMENT), Ok(2), "it recovers without a restart");
}

#[test]
fn a_failure_that_was_counted_is_durable_before_it_is_told_whatever_its_command_needs() {
    let (stage, disk) = (Stage::new(9), blank());
    let mut machine = Machine::launch(&stage, &disk);
    machine.boot(1).expect("it boots");
    assert_eq!(machine.code_of(GUESS), AUTH_FAIL);
    machine.kill();
    stage.pass_ms(u64::from(LEASE_MS));
    let mut next = Machine::launch(&stage, &disk);
    next.boot(1).expect("it boots");
    assert_eq!(next.ask(SHOW), Ok(1), "the kill took the failure back");
    stage.cut_off.set(true);
    assert_eq!(next.code_of(GUESS), ResponseCode::FAILURE, "told before it is durable");
}

/// Boots, starts and tries thrice, or until the machine dies.
fn tries(stage: &Stage, disk: &RefCell<RamDisk>) {
    let mut machine = Machine::launch(stage, disk);
    if machine.boot(4).is_ok() && machine.ask(STARTUP).is_ok() {
        for _ in 0..3 {
            machine.code_of(TRY);
        }
    }
    machine.kill();
}

#[test]
fn an_attempt_that_was_judged_is_charged_wherever_the_machine_was_killed() {
    let steps = {
        let (stage, disk) = (Stage::new(15), blank());
        tries(&stage, &disk);
        stage.steps.get()
    };
    for mishap in [Mishap::DiesBefore, Mishap::DiesAfter] {
        for step in 0..steps {
            let (stage, disk) = (Stage::new(15), blank());
            JUDGED.set(0);
            stage.plan.set(Some((step, mishap)));
            tries(&stage, &disk);
            let judged = JUDGED.get();
            let mut next = Machine::launch(&stage, &disk);
            next.boot(8).expect("an honest disk always boots");
            next.ask(STARTUP).expect("it starts");
            let charged = next.ask(SHOW).expect("it shows the counter");
            assert!((judged..=judged + 1).contains(&charged), "{mishap:?} at {step}: {charged} for {judged}");
            next.shut_down().expect("it shuts down");
            let mut last = Machine::launch(&stage, &disk);
            last.boot(8).expect("it boots");
            last.ask(STARTUP).expect("it starts");
            assert_eq!(last.ask(SHOW), Ok(charged), "an orderly end costs nothing");
        }
    }
}

#[test]
fn what_was_executed_is_never_called_not_executed() {
    // So many commits that the next one writes a checkpoint, before which the lease is renewed, is among these.
    for commits in 56..70 {
        let (stage, disk) = (Stage::new(10), blank());
        let mut machine = Machine::launch(&stage, &disk);
        machine.boot(1).expect("it boots");
        for counter in 1..=commits {
            assert_eq!(machine.ask(INCREMENT), Ok(counter));
        }
        // The last contact is recent, so the command runs; then nobody anchors it.
        stage.cut_off.set(true);
        for _ in 0..2 {
            assert_eq!(machine.code_of(INCREMENT), ResponseCode::FAILURE, "{commits} commits");
        }
    }
}

#[test]
fn a_dynamic_launch_is_measured_while_the_broker_is_stalled() {
    let (stage, disk) = (Stage::new(11), blank());
    let mut machine = Machine::launch(&stage, &disk);
    machine.boot(1).expect("it boots");
    stage.cut_off.set(true);
    stage.pass_ms(u64::from(LEASE_MS));
    assert_eq!(machine.ask(FORGIVE), Ok(1), "it changes the memory on its way");
    machine.measure().expect("a measurement waits for nobody");
    assert_eq!(machine.ask(MEASURE), Ok(1), "and the TPM goes on");
}

#[test]
fn the_result_of_a_keyed_sequence_needs_the_right_to_answer() {
    let (stage, disk) = (Stage::new(12), blank());
    let mut machine = Machine::launch(&stage, &disk);
    machine.boot(1).expect("it boots");
    stage.pass_ms(u64::from(LEASE_MS));
    stage.cut_off.set(true);
    assert_eq!(machine.ask(COMPLETE), Ok(0), "a hash is nobody's secret");
    stage.cut_off.set(false);
    machine.ask(KEYED).expect("the broker is there");
    stage.pass_ms(u64::from(LEASE_MS));
    stage.cut_off.set(true);
    assert_eq!(machine.ask(COMPLETE), Err(ReleaseFault::LeaseOver.fault()));
    assert_eq!(machine.ask(MEASURE), Ok(0), "measurements go on");
}

#[test]
fn a_reset_brings_a_reset_count_that_was_never_seen() {
    let (stage, disk) = (Stage::new(7), blank());
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let mut machine = Machine::launch(&stage, &disk);
        machine.boot(2).expect("it boots");
        for _ in 0..3 {
            machine.ask(STARTUP).expect("it starts");
            assert!(seen.insert(machine.ask(RESET_COUNT).expect("it shows the reset count")));
            assert_eq!(machine.ask(INCREMENT), Ok(seen.len() as u64));
            machine.reset().expect("it resets");
        }
        machine.kill();
        stage.pass_ms(u64::from(LEASE_MS));
    }
}

#[test]
fn after_shutting_down_nothing_is_answered_and_the_next_need_not_wait() {
    let (stage, disk) = (Stage::new(8), blank());
    let mut machine = Machine::launch(&stage, &disk);
    machine.boot(1).expect("it boots");
    machine.ask(STARTUP).expect("it starts");
    assert_eq!(machine.ask(INCREMENT), Ok(1));
    machine.shut_down().expect("it shuts down");
    assert!(machine.ask(SHOW).is_err());
    assert!(machine.ask(MEASURE).is_err());
    let mut next = Machine::launch(&stage, &disk);
    next.boot(1).expect("no lease is in the way");
    assert_eq!(next.ask(SHOW), Ok(1));
}

#[test]
fn who_learns_that_it_was_fenced_says_nothing_more_measurements_included() {
    let (stage, first, second) = (Stage::new(14), blank(), blank());
    let mut machine = Machine::launch(&stage, &first);
    machine.boot(1).expect("it boots");
    assert_eq!(machine.ask(INCREMENT), Ok(1));
    stage.pass_ms(u64::from(LEASE_MS));
    second.borrow_mut().image = first.borrow().image.clone();
    let mut successor = Machine::launch(&stage, &second);
    successor.boot(1).expect("the lease is over");
    let image = first.borrow().image.clone();
    assert_eq!(machine.ask(INCREMENT), Err(ReleaseFault::Fenced.fault()));
    for code in [INCREMENT, SHOW, MEASURE] {
        assert_eq!(machine.ask(code), Err(ReleaseFault::Fenced.fault()));
        assert_eq!(machine.code_of(code), ResponseCode::FAILURE);
    }
    assert_eq!(machine.reset(), Err(ReleaseFault::Fenced.fault()));
    assert_eq!(first.borrow().image, image, "nothing is written");
    assert_eq!(successor.ask(INCREMENT), Ok(2), "the successor is not disturbed");
}

#[test]
fn who_learns_that_it_was_fenced_at_a_reset_is_over_too() {
    let (stage, first, second) = (Stage::new(16), blank(), blank());
    let mut machine = Machine::launch(&stage, &first);
    machine.boot(1).expect("it boots");
    machine.ask(STARTUP).expect("it starts");
    stage.pass_ms(u64::from(LEASE_MS));
    second.borrow_mut().image = first.borrow().image.clone();
    Machine::launch(&stage, &second).boot(1).expect("the lease is over");
    assert_eq!(machine.reset(), Err(ReleaseFault::Fenced.fault()));
    assert_eq!(machine.ask(MEASURE), Err(ReleaseFault::Fenced.fault()), "for good, not just off");
}

#[test]
fn an_engine_that_failed_does_not_say_where_the_clock_stands() {
    let mut bounds = Vec::new();
    for breaks in [false, true] {
        let (stage, disk) = (Stage::new(13), blank());
        let mut machine = Machine::launch(&stage, &disk);
        machine.boot(1).expect("it boots");
        machine.ask(STARTUP).expect("it starts");
        if breaks {
            machine.ask(BREAK).expect("it says so");
        }
        machine.shut_down().expect("it shuts down");
        let mut next = Machine::launch(&stage, &disk);
        next.boot(1).expect("it boots");
        bounds.push(next.ask(CLOCK_MIN).expect("it shows the bound"));
    }
    assert!(bounds[0] == 1001 && bounds[1] > 1000, "{bounds:?}");
}

/// A small generator (xorshift64*): one seed, one world.
fn dice(seed: u64) -> impl FnMut(u64) -> u32 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move |sides| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        u32::try_from(state.wrapping_mul(0x2545_F491_4F6C_DD1D) % sides).expect("few sides")
    }
}
