//! The one way to die.
//!
//! Whoever stops first says why, calls every other processor to a halt, wipes everything that may hold a secret, tells a debugger's
//! exit port whose fault it was (QEMU's `isa-debug-exit` at 0xF4; nothing happens where none is), and halts. Nothing leads back. Where the
//! guest switches the machine off, its own write to the power management block stands in place of that port.
//!
//! # Soundness
//! Wiping runs on a stack of its own in assembly, when the other processors have said that they halted, or have had their time. It
//! goes back to the entry's page tables, in which the guards between stacks do not fault, overwrites statics that Rust believes to be its own, and never returns to Rust code that could see that.

use crate::boot::{LocalApic, cpus};
use crate::console;
use crate::memory::SECRETS_PAGE;
use core::arch::{asm, global_asm};
use core::hint::spin_loop;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use husk::fault::Fault;

/// Why the machine stops. The number is the code on the console, in the upper byte the family (`husk::fault::Family`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stop {
    /// An orderly end: power-off.
    Ended = 0,
    /// The loader's start information is not sound.
    BootInfo = 0x0200_0001,
    /// The loader gave nothing to run.
    NoPayload = 0x0200_0002,
    /// The machine has no ACPI tables.
    NoAcpi = 0x0200_0003,
    /// The power management timer stands still.
    NoTimer = 0x0200_0004,
    /// The local APIC has no registers in memory.
    NoApic = 0x0200_0005,
    /// The machine's tables do not say which processors there are, or list more than the layer has room for.
    ProcessorsUnknown = 0x0200_0006,
    /// A processor that is listed did not start.
    ProcessorSilent = 0x0200_0007,
    /// The page that other processors start in is not memory.
    NoTrampoline = 0x0200_0008,
    /// The processor's generator of randomness is missing, silent or unhealthy.
    NoEntropy = 0x0200_0009,
    /// The processor lacks something: the code says what.
    Processor = 0x0200_000A,
    /// A device could reach the layer's memory, and nothing keeps it from doing so.
    Device = 0x0200_000B,
    /// The engine asked for something that no image has; the text names it.
    Trapped = 0x0500_0001,
    /// The engine could not be set up.
    Engine = 0x0500_0002,
    /// A processor took an exception: vector, where, address or error code.
    Exception = 0x0600_0001,
    /// A defect; the code says where.
    Bug = 0x0600_0002,
}

impl Stop {
    /// Static text for the console.
    const fn text(self) -> &'static str {
        match self {
            Self::Ended => "husk: ended",
            Self::BootInfo => "husk: stopped: the loader's start information is not sound",
            Self::NoPayload => "husk: stopped: there is nothing to run",
            Self::NoAcpi => "husk: stopped: the machine has no ACPI tables",
            Self::NoTimer => "husk: stopped: the power management timer stands still",
            Self::NoApic => "husk: stopped: no local APIC in memory",
            Self::ProcessorsUnknown => "husk: stopped: the machine's processors are unknown or too many",
            Self::ProcessorSilent => "husk: stopped: a processor did not start",
            Self::NoTrampoline => "husk: stopped: no memory below 1 MiB to start processors in",
            Self::NoEntropy => "husk: stopped: no healthy entropy",
            Self::Processor => "husk: stopped: the processor lacks a feature",
            Self::Device => "husk: stopped: a device could reach the layer",
            Self::Trapped => "husk: stopped: the engine asked for what no image has",
            Self::Engine => "husk: stopped: the engine could not be set up",
            Self::Exception => "husk: stopped: exception",
            Self::Bug => "husk: stopped: a defect",
        }
    }

    /// What the exit port is told: the family, or 0x10 for an orderly end.
    const fn farewell(self) -> Farewell {
        Farewell { port: EXIT_PORT, word: self.word() }
    }

    const fn word(self) -> u16 {
        match self as u32 >> 24 {
            0 => 0x10,
            family => u16::from_le_bytes([family.to_le_bytes()[0], 0]),
        }
    }
}

/// QEMU's `isa-debug-exit` as the launcher places it.
const EXIT_PORT: u16 = 0xF4;
/// How often the others are counted before the wiping begins without them.
const POLLS_MAX: u32 = 50_000_000;

static STOPPING: AtomicBool = AtomicBool::new(false);
/// A bit for each processor that halted: one that did so of its own accord is interrupted all the same, and says it twice.
static HALTED: AtomicU32 = AtomicU32::new(0);

