//! A guest whose volume has a tag beside each block: an altered one is an error.
//!
//! **What.** Two boots; then a block in the middle of a file is altered, and the volume's partition is given the name of one that was never finished: it is made anew, and refused by the TPM that knows the first.
//! **Trust.** As [`super`]; sfdisk.
//! **Laws.** The file that was not altered still reads: the error is the altered block's.
//! **Not here.** Where else a volume can lie: `overlay`.

use super::on_swtpm::boot;
use super::parts::{bytes, overwritten, partition};
use super::{REFUSED, Site, copied, opened, pcr_15, same_key, stopped, value};
use crate::failure::Failure;
use crate::peers::step;
use crate::product::{Product, Profile};
use crate::steps::Step;
use crate::{house, process};
use std::fs::{self, File};
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The volume's partition, counted from 0: behind ESP, root and hashes.
pub(super) const VOLUME_INDEX: u64 = 3;
/// The file system's blocks, and dm-integrity's here.
const BLOCK_BYTES: usize = 4096;
/// What a changed file must have left on the disk at least, in blocks: more than dm-integrity's journal can hold of it at this size of volume (1848 sectors).
const RUN_BLOCKS_MIN: u64 = 512;

/// What systemd-cryptenroll says where the TPM does not yield the key.
const NO_KEY: &str = "No TPM2 metadata matching the current system state";

/// Builds the guest, boots it, and alters its disk.
pub(super) fn boots(of: &Site) -> Result<Vec<Step>, Failure> {
    let site = variant(of, "tagged", "mount = \"/var\"\nintegrity = true\n")?;
    let first = boot(&site, "first", "tpm", &site.disk);
    let before = site.folder.join("before.raw");
    copied(&site.disk, &before)?;
    let second = boot(&site, "second", "tpm", &site.disk);
    let keys = [&first, &second].map(|said| said.as_deref().ok().and_then(pcr_15));
    let known = second.as_ref().map(|said| value(said, "begins ").unwrap_or_default().to_owned());
    let known = known.unwrap_or_default();
    let mut steps = vec![
        step("first-boot-makes-it", first.and_then(|said| tagged(&said, "1"))),
        step("second-boot-opens-by-itself", second.and_then(|said| tagged(&said, "2"))),
        step("the-same-volume-by-pcr-15", same_key(&keys)),
    ];
    let altered = block_altered(&site, &before).and_then(|disk| boot(&site, "altered", "tpm", &disk));
    steps.push(step("altered-block-is-an-error", altered.and_then(|said| block_refused(&said, &known))));
    let unfinished = unfinished(&site)?;
    let said = boot(&site, "unfinished", "tpm", &unfinished);
    steps.push(step("made-anew-is-refused", said.and_then(|said| stopped(&said, &[REFUSED]))));
    Ok(steps)
}

/// Builds a guest that differs from the first one by these words on its volume, with the same keys; it says more of its volume.
pub(super) fn variant(of: &Site, name: &str, words: &str) -> Result<Site, Failure> {
    let folder = house::fresh_workshop(&format!("peers/encrypted-{name}"))?;
    for kept in ["boot.key", "boot.pem", "pcr.key", "report.service"] {
        let from = of.folder.join(kept);
        fs::copy(&from, folder.join(kept)).map_err(|error| Failure::io("copy", &from, &error))?;
    }
    let script = house::root().join("tests/peers/encrypted/volume.sh");
    fs::copy(&script, folder.join("report.sh")).map_err(|error| Failure::io("copy", &script, &error))?;
    let from = of.folder.join("guest.toml");
    let text = fs::read_to_string(&from).map_err(|error| Failure::io("read", &from, &error))?;
    let to = folder.join("guest.toml");
    fs::write(&to, text.replace("mount = \"/var\"\n", words))
        .map_err(|error| Failure::io("write", &to, &error))?;
    let product = Product::build(&folder, Profile::Dev)?;
    super::build(&product, &to, &folder.join("built"))?;
    let (built, disk) = (folder.join("built/disk.raw"), folder.join("disk.raw"));
    copied(&built, &disk)?;
    Ok(Site { husk: product.husk, folder, built, disk, variables: of.variables.clone() })
}

/// A volume with tags that was opened by the TPM, at this boot of it, and whose key the TPM does not yield a second time.
pub(super) fn tagged(said: &str, boot: &str) -> Result<String, Failure> {
    let seen = opened(said, boot)?;
    match (value(said, "tags "), value(said, "again ")) {
        (Some("integrity"), Some(again)) if again.contains(NO_KEY) => {
            Ok(format!("{seen}, over dm-integrity"))
        }
        found => Err(Failure::failed(format!("beneath the volume, and asked for its key again: {found:?}"))),
    }
}

/// What reading the altered block gave, where the file's beginning is as it was written.
fn block_refused(said: &str, known: &str) -> Result<String, Failure> {
    match (value(said, "begins "), value(said, "holds ")) {
        (Some(begins), Some(holds)) if begins == known && holds.ends_with("Input/output error") => {
            Ok(holds.to_owned())
        }
        found => Err(Failure::failed(format!("{found:?}, the file began as {known}"))),
    }
}

/// A copy of the disk in whose volume one byte is changed: in the middle of the longest piece that differs from before, which is where the known file lies.
fn block_altered(site: &Site, before: &Path) -> Result<PathBuf, Failure> {
    let altered = site.folder.join("altered.raw");
    copied(&site.disk, &altered)?;
    let (first, count) = longest_change(before, &altered)?;
    if count < RUN_BLOCKS_MIN {
        return Err(Failure::failed(format!(
            "peers: the known file left {count} blocks together on the disk"
        )));
    }
    flip(&altered, (first + count / 2) * BLOCK_BYTES as u64)?;
    Ok(altered)
}

/// Changes one byte.
pub(super) fn flip(file: &Path, at: u64) -> Result<(), Failure> {
    let mut byte = bytes(file, at, 1)?;
    byte.iter_mut().for_each(|byte| *byte ^= 1);
    overwritten(file, at, &byte)
}

/// The first block, counted from the disk's first, and the number of the most blocks together that differ in the volume's partition.
fn longest_change(before: &Path, after: &Path) -> Result<(u64, u64), Failure> {
    let start = partition(after, VOLUME_INDEX)? / BLOCK_BYTES as u64;
    let from = |path: &Path| {
        let io = |error| Failure::io("read", path, &error);
        let mut file = File::open(path).map_err(io)?;
        file.seek(SeekFrom::Start(start * BLOCK_BYTES as u64)).map_err(io)?;
        Ok(BufReader::with_capacity(1 << 20, file))
    };
    let (mut old, mut new) = (from(before)?, from(after)?);
    let (mut blocks, mut run, mut longest) = ([[0; BLOCK_BYTES]; 2], 0, (start, 0));
    for block in start.. {
        let [a, b] = &mut blocks;
        if old.read_exact(a).and_then(|()| new.read_exact(b)).is_err() {
            break;
        }
        run = if a == b { 0 } else { run + 1 };
        if run > longest.1 {
            longest = (block + 1 - run, run);
        }
    }
    Ok(longest)
}

/// A copy of the disk on which the volume's partition has the name of one whose making was cut.
fn unfinished(site: &Site) -> Result<PathBuf, Failure> {
    let disk = site.folder.join("unfinished.raw");
    copied(&site.disk, &disk)?;
    let number = (VOLUME_INDEX + 1).to_string();
    let mut name = Command::new("sfdisk");
    process::output(name.arg("--part-label").arg(&disk).args([&number, "encrypted-unfinished"]))?;
    Ok(disk)
}
