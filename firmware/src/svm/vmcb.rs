//! The virtual machine control block (AMD64 Architecture Programmer's Manual, volume 2, appendix B).
//!
//! Every field that the layer uses has its name from tables B-1 and B-2, and its offset is checked while compiling.

use core::mem::{offset_of, size_of};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

bitflags::bitflags! {
    /// Intercepts of the vector at 0x00C (table B-1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Intercepts1: u32 {
        /// Physical NMI: how one processor pulls another out of its guest.
        const NMI = 1 << 1;
        /// Physical SMI.
        const SMI = 1 << 2;
        /// Physical INIT.
        const INIT = 1 << 3;
        /// CPUID instruction.
        const CPUID = 1 << 18;
        /// RSM instruction.
        const RSM = 1 << 19;
        /// IRET instruction: while the guest handles an NMI.
        const IRET = 1 << 20;
        /// INVD instruction: it would drop what the layer has not written back yet.
        const INVD = 1 << 22;
        /// INVLPGA instruction.
        const INVLPGA = 1 << 26;
        /// Ports that the I/O permission map marks.
        const IOIO_PROT = 1 << 27;
        /// MSRs that the MSR permission map marks.
        const MSR_PROT = 1 << 28;
        /// Shutdown: a triple fault.
        const SHUTDOWN = 1 << 31;
    }

    /// Intercepts of the vector at 0x010 (table B-1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Intercepts2: u32 {
        /// VMRUN: the processor insists on it.
        const VMRUN = 1 << 0;
        /// VMMCALL.
        const VMMCALL = 1 << 1;
        /// VMLOAD.
        const VMLOAD = 1 << 2;
        /// VMSAVE.
        const VMSAVE = 1 << 3;
        /// STGI.
        const STGI = 1 << 4;
        /// CLGI.
        const CLGI = 1 << 5;
        /// SKINIT.
        const SKINIT = 1 << 6;
    }
}

/// What the guest always leaves for: see the table of traps in the handbook's page `image`.
pub const INTERCEPTS_1: Intercepts1 = Intercepts1::NMI
    .union(Intercepts1::SMI)
    .union(Intercepts1::INIT)
    .union(Intercepts1::CPUID)
    .union(Intercepts1::RSM)
    .union(Intercepts1::INVD)
    .union(Intercepts1::INVLPGA)
    .union(Intercepts1::IOIO_PROT)
    .union(Intercepts1::MSR_PROT)
    .union(Intercepts1::SHUTDOWN);

/// All instructions of SVM itself.
pub const INTERCEPTS_2: Intercepts2 = Intercepts2::all();

/// TLB_CONTROL: flush nothing, or everything (table B-1).
const FLUSH_NOTHING: u8 = 0;
const FLUSH_ALL: u8 = 1;

/// EFER.SVME (volume 2, section 3.1.7): set in every VMCB, or VMRUN fails.
pub const EFER_SVME: u64 = 1 << 12;
/// EFER.LMA: long mode is active.
pub const EFER_LMA: u64 = 1 << 10;

/// The control area.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Control {
    cr: [u16; 2],
    dr: [u16; 2],
    exceptions: u32,
    intercepts_1: u32,
    intercepts_2: u32,
    intercepts_3: u32,
    reserved_1: [u32; 9],
    pause_filter: [u16; 2],
    iopm_base: u64,
    msrpm_base: u64,
    tsc_offset: u64,
    asid: u32,
    tlb_control: u8,
    reserved_2: [u8; 3],
    virtual_interrupt: u64,
    interrupt_shadow: u64,
    exit_code: u64,
    exit_info_1: u64,
    exit_info_2: u64,
    exit_int_info: u64,
    nested_control: u64,
    avic_apic_bar: u64,
    ghcb: u64,
    event_injection: u64,
    nested_cr3: u64,
    lbr_control: u64,
    clean_bits: u64,
    next_rip: u64,
    bytes_fetched: u8,
    instruction: [u8; 15],
    reserved_3: [u64; 100],
}

/// A segment register with its hidden part (table B-2): attributes are bits 55:52 and 47:40 of the descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Attributes, packed into twelve bits.
    pub attributes: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Linear base address.
    pub base: u64,
}

impl Segment {
    /// Attribute L: 64-bit code.
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.attributes & 1 << 9 != 0
    }

    /// Attribute D/B: 32-bit code.
    #[must_use]
    pub const fn is_big(&self) -> bool {
        self.attributes & 1 << 10 != 0
    }
}

