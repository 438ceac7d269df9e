//! A guest that earns a secret: what its tenant keeps for it, and the guest's program.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::allow_attributes, reason = "what is unused differs from test to test")]

use crate::stack::{Serving, Stack};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

pub(crate) const SECRET: &str = "a passphrase of the tenant's";

/// The guest's program, which a build of the workspace puts beside the command.
fn program() -> PathBuf {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_husk")).with_file_name("husk-unlock");
    assert!(program.exists(), "husk-unlock is not built; run: cargo build --workspace");
    program
}

/// Gives the tenant an authority: its VMs show their endorsement keys when they start.
pub(crate) fn authority(stack: &Stack) {
    let tenant = stack.tenant.clone();
    let words =
        ["tenant", "authority", "init", "--database", "db", "--root-key", "root", "--tenant", &tenant];
    let output = stack.site.run(&[&words[..], &["--out", "authority.pem"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::write(stack.path("secret"), SECRET).unwrap();
}

pub(crate) fn vm_of(stack: &Stack, config: &str) -> String {
    let config = fs::read_to_string(stack.path(config)).unwrap();
    let line = config.lines().find(|line| line.contains("husk.vm")).unwrap();
    line.rsplit('"').nth(1).unwrap().to_owned()
}

/// Keeps the secret under that name for the VM of `config`.
pub(crate) fn keep(stack: &Stack, config: &str, name: &str, more: &[&str]) -> Output {
    let vm = vm_of(stack, config);
    let words = ["vm", "unlock", "put", "--database", "db", "--root-key", "root", "--tenant", &stack.tenant];
    let named = ["--vm", &vm, "--name", name, "--secret", "secret", "--json"];
    stack.site.run(&[&words[..], &named, more].concat())
}

/// Runs the guest's program.
pub(crate) fn ask(stack: &Stack, line: &str) -> Output {
    let mut command = Command::new(program());
    let fixed =
        ["--config", "config", "--broker", "unix:relay.sock", "--tpm", "unix:tpm", "--wait-seconds", "0"];
    // What is said again later replaces it.
    let words = fixed.chunks(2).filter(|pair| !line.contains(pair[0])).flatten();
    command.args(words).args(line.split_whitespace()).current_dir(stack.site.folder.path());
    command.stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
pub(crate) fn refused(output: &Output, why: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(why) && said.lines().count() == 1, "{why}: {said}");
    assert!(output.stdout.is_empty() && !said.contains(SECRET));
}

/// The value of a PCR, as `--expect-pcr` takes it.
pub(crate) fn value(tpm: &Serving<'_>, pcr: u8) -> String {
    let said = tpm.run_line(&format!("pcrread sha256:{pcr}"));
    let digits = said.split("0x").nth(1).unwrap().trim().to_lowercase();
    format!("sha256:{pcr}={digits}")
}
