//! The decoder against `iced-x86`: what is decoded means the same, and what is ours is decoded.

use super::{DecodeFault, Instruction, Mode, Operation, Register, Size, Strings, decode};
use iced_x86::{Code, Decoder, DecoderOptions, InstructionInfoFactory, Mnemonic, OpAccess, OpKind};
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};
use std::format;
use std::string::String;
use std::vec::Vec;

const MODES: [(Mode, u32); 3] = [(Mode::Word, 16), (Mode::Dword, 32), (Mode::Long, 64)];

fn reference(bytes: &[u8], bits: u32) -> iced_x86::Instruction {
    Decoder::with_ip(bits, bytes, 0, DecoderOptions::AMD).decode()
}

fn number(register: iced_x86::Register) -> Option<u8> {
    (register != iced_x86::Register::None).then(|| u8::try_from(register.number()).expect("sound"))
}

/// Whether an instruction of the reference is one that we promise to know.
fn is_ours(known: &iced_x86::Instruction) -> bool {
    use Mnemonic::{
        Add, And, Cmp, Insb, Lodsb, Lodsd, Lodsq, Lodsw, Mov, Movsb, Movsd, Movsq, Movsw, Movsx, Movsxd,
    };
    use Mnemonic::{Movzx, Or, Stosb, Stosd, Stosq, Stosw, Sub, Test, Xchg, Xor};
    let mnemonics = [
        Add, And, Cmp, Insb, Lodsb, Lodsd, Lodsq, Lodsw, Mov, Movsb, Movsd, Movsq, Movsw, Movsx, Movsxd,
        Movzx, Or, Stosb, Stosd, Stosq, Stosw, Sub, Test, Xchg, Xor,
    ];
    let memory = (0..known.op_count()).any(|n| {
        !matches!(
            known.op_kind(n),
            OpKind::Register
                | OpKind::Immediate8
                | OpKind::Immediate16
                | OpKind::Immediate32
                | OpKind::Immediate64
                | OpKind::Immediate8to16
                | OpKind::Immediate8to32
                | OpKind::Immediate8to64
                | OpKind::Immediate32to64
        )
    });
    let system = (0..known.op_count()).any(|n| {
        let register = known.op_register(n);
        register.is_segment_register() || register.is_cr() || register.is_dr() || register.is_tr()
    });
    let vector = matches!(known.code(), Code::Movsd_xmm_xmmm64 | Code::Movsd_xmmm64_xmm);
    // Group 82 is a second way to 80, in 32-bit code only; nobody writes it.
    let alias = matches!(
        known.code(),
        Code::Add_rm8_imm8_82
            | Code::Or_rm8_imm8_82
            | Code::And_rm8_imm8_82
            | Code::Sub_rm8_imm8_82
            | Code::Xor_rm8_imm8_82
            | Code::Cmp_rm8_imm8_82
    );
    let narrow = known.code() == Code::Movsxd_r16_rm16;
    mnemonics.contains(&known.mnemonic()) && memory && !system && !vector && !alias && !narrow
}

fn agrees(ours: &Instruction, known: &iced_x86::Instruction, mode: Mode) -> Result<(), String> {
    let check =
        |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what}: {ours:?} {known:?}")) };
    check(usize::from(ours.length) == known.len(), "length")?;
    check(known.memory_size().size() == ours.size as usize, "size")?;
    if let Operation::String(_, repeats) = ours.operation {
        return check(known.has_rep_prefix() || known.has_repne_prefix() == repeats, "repeat");
    }
    let address = &ours.address;
    let rip = matches!(known.memory_base(), iced_x86::Register::RIP | iced_x86::Register::EIP);
    check(rip == address.from_next, "relative to RIP")?;
    if !rip {
        check(number(known.memory_base()) == address.base, "base")?;
        let mask = u64::MAX >> (64 - 8 * u32::from(address.bytes));
        let displacement = known.memory_displacement64() & mask;
        check(displacement == address.displacement.cast_unsigned() & mask, "displacement")?;
    }
    let index = number(known.memory_index())
        .map(|index| (index, u8::try_from(known.memory_index_scale().trailing_zeros()).expect("sound")));
    check(index == address.index, "index")?;
    let segment = u8::try_from(known.memory_segment().number()).expect("sound");
    check(segment == address.segment || mode == Mode::Long && segment < 4 && address.segment < 4, "segment")?;
    effect_agrees(ours, known).then_some(()).ok_or_else(|| format!("effect: {ours:?} {known:?}"))
}

/// Whether memory is read and written as the reference says.
fn effect_agrees(ours: &Instruction, known: &iced_x86::Instruction) -> bool {
    use super::Outcome;
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(known);
    let Some(used) = info.used_memory().first() else { return false };
    let (reads, writes) = match used.access() {
        OpAccess::Read => (true, false),
        OpAccess::Write => (false, true),
        OpAccess::ReadWrite => (true, true),
        _ => return false,
    };
    match ours.operation {
        Operation::Load { .. } => reads && !writes,
        Operation::Store(_) => writes && !reads,
        Operation::Exchange(_) | Operation::Arithmetic(_, _, Outcome::ToMemory) => reads && writes,
        Operation::Arithmetic(_, _, _) => reads && !writes,
        Operation::String(..) => true,
    }
}

