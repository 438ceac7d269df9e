//! A kernel in Debian's OVMF, below the image: its variables are kept, and Secure Boot with the tenant's own keys by them.

use super::{group, step};
use crate::below::{Below, PATIENCE, ROLLED_BACK, Start};
use crate::failure::Failure;
use crate::guest::{QUIET, Report, image_for_uefi};
use crate::steps::{Step, Steps};
use crate::{house, process, setup};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whose keys are enrolled (UEFI 2.10, section 32.4.1 "Signature Database", "SignatureOwner"): any GUID.
const OWNER: &str = "a0baa8a3-041d-48a8-bc87-c36d121b5e3d";
/// What a boot in OVMF may cost its flash: commits, each for a session of writes that ends before the firmware goes on, and blocks of 4 KiB. The first boot of all
/// makes every variable, and is reset once: 347 of each were seen, and 91 in a later one.
const FIRST_BUDGET: [u32; 2] = [400, 420];
const LATER_BUDGET: [u32; 2] = [120, 140];
const COSTS: [&str; 2] = ["husk: flash: commits", "husk: flash: blocks written"];
/// The codes of a launch without the flash whose variables the launch configuration names, and of one with other variables, as the console shows them.
const VARIABLES_MISSING: &str = "0x02100011";
const VARIABLES_REFUSED: &str = "0x02100012";
/// What OVMF says when nothing that it may start is left.
pub(super) const NOTHING_BOOTS: &str = "No bootable option or device was found";

/// Runs the boots as steps.
pub(super) fn into(steps: &mut Steps) {
    group(steps, "kernel guest below a UEFI firmware", boots());
}

/// What a tenant makes: a kernel that is signed, and variables with the keys of who signed it.
struct Signed {
    kernel: PathBuf,
    variables: PathBuf,
}

/// Two machines, one after the other; the first one's guest resets it once. The second one brings variables without keys: those count that are kept. Then a kernel that is not signed,
/// and the disk as it was between them.
fn boots() -> Result<Vec<Step>, Failure> {
    let kernel = setup::fetched_kernel()?;
    let initramfs = image_for_uefi(&kernel)?;
    let folder = house::fresh_workshop("peers/uefi")?;
    let signed = signed(&folder, &kernel.image)?;
    let unsigned = kernel.image.clone();
    let kernel = setup::Kernel { image: signed.kernel, ..kernel };
    let mut below = Below::set(&folder, kernel, initramfs)?;
    let mut steps = boot(&mut below, &signed.variables, FIRST_BUDGET)?;
    let between = below.copy_disk("between.disk")?;
    let others = Path::new(setup::OVMF_VARIABLES);
    steps.extend(boot(&mut below, others, LATER_BUDGET)?);
    let disk = below.vm.disk.clone();
    let older = start(&between, others, |start| below.refused(start, ROLLED_BACK));
    steps.push(step("older-variables-refused", older));
    below.kernel = unsigned;
    steps.push(step("unsigned-kernel-refused", start(&disk, others, |start| not_booted(&mut below, start))));
    steps.extend(not_the_named(&mut below, &signed.variables)?);
    Ok(steps)
}

/// A VM whose tenant named the variables that it begins with: launches with others, and past its firmware.
fn not_the_named(below: &mut Below, named: &Path) -> Result<Vec<Step>, Failure> {
    below.vm = below.enrol("named", &["--firmware-vars", &named.to_string_lossy()])?;
    let disk = below.vm.disk.clone();
    let others = Path::new(setup::OVMF_VARIABLES);
    let refused = start(&disk, others, |start| below.refused(start, VARIABLES_REFUSED));
    let past = start(&disk, others, |start| below.refused(Start { words: &[], ..start }, VARIABLES_MISSING));
    Ok(vec![step("other-variables-refused", refused), step("no-firmware-refused", past)])
}

/// Enrols a key of its own as a tenant would (`boot.key`, `boot.pem`): OVMF's variables with it.
pub(super) fn enrolled(folder: &Path) -> Result<PathBuf, Failure> {
    let [key, certificate, variables] = ["boot.key", "boot.pem", "boot.vars"].map(|name| folder.join(name));
    let made =
        ["req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj", "/CN=tenant"];
    process::output(
        Command::new("openssl").args(made).arg("-keyout").arg(&key).arg("-out").arg(&certificate),
    )?;
    let mut enrol = Command::new(setup::variables_tool()?);
    enrol.args(["--input", setup::OVMF_VARIABLES, "--secure-boot", "--output"]).arg(&variables);
    for into in ["--set-pk", "--add-kek", "--add-db"] {
        enrol.args([into, OWNER]).arg(&certificate);
    }
    process::output(&mut enrol)?;
    Ok(variables)
}

/// Enrols a key, and signs the kernel by it.
fn signed(folder: &Path, kernel: &Path) -> Result<Signed, Failure> {
    let variables = enrolled(folder)?;
    let [key, certificate, signed] = ["boot.key", "boot.pem", "vmlinuz.signed"].map(|name| folder.join(name));
    let mut sign = Command::new("sbsign");
    sign.arg("--key").arg(&key).arg("--cert").arg(&certificate).arg("--output").arg(&signed).arg(kernel);
    process::output(&mut sign)?;
    Ok(Signed { kernel: signed, variables })
}

/// Does something with a machine whose guest begins in OVMF, and which brings these variables.
fn start<T>(disk: &Path, variables: &Path, act: impl FnOnce(Start<'_>) -> T) -> T {
    let variables = variables.to_string_lossy();
    let words = ["--firmware", setup::OVMF, "--firmware-vars", &variables];
    let settings = [("cpus", "2".to_owned())];
    let (script, kernel_words) = ("uefi", QUIET);
    act(Start { script, settings: &settings, disk, guest_cpus: 2, words: &words, kernel_words })
}

/// One machine: what its guest found, and what that cost the flash.
fn boot(below: &mut Below, variables: &Path, budget: [u32; 2]) -> Result<Vec<Step>, Failure> {
    let disk = below.vm.disk.clone();
    let console = start(&disk, variables, |start| below.boot_console(start))?;
    let costs = COSTS.map(|text| number(&console, text));
    let mut bounded = costs.iter().zip(budget);
    let passed = bounded.all(|(cost, most)| cost.is_some_and(|cost| (1..=most).contains(&cost)));
    let seen = format!("{costs:?} commits and blocks, {budget:?} at most");
    let mut steps = Report::read(&console).judged();
    steps.push(Step { name: "flash-budget".into(), passed, seen });
    Ok(steps)
}

/// The number that the layer's console shows behind a text.
fn number(console: &str, text: &str) -> Option<u32> {
    let line = console.lines().find_map(|line| line.trim().strip_prefix(text))?;
    u32::from_str_radix(line.trim().strip_prefix("0x")?, 16).ok()
}

/// A machine in which no kernel may start.
fn not_booted(below: &mut Below, start: Start<'_>) -> Result<String, Failure> {
    let mut machine = below.start(start)?;
    let seen = machine.wait_until(PATIENCE, |console| {
        let found =
            [NOTHING_BOOTS, "Linux version", "HUSK-STEP"].into_iter().find(|text| console.contains(text));
        found.map(str::to_owned)
    })?;
    below.cut_power(&mut machine)?;
    if seen == NOTHING_BOOTS { Ok(seen) } else { Err(Failure::failed(format!("it started: {seen}"))) }
}
