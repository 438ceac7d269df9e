//! One guest access to a page that it does not have, from the instruction that the guest was at.
//!
//! The instruction is read through the guest's own tables, executed on copies, and its access is handed to a [`Bus`]. A guest
//! that changes its code or its tables meanwhile gets some other access of its own: every one that it could have made.
//! Limits of segments are not checked: the processor did that for the access that brought us here.

mod input;

pub use input::input;

use super::decode::{
    Address, Alu, DecodeFault, Extension, INSTRUCTION_BYTES_MAX, Instruction, Mode, Operand, Operation,
    Outcome, Register, Size, Strings, decode,
};
use super::vmcb::{EFER_LMA, Event, Save};
use super::walk::{GuestMemory, Paging, WalkFault, Wants};

/// A repeated string instruction goes through this many steps, then lets the guest be interrupted.
const STEPS_MAX: u32 = 256;

const PAGE_BYTES: u64 = 0x1000;
const RAX: usize = 0;
const RCX: usize = 1;
const RSI: usize = 6;
const RDI: usize = 7;
const RFLAGS_DF: u64 = 1 << 10;

/// What answers at a guest-physical address; `address` and `size` never cross a page.
pub trait Bus: GuestMemory {
    /// What a read finds, in the low bytes.
    fn load(&mut self, address: u64, size: Size) -> u64;

    /// A write of the low bytes.
    fn store(&mut self, address: u64, size: Size, value: u64);
}

/// The sixteen general registers by their encoding, RAX and RSP among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Registers(pub [u64; 16]);

/// What becomes of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The instruction of that many bytes is done.
    Done(u8),
    /// The same instruction again: it is not finished.
    Again,
    /// The guest gets an event, and for a page fault this address.
    Raise(Event, u64),
}

/// What a guest may get instead of its access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fault {
    event: Event,
    linear: u64,
}

/// An instruction that is not emulated where it was found.
const NOT_OURS: Fault = Fault { event: Event::GeneralProtection, linear: 0 };

/// Executes the instruction at the guest's RIP; registers and flags are changed in place, RIP is not.
pub fn emulate(save: &mut Save, registers: &mut Registers, bus: &mut dyn Bus) -> Verdict {
    let mode = mode(save);
    let mut guest = Guest { paging: Paging::of(save), mode, save, registers, bus };
    match guest.step() {
        Ok(verdict) => verdict,
        Err(fault) => Verdict::Raise(fault.event, fault.linear),
    }
}

fn mode(save: &Save) -> Mode {
    let code = &save.segments[1];
    let protected = save.cr0 & 1 != 0;
    let is_virtual_8086 = save.rflags & 1 << 17 != 0;
    if save.efer & EFER_LMA != 0 && code.is_long() {
        Mode::Long
    } else if protected && !is_virtual_8086 && code.is_big() {
        Mode::Dword
    } else if code.is_big() {
        // Real mode with a segment that kept its size.
        Mode::Dword
    } else {
        Mode::Word
    }
}

struct Guest<'g> {
    save: &'g mut Save,
    registers: &'g mut Registers,
    bus: &'g mut dyn Bus,
    paging: Paging,
    mode: Mode,
}

