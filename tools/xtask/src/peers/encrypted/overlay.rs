//! A guest whose volume, with tags, lies over the whole root.
//!
//! **What.** Two boots, of which the second finds what the first wrote into `/etc`; then root, command line, header and partition table are altered. The same below the image, as far as the TPM has a part in it.
//! **Trust.** As [`super`]; sfdisk.
//! **Laws.** No boot goes on over memory, or over a volume that looks like the old one.
//! **Not here.** Altered blocks of such a volume: `tagged`.

use super::on_swtpm::boot;
use super::parts::{bytes, overwritten, partition};
use super::tagged::{VOLUME_INDEX, flip, tagged, variant};
use super::{CORRUPTED, NOTHING_BOOTS, REFUSED, SHUT, Site, below, copied, pcr_15, same_key, stopped, value};
use crate::failure::Failure;
use crate::peers::step;
use crate::steps::Step;
use crate::{house, process};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where LUKS2's two headers have their metadata, and where the second ends (LUKS2 on-disk format 1.1.3, section 2: a binary header of 4096 bytes, then JSON; 16 KiB each, as cryptsetup makes them).
const METADATA: [u64; 2] = [4096, (16 << 10) + 4096];
const HEADERS_BYTES: usize = 32 << 10;
/// The superblock of erofs begins at 1024 (Linux, Documentation/filesystems/erofs.rst): the first block that is read.
const IN_ROOT: u64 = 1024 + 64;

/// What is changed on a disk, what ends the boot then, and how.
type Change = (&'static str, fn(&Path) -> Result<(), Failure>, &'static str);
const CHANGES: [Change; 5] = [
    ("altered-root", root, CORRUPTED),
    ("other-root-hash", root_hash, NOTHING_BOOTS),
    ("altered-header", header, SHUT),
    ("removed-header", no_header, SHUT),
    ("removed-volume", no_partition, REFUSED),
];

/// Builds the guest, boots it in front of swtpm, and alters its disk; then two boots below the image, and the disk without its header.
pub(super) fn boots(of: &Site) -> Result<Vec<Step>, Failure> {
    let site = variant(of, "overlay", "mount = \"/\"\nintegrity = true\n")?;
    let mut steps = twice(|name| boot(&site, name, "tpm", &site.disk));
    for (name, change, by) in CHANGES {
        let said = changed(&site, name, change).and_then(|disk| boot(&site, name, "tpm", &disk));
        steps.push(step(&format!("{name}-stops"), said.and_then(|said| stopped(&said, &[by]))));
    }
    let below = below_the_image(&site)?.into_iter();
    steps.extend(below.map(|step| Step { name: format!("below the image: {}", step.name), ..step }));
    Ok(steps)
}

/// Two boots by these means.
fn twice(mut boot: impl FnMut(&str) -> Result<String, Failure>) -> Vec<Step> {
    let (first, second) = (boot("first"), boot("second"));
    let keys = [&first, &second].map(|said| said.as_deref().ok().and_then(pcr_15));
    vec![
        step("first-boot-lays-it-over-the-root", first.and_then(|said| over_root(&said, "1"))),
        step("what-was-written-in-etc-is-there", second.and_then(|said| over_root(&said, "2"))),
        step("the-same-volume-by-pcr-15", same_key(&keys)),
    ]
}

fn below_the_image(site: &Site) -> Result<Vec<Step>, Failure> {
    let folder = house::fresh_workshop("peers/encrypted-overlay-below")?;
    let mut below = below::enrolled(site, &folder)?;
    let disk = folder.join("disk.raw");
    copied(&site.built, &disk)?;
    let mut steps = twice(|_| below::boot(&mut below, site, &disk));
    no_header(&disk)?;
    let said = below::boot(&mut below, site, &disk);
    steps.push(step("removed-header-stops", said.and_then(|said| stopped(&said, &[SHUT]))));
    Ok(steps)
}

/// A root that is an overlay over a volume with tags; this boot of it is counted in `/etc`.
fn over_root(said: &str, boot: &str) -> Result<String, Failure> {
    let seen = tagged(said, boot)?;
    match value(said, "root ") {
        Some("overlay") => Ok(format!("{seen}, over the root")),
        found => Err(Failure::failed(format!("the root is {found:?}, not an overlay"))),
    }
}

/// A copy of the disk with this change.
fn changed(site: &Site, name: &str, change: fn(&Path) -> Result<(), Failure>) -> Result<PathBuf, Failure> {
    let disk = site.folder.join(format!("{name}.raw"));
    copied(&site.disk, &disk)?;
    change(&disk)?;
    Ok(disk)
}

fn root(disk: &Path) -> Result<(), Failure> {
    flip(disk, partition(disk, 1)? + IN_ROOT)
}

/// The command line lies in the kernel image as it is, and the kernel image in one piece on its FAT.
fn root_hash(disk: &Path) -> Result<(), Failure> {
    let (begins, ends) = (partition(disk, 0)?, partition(disk, 1)?);
    let bytes = bytes(disk, begins, ends - begins)?;
    let word = b"roothash=";
    let at = bytes.windows(word.len()).position(|window| window == word);
    let at = at.ok_or_else(|| Failure::failed("peers: no kernel image on the disk names a root's hash"))?;
    flip(disk, begins + (at + word.len()) as u64)
}

fn header(disk: &Path) -> Result<(), Failure> {
    let begins = partition(disk, VOLUME_INDEX)?;
    METADATA.into_iter().try_for_each(|at| flip(disk, begins + at))
}

fn no_header(disk: &Path) -> Result<(), Failure> {
    overwritten(disk, partition(disk, VOLUME_INDEX)?, &[0; HEADERS_BYTES])
}

fn no_partition(disk: &Path) -> Result<(), Failure> {
    let number = (VOLUME_INDEX + 1).to_string();
    process::output(Command::new("sfdisk").arg("--delete").arg(disk).arg(number)).map(drop)
}
