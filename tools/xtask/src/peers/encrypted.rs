//! A Debian guest that encrypts a volume at its first boot: built by `husk guest build`, started in Debian's OVMF with Secure Boot, in front of swtpm, and below the image.
//!
//! **What.** Two boots, of which the second opens the volume by itself; then what somebody with the disk in their hands tries.
//! **Trust.** QEMU, swtpm, the broker, OVMF, and the Debian that the guest is made of.
//! **Laws.** Two builds give the same bytes.
//! **Not here.** What a guest is made of: `tools/guest`.

mod attack;
pub(super) mod attested;
pub(crate) mod below;
mod expected;
mod naming;
mod on_swtpm;
mod overlay;
mod parts;
mod plain;
mod planted;
pub(super) mod prepared;
mod tagged;

use super::uefi::{self, NOTHING_BOOTS};
use super::{group, step};
use crate::failure::Failure;
use crate::product::{Product, Profile, text};
use crate::steps::{Step, Steps};
use crate::{house, process, setup};
use parts::{Part, altered};
pub(in crate::peers) use planted::formatted;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the guest of the test begins its lines with.
const MARK: &str = "HUSK-GUEST: ";
/// How a boot ends that was stopped.
const STOPS: [&str; 6] = [NOTHING_BOOTS, SHUT, CORRUPTED, REFUSED, UNEARNED, "You are in emergency mode"];
/// What the kernel says of a block whose hash is another.
const CORRUPTED: &str = "is corrupted";
/// What systemd says where a volume is not the one that the TPM knows; the guest said before what it is.
const REFUSED: &str = "Failed to start check-volume";
/// What systemd says where a volume's key is not earned; the program said before why.
const UNEARNED: &str = "Failed to start husk-unlock";
/// What systemd says where a volume is not opened.
const SHUT: &str = "Failed to start systemd-cryptsetup";

/// Words that systemd-stub(7) takes from the machine for the kernel's command line.
const WORDS: &str = "type=11,value=io.systemd.stub.kernel-cmdline-extra=systemd.mask=report.service";

/// Runs the builds and the boots as steps.
pub(super) fn into(steps: &mut Steps, all: bool) {
    group(steps, "encrypted disk", boots(all));
}

/// A disk as it was built, one that is used, and the variables that begin with its tenant's keys.
pub(crate) struct Site {
    folder: PathBuf,
    pub(crate) built: PathBuf,
    disk: PathBuf,
    pub(crate) variables: PathBuf,
    husk: PathBuf,
}

impl Site {
    /// Where the disk of an attack lies.
    fn place(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.raw"))
    }

    /// A copy of a disk, with one byte of a part changed.
    fn altered(&self, disk: &Path, part: Part, copy: &Path) -> Result<(), Failure> {
        altered(disk, &self.built.with_file_name("uki.efi"), part, copy)
    }
}

fn boots(all: bool) -> Result<Vec<Step>, Failure> {
    let folder = house::fresh_workshop("peers/encrypted")?;
    let (site, mut steps) = built(&folder, all)?;
    let named = |name: &str, steps: Vec<Step>| {
        let name = name.to_owned();
        steps.into_iter().map(move |step| Step { name: format!("{name}: {}", step.name), ..step })
    };
    steps.extend(naming::steps(&folder));
    if all {
        steps.extend(named("swtpm", on_swtpm::boots(&site)));
        steps.extend(named("with tags, swtpm", tagged::boots(&site)?));
        steps.extend(named("over the root", overlay::boots(&site)?));
        steps.extend(named("over the root, without tags", plain::boots(&site)?));
    }
    steps.extend(named("below the image", below::boots(&site, all)?));
    Ok(steps)
}

/// Builds the guest by its file and new keys; twice, if told so.
pub(crate) fn built(folder: &Path, twice: bool) -> Result<(Site, Vec<Step>), Failure> {
    for name in ["guest.toml", "report.sh", "report.service"] {
        let from = house::root().join("tests/peers/encrypted").join(name);
        fs::copy(&from, folder.join(name)).map_err(|error| Failure::io("copy", &from, &error))?;
    }
    let variables = uefi::enrolled(folder)?;
    let key = text(&folder.join("pcr.key"));
    process::output(Command::new("openssl").args(["genrsa", "-out", &key, "2048"]))?;
    let product = Product::build(folder, Profile::Dev)?;
    let (first, second) = (folder.join("built"), folder.join("built-again"));
    let config = folder.join("guest.toml");
    build(&product, &config, &first)?;
    let mut steps = vec![step("built", root_of(&first.join("manifest.json")))];
    if twice {
        build(&product, &config, &second)?;
        let same =
            |name: &str| process::output(Command::new("cmp").arg(first.join(name)).arg(second.join(name)));
        let compared = same("disk.raw").and_then(|_| same("manifest.json"));
        steps.push(step("built-twice-is-the-same", compared));
    }
    let disk = folder.join("disk.raw");
    let built = first.join("disk.raw");
    copied(&built, &disk)?;
    Ok((Site { folder: folder.to_owned(), built, disk, variables, husk: product.husk.clone() }, steps))
}

