//! One world: two machines of one VM, every image that either ever had, and what was seen.

use crate::broker::{Broker, LEASE_MS};
use crate::faults::{Faults, Mishap, Tally};
use crate::machine::{Answer, Machine, Phase};
use crate::pipe::order;
use crate::setting::{Dice, Nature, Rule, Tenancy};
use crate::tpm::{self, Reply};
use husk::attest::launch::Serve;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Runtime;

/// What happens in one world.
const ACTS: usize = 12;
/// A volume of the common size.
const DISK_BYTES: usize = 1 << 20;
/// The counter that everything is about (a TPM 2.0 NV index of type TPM_NT_COUNTER).
const COUNTER: u32 = 0x0150_0001;
/// TPM_RC_INITIALIZE: Startup comes first.
const INITIALIZE: u32 = 0x100;
/// TPM_RC_RETRY: the command is to be sent again.
const RETRY: u32 = 0x922;

/// Where worlds of one kind start: a TPM that was made, holds the counter, and was shut down.
pub(crate) struct Template {
    pub(crate) tenancy: Arc<Tenancy>,
    database: PathBuf,
    disk: Vec<u8>,
}

/// What guests and verifiers have seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// At least so far the counter is.
    counter: u64,
    /// How often another instance answered than before.
    pub(crate) handovers: usize,
    /// How many commits were acknowledged.
    pub(crate) commits: usize,
    /// How many launches came to serve.
    pub(crate) boots: usize,
    /// The newest grant whose holder answered.
    newest: u64,
    /// How many grants arrived.
    granted: u64,
    /// Reset counts, and whose.
    counts: Vec<(u32, u64)>,
}

/// How one world went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) seen: Seen,
    pub(crate) tally: Tally,
    pub(crate) database_bytes: u64,
}

pub(crate) struct World<'w, 'r> {
    faults: Faults<'r>,
    tenancy: &'w Tenancy,
    machines: &'w mut [Machine; 2],
    /// Tells its launches from those of other worlds.
    number: u64,
    images: Vec<Vec<u8>>,
    /// The machine that booted last.
    written: usize,
    launches: u64,
    seen: Seen,
}

/// What a world is played in.
pub(crate) struct Place<'w> {
    pub(crate) runtime: &'w Runtime,
    pub(crate) folder: &'w Path,
}

impl Template {
    /// Makes the TPM, by the ordinary way: the broker grants a creation.
    pub(crate) fn make(place: &Place<'_>, serve: Serve, machines: &mut [Machine; 2]) -> Self {
        let tenancy = Arc::new(Tenancy::new(serve));
        let nature = Nature::new(0, None);
        let folder = place.folder.join("first");
        let broker = Broker::create(place.runtime, &tenancy, &nature, &folder);
        fs::write(&machines[0].disk, vec![0; DISK_BYTES]).expect("a blank disk");
        let faults = Faults::new(broker, nature, Dice::new(0), None);
        let mut world = World::new(faults, &tenancy, machines, 0);
        world.launch(0);
        world.boot(0);
        let attributes = tpm::NV_AUTH_AND_OWNER | tpm::NV_NO_DA | tpm::NV_COUNTER;
        world.must(0, &tpm::nv_define(COUNTER, attributes, 8, b""));
        world.must(0, &tpm::nv_increment(COUNTER, b""));
        let ended = world.machines[0].order(&mut world.faults, order::SHUT_DOWN, &[]);
        assert_eq!(ended, Answer::Done(Vec::new()), "it shuts down");
        let disk = fs::read(&world.machines[0].disk).expect("a disk");
        let database = place.folder.join("template");
        crate::broker::copy(&world.faults.broker.database(), &database);
        drop(world);
        fs::remove_dir_all(folder).expect("the first broker's files");
        Self { tenancy, database, disk }
    }

