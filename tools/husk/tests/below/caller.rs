//! The guest `caller.S`, by remote control.

use crate::layer::Memory;
use crate::world::{Machine, Start, World, kernel};
use std::io::Write;
use std::process::{ChildStdin, Stdio};

/// Where the second processor finds its calls.
const AP_BLOCK: u64 = 0x30_0000;
const AP_FLAG: u64 = AP_BLOCK + 0x40;
/// The TPM's registers in locality 0 and its buffer (TCG PC Client Platform TPM Profile 1.06, section 6.5.3).
const CRB: u64 = 0xFED4_0000;
const LOCALITY_CONTROL: u64 = 0x08;
const REQUEST: u64 = 0x40;
const STATUS: u64 = 0x44;
const START: u64 = 0x4C;
const BUFFER: u64 = 0x1000;
/// #UD.
pub(crate) const UNDEFINED: u64 = 6;

/// RAX, RCX, RDX, R8 and R9.
pub(crate) type Registers = [u64; 5];

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The vector of the exception that it raised, or 0.
    pub(crate) raised: u64,
    pub(crate) registers: Registers,
}

impl Outcome {
    fn of(bytes: &[u8]) -> Self {
        let number = |at: usize| u64::from_le_bytes(*bytes[8 * at..].first_chunk().expect("a number"));
        Self { raised: number(0), registers: [1, 2, 3, 4, 5].map(number) }
    }

    /// No exception: the registers.
    #[track_caller]
    pub(crate) fn answered(self) -> Registers {
        assert_eq!(self.raised, 0, "{self:x?}");
        self.registers
    }
}

/// A guest that waits for orders.
pub(crate) struct Caller {
    machine: Machine,
    serial: ChildStdin,
    /// What the image said before the guest did.
    pub(crate) said: Vec<String>,
    /// What a VMMCALL raised before the guest was in 64-bit mode.
    pub(crate) raised_in_32_bits: u64,
}

impl Caller {
    /// Starts a machine with two processors, with more words for `husk run`.
    pub(crate) fn start(world: &World, words: &[&str]) -> Self {
        let kernel = kernel(world.folder(), "caller", 0);
        let (mut machine, serial) =
            world.start(Start { disk: "disk", kernel: &kernel, cpus: 2, words, serial: Stdio::piped() });
        let serial = serial.expect("piped");
        let said = machine.until_line("=");
        let raised = bytes(&said)[0].into();
        Self { machine, serial, said, raised_in_32_bits: raised }
    }

    pub(crate) fn write(&mut self, address: u64, content: &[u8]) {
        let count = u32::try_from(content.len()).expect("little");
        self.order(b'w', &[&address.to_le_bytes()[..], &count.to_le_bytes(), content].concat());
    }

    pub(crate) fn read(&mut self, address: u64, count: u64) -> Vec<u8> {
        let count = u32::try_from(count).expect("little");
        self.order(b'r', &[&address.to_le_bytes()[..], &count.to_le_bytes()].concat())
    }

    pub(crate) fn word(&mut self, address: u64) -> u32 {
        u32::from_le_bytes(self.read(address, 4).try_into().expect("four bytes"))
    }

    pub(crate) fn call(&mut self, registers: Registers) -> Outcome {
        Outcome::of(&self.order(b'c', &laid_out(registers)))
    }

    /// INIT and start-up of the second processor, whatever it does.
    pub(crate) fn start_second(&mut self) {
        self.order(b's', &[]);
    }

    /// Has the second processor make a call, and does not wait for it.
    pub(crate) fn second_calls(&mut self, registers: Registers) {
        self.write(AP_BLOCK + 8, &laid_out(registers));
        self.write(AP_FLAG, &1u32.to_le_bytes());
    }

    /// Whether the second processor's call is still under way.
    pub(crate) fn second_waits(&mut self) -> bool {
        self.word(AP_FLAG) == 1
    }

    /// What came of the second processor's call.
    pub(crate) fn second_outcome(&mut self) -> Outcome {
        while self.second_waits() {}
        Outcome::of(&self.read(AP_BLOCK, 48))
    }

    /// The machine that it runs on.
    pub(crate) const fn machine(&self) -> &Machine {
        &self.machine
    }

    /// One command by the registers of locality 0 at the PTP's address, and its response.
    pub(crate) fn command(&mut self, command: &[u8]) -> Vec<u8> {
        self.start_command(command);
        while self.word(CRB + START) & 1 != 0 {}
        let head = self.read(CRB + BUFFER, 10);
        let size = u32::from_be_bytes(*head[2..].first_chunk().expect("a header"));
        self.read(CRB + BUFFER, size.into())
    }

    /// The same, without waiting for the response.
    pub(crate) fn start_command(&mut self, command: &[u8]) {
        const IDLE: u32 = 2;
        self.write(CRB + LOCALITY_CONTROL, &1u32.to_le_bytes());
        self.write(CRB + REQUEST, &1u32.to_le_bytes());
        assert_eq!(self.word(CRB + STATUS) & IDLE, 0);
        self.write(CRB + BUFFER, command);
        self.write(CRB + START, &1u32.to_le_bytes());
    }

    /// Switches the machine off, and says what was counted.
    pub(crate) fn end(mut self) -> Vec<String> {
        let lines = self.power_off();
        self.machine.quit();
        lines
    }

    /// Switches the machine off; what its memory holds then, and what its console ever said.
    pub(crate) fn end_and_look(mut self) -> (Memory, Vec<u8>) {
        self.power_off();
        let memory = self.machine.memory_when_off();
        let console = self.machine.console();
        self.machine.quit();
        (memory, console)
    }

    fn power_off(&mut self) -> Vec<String> {
        self.serial.write_all(b"q").expect("the guest hears");
        self.machine.until_line("husk: count: odd")
    }

    fn order(&mut self, letter: u8, numbers: &[u8]) -> Vec<u8> {
        self.serial.write_all(&[&[letter], numbers].concat()).expect("the guest hears");
        bytes(&self.machine.until_line("="))
    }
}

fn laid_out(registers: Registers) -> Vec<u8> {
    registers.iter().flat_map(|register| register.to_le_bytes()).collect()
}

/// What the last line says.
fn bytes(lines: &[String]) -> Vec<u8> {
    let line = lines.last().expect("a line");
    let digits = line.trim_start_matches(['=', ' ']).as_bytes();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).expect("text"));
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal")).collect()
}
