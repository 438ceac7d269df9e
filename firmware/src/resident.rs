//! The layer from the first Rust instruction on: the boot in ten steps (`src/manual/image.md`).
//!
//! # Soundness
//! `husk_main` is entered once, by `boot::entry`, on the boot processor's stack.

use crate::boot::{self, Acpi, BootInfo, cpus};
use crate::memory::{self, Early, Physical};
use crate::service::{self, Task};
use crate::stop::{self, Stop, stop};
use crate::wishes::Wish;
use crate::{clock, console, entropy, serve, svm};
use core::hint::spin_loop;
use spin::Once;

/// # Safety
/// Jumped to by the entry only.
#[unsafe(no_mangle)]
unsafe extern "C" fn husk_main(start_info: u64) -> ! {
    console::open();
    boot::settle_boot_processor();
    console::line("husk: the layer is running", 0);
    let info = match BootInfo::read(start_info, &Early) {
        Ok(info) => info,
        Err(error) => stop(Stop::BootInfo, error.code()),
    };
    memory::install(&info.map);
    let Some(memory) = Physical::machine() else { stop(Stop::Bug, line!()) };
    let Some(acpi) = Acpi::find(&memory, info.rsdp) else { stop(Stop::NoAcpi, 0) };
    match acpi.timer_port() {
        Some(port) if clock::calibrate(port) => {}
        _ => stop(Stop::NoTimer, 0),
    }
    entropy::start();
    cpus::start(&acpi, memory, processor);
    let count = cpus::count();
    console::line("husk: processors", u32::try_from(count).unwrap_or(u32::MAX));
    if count < CPUS_MIN {
        stop(Stop::ProcessorsUnknown, 1);
    }
    let Some(wish) = Wish::parse(&info.command_line) else { stop(Stop::BootInfo, UNKNOWN_WISH) };
    TASK.call_once(|| match wish {
        Wish::SelfTest => Task::SelfTest,
        Wish::Serve(ways) => Task::Serve(INFO.call_once(|| info), ways),
    });
    processor(0)
}

/// One for the guest, one for the engine.
const CPUS_MIN: usize = 2;

/// Says on the console that the loader's command line is none; start information that is not sound has lower numbers.
const UNKNOWN_WISH: u32 = 0x100;

/// What the service processor is to do, once that is known.
static TASK: Once<Task> = Once::new();
/// What the loader said.
static INFO: Once<BootInfo> = Once::new();

fn processor(cpu: usize) -> ! {
    let task = *TASK.wait();
    if cpu + 1 == cpus::count() { service::run(cpu, task) } else { enter(cpu) }
}

/// Waits until the guest is fenced in, or the machine ends; then helps to measure the guest, and runs it.
fn enter(cpu: usize) -> ! {
    while !serve::is_fenced() {
        stop::halt_if_stopping();
        spin_loop();
    }
    serve::help();
    svm::run(cpu)
}
