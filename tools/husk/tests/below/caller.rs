//! The guest `caller.S`, by remote control.

use crate::world::{Machine, Start, World, kernel};
use std::io::Write;
use std::process::{ChildStdin, Stdio};

/// Where the second processor finds its calls.
const AP_BLOCK: u64 = 0x30_0000;
const AP_FLAG: u64 = AP_BLOCK + 0x40;
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

    /// Switches the machine off, and says what was counted.
    pub(crate) fn end(mut self) -> Vec<String> {
        self.serial.write_all(b"q").expect("the guest hears");
        let lines = self.machine.until_line("husk: count: odd");
        self.machine.quit();
        lines
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
