//! The same guest below the image, with the real broker: what swtpm cannot refuse is refused there.

use super::attack::{
    ALTERED, Attack, CLONED, CREDENTIAL, EXCHANGED, MADE_ELSEWHERE, NULL_CIPHER, OLD_FORMAT, OTHER_FIRMWARE,
    PUT_BACK,
};
use super::expected::pcrs;
use super::parts::{bytes, overwritten};
use super::{MARK, Site, WORDS, copied, has_ended, opened, pcr_15, planted, same_key};
use crate::below::{Below, PATIENCE, ROLLED_BACK};
use crate::failure::Failure;
use crate::guest::image_for_uefi;
use crate::peers::step;
use crate::process::Daemon;
use crate::product::text;
use crate::steps::Step;
use crate::{house, setup};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A guest that has said its last word, and then powers off.
const END_PATIENCE: Duration = Duration::from_secs(180);
/// What is altered without `all`: the last of what stops before the kernel starts.
const CHEAPEST: Range<usize> = 2..3;
/// In Debian's OVMF, a bit in the midst of a megabyte of padding.
const UNUSED_AT: u64 = 0x25_0000;

/// A machine whose TPM is Husk's, and its disk.
struct Machine<'s> {
    below: Below,
    site: &'s Site,
    disk: PathBuf,
}

/// Two boots; then what the host does: without `all` what costs least.
pub(super) fn boots(site: &Site, all: bool) -> Result<Vec<Step>, Failure> {
    let mut machine = Machine::set(site)?;
    let (told, mut steps) = machine.lives()?;
    steps.push(machine.on_disk(NULL_CIPHER, planted::null_cipher));
    for (part, attack) in ALTERED.get(if all { 0..ALTERED.len() } else { CHEAPEST }).into_iter().flatten() {
        steps.push(machine.on_disk(*attack, |disk, copy| site.altered(disk, *part, copy)));
    }
    if all {
        steps.push(machine.on_disk(CREDENTIAL, |disk, copy| planted::credential(disk, &told, copy)));
        steps.push(machine.on_disk(OLD_FORMAT, |disk, copy| planted::own_volume(disk, "luks1", copy)));
        steps.push(machine.on_disk(EXCHANGED, |disk, copy| planted::own_volume(disk, "luks2", copy)));
        let ignored = machine.with_words().and_then(|said| opened(&said, "3"));
        steps.push(step("added-words-do-not-reach-the-guest", ignored));
        steps.push(OTHER_FIRMWARE.judged(machine.in_other_firmware()));
        let older = machine.folder().join("yesterday.raw");
        let older = machine.boot(&older).and_then(|said| opened(&said, "2"));
        steps.push(step("older-disk-alone-is-not-noticed", older));
    }
    replace(&mut machine.below, site, "other")?;
    let disk = machine.disk.clone();
    steps.push(CLONED.judged(machine.boot(&disk)));
    if all {
        replace(&mut machine.below, site, "third")?;
        steps.push(MADE_ELSEWHERE.judged(machine.boot(&site.disk)));
    }
    Ok(steps)
}

impl<'s> Machine<'s> {
    fn set(site: &'s Site) -> Result<Self, Failure> {
        let folder = house::fresh_workshop("peers/encrypted-below")?;
        let disk = folder.join("disk.raw");
        copied(&site.built, &disk)?;
        Ok(Self { below: enrolled(site, &folder)?, site, disk })
    }

    fn folder(&self) -> &Path {
        self.disk.parent().unwrap_or(Path::new("."))
    }

