//! The guest in front of swtpm: what a host tries that has all of the machine in its hands, but no TPM of the guest's.

use super::attack::{
    ALTERED, Attack, BLANK, CLONED, CREDENTIAL, NO_TPM, NULL_CIPHER, OTHER_VARIABLES, PLANTED, WORDS_ADDED,
};
use super::{MARK, Site, WORDS, copied, has_ended, opened, pcr_15, planted, removed, same_key, unswapped};
use crate::failure::Failure;
use crate::peers::step;
use crate::peers::swtpm::Swtpm;
use crate::process::{self, Daemon};
use crate::product::text;
use crate::setup;
use crate::steps::Step;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A boot under software emulation on a loaded machine; about a minute on an idle one.
const PATIENCE: Duration = Duration::from_secs(420);
const MEMORY_MIB: &str = "768";
/// The guest's TPM and variables, and the folders of others.
const TPM: &str = "tpm";
const SAME_SEEDS: &str = "tpm-with-the-same-seeds";
const NO_KEYS: &str = "tpm-with-other-variables";

/// Two boots, then what the host does.
pub(super) fn boots(site: &Site) -> Vec<Step> {
    let elsewhere = planted_elsewhere(site);
    let first = boot(site, "first", TPM, &site.disk);
    let second = boot(site, "second", TPM, &site.disk);
    let keys = [&first, &second].map(|said| said.as_deref().ok().and_then(pcr_15));
    let told = first.as_ref().map_or_else(|_| String::new(), Clone::clone);
    let mut steps = vec![
        step("first-boot-encrypts", first.and_then(|said| opened(&said, "1"))),
        step("second-boot-opens-by-itself", second.and_then(|said| opened(&said, "2"))),
        step("the-same-volume-by-pcr-15", same_key(&keys)),
        step("made-with-a-key-that-somebody-knows", elsewhere),
    ];
    for (part, attack) in ALTERED {
        steps.push(on_disk(site, attack, || site.altered(&site.disk, part, &site.place(attack.name))));
    }
    steps.extend(machines(site));
    steps.extend(disks(site, &told));
    steps
}

/// Other machines with the same disk.
fn machines(site: &Site) -> [Step; 4] {
    let words = ["-smbios", WORDS];
    let start =
        |attack: Attack, tpm, more: &[&str]| attack.judged(machine(site, attack.name, tpm, &site.disk, more));
    let other = same_tpm(site, NO_KEYS).and_then(|()| {
        let variables = site.folder.join(NO_KEYS).join("variables.fd");
        copied(Path::new(setup::OVMF_VARIABLES), &variables)?;
        boot(site, OTHER_VARIABLES.name, NO_KEYS, &site.disk)
    });
    [
        start(CLONED, Some("another-tpm"), &[]),
        start(NO_TPM, None, &[]),
        start(WORDS_ADDED, Some(TPM), &words),
        OTHER_VARIABLES.judged(other),
    ]
}

/// Other disks for the same machine.
fn disks(site: &Site, first_boot: &str) -> Vec<Step> {
    let place = |attack: Attack| site.place(attack.name);
    let mut steps = vec![
        on_disk(site, CREDENTIAL, || planted::credential(&site.disk, first_boot, &place(CREDENTIAL))),
        on_disk(site, NULL_CIPHER, || planted::null_cipher(&site.disk, &place(NULL_CIPHER))),
        on_disk(site, BLANK, || copied(&site.built, &place(BLANK))),
        // What was made elsewhere lies there.
        on_disk(site, PLANTED, || Ok(())),
    ];
    let swap = site.place("swap");
    let said = planted::swap(&site.disk, &swap).and_then(|()| boot(site, "swap", TPM, &swap));
    steps.push(step("swap-is-not-used", said.and_then(|said| unswapped(&said))));
    steps
}

