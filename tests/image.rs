//! The real binary: does it boot, serve, stop, and keep to its budget? It is made by `cargo xtask image`.
#![expect(clippy::expect_used, clippy::panic, reason = "a test stops at the first surprise")]

#[path = "support/qemu.rs"]
mod qemu;

use qemu::{ENDED, Machine, code, codes, stopped};

const SELF_TEST: [&str; 2] = ["-append", "husk.self-test"];
/// TPM_RC_NV_DEFINED.
const NV_DEFINED: u64 = 0x14C;

/// A number of the budget.
fn granted(name: &str) -> u64 {
    let budget = include_str!("../firmware/budget.toml");
    let line = budget.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
    let number = line.and_then(|line| line.split('#').next()?.trim().parse().ok());
    number.unwrap_or_else(|| panic!("firmware/budget.toml does not grant {name}"))
}

#[test]
fn a_tpm_is_made_starts_and_keeps_its_memory_over_a_power_cut_on_bare_metal() {
    let (lines, exit) = Machine::start(2, "512M", &SELF_TEST).until_it_ends();
    assert_eq!(exit, ENDED, "{lines:#?}");
    for step in ["Startup", "SelfTest", "GetRandom", "NV_Increment", "NV_Read"] {
        assert_eq!(codes(&lines, &format!("husk: self-test: {step}")), [0, 0], "{step}: {lines:#?}");
    }
    assert_eq!(codes(&lines, "husk: self-test: NV_DefineSpace"), [0, NV_DEFINED]);
    assert_eq!(codes(&lines, "husk: self-test:   counter"), [1, 2]);
    assert_eq!(code(&lines, "husk: engine heap, requests refused"), 0);
    for (said, name) in
        [("husk: engine heap, peak bytes", "heap"), ("husk: service stack, peak bytes", "stack")]
    {
        let (used, granted) = (code(&lines, said), granted(name));
        assert!(used <= granted, "{said} {used}, granted {granted}");
    }
}

#[test]
fn memory_above_4_gib_and_every_processor_are_the_layers() {
    let (lines, exit) = Machine::start(8, "5G", &[]).until_it_ends();
    assert_eq!(code(&lines, "husk: processors"), 8);
    // There is nothing to run: the host's fault.
    assert_eq!(exit, stopped(2), "{lines:#?}");
}

#[test]
fn a_machine_that_lacks_something_stops_with_a_code() {
    for (cpus, memory, more, why) in [
        (9, "512M", &[][..], 0x0200_0006),
        (1, "512M", &[], 0x0200_0006),
        (2, "512M", &["-cpu", "EPYC,+svm,+npt,-rdrand"], 0x0200_0009),
    ] {
        let (lines, exit) = Machine::start(cpus, memory, more).until_it_ends();
        let last = lines.last().expect("it says why");
        assert!(last.contains(&format!("0x{why:08x}")), "{lines:#?}");
        assert_eq!(exit, stopped(2), "{last}");
    }
}
