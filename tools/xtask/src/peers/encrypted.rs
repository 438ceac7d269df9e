//! A Debian guest that encrypts a volume at its first boot: built by `husk guest build`, started in Debian's OVMF with Secure Boot, in front of swtpm, and below the image.
//!
//! **What.** Two boots, of which the second opens the volume by itself; then what somebody with the disk in their hands tries.
//! **Trust.** QEMU, swtpm, the broker, OVMF, and the Debian that the guest is made of.
//! **Laws.** Two builds give the same bytes.
//! **Not here.** What a guest is made of: `tools/guest`.

pub(crate) mod below;

use super::swtpm::Swtpm;
use super::uefi::{self, NOTHING_BOOTS};
use super::{group, step};
use crate::failure::Failure;
use crate::process::Daemon;
use crate::product::{Product, Profile, text};
use crate::steps::{Step, Steps};
use crate::{house, process, setup};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A boot under software emulation on a loaded machine; about a minute on an idle one.
const PATIENCE: Duration = Duration::from_secs(420);
const MEMORY_MIB: &str = "768";
/// What the guest of the test begins its lines with.
const MARK: &str = "HUSK-GUEST: ";
/// How a boot ends that was stopped.
const STOPS: [&str; 4] =
    [NOTHING_BOOTS, "Failed to start systemd-cryptsetup", "is corrupted", "You are in emergency mode"];

/// Runs the builds and the boots as steps.
pub(super) fn into(steps: &mut Steps, all: bool) {
    group(steps, "encrypted disk", boots(all));
}

/// A disk as it was built, one that is used, and the variables that begin with its tenant's keys.
pub(crate) struct Site {
    folder: PathBuf,
    pub(crate) built: PathBuf,
    disk: PathBuf,
    variables: PathBuf,
}

fn boots(all: bool) -> Result<Vec<Step>, Failure> {
    let folder = house::fresh_workshop("peers/encrypted")?;
    let (site, mut steps) = built(&folder, all)?;
    let named = |name: &str, steps: Vec<Step>| {
        let name = name.to_owned();
        steps.into_iter().map(move |step| Step { name: format!("{name}: {}", step.name), ..step })
    };
    if all {
        steps.extend(named("swtpm", on_swtpm(&site)));
    }
    steps.extend(named("below the image", below::boots(&site, all)?));
    Ok(steps)
}

fn on_swtpm(site: &Site) -> Vec<Step> {
    let first = boot(site, "first", "tpm", &site.disk);
    let second = boot(site, "second", "tpm", &site.disk);
    let keys = [&first, &second].map(|said| said.as_deref().ok().and_then(pcr_15));
    let cloned = boot(site, "clone", "another-tpm", &site.disk);
    let mut steps = vec![
        step("first-boot-encrypts", first.and_then(|said| opened(&said, "1"))),
        step("second-boot-opens-by-itself", second.and_then(|said| opened(&said, "2"))),
        step("the-same-volume-by-pcr-15", same_key(&keys)),
        step("clone-does-not-open", cloned.and_then(|said| stopped(&said, &STOPS[1..2]))),
    ];
    for (name, at, how) in [("kernel-image", Part::KernelImage, 0..1), ("root", Part::Root, 2..3)] {
        let said = altered(site, name, at).and_then(|altered| boot(site, name, "tpm", &altered));
        steps.push(step(&format!("altered-{name}-stops"), said.and_then(|said| stopped(&said, &STOPS[how]))));
    }
    steps
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
    Ok((Site { folder: folder.to_owned(), built, disk, variables }, steps))
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

/// A part of the disk that is altered.
#[derive(Clone, Copy)]
enum Part {
    KernelImage,
    Root,
}

/// A copy of the disk with one byte changed: of the kernel image in the first partition, or of the root in the second.
fn altered(site: &Site, name: &str, part: Part) -> Result<PathBuf, Failure> {
    let copy = site.folder.join(format!("altered-{name}.raw"));
    copied(&site.disk, &copy)?;
    let at = match part {
        // Behind the FAT's own sectors: what a PE image's signature covers.
        Part::KernelImage => partition(&copy, 0)? + (8 << 20),
        // The superblock of erofs begins at 1024 (Linux, Documentation/filesystems/erofs.rst): the first block that is read.
        Part::Root => partition(&copy, 1)? + 1024 + 64,
    };
    let io = |error| Failure::io("alter", &copy, &error);
    let mut file = File::options().read(true).write(true).open(&copy).map_err(io)?;
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut byte)).map_err(io)?;
    byte[0] ^= 1;
    file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(&byte)).map_err(io)?;
    Ok(copy)
}

/// Where a partition begins (UEFI 2.10, section 5.3.3: entries of 128 bytes from block 2 on, the first block at 32), in bytes.
fn partition(disk: &Path, index: u64) -> Result<u64, Failure> {
    let io = |error| Failure::io("read", disk, &error);
    let mut file = File::open(disk).map_err(io)?;
    let mut first = [0; 8];
    file.seek(SeekFrom::Start(2 * 512 + index * 128 + 32)).map_err(io)?;
    file.read_exact(&mut first).map_err(io)?;
    Ok(u64::from_le_bytes(first) * 512)
}

/// One boot to its end, orderly or not; what the console said.
fn boot(site: &Site, name: &str, tpm: &str, disk: &Path) -> Result<String, Failure> {
    let folder = site.folder.join(tpm);
    let variables = folder.join("variables.fd");
    if !variables.exists() {
        fs::create_dir_all(&folder).map_err(|error| Failure::io("make", &folder, &error))?;
        copied(&site.variables, &variables)?;
    }
    let swtpm = Swtpm::on_socket(&folder)?;
    let control = text(&swtpm.control_socket());
    let pflash = |unit, path: &str, more| format!("if=pflash,format=raw,unit={unit},file={path}{more}");
    let line = ["-M", "q35,smm=off", "-accel", "tcg", "-cpu", "EPYC", "-m", MEMORY_MIB, "-nodefaults"]
        .map(str::to_owned)
        .into_iter()
        .chain(["-display", "none", "-serial", "stdio", "-no-reboot"].map(str::to_owned))
        .chain(["-drive".into(), pflash(0, setup::OVMF, ",readonly=on")])
        .chain(["-drive".into(), pflash(1, &text(&variables), "")])
        .chain(["-drive".into(), format!("if=none,id=disk,format=raw,file={}", text(disk))])
        .chain(["-device", "virtio-blk-pci,drive=disk", "-device", "tpm-crb,tpmdev=tpm"].map(str::to_owned))
        .chain(["-tpmdev".into(), "emulator,id=tpm,chardev=control".into()])
        .chain(["-chardev".into(), format!("socket,id=control,path={control}")]);
    let console = site.folder.join(format!("{name}.console"));
    let program = setup::program("qemu-system-x86_64")?;
    let mut machine = Daemon::start("the guest", &program, &line.collect::<Vec<_>>(), &console)?;
    machine.wait_until(PATIENCE, has_ended)?;
    let said = machine.log_text();
    if said.contains(MARK) {
        machine.wait_end(PATIENCE)?;
    }
    Ok(said)
}

/// What a console says without its colours (ECMA-48, section 8.3.117, "SGR").
fn plain(console: &str) -> String {
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

pub(crate) fn same_key(keys: &[Option<String>; 2]) -> Result<String, Failure> {
    match keys {
        [Some(first), Some(second)] if first == second => Ok(first.clone()),
        _ => Err(Failure::failed(format!("{keys:?}"))),
    }
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
