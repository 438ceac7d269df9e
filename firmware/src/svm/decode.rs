//! The instructions with which a guest may touch a page that is not there (AMD64 APM volume 3, chapters 1 and 3).
//!
//! Moves of every form that a compiler or a driver uses for a register, string moves, and the arithmetic that is cheap to
//! redo. Everything else is refused by name, not guessed at. The tests compare each answer with `iced-x86`.

mod instruction;

pub use instruction::{
    Address, Alu, Extension, Instruction, Mode, Operand, Operation, Outcome, Register, Size, Strings,
};

/// No instruction has more bytes (volume 3, section 1.1).
pub const INSTRUCTION_BYTES_MAX: usize = 15;

/// Why bytes are no instruction that is emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeFault {
    /// The instruction goes on behind the bytes that there are.
    Truncated,
    /// Not one of ours, or none at all.
    Unknown,
}

/// Segment registers by their encoding.
const SEGMENT_ES: u8 = 0;
const SEGMENT_SS: u8 = 2;
const SEGMENT_DS: u8 = 3;

/// Prefixes that were read.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a prefix of its own, in any combination")]
struct Prefixes {
    operand_size: bool,
    address_size: bool,
    lock: bool,
    repeat: bool,
    segment: Option<u8>,
    rex: Option<u8>,
}

impl Prefixes {
    const fn rex_bit(&self, bit: u8) -> u8 {
        match self.rex {
            Some(rex) => rex >> bit & 1,
            None => 0,
        }
    }
}

/// Reads bytes in order; at most fifteen.
struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, DecodeFault> {
        let limit = self.bytes.len().min(INSTRUCTION_BYTES_MAX);
        let byte = self.bytes.get(self.at).filter(|_| self.at < limit).ok_or(DecodeFault::Truncated)?;
        self.at += 1;
        Ok(*byte)
    }

    /// A little-endian number of one, two, four or eight bytes, sign-extended.
    fn number(&mut self, bytes: u8) -> Result<i64, DecodeFault> {
        let mut raw = [0; 8];
        for byte in raw.iter_mut().take(bytes.into()) {
            *byte = self.byte()?;
        }
        let unused = 64 - 8 * u32::from(bytes.min(8));
        Ok(i64::from_le_bytes(raw).wrapping_shl(unused).wrapping_shr(unused))
    }

    /// An immediate of at most four bytes.
    fn immediate(&mut self, size: Size) -> Result<Operand, DecodeFault> {
        let bytes = (size as u8).min(4);
        let number = self.number(bytes)?;
        i32::try_from(number).map(Operand::Immediate).map_err(|_| DecodeFault::Unknown)
    }
}

/// Reads the instruction that `bytes` begin with.
///
/// # Errors
/// [`DecodeFault`].
pub fn decode(bytes: &[u8], mode: Mode) -> Result<Instruction, DecodeFault> {
    let mut reader = Reader { bytes, at: 0 };
    let (prefixes, opcode) = prefixes(&mut reader, mode)?;
    let mut decoder = Decoder { reader, mode, prefixes };
    let (size, address, operation) = match opcode {
        0x0F => decoder.two_bytes()?,
        _ => decoder.one_byte(opcode)?,
    };
    if prefixes.lock && !may_lock(operation) {
        return Err(DecodeFault::Unknown);
    }
    let length = u8::try_from(decoder.reader.at).map_err(|_| DecodeFault::Truncated)?;
    Ok(Instruction { length, size, address, operation })
}

/// LOCK is for instructions that read memory and write it back.
const fn may_lock(operation: Operation) -> bool {
    matches!(operation, Operation::Exchange(_) | Operation::Arithmetic(_, _, Outcome::ToMemory))
}

