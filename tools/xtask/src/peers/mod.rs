//! Programs that others wrote, against each other and against Husk.
//!
//! **What.** The guest scripts run on this machine against swtpm: what they and the guest are worth. Then Husk, sealed, under
//! the clients that need more than a test of cargo's: [`device`] has a kernel guest behind QEMU's own TPM devices,
//! [`layer`] one below the image, [`disk`] with a disk, [`uefi`] in a firmware there, [`encrypted`] a Debian whose disk encrypts itself, [`mod@unlock`] one that earns a secret from its broker, [`debian`] one with initramfs-tools and sshd, [`pytss`] has
//! tpm2-pytss.
//! **Trust.** swtpm, QEMU, Debian's kernel, tpm2-tools and tpm2-pytss.
//! **Laws.** Every script that the demo relies on has passed on swtpm first.
//! **Not here.** tpm2-tools on this machine: `tools/husk/tests/peers`.

mod debian;
mod device;
mod disk;
pub(crate) mod encrypted;
mod layer;
mod pytss;
mod sealed;
pub(crate) mod swtpm;
mod uefi;
mod unlock;

use crate::failure::Failure;
use crate::guest::{Device, Guest, Launch, OnReset, Report, Wiring, image};
use crate::steps::{Step, Steps};
use crate::{house, process, setup};
use sealed::Sealed;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use swtpm::Swtpm;

/// A boot under software emulation on a loaded machine, with some hundred TPM commands.
const BOOT_PATIENCE: Duration = Duration::from_secs(180);

/// Peers that are run together: the flag says whether the long ones run too.
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&mut Steps, bool),
}

pub(crate) const GROUPS: &[Group] = &[
    Group { name: "scripts", run: scripts },
    Group { name: "sealed", run: on_the_sealed },
    Group { name: "layer", run: layer::into },
    Group { name: "disk", run: |steps, _| disk::into(steps) },
    Group { name: "uefi", run: |steps, _| uefi::into(steps) },
    Group { name: "encrypted", run: encrypted::into },
    Group { name: "prepared", run: encrypted::prepared::into },
    Group { name: "attested", run: encrypted::attested::into },
    Group { name: "unlock", run: unlock::into },
    Group { name: "debian", run: debian::into },
];

fn scripts(steps: &mut Steps, all: bool) {
    let folder = |name| house::fresh_workshop(&format!("peers/{name}"));
    steps.attempt("scripts on swtpm", || scripts_on_swtpm(&folder("host")?));
    if all {
        group(steps, "kernel guest on swtpm", folder("guest").and_then(|folder| guest_on_swtpm(&folder)));
    }
}

fn on_the_sealed(steps: &mut Steps, all: bool) {
    match house::fresh_workshop("peers/sealed").and_then(|folder| Sealed::set(&folder)) {
        Ok(sealed) => {
            for (name, seen) in device::boots(&sealed, all) {
                group(steps, &name, seen);
            }
            pytss::into(steps, &sealed, all);
        }
        Err(failure) => steps.attempt("the sealed stack", || Err(failure)),
    }
}

/// Shows and counts what was seen, or why nothing was.
fn group(steps: &mut Steps, name: &str, seen: Result<Vec<Step>, Failure>) {
    match seen {
        Ok(seen) => steps.add_all(name, &seen),
        Err(failure) => steps.attempt(name, || Err(failure)),
    }
}

/// A step, by what was seen or how it failed.
fn step(name: &str, done: Result<String, Failure>) -> Step {
    let (passed, seen) = match done {
        Ok(seen) => (true, seen),
        Err(failure) => (false, failure.to_string()),
    };
    Step { name: name.into(), passed, seen }
}

/// Draws the key of a volume into a file that is its owner's alone.
fn drawn_key(path: &Path) -> Result<String, Failure> {
    let drawn = process::output(Command::new("openssl").args(["rand", "-hex", "32"]))?.trim().to_owned();
    let io = |error| Failure::io("write", path, &error);
    std::fs::write(path, &drawn).map_err(io)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(io)?;
    Ok(drawn)
}

/// The scripts in their order of use, as ordinary programs of this machine.
fn scripts_on_swtpm(folder: &Path) -> Result<String, Failure> {
    let swtpm = Swtpm::on_ports(folder)?;
    let first = script(&swtpm, "first-boot", &[])?;
    let hammered = script(&swtpm, "hammer", &[("HUSK_HAMMER_WRITES", "3".into())])?;
    script(&swtpm, "identity", &[])?;
    swtpm.stop()?;
    let swtpm = Swtpm::on_ports(folder)?;
    let number = |kind: &str| hammered.last_acknowledged(kind).unwrap_or_default().to_string();
    let settings = [
        ("HUSK_COUNTER_MIN", number("counter")),
        ("HUSK_PROGRESS_MIN", number("progress")),
        ("HUSK_KEY_NAME", first.value("key-name").unwrap_or_default().to_owned()),
        ("HUSK_RESET_COUNT", first.value("reset-count").unwrap_or_default().to_owned()),
    ];
    script(&swtpm, "second-boot", &settings)?;
    Ok("first-boot, hammer, identity, second-boot".to_owned())
}

fn script(swtpm: &Swtpm, name: &str, settings: &[(&str, String)]) -> Result<Report, Failure> {
    let path = house::root().join(format!("tests/peers/guest/{name}.sh"));
    let mut command = Command::new("sh");
    command.arg(path).env("TPM2TOOLS_TCTI", swtpm.tcti()).env("HUSK_NO_RESOURCE_MANAGER", "1");
    command.envs(settings.iter().map(|(name, value)| (name, value)));
    let report = Report::read(&process::transcript(&mut command)?);
    match report.steps.iter().find(|step| !step.passed) {
        Some(step) => Err(Failure::failed(format!("{name}: {}: {}", step.name, step.seen))),
        None if report.end == Some(true) => Ok(report),
        None => Err(Failure::failed(format!("{name} did not come to its end"))),
    }
}

/// Two boots of the kernel guest: the second finds what the first left.
fn guest_on_swtpm(folder: &Path) -> Result<Vec<Step>, Failure> {
    let kernel = setup::fetched_kernel()?;
    let initramfs = image()?;
    let boot = |script: &'static str, settings| {
        let swtpm = Swtpm::on_socket(folder)?;
        let log = folder.join(format!("{script}.log"));
        let wiring = Wiring::Emulator { device: Device::Crb, control_socket: swtpm.control_socket() };
        let (on_reset, log) = (OnReset::Stops, &log);
        let launch =
            Launch { kernel: &kernel.image, initramfs: &initramfs, wiring, on_reset, script, settings, log };
        Guest::start(&launch)?.finish(BOOT_PATIENCE)
    };
    let first = boot("first-boot", Vec::new())?;
    let kept = |name: &str| first.value(name).unwrap_or("nothing").to_owned();
    let settings = vec![
        ("counter-min", kept("counter")),
        ("key-name", kept("key-name")),
        ("reset-count", kept("reset-count")),
    ];
    let second = boot("second-boot", settings)?;
    Ok([first.judged(), second.judged()].concat())
}
