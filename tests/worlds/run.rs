//! Many worlds side by side: which, how long, and what came of them.

use crate::faults::{Mishap, Tally};
use crate::machine::Machine;
use crate::setting::Rule;
use crate::world::{Outcome, Place, Template};
use husk::attest::launch::Serve;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Worlds of an ordinary run, and of a long one.
const WORLDS: [u64; 2] = [1_000, 4_000];
/// A mutant that so many worlds do not find is none.
const MUTANT_WORLDS: u64 = 1_000;
/// The ways to serve; worlds take turns.
const KINDS: [Serve; 3] = [Serve::Lease, Serve::PerCommand, Serve::Detect];
/// Worlds after which growth counts.
const WARM: u64 = 60;
/// How much the brokers' process may grow after that.
const GROWTH_KIB_MAX: u64 = 64 << 10;
const GROWTH_FILES_MAX: u64 = 32;
/// The most that a world's database takes: rows that are no longer of use are gone.
const DATABASE_BYTES_MAX: u64 = 256 << 10;

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// One world only.
    seed: Option<u64>,
    /// Worlds by time, from another seed on.
    soak: Option<(Duration, u64)>,
    worlds: u64,
}

impl Wish {
    pub(crate) fn from_environment() -> Self {
        let number = |name: &str| {
            let value = std::env::var(name).ok()?;
            Some(value.parse::<u64>().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
        };
        let soak = number("HUSK_WORLDS_SECONDS");
        let soak = soak.map(|s| (Duration::from_secs(s), number("HUSK_WORLDS_FROM").unwrap_or(0)));
        let worlds = WORLDS[usize::from(std::env::var_os("HUSK_LONG").is_some())];
        Self { seed: number("HUSK_SEED"), soak, worlds }
    }
}

/// One of the tests.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Run {
    /// The laws hold in all.
    Worlds,
    /// The same seed makes the same world.
    Twice,
    /// Without the rule a world fails.
    Mutant(Rule),
}

impl Run {
    pub(crate) fn all(wish: &Wish) -> Vec<(&'static str, Self)> {
        let mut runs = vec![("whatever_goes_wrong_the_laws_hold_in_every_world", Self::Worlds)];
        if wish.seed.is_none() && wish.soak.is_none() {
            runs.push(("a_seed_is_a_world", Self::Twice));
            for (name, rule) in [
                ("mutant_broker_that_answers_before_it_is_durable_is_found", Rule::BrokerIsDurable),
                ("mutant_disk_that_does_not_flush_is_found", Rule::FlushIsDurable),
                ("mutant_lease_that_ends_early_is_found", Rule::LeaseLasts),
            ] {
                runs.push((name, Self::Mutant(rule)));
            }
        }
        runs
    }

    pub(crate) fn go(self, wish: &Wish) -> Result<String, String> {
        match self {
            Self::Worlds => worlds(wish),
            Self::Twice => twice(),
            Self::Mutant(rule) => mutant(rule),
        }
    }
}

/// What several worlds came to.
#[derive(Debug, Default)]
struct Sum {
    worlds: u64,
    commits: usize,
    boots: usize,
    handovers: usize,
    database_bytes: u64,
    tally: Tally,
    /// Memory and files once warm, and last.
    weights: Option<(Weight, Weight)>,
    failed: Option<(u64, String)>,
}

#[derive(Clone, Copy, Debug)]
struct Weight {
    kib: u64,
    files: u64,
}

impl Weight {
    /// proc(5): resident pages of 4 KiB, open files.
    fn now() -> Self {
        let pages = fs::read_to_string("/proc/self/statm").expect("statm");
        let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number");
        Self { kib: 4 * pages, files: fs::read_dir("/proc/self/fd").expect("files").count() as u64 }
    }
}

impl Sum {
    fn add(&mut self, seed: u64, outcome: Result<Outcome, String>) {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(why) => {
                self.failed.get_or_insert((seed, why));
                return;
            }
        };
        self.worlds += 1;
        self.commits += outcome.seen.commits;
        self.boots += outcome.seen.boots;
        self.handovers += outcome.seen.handovers;
        self.database_bytes = self.database_bytes.max(outcome.database_bytes);
        self.tally.iter_mut().zip(outcome.tally).for_each(|(sum, more)| *sum += more);
        if self.worlds >= WARM && self.worlds.is_multiple_of(10) {
            let now = Weight::now();
            self.weights = Some((self.weights.map_or(now, |(warm, _)| warm), now));
        }
    }

    fn told(&self, took: Duration) -> String {
        let kinds = Mishap::ALL.iter().zip(self.tally).map(|(kind, count)| format!("{kind:?} {count}"));
        let growth = self.weights.map_or_else(String::new, |(warm, last)| {
            format!(
                "; growth {} KiB, {} files",
                last.kib.saturating_sub(warm.kib),
                last.files.saturating_sub(warm.files)
            )
        });
        format!(
            "{} worlds in {:.1} s: {} boots, {} commits, {} handovers; {}; largest database {} KiB{growth}",
            self.worlds,
            took.as_secs_f64(),
            self.boots,
            self.commits,
            self.handovers,
            kinds.collect::<Vec<_>>().join(", "),
            self.database_bytes >> 10
        )
    }

    /// Whether enough happened, and nothing grew.
    fn judged(self, took: Duration, is_one: bool) -> Result<String, String> {
        let told = self.told(took);
        if let Some((seed, why)) = self.failed {
            return Err(format!("HUSK_SEED={seed} replays it: {why}\n    {told}"));
        }
        let quiet = self.tally.contains(&0) || self.handovers < usize::try_from(self.worlds).expect("few");
        if quiet && !is_one {
            return Err(format!("the worlds are too quiet: {told}"));
        }
        let grew = self.weights.is_some_and(|(warm, last)| {
            last.kib > warm.kib + GROWTH_KIB_MAX || last.files > warm.files + GROWTH_FILES_MAX
        });
        if grew || self.database_bytes > DATABASE_BYTES_MAX {
            return Err(format!("something grows: {told}"));
        }
        Ok(told)
    }
}

