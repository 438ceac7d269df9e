//! `cargo xtask test`: every law, every peer, and the demo.

use crate::failure::Failure;
use crate::steps::Steps;
use crate::{attester, check, demo, fuzz, house, image, oldest, peers, setup, soak};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

pub(crate) const HELP: &str = "\
cargo xtask test [--all] [--peers [--group NAME]]

Runs `check`, builds the image and the guests' program, then every test of the workspace, then the peers: swtpm,
tpm2-pytss and a kernel guest, under QEMU's own TPM devices, below the image and in a UEFI firmware there, and a Debian
whose disk encrypts itself below the image (with --all to swtpm too), then
the demo, through the image and in a host process, then a soak of 20 seconds. With
--all the long tests run too (HUSK_LONG=1), all of tpm2-pytss' own, the newest kernel that
Debian has below the image, libFuzzer for 20 seconds a target, and a soak of 5 minutes;
rustc 1.88 (rustup brings it) checks the component as an SVSM builds it.
HUSK_EVIDENCE_DIR may name a folder with more attestation reports and certificates.
With --peers nothing but the peers runs, with --group one group of them: scripts, sealed,
layer, disk, uefi, encrypted, prepared, attested, unlock, debian. The last line is `N passed, N failed`.";

/// Runs everything; the last line counts.
pub(crate) fn run(all: bool) -> Result<(), Failure> {
    setup::run()?;
    let mut steps = Steps::default();
    check::into(&mut steps)?;
    steps.attempt("image", image::make);
    steps.attempt("attester", attester::make);
    cargo_tests(all, &mut steps)?;
    for group in peers::GROUPS {
        (group.run)(&mut steps, all);
    }
    demo::image::into(&mut steps, false)?;
    demo::into(&mut steps, false)?;
    tried_at_length(all, &mut steps)?;
    counted(&steps)
}

/// Runs the peers, or the group of them that is named.
pub(crate) fn run_peers(all: bool, named: Option<&str>) -> Result<(), Failure> {
    let groups: Vec<_> =
        peers::GROUPS.iter().filter(|group| named.is_none_or(|named| group.name == named)).collect();
    if groups.is_empty() {
        return Err(Failure::usage(format!("xtask: no such group of peers\n\n{HELP}")));
    }
    setup::run()?;
    let mut steps = Steps::default();
    for group in groups {
        (group.run)(&mut steps, all);
    }
    counted(&steps)
}

/// Says the last line.
fn counted(steps: &Steps) -> Result<(), Failure> {
    println!("{} passed, {} failed", steps.passed, steps.failed);
    if steps.all_passed() { Ok(()) } else { Err(Failure::failed("test: something failed, see above")) }
}

/// Bytes from outside and lives of a TPM: in an ordinary run the former are among cargo's tests.
fn tried_at_length(all: bool, steps: &mut Steps) -> Result<(), Failure> {
    if !all {
        soak::into(steps, &soak::BRIEF);
        return Ok(());
    }
    steps.attempt("image: built twice", image::twice::compare);
    steps.attempt("the oldest compiler", oldest::checks);
    fuzz::into(steps, &fuzz::Wish { seconds: 20, target: None, merge: false })?;
    soak::into(steps, &soak::Wish { duration: Duration::from_secs(60 * soak::MINUTES), seed: None });
    Ok(())
}

/// Runs cargo's tests, showing what they say and counting their verdicts.
fn cargo_tests(all: bool, steps: &mut Steps) -> Result<(), Failure> {
    let mut command = Command::new("cargo");
    command.args(["test", "--workspace", "--all-features", "--no-fail-fast"]).current_dir(house::root());
    if all {
        command.env("HUSK_LONG", "1");
    }
    let unstarted = |error| Failure::failed(format!("test: cargo does not start: {error}"));
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(unstarted)?;
    let mut counted_failures = 0;
    for line in
        child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines).map_while(Result::ok)
    {
        println!("{line}");
        if let Some((passed, failed)) = verdict(&line) {
            steps.count(passed, failed);
            counted_failures += failed;
        }
    }
    let status = child.wait().map_err(unstarted)?;
    if !status.success() && counted_failures == 0 {
        println!("FAIL cargo test: it did not build, or a test brought its process down ({status})");
        steps.count(0, 1);
    }
    Ok(())
}

/// How many tests passed and failed, from the closing line of a test binary.
fn verdict(line: &str) -> Option<(usize, usize)> {
    let counts = line.strip_prefix("test result: ")?;
    let number = |what: &str| {
        let part = counts.split([';', '.']).find_map(|part| part.trim().strip_suffix(what))?;
        part.trim().parse().ok()
    };
    Some((number("passed")?, number("failed")?))
}

#[cfg(test)]
mod tests {
    use super::verdict;

    #[test]
    fn the_closing_line_of_a_test_binary_is_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s";
        assert_eq!(verdict(line), Some((12, 3)));
        assert_eq!(verdict("test result: ok. 0 passed; 0 failed; 0 ignored"), Some((0, 0)));
        assert_eq!(verdict("test frame::result: ok"), None);
    }
}