impl Guest<'_> {
    fn step(&mut self) -> Result<Verdict, Fault> {
        let instruction = self.instruction()?;
        if let Operation::String(strings, repeats) = instruction.operation {
            return self.strings(&instruction, strings, repeats);
        }
        let at = self.linear(&instruction);
        self.execute(&instruction, at)?;
        Ok(Verdict::Done(instruction.length))
    }

    fn instruction(&mut self) -> Result<Instruction, Fault> {
        let mut bytes = [0; INSTRUCTION_BYTES_MAX];
        let fetched = self.fetch(&mut bytes)?;
        decode(&bytes[..fetched], self.mode).map_err(|fault| match fault {
            // What the processor could execute has an end; it changed under our eyes, or is not one of ours.
            DecodeFault::Truncated | DecodeFault::Unknown => NOT_OURS,
        })
    }

    /// Copies up to fifteen bytes at RIP; stops before a page that cannot be read.
    fn fetch(&mut self, into: &mut [u8; INSTRUCTION_BYTES_MAX]) -> Result<usize, Fault> {
        let base = if self.mode == Mode::Long { 0 } else { self.save.segments[1].base };
        let start = self.wrap(base.wrapping_add(self.save.rip));
        let to_page_end = usize::try_from(PAGE_BYTES - start % PAGE_BYTES).unwrap_or(INSTRUCTION_BYTES_MAX);
        let first = to_page_end.min(INSTRUCTION_BYTES_MAX);
        let (head, tail) = into.split_at_mut(first);
        self.fetch_piece(start, head)?;
        let rest = self.wrap(start.wrapping_add(first as u64));
        match self.fetch_piece(rest, tail) {
            Ok(()) => Ok(INSTRUCTION_BYTES_MAX),
            Err(_) => Ok(first),
        }
    }

    fn fetch_piece(&mut self, linear: u64, into: &mut [u8]) -> Result<(), Fault> {
        if into.is_empty() {
            return Ok(());
        }
        let at = self.translate(linear, Wants::Execute)?;
        if self.bus.read(at, into) { Ok(()) } else { Err(raised(WalkFault::Astray, linear)) }
    }

    fn execute(&mut self, instruction: &Instruction, at: u64) -> Result<(), Fault> {
        let size = instruction.size;
        match instruction.operation {
            Operation::Load { into, size: filled, extension } => {
                let found = self.load(at, size)?;
                let value = if extension == Extension::Sign { sign_extended(found, size) } else { found };
                self.set_register(into, filled, value);
            }
            Operation::Store(from) => {
                let value = self.operand(from);
                self.store(at, size, value)?;
            }
            Operation::Exchange(register) => {
                self.may_store(at, size)?;
                let found = self.load(at, size)?;
                self.store(at, size, self.register(register))?;
                self.set_register(register, size, found);
            }
            Operation::Arithmetic(alu, other, outcome) => self.arithmetic(at, size, (alu, other, outcome))?,
            Operation::String(..) => {}
        }
        Ok(())
    }

    fn arithmetic(
        &mut self,
        at: u64,
        size: Size,
        (alu, other, outcome): (Alu, Operand, Outcome),
    ) -> Result<(), Fault> {
        if outcome == Outcome::ToMemory {
            self.may_store(at, size)?;
        }
        let memory = self.load(at, size)?;
        let other_value = self.operand(other);
        let (left, right) = match outcome {
            Outcome::ToMemory | Outcome::FlagsMemoryLeft => (memory, other_value),
            Outcome::ToRegister | Outcome::FlagsRegisterLeft => (other_value, memory),
        };
        let (result, flags) = compute(alu, size, left, right);
        match (outcome, other) {
            (Outcome::ToMemory, _) => self.store(at, size, result)?,
            (Outcome::ToRegister, Operand::Register(register)) => self.set_register(register, size, result),
            (Outcome::ToRegister | Outcome::FlagsMemoryLeft | Outcome::FlagsRegisterLeft, _) => {}
        }
        self.save.rflags = self.save.rflags & !ARITHMETIC_FLAGS | flags;
        Ok(())
    }

    fn strings(
        &mut self,
        instruction: &Instruction,
        strings: Strings,
        repeats: bool,
    ) -> Result<Verdict, Fault> {
        let bytes = instruction.address.bytes;
        let mut steps = 0;
        loop {
            if repeats && self.registers.0[RCX] & mask(bytes) == 0 {
                return Ok(Verdict::Done(instruction.length));
            }
            if steps == STEPS_MAX {
                return Ok(Verdict::Again);
            }
            self.string_step(instruction, strings)?;
            if !repeats {
                return Ok(Verdict::Done(instruction.length));
            }
            self.bump(RCX, bytes, u64::MAX);
            steps += 1;
        }
    }

    fn string_step(&mut self, instruction: &Instruction, strings: Strings) -> Result<(), Fault> {
        let Instruction { size, address: Address { bytes, segment, .. }, .. } = *instruction;
        let source = self.in_segment(segment, self.registers.0[RSI] & mask(bytes));
        let target = self.in_segment(0, self.registers.0[RDI] & mask(bytes));
        let up = self.save.rflags & RFLAGS_DF == 0;
        let stride = if up { size as u64 } else { (size as u64).wrapping_neg() };
        match strings {
            Strings::Move => {
                // Nothing is read, with an effect or without, that then could not be stored.
                self.may_store(target, size)?;
                let value = self.load(source, size)?;
                self.store(target, size, value)?;
                self.bump(RSI, bytes, stride);
                self.bump(RDI, bytes, stride);
            }
            Strings::Store => {
                self.store(target, size, self.registers.0[RAX])?;
                self.bump(RDI, bytes, stride);
            }
            Strings::Load => {
                let value = self.load(source, size)?;
                self.set_register(Register::Low(0), size, value);
                self.bump(RSI, bytes, stride);
            }
            // Its source is no memory: whose target exits has a port that does not.
            Strings::Input => return Err(NOT_OURS),
        }
        Ok(())
    }

    fn load(&mut self, linear: u64, size: Size) -> Result<u64, Fault> {
        if !crosses(linear, size) {
            let at = self.translate(linear, Wants::Read)?;
            return Ok(self.bus.load(at, size) & mask(size as u8));
        }
        let mut value = 0;
        for n in 0..size as u64 {
            let at = self.translate(self.wrap(linear.wrapping_add(n)), Wants::Read)?;
            value |= (self.bus.load(at, Size::Byte) & 0xFF) << (8 * n);
        }
        Ok(value)
    }

    fn store(&mut self, linear: u64, size: Size, value: u64) -> Result<(), Fault> {
        self.may_store(linear, size)?;
        if !crosses(linear, size) {
            let at = self.translate(linear, Wants::Write)?;
            self.bus.store(at, size, value & mask(size as u8));
            return Ok(());
        }
        for n in 0..size as u64 {
            let at = self.translate(self.wrap(linear.wrapping_add(n)), Wants::Write)?;
            self.bus.store(at, Size::Byte, value >> (8 * n) & 0xFF);
        }
        Ok(())
    }

    fn may_store(&mut self, linear: u64, size: Size) -> Result<(), Fault> {
        self.translate(linear, Wants::Write)?;
        if crosses(linear, size) {
            self.translate(self.wrap(linear.wrapping_add(size as u64 - 1)), Wants::Write)?;
        }
        Ok(())
    }

    fn translate(&mut self, linear: u64, wants: Wants) -> Result<u64, Fault> {
        self.paging.translate(&mut *self.bus, linear, wants).map_err(|fault| raised(fault, linear))
    }

    fn linear(&self, instruction: &Instruction) -> u64 {
        let address = &instruction.address;
        let mut effective = address.displacement.cast_unsigned();
        if let Some(base) = address.base {
            effective = effective.wrapping_add(self.registers.0[usize::from(base)]);
        }
        if let Some((index, shift)) = address.index {
            effective = effective.wrapping_add(self.registers.0[usize::from(index)] << shift);
        }
        if address.from_next {
            effective = effective.wrapping_add(self.save.rip).wrapping_add(instruction.length.into());
        }
        self.in_segment(address.segment, effective & mask(address.bytes))
    }

    fn in_segment(&self, segment: u8, effective: u64) -> u64 {
        let has_base = self.mode != Mode::Long || segment >= 4;
        let base = self.save.segments.get(usize::from(segment)).map_or(0, |found| found.base);
        self.wrap(if has_base { base.wrapping_add(effective) } else { effective })
    }

    const fn wrap(&self, linear: u64) -> u64 {
        match self.mode {
            Mode::Long => linear,
            Mode::Word | Mode::Dword => linear & 0xFFFF_FFFF,
        }
    }

    fn operand(&self, operand: Operand) -> u64 {
        match operand {
            Operand::Register(register) => self.register(register),
            Operand::Immediate(number) => i64::from(number).cast_unsigned(),
        }
    }

    fn register(&self, register: Register) -> u64 {
        match register {
            Register::Low(number) => self.registers.0[usize::from(number & 15)],
            Register::High(number) => self.registers.0[usize::from(number & 3)] >> 8,
        }
    }

    /// Four bytes clear the rest of a register, fewer leave it.
    fn set_register(&mut self, register: Register, size: Size, value: u64) {
        match register {
            Register::High(number) => {
                let held = &mut self.registers.0[usize::from(number & 3)];
                *held = *held & !0xFF00 | (value & 0xFF) << 8;
            }
            Register::Low(number) => {
                let held = &mut self.registers.0[usize::from(number & 15)];
                *held = merged(*held, size as u8, value);
            }
        }
    }

    fn bump(&mut self, register: usize, address_bytes: u8, by: u64) {
        let held = self.registers.0[register];
        self.registers.0[register] = merged(held, address_bytes, held.wrapping_add(by));
    }
}

