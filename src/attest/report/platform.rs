//! What a report says of the platform and of what the guest may be: policies, generations, patch levels.

use bitflags::bitflags;

bitflags! {
    /// POLICY (AMD 56860, table "guest policy structure"). The low 16 bits are a version, not flags: see [`Policy::abi`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Policy: u64 {
        /// Bit 16: simultaneous multithreading is allowed.
        const SMT = 1 << 16;
        /// Bit 17: reserved, must be one.
        const RESERVED_ONE = 1 << 17;
        /// Bit 18: a migration agent is allowed.
        const MIGRATE_MA = 1 << 18;
        /// Bit 19: the host may debug the guest, that is read and write its memory.
        const DEBUG = 1 << 19;
        /// Bit 20: only on one socket.
        const SINGLE_SOCKET = 1 << 20;
        /// Bit 21: CXL devices are allowed.
        const CXL_ALLOW = 1 << 21;
        /// Bit 22: AES-256-XTS memory encryption is required.
        const MEM_AES_256_XTS = 1 << 22;
        /// Bit 23: running average power limit must be off.
        const RAPL_DIS = 1 << 23;
        /// Bit 24: ciphertext hiding is required.
        const CIPHERTEXT_HIDING_DRAM = 1 << 24;
        /// Bit 25: guest page swapping must be off.
        const PAGE_SWAP_DISABLE = 1 << 25;
        /// Bits 15:0: the lowest ABI version.
        const ABI = 0xFFFF;
    }

    /// PLATFORM_INFO (AMD 56860). Bits beyond these are never a reason to refuse.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PlatformInfo: u64 {
        /// Bit 0: simultaneous multithreading is on.
        const SMT_EN = 1 << 0;
        /// Bit 1: TSME is on.
        const TSME_EN = 1 << 1;
        /// Bit 2: the memory has ECC.
        const ECC_EN = 1 << 2;
        /// Bit 3: RAPL is off.
        const RAPL_DIS = 1 << 3;
        /// Bit 4: ciphertext hiding is on.
        const CIPHERTEXT_HIDING_DRAM_EN = 1 << 4;
        /// Bit 5: no memory alias was found (AMD-SB-3015).
        const ALIAS_CHECK_COMPLETE = 1 << 5;
        /// Bit 7: SEV-TIO is on.
        const TIO_EN = 1 << 7;
    }
}

impl Policy {
    /// Whether the reserved bits are as the table demands: bit 17 is one, bits 63:26 are zero.
    #[must_use]
    pub const fn is_well_formed(self) -> bool {
        self.contains(Self::RESERVED_ONE) && Self::from_bits(self.bits()).is_some()
    }

    /// Lowest ABI version that the guest accepts: major, minor.
    #[must_use]
    pub const fn abi(self) -> (u8, u8) {
        let [minor, major, ..] = self.bits().to_le_bytes();
        (major, minor)
    }
}

/// A family of chips: which root vouches for it and how its TCB_VERSION is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Generation {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004 and 8004.
    Genoa,
    /// EPYC 9005.
    Turin,
}

impl Generation {
    /// Every generation.
    pub const ALL: [Self; 3] = [Self::Milan, Self::Genoa, Self::Turin];

    /// The generation of CPUID's combined family and model, if it is one of ours.
    #[must_use]
    pub const fn from_cpuid(family: u8, model: u8) -> Option<Self> {
        match (family, model) {
            (0x19, 0x00..=0x0F) => Some(Self::Milan),
            (0x19, 0x10..=0x1F | 0xA0..=0xAF) => Some(Self::Genoa),
            (0x1A, 0x00..=0x11) => Some(Self::Turin),
            _ => None,
        }
    }

    /// The word that AMD's certificates use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// How many bytes of CHIP_ID this generation fills; the rest are zero.
    #[must_use]
    pub const fn chip_id_bytes(self) -> usize {
        match self {
            Self::Milan | Self::Genoa => 64,
            Self::Turin => 8,
        }
    }
}

/// TCB_VERSION taken apart: the security patch level of each part.
///
/// Compare part by part ([`covers`](Tcb::covers)); there is no total order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcb {
    /// Firmware of the FMC; only Turin has one.
    pub fmc: Option<u8>,
    /// The bootloader of the secure processor.
    pub bootloader: u8,
    /// Its operating system.
    pub tee: u8,
    /// The SNP firmware.
    pub snp: u8,
    /// The microcode.
    pub microcode: u8,
}

impl Tcb {
    /// Takes the bytes of a TCB_VERSION apart; reserved bytes are not looked at, since the ABI lets later firmware
    /// use them.
    #[must_use]
    pub const fn from_bytes(bytes: &[u8; 8], generation: Generation) -> Self {
        match generation {
            Generation::Milan | Generation::Genoa => {
                let [bootloader, tee, .., snp, microcode] = *bytes;
                Self { fmc: None, bootloader, tee, snp, microcode }
            }
            Generation::Turin => {
                let [fmc, bootloader, tee, snp, .., microcode] = *bytes;
                Self { fmc: Some(fmc), bootloader, tee, snp, microcode }
            }
        }
    }

    /// The bytes of the TCB_VERSION; reserved bytes zero. `fmc` decides which layout it is.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        match self.fmc {
            None => [self.bootloader, self.tee, 0, 0, 0, 0, self.snp, self.microcode],
            Some(fmc) => [fmc, self.bootloader, self.tee, self.snp, 0, 0, 0, self.microcode],
        }
    }

    /// Whether every part is at least `floor`'s. A part that this chip lacks covers only its absence.
    #[must_use]
    pub fn covers(self, floor: Self) -> bool {
        self.fmc >= floor.fmc
            && self.bootloader >= floor.bootloader
            && self.tee >= floor.tee
            && self.snp >= floor.snp
            && self.microcode >= floor.microcode
    }
}
