//! The instructions of SVM, and what else of the processor the layer touches for a guest.
//!
//! # Soundness
//! A guest runs between `vmload` and `vmsave` of its own block, in its own address space, and comes back to the instruction after
//! `vmrun` with the layer's stack, tables and segments as they were: VMRUN keeps some of them in the host save area, VMSAVE the rest in
//! a block of the layer. Everything else in a register is the guest's, is saved at once, and is only data. The x87, SSE and AVX
//! state is not touched at all: the layer is compiled without them, and the processor that runs the engine runs no guest. The nested
//! tables keep the layer's memory out of the guest's reach, so no Rust object changes while a guest runs.
//! The global interrupt flag is clear whenever a guest's processor is in the layer, but for the instruction in which
//! [`take_nmi`] lets a pending NMI in: its handler returns or halts.
//! Ports and MSRs are accessed for a guest only after `ports`, `msr` and `pci` have judged the access.

use super::emulate::Registers;
use super::vmcb::Vmcb;
use crate::boot::CPUS_MAX;
use crate::svm::cpuid::Leaf;
use core::arch::{asm, naked_asm, x86_64::__cpuid_count};
use core::cell::UnsafeCell;
use spin::{Mutex, MutexGuard};
use x86_64::instructions::port::Port;
use x86_64::registers::control::{Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::registers::model_specific::Msr;
use x86_64::registers::xcontrol::{XCr0, XCr0Flags};

/// VM_HSAVE_PA and VM_CR (AMD64 APM volume 2, section 15.30).
const VM_HSAVE_PA: u32 = 0xC001_0117;
const VM_CR: u32 = 0xC001_0114;
const VM_CR_SVMDIS: u64 = 1 << 4;

/// A page that only the processor reads and writes.
#[repr(C, align(4096))]
struct Page(UnsafeCell<[u8; 4096]>);
// SAFETY: no reference to its bytes is ever made.
unsafe impl Sync for Page {}

static HOST_SAVE: [Page; CPUS_MAX] = [const { Page(UnsafeCell::new([0; 4096])) }; CPUS_MAX];
static HOST_BLOCK: [Page; CPUS_MAX] = [const { Page(UnsafeCell::new([0; 4096])) }; CPUS_MAX];

/// One processor's guest.
#[repr(C, align(4096))]
#[derive(Debug)]
pub(super) struct Area {
    /// Its control block.
    pub(super) vmcb: Vmcb,
    /// Its general registers; RAX and RSP are copied from and to the block.
    pub(super) registers: Registers,
}

static AREAS: [Mutex<Area>; CPUS_MAX] =
    [const { Mutex::new(Area { vmcb: Vmcb::EMPTY, registers: Registers([0; 16]) }) }; CPUS_MAX];

/// A processor that can run a guest.
#[derive(Debug)]
pub(super) struct Processor {
    cpu: usize,
    /// What it runs.
    pub(super) area: &'static mut Area,
}

/// Why a processor runs no guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Unfit {
    /// Somebody has claimed it.
    Claimed = 1,
    /// It has no SVM, or it is switched off.
    NoSvm,
    /// It has no nested paging.
    NoNestedPaging,
    /// It has no pages of 1 GiB.
    NoLargePages,
}

impl Processor {
    /// Makes the calling processor, whose number is `cpu`, fit for a guest; its interrupts are held from now on.
    ///
    /// # Errors
    /// [`Unfit`].
    pub(super) fn claim(cpu: usize) -> Result<Self, Unfit> {
        check()?;
        let area = MutexGuard::leak(AREAS[cpu].try_lock().ok_or(Unfit::Claimed)?);
        // SAFETY: SVM is there and not switched off; enabling it changes nothing else.
        unsafe { Efer::update(|flags| flags.insert(EferFlags::SECURE_VIRTUAL_MACHINE_ENABLE)) };
        let mut save_area = Msr::new(VM_HSAVE_PA);
        // SAFETY: a page of this processor alone.
        unsafe { save_area.write(HOST_SAVE[cpu].0.get() as u64) };
        // SAFETY: as above; keeps what VMRUN does not.
        unsafe {
            asm!("clgi", "vmsave rax", in("rax") HOST_BLOCK[cpu].0.get(), options(nostack, preserves_flags))
        };
        Ok(Self { cpu, area })
    }

