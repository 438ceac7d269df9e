//! `cargo xtask demo`: the product end to end.
//!
//! **What.** One VM's life in steps: enrolled, booted, its power cut in the middle of writes, booted again, then
//! attacked. [`image`] tells it through the bootable image, [`encrypted`] for a guest whose disk opens by itself; with the component in a host process it is longer, and has every
//! attack that a host has: [`stage`] is what runs there, [`refusals`] the attacks.
//! **Trust.** The guest is Debian's kernel and tpm2-tools; nothing of Husk judges itself but by its fault codes.
//! **Laws.** A step passes only for what was seen. An attack passes only with the code that names it, and only if the
//! honest state boots afterwards.
//! **Not here.** The laws on a simulated disk, at every byte: `tests/`.

pub(crate) mod encrypted;
pub(crate) mod image;
mod refusals;
mod stage;

use crate::failure::Failure;
use crate::guest::Report;
use crate::product::{Product, Profile};
use crate::steps::{Step, Steps};
use crate::{house, setup};
use stage::Stage;

pub(crate) const HELP: &str = "\
cargo xtask demo [--keep] [--host | --encrypted-disk]

Enrols a VM with a broker, boots Debian's kernel below the bootable image in which
its TPM lives, replays the event log, cuts the power in the middle of writes, then
tries a clone and yesterday's disk. Needs no silicon: the secure processor is
simulated and says so. With --keep, disks and logs stay in target/husk/demo; they
also stay when a step fails. The last line counts.
With --host the TPM is a process of the host, which a guest sees through shared
memory, and the story is longer: all that a hostile host would try.
With --encrypted-disk it builds a Debian 13 guest (as root; a mirror must be reachable)
which boots in OVMF, encrypts a volume at its first boot and opens it by itself at the
second; then yesterday's disk and TPM together are refused.";

/// Whose story is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Story {
    /// A TPM in the image.
    Image,
    /// A TPM in a process of the host.
    Host,
    /// A guest whose disk opens by itself.
    EncryptedDisk,
}

/// How many acknowledged writes there must be before the power is cut.
const WRITES_BEFORE_CUT: u64 = 5;

/// Runs the demo.
pub(crate) fn run(keep: bool, which: Story) -> Result<(), Failure> {
    setup::to_boot()?;
    let mut steps = Steps::default();
    match which {
        Story::Image => image::into(&mut steps, keep)?,
        Story::Host => into(&mut steps, keep)?,
        Story::EncryptedDisk => encrypted::into(&mut steps, keep)?,
    }
    println!("demo: {} steps, {} passed, {} failed", steps.passed + steps.failed, steps.passed, steps.failed);
    if steps.all_passed() { Ok(()) } else { Err(Failure::failed("demo: something failed, see above")) }
}

/// Runs the demo on the host as steps.
pub(crate) fn into(steps: &mut Steps, keep: bool) -> Result<(), Failure> {
    let folder = house::fresh_workshop("demo-host")?;
    let failed_before = steps.failed;
    let told = story(steps, &folder);
    if let Err(failure) = told {
        steps.attempt("demo", || Err(failure));
    }
    if !keep && steps.failed == failed_before {
        std::fs::remove_dir_all(&folder).map_err(|error| Failure::io("remove", &folder, &error))?;
    }
    Ok(())
}

/// The whole story; an error is a step without which nothing further can be tried.
fn story(steps: &mut Steps, folder: &std::path::Path) -> Result<(), Failure> {
    let product = Product::build(folder, Profile::Dev)?;
    let mut stage = Stage::set(&product)?;
    let enrolled =
        format!("tenant {}, firmware {}…", stage.tenant, stage.measurement.get(..16).unwrap_or_default());
    steps.attempt("enrolment", || Ok(enrolled));
    let first = stage.guest_boot("first-boot", Vec::new())?;
    steps.add_all("boot 1", &first.judged());
    let hammered = stage.power_cut_during_writes(WRITES_BEFORE_CUT)?;
    steps.add(&cut_step(&hammered));
    let second = stage.guest_boot("second-boot", kept(&first, &hammered))?;
    steps.add_all("boot after the cut", &second.judged());
    refusals::into(steps, &mut stage)?;
    let last = stage.guest_boot("second-boot", kept(&first, &hammered))?;
    steps.add_all("boot after all attacks", &last.judged());
    Ok(())
}

/// Did the guest write until the end, with everything up to then acknowledged?
fn cut_step(hammered: &Report) -> Step {
    let [counter, progress] =
        ["counter", "progress"].map(|kind| hammered.last_acknowledged(kind).unwrap_or_default());
    Step {
        name: "power cut in the middle of writes".into(),
        passed: progress >= WRITES_BEFORE_CUT && hammered.end.is_none(),
        seen: format!(
            "counter {counter} and {progress} writes acknowledged, then SIGKILL to guest and component"
        ),
    }
}

/// What the next boot must find.
fn kept(first: &Report, hammered: &Report) -> Vec<(&'static str, String)> {
    let acknowledged = |kind| hammered.last_acknowledged(kind).unwrap_or_default().to_string();
    let value = |name| first.value(name).unwrap_or("nothing").to_owned();
    vec![
        ("counter-min", acknowledged("counter")),
        ("progress-min", acknowledged("progress")),
        ("key-name", value("key-name")),
        ("reset-count", value("reset-count")),
    ]
}