/// One thread's part: its machines, its folder, the three kinds of worlds.
struct Lane {
    runtime: Runtime,
    machines: [Machine; 2],
    templates: Vec<(PathBuf, Template)>,
    /// Last, so that it goes when nobody writes to it.
    _folder: tempfile::TempDir,
}

impl Lane {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("husk-worlds").tempdir_in(memory_folder());
        let folder = folder.expect("a folder");
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().expect("a runtime");
        let mut machines = ["disk-0", "disk-1"].map(|name| Machine::new(folder.path().join(name)));
        let templates = KINDS.map(|serve| {
            let own = folder.path().join(format!("{serve:?}"));
            let template = Template::make(&Place { runtime: &runtime, folder: &own }, serve, &mut machines);
            (own, template)
        });
        Self { runtime, machines, templates: templates.into(), _folder: folder }
    }

    fn play(&mut self, seed: u64, without: Option<Rule>) -> Result<Outcome, String> {
        let kind = usize::try_from(seed % KINDS.len() as u64).expect("few");
        let (folder, template) = &self.templates[kind];
        let place = Place { runtime: &self.runtime, folder };
        let machines = &mut self.machines;
        catch_unwind(AssertUnwindSafe(|| template.play(&place, machines, seed, without))).map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default()
        })
    }
}

/// SQLite's durability has its own tests; here a database in memory-backed storage saves the time of real flushes.
fn memory_folder() -> PathBuf {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() }
}

fn worlds(wish: &Wish) -> Result<String, String> {
    let started = Instant::now();
    if let Some(seed) = wish.seed {
        let mut sum = Sum::default();
        sum.add(seed, Lane::new().play(seed, None));
        return sum.judged(started.elapsed(), true);
    }
    let first = wish.soak.map_or(0, |(_, first)| first);
    let more = |seed: u64| match wish.soak {
        Some((length, _)) => started.elapsed() < length,
        None => seed < wish.worlds,
    };
    let sum = side_by_side((first, 1), None, &more);
    sum.judged(started.elapsed(), false)
}

/// Plays from seed `first` on, each `stride`th, until there are no more or one failed.
fn side_by_side(
    (first, stride): (u64, u64),
    without: Option<Rule>,
    more: &(dyn Fn(u64) -> bool + Sync),
) -> Sum {
    let (next, sum, over) = (AtomicU64::new(first), Mutex::new(Sum::default()), AtomicBool::new(false));
    let lanes = std::thread::available_parallelism().map_or(1, usize::from);
    let draw = || {
        let seed = next.fetch_add(stride, Ordering::SeqCst);
        (!over.load(Ordering::SeqCst) && more(seed)).then_some(seed)
    };
    let put = |seed: u64, outcome: Result<Outcome, String>| {
        over.fetch_or(outcome.is_err(), Ordering::SeqCst);
        sum.lock().unwrap_or_else(PoisonError::into_inner).add(seed, outcome);
    };
    let play = || {
        let mut lane = Lane::new();
        while let Some(seed) = draw() {
            put(seed, lane.play(seed, without));
        }
    };
    std::thread::scope(|scope| (0..lanes).for_each(|_| drop(scope.spawn(play))));
    sum.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn twice() -> Result<String, String> {
    let mut lane = Lane::new();
    for seed in 0..6 {
        let [first, second] = [lane.play(seed, None)?, lane.play(seed, None)?];
        if first != second {
            return Err(format!("seed {seed}: {first:?}, then {second:?}"));
        }
    }
    Ok("six worlds, twice each".to_owned())
}

fn mutant(rule: Rule) -> Result<String, String> {
    // Leases are in one kind of worlds only: the first.
    let stride = if rule == Rule::LeaseLasts { KINDS.len() as u64 } else { 1 };
    let Sum { worlds, failed, .. } = side_by_side((0, stride), Some(rule), &|seed| seed < MUTANT_WORLDS);
    match failed {
        Some((seed, why)) => Ok(format!("{rule:?}: found by seed {seed} after {worlds} worlds: {why}")),
        None => Err(format!("{rule:?}: not found in {worlds} worlds")),
    }
}