/// Makes a disk at the attack's place, and starts it.
fn on_disk(site: &Site, attack: Attack, make: impl FnOnce() -> Result<(), Failure>) -> Step {
    let disk = site.place(attack.name);
    let step = attack.judged(make().and_then(|()| boot(site, attack.name, TPM, &disk)));
    removed(step, &disk)
}

/// A volume that somebody made who knows no more than what the guest's TPM seals to: another TPM with its seeds stands in for that.
fn planted_elsewhere(site: &Site) -> Result<String, Failure> {
    Swtpm::on_ports(&site.folder.join(TPM))?.stop()?;
    same_tpm(site, SAME_SEEDS)?;
    let disk = site.place(PLANTED.name);
    copied(&site.built, &disk)?;
    opened(&boot(site, "made-elsewhere", SAME_SEEDS, &disk)?, "1")
}

/// A copy of the guest's TPM, as it is.
fn same_tpm(site: &Site, name: &str) -> Result<(), Failure> {
    let [from, to] = [TPM, name].map(|name| site.folder.join(name));
    fs::create_dir_all(&to).map_err(|error| Failure::io("make", &to, &error))?;
    process::output(Command::new("cp").arg("-a").arg(from.join("state")).arg(&to)).map(drop)
}

/// One boot to its end, orderly or not; what the console said. The TPM is named by the folder of its state and of the machine's variables.
pub(super) fn boot(site: &Site, name: &str, tpm: &str, disk: &Path) -> Result<String, Failure> {
    machine(site, name, Some(tpm), disk, &[])
}

/// The same in a machine without a TPM.
pub(super) fn boot_without_tpm(site: &Site, name: &str, disk: &Path) -> Result<String, Failure> {
    machine(site, name, None, disk, &[])
}

/// The same, perhaps without a TPM, and with more words for QEMU.
fn machine(
    site: &Site,
    name: &str,
    tpm: Option<&str>,
    disk: &Path,
    more: &[&str],
) -> Result<String, Failure> {
    let folder = site.folder.join(tpm.unwrap_or("no-tpm"));
    fs::create_dir_all(&folder).map_err(|error| Failure::io("make", &folder, &error))?;
    let variables = folder.join("variables.fd");
    if !variables.exists() {
        copied(&site.variables, &variables)?;
    }
    let swtpm = tpm.map(|_| Swtpm::on_socket(&folder)).transpose()?;
    let pflash = |unit, path: &str, more| format!("if=pflash,format=raw,unit={unit},file={path}{more}");
    let mut line = ["-M", "q35,smm=off", "-accel", "tcg", "-cpu", "EPYC", "-m", MEMORY_MIB, "-nodefaults"]
        .map(str::to_owned)
        .into_iter()
        .chain(["-display", "none", "-serial", "stdio", "-no-reboot"].map(str::to_owned))
        .chain(["-drive".into(), pflash(0, setup::OVMF, ",readonly=on")])
        .chain(["-drive".into(), pflash(1, &text(&variables), "")])
        .chain(["-drive".into(), format!("if=none,id=disk,format=raw,file={}", text(disk))])
        .chain(["-device", "virtio-blk-pci,drive=disk"].map(str::to_owned))
        .chain(more.iter().map(ToString::to_string))
        .collect::<Vec<_>>();
    if let Some(swtpm) = &swtpm {
        let control = text(&swtpm.control_socket());
        line.extend(
            ["-device", "tpm-crb,tpmdev=tpm", "-tpmdev", "emulator,id=tpm,chardev=control"]
                .map(str::to_owned),
        );
        line.extend(["-chardev".into(), format!("socket,id=control,path={control}")]);
    }
    let console = site.folder.join(format!("{name}.console"));
    let program = setup::program("qemu-system-x86_64")?;
    let mut machine = Daemon::start("the guest", &program, &line, &console)?;
    machine.wait_until(PATIENCE, has_ended)?;
    let said = machine.log_text();
    if said.contains(MARK) {
        machine.wait_end(PATIENCE)?;
    }
    Ok(said)
}
