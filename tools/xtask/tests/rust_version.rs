//! What an SVSM compiles can be compiled by the compiler that an SVSM has.

#![expect(clippy::expect_used, reason = "a test stops at the first surprise")]

use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;

/// rustc 1.88, as COCONUT-SVSM pins it.
const NEWEST: (u64, u64) = (1, 88);
/// What an SVSM links, and all that is compiled on the way there.
const ADOPTED: &str = "husk-svsm-example";

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

fn list<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn metadata() -> Value {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version", "1", "--filter-platform", "x86_64-unknown-none", "--locked"]);
    let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Every package that `ADOPTED` needs to be built: normal dependencies and those of build scripts and macros, but none of tests.
fn needed(metadata: &Value) -> Vec<&Value> {
    let packages: BTreeMap<&str, &Value> =
        list(metadata, "packages").iter().map(|package| (text(package, "id"), package)).collect();
    let nodes: BTreeMap<&str, &Value> =
        list(&metadata["resolve"], "nodes").iter().map(|node| (text(node, "id"), node)).collect();
    let root = packages.iter().find(|(_, package)| text(package, "name") == ADOPTED).expect("a root");
    let (mut waiting, mut seen) = (vec![*root.0], Vec::new());
    while let Some(id) = waiting.pop() {
        if seen.contains(&id) {
            continue;
        }
        seen.push(id);
        let built = |dependency: &&Value| {
            list(dependency, "dep_kinds").iter().any(|kind| text(kind, "kind") != "dev")
        };
        waiting
            .extend(list(nodes[id], "deps").iter().filter(built).map(|dependency| text(dependency, "pkg")));
    }
    seen.iter().map(|id| packages[id]).collect()
}

/// Major and minor; a package that states none promises nothing, and its edition is all that is known.
fn stated(package: &Value) -> Option<(u64, u64)> {
    let mut numbers = package["rust_version"].as_str()?.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next().flatten().unwrap_or(0)))
}

#[test]
fn no_crate_that_an_svsm_compiles_states_a_newer_compiler_than_rustc_1_88() {
    let metadata = metadata();
    let needed = needed(&metadata);
    assert!(needed.len() > 30, "only {} packages were looked at", needed.len());
    for package in &needed {
        let name = text(package, "name");
        let ours = name.starts_with("husk");
        assert!(!ours || stated(package) == Some(NEWEST), "{name} is linked by an SVSM and states no 1.88");
        assert!(stated(package).is_none_or(|stated| stated <= NEWEST), "{name} wants {:?}", stated(package));
    }
    let silent = needed.iter().filter(|package| stated(package).is_none()).count();
    println!("{} packages, {silent} of them state no version", needed.len());
}
