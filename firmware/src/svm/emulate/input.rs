//! INS from a port that the layer answers for: whole runs at a time, as firmware and kernels read files.

use super::{Bus, Guest, NOT_OURS, PAGE_BYTES, RCX, RDI, RFLAGS_DF, Registers, Verdict, mask, mode};
use crate::memory::native;
use crate::svm::decode::{Operation, Size, Strings};
use crate::svm::vmcb::Save;
use crate::svm::walk::{Paging, Wants};

/// Executes the INSB, INSW or INSD at the guest's RIP: `source` fills what goes to its memory, in order, with whole elements. A repeated one is
/// interrupted at the end of each page; any other instruction, and one that goes down, is #GP.
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
        if self.save.rflags & RFLAGS_DF != 0 {
            return Err(NOT_OURS);
        }
        let unit = instruction.size as u64;
        let bytes = instruction.address.bytes;
        let count = if repeats { self.registers.0[RCX] & mask(bytes) } else { 1 };
        if count == 0 {
            return Ok(Verdict::Done(instruction.length));
        }
        let target = self.in_segment(0, self.registers.0[RDI] & mask(bytes));
        let run = count.min((PAGE_BYTES - target % PAGE_BYTES) / unit);
        if run == 0 {
            self.across(target, unit, source)?;
        } else {
            self.fill(target, run * unit, source)?;
        }
        // One that lies across pages goes by itself.
        let run = run.max(1);
        self.bump(RDI, bytes, run * unit);
        if repeats {
            self.bump(RCX, bytes, run.wrapping_neg());
        }
        Ok(if run == count { Verdict::Done(instruction.length) } else { Verdict::Again })
    }

    /// Fills so many bytes of one page.
    fn fill(
        &mut self,
        target: u64,
        bytes: u64,
        source: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), super::Fault> {
        let at = self.translate(target, Wants::Write)?;
        let mut page = [0; native(PAGE_BYTES)];
        let page = &mut page[..native(bytes)];
        source(page);
        for (at, byte) in (at..).zip(&*page).take(if self.bus.write(at, page) { 0 } else { page.len() }) {
            self.bus.store(at, Size::Byte, u64::from(*byte));
        }
        Ok(())
    }

    /// Fills one element that lies in two pages; nothing is taken before both are known to be the guest's to write.
    fn across(
        &mut self,
        target: u64,
        unit: u64,
        source: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), super::Fault> {
        let mut places = [0; size_of::<u64>()];
        let places = &mut places[..native(unit)];
        for (linear, place) in (target..).zip(&mut *places) {
            *place = self.translate(linear, Wants::Write)?;
        }
        let mut element = [0; size_of::<u64>()];
        let element = &mut element[..native(unit)];
        source(element);
        for (at, byte) in places.iter().zip(&*element) {
            self.bus.store(*at, Size::Byte, u64::from(*byte));
        }
        Ok(())
    }
}
