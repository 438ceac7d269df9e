//! `cargo xtask check`: everything that judges the code without running it.

use crate::failure::Failure;
use crate::steps::Steps;
use crate::{house, process, setup, tidy};
use std::process::Command;

pub(crate) const HELP: &str = "\
cargo xtask check [--tidy]

Tidy (layers, sizes, unsafe, fault codes, words, dependencies, links), formatting,
lints of everything on the host and of the component on bare metal, with and
without the reference engine, and the documentation. Every warning is an error.
With --tidy nothing but tidy runs.";

/// What cargo checks, cheap and often wrong first: a name and cargo's arguments.
const CARGO: &[(&str, &str)] = &[
    ("format", "fmt --all --check"),
    ("lints: host", "clippy --quiet --workspace --all-targets --all-features -- -D warnings"),
    ("lints: component alone", "clippy --quiet -p husk -- -D warnings"),
    (
        "lints: bare metal",
        "clippy --quiet -p husk -p husk-stubs -p husk-firmware -p husk-svsm-example -p husk-panic-free --lib --bins --target x86_64-unknown-none -- -D warnings",
    ),
    (
        "lints: bare metal with the engine",
        "clippy --quiet -p husk --lib --features engine-reference --target x86_64-unknown-none -- -D warnings",
    ),
    ("documentation", "doc --quiet --no-deps --workspace --all-features"),
];

/// Runs every check, or tidy only; fails if one fails.
pub(crate) fn run(tidy_only: bool) -> Result<(), Failure> {
    let mut steps = Steps::default();
    if tidy_only {
        steps.attempt("tidy", tidy::run);
    } else {
        into(&mut steps)?;
    }
    println!("check: {} passed, {} failed", steps.passed, steps.failed);
    if steps.all_passed() { Ok(()) } else { Err(Failure::failed("check: something failed, see above")) }
}

/// Runs every check as a step.
pub(crate) fn into(steps: &mut Steps) -> Result<(), Failure> {
    setup::to_build()?;
    steps.attempt("tidy", tidy::run);
    for (name, arguments) in CARGO {
        steps.attempt(name, || cargo(arguments));
    }
    Ok(())
}

fn cargo(arguments: &str) -> Result<String, Failure> {
    let mut command = Command::new("cargo");
    command.args(arguments.split(' ')).current_dir(house::root()).env("RUSTDOCFLAGS", "-D warnings");
    process::run(&mut command).map(|()| String::new())
}