fn prefixes(reader: &mut Reader<'_>, mode: Mode) -> Result<(Prefixes, u8), DecodeFault> {
    let mut found = Prefixes::default();
    loop {
        let byte = reader.byte()?;
        let is_rex = mode == Mode::Long && byte & 0xF0 == 0x40;
        if is_rex {
            found.rex = Some(byte);
            continue;
        }
        match byte {
            0x66 => found.operand_size = true,
            0x67 => found.address_size = true,
            0xF0 => found.lock = true,
            0xF2 | 0xF3 => found.repeat = true,
            // In 64-bit mode only FS and GS are more than a name.
            0x26 | 0x2E | 0x36 | 0x3E => {
                if mode != Mode::Long {
                    found.segment = Some(byte >> 3 & 3);
                }
            }
            0x64 | 0x65 => found.segment = Some(byte & 7),
            opcode => return Ok((found, opcode)),
        }
        // A REX prefix that is not the last one is none.
        found.rex = None;
    }
}

type Parts = (Size, Address, Operation);

struct Decoder<'b> {
    reader: Reader<'b>,
    mode: Mode,
    prefixes: Prefixes,
}

/// The ModRM byte, with REX's bits.
struct ModRm {
    mode: u8,
    register: u8,
    memory: u8,
}

impl Decoder<'_> {
    fn one_byte(&mut self, opcode: u8) -> Result<Parts, DecodeFault> {
        let size = if opcode & 1 == 0 { Size::Byte } else { self.operand_size() };
        match opcode {
            0x00..=0x3F if opcode & 7 < 4 => self.arithmetic(opcode, size),
            0x6C => Ok(self.string(Strings::Input, size)),
            0x80 | 0x81 | 0x83 => self.arithmetic_immediate(opcode, size),
            // With a prefix for 16 bits it is another instruction, which nobody writes.
            0x63 if self.mode == Mode::Long && self.operand_size() != Size::Word => {
                let (modrm, address) = self.memory()?;
                Ok((Size::Dword, address, self.load(&modrm, self.operand_size(), Extension::Sign)))
            }
            0x84 | 0x85 => {
                let (modrm, address) = self.memory()?;
                let other = Operand::Register(self.register(modrm.register, size));
                Ok((size, address, Operation::Arithmetic(Alu::And, other, Outcome::FlagsMemoryLeft)))
            }
            0x86 | 0x87 => {
                let (modrm, address) = self.memory()?;
                Ok((size, address, Operation::Exchange(self.register(modrm.register, size))))
            }
            0x88 | 0x89 => {
                let (modrm, address) = self.memory()?;
                let from = Operand::Register(self.register(modrm.register, size));
                Ok((size, address, Operation::Store(from)))
            }
            0x8A | 0x8B => {
                let (modrm, address) = self.memory()?;
                Ok((size, address, self.load(&modrm, size, Extension::Zero)))
            }
            0xA0..=0xA3 => self.direct(opcode, size),
            0xA4 | 0xA5 => Ok(self.string(Strings::Move, size)),
            0xAA | 0xAB => Ok(self.string(Strings::Store, size)),
            0xAC | 0xAD => Ok(self.string(Strings::Load, size)),
            0xC6 | 0xC7 => {
                let (modrm, address) = self.memory()?;
                let from = self.reader.immediate(size)?;
                if modrm.register & 7 == 0 {
                    Ok((size, address, Operation::Store(from)))
                } else {
                    Err(DecodeFault::Unknown)
                }
            }
            0xF6 | 0xF7 => self.test_immediate(size),
            _ => Err(DecodeFault::Unknown),
        }
    }

    fn two_bytes(&mut self) -> Result<Parts, DecodeFault> {
        let opcode = self.reader.byte()?;
        let (size, extension) = match opcode {
            0xB6 => (Size::Byte, Extension::Zero),
            0xB7 => (Size::Word, Extension::Zero),
            0xBE => (Size::Byte, Extension::Sign),
            0xBF => (Size::Word, Extension::Sign),
            _ => return Err(DecodeFault::Unknown),
        };
        let (modrm, address) = self.memory()?;
        let into = Register::Low(modrm.register);
        Ok((size, address, Operation::Load { into, size: self.operand_size(), extension }))
    }

    /// 00 to 3B: eight operations in four forms, of which ADC and SBB are not ours.
    fn arithmetic(&mut self, opcode: u8, size: Size) -> Result<Parts, DecodeFault> {
        let (alu, compares) = alu(opcode >> 3)?;
        let (modrm, address) = self.memory()?;
        let other = Operand::Register(self.register(modrm.register, size));
        let outcome = match (opcode & 2 == 0, compares) {
            (true, false) => Outcome::ToMemory,
            (true, true) => Outcome::FlagsMemoryLeft,
            (false, false) => Outcome::ToRegister,
            (false, true) => Outcome::FlagsRegisterLeft,
        };
        Ok((size, address, Operation::Arithmetic(alu, other, outcome)))
    }

    fn arithmetic_immediate(&mut self, opcode: u8, size: Size) -> Result<Parts, DecodeFault> {
        let (modrm, address) = self.memory()?;
        let (alu, compares) = alu(modrm.register & 7)?;
        let other = self.reader.immediate(if opcode == 0x83 { Size::Byte } else { size })?;
        let outcome = if compares { Outcome::FlagsMemoryLeft } else { Outcome::ToMemory };
        Ok((size, address, Operation::Arithmetic(alu, other, outcome)))
    }

    fn test_immediate(&mut self, size: Size) -> Result<Parts, DecodeFault> {
        let (modrm, address) = self.memory()?;
        if modrm.register & 7 > 1 {
            return Err(DecodeFault::Unknown);
        }
        let other = self.reader.immediate(size)?;
        Ok((size, address, Operation::Arithmetic(Alu::And, other, Outcome::FlagsMemoryLeft)))
    }

    /// A0 to A3: the accumulator and an address in the instruction.
    fn direct(&mut self, opcode: u8, size: Size) -> Result<Parts, DecodeFault> {
        let bytes = self.address_bytes();
        let displacement = self.reader.number(bytes)?;
        let segment = self.prefixes.segment.unwrap_or(SEGMENT_DS);
        let address = Address { displacement, segment, bytes, ..Address::default() };
        let accumulator = Register::Low(0);
        let operation = if opcode & 2 == 0 {
            Operation::Load { into: accumulator, size, extension: Extension::Zero }
        } else {
            Operation::Store(Operand::Register(accumulator))
        };
        Ok((size, address, operation))
    }

    fn string(&self, strings: Strings, size: Size) -> Parts {
        let segment = match strings {
            Strings::Store | Strings::Input => SEGMENT_ES,
            Strings::Move | Strings::Load => self.prefixes.segment.unwrap_or(SEGMENT_DS),
        };
        let address = Address { segment, bytes: self.address_bytes(), ..Address::default() };
        (size, address, Operation::String(strings, self.prefixes.repeat))
    }

    fn load(&self, modrm: &ModRm, size: Size, extension: Extension) -> Operation {
        Operation::Load { into: self.register(modrm.register, size), size, extension }
    }

    /// Without REX, byte registers 4 to 7 are the second bytes of 0 to 3.
    fn register(&self, number: u8, size: Size) -> Register {
        if size == Size::Byte && self.prefixes.rex.is_none() && number >= 4 {
            Register::High(number - 4)
        } else {
            Register::Low(number)
        }
    }

    fn operand_size(&self) -> Size {
        match (self.mode, self.prefixes.operand_size) {
            (Mode::Long, _) if self.prefixes.rex_bit(3) == 1 => Size::Qword,
            (Mode::Word, false) | (Mode::Dword | Mode::Long, true) => Size::Word,
            (Mode::Word, true) | (Mode::Dword | Mode::Long, false) => Size::Dword,
        }
    }

    const fn address_bytes(&self) -> u8 {
        match (self.mode, self.prefixes.address_size) {
            (Mode::Long, false) => 8,
            (Mode::Long | Mode::Word, true) | (Mode::Dword, false) => 4,
            (Mode::Word, false) | (Mode::Dword, true) => 2,
        }
    }

    /// ModRM and what follows it; a register in the place of memory is not ours.
    fn memory(&mut self) -> Result<(ModRm, Address), DecodeFault> {
        let byte = self.reader.byte()?;
        let modrm = ModRm {
            mode: byte >> 6,
            register: byte >> 3 & 7 | self.prefixes.rex_bit(2) << 3,
            memory: byte & 7,
        };
        if modrm.mode == 3 {
            return Err(DecodeFault::Unknown);
        }
        let bytes = self.address_bytes();
        let mut address = Address { bytes, ..Address::default() };
        let default_segment = if bytes == 2 {
            self.word_form(&modrm, &mut address)?
        } else {
            self.full_form(&modrm, &mut address)?
        };
        address.segment = self.prefixes.segment.unwrap_or(default_segment);
        Ok((modrm, address))
    }

    /// 16-bit addresses (volume 3, table "ModRM Memory References, 16-Bit Addressing").
    fn word_form(&mut self, modrm: &ModRm, address: &mut Address) -> Result<u8, DecodeFault> {
        const BX: u8 = 3;
        const BP: u8 = 5;
        const SI: u8 = 6;
        const DI: u8 = 7;
        let (base, index) = match modrm.memory {
            0 => (Some(BX), Some((SI, 0))),
            1 => (Some(BX), Some((DI, 0))),
            2 => (Some(BP), Some((SI, 0))),
            3 => (Some(BP), Some((DI, 0))),
            4 => (Some(SI), None),
            5 => (Some(DI), None),
            6 if modrm.mode == 0 => (None, None),
            6 => (Some(BP), None),
            _ => (Some(BX), None),
        };
        (address.base, address.index) = (base, index);
        address.displacement = match modrm.mode {
            0 if modrm.memory == 6 => self.reader.number(2)?,
            0 => 0,
            1 => self.reader.number(1)?,
            _ => self.reader.number(2)?,
        };
        Ok(if base == Some(BP) { SEGMENT_SS } else { SEGMENT_DS })
    }

    /// 32-bit and 64-bit addresses (volume 3, tables "ModRM Memory References" and "SIB.base field").
    fn full_form(&mut self, modrm: &ModRm, address: &mut Address) -> Result<u8, DecodeFault> {
        let mut base = Some(modrm.memory);
        if modrm.memory == 4 {
            let sib = self.reader.byte()?;
            let index = sib >> 3 & 7 | self.prefixes.rex_bit(1) << 3;
            address.index = (index != 4).then_some((index, sib >> 6));
            base = Some(sib & 7);
        }
        let without_base = modrm.mode == 0 && base == Some(5);
        address.displacement = match modrm.mode {
            0 if without_base => self.reader.number(4)?,
            0 => 0,
            1 => self.reader.number(1)?,
            _ => self.reader.number(4)?,
        };
        if without_base {
            address.from_next = self.mode == Mode::Long && modrm.memory == 5;
            return Ok(SEGMENT_DS);
        }
        address.base = base.map(|base| base | self.prefixes.rex_bit(0) << 3);
        Ok(if matches!(address.base, Some(4 | 5)) { SEGMENT_SS } else { SEGMENT_DS })
    }
}

/// The operation of that number in the first column of the opcode map, and whether it only compares.
const fn alu(number: u8) -> Result<(Alu, bool), DecodeFault> {
    match number & 7 {
        0 => Ok((Alu::Add, false)),
        1 => Ok((Alu::Or, false)),
        4 => Ok((Alu::And, false)),
        5 => Ok((Alu::Subtract, false)),
        6 => Ok((Alu::Xor, false)),
        7 => Ok((Alu::Subtract, true)),
        _ => Err(DecodeFault::Unknown),
    }
}

#[cfg(test)]
mod tests;
