//! Which model-specific registers a guest has (AMD64 APM volume 2, section 15.11 and appendix A).
//!
//! All exit but those that the processor keeps per guest or that reach nothing but the guest. Of the rest some read true and ignore
//! writes; everything else is #GP, as on a processor that lacks it: SVM's own registers, the SMM registers and every
//! register that moves memory or devices, or that gives a hypervisor below us an address to write to.

use super::vmcb::{EFER_LMA, EFER_SVME};
use core::ops::RangeInclusive;

/// Size of the permission map in bytes.
const MAP_BYTES: usize = 0x2000;

/// EFER.
pub const EFER: u32 = 0xC000_0080;
/// TSC.
pub const TSC: u32 = 0x10;
/// APIC_BASE.
pub const APIC_BASE: u32 = 0x1B;
/// MCG_CAP.
pub const MCG_CAP: u32 = 0x179;

/// The registers that do not exit.
const OPEN: [RangeInclusive<u32>; 9] = [
    0x48..=0x49,
    0x174..=0x176,
    0x277..=0x277,
    0x6E0..=0x6E0,
    0xDA0..=0xDA0,
    0xC000_0081..=0xC000_0084,
    0xC000_0100..=0xC000_0103,
    0x1D9..=0x1D9,
    0xC000_00E7..=0xC000_00E8,
];

/// The registers of machine-check banks, four a bank (volume 2, section 9.3): 32 banks, of which a processor has the first MCG_CAP\[7:0\].
pub const BANKS: RangeInclusive<u32> = 0x400..=0x47F;

/// The registers that read true and ignore writes: memory types, machine check, microcode level, SYSCFG, HWCR, TOP_MEM, TOP_MEM2, NB_CFG.
const TRUE: [RangeInclusive<u32>; 12] = [
    0xFE..=0xFE,
    0x8B..=0x8B,
    0x179..=0x17A,
    0x200..=0x20F,
    0x250..=0x250,
    0x258..=0x259,
    0x268..=0x26F,
    0x2FF..=0x2FF,
    0xC001_0010..=0xC001_0010,
    0xC001_0015..=0xC001_0015,
    0xC001_001A..=0xC001_001D,
    0xC001_001F..=0xC001_001F,
];

/// The permission map: two bits a register, read and write; set ones exit.
#[derive(Clone, Debug)]
#[repr(C, align(4096))]
pub struct Permissions([u8; MAP_BYTES]);

impl Permissions {
    /// What every guest gets.
    #[must_use]
    pub const fn standard() -> Self {
        let mut map = Self([0xFF; MAP_BYTES]);
        let mut at = 0;
        while at < OPEN.len() {
            let mut register = *OPEN[at].start();
            while register <= *OPEN[at].end() {
                map.open(register);
                register += 1;
            }
            at += 1;
        }
        // TSC is read freely and written through an offset.
        if let Some((byte, shift)) = Self::place(TSC) {
            map.0[byte] &= !(0b01 << shift);
        }
        map
    }

    const fn open(&mut self, register: u32) {
        if let Some((byte, shift)) = Self::place(register) {
            self.0[byte] &= !(0b11 << shift);
        }
    }

    /// The byte of a register's bits, and the place of the lower one.
    const fn place(register: u32) -> Option<(usize, u32)> {
        let vector = match register {
            0..=0x1FFF => register,
            0xC000_0000..=0xC000_1FFF => 0x2000 + (register - 0xC000_0000),
            0xC001_0000..=0xC001_1FFF => 0x4000 + (register - 0xC001_0000),
            _ => return None,
        };
        Some(((vector / 4) as usize, vector % 4 * 2))
    }

    /// Whether reading and writing a register exits.
    #[must_use]
    pub const fn exits(&self, register: u32) -> (bool, bool) {
        match Self::place(register) {
            Some((byte, shift)) => (self.0[byte] >> shift & 1 != 0, self.0[byte] >> shift & 2 != 0),
            None => (true, true),
        }
    }
}

/// What a guest gets for an access that exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It reads this.
    Value(u64),
    /// It reads what the processor has.
    Real,
    /// EFER becomes this, as the guest means it.
    Efer(u64),
    /// Its TSC is this from now on.
    Tsc(u64),
    /// The write has no effect.
    Ignored,
    /// #GP(0).
    Refused,
}

/// What a guest that reads `register` gets; `efer` is as in its control block, `mcg_cap` the processor's,
/// which counts for [`BANKS`] alone.
#[must_use]
pub fn read(register: u32, efer: u64, mcg_cap: u64) -> Answer {
    match register {
        EFER => Answer::Value(efer & !EFER_SVME),
        APIC_BASE => Answer::Real,
        _ if is_true(register) || is_of_a_bank(register, mcg_cap) => Answer::Real,
        _ => Answer::Refused,
    }
}

/// What a guest's machine is like when it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// EFER as in the control block.
    pub efer: u64,
    /// Whether paging is on.
    pub paging: bool,
    /// The processor's APIC_BASE.
    pub apic_base: u64,
    /// The processor's MCG_CAP, which counts for [`BANKS`] alone.
    pub mcg_cap: u64,
}