    /// Runs the guest until it exits.
    pub(super) fn run(&mut self) {
        let Area { vmcb, registers } = &mut *self.area;
        vmcb.save.rax = registers.0[0];
        vmcb.save.rsp = registers.0[4];
        // SAFETY: both blocks are this processor's; the guest's was fenced. See the essay.
        unsafe { enter(registers, vmcb, HOST_BLOCK[self.cpu].0.get().cast()) };
        registers.0[0] = vmcb.save.rax;
        registers.0[4] = vmcb.save.rsp;
        vmcb.left();
    }
}

fn check() -> Result<(), Unfit> {
    let features = raw_cpuid(0x8000_0001, 0);
    if features.ecx & 1 << 2 == 0 {
        return Err(Unfit::NoSvm);
    }
    // SAFETY: a processor with SVM has this register.
    let switched_off = unsafe { Msr::new(VM_CR).read() } & VM_CR_SVMDIS != 0;
    if switched_off {
        return Err(Unfit::NoSvm);
    }
    if raw_cpuid(0x8000_000A, 0).edx & 1 == 0 {
        return Err(Unfit::NoNestedPaging);
    }
    if features.edx & 1 << 26 == 0 { Err(Unfit::NoLargePages) } else { Ok(()) }
}

/// Enters the guest of `guest` with `registers`, and comes back at its next exit.
///
/// # Safety
/// The blocks are valid and this processor's; `host` was written by VMSAVE on it.
#[unsafe(naked)]
unsafe extern "sysv64" fn enter(registers: *mut Registers, guest: *mut Vmcb, host: *mut u8) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "push rdx",
        "mov rax, rsi",
        "mov rcx, [rdi + 0x08]",
        "mov rdx, [rdi + 0x10]",
        "mov rbx, [rdi + 0x18]",
        "mov rbp, [rdi + 0x28]",
        "mov rsi, [rdi + 0x30]",
        "mov r8, [rdi + 0x40]",
        "mov r9, [rdi + 0x48]",
        "mov r10, [rdi + 0x50]",
        "mov r11, [rdi + 0x58]",
        "mov r12, [rdi + 0x60]",
        "mov r13, [rdi + 0x68]",
        "mov r14, [rdi + 0x70]",
        "mov r15, [rdi + 0x78]",
        "mov rdi, [rdi + 0x38]",
        "vmload rax",
        "vmrun rax",
        // RAX and RSP are the layer's again.
        "vmsave rax",
        "pop rax",
        "vmload rax",
        "pop rax",
        "mov [rax + 0x08], rcx",
        "mov [rax + 0x10], rdx",
        "mov [rax + 0x18], rbx",
        "mov [rax + 0x28], rbp",
        "mov [rax + 0x30], rsi",
        "mov [rax + 0x38], rdi",
        "mov [rax + 0x40], r8",
        "mov [rax + 0x48], r9",
        "mov [rax + 0x50], r10",
        "mov [rax + 0x58], r11",
        "mov [rax + 0x60], r12",
        "mov [rax + 0x68], r13",
        "mov [rax + 0x70], r14",
        "mov [rax + 0x78], r15",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "cld",
        "ret",
    )
}

/// Lets a pending NMI in, for one moment.
pub(super) fn take_nmi() {
    // SAFETY: interrupts proper stay off; the NMI's handler returns or halts.
    unsafe { asm!("stgi", "nop", "nop", "clgi", options(nostack)) };
}