    /// Plays the world of that seed, without a rule if it is a mutant.
    pub(crate) fn play(
        &self,
        place: &Place<'_>,
        machines: &mut [Machine; 2],
        seed: u64,
        without: Option<Rule>,
    ) -> Outcome {
        let folder = place.folder.join("world");
        if folder.exists() {
            // A world before failed.
            fs::remove_dir_all(&folder).expect("its files");
        }
        eprintln!("world: seed {seed}, {:?}, without {without:?}", self.tenancy.serve());
        let nature = Nature::new(seed + 1, without);
        let from = (self.database.as_path(), folder.as_path());
        let broker = Broker::copied(place.runtime, &self.tenancy, &nature, from);
        let mut dice = Dice::new(seed);
        let one_in = [12, 30, 80][dice.roll(3)];
        let faults = Faults::new(broker, nature, dice, Some(one_in));
        for machine in machines.iter_mut() {
            fs::write(&machine.disk, &self.disk).expect("a disk");
            machine.phase = Phase::Off;
        }
        let mut world = World::new(faults, &self.tenancy, machines, seed + 1);
        world.images.push(self.disk.clone());
        (0..ACTS).for_each(|_| world.act());
        world.ends_well();
        let database = world.faults.broker.database().join("db");
        let database_bytes = fs::metadata(database).expect("a database").len();
        let World { faults, seen, .. } = world;
        let tally = faults.tally;
        drop(faults);
        fs::remove_dir_all(&folder).expect("its files");
        Outcome { seen, tally, database_bytes }
    }
}

impl<'w, 'r> World<'w, 'r> {
    fn new(faults: Faults<'r>, tenancy: &'w Tenancy, machines: &'w mut [Machine; 2], number: u64) -> Self {
        let (images, seen) = (Vec::new(), Seen::default());
        Self { faults, tenancy, machines, number, images, written: 0, launches: 0, seen }
    }

    fn act(&mut self) {
        let at = self.faults.dice.roll(2);
        match self.machines[at].phase {
            Phase::Off => self.relaunch(at),
            Phase::Launched => self.grant(at, 2),
            Phase::Granted => self.finish(at),
            Phase::Runs => self.act_on(at),
        }
        self.images.push(self.disk(at));
    }

    fn act_on(&mut self, at: usize) {
        match self.faults.dice.roll(18) {
            0 | 1 => {
                self.machines[at].kill();
                self.relaunch(at);
            }
            2 => self.faults.nature.pass_ms(self.faults.dice.next() % u64::from(LEASE_MS)),
            3 => self.faults.crash_broker(),
            4 | 5 => {
                self.faults.cut_off = !self.faults.cut_off;
                self.faults.count(Mishap::CutOff);
            }
            6 => {
                // What it answers is seen in what it answers next.
                drop(self.machines[at].order(&mut self.faults, order::RESET, &[]));
                self.ask(at, &tpm::startup_clear());
            }
            7 => {
                drop(self.machines[at].order(&mut self.faults, order::SHUT_DOWN, &[]));
                self.machines[at].phase = Phase::Off;
            }
            8 => self.faults.replay(),
            9 => self.reset_count(at),
            10 | 11 => self.read(at),
            12 => self.relaunch(1 - at),
            _ => {
                self.read(at);
                self.increment(at);
                self.increment(at);
            }
        }
    }

    fn disk(&self, at: usize) -> Vec<u8> {
        fs::read(&self.machines[at].disk).expect("a disk")
    }

    /// The host starts a machine again: on what another launch wrote last, on its own disk, or on any image that there ever was.
    fn relaunch(&mut self, at: usize) {
        self.images.push(self.disk(at));
        let newest = self.disk(self.written);
        let dice = &mut self.faults.dice;
        let image = match dice.roll(6) {
            0 => self.images[dice.roll(self.images.len())].clone(),
            1 => self.disk(at),
            _ => newest.clone(),
        };
        if image != newest {
            self.faults.count(Mishap::OldDisk);
        }
        if self.machines[1 - at].phase == Phase::Runs {
            self.faults.count(Mishap::TwoMachines);
        }
        fs::write(&self.machines[at].disk, image).expect("a disk");
        self.faults.cut_off = false;
        // Another's lease has ended, or not yet.
        let passed_ms = match self.faults.dice.roll(4) {
            0 | 1 => u64::from(LEASE_MS),
            2 => self.faults.dice.next() % u64::from(LEASE_MS / 2),
            _ => 0,
        };
        self.faults.nature.pass_ms(passed_ms);
        self.launch(at);
        self.grant(at, 2);
        // Sometimes the other machine goes on between the grant and the confirmation.
        if self.faults.dice.roll(4) != 0 {
            self.finish(at);
        }
    }

    fn launch(&mut self, at: usize) {
        self.launches += 1;
        let who = (self.number, self.launches);
        self.machines[at].launch(&mut self.faults, self.tenancy, who);
    }