/// What a guest that writes `value` to `register` gets.
#[must_use]
pub fn write(register: u32, value: u64, now: Now) -> Answer {
    match register {
        EFER => efer(value, now),
        TSC => Answer::Tsc(value),
        // The APIC stays where it is, on, and not x2APIC.
        APIC_BASE if value == now.apic_base => Answer::Ignored,
        _ if is_true(register) || is_of_a_bank(register, now.mcg_cap) => Answer::Ignored,
        _ => Answer::Refused,
    }
}

/// Volume 2, section 3.1.7: SCE, LME, LMA, NXE, FFXSR, TCE, AutoIBRS. SVME is reserved on a processor without SVM.
fn efer(value: u64, now: Now) -> Answer {
    const LME: u64 = 1 << 8;
    const KNOWN: u64 = 1 | LME | EFER_LMA | 1 << 11 | 1 << 14 | 1 << 15 | 1 << 21;
    let switches_mode = (value ^ now.efer) & LME != 0;
    if value & !KNOWN != 0 || (now.paging && switches_mode) {
        return Answer::Refused;
    }
    Answer::Efer(value & !EFER_LMA | now.efer & EFER_LMA)
}

fn is_true(register: u32) -> bool {
    TRUE.iter().any(|range| range.contains(&register))
}

/// Whether a register belongs to a bank that the processor has: to read another would be a fault of ours.
fn is_of_a_bank(register: u32, mcg_cap: u64) -> bool {
    BANKS.contains(&register) && u64::from((register - BANKS.start()) / 4) < mcg_cap & 0xFF
}

#[cfg(test)]
mod tests {
    use super::{Answer, EFER, Now, Permissions, read, write};
    use proptest::prelude::{any, prop_assert_eq, proptest};

    const NOW: Now =
        Now { efer: 1 << 12 | 1 << 10 | 1 << 8, paging: true, apic_base: 0xFEE0_0900, mcg_cap: 0x0100_010A };
    /// VM_CR, IGNNE, SMM_CTL, VM_HSAVE_PA, SMM_KEY, SMM_ADDR, SMM_MASK, MMIO base, IORR, kvmclock, x2APIC's ICR.
    const NEVER: [u32; 11] = [
        0xC001_0114,
        0xC001_0115,
        0xC001_0116,
        0xC001_0117,
        0xC001_0118,
        0xC001_0112,
        0xC001_0113,
        0xC001_0058,
        0xC001_0016,
        0x4B56_4D01,
        0x830,
    ];

    #[test]
    fn what_would_open_the_layer_is_not_there() {
        let map = Permissions::standard();
        for register in NEVER {
            assert_eq!(map.exits(register), (true, true));
            assert_eq!(read(register, 0, NOW.mcg_cap), Answer::Refused);
            assert_eq!(write(register, 0x1000_0000, NOW), Answer::Refused);
        }
    }

    #[test]
    fn efer_keeps_svme_and_never_shows_it() {
        assert_eq!(Permissions::standard().exits(EFER), (true, true));
        assert_eq!(read(EFER, NOW.efer, 0), Answer::Value(1 << 10 | 1 << 8));
        assert_eq!(write(EFER, 1 << 12, NOW), Answer::Refused);
        assert_eq!(write(EFER, 1 << 8 | 1 << 11, NOW), Answer::Efer(1 << 8 | 1 << 11 | 1 << 10));
        assert_eq!(write(EFER, 1 << 11, NOW), Answer::Refused, "no way out of long mode while paging");
    }

    #[test]
    fn as_many_banks_are_there_as_the_processor_says() {
        for (register, banks, there) in [
            (0x400, 1, true),
            (0x404, 1, false),
            (0x419, 10, true),
            (0x428, 10, false),
            (0x47F, 255, true),
            (0x480, 255, false),
        ] {
            let now = Now { mcg_cap: 1 << 24 | 1 << 8 | banks, ..NOW };
            let [reads, writes] = if there { [Answer::Real, Answer::Ignored] } else { [Answer::Refused; 2] };
            assert_eq!(read(register, 0, now.mcg_cap), reads, "{register:#x} of {banks} banks");
            assert_eq!(write(register, u64::MAX, now), writes, "{register:#x} of {banks} banks");
        }
    }

    #[test]
    fn the_apic_stays_where_it_is() {
        assert_eq!(write(0x1B, 0xFEE0_0900, NOW), Answer::Ignored);
        for moved in [0x1000_0900, 0xFEE0_0100, 0xFEE0_0D00] {
            assert_eq!(write(0x1B, moved, NOW), Answer::Refused);
        }
    }

    proptest! {
        #[test]
        fn only_the_open_ones_do_not_exit(register in any::<u32>(), low in 0u32..0x2000, group in 0u32..3) {
            let map = Permissions::standard();
            for register in [register, low + [0, 0xC000_0000, 0xC001_0000][group as usize]] {
                let (reads, writes) = map.exits(register);
                let open = super::OPEN.iter().any(|range| range.contains(&register));
                prop_assert_eq!(writes, !open);
                prop_assert_eq!(reads, !open && register != super::TSC);
            }
        }
    }
}
