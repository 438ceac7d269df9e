//! The oldest compiler with which an SVSM may build the component.

use crate::failure::Failure;
use crate::{house, process};
use std::process::Command;

/// As COCONUT-SVSM pins it; `rust-version` of every crate that an SVSM links.
const RUST: &str = "1.88";
const BARE_METAL: &str = "x86_64-unknown-none";

/// Has that compiler check the component and an SVSM's glue, with the reference engine, for bare metal. Brings the compiler.
pub(crate) fn checks() -> Result<String, Failure> {
    let install = ["toolchain", "install", RUST, "--profile", "minimal", "--target", BARE_METAL];
    process::run(Command::new("rustup").args(install).arg("--no-self-update")).map_err(|_| {
        let line = install.join(" ");
        Failure::lacking(format!("test: Rust {RUST} cannot be had; run: rustup {line}"))
    })?;
    // A target folder of its own: no other compiler's products are thrown away.
    let words = "check --quiet --lib -p husk -p husk-svsm-example --features husk/engine-reference";
    let target = house::workshop("rust-oldest")?;
    let mut command = Command::new("rustup");
    command.args(["run", RUST, "cargo"]).args(words.split(' ')).args(["--target", BARE_METAL]);
    command.arg("--target-dir").arg(target).env("RUSTFLAGS", "-D warnings").current_dir(house::root());
    process::run(&mut command)?;
    Ok(format!("Rust {RUST} takes the component and an SVSM's glue"))
}

#[cfg(test)]
mod tests {
    use super::RUST;
    use crate::house;

    #[test]
    fn it_is_the_version_that_the_crates_state() {
        for manifest in ["Cargo.toml", "firmware/svsm-example/Cargo.toml"] {
            let text = std::fs::read_to_string(house::root().join(manifest)).unwrap();
            assert!(text.contains(&format!("\nrust-version = \"{RUST}\"\n")), "{manifest}");
        }
    }
}
