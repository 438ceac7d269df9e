//! The layer from the first Rust instruction on: the boot in ten steps (`src/manual/image.md`).
//!
//! # Soundness
//! `husk_main` is entered once, by `boot::entry`, on the boot processor's stack.

use crate::boot::{self, Acpi, BootInfo, cpus};
use crate::memory::{self, Early, Physical};
use crate::stop::{Stop, stop};
use crate::{clock, console};
use core::hint::spin_loop;

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
    cpus::start(&acpi, memory, processor);
    console::line("husk: processors", u32::try_from(cpus::count()).unwrap_or(u32::MAX));
    stop(Stop::NoPayload, 0)
}

fn processor(_cpu: usize) -> ! {
    loop {
        spin_loop();
    }
}
