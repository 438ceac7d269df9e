//! `cargo xtask bench`: what each promise costs, beside a TPM that makes none.
//!
//! **What.** One client sends the same commands to three TPMs in turn: husk with its broker, husk without one, and
//! swtpm. [`operations`] says which commands, [`site`] starts the TPMs, [`cost`] reads what the kernel and husk
//! counted, [`outcome`] and [`plot`] show it.
//! **Trust.** This machine's clock and scheduler. Two TPMs out of three are the same engine, so that what differs is ours.
//! **Laws.** Nothing is shown that was not measured in this run. A duration decides no verdict.
//! **Not here.** What a commit costs at every state size and block: `tests/volume/budgets.rs`.

pub(crate) mod broker;
mod client;
#[path = "../../../../tests/support/tpm.rs"]
mod commands;
mod cost;
pub(crate) mod disk;
mod entry;
pub(crate) mod image;
mod operations;
mod outcome;
mod plot;
mod qmp;
mod site;
mod socket;
mod tap;

use crate::failure::Failure;
use crate::product::{Product, Profile};
use crate::{house, setup};
use cost::{DiskCost, Pins};
use operations::{OPERATIONS, OPERATIONS_FROM_RAM, Operation};
use outcome::Outcome;
use site::{Running, Site, Stores};
use std::time::Duration;
use tap::Tap;

pub(crate) const HELP: &str = "\
cargo xtask bench [broker|image|disk] [--json]

Builds husk for release and times the same TPM commands on husk with its broker, on
husk without one (every promise given up), and on Debian's swtpm: one client, in
turn, each end on a processor of its own where there are two; durable changes also with
files in /dev/shm, which go again. Also bytes, writes and
flushes of each durable change, and resident memory. With --json one object a line
and operation: op, husk_us, husk_unanchored_us, swtpm_us, ratio (husk_us to swtpm_us)
and, where memory changes, bytes_written, writes, flushes of husk a command; further
keys are swtpm's (its flushes by strace, in a pass that is not timed), processor time,
resident memory, and of a cold start what husk waited for: its broker, the simulated
processor; husk_own_us is the rest. A plot goes to target/husk/bench.svg. Takes about a minute; a loaded machine shows.

With `broker`: anchors and boots a second of one broker on SQLite and of one and three on
PostgreSQL, from 1 to 256 VMs, with 10 and 100,000 rows, as fast as they are answered and
(paced) at 2,500 and at half of their best; latencies, and what each cost the brokers.

With `image`: the same kernel in QEMU alone and below the image, in turn: time from QEMU's
or the launcher's start to the kernel's entry and to its first line, and the longest that a
thread which wakes every millisecond waited (cyclictest, 10 seconds), below the image while
the TPM makes RSA keys.
Medians of three. Takes about three minutes, and says little on a machine that does more.

With `disk`: a Debian guest whose encrypted disk opens by itself, in Debian's OVMF with Secure Boot,
below the image and in QEMU in front of swtpm, in turn, on the same model of a disk: from the guest's
entry to its volume mounted, and the phases between (firmware, kernel image, kernel, initrd, volume).
Medians of three, behind a first boot that makes the volume. Needs root or passwordless sudo for the
guest's build. Takes about twelve minutes, and says little on a machine that does more.";

/// How many cold starts of each kind.
const COLD_STARTS: usize = 9;

/// How many durable commands are counted: fewer than there are between two checkpoints.
const COUNTED: u32 = 16;

/// The three that are compared: husk with its broker, husk without, swtpm.
type Three<T> = [T; 3];

/// Runs the benchmark.
pub(crate) fn run(json: bool) -> Result<(), Failure> {
    setup::to_build()?;
    let folder = house::fresh_workshop("bench")?;
    eprintln!("bench: building husk for release");
    let product = Product::build(&folder, Profile::Release)?;
    let pins = Pins::choose()?;
    eprintln!("bench: {pins}");
    let flush_us = cost::bare_flush_us(&folder)?;
    eprintln!("bench: a bare write of 512 B with its flush takes {flush_us:.0} µs here");
    let mut site = Site::set(product, pins)?;
    let mut outcomes = served(&mut site)?;
    outcomes.extend(served_from_ram(&mut site)?);
    outcomes.extend(cold_starts(&mut site)?);
    show(&outcomes, json)?;
    let picture = house::workshop("")?.join("bench.svg");
    std::fs::write(&picture, plot::svg(&outcomes)).map_err(|error| Failure::io("write", &picture, &error))?;
    eprintln!("bench: plot in {}", picture.display());
    drop(site);
    std::fs::remove_dir_all(&folder).map_err(|error| Failure::io("remove", &folder, &error))
}

