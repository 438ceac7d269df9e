//! `cargo xtask demo`: the product end to end.

use crate::failure::Failure;
use crate::steps::Steps;

pub(crate) const HELP: &str = "demo";

pub(crate) fn run(_keep: bool) -> Result<(), Failure> {
    Ok(())
}
pub(crate) fn into(_steps: &mut Steps, _keep: bool) -> Result<(), Failure> {
    Ok(())
}