fn both_ways(bytes: &[u8], (mode, bits): (Mode, u32)) -> Result<(), String> {
    let known = reference(bytes, bits);
    match decode(bytes, mode) {
        Ok(ours) if is_ours(&known) => agrees(&ours, &known, mode),
        Ok(ours) => Err(format!("{ours:?} is {known:?} to the reference")),
        Err(_) if is_ours(&known) => {
            Err(format!("{known:?} ({:?}) is not decoded: {bytes:02x?}", known.code()))
        }
        Err(_) => Ok(()),
    }
}

/// Bytes that are often an instruction of ours.
fn likely() -> impl Strategy<Value = Vec<u8>> {
    let prefix = proptest::sample::select(
        &[0x66u8, 0x67, 0xF0, 0xF2, 0xF3, 0x26, 0x2E, 0x64, 0x65, 0x41, 0x48, 0x4F][..],
    );
    let opcode = proptest::sample::select(
        &[
            0x01u8, 0x08, 0x0A, 0x0B, 0x0F, 0x21, 0x23, 0x29, 0x31, 0x33, 0x38, 0x39, 0x3A, 0x3B, 0x63, 0x6C,
            0x80, 0x81, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8B, 0xA0, 0xA1, 0xA2, 0xA3, 0xA4,
            0xA5, 0xAA, 0xAB, 0xAC, 0xAD, 0xC6, 0xC7, 0xF6, 0xF7,
        ][..],
    );
    let second = proptest::sample::select(&[0xB6u8, 0xB7, 0xBE, 0xBF][..]);
    (proptest::collection::vec(prefix, 0..5), opcode, second, any::<[u8; 14]>()).prop_map(
        |(mut bytes, opcode, second, rest)| {
            bytes.push(opcode);
            if opcode == 0x0F {
                bytes.push(second);
            }
            bytes.extend(rest);
            bytes
        },
    )
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(4000))]

    #[test]
    fn what_is_likely_means_what_the_reference_says(bytes in likely()) {
        for mode in MODES {
            prop_assert_eq!(both_ways(&bytes, mode), Ok(()));
        }
    }

    #[test]
    fn what_is_random_means_what_the_reference_says(bytes in any::<[u8; 16]>()) {
        for mode in MODES {
            prop_assert_eq!(both_ways(&bytes, mode), Ok(()));
        }
    }

    #[test]
    fn an_instruction_cut_short_is_truncated(bytes in likely()) {
        for (mode, _) in MODES {
            if let Ok(whole) = decode(&bytes, mode) {
                for length in 0..usize::from(whole.length) {
                    prop_assert!(decode(&bytes[..length], mode) == Err(DecodeFault::Truncated));
                }
            }
        }
    }
}

#[test]
fn fifteen_bytes_are_an_instruction_and_sixteen_are_none() {
    let mut bytes = std::vec![0x2E; 13];
    bytes.extend([0x8B, 0x07]);
    assert_eq!(decode(&bytes, Mode::Long).map(|whole| whole.length), Ok(15));
    bytes.insert(0, 0x2E);
    assert_eq!(decode(&bytes, Mode::Long), Err(DecodeFault::Truncated));
}

#[test]
fn what_drivers_use_is_read_as_written() {
    let table: &[(&[u8], Mode, Size, Operation)] = &[
        (
            &[0x8A, 0x67, 0x04],
            Mode::Long,
            Size::Byte,
            Operation::Load { into: Register::High(0), size: Size::Byte, extension: super::Extension::Zero },
        ),
        (&[0xF3, 0x48, 0xA5], Mode::Long, Size::Qword, Operation::String(Strings::Move, true)),
        (
            &[0xA1, 0x0C, 0, 0xD4, 0xFE],
            Mode::Dword,
            Size::Dword,
            Operation::Load { into: Register::Low(0), size: Size::Dword, extension: super::Extension::Zero },
        ),
        (
            &[0xC7, 0x47, 0x4C, 1, 0, 0, 0],
            Mode::Long,
            Size::Dword,
            Operation::Store(super::Operand::Immediate(1)),
        ),
    ];
    for (bytes, mode, size, operation) in table {
        let read = decode(bytes, *mode).expect("sound");
        assert_eq!((usize::from(read.length), read.size, read.operation), (bytes.len(), *size, *operation));
    }
}

#[test]
fn registers_in_the_place_of_memory_and_locked_moves_are_refused() {
    for bytes in
        [&[0x8B, 0xC0][..], &[0xF0, 0x89, 0x07], &[0xC7, 0xF8, 0, 0, 0, 0], &[0x0F, 0x05], &[0x10, 0x07]]
    {
        assert_eq!(decode(bytes, Mode::Long), Err(DecodeFault::Unknown));
    }
}
