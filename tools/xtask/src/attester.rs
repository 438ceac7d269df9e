//! `cargo xtask attester`: the programs that guests are attested by and earn secrets with, each one static file.

use crate::failure::Failure;
use crate::{house, process, setup};
use std::path::Path;
use std::process::Command;

pub(crate) const HELP: &str = "\
cargo xtask attester

Builds husk-attest, which a guest answers `husk evidence ask` with, and husk-unlock, which earns
a disk's passphrase from its tenant's broker, each as one static program into target/husk/attester:
they need no library and no TPM stack in the guest, and are as good for an initrd.";

const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROGRAMS: [&str; 2] = ["husk-attest", "husk-unlock"];
/// Static, and without symbols; of the guest's programs alone, not of what runs while it is built.
const FLAGS: &str =
    r#"target.x86_64-unknown-linux-gnu.rustflags=["-C","target-feature=+crt-static","-C","strip=symbols"]"#;

/// Builds, and says what came of it.
pub(crate) fn run() -> Result<(), Failure> {
    setup::to_build()?;
    println!("attester: {}", make()?);
    Ok(())
}

/// Builds the programs and checks that they need nothing; what each weighs.
pub(crate) fn make() -> Result<String, Failure> {
    let root = house::root();
    let workshop = house::workshop("attester")?;
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--release", "--package", "husk-attester", "--bins"]);
    cargo.args(["--target", TARGET, "--config", FLAGS, "--target-dir"]).arg(workshop.join("build"));
    process::run(cargo.current_dir(root))?;
    let shown = PROGRAMS.map(|name| program(&workshop, name));
    Ok(shown.into_iter().collect::<Result<Vec<_>, _>>()?.join("; "))
}

/// Takes a program out of the build; what it weighs.
fn program(workshop: &Path, name: &str) -> Result<String, Failure> {
    let built = workshop.join("build").join(TARGET).join("release").join(name);
    let program = workshop.join(name);
    let bytes = std::fs::copy(&built, &program).map_err(|error| Failure::io("write", &program, &error))?;
    let headers = process::output(Command::new("readelf").arg("--program-headers").arg(&program))?;
    if headers.contains("INTERP") {
        return Err(Failure::failed("attester: it is not static: it wants a dynamic linker"));
    }
    let version = process::output(Command::new(&program).arg("--version"))?;
    let shown = program.strip_prefix(house::root()).unwrap_or(&program).display();
    Ok(format!("{shown}: {}, static, {} KiB", version.trim(), bytes.div_ceil(1024)))
}
