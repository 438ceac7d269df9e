//! What interrupts a processor.
//!
//! The layer runs with interrupts off. An exception is a defect or broken silicon: the machine stops. The one thing that
//! comes and goes is the non-maskable interrupt, by which processors stop one another and svm pulls a guest's
//! processor out; it finds every register, SSE state included, as it left it. A timer's interrupt comes only where a processor halts
//! and asks for it (`rest`).
//!
//! SSE state is saved register by register, and x87 state not at all, since nothing that runs here touches it. FXRSTOR would do both, but
//! under QEMU 7.2 it also changes a word of the first processor's without a lock (IGNNE#, `cpu_clear_ignne`), by which that one may lose its
//! nested paging if it enters or leaves its guest at the same instant.
//!
//! # Soundness
//! Every vector enters through a stub of its own on a stack of its own (IST), so that it neither writes into a red zone of C code
//! nor needs a stack that may have overflowed; but for the timer's, during which a non-maskable interrupt may come, and which only
//! interrupts `husk_rest_until`, whose caller has no red zone. `husk_exception` gets a pointer to the saved registers, exclusive while it runs.

use super::segments::{FAULT_STACK, INTERRUPT_STACK};
use super::{LocalApic, rest};
use crate::stop::{self, Stop};
use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use spin::Once;
use x86_64::VirtAddr;
use x86_64::registers::control::Cr2;
use x86_64::structures::idt::{Entry, InterruptDescriptorTable};

/// Exceptions that push no error code have a zero pushed, so that all frames are alike.
const STUB_BYTES: u64 = 16;
const VECTOR_NMI: u64 = 2;
const VECTOR_PAGE_FAULT: u64 = 14;
/// The first vector that is no exception (AMD64 24593, 8.2).
pub(super) const VECTOR_TIMER: u8 = 32;

global_asm!(
    ".pushsection .text.husk_exceptions,\"ax\",@progbits",
    ".balign 16",
    "husk_exception_stubs:",
    ".set husk_vector, 0",
    ".rept 33",
    ".balign 16",
    // Vectors 8, 10 to 14, 17, 21, 29 and 30 push an error code.
    ".if (0x60227D00 >> husk_vector) & 1",
    ".else",
    "push 0",
    ".endif",
    "push husk_vector",
    "jmp husk_exception_entry",
    ".set husk_vector, husk_vector + 1",
    ".endr",
    "husk_exception_entry:",
    "push rax",
    "push rbx",
    "push rcx",
    "push rdx",
    "push rsi",
    "push rdi",
    "push rbp",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "cld",
    "mov rdi, rsp",
    "mov rbx, rsp",
    "sub rsp, 272",
    "and rsp, -64",
    "stmxcsr [rsp + 256]",
    ".irp husk_register, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "movaps [rsp + 16 * \\husk_register], xmm\\husk_register",
    ".endr",
    "call husk_exception",
    ".irp husk_register, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "movaps xmm\\husk_register, [rsp + 16 * \\husk_register]",
    ".endr",
    "ldmxcsr [rsp + 256]",
    "mov rsp, rbx",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rbp",
    "pop rdi",
    "pop rsi",
    "pop rdx",
    "pop rcx",
    "pop rbx",
    "pop rax",
    "add rsp, 16",
    "iretq",
    ".popsection",
);

unsafe extern "C" {
    static husk_exception_stubs: u8;
}

/// What the stubs leave on the stack.
#[repr(C)]
struct Frame {
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    flags: u64,
    rsp: u64,
    ss: u64,
}

static TABLE: Once<InterruptDescriptorTable> = Once::new();

/// Loads the table of exceptions, which all processors share.
pub(super) fn load() {
    TABLE.call_once(table).load();
}

fn table() -> InterruptDescriptorTable {
    let mut table = InterruptDescriptorTable::new();
    let stubs = &raw const husk_exception_stubs as u64;
    let at = |vector: u64| VirtAddr::new(stubs + vector * STUB_BYTES);
    macro_rules! handle {
        ($($entry:ident = $vector:literal),+) => {$( fault(&mut table.$entry, at($vector)); )+};
    }
    handle!(
        divide_error = 0,
        debug = 1,
        breakpoint = 3,
        overflow = 4,
        bound_range_exceeded = 5,
        invalid_opcode = 6,
        device_not_available = 7,
        double_fault = 8,
        invalid_tss = 10,
        segment_not_present = 11,
        stack_segment_fault = 12,
        general_protection_fault = 13,
        page_fault = 14,
        x87_floating_point = 16,
        alignment_check = 17,
        machine_check = 18,
        simd_floating_point = 19,
        virtualization = 20,
        cp_protection_exception = 21,
        hv_injection_exception = 28,
        vmm_communication_exception = 29,
        security_exception = 30
    );
    // SAFETY: the stub for this vector.
    let options = unsafe { table.non_maskable_interrupt.set_handler_addr(at(VECTOR_NMI)) };
    // SAFETY: every processor's task state has this stack.
    unsafe { options.set_stack_index(INTERRUPT_STACK) };
    // SAFETY: the stub for this vector.
    unsafe { table[VECTOR_TIMER].set_handler_addr(at(VECTOR_TIMER.into())) };
    table
}

fn fault<F>(entry: &mut Entry<F>, stub: VirtAddr) {
    // SAFETY: the stub that the vector's number names.
    let options = unsafe { entry.set_handler_addr(stub) };
    // SAFETY: every processor's task state has this stack.
    unsafe { options.set_stack_index(FAULT_STACK) };
}

static NMIS: AtomicU32 = AtomicU32::new(0);

/// How many non-maskable interrupts the layer has taken.
#[must_use]
pub fn nmis() -> u32 {
    NMIS.load(Relaxed)
}

/// # Safety
/// Called by the stubs only, with their frame.
#[unsafe(no_mangle)]
unsafe extern "C" fn husk_exception(frame: *mut Frame) {
    // SAFETY: by this function's contract.
    let frame = unsafe { &mut *frame };
    if frame.vector == VECTOR_NMI {
        NMIS.fetch_add(1, Relaxed);
        stop::halt_if_stopping();
        frame.rip = rest::past_halt(frame.rip);
        return;
    }
    if frame.vector == u64::from(VECTOR_TIMER) {
        if let Some(mut apic) = LocalApic::own() {
            apic.end_interrupt();
        }
        return;
    }
    let at = if frame.vector == VECTOR_PAGE_FAULT { Cr2::read_raw() } else { frame.error };
    stop::stop_at(Stop::Exception, [frame.vector, frame.rip, at])
}
