//! A linked program taken apart: who calls or jumps to whom, by name.

use crate::failure::Failure;
use crate::process;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// How Rust's mangled names begin.
const RUST: [&str; 2] = ["_ZN", "_R"];

/// Whether a function was written in Rust.
pub(super) fn is_rust(name: &str) -> bool {
    RUST.iter().any(|prefix| name.starts_with(prefix))
}

/// The program's instructions as text.
pub(super) fn listing(program: &Path) -> Result<String, Failure> {
    let mut objdump = Command::new("objdump");
    process::output(objdump.args(["--disassemble", "--no-show-raw-insn"]).arg(program))
}

pub(super) type Calls<'l> = BTreeMap<&'l str, Vec<&'l str>>;

/// Each function, and whom it calls or jumps to; jumps within a function are none.
pub(super) fn calls(listing: &str) -> Calls<'_> {
    let mut calls = Calls::new();
    let mut current = "";
    for line in listing.lines() {
        if let Some(name) = line.strip_suffix(">:").and_then(|line| line.split_once('<')) {
            current = name.1;
            calls.entry(current).or_default();
        } else if let Some((target, is_call)) = target(line) {
            let inside = target.split_once('+');
            let other = inside.map_or(target, |(name, _)| name);
            if is_call || (inside.is_none() && other != current) {
                calls.entry(current).or_default().push(other);
            }
        }
    }
    calls
}

/// Where an instruction goes, and whether it is a call.
fn target(line: &str) -> Option<(&str, bool)> {
    let (_, instruction) = line.split_once('\t')?;
    let mnemonic = instruction.split_whitespace().next()?;
    let target = instruction.split_once('<')?.1.strip_suffix('>')?;
    (mnemonic == "call" || mnemonic.starts_with('j')).then_some((target, mnemonic == "call"))
}
