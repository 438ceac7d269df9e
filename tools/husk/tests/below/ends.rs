//! How a machine is ended from outside, and what a second one of the same VM meets.

use crate::world::{World, kernel, wait_for};

#[test]
fn an_interrupt_and_a_termination_end_the_machine_with_the_code_of_success() {
    let world = World::new();
    let kernel = kernel(world.folder(), "reboot", 0);
    for signal in ["-INT", "-TERM"] {
        let mut machine = world.run(&kernel, 1);
        machine.until_line("husk: processors");
        let qemu = machine.qemu();
        let status = machine.signalled(signal);
        assert!(status.success(), "{signal}: {status}");
        assert!(!runs(qemu), "{signal}: QEMU runs on");
    }
}

#[test]
fn a_signal_ends_a_machine_that_has_only_begun() {
    let world = World::new();
    let kernel = kernel(world.folder(), "reboot", 0);
    let machine = world.run(&kernel, 1);
    machine.wait_for_qemu();
    assert!(machine.signalled("-TERM").success());
}

#[test]
fn a_machine_does_not_outlive_the_process_that_started_it() {
    let world = World::new();
    let kernel = kernel(world.folder(), "writer", 0);
    let mut machine = world.run(&kernel, 1);
    machine.until_line("husk: processors");
    let qemu = machine.qemu();
    assert!(runs(qemu));
    machine.orphaned();
    wait_for("QEMU's end", || (!runs(qemu)).then_some(()));
}

/// Whether there is such a process that is not dead (`proc(5)`: the state stands behind the name in brackets).
fn runs(process: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    state.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[test]
fn a_second_machine_of_the_same_vm_waits_at_the_broker_and_the_first_goes_on() {
    let world = World::new();
    let kernel = kernel(world.folder(), "writer", 0);
    let mut first = world.run(&kernel, 1);
    first.until_line("WRITER-DONE ");
    // A copy of the disk: the lock on the file would refuse before the broker could.
    std::fs::copy(world.folder().join("disk"), world.folder().join("clone")).expect("a copy");
    let mut second = world.run_on("clone", &kernel, 1);
    let said = second.until_line("husk: another instance");
    assert!(!said.iter().any(|line| line.starts_with("husk: the guest starts")), "{said:#?}");
    second.cut_power();
    first.forget_lines();
    first.until_line("WRITER-DONE ");
    first.quit();
}