const fn merged(held: u64, bytes: u8, value: u64) -> u64 {
    match bytes {
        8 => value,
        4 => value & 0xFFFF_FFFF,
        _ => held & !mask(bytes) | value & mask(bytes),
    }
}

const fn raised(fault: WalkFault, linear: u64) -> Fault {
    Fault { event: fault.event(), linear }
}

const fn crosses(linear: u64, size: Size) -> bool {
    linear % PAGE_BYTES + size as u64 > PAGE_BYTES
}

const fn mask(bytes: u8) -> u64 {
    u64::MAX >> (64 - 8 * bytes as u32)
}

const fn sign_extended(value: u64, size: Size) -> u64 {
    let unused = 64 - 8 * size as u32;
    (value << unused).cast_signed().wrapping_shr(unused).cast_unsigned()
}

const CF: u64 = 1;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;
const ARITHMETIC_FLAGS: u64 = CF | PF | AF | ZF | SF | OF;

/// Result and flags (volume 3, the instructions' pages; AF of logic is undefined and cleared here).
fn compute(alu: Alu, size: Size, left: u64, right: u64) -> (u64, u64) {
    let all = mask(size as u8);
    let sign = all ^ (all >> 1);
    let (left, right) = (left & all, right & all);
    let (result, carries) = match alu {
        Alu::Add => {
            let sum = left.wrapping_add(right) & all;
            let overflow = (left ^ sum) & (right ^ sum) & sign != 0;
            (sum, flag(sum < left, CF) | flag(overflow, OF) | flag((left ^ right ^ sum) & 0x10 != 0, AF))
        }
        Alu::Subtract => {
            let difference = left.wrapping_sub(right) & all;
            let overflow = (left ^ right) & (left ^ difference) & sign != 0;
            let half = (left ^ right ^ difference) & 0x10 != 0;
            (difference, flag(left < right, CF) | flag(overflow, OF) | flag(half, AF))
        }
        Alu::And => (left & right, 0),
        Alu::Or => (left | right, 0),
        Alu::Xor => (left ^ right, 0),
    };
    let even = (result & 0xFF).count_ones().is_multiple_of(2);
    (result, carries | flag(result == 0, ZF) | flag(result & sign != 0, SF) | flag(even, PF))
}

const fn flag(set: bool, bit: u64) -> u64 {
    if set { bit } else { 0 }
}

#[cfg(test)]
mod tests;
