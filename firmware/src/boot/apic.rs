//! The local APIC: who a processor is, and how it wakes, stops or calls another (AMD64 24593, chapter 16).

use crate::memory::Registers;
use core::hint::spin_loop;
use x86_64::registers::model_specific::{ApicBase, ApicBaseFlags};

const ID: u64 = 0x20;
const SPURIOUS: u64 = 0xF0;
const END_OF_INTERRUPT: u64 = 0xB0;
const COMMAND_LOW: u64 = 0x300;
const COMMAND_HIGH: u64 = 0x310;
const TIMER: u64 = 0x320;
const TIMER_INITIAL: u64 = 0x380;
const TIMER_CURRENT: u64 = 0x390;
const TIMER_DIVIDER: u64 = 0x3E0;
/// The divider's register: by one.
const BY_ONE: u32 = 0b1011;
/// A local vector that does not interrupt.
const MASKED: u32 = 1 << 16;
/// The spurious vector register's enable bit.
const ENABLE: u32 = 1 << 8;
/// The command register's delivery status: not yet accepted.
const PENDING: u32 = 1 << 12;
const ASSERT: u32 = 1 << 14;
const MODE_NMI: u32 = 0x400;
const MODE_INIT: u32 = 0x500;
const MODE_STARTUP: u32 = 0x600;
const ALL_BUT_SELF: u32 = 0xC_0000;
/// How often the delivery status is looked at before the interrupt counts as lost.
const POLLS_MAX: u32 = 1_000_000;

/// The registers of the processor that asks, in memory.
#[derive(Debug)]
pub struct LocalApic(Registers);

impl LocalApic {
    /// The asking processor's APIC; `None` if it is off, or not in the mode in which it has registers in memory.
    #[must_use]
    pub fn own() -> Option<Self> {
        let (frame, flags) = ApicBase::read();
        let base = frame.start_address().as_u64();
        let usable =
            flags.contains(ApicBaseFlags::LAPIC_ENABLE) && !flags.contains(ApicBaseFlags::X2APIC_ENABLE);
        Registers::at(base..base + 4096).filter(|_| usable).map(Self)
    }

    /// This processor's identifier.
    #[must_use]
    pub fn id(&self) -> u8 {
        self.0.read32(ID).to_be_bytes()[0]
    }

    /// Lets the APIC deliver.
    pub fn enable(&mut self) {
        let spurious = self.0.read32(SPURIOUS);
        self.0.write32(SPURIOUS, spurious | ENABLE);
    }

    /// Counts from `start` down to zero, then interrupts once by `vector`, or not at all without one.
    pub(super) fn set_timer(&mut self, vector: Option<u8>, start: u32) {
        self.0.write32(TIMER_DIVIDER, BY_ONE);
        self.0.write32(TIMER, vector.map_or(MASKED, u32::from));
        self.0.write32(TIMER_INITIAL, start);
    }

    /// Where the timer is in its count.
    pub(super) fn timer(&self) -> u32 {
        self.0.read32(TIMER_CURRENT)
    }

    /// Says that an interrupt was taken.
    pub(super) fn end_interrupt(&mut self) {
        self.0.write32(END_OF_INTERRUPT, 0);
    }

    /// Resets another processor. Returns whether that was delivered.
    pub fn init(&mut self, id: u8) -> bool {
        self.send(u32::from(id) << 24, MODE_INIT | ASSERT)
    }

    /// Starts another processor at page `page` of memory. Returns whether that was delivered.
    pub fn start_up(&mut self, id: u8, page: u8) -> bool {
        self.send(u32::from(id) << 24, MODE_STARTUP | ASSERT | u32::from(page))
    }

    /// Sends a non-maskable interrupt to another processor. Returns whether that was delivered.
    pub fn nmi(&mut self, id: u8) -> bool {
        self.send(u32::from(id) << 24, MODE_NMI | ASSERT)
    }

    /// Sends a non-maskable interrupt to every other processor. Returns whether that was delivered.
    pub fn nmi_all_others(&mut self) -> bool {
        self.send(0, MODE_NMI | ASSERT | ALL_BUT_SELF)
    }

    /// The destination in the command register, which outlives a command.
    pub(super) fn destination(&self) -> u32 {
        self.0.read32(COMMAND_HIGH)
    }

    /// Puts it back.
    pub(super) fn set_destination(&mut self, destination: u32) {
        self.0.write32(COMMAND_HIGH, destination);
    }

    fn send(&mut self, high: u32, low: u32) -> bool {
        let free = self.accepted();
        self.0.write32(COMMAND_HIGH, high);
        self.0.write32(COMMAND_LOW, low);
        free && self.accepted()
    }

    fn accepted(&self) -> bool {
        (0..POLLS_MAX).any(|_| {
            spin_loop();
            self.0.read32(COMMAND_LOW) & PENDING == 0
        })
    }
}
