//! The same guest below the image, with the real broker: what swtpm cannot refuse is refused there.

use super::{MARK, STOPS, Site, copied, has_ended, opened, pcr_15, same_key, stopped};
use crate::below::{Below, PATIENCE, ROLLED_BACK};
use crate::failure::Failure;
use crate::guest::image_for_uefi;
use crate::peers::step;
use crate::process::Daemon;
use crate::product::text;
use crate::steps::Step;
use crate::{house, setup};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A guest that has said its last word, and then powers off.
const END_PATIENCE: Duration = Duration::from_secs(180);

/// Two boots; then yesterday's volume and disk, and the disk in another VM of the tenant's. With `all`, yesterday's disk alone.
pub(super) fn boots(site: &Site, all: bool) -> Result<Vec<Step>, Failure> {
    let folder = house::fresh_workshop("peers/encrypted-below")?;
    let mut below = enrolled(site, &folder)?;
    let disk = folder.join("disk.raw");
    copied(&site.built, &disk)?;

    let first = boot(&mut below, site, &disk);
    let (old_volume, old_disk) = (below.copy_disk("yesterday.volume")?, folder.join("yesterday.raw"));
    copied(&disk, &old_disk)?;
    let second = boot(&mut below, site, &disk);
    let keys = [&first, &second].map(|said| said.as_deref().ok().and_then(pcr_15));
    let mut steps = vec![
        step("first-boot-encrypts", first.and_then(|said| opened(&said, "1"))),
        step("second-boot-opens-by-itself", second.and_then(|said| opened(&said, "2"))),
        step("the-same-volume-by-pcr-15", same_key(&keys)),
        step("both-put-back-refused", put_back(&mut below, site, &old_volume, &old_disk)),
    ];
    if all {
        let older = boot(&mut below, site, &old_disk).and_then(|said| opened(&said, "2"));
        steps.push(step("older-disk-alone-is-not-noticed", older));
    }
    below.vm = below.enrol("other", &named(site).each_ref().map(String::as_str))?;
    let cloned = boot(&mut below, site, &disk);
    steps.push(step("clone-does-not-open", cloned.and_then(|said| stopped(&said, &STOPS[1..2]))));
    Ok(steps)
}

/// What serves, and a VM whose tenant named its variables.
pub(crate) fn enrolled(site: &Site, folder: &Path) -> Result<Below, Failure> {
    let kernel = setup::fetched_kernel()?;
    let initramfs = image_for_uefi(&kernel)?;
    let mut below = Below::set(folder, kernel, initramfs)?;
    below.vm = below.enrol("encrypted", &named(site).each_ref().map(String::as_str))?;
    Ok(below)
}

pub(super) fn named(site: &Site) -> [String; 2] {
    ["--firmware-vars".to_owned(), text(&site.variables)]
}

fn start(below: &mut Below, site: &Site, volume: &Path, disk: &Path) -> Result<Daemon, Failure> {
    let [variables, disk] = [&site.variables, disk].map(|path: &Path| text(path));
    let words = ["--firmware", setup::OVMF, "--firmware-vars", &variables, "--disk", &disk];
    below.start_words("encrypted", volume, 1, &words)
}

/// One boot to its end, orderly or not; what the console said.
pub(crate) fn boot(below: &mut Below, site: &Site, disk: &Path) -> Result<String, Failure> {
    let volume: PathBuf = below.vm.disk.clone();
    let mut machine = start(below, site, &volume, disk)?;
    machine.wait_until(PATIENCE, has_ended)?;
    if machine.log_text().contains(MARK) {
        machine.wait_success(END_PATIENCE)?;
    } else {
        below.cut_power(&mut machine)?;
    }
    Ok(machine.log_text())
}

/// Yesterday's volume and yesterday's disk, together.
pub(crate) fn put_back(
    below: &mut Below,
    site: &Site,
    volume: &Path,
    disk: &Path,
) -> Result<String, Failure> {
    let machine = start(below, site, volume, disk)?;
    Below::is_refused(machine, ROLLED_BACK)
}
