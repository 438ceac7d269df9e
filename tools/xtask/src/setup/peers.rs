//! Tools that Debian does not package, from PyPI, each in an environment of its own below `target/`: `sev-snp-measure` with its `snp-create-id-block`, and
//! `virt-fw-vars`, which enrols keys in a UEFI firmware's variables.

use crate::failure::Failure;
use crate::{house, process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is installed, to the bit. Every other thing that it needs is Debian's.
struct Tool {
    /// Its program, and its folder below `target/husk`.
    name: &'static str,
    requirement: &'static str,
}

const MEASURE: Tool = Tool {
    name: "sev-snp-measure",
    requirement: "sev-snp-measure==0.0.13 --hash=sha256:feda1aebe69dcbf38e9c636ed1d082bb7dc741fc6969f197d39faddb72b2762d\n",
};

const VARIABLES: Tool = Tool {
    name: "virt-fw-vars",
    requirement: "virt-firmware==26.10 --hash=sha256:17400a94e9030d02861d00b030fd2f3c2d5b023aa68e955b29b1d58474925391\n\
                  pefile==2024.8.26 --hash=sha256:76f8b485dcd3b1bb8166f1128d395fa3d87af26360c2358fb75b80019b957c6f\n",
};

/// Installs `sev-snp-measure` if it is not there. A machine that cannot reach PyPI goes on without: its test then says that it
/// was skipped, and the golden digests still hold.
pub(super) fn installed() -> Result<(), Failure> {
    if let Err(failure) = MEASURE.program() {
        println!("setup: {} could not be fetched; its test will be SKIPPED: {failure}", MEASURE.name);
    }
    variables_tool().map(drop)
}

/// `virt-fw-vars`, installed if it is not there.
pub(crate) fn variables_tool() -> Result<PathBuf, Failure> {
    VARIABLES.program()
}

impl Tool {
    fn program(&self) -> Result<PathBuf, Failure> {
        let Self { name, requirement } = self;
        let home = house::workshop(name)?;
        let (mark, program) = (home.join("requirement.txt"), home.join("bin").join(name));
        if fs::read_to_string(&mark).is_ok_and(|known| known == *requirement) && program.exists() {
            return Ok(program);
        }
        println!("setup: installing {name} into {}", home.display());
        let python = super::program("python3")?;
        let options = ["-m", "venv", "--clear", "--system-site-packages"];
        process::output(Command::new(python).args(options).arg(&home))?;
        let wanted = home.join("wanted.txt");
        fs::write(&wanted, requirement).map_err(|error| Failure::io("write", &wanted, &error))?;
        fetched(&home, &wanted)?;
        fs::rename(&wanted, &mark).map_err(|error| Failure::io("write", &mark, &error))?;
        Ok(program)
    }
}

fn fetched(home: &Path, wanted: &Path) -> Result<String, Failure> {
    let options =
        ["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "-r"];
    process::output(Command::new(home.join("bin/pip")).args(options).arg(wanted))
}
