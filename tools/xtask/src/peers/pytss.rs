//! tpm2-pytss from PyPI: our own calls on the sealed TPM over both of tpm2-tss' ways to a socket, and its own tests.

use super::sealed::{Sealed, Vm};
use super::swtpm::two_free_ports;
use crate::failure::Failure;
use crate::guest::Report;
use crate::process::Daemon;
use crate::setup::Python;
use crate::steps::{Step, Steps};
use crate::{house, process, setup};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const END_PATIENCE: Duration = Duration::from_secs(30);

/// Tests of its own that fail, each with the reason.
const EXPLAINED: &[(&str, &str)] = &[];

/// Runs all of it as steps.
pub(super) fn into(steps: &mut Steps, sealed: &Sealed, all: bool) {
    let python = match setup::python() {
        Ok(python) => python,
        Err(failure) => return steps.attempt("tpm2-pytss", || Err(failure)),
    };
    super::group(steps, "tpm2-pytss over swtpm's sockets", over_swtpms_sockets(sealed, &python));
    super::group(steps, "tpm2-pytss over the simulator's", over_the_simulators(sealed, &python));
    if all {
        steps.attempt("tpm2-pytss' own tests", || own_tests(sealed, &python));
    }
}

fn over_swtpms_sockets(sealed: &Sealed, python: &Python) -> Result<Vec<Step>, Failure> {
    let vm = sealed.vm("pytss-swtpm")?;
    let port = two_free_ports()?;
    let words = [
        "--server".to_owned(),
        format!("type=tcp,port={port}"),
        "--ctrl".to_owned(),
        format!("type=tcp,port={}", port + 1),
        "--flags".to_owned(),
        "not-need-init,startup-clear".to_owned(),
    ];
    let component = sealed.socket(&vm, "serves", &words)?;
    scripts(component, &vm, python, &format!("swtpm:host=127.0.0.1,port={port}"), &["esapi.py", "fapi.py"])
}

fn over_the_simulators(sealed: &Sealed, python: &Python) -> Result<Vec<Step>, Failure> {
    let vm = sealed.vm("pytss-mssim")?;
    let port = two_free_ports()?;
    let words = [
        "--data".to_owned(),
        format!("tcp:127.0.0.1:{port}"),
        "--mssim-platform".to_owned(),
        format!("tcp:127.0.0.1:{}", port + 1),
    ];
    let component = sealed.vtpmd(&vm, "serves", &words)?;
    scripts(component, &vm, python, &format!("mssim:host=127.0.0.1,port={port}"), &["esapi.py"])
}

/// Runs our scripts on a TPM and ends it in order.
fn scripts(
    component: Daemon,
    vm: &Vm,
    python: &Python,
    tcti: &str,
    names: &[&str],
) -> Result<Vec<Step>, Failure> {
    let mut seen = Vec::new();
    for name in names {
        let script = house::root().join("tests/peers/pytss").join(name);
        let mut command = Command::new(&python.program);
        command.arg("-B").arg(script).arg(tcti);
        let report = Report::read(&process::transcript(&mut command)?);
        seen.extend(report.judged());
    }
    component.stop(END_PATIENCE).map_err(|failure| Failure::failed(format!("{}: {failure}", vm.name)))?;
    Ok(seen)
}

/// Its own tests, which start `swtpm` themselves: what they find under that name is `husk vtpmd`.
fn own_tests(sealed: &Sealed, python: &Python) -> Result<String, Failure> {
    let shim = sealed.path("shim");
    fs::create_dir_all(&shim).map_err(|error| Failure::io("make", &shim, &error))?;
    write_shim(&shim.join("swtpm"), sealed.program())?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(&python.program);
    command.args(["-B", "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider", "test"]);
    command.current_dir(&python.source).env("PATH", format!("{}:{path}", shim.display()));
    let said = process::transcript(&mut command)?;
    let unexplained: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_prefix("FAILED ").or_else(|| line.strip_prefix("ERROR ")))
        .filter(|test| !EXPLAINED.iter().any(|(name, _)| test.starts_with(name)))
        .collect();
    let count = said.lines().rev().find(|line| line.contains(" passed")).unwrap_or_default();
    if count.is_empty() || !unexplained.is_empty() {
        let tail: Vec<&str> = said.lines().rev().take(5).collect();
        return Err(Failure::failed(format!("{unexplained:?}; it ends (last line first): {tail:?}")));
    }
    Ok(format!("{}, of which {} are explained", count.trim_matches('=').trim(), EXPLAINED.len()))
}

/// Everything that swtpm was asked for, and leave to make a volume.
fn write_shim(path: &Path, program: &Path) -> Result<(), Failure> {
    let text = format!("#!/bin/sh\nexec '{}' vtpmd \"$@\" --unsealed-for-testing\n", program.display());
    fs::write(path, text).map_err(|error| Failure::io("write", path, &error))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .map_err(|error| Failure::io("make executable", path, &error))
}