/// Puts x87, SSE and AVX state into the state after power-on: nothing of the layer's reaches a guest that begins.
pub(super) fn clean_vector_state() {
    let has_xsave = raw_cpuid(1, 0).ecx & 1 << 26 != 0;
    let has_avx = raw_cpuid(1, 0).ecx & 1 << 28 != 0;
    if has_xsave {
        // SAFETY: the feature is there; the layer itself uses none of this state here.
        unsafe { Cr4::update(|flags| flags.insert(Cr4Flags::OSXSAVE)) };
        if has_avx {
            // SAFETY: these three states exist.
            unsafe { XCr0::write(XCr0Flags::X87 | XCr0Flags::SSE | XCr0Flags::AVX) };
            // SAFETY: AVX was just enabled, and no Rust code holds a value in these registers.
            unsafe { asm!("vzeroall", options(nomem, nostack, preserves_flags)) };
        }
        // SAFETY: the state after power-on.
        unsafe { XCr0::write(XCr0Flags::X87) };
        // SAFETY: as the layer's other processors have it.
        unsafe { Cr4::update(|flags| flags.remove(Cr4Flags::OSXSAVE)) };
    }
    // SAFETY: SSE is enabled since the entry, and no Rust code holds a value in these registers.
    unsafe {
        asm!(
            "fninit",
            "push 0x1F80",
            "ldmxcsr [rsp]",
            "pop rax",
            "xorps xmm0, xmm0",
            "xorps xmm1, xmm1",
            "xorps xmm2, xmm2",
            "xorps xmm3, xmm3",
            "xorps xmm4, xmm4",
            "xorps xmm5, xmm5",
            "xorps xmm6, xmm6",
            "xorps xmm7, xmm7",
            "xorps xmm8, xmm8",
            "xorps xmm9, xmm9",
            "xorps xmm10, xmm10",
            "xorps xmm11, xmm11",
            "xorps xmm12, xmm12",
            "xorps xmm13, xmm13",
            "xorps xmm14, xmm14",
            "xorps xmm15, xmm15",
            out("rax") _,
        );
    }
}

/// Writes back and empties the caches.
pub(super) fn write_back_caches() {
    // SAFETY: changes no memory.
    unsafe { asm!("wbinvd", options(nostack, preserves_flags)) };
}

/// What the processor says of itself.
#[must_use]
pub(super) fn raw_cpuid(leaf: u32, subleaf: u32) -> Leaf {
    let found = __cpuid_count(leaf, subleaf);
    Leaf { eax: found.eax, ebx: found.ebx, ecx: found.ecx, edx: found.edx }
}

/// Reads one of the registers that `msr` lists as true: every processor with SVM has them.
#[must_use]
pub(super) fn read_msr(register: u32) -> u64 {
    // SAFETY: reading changes nothing; the caller passes only registers that exist.
    unsafe { Msr::new(register).read() }
}

/// Reads a port.
#[must_use]
pub(super) fn port_in(port: u16, bytes: u8) -> u32 {
    match bytes {
        // SAFETY: judged by `ports` or `pci`.
        1 => unsafe { Port::<u8>::new(port).read() }.into(),
        // SAFETY: as above.
        2 => unsafe { Port::<u16>::new(port).read() }.into(),
        // SAFETY: as above.
        _ => unsafe { Port::<u32>::new(port).read() },
    }
}

/// Writes a port.
pub(super) fn port_out(port: u16, bytes: u8, value: u32) {
    let [first, second, ..] = value.to_le_bytes();
    match bytes {
        // SAFETY: judged by `ports` or `pci`.
        1 => unsafe { Port::<u8>::new(port).write(first) },
        // SAFETY: as above.
        2 => unsafe { Port::<u16>::new(port).write(u16::from_le_bytes([first, second])) },
        // SAFETY: as above.
        _ => unsafe { Port::<u32>::new(port).write(value) },
    }
}

/// Sets bits of one byte of a guest's memory in one step.
///
/// # Safety
/// `address` is mapped, and lies in no Rust object.
pub(super) unsafe fn set_bits(address: usize, bits: u8) {
    let at: *mut u8 = core::ptr::with_exposed_provenance_mut(address);
    // SAFETY: by this function's contract; whoever else writes there does so by whole accesses of the processor.
    unsafe { asm!("lock or byte ptr [{}], {}", in(reg) at, in(reg_byte) bits, options(nostack)) };
}