fn show(outcomes: &[Outcome], json: bool) -> Result<(), Failure> {
    use std::io::Write;
    let text = if json {
        outcomes.iter().map(|outcome| outcome.json() + "\n").collect()
    } else {
        outcome::table(outcomes)
    };
    let shown = std::io::stdout().write_all(text.as_bytes());
    shown.map_err(|error| Failure::failed(format!("bench: nobody reads the result: {error}")))
}

/// Every operation on three TPMs that serve.
fn served(site: &mut Site) -> Result<Vec<Outcome>, Failure> {
    let stores = site.stores("served")?;
    let mut three = site.three(&stores)?;
    let mut outcomes = Vec::new();
    for operation in OPERATIONS {
        eprintln!("bench: {}", operation.name);
        let outcome = timed(operation, &mut three)?;
        outcomes.push(if operation.durable { with_counts(outcome, operation, site)? } else { outcome });
    }
    let [anchored, unanchored, swtpm] = three.each_ref().map(Running::resident_kib);
    eprintln!(
        "bench: resident after all this: husk {} KiB, without broker {} KiB, swtpm {} KiB",
        anchored?, unanchored?, swtpm?
    );
    three.into_iter().try_for_each(Running::stop)?;
    Ok(outcomes)
}

/// What durable changes cost where the disk costs nothing.
fn served_from_ram(site: &mut Site) -> Result<Vec<Outcome>, Failure> {
    let Some((stores, _ram)) = site.stores_in_ram("ram")? else { return Ok(Vec::new()) };
    let mut three = site.three(&stores)?;
    let mut outcomes = Vec::new();
    for operation in OPERATIONS_FROM_RAM {
        eprintln!("bench: {}", operation.name);
        outcomes.push(timed(operation, &mut three)?);
    }
    three.into_iter().try_for_each(Running::stop)?;
    Ok(outcomes)
}

/// One operation on each in turn, a burst at a time: caches are as warm for each as its own last command left them.
fn timed(operation: &Operation, three: &mut Three<Running>) -> Result<Outcome, Failure> {
    let mut handles: Three<Vec<u32>> = Default::default();
    for (running, handles) in three.iter_mut().zip(&mut handles) {
        *handles = (operation.prepare)(&mut running.client)?;
    }
    let before = readings(three)?;
    let mut samples: Three<Vec<Duration>> = Default::default();
    for turn in 0..operation.rounds / operation.burst {
        for ((running, handles), samples) in three.iter_mut().zip(&handles).zip(&mut samples) {
            for round in turn * operation.burst..(turn + 1) * operation.burst {
                samples.push((operation.sample)(&mut running.client, handles, round)?);
            }
        }
    }
    let after = readings(three)?;
    for (running, handles) in three.iter_mut().zip(&handles) {
        operations::clear_up(&mut running.client, handles)?;
    }
    let per = f64::from(operation.rounds);
    let mut outcome = Outcome::of_times(operation.name, &samples);
    outcome.cpu_us = Some([0, 1, 2].map(|at| after[at].cpu_us_since(&before[at]) / per));
    let [anchored, unanchored, swtpm] = three.each_ref().map(Running::resident_kib);
    outcome.resident_kib = Some([anchored?, unanchored?, swtpm?]);
    if operation.durable {
        outcome.swtpm_disk = Some(after[2].written_since(&before[2]).per(per));
    }
    Ok(outcome)
}

fn with_counts(outcome: Outcome, operation: &Operation, site: &mut Site) -> Result<Outcome, Failure> {
    let flushes = Some(flushes_of_swtpm(operation, site)?);
    let swtpm_disk = outcome.swtpm_disk.map(|disk| DiskCost { flushes, ..disk });
    Ok(Outcome { disk: Some(counted(operation, site)?), swtpm_disk, ..outcome })
}

fn readings(three: &Three<Running>) -> Result<Vec<cost::Reading>, Failure> {
    three.iter().map(Running::reading).collect()
}

