//! `cargo xtask setup`: what the machine must have, brought in once.

mod apt;
mod kernel;
mod packages;
mod peers;
mod python;

use crate::failure::Failure;
use crate::process;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) use kernel::{Kernel, fetched_kernel, newest_kernel};
pub(crate) use packages::{OVMF, OVMF_VARIABLES, privilege};
pub(crate) use peers::variables_tool;
pub(crate) use python::{Python, python};

pub(crate) const HELP: &str = "\
cargo xtask setup

Installs the Debian packages that Husk is built and tested with (as root or with
passwordless sudo; else it prints the line to run and exits with 3), adds the
Rust target x86_64-unknown-none, fetches the kernel of the test guest into
target/husk/kernel without installing it (`test --all` also that of Debian's newest suite,
into target/husk/kernel-newest), builds tpm2-pytss from PyPI in a
Python environment in target/husk/python, and installs sev-snp-measure and virt-fw-vars
from PyPI into folders of their names there. Does nothing, quickly, when all is there.";

const BARE_METAL: &str = "x86_64-unknown-none";

/// Brings everything.
pub(crate) fn run() -> Result<(), Failure> {
    to_boot()?;
    python()?;
    peers::installed()?;
    println!("setup: Python with tpm2-pytss is there");
    Ok(())
}

/// What building and booting the guest need.
pub(crate) fn to_boot() -> Result<(), Failure> {
    to_build()?;
    let kernel = fetched_kernel()?;
    println!("setup: packages, Rust target and guest kernel ({}) are there", kernel.version);
    Ok(())
}

/// What building and linting need: packages and the bare-metal target.
pub(crate) fn to_build() -> Result<(), Failure> {
    packages::installed()?;
    bare_metal_target()
}

fn bare_metal_target() -> Result<(), Failure> {
    let libraries =
        process::output(Command::new("rustc").args(["--print", "target-libdir", "--target", BARE_METAL]))?;
    if Path::new(libraries.trim()).exists() {
        return Ok(());
    }
    let added = process::run(Command::new("rustup").args(["target", "add", BARE_METAL]));
    added.map_err(|_| {
        Failure::lacking(format!(
            "setup: Rust has no target {BARE_METAL}; run: rustup target add {BARE_METAL}"
        ))
    })
}

/// A program of the machine, by its absolute path.
pub(crate) fn program(name: &str) -> Result<PathBuf, Failure> {
    let folders = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];
    let found = folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists());
    found.ok_or_else(|| {
        Failure::lacking(format!("setup: the program {name} is missing; run: cargo xtask setup"))
    })
}
