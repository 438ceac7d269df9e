//! Every processor of the machine, each started once and handed to whoever runs it.
//!
//! # Soundness
//! `husk_next_stack` and `husk_next_cpu` are read by the processor that is being started and written by the one that starts it,
//! before the start-up interrupt and not again until the new processor has said that it is there. The page of the
//! trampoline is ordinary memory below 1 MiB, copied out and put back through [`Physical`].

use super::acpi::Acpi;
use super::apic::LocalApic;
use super::entry::TRAMPOLINE;
use super::{CPUS_MAX, exceptions, segments, stacks};
use crate::clock;
use crate::memory::{self, Physical, Reach};
use crate::stop::{Stop, stop};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicUsize, Ordering, compiler_fence};
use spin::Once;

/// What a started processor runs.
pub type Main = fn(usize) -> !;

/// After INIT a processor gets this long, and after each start-up interrupt (AMD64 24593, 16.5).
const INIT_MS: u64 = 10;
/// A processor that has not said that it is there by then never will.
const ARRIVAL_MS_MAX: u64 = 20_000;
/// Start-up interrupts that are sent before a processor counts as silent.
const START_UPS_MAX: u64 = 20;
const TRAMPOLINE_BYTES_MAX: usize = 256;

static ARRIVED: AtomicUsize = AtomicUsize::new(1);
static MAIN: Once<Main> = Once::new();
static IDS: Once<heapless::Vec<u8, CPUS_MAX>> = Once::new();

unsafe extern "C" {
    static mut husk_next_stack: u64;
    static mut husk_next_cpu: u64;
    static mut husk_final_root: u64;
    static husk_trampoline: u8;
    static husk_trampoline_end: u8;
}

/// How many processors run the layer, the caller included.
#[must_use]
pub fn count() -> usize {
    ARRIVED.load(Ordering::Acquire)
}

/// The local APIC identifiers of the processors, by number: 0 is the one that booted.
#[must_use]
pub fn ids() -> &'static [u8] {
    IDS.get().map_or(&[], |ids| ids.as_slice())
}

/// Starts every processor that the machine's tables list, the last one on the stack for the one that serves; each runs `main` with its number. Stops the machine if there are
/// more than [`CPUS_MAX`], or if one does not come.
pub fn start(acpi: &Acpi<'_, Physical>, mut memory: Physical, main: Main) {
    let Some(mut apic) = LocalApic::own() else { stop(Stop::NoApic, 0) };
    let Some(listed) = acpi.processors() else { stop(Stop::ProcessorsUnknown, 0) };
    apic.enable();
    let own = apic.id();
    if !listed.contains(&own) {
        stop(Stop::ProcessorsUnknown, u32::from(own));
    }
    let others = listed.iter().copied().filter(|id| *id != own);
    let ids = IDS.call_once(|| core::iter::once(own).chain(others).collect());
    MAIN.call_once(|| main);
    // SAFETY: no other processor runs yet.
    unsafe { husk_final_root = memory::address_of_tables() };
    let mut before = [0; TRAMPOLINE_BYTES_MAX];
    let code = trampoline();
    let placed = memory
        .copy_in(TRAMPOLINE, &mut before[..code.len()])
        .and_then(|()| memory.copy_out(TRAMPOLINE, code));
    if placed.is_err() {
        stop(Stop::NoTrampoline, 0);
    }
    for (cpu, id) in ids.iter().enumerate().skip(1) {
        let last = cpu + 1 == ids.len();
        start_one(&mut apic, cpu, *id, if last { stacks::service_top() } else { stacks::main_top(cpu) });
    }
    if memory.copy_out(TRAMPOLINE, &before[..code.len()]).is_err() {
        stop(Stop::NoTrampoline, 1);
    }
}

fn trampoline() -> &'static [u8] {
    let start = &raw const husk_trampoline;
    let bytes = (&raw const husk_trampoline_end as usize - start as usize).min(TRAMPOLINE_BYTES_MAX);
    // SAFETY: the linker placed so many bytes of constant code there.
    unsafe { core::slice::from_raw_parts(start, bytes) }
}

fn start_one(apic: &mut LocalApic, cpu: usize, id: u8, stack: u64) {
    // SAFETY: the processors started before have arrived, and read these no more.
    unsafe { husk_next_stack = stack };
    // SAFETY: as above.
    unsafe { husk_next_cpu = cpu as u64 };
    // The new processor is called by writes to registers, which no store to memory passes.
    compiler_fence(Ordering::SeqCst);
    let page = (TRAMPOLINE >> 12).to_le_bytes()[0];
    let code = u32::from(id);
    if !apic.init(id) {
        stop(Stop::ProcessorSilent, code);
    }
    clock::pause_ms(INIT_MS);
    for _ in 0..START_UPS_MAX {
        // A processor that runs already ignores the repetition.
        if !apic.start_up(id, page) {
            stop(Stop::ProcessorSilent, code);
        }
        let began = clock::now_ms();
        while clock::now_ms() - began < ARRIVAL_MS_MAX / START_UPS_MAX {
            if count() > cpu {
                return;
            }
            spin_loop();
        }
    }
    stop(Stop::ProcessorSilent, code)
}

/// # Safety
/// Jumped to by the trampoline only, on the new processor's own stack.
#[unsafe(no_mangle)]
unsafe extern "C" fn husk_processor_main(cpu: usize) -> ! {
    segments::load(cpu);
    exceptions::load();
    ARRIVED.store(cpu + 1, Ordering::Release);
    match MAIN.get() {
        Some(main) => main(cpu),
        None => stop(Stop::Bug, line!()),
    }
}
