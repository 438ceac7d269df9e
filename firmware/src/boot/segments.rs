//! A processor's descriptor tables, its number, and the canary that the engine's C code looks for.
//!
//! # Soundness
//! Each processor loads tables of its own, which live as long as the image. The selectors are those of the table that was
//! just loaded. FS base points at a page that nothing but the canary is in: the C code reads `fs:0x28` and there is no
//! thread-local storage. GS base points at the processor's number.

use super::{CPUS_MAX, stacks};
use crate::memory;
use core::cell::UnsafeCell;
use core::ptr;
use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::registers::model_specific::{FsBase, GsBase};
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

/// Index of the stack for faults in a processor's task state.
pub(super) const FAULT_STACK: u16 = 0;
/// Index of the stack for what may interrupt and return.
pub(super) const INTERRUPT_STACK: u16 = 1;
/// Where the C compiler's stack protector finds the canary, in 8-byte words from FS base (x86-64 psABI).
const CANARY_WORD: usize = 5;

static TASKS: [Once<TaskStateSegment>; CPUS_MAX] = [const { Once::new() }; CPUS_MAX];
static NUMBERS: [[u64; 1]; CPUS_MAX] = {
    let mut numbers = [[0]; CPUS_MAX];
    let mut cpu = 0;
    while cpu < CPUS_MAX {
        numbers[cpu][0] = cpu as u64;
        cpu += 1;
    }
    numbers
};
static TABLES: [Once<GlobalDescriptorTable>; CPUS_MAX] = [const { Once::new() }; CPUS_MAX];

#[repr(C, align(64))]
struct Canary(UnsafeCell<[u64; 8]>);
// SAFETY: written by `set_canary` before any C code runs, then only read, by C code.
unsafe impl Sync for Canary {}
static CANARY: Canary = Canary(UnsafeCell::new([0; 8]));

/// Loads the tables of processor `cpu`, which is the caller.
pub(super) fn load(cpu: usize) {
    let mut task = TaskStateSegment::new();
    task.interrupt_stack_table[usize::from(FAULT_STACK)] = VirtAddr::new(stacks::fault_top(cpu));
    task.interrupt_stack_table[usize::from(INTERRUPT_STACK)] = VirtAddr::new(stacks::interrupt_top(cpu));
    let task = TASKS[cpu].call_once(|| task);
    let mut table = GlobalDescriptorTable::new();
    let code = table.append(Descriptor::kernel_code_segment());
    let data = table.append(Descriptor::kernel_data_segment());
    let tss = table.append(Descriptor::tss_segment(task));
    TABLES[cpu].call_once(|| table).load();
    // SAFETY: the code segment of the table that was just loaded.
    unsafe { CS::set_reg(code) };
    // SAFETY: its data segment.
    unsafe { SS::set_reg(data) };
    // SAFETY: as above.
    unsafe { DS::set_reg(data) };
    // SAFETY: as above.
    unsafe { ES::set_reg(data) };
    // SAFETY: its task state, whose stacks are this processor's.
    unsafe { load_tss(tss) };
    FsBase::write(VirtAddr::from_ptr(CANARY.0.get()));
    GsBase::write(VirtAddr::from_ptr(&raw const NUMBERS[cpu]));
}

/// Puts a random canary where the engine's C code looks for it. Before any C code runs.
pub fn set_canary(canary: u64) {
    let word: *mut u64 = CANARY.0.get().cast::<u64>().wrapping_add(CANARY_WORD);
    // SAFETY: within the page; no C code runs yet.
    unsafe { ptr::write_volatile(word, canary) };
}

/// The number of the processor that asks.
#[must_use]
pub fn current_cpu() -> usize {
    let number: u64;
    // SAFETY: GS base is this processor's number since `load`; a guest's GS is exchanged with it around its run.
    unsafe {
        core::arch::asm!("mov {}, gs:[0]", out(reg) number, options(nostack, readonly, preserves_flags));
    }
    memory::native(number)
}