    fn grant(&mut self, at: usize, patience: u32) {
        for _ in 0..patience {
            match self.machines[at].order(&mut self.faults, order::GRANT, &[]) {
                Answer::Done(_) => {
                    self.machines[at].phase = Phase::Granted;
                    self.seen.granted += 1;
                    self.machines[at].grant = self.seen.granted;
                    return;
                }
                Answer::Busy(retry_ms) => self.faults.nature.pass_ms(retry_ms),
                Answer::Fault(_) => {}
                Answer::Dead => return,
            }
        }
    }

    fn finish(&mut self, at: usize) {
        if self.machines[at].phase != Phase::Granted {
            return;
        }
        match self.machines[at].order(&mut self.faults, order::FINISH, &[]) {
            Answer::Done(_) => {
                let grant = self.machines[at].grant;
                assert_eq!(grant, self.seen.granted, "only the newest grant's holder gets a usable key");
                self.machines[at].phase = Phase::Runs;
                self.seen.boots += 1;
                self.written = at;
                self.ask(at, &tpm::startup_clear());
            }
            _ => self.machines[at].phase = Phase::Off,
        }
    }

    /// Sends a command; the response, if it is an answer.
    fn ask(&mut self, at: usize, command: &[u8]) -> Option<Reply> {
        for _ in 0..2 {
            let answer = self.machines[at].order(&mut self.faults, order::COMMAND, command);
            let Answer::Done(response) = answer else { return None };
            let reply = Reply(response);
            match reply.code() {
                0 => return Some(reply),
                RETRY => {}
                INITIALIZE => {
                    self.machines[at].order(&mut self.faults, order::COMMAND, &tpm::startup_clear());
                }
                _ => return None,
            }
        }
        None
    }

    fn must(&mut self, at: usize, command: &[u8]) -> Reply {
        self.ask(at, command).expect("an orderly world answers")
    }

    /// What is answered is never less than what was, unless it is an older instance that is only detected.
    fn answered(&mut self, at: usize, counter: u64, is_read: bool) {
        let (seen, grant) = (&mut self.seen, self.machines[at].grant);
        let older = grant < seen.newest;
        let detects = self.tenancy.serve() == Serve::Detect;
        assert!(!older || (detects && is_read), "the holder of grant {grant} answers after {seen:?}");
        if older {
            return;
        }
        assert!(counter >= seen.counter, "{counter} after {seen:?}");
        seen.handovers += usize::from(seen.newest != grant);
        (seen.counter, seen.newest) = (counter, grant);
    }

    fn read(&mut self, at: usize) {
        if let Some(reply) = self.ask(at, &tpm::nv_read(COUNTER, b"", 8)) {
            let counter = tpm::nv_data_of(&reply).try_into().expect("eight bytes");
            self.answered(at, u64::from_be_bytes(counter), true);
        }
    }

    fn increment(&mut self, at: usize) {
        if self.ask(at, &tpm::nv_increment(COUNTER, b"")).is_some() {
            self.seen.commits += 1;
            self.answered(at, self.seen.counter + 1, false);
        }
    }

    /// No two instances show one reset count.
    fn reset_count(&mut self, at: usize) {
        if let Some(reply) = self.ask(at, &tpm::read_clock()) {
            let (count, launch) = (tpm::clock_of(&reply).reset_count, self.machines[at].launch);
            let other = self.seen.counts.iter().find(|(seen, whose)| *seen == count && *whose != launch);
            assert_eq!(other, None, "a reset count of launch {launch}");
            self.seen.counts.push((count, launch));
        }
    }

    /// Boots in an orderly world; whether it did.
    fn boot(&mut self, at: usize) -> bool {
        self.grant(at, 3);
        self.finish(at);
        self.machines[at].phase == Phase::Runs
    }

    /// Whatever happened: of all the images that there were, the newest honest one boots, holds what was answered, and serves.
    fn ends_well(&mut self) {
        self.faults.one_in = None;
        self.faults.cut_off = false;
        self.faults.nature.pass_ms(u64::from(LEASE_MS));
        let own = [self.disk(self.written), self.disk(1 - self.written)];
        let mut images = std::mem::take(&mut self.images);
        images.extend(own.into_iter().rev());
        while let Some(image) = images.pop() {
            images.retain(|other| *other != image);
            fs::write(&self.machines[0].disk, &image).expect("a disk");
            self.launch(0);
            if self.boot(0) {
                let before = self.seen.newest;
                self.read(0);
                assert_ne!(self.seen.newest, before, "it serves");
                self.must(0, &tpm::nv_increment(COUNTER, b""));
                return;
            }
        }
        panic!("no image boots, and this was seen: {:?}", self.seen);
    }
}
