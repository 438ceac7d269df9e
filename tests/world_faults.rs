//! Seeded fault injection: the real component, broker and database; everything around them goes wrong as one seed says.
#![expect(clippy::expect_used, reason = "a test says what it expects")]

#[path = "world/stage.rs"]
mod stage;
#[path = "world/toy.rs"]
mod toy;

use husk::attest::launch::Serve;
use stage::{LEASE_MS, Machine, Mishap, RamDisk, Stage};
use std::cell::RefCell;
use toy::{INCREMENT, RESET_COUNT, SHOW};

/// TPM2_Startup.
const STARTUP: u32 = 0x144;
/// Worlds of each way to serve: in an ordinary run, and in a long one.
const WORLDS: [u64; 2] = [16, 334];
/// What happens in one world.
const ACTS: usize = 50;

/// A small generator (xorshift64*): one seed, one world.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(drawn).expect("31 bits") % sides
    }
}

/// What guests and verifiers have seen.
#[derive(Debug, Default)]
struct Seen {
    /// The counter that was shown last by the newest instance.
    counter: u64,
    /// How often another launch answered than before.
    handovers: usize,
    /// The launch that answered last.
    newest: usize,
    /// Reset counts, and whose.
    counts: Vec<(u64, usize)>,
}

/// One world: two machines, a disk each, every image that either ever had.
struct World<'s> {
    stage: &'s Stage,
    serve: Serve,
    disks: &'s [RefCell<RamDisk>; 2],
    machines: [Machine<'s>; 2],
    /// Which launch runs in each machine.
    launches: [usize; 2],
    /// Which machine booted, and was not shut down since.
    runs: [bool; 2],
    /// The machine that booted last.
    written: usize,
    images: Vec<Vec<u8>>,
    seen: Seen,
    dice: Dice,
}

fn blank() -> RefCell<RamDisk> {
    RefCell::new(RamDisk { image: vec![0; 64 * 1024] })
}