/// The state save area (table B-2).
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Save {
    /// ES, CS, SS, DS, FS and GS, in the order of their encoding.
    pub segments: [Segment; 6],
    /// GDTR.
    pub gdtr: Segment,
    /// LDTR.
    pub ldtr: Segment,
    /// IDTR.
    pub idtr: Segment,
    /// TR.
    pub tr: Segment,
    reserved_1: [u8; 43],
    /// Current privilege level.
    pub cpl: u8,
    reserved_2: u32,
    /// EFER; SVME is always set.
    pub efer: u64,
    reserved_3: [u64; 14],
    /// CR4.
    pub cr4: u64,
    /// CR3.
    pub cr3: u64,
    /// CR0.
    pub cr0: u64,
    /// DR7.
    pub dr7: u64,
    /// DR6.
    pub dr6: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// RIP.
    pub rip: u64,
    reserved_4: [u64; 11],
    /// RSP.
    pub rsp: u64,
    reserved_5: [u64; 3],
    /// RAX.
    pub rax: u64,
    /// STAR, LSTAR, CSTAR, SFMASK, KernelGsBase, SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP.
    pub system: [u64; 8],
    /// CR2.
    pub cr2: u64,
    reserved_6: [u64; 4],
    /// PAT of the guest.
    pub g_pat: u64,
    /// DEBUGCTL.
    pub debug_control: u64,
    reserved_7: [u64; 0x131],
}

/// A whole control block: one page.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
pub struct Vmcb {
    /// What the processor is told, and what it tells.
    pub control: Control,
    /// The guest's state.
    pub save: Save,
}

const _: () = {
    assert!(size_of::<Vmcb>() == 4096);
    assert!(offset_of!(Vmcb, save) == 0x400);
    assert!(offset_of!(Control, intercepts_1) == 0x00C);
    assert!(offset_of!(Control, iopm_base) == 0x040);
    assert!(offset_of!(Control, msrpm_base) == 0x048);
    assert!(offset_of!(Control, asid) == 0x058);
    assert!(offset_of!(Control, tlb_control) == 0x05C);
    assert!(offset_of!(Control, interrupt_shadow) == 0x068);
    assert!(offset_of!(Control, exit_code) == 0x070);
    assert!(offset_of!(Control, exit_int_info) == 0x088);
    assert!(offset_of!(Control, nested_control) == 0x090);
    assert!(offset_of!(Control, event_injection) == 0x0A8);
    assert!(offset_of!(Control, nested_cr3) == 0x0B0);
    assert!(offset_of!(Control, clean_bits) == 0x0C0);
    assert!(offset_of!(Control, bytes_fetched) == 0x0D0);
    assert!(offset_of!(Save, gdtr) == 0x060);
    assert!(offset_of!(Save, tr) == 0x090);
    assert!(offset_of!(Save, cpl) == 0x0CB);
    assert!(offset_of!(Save, efer) == 0x0D0);
    assert!(offset_of!(Save, cr4) == 0x148);
    assert!(offset_of!(Save, rip) == 0x178);
    assert!(offset_of!(Save, rsp) == 0x1D8);
    assert!(offset_of!(Save, rax) == 0x1F8);
    assert!(offset_of!(Save, cr2) == 0x240);
    assert!(offset_of!(Save, g_pat) == 0x268);
    assert!(offset_of!(Save, debug_control) == 0x270);
};

/// Physical addresses of what a guest runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fences {
    /// I/O permission map: three pages.
    pub iopm: u64,
    /// MSR permission map: two pages.
    pub msrpm: u64,
    /// Root of the nested page tables.
    pub nested_cr3: u64,
}

/// Why a guest left (appendix C, table C-1), as far as the layer asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A physical NMI waits.
    Nmi,
    /// A physical SMI waits.
    Smi,
    /// A physical INIT waits.
    Init,
    /// CPUID.
    Cpuid,
    /// IRET: the end of an NMI's handler is near.
    Iret,
    /// INVD.
    Invd,
    /// A guarded port.
    Port,
    /// A guarded MSR.
    Msr,
    /// A triple fault.
    Shutdown,
    /// VMMCALL.
    Vmmcall,
    /// RSM, or an instruction of SVM: undefined in this guest.
    Undefined,
    /// A nested page fault.
    NestedFault,
    /// The processor refused the control block, or an exit that nobody asked for.
    Other(u64),
}

