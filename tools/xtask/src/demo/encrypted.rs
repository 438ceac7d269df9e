//! The demo of a disk that opens by itself: a Debian guest encrypts a volume at its first boot, and nobody types anything at the second.
//!
//! Then the host puts back what it kept of yesterday, disk and TPM together, and the honest state boots once more.

use crate::below::Below;
use crate::failure::Failure;
use crate::house;
use crate::peers::encrypted::below::{boot, enrolled, put_back};
use crate::peers::encrypted::{Site, built, copied, opened, pcr_15, same_key};
use crate::steps::Steps;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Runs the story as steps.
pub(crate) fn into(steps: &mut Steps, keep: bool) -> Result<(), Failure> {
    let folder = house::fresh_workshop("demo-encrypted")?;
    let failed_before = steps.failed;
    if let Err(failure) = story(steps, &folder) {
        steps.attempt("encrypted disk", || Err(failure));
    }
    if !keep && steps.failed == failed_before {
        std::fs::remove_dir_all(&folder).map_err(|error| Failure::io("remove", &folder, &error))?;
    }
    Ok(())
}

fn story(steps: &mut Steps, folder: &Path) -> Result<(), Failure> {
    say("a tenant builds a Debian disk: signed kernel image, verity root, room for a volume, no secret");
    let (site, made) = built(folder, false)?;
    steps.add_all("guest", &made);
    let host = folder.join("host");
    std::fs::create_dir_all(&host).map_err(|error| Failure::io("make", &host, &error))?;
    let mut below = enrolled(&site, &host)?;
    let disk = host.join("disk.raw");
    copied(&site.built, &disk)?;

    say(
        "first boot: the TPM is made, the guest encrypts a volume under a key of its own and seals that to the TPM",
    );
    let first = booted(steps, &mut below, &site, &disk, 1)?;
    say("the host keeps a copy of all that it stores: the disk, and the TPM's volume");
    let (old_volume, old_disk) = kept(&below, &host, &disk)?;
    say("second boot: nobody types anything");
    let second = booted(steps, &mut below, &site, &disk, 2)?;
    steps.attempt("the same volume, by its key in PCR 15", || same_key(&[first, second]));
    say("the host puts back both copies, which fit each other");
    steps.attempt("refused: yesterday's disk with yesterday's TPM", || {
        put_back(&mut below, &site, &old_volume, &old_disk)
    });
    say("the honest state, once more");
    booted(steps, &mut below, &site, &disk, 3)?;
    Ok(())
}

fn say(what: &str) {
    println!("-- {what}");
}

/// A boot that must open the volume, at this boot of it; what was measured of the volume's key.
fn booted(
    steps: &mut Steps,
    below: &mut Below,
    site: &Site,
    disk: &Path,
    number: u32,
) -> Result<Option<String>, Failure> {
    let began = Instant::now();
    let said = boot(below, site, disk)?;
    let took = format!("{} s", began.elapsed().as_secs());
    steps.attempt(&format!("boot {number}: the volume is open and encrypted ({took})"), || {
        opened(&said, &number.to_string())
    });
    Ok(pcr_15(&said))
}

/// What a host copies while the machine is off.
fn kept(below: &Below, host: &Path, disk: &Path) -> Result<(PathBuf, PathBuf), Failure> {
    let old_disk = host.join("yesterday.raw");
    copied(disk, &old_disk)?;
    Ok((below.copy_disk("yesterday.volume")?, old_disk))
}