impl World<'_> {
    fn act(&mut self) {
        let at = self.dice.roll(2);
        if self.machines[at].is_dead() || !self.runs[at] {
            self.relaunch(at);
        }
        match self.dice.roll(18) {
            0 => self.relaunch(at),
            1 => self.stage.pass_ms(self.dice.roll(LEASE_MS as usize) as u64),
            2 => self.stage.restart_broker(),
            3..=5 => {
                let step = self.stage.steps.get() + self.dice.roll(6);
                let mishap = Mishap::ALL[self.dice.roll(Mishap::ALL.len())];
                self.stage.plan.set(Some((step, mishap)));
            }
            6 | 16 | 17 => self.stage.cut_off.set(!self.stage.cut_off.get()),
            7 => {
                self.machines[at].reset().ok();
                self.machines[at].ask(STARTUP).ok();
            }
            8 => {
                self.machines[at].shut_down().ok();
                self.runs[at] = false;
            }
            9 => self.count(at),
            10 | 11 => self.answer(at, SHOW),
            _ => self.answer(at, INCREMENT),
        }
        self.images.push(self.disks[at].borrow().image.clone());
    }

    /// The host kills a machine and starts it again: on what another launch wrote last, on its own disk, or on any image that
    /// there ever was.
    fn relaunch(&mut self, at: usize) {
        self.machines[at].kill();
        self.images.push(self.disks[at].borrow().image.clone());
        let newest = self.disks[self.written].borrow().image.clone();
        let image = match self.dice.roll(6) {
            0 => self.images[self.dice.roll(self.images.len())].clone(),
            1 => self.disks[at].borrow().image.clone(),
            _ => newest,
        };
        self.disks[at].borrow_mut().image = image;
        self.machines[at] = Machine::launch(self.stage, &self.disks[at]);
        self.launches[at] = self.launches.iter().max().map_or(1, |launch| launch + 1);
        self.stage.cut_off.set(false);
        self.runs[at] = self.machines[at].boot(2).is_ok();
        if self.runs[at] {
            self.written = at;
            self.machines[at].ask(STARTUP).ok();
        }
    }

    /// What is answered is never less than what was, unless it is an older instance that is only detected.
    fn answer(&mut self, at: usize, code: u32) {
        let Ok(counter) = self.machines[at].ask(code) else { return };
        let (seen, launch) = (&mut self.seen, self.launches[at]);
        let older = launch < seen.newest;
        assert!(!older || self.serve == Serve::Detect, "launch {launch} after {seen:?}");
        let current = self.serve != Serve::Detect || code == INCREMENT || counter >= seen.counter;
        if current {
            let grows = counter > seen.counter || (code == SHOW && counter == seen.counter);
            assert!(grows, "{counter} after {seen:?}");
            seen.handovers += usize::from(seen.newest != launch);
            (seen.counter, seen.newest) = (counter, launch);
        }
    }

    /// No two instances show one reset count.
    fn count(&mut self, at: usize) {
        let Ok(count) = self.machines[at].ask(RESET_COUNT) else { return };
        let launch = self.launches[at];
        let other = self.seen.counts.iter().find(|(seen, whose)| *seen == count && *whose != launch);
        assert_eq!(other, None, "a reset count of launch {launch}");
        self.seen.counts.push((count, launch));
    }

    /// Whatever happened: of all the images that there were, the newest honest one boots, and holds what was answered.
    fn ends_well(mut self) -> Seen {
        self.stage.plan.set(None);
        self.stage.cut_off.set(false);
        self.machines.iter().for_each(Machine::kill);
        let disk = blank();
        self.images.reverse();
        for image in self.disks.iter().map(|disk| disk.borrow().image.clone()).chain(self.images) {
            disk.borrow_mut().image = image;
            let mut machine = Machine::launch(self.stage, &disk);
            if machine.boot(3).is_ok() {
                let counter = machine.ask(SHOW).expect("it serves");
                assert!(counter >= self.seen.counter, "{counter} after {:?}", self.seen);
                return self.seen;
            }
        }
        assert_eq!(self.seen.counter, 0, "no image boots, and something was answered");
        self.seen
    }
}

fn plays(seed: u64, serve: Serve) -> Seen {
    let (stage, disks) = (Stage::serving(7_000 + seed, serve), [blank(), blank()]);
    let machines = [Machine::launch(&stage, &disks[0]), Machine::launch(&stage, &disks[1])];
    let images = vec![disks[0].borrow().image.clone()];
    let (seen, dice) = (Seen::default(), Dice::new(seed));
    let mut world = World {
        stage: &stage,
        serve,
        disks: &disks,
        machines,
        launches: [1, 2],
        runs: [false; 2],
        written: 0,
        images,
        seen,
        dice,
    };
    for _ in 0..ACTS {
        world.act();
    }
    world.ends_well()
}

fn play(serve: Serve) {
    let worlds = WORLDS[usize::from(std::env::var_os("HUSK_LONG").is_some())];
    let only = std::env::var("HUSK_SEED").ok().and_then(|seed| seed.parse().ok());
    let mut handovers = 0;
    for seed in only.map_or(0..worlds, |seed| seed..seed + 1) {
        // Printed when the test fails: HUSK_SEED replays it.
        println!("HUSK_SEED={seed} {serve:?}");
        handovers += plays(seed, serve).handovers;
    }
    println!("{handovers} times another launch answered than before");
    assert!(only.is_some() || handovers > 20, "the worlds are too quiet");
}

#[test]
fn whatever_goes_wrong_on_leases() {
    play(Serve::Lease);
}

#[test]
fn whatever_goes_wrong_where_each_command_is_permitted() {
    play(Serve::PerCommand);
}

#[test]
fn whatever_goes_wrong_where_forks_are_only_detected() {
    play(Serve::Detect);
}
