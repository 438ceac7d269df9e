//! The worlds of `tests/worlds.rs` by time, on seeds that no run before had.

use super::Wish;
use crate::failure::Failure;
use crate::house;
use crate::process;
use crate::steps::Steps;
use std::process::Command;

/// Seeds between the beginnings of two soaks: more than one plays.
const STRIDE: u64 = 10_000;

/// Plays worlds until the time is over or a law is broken; shows what happened in them, and what grew.
pub(crate) fn run(wish: &Wish) -> Result<(), Failure> {
    let mut steps = Steps::default();
    let first = wish.seed.unwrap_or_else(|| super::by_clock().wrapping_mul(STRIDE));
    steps.attempt(&format!("worlds from seed {first}"), || play(wish, first));
    if steps.all_passed() { Ok(()) } else { Err(Failure::failed("soak: a law is broken, see above")) }
}

fn play(wish: &Wish, first: u64) -> Result<String, Failure> {
    let mut command = Command::new("cargo");
    command.args(["test", "--quiet", "--package", "husk", "--all-features", "--test", "worlds"]);
    command.env("HUSK_WORLDS_SECONDS", wish.duration.as_secs().to_string());
    command.env("HUSK_WORLDS_FROM", first.to_string()).current_dir(house::root());
    process::run(&mut command)?;
    Ok("the laws held in all of them".to_owned())
}
