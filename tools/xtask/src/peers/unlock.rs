//! A kernel guest below the image that earns a secret from its tenant's broker: with `husk-unlock`, through a second serial line and a relay; its TPM keeps nothing,
//! or has its memory.

use super::group;
use crate::below::{Below, PATIENCE, Start};
use crate::failure::Failure;
use crate::guest::{QUIET, Report, image_for_unlock};
use crate::product::text;
use crate::steps::{Step, Steps};
use crate::{attester, house, process, setup};
use std::fs;
use std::process::Command;

/// What the tenant keeps, and what the guest compares it with.
const SECRET: &str = "a passphrase of the tenant's";
const NAME: &str = "disk";

/// Which TPM the guest has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeps {
    Nothing,
    State,
}

/// Runs the boot as steps; `all` for a TPM that is kept as well.
pub(super) fn into(steps: &mut Steps, all: bool) {
    group(steps, "kernel guest that earns a secret, its TPM keeps nothing", boot(Keeps::Nothing));
    if all {
        group(steps, "kernel guest that earns a secret", boot(Keeps::State));
    }
}

fn boot(keeps: Keeps) -> Result<Vec<Step>, Failure> {
    let folder = house::fresh_workshop("peers/unlock")?;
    attester::make()?;
    let initramfs = image_for_unlock(&house::workshop("attester")?.join("husk-unlock"))?;
    let mut below = Below::set(&folder, setup::fetched_kernel()?, initramfs)?;
    below.certify_keys()?;
    if keeps == Keeps::Nothing {
        below.keep_nothing(&[])?;
    }
    let (_relay, socket) = below.relay("unlock")?;
    let io = |path: &std::path::Path| {
        let path = path.to_owned();
        move |error| Failure::io("use", &path, &error)
    };
    let secret = folder.join("secret");
    fs::write(&secret, SECRET).map_err(io(&secret))?;
    let config = below.vm.config.clone();
    let config: String =
        fs::read(&config).map_err(io(&config))?.iter().map(|byte| format!("{byte:02x}")).collect();
    let digest = process::output(Command::new("sha256sum").arg(&secret))?;
    let digest = digest.split_whitespace().next().unwrap_or_default().to_owned();
    // A serial line writes no memory, so that the layer has nothing against it.
    let chardev = format!("socket,id=unlock,path={}", text(&socket));
    below.qemu =
        ["-chardev", &chardev, "-device", "isa-serial,chardev=unlock,index=1"].map(str::to_owned).to_vec();
    let settings = [("config", config), ("digest", digest)];
    let disk = below.vm.disk.clone();
    let start = Start {
        script: "unlock",
        settings: &settings,
        disk: &disk,
        guest_cpus: 1,
        words: &[],
        kernel_words: QUIET,
    };
    let mut machine = below.start(start)?;
    let pcrs = machine.wait_until(PATIENCE, |console| {
        let report = Report::read(console);
        // Whole, since something follows it.
        let told = report.value("told").and(report.value("pcrs")).map(str::to_owned);
        told.or_else(|| report.end.map(|_| String::new()))
    })?;
    let pcrs: Vec<&str> = pcrs.split_terminator(',').collect();
    if !pcrs.is_empty() {
        below.keep_secret(NAME, &secret, &pcrs)?;
    }
    machine.wait_until(PATIENCE, |console| Report::read(console).end)?;
    machine.wait_success(PATIENCE)?;
    let told = machine.log_text();
    if told.contains(SECRET) {
        return Err(Failure::failed("the console shows the secret"));
    }
    Ok(Report::read(&told).judged())
}