/// What husk asks of its disk for one command of an operation: the difference between a life with some and one
/// without.
fn counted(operation: &Operation, site: &mut Site) -> Result<DiskCost, Failure> {
    let mut life = |commands: u32| {
        let vm = site.enrol(&format!("counted-{commands}"))?;
        let mut running = site.anchored(&vm)?;
        let handles = (operation.prepare)(&mut running.client)?;
        for round in 0..commands {
            (operation.sample)(&mut running.client, &handles, round)?;
        }
        let log = running.log();
        running.stop()?;
        DiskCost::of_log(&log)
    };
    let (without, with) = (life(0)?, life(COUNTED)?);
    Ok(with.since(&without).per(f64::from(COUNTED)))
}

/// How often swtpm asks that bytes reach the disk for one command of an operation, as strace sees it: again the difference
/// between two lives.
fn flushes_of_swtpm(operation: &Operation, site: &mut Site) -> Result<f64, Failure> {
    let mut life = |commands: u32| {
        let [state, trace] = ["traced-state", "trace"].map(|name| site.scratch(name));
        std::fs::create_dir(&state).map_err(|error| Failure::io("make", &state, &error))?;
        let mut running = site.swtpm_traced(&state, &trace)?;
        let handles = (operation.prepare)(&mut running.client)?;
        for round in 0..commands {
            (operation.sample)(&mut running.client, &handles, round)?;
        }
        running.leave()?;
        cost::flushes_in(&trace)
    };
    let (without, with) = (life(0)?, life(COUNTED)?);
    Ok((with - without) / f64::from(COUNTED))
}

/// From the start of the process to the second answer (Startup, GetRandom): first with nothing stored, then with what
/// the first life left; with files on the disk, and in RAM where a flush is nothing.
fn cold_starts(site: &mut Site) -> Result<Vec<Outcome>, Failure> {
    eprintln!("bench: cold starts");
    let taps = site.taps()?;
    let (mut on_disk, mut in_ram) =
        ([Lives::default(), Lives::default()], [Lives::default(), Lives::default()]);
    for start in 0..COLD_STARTS {
        let stores = site.stores(&format!("cold-{start}"))?;
        two_lives(site, &taps, &stores, &mut on_disk)?;
        if let Some((stores, _ram)) = site.stores_in_ram(&format!("cold-ram-{start}"))? {
            two_lives(site, &taps, &stores, &mut in_ram)?;
        }
    }
    let names = [
        ("cold start without state", &on_disk[0]),
        ("cold start with state", &on_disk[1]),
        ("cold start without, files in RAM", &in_ram[0]),
        ("cold start with, files in RAM", &in_ram[1]),
    ];
    let measured = names.into_iter().filter(|(_, lives)| !lives.took[0].is_empty());
    Ok(measured.map(|(op, lives)| lives.outcome(op)).collect())
}

/// Samples of lives of one kind.
#[derive(Debug, Default)]
struct Lives {
    took: Three<Vec<Duration>>,
    /// What husk with its broker waited for: the broker, the processor; and the rest, each of its own life.
    parts: Three<Vec<Duration>>,
    resident_kib: Option<Three<u64>>,
}

impl Lives {
    fn outcome(&self, op: &'static str) -> Outcome {
        let parts_us = Some(self.parts.each_ref().map(|samples| outcome::median_us(samples)));
        Outcome { parts_us, resident_kib: self.resident_kib, ..Outcome::of_times(op, &self.took) }
    }
}

fn two_lives(
    site: &mut Site,
    taps: &[Tap; 2],
    stores: &Stores,
    lives: &mut [Lives; 2],
) -> Result<(), Failure> {
    for life in lives {
        let before = taps.each_ref().map(Tap::waited);
        let anchored = site.anchored_through(taps, &stores.vm)?;
        let after = taps.each_ref().map(Tap::waited);
        let [broker, processor] = [0, 1].map(|at| after[at].saturating_sub(before[at]));
        let own = anchored.cold_start.saturating_sub(broker + processor);
        for (samples, part) in life.parts.iter_mut().zip([broker, processor, own]) {
            samples.push(part);
        }
        let mut resident_kib = [0; 3];
        let mut note = |at: usize, running: Running| {
            life.took[at].push(running.cold_start);
            resident_kib[at] = running.resident_kib()?;
            running.stop()
        };
        note(0, anchored)?;
        note(1, site.unanchored(&stores.disk)?)?;
        note(2, site.swtpm(&stores.state)?)?;
        life.resident_kib = Some(resident_kib);
    }
    Ok(())
}
