//! Every installed tool of tpm2-tools, by family: scripts that run on the sealed stack and on swtpm, with one outcome.
//!
//! The scripts lie in `tools/`, a file for each family; [`script`] says how they read. What is marked `long:` runs in
//! `cargo xtask test --all` only. [`EXCUSED`] names what no script can show, and why.

#[path = "tools/script.rs"]
mod script;
#[path = "tools/tpm.rs"]
mod tpm;

use crate::stack::Stack;
use script::{Family, Scenario};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use tpm::{Said, Tpm};

/// Installed tools that no script exercises, each with the reason.
const EXCUSED: &[(&str, &str)] = &[];

/// Every family.
fn families() -> Vec<Family> {
    macro_rules! families {
        ($($name:literal),*) => {
            vec![$(Family::read(concat!($name, ".txt"), include_str!(concat!("tools/", $name, ".txt")))),*]
        };
    }
    families![
        "service",
        "nv",
        "keys",
        "policies",
        "sessions",
        "pcrs",
        "attestation",
        "duplication",
        "hierarchies",
        "fapi"
    ]
}

/// The names of `/usr/bin/tpm2_*`, without their beginning, and of `/usr/bin/tss2_*`; and what the programs behind them list
/// when they are asked for a tool that is none.
fn installed() -> BTreeSet<String> {
    let names = fs::read_dir("/usr/bin").unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.filter_map(|name| name.into_string().ok());
    let linked = names.filter_map(|name| match name.strip_prefix("tpm2_") {
        Some(tool) => Some(tool.to_owned()),
        None => name.starts_with("tss2_").then_some(name),
    });
    linked.chain(listed("tpm2", "")).chain(listed("tss2", "tss2_")).collect()
}

/// The tools that a program with many names says it has, each with `beginning` before it.
fn listed(program: &str, beginning: &str) -> Vec<String> {
    let output = Command::new(Path::new("/usr/bin").join(program)).arg("none-such").output();
    let said = output.unwrap_or_else(|error| panic!("{program}: {error}; run `cargo xtask setup`"));
    let said = String::from_utf8([said.stdout, said.stderr].concat()).unwrap();
    let (_, list) = said.split_once("commands:").unwrap_or_else(|| panic!("{program} lists nothing: {said}"));
    list.split_whitespace().map(|tool| format!("{beginning}{tool}")).collect()
}

#[test]
fn every_installed_tool_is_exercised_or_excused() {
    let installed = installed();
    assert!(installed.len() > 130, "Debian 12 has 138: {installed:?}");
    let families = families();
    let succeeds: BTreeSet<&str> = families.iter().flat_map(Family::tools_that_succeed).collect();
    let excused: BTreeSet<&str> = EXCUSED.iter().map(|(tool, _)| *tool).collect();
    let left_out: Vec<_> = installed
        .iter()
        .filter(|tool| !succeeds.contains(tool.as_str()) && !excused.contains(tool.as_str()))
        .collect();
    assert!(left_out.is_empty(), "neither exercised nor excused: {left_out:?}");
    let needless: Vec<_> = excused.intersection(&succeeds).collect();
    assert!(needless.is_empty(), "excused, and yet exercised: {needless:?}");
}

#[test]
fn every_script_ends_on_husk_as_it_says_and_as_on_swtpm() {
    let long = std::env::var_os("HUSK_LONG").is_some();
    let families = families();
    let scenarios: Vec<&Scenario> = families
        .iter()
        .flat_map(|family| &family.scenarios)
        .filter(|scenario| long || !scenario.long)
        .collect();
    let stack = Stack::new();
    let serving = stack.boot();
    let husk = Tpm::husk(&serving.path("tpm"));
    let swtpm = Tpm::swtpm();
    let (on_husk, on_swtpm) = thread::scope(|scope| {
        let other = scope.spawn(|| all(&swtpm, &scenarios));
        (all(&husk, &scenarios), other.join().unwrap())
    });
    let complaints: Vec<String> = [("husk", &on_husk), ("swtpm", &on_swtpm)]
        .iter()
        .flat_map(|(who, said)| said.iter().filter_map(move |said| said.complaint(who)))
        .chain(on_husk.iter().zip(&on_swtpm).filter_map(|(husk, swtpm)| husk.difference(swtpm)))
        .collect();
    assert!(complaints.is_empty(), "{} complaints\n{}", complaints.len(), complaints.join("\n"));
    assert_eq!(on_husk.len(), on_swtpm.len());
    serving.shut_down();
}

fn all(tpm: &Tpm, scenarios: &[&Scenario]) -> Vec<Said> {
    scenarios.iter().flat_map(|scenario| tpm.run(scenario)).collect()
}
