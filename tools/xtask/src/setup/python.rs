//! A Python environment with tpm2-pytss, below `target/`: the machine's own Python stays as it is.

use crate::failure::Failure;
use crate::{house, process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What tpm2-pytss is built with and needs, and what runs its tests; from PyPI, each as it was tried.
/// Newer cryptography has abstract methods that this tpm2-pytss does not know.
const NEEDED: &[&str] = &[
    "asn1crypto==1.5.1",
    "cffi==2.1.1",
    "cryptography==43.0.3",
    "packaging==26.4",
    "pkgconfig==1.6.0",
    "pycparser==3.12",
    "pytest==9.2.0",
    "PyYAML==6.0.4",
    "setuptools==84.2.1",
    "setuptools_scm==10.3.4",
    "wheel==0.48.0",
];

/// The client itself, which PyPI has as source only.
const PYTSS: &str = "tpm2-pytss==2.3.0";
/// Its name in files.
const PYTSS_STEM: &str = "tpm2-pytss-2.3.0";

/// A Python that knows tpm2-pytss.
#[derive(Clone, Debug)]
pub(crate) struct Python {
    pub(crate) program: PathBuf,
    /// The unpacked source of tpm2-pytss, with its own tests.
    pub(crate) source: PathBuf,
}

/// The environment in `target/husk/python`, made if it is not there or was made of something else.
pub(crate) fn python() -> Result<Python, Failure> {
    let home = house::root().join("target/husk/python");
    let python = Python { program: home.join("bin/python"), source: home.join(PYTSS_STEM) };
    let mark = home.join("made-of");
    let wanted = [NEEDED, &[PYTSS]].concat().join("\n");
    if fs::read_to_string(&mark).is_ok_and(|made_of| made_of == wanted) {
        return Ok(python);
    }
    println!("setup: building {PYTSS} into {}", home.display());
    if home.exists() {
        fs::remove_dir_all(&home).map_err(|error| Failure::io("remove", &home, &error))?;
    }
    process::output(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(&home))?;
    pip(&python, &[&["install", "--only-binary", ":all:"], NEEDED].concat())?;
    let archive = home.join(format!("{PYTSS_STEM}.tar.gz"));
    let as_source = ["--no-deps", "--no-build-isolation", "--no-binary", "tpm2-pytss"];
    let folder = home.to_string_lossy();
    pip(&python, &[&["download", "--dest", &folder], &as_source[..], &[PYTSS]].concat())?;
    let archive_text = archive.to_string_lossy();
    pip(&python, &["install", "--no-deps", "--no-build-isolation", &archive_text])?;
    unpack(&archive, &home)?;
    fs::write(&mark, wanted).map_err(|error| Failure::io("write", &mark, &error))?;
    Ok(python)
}

fn pip(python: &Python, words: &[&str]) -> Result<(), Failure> {
    let mut command = Command::new(&python.program);
    command.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]).args(words);
    process::output(&mut command).map(drop)
}

fn unpack(archive: &Path, folder: &Path) -> Result<(), Failure> {
    process::output(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(folder)).map(drop)
}
