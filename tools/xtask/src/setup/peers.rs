//! Peers that Debian does not package: `sev-snp-measure` and its `snp-create-id-block`, from PyPI, in an environment of its own below `target/`.

use crate::failure::Failure;
use crate::{house, process};
use std::fs;
use std::path::Path;
use std::process::Command;

/// What is installed, to the bit. Its one dependency is Debian's.
const REQUIREMENT: &str = "sev-snp-measure==0.0.13 --hash=sha256:feda1aebe69dcbf38e9c636ed1d082bb7dc741fc6969f197d39faddb72b2762d\n";

/// Installs the tool if it is not there. A machine that cannot reach PyPI goes on without: its test then says that it
/// was skipped, and the golden digests still hold.
pub(super) fn installed() -> Result<(), Failure> {
    let home = house::workshop("sev-snp-measure")?;
    let mark = home.join("requirement.txt");
    let is_there = fs::read_to_string(&mark).is_ok_and(|known| known == REQUIREMENT);
    if is_there && home.join("bin/sev-snp-measure").exists() {
        return Ok(());
    }
    println!("setup: installing sev-snp-measure into {}", home.display());
    let python = super::program("python3")?;
    process::output(
        Command::new(python).args(["-m", "venv", "--clear", "--system-site-packages"]).arg(&home),
    )?;
    let wanted = home.join("wanted.txt");
    fs::write(&wanted, REQUIREMENT).map_err(|error| Failure::io("write", &wanted, &error))?;
    if let Err(failure) = fetched(&home, &wanted) {
        println!("setup: sev-snp-measure could not be fetched; its test will be SKIPPED: {failure}");
        return Ok(());
    }
    fs::rename(&wanted, &mark).map_err(|error| Failure::io("write", &mark, &error))
}

fn fetched(home: &Path, wanted: &Path) -> Result<String, Failure> {
    let options =
        ["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "-r"];
    process::output(Command::new(home.join("bin/pip")).args(options).arg(wanted))
}
