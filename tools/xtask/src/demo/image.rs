//! The demo through the image: a kernel below the layer, its TPM's volume on a device that it does not see.
//!
//! As the host process's story, but shorter: enrolled by the image's own launch measurement, booted, its log replayed, its
//! power cut in the middle of writes by SIGKILL of QEMU, booted again, then yesterday's disk and a clone.

use super::{WRITES_BEFORE_CUT, cut_step, kept};
use crate::below::{Below, PATIENCE, ROLLED_BACK, Start};
use crate::failure::Failure;
use crate::guest::{QUIET, Report, image as initramfs};
use crate::steps::Steps;
use crate::{house, setup};
use std::path::Path;

/// What the console says of "another instance holds the lease".
const BUSY: &str = "asking again";

/// Runs the story as steps.
pub(crate) fn into(steps: &mut Steps, keep: bool) -> Result<(), Failure> {
    let folder = house::fresh_workshop("demo")?;
    let failed_before = steps.failed;
    if let Err(failure) = story(steps, &folder) {
        steps.attempt("image", || Err(failure));
    }
    if !keep && steps.failed == failed_before {
        std::fs::remove_dir_all(&folder).map_err(|error| Failure::io("remove", &folder, &error))?;
    }
    Ok(())
}

fn story(steps: &mut Steps, folder: &Path) -> Result<(), Failure> {
    let mut below = Below::set(folder, setup::fetched_kernel()?, initramfs()?)?;
    let first = below.boot("first-boot", &[], 1)?;
    steps.add_all("image: boot 1", &first.judged());
    let yesterday = below.copy_disk("yesterday.disk")?;
    let log = below.boot("event-log", &[], 1)?;
    steps.add_all("image: measured start", &log.judged());
    let hammered = cut(&mut below)?;
    steps.add(&cut_step(&hammered));
    steps.attempt("image: a clone waits for the lease, then fences", || refused_clone(&mut below));
    let second = below.boot("second-boot", &kept(&first, &hammered), 1)?;
    steps.add_all("image: boot after the cut", &second.judged());
    steps.attempt("image: refused: yesterday's disk", || refused_yesterday(&mut below, &yesterday));
    Ok(())
}

/// Boots, lets the guest write, and kills QEMU while it does.
fn cut(below: &mut Below) -> Result<Report, Failure> {
    let disk = below.vm.disk.clone();
    let mut machine = below.start(start("hammer", &disk))?;
    let written = |console: &str| {
        Report::read(console).last_acknowledged("progress").filter(|number| *number >= WRITES_BEFORE_CUT)
    };
    machine.wait_until(PATIENCE, written)?;
    below.cut_power(&mut machine)?;
    Ok(Report::read(&machine.log_text()))
}

/// A clone of the disk of a machine whose lease may still run: it has to wait, and then it is the VM's newest instance.
fn refused_clone(below: &mut Below) -> Result<String, Failure> {
    let clone = below.copy_disk("clone.disk")?;
    let mut machine = below.start(start("second-boot", &clone))?;
    let waited = machine.wait_until(PATIENCE, |console| {
        let served = console.contains("the TPM has its memory");
        served.then(|| console.contains(BUSY))
    })?;
    below.cut_power(&mut machine)?;
    std::fs::copy(&clone, &below.vm.disk).map_err(|error| Failure::io("copy", &clone, &error))?;
    let seen = if waited { "it was told to wait" } else { "the lease was over already" };
    Ok(format!("{seen}, then it was granted a newer token"))
}

fn refused_yesterday(below: &mut Below, disk: &Path) -> Result<String, Failure> {
    below.refused(start("second-boot", disk), ROLLED_BACK)
}

const fn start<'a>(script: &'a str, disk: &'a Path) -> Start<'a> {
    Start { script, settings: &[], disk, guest_cpus: 1, words: &[], kernel_words: QUIET }
}