impl Exit {
    /// Reads an exit code.
    #[must_use]
    pub const fn of(code: u64) -> Self {
        match code {
            0x061 => Self::Nmi,
            0x062 => Self::Smi,
            0x063 => Self::Init,
            0x072 => Self::Cpuid,
            0x074 => Self::Iret,
            0x076 => Self::Invd,
            0x07B => Self::Port,
            0x07C => Self::Msr,
            0x07F => Self::Shutdown,
            0x081 => Self::Vmmcall,
            0x073 | 0x07A | 0x080 | 0x082..=0x086 => Self::Undefined,
            0x400 => Self::NestedFault,
            other => Self::Other(other),
        }
    }
}

/// An event for the guest (volume 2, section 15.20).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// NMI.
    Nmi,
    /// #UD.
    InvalidOpcode,
    /// #GP(0).
    GeneralProtection,
    /// #PF with this error code; CR2 is the caller's to set.
    PageFault(u32),
}

impl Event {
    const fn bits(self) -> u64 {
        let valid = 1 << 31;
        let kind_nmi = 2 << 8;
        let kind_exception = 3 << 8;
        let has_code = 1 << 11;
        match self {
            Self::Nmi => valid | kind_nmi | 2,
            Self::InvalidOpcode => valid | kind_exception | 6,
            Self::GeneralProtection => valid | kind_exception | has_code | 13,
            Self::PageFault(code) => valid | kind_exception | has_code | 14 | (code as u64) << 32,
        }
    }
}

impl Vmcb {
    /// An empty block.
    pub const EMPTY: Self = zerocopy::transmute!([0u64; 512]);

    /// Starts anew: everything that may be said of a guest is forgotten, the fences stand.
    pub fn fence(&mut self, fences: &Fences, asid: u32) {
        self.zero();
        self.control.intercepts_1 = INTERCEPTS_1.bits();
        self.control.intercepts_2 = INTERCEPTS_2.bits();
        self.control.iopm_base = fences.iopm;
        self.control.msrpm_base = fences.msrpm;
        self.control.asid = asid;
        self.control.tlb_control = FLUSH_ALL;
        self.control.nested_control = 1;
        self.control.nested_cr3 = fences.nested_cr3;
    }

