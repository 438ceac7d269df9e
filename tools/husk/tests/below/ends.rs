//! How a machine is ended from outside, and what a second one of the same VM meets.

use crate::world::{World, kernel};
use std::path::Path;

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
        assert!(!Path::new(&format!("/proc/{qemu}")).exists(), "{signal}: QEMU runs on");
    }
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
