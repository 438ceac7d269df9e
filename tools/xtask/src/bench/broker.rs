//! `cargo xtask bench broker`: the broker's own benchmark, which is a program of its package.

use crate::failure::Failure;
use crate::{house, process, setup};
use std::process::Command;

/// Builds it for release and runs it.
pub(crate) fn run(json: bool) -> Result<(), Failure> {
    setup::to_build()?;
    let mut command = Command::new("cargo");
    command.args(["bench", "--quiet", "--package", "husk-broker", "--bench", "broker", "--"]);
    if json {
        command.arg("--json");
    }
    process::run(command.current_dir(house::root()))
}