    /// Why the guest left.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        Exit::of(self.control.exit_code)
    }

    /// EXITINFO1 and EXITINFO2.
    #[must_use]
    pub const fn exit_info(&self) -> (u64, u64) {
        (self.control.exit_info_1, self.control.exit_info_2)
    }

    /// To be called first after every exit: what was to be flushed is flushed, nothing is cached of this block, and an event
    /// whose delivery was cut short by the exit is delivered again (volume 2, section 15.7.2).
    pub const fn left(&mut self) {
        self.control.tlb_control = FLUSH_NOTHING;
        self.control.clean_bits = 0;
        let cut_short = self.control.exit_int_info;
        if cut_short & 1 << 31 != 0 {
            self.control.event_injection = cut_short;
            self.control.exit_int_info = 0;
        }
    }

    /// Where the next instruction begins, if the processor says so.
    #[must_use]
    pub const fn next_rip(&self) -> Option<u64> {
        match self.control.next_rip {
            0 => None,
            rip => Some(rip),
        }
    }

    /// Makes the guest's time-stamp counter `value` where the processor's is `now`.
    pub const fn set_tsc(&mut self, value: u64, now: u64) {
        self.control.tsc_offset = value.wrapping_sub(now);
    }

    /// Forgets cached translations of this guest at the next entry.
    pub const fn flush(&mut self) {
        self.control.tlb_control = FLUSH_ALL;
    }

    /// Delivers `event` at the next entry, in place of whatever was being delivered. An injected NMI does not hold the next one back, as
    /// the processor's own would until IRET: the guest leaves at IRET, and [`Vmcb::holds_nmi`] till then.
    pub const fn inject(&mut self, event: Event) {
        self.control.event_injection = event.bits();
        if let Event::Nmi = event {
            self.control.intercepts_1 |= Intercepts1::IRET.bits();
        }
    }

    /// Whether the guest handles an NMI: the next one waits.
    #[must_use]
    pub const fn holds_nmi(&self) -> bool {
        self.control.intercepts_1 & Intercepts1::IRET.bits() != 0
    }

    /// The guest is at the IRET of an NMI's handler: it leaves for none any more, and the next NMI may come. It comes before that IRET, where
    /// the processor's own would come behind it.
    pub const fn release_nmi(&mut self) {
        self.control.intercepts_1 &= !Intercepts1::IRET.bits();
    }

    /// Whether an event is already on its way to the guest.
    #[must_use]
    pub const fn is_injecting(&self) -> bool {
        self.control.event_injection & 1 << 31 != 0
    }

    /// The instruction at RIP is done: goes to `rip`.
    pub const fn advance_to(&mut self, rip: u64) {
        self.save.rip = rip;
        self.control.interrupt_shadow = 0;
    }

    /// The instruction of that many bytes is done.
    pub const fn advance(&mut self, bytes: u64) {
        let next = self.save.rip.wrapping_add(bytes);
        self.advance_to(if self.save.segments[1].is_long() { next } else { next & 0xFFFF_FFFF });
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, Exit, Fences, Intercepts1, Vmcb};
    use std::boxed::Box;

    const FENCES: Fences = Fences { iopm: 0x1000, msrpm: 0x4000, nested_cr3: 0x6000 };

    #[test]
    fn a_fenced_block_keeps_nothing_of_the_guest_before() {
        let mut vmcb = Box::new(Vmcb::EMPTY);
        vmcb.save.rax = 7;
        vmcb.save.efer = u64::MAX;
        vmcb.inject(Event::Nmi);
        vmcb.fence(&FENCES, 1);
        assert_eq!((vmcb.save.rax, vmcb.save.efer, vmcb.is_injecting()), (0, 0, false));
        assert_eq!(vmcb.control.nested_cr3, 0x6000);
        assert_eq!(vmcb.control.intercepts_2, 0x7F, "VMRUN to SKINIT");
    }

    #[test]
    fn an_event_that_an_exit_cut_short_is_delivered_again() {
        let mut vmcb = Box::new(Vmcb::EMPTY);
        vmcb.control.exit_int_info = 1 << 31 | 0x30;
        vmcb.left();
        assert!(vmcb.is_injecting());
        assert_eq!(vmcb.control.event_injection & 0xFF, 0x30);
    }

    #[test]
    fn one_nmi_is_handled_at_a_time() {
        let mut vmcb = Box::new(Vmcb::EMPTY);
        vmcb.fence(&FENCES, 1);
        let before = vmcb.control.intercepts_1;
        vmcb.inject(Event::InvalidOpcode);
        assert!(!vmcb.holds_nmi(), "no NMI");
        vmcb.inject(Event::Nmi);
        assert!(vmcb.holds_nmi());
        vmcb.release_nmi();
        assert_eq!((vmcb.holds_nmi(), vmcb.control.intercepts_1), (false, before));
        vmcb.inject(Event::Nmi);
        vmcb.fence(&FENCES, 1);
        assert!(!vmcb.holds_nmi(), "a new start");
    }

    #[test]
    fn intercepts_and_exit_codes_are_numbered_alike() {
        for (intercept, exit) in [
            (Intercepts1::NMI, Exit::Nmi),
            (Intercepts1::SMI, Exit::Smi),
            (Intercepts1::INIT, Exit::Init),
            (Intercepts1::CPUID, Exit::Cpuid),
            (Intercepts1::RSM, Exit::Undefined),
            (Intercepts1::IRET, Exit::Iret),
            (Intercepts1::INVD, Exit::Invd),
            (Intercepts1::INVLPGA, Exit::Undefined),
            (Intercepts1::IOIO_PROT, Exit::Port),
            (Intercepts1::MSR_PROT, Exit::Msr),
            (Intercepts1::SHUTDOWN, Exit::Shutdown),
        ] {
            assert_eq!(Exit::of(0x60 + u64::from(intercept.bits().trailing_zeros())), exit);
        }
    }

    #[test]
    fn every_instruction_of_svm_is_undefined_below_and_vmmcall_is_kept_for_calls() {
        for code in [0x7A, 0x80, 0x82, 0x83, 0x84, 0x85, 0x86] {
            assert_eq!(Exit::of(code), Exit::Undefined);
        }
        assert_eq!(Exit::of(0x81), Exit::Vmmcall);
        assert_eq!(Exit::of(u64::MAX), Exit::Other(u64::MAX));
    }
}