fn build(product: &Product, config: &Path, output: &Path) -> Result<(), Failure> {
    let cache = text(&house::workshop("guest-trees")?);
    let config = text(config);
    let (husk, output) = (text(&product.husk), text(output));
    as_root(&[&husk, "guest", "build", "--config", &config, "--output", &output, "--cache", &cache])?;
    // So that the next run can remove it.
    as_root(&["chown", "--recursive", "--reference", &config, &output])
}

fn as_root(words: &[&str]) -> Result<(), Failure> {
    let Some(prefix) = setup::privilege() else {
        return Err(Failure::lacking("peers: a guest is built as root or with passwordless sudo".into()));
    };
    let words = [&prefix, words].concat();
    let (program, words) = words.split_first().ok_or_else(|| Failure::failed("xtask: an empty command"))?;
    process::run(Command::new(program).args(words))
}

/// The root's hash, as the manifest has it.
fn root_of(manifest: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(manifest).map_err(|error| Failure::io("read", manifest, &error))?;
    let hash = text.lines().find_map(|line| line.trim().strip_prefix("\"root_hash\": "));
    let hash = hash.ok_or_else(|| Failure::failed("peers: the manifest has no hash of the root"))?;
    Ok(format!("root {}", hash.trim_matches(['"', ','])))
}

/// What a console says without its colours (ECMA-48, section 8.3.117, "SGR").
pub(crate) fn plain(console: &str) -> String {
    let mut pieces = console.split("\u{1b}[");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |said, piece| {
        let end = piece.find(|c: char| c.is_ascii_alphabetic()).map_or(0, |at| at + 1);
        said + piece.get(end..).unwrap_or_default()
    })
}

/// Whether a boot has come to its end, orderly or not.
fn has_ended(console: &str) -> Option<()> {
    let console = plain(console);
    let stopped = || STOPS.iter().any(|stop| console.contains(stop));
    (console.contains("HUSK-GUEST: end") || stopped()).then_some(())
}

/// What the guest says of that.
fn value<'a>(said: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = said.lines().filter_map(|line| line.split_once(MARK));
    lines.find_map(|(_, rest)| rest.trim().strip_prefix(name)).map(str::trim)
}

/// PCR 15, if something was measured there.
pub(crate) fn pcr_15(said: &str) -> Option<String> {
    let key = value(said, "pcr-15 ")?;
    (key.len() == 66 && !key.trim_matches(['0', 'x']).is_empty()).then(|| key.to_owned())
}

/// A volume that was opened by the TPM, at this boot of it.
pub(crate) fn opened(said: &str, boot: &str) -> Result<String, Failure> {
    let found = [value(said, "mounted "), value(said, "beneath "), value(said, "boot ")];
    let wanted = ["/dev/mapper/encrypted ext4", "crypt", boot].map(Some);
    match pcr_15(said) {
        Some(key) if found == wanted => Ok(format!("boot {boot} of the volume, PCR 15 {key}")),
        key => Err(Failure::failed(format!("{found:?} and PCR 15 {key:?}, {wanted:?} is expected"))),
    }
}

/// A guest that came to its end, and swaps to nothing.
fn unswapped(said: &str) -> Result<String, Failure> {
    match (value(said, "mounted "), value(said, "swap")) {
        (Some("/dev/mapper/encrypted ext4"), Some("")) => {
            Ok("the host added a partition to swap to; the guest does not use it".into())
        }
        found => Err(Failure::failed(format!("{found:?}"))),
    }
}

pub(crate) fn same_key(keys: &[Option<String>; 2]) -> Result<String, Failure> {
    match keys {
        [Some(first), Some(second)] if first == second => Ok(first.clone()),
        _ => Err(Failure::failed(format!("{keys:?}"))),
    }
}

/// Removes the disk of an attack that came out as it should.
fn removed(step: Step, disk: &Path) -> Step {
    if step.passed && std::fs::remove_file(disk).is_err() {
        println!("{} is gone before it is removed", disk.display());
    }
    step
}

/// Which of these stopped a boot that did not come to its end.
fn stopped(said: &str, by: &[&str]) -> Result<String, Failure> {
    let said = plain(said);
    let found = by.iter().find(|stop| said.contains(**stop));
    match found {
        Some(stop) if !said.contains(MARK) => Ok((*stop).to_owned()),
        _ => Err(Failure::failed(format!("not stopped by {by:?}"))),
    }
}

pub(crate) fn copied(from: &Path, to: &Path) -> Result<(), Failure> {
    process::output(Command::new("cp").args(["--sparse=always", "--"]).arg(from).arg(to)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::{opened, stopped};

    #[test]
    fn a_volume_counts_as_opened_only_with_its_key_measured() {
        let key = format!("0x{}", "5A".repeat(32));
        let said = format!(
            "noise\r\nHUSK-GUEST: mounted /dev/mapper/encrypted ext4\r\nHUSK-GUEST: beneath crypt\r\nHUSK-GUEST: boot 2\r\nHUSK-GUEST: pcr-15 {key}\r\n"
        );
        assert!(opened(&said, "2").is_ok());
        for (from, to) in
            [("boot 2", "boot 1"), ("crypt\r", "linear\r"), ("5A", "00"), ("encrypted", "other")]
        {
            assert!(opened(&said.replace(from, to), "2").is_err(), "{to}");
        }
        assert!(stopped(&said, &["noise"]).is_err(), "it came to its end");
        assert!(stopped("no\u{1b}[0;1;39mise", &["noise"]).is_ok(), "colours are no words");
    }
}
