//! INS of bytes from a port that the layer answers for: whole runs at a time, as firmware and kernels read files.

use super::{Bus, Guest, NOT_OURS, PAGE_BYTES, RCX, RDI, RFLAGS_DF, Registers, Verdict, mask, mode};
use crate::memory::native;
use crate::svm::decode::{Operation, Size, Strings};
use crate::svm::vmcb::Save;
use crate::svm::walk::{Paging, Wants};

/// Executes the INSB at the guest's RIP: `source` fills what goes to its memory, in order. A repeated one is interrupted at the
/// end of each page; any other instruction, and one that goes down, is #GP.
pub fn input(
    save: &mut Save,
    registers: &mut Registers,
    bus: &mut dyn Bus,
    source: &mut dyn FnMut(&mut [u8]),
) -> Verdict {
    let mode = mode(save);
    let mut guest = Guest { paging: Paging::of(save), mode, save, registers, bus };
    guest.input(source).unwrap_or_else(|fault| Verdict::Raise(fault.event, fault.linear))
}

impl Guest<'_> {
    fn input(&mut self, source: &mut dyn FnMut(&mut [u8])) -> Result<Verdict, super::Fault> {
        let instruction = self.instruction()?;
        let Operation::String(Strings::Input, repeats) = instruction.operation else { return Err(NOT_OURS) };
        if instruction.size != Size::Byte || self.save.rflags & RFLAGS_DF != 0 {
            return Err(NOT_OURS);
        }
        let bytes = instruction.address.bytes;
        let count = if repeats { self.registers.0[RCX] & mask(bytes) } else { 1 };
        if count == 0 {
            return Ok(Verdict::Done(instruction.length));
        }
        let target = self.in_segment(0, self.registers.0[RDI] & mask(bytes));
        let run = count.min(PAGE_BYTES - target % PAGE_BYTES);
        let at = self.translate(target, Wants::Write)?;
        let mut page = [0; native(PAGE_BYTES)];
        let page = &mut page[..native(run)];
        source(page);
        for (at, byte) in (at..).zip(&*page).take(if self.bus.write(at, page) { 0 } else { page.len() }) {
            self.bus.store(at, Size::Byte, u64::from(*byte));
        }
        self.bump(RDI, bytes, run);
        if repeats {
            self.bump(RCX, bytes, run.wrapping_neg());
        }
        Ok(if run == count { Verdict::Done(instruction.length) } else { Verdict::Again })
    }
}
