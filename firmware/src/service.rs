//! The service processor: the last one of the machine, on which the engine runs and no guest ever does.
//!
//! **What.** [`run`] gives the engine its heap, its clock and its randomness; then it tests the TPM, or boots the component from its
//! broker's grant, starts the guest, and serves.
//! **Trust.** The component judges what comes from disk, channel and guest.
//! **Laws.** The engine runs on this processor only, so that no command, however long, keeps a guest's processor from running. A
//! guest never runs without a TPM that was measured into: what fails before that stops the machine.
//! **Not here.** The component's seams: `platform`. The TPM's registers: `crb_device`. The guest's processors: `svm`.

use crate::boot::{self, BootInfo};
use crate::clock;
use crate::console;
use crate::entropy;
use crate::memory::Physical;
use crate::serve::{self, Machine};
use crate::stop::{Stop, stop, stop_naming};
use crate::wishes::Ways;
use crate::{arena, self_test};
use husk::engine::reference::ReferenceEngine;
use husk_stubs::runtime::{self, World};

/// What the service processor is to do.
#[derive(Clone, Copy, Debug)]
pub enum Task {
    /// Test the TPM, show the codes, stop.
    SelfTest,
    /// Boot the component, start the guest, serve.
    Serve(&'static BootInfo, Ways),
}

/// Runs the service processor for good.
pub fn run(cpu: usize, task: Task) -> ! {
    let mut canary = [0; 8];
    if entropy::fill(&mut canary).is_err() {
        stop(Stop::NoEntropy, line!());
    }
    // The lowest byte is zero, so that no string function copies over it.
    boot::segments::set_canary(u64::from_le_bytes(canary) << 8);
    let Some(heap) = arena::engine_heap() else { stop(Stop::Bug, line!()) };
    runtime::install(World { now_ms: clock::now_ms, trap: |name| stop_naming(Stop::Trapped, name) }, heap);
    let Some(engine) = ReferenceEngine::claim(entropy::fill) else { stop(Stop::Engine, line!()) };
    let (Some(tpm), Some(memory)) = (arena::component(), Physical::machine()) else {
        stop(Stop::Bug, line!())
    };
    match task {
        Task::SelfTest => self_test::run(memory, engine, tpm),
        Task::Serve(info, ways) => serve::run(&Machine { info, memory, cpu, ways }, engine, tpm),
    }
    show_usage();
    stop(Stop::Ended, 0)
}

/// Shows how much of what the budget grants was ever used, in bytes.
pub(crate) fn show_usage() {
    let heap = runtime::usage();
    for (text, bytes) in [
        ("husk: engine heap, peak bytes", heap.peak),
        ("husk: engine heap, bytes in use", heap.now),
        ("husk: engine heap, requests refused", heap.refused),
        ("husk: service stack, peak bytes", boot::stacks::service_high_water_bytes()),
        ("husk: boot stack, peak bytes", boot::stacks::boot_high_water_bytes()),
    ] {
        console::line(text, u32::try_from(bytes).unwrap_or(u32::MAX));
    }
}