global_asm!(
    ".pushsection .bss.husk_stop,\"aw\",@nobits",
    ".balign 16",
    "husk_stop_stack: .zero 4096",
    "husk_stop_stack_end:",
    ".popsection",
    ".pushsection .text.husk_stop,\"ax\",@progbits",
    // edi: the port that is told, esi: what.
    ".globl husk_wipe_and_halt",
    "husk_wipe_and_halt:",
    "mov edx, edi",
    "mov ebx, esi",
    "lea rsp, [rip + husk_stop_stack_end]",
    "lea rax, [rip + husk_early_root]",
    "mov cr3, rax",
    "lea rdi, [rip + husk_secrets_start]",
    "lea rcx, [rip + husk_secrets_end]",
    "sub rcx, rdi",
    "shr rcx, 3",
    "xor eax, eax",
    "cld",
    "rep stosq",
    "mov edi, {page}",
    "mov ecx, {words}",
    "rep stosq",
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "xorps xmm\\n, xmm\\n",
    ".endr",
    "fninit",
    "xor ecx, ecx",
    "xor esi, esi",
    "xor ebp, ebp",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "xor r10d, r10d",
    "xor r11d, r11d",
    "xor r12d, r12d",
    "xor r13d, r13d",
    "xor r14d, r14d",
    "xor r15d, r15d",
    "mov eax, ebx",
    "out dx, ax",
    "2: cli",
    "hlt",
    "jmp 2b",
    ".popsection",
    page = const SECRETS_PAGE.start,
    words = const (SECRETS_PAGE.end - SECRETS_PAGE.start) / 8,
);

unsafe extern "C" {
    fn husk_wipe_and_halt(port: u32, word: u32) -> !;
}

/// Stops the machine: says why, with a code, wipes, halts every processor.
pub fn stop(reason: Stop, code: u32) -> ! {
    let codes = &[u64::from(reason as u32), u64::from(code)];
    end(Last { text: reason.text(), codes, name: None, farewell: reason.farewell() })
}

/// Stops the machine for a fault of the component, or of the firmware's own boxes: the code is the fault's.
pub fn stop_for(fault: Fault) -> ! {
    let [family, ..] = fault.code().to_be_bytes();
    let farewell = Farewell { port: EXIT_PORT, word: family.into() };
    end(Last { text: fault.means(), codes: &[u64::from(fault.code())], name: None, farewell })
}

/// Stops the machine because the engine called `name`.
pub fn stop_naming(reason: Stop, name: &'static str) -> ! {
    let codes = &[u64::from(reason as u32)];
    end(Last { text: reason.text(), codes, name: Some(name), farewell: reason.farewell() })
}

/// Stops the machine with what an exception left.
pub(crate) fn stop_at(reason: Stop, codes: [u64; 3]) -> ! {
    let codes = &[u64::from(reason as u32), codes[0], codes[1], codes[2]];
    end(Last { text: reason.text(), codes, name: None, farewell: reason.farewell() })
}

/// Whether somebody stops the machine: svm looks at this whenever a guest's processor comes back to the layer.
#[must_use]
pub fn is_stopping() -> bool {
    STOPPING.load(Ordering::Acquire)
}

/// Halts this processor for good, if somebody stops the machine.
pub fn halt_if_stopping() {
    if is_stopping() {
        halt()
    }
}

/// Stops the machine because its guest switches it off, by this write.
pub(crate) fn power_off(farewell: Farewell) -> ! {
    end(Last { text: Stop::Ended.text(), codes: &[], name: None, farewell })
}

/// A word for a port, written last of all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Farewell {
    pub(crate) port: u16,
    pub(crate) word: u16,
}

/// What is said at the end, and to whom.
struct Last<'c> {
    text: &'static str,
    codes: &'c [u64],
    name: Option<&'static str>,
    farewell: Farewell,
}

fn end(last: Last<'_>) -> ! {
    if STOPPING.swap(true, Ordering::AcqRel) {
        // Another processor does it, or this very one was interrupted at it: then there is nothing more to say.
        halt()
    }
    console::last_line(last.text, last.codes);
    if let Some(name) = last.name {
        console::last_line(name, &[]);
    }
    halt_others();
    // SAFETY: nothing of this processor's state is needed any more, and nobody else runs.
    unsafe { husk_wipe_and_halt(last.farewell.port.into(), last.farewell.word.into()) }
}

fn halt_others() {
    let others = u32::try_from(cpus::count() - 1).unwrap_or(u32::MAX);
    if others == 0 {
        return;
    }
    if let Some(mut apic) = LocalApic::own() {
        // Whether the call was heard is seen by counting.
        if !apic.nmi_all_others() {
            console::last_line("husk: a processor does not take interrupts", &[]);
        }
    }
    for _ in 0..POLLS_MAX {
        if HALTED.load(Ordering::Acquire).count_ones() >= others {
            return;
        }
        spin_loop();
    }
    console::last_line("husk: a processor did not halt", &[]);
}

fn halt() -> ! {
    let own = LocalApic::own().map(|apic| apic.id());
    if let Some(cpu) = cpus::ids().iter().position(|id| Some(*id) == own) {
        HALTED.fetch_or(1 << cpu, Ordering::AcqRel);
    }
    loop {
        // SAFETY: waits with interrupts off; only a reset ends it.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

#[panic_handler]
fn panicked(info: &PanicInfo<'_>) -> ! {
    stop(Stop::Bug, info.location().map_or(0, core::panic::Location::line))
}