    /// Two boots, and the first one's disks put back; what the first one said.
    fn lives(&mut self) -> Result<(String, Vec<Step>), Failure> {
        let disk = self.disk.clone();
        let first = self.boot(&disk);
        let old_volume = self.below.copy_disk("yesterday.volume")?;
        let old_disk = self.folder().join("yesterday.raw");
        copied(&disk, &old_disk)?;
        let second = self.boot(&disk);
        let keys = [&first, &second].map(|said| said.as_deref().ok().and_then(pcr_15));
        let no_boot = |_| Err(Failure::failed("there was no such boot"));
        let [first_pcrs, second_pcrs] =
            [&first, &second].map(|said| said.as_ref().map_or_else(no_boot, |said| pcrs(self.site, said)));
        let told = first.as_ref().map_or_else(|_| String::new(), Clone::clone);
        let refused = put_back(&mut self.below, self.site, &old_volume, &old_disk);
        let steps = vec![
            step("first-boot-encrypts", first.and_then(|said| opened(&said, "1"))),
            step("second-boot-opens-by-itself", second.and_then(|said| opened(&said, "2"))),
            step("the-same-volume-by-pcr-15", same_key(&keys)),
            step("pcrs-as-expected-at-the-first-boot", first_pcrs),
            step("pcrs-as-expected-at-the-second-boot", second_pcrs),
            PUT_BACK.refused(refused),
        ];
        Ok((told, steps))
    }

    /// Makes another disk of this one, and boots it.
    fn on_disk(&mut self, attack: Attack, make: impl FnOnce(&Path, &Path) -> Result<(), Failure>) -> Step {
        let copy = self.folder().join(format!("{}.raw", attack.name));
        let made = make(&self.disk, &copy);
        let step = attack.judged(made.and_then(|()| self.boot(&copy)));
        super::removed(step, &copy)
    }

    /// Boots in a firmware of which a bit is another.
    fn in_other_firmware(&mut self) -> Result<String, Failure> {
        let (firmware, disk) = (self.folder().join("other.fd"), self.disk.clone());
        fs::copy(setup::OVMF, &firmware).map_err(|error| Failure::io("copy", &firmware, &error))?;
        let unused = bytes(&firmware, UNUSED_AT, 1)?;
        if unused != [0xFF] {
            return Err(Failure::failed("peers: this OVMF has its padding elsewhere"));
        }
        overwritten(&firmware, UNUSED_AT, &[0xFE])?;
        boot_in(&mut self.below, self.site, &text(&firmware), &disk)
    }

    /// Boots with words for the kernel beside those that the tenant signed.
    fn with_words(&mut self) -> Result<String, Failure> {
        let copy = self.folder().join("words.raw");
        copied(&self.disk, &copy)?;
        self.below.qemu = ["-smbios", WORDS].map(str::to_owned).to_vec();
        let said = self.boot(&copy);
        self.below.qemu.clear();
        said
    }

    /// One boot of a disk, as the tenant has it.
    fn boot(&mut self, disk: &Path) -> Result<String, Failure> {
        boot(&mut self.below, self.site, disk)
    }
}

/// What serves, and a VM whose tenant named its variables.
pub(crate) fn enrolled(site: &Site, folder: &Path) -> Result<Below, Failure> {
    let kernel = setup::fetched_kernel()?;
    let initramfs = image_for_uefi(&kernel)?;
    let mut below = Below::set(folder, kernel, initramfs)?;
    replace(&mut below, site, "encrypted")?;
    Ok(below)
}

/// Goes on as another VM of the tenant's.
pub(super) fn replace(below: &mut Below, site: &Site, name: &str) -> Result<(), Failure> {
    below.vm = below.enrol(name, &["--firmware-vars", &text(&site.variables)])?;
    Ok(())
}

/// One boot to its end, orderly or not; what the console said.
pub(crate) fn boot(below: &mut Below, site: &Site, disk: &Path) -> Result<String, Failure> {
    boot_in(below, site, setup::OVMF, disk)
}

/// The same, in this firmware.
fn boot_in(below: &mut Below, site: &Site, firmware: &str, disk: &Path) -> Result<String, Failure> {
    let volume = below.vm.disk.clone();
    let mut machine = start(below, site, firmware, [&volume, disk])?;
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
    let machine = start(below, site, setup::OVMF, [volume, disk])?;
    Below::is_refused(machine, ROLLED_BACK)
}

pub(crate) fn start(
    below: &mut Below,
    site: &Site,
    firmware: &str,
    [volume, disk]: [&Path; 2],
) -> Result<Daemon, Failure> {
    let [variables, disk] = [&site.variables, disk].map(|path: &Path| text(path));
    let words = ["--firmware", firmware, "--firmware-vars", &variables, "--disk", &disk];
    below.start_words("encrypted", volume, 1, &words)
}
