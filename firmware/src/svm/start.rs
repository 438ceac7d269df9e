//! The states in which virtual processors begin.

use super::emulate::Registers;
use super::vmcb::{EFER_SVME, Fences, Segment, Vmcb};

/// PAT after reset (AMD64 APM volume 2, section 7.8).
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// CR0 after reset: caches off, ET; and as Linux' 32-bit entry wants it: protected mode.
const CR0_RESET: u64 = 0x6000_0010;
const CR0_PROTECTED: u64 = 0x11;
/// Where code begins after reset: 16 bytes below 4 GiB (volume 2, table "Initial Processor State").
const CODE_RESET: Segment = Segment { selector: 0xF000, attributes: 0x9B, limit: 0xFFFF, base: 0xFFFF_0000 };
const RIP_RESET: u64 = 0xFFF0;
/// Selectors and attributes of flat 32-bit segments (Linux, Documentation/arch/x86/boot.rst, "32-bit boot protocol").
const CODE: Segment = Segment { selector: 0x10, attributes: 0xC9B, limit: u32::MAX, base: 0 };
const DATA: Segment = Segment { selector: 0x18, attributes: 0xC93, limit: u32::MAX, base: 0 };
/// Real mode's.
const REAL_DATA: Segment = Segment { selector: 0, attributes: 0x93, limit: 0xFFFF, base: 0 };
const TABLE: Segment = Segment { selector: 0, attributes: 0, limit: 0xFFFF, base: 0 };
const TASK: Segment = Segment { selector: 0, attributes: 0x8B, limit: 0xFFFF, base: 0 };
const LOCAL: Segment = Segment { selector: 0, attributes: 0x82, limit: 0xFFFF, base: 0 };
const CODE_AT: usize = 1;

/// Where the first processor begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// In a kernel.
    Protected(Protected),
    /// At the reset vector.
    ResetVector,
}

/// Where a kernel begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protected {
    /// EIP.
    pub eip: u32,
    /// ESI: the zero page.
    pub esi: u32,
    /// Base and limit of the GDT.
    pub descriptors: (u32, u16),
}

/// The first processor where it begins; `signature` is what CPUID says of its family and model, which RDX has after reset.
pub fn first(vmcb: &mut Vmcb, registers: &mut Registers, fences: &Fences, (entry, signature): (&Entry, u32)) {
    match entry {
        Entry::Protected(at) => protected(vmcb, registers, fences, at),
        Entry::ResetVector => reset_vector(vmcb, registers, fences, signature),
    }
}

/// The first processor as it comes out of reset.
fn reset_vector(vmcb: &mut Vmcb, registers: &mut Registers, fences: &Fences, signature: u32) {
    reset(vmcb, registers, fences);
    vmcb.save.segments = [REAL_DATA; 6];
    vmcb.save.segments[CODE_AT] = CODE_RESET;
    vmcb.save.cr0 = CR0_RESET;
    vmcb.save.rip = RIP_RESET;
    registers.0[2] = signature.into();
}

/// The first processor at a kernel's 32-bit entry.
fn protected(vmcb: &mut Vmcb, registers: &mut Registers, fences: &Fences, at: &Protected) {
    reset(vmcb, registers, fences);
    vmcb.save.segments = [DATA; 6];
    vmcb.save.segments[CODE_AT] = CODE;
    let (base, limit) = at.descriptors;
    vmcb.save.gdtr = Segment { base: base.into(), limit: limit.into(), ..Segment::default() };
    vmcb.save.cr0 = CR0_PROTECTED;
    vmcb.save.rip = at.eip.into();
    registers.0[6] = at.esi.into();
}

/// Another processor in real mode at the page that a start-up interrupt names.
pub fn real(vmcb: &mut Vmcb, registers: &mut Registers, fences: &Fences, page: u8) {
    reset(vmcb, registers, fences);
    vmcb.save.segments = [REAL_DATA; 6];
    let selector = u16::from(page) << 8;
    vmcb.save.segments[CODE_AT] =
        Segment { selector, attributes: 0x9B, limit: 0xFFFF, base: u64::from(page) << 12 };
    vmcb.save.cr0 = CR0_RESET;
}

fn reset(vmcb: &mut Vmcb, registers: &mut Registers, fences: &Fences) {
    const ASID: u32 = 1;
    vmcb.fence(fences, ASID);
    *registers = Registers::default();
    let save = &mut vmcb.save;
    (save.gdtr, save.idtr, save.tr, save.ldtr) = (TABLE, TABLE, TASK, LOCAL);
    save.efer = EFER_SVME;
    save.rflags = 2;
    save.dr6 = 0xFFFF_0FF0;
    save.dr7 = 0x400;
    save.g_pat = PAT_RESET;
}

#[cfg(test)]
mod tests {
    use super::{Entry, Protected, first, real};
    use crate::svm::emulate::Registers;
    use crate::svm::vmcb::{Fences, Vmcb};
    use std::boxed::Box;

    const FENCES: Fences = Fences { iopm: 0x1000, msrpm: 0x4000, nested_cr3: 0x6000 };

    #[test]
    fn a_kernel_begins_flat_and_a_second_processor_at_its_page() {
        let mut vmcb = Box::new(Vmcb::EMPTY);
        let mut registers = Registers([7; 16]);
        let at = Protected { eip: 0x100_0000, esi: 0x9000, descriptors: (0x8000, 31) };
        first(&mut vmcb, &mut registers, &FENCES, (&Entry::Protected(at), 0x0080_0F12));
        assert_eq!((vmcb.save.rip, registers.0[6], registers.0[1]), (0x100_0000, 0x9000, 0));
        assert_eq!((vmcb.save.cr0 & 1, vmcb.save.efer, vmcb.save.gdtr.limit), (1, 1 << 12, 31));
        real(&mut vmcb, &mut registers, &FENCES, 0x9A);
        assert_eq!((vmcb.save.segments[1].base, vmcb.save.segments[1].selector), (0x9_A000, 0x9A00));
        assert_eq!((vmcb.save.rip, vmcb.save.cr0 & 1), (0, 0));
        first(&mut vmcb, &mut registers, &FENCES, (&Entry::ResetVector, 0x0080_0F12));
        let code = vmcb.save.segments[1];
        assert_eq!((code.base + vmcb.save.rip, code.selector, vmcb.save.cr0 & 1), (0xFFFF_FFF0, 0xF000, 0));
        assert_eq!((registers.0[2], registers.0[0]), (0x0080_0F12, 0), "signature, and no failed self test");
    }
}
