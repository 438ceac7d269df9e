//! What an instruction says, as far as the layer redoes it.

/// How the processor reads code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 16-bit: real mode, or a 16-bit code segment.
    Word,
    /// 32-bit.
    Dword,
    /// 64-bit.
    Long,
}

/// How many bytes an operand has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// One.
    Byte = 1,
    /// Two.
    Word = 2,
    /// Four.
    Dword = 4,
    /// Eight.
    Qword = 8,
}

/// A general register or a byte of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// Register number 0 (RAX) to 15, from its lowest byte.
    Low(u8),
    /// AH, CH, DH or BH: the second byte of register 0 to 3.
    High(u8),
}

/// The other operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A register.
    Register(Register),
    /// An immediate, sign-extended.
    Immediate(i32),
}

/// How a narrow value fills a wide register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// With zeros.
    Zero,
    /// With its sign.
    Sign,
}

/// Arithmetic and logic that needs no carry from before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alu {
    /// ADD.
    Add,
    /// OR.
    Or,
    /// AND, TEST.
    And,
    /// SUB, CMP.
    Subtract,
    /// XOR.
    Xor,
}

/// What becomes of an arithmetic result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Memory is the left operand and takes the result.
    ToMemory,
    /// The register is the left operand and takes the result.
    ToRegister,
    /// Memory is the left operand; only flags change.
    FlagsMemoryLeft,
    /// The register is the left operand; only flags change.
    FlagsRegisterLeft,
}

/// String instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strings {
    /// MOVS.
    Move,
    /// STOS.
    Store,
    /// LODS.
    Load,
    /// INS of bytes, whose source is a port.
    Input,
}

/// What is to be done with the memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// MOV to a register, MOVZX, MOVSX: fills `size` bytes of it.
    Load {
        /// The register.
        into: Register,
        /// How much of it is written.
        size: Size,
        /// How.
        extension: Extension,
    },
    /// MOV from a register or an immediate.
    Store(Operand),
    /// XCHG.
    Exchange(Register),
    /// Arithmetic.
    Arithmetic(Alu, Operand, Outcome),
    /// A string instruction, repeated or not.
    String(Strings, bool),
}

/// A memory operand as the instruction names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// Base register.
    pub base: Option<u8>,
    /// Index register, and how far it is shifted left.
    pub index: Option<(u8, u8)>,
    /// Displacement, sign-extended.
    pub displacement: i64,
    /// Counted from the next instruction.
    pub from_next: bool,
    /// Segment register by its encoding: ES, CS, SS, DS, FS, GS.
    pub segment: u8,
    /// Bytes of an effective address: two, four or eight.
    pub bytes: u8,
}

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Its length in bytes.
    pub length: u8,
    /// Size of the memory operand.
    pub size: Size,
    /// The memory operand; of a string instruction only segment and width mean something.
    pub address: Address,
    /// What to do.
    pub operation: Operation,
}
