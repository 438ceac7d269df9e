//! The operations of the SVSM attestation protocol as a guest writes them (AMD 58019, tables 11 and 13).
#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]
#![allow(clippy::allow_attributes, reason = "what is unused differs from test to test")]

use crate::guest_ram::{BASE, GuestRam};
use husk::frontend::svsm::{Registers, VTPM_GUID};

/// Where the guest keeps the operation, the nonce and the buffers.
pub const OPERATION: u64 = BASE + 0x100;
pub const NONCE: u64 = BASE + 0x400;
pub const REPORT: u64 = BASE + 0x1000;
pub const MANIFEST: u64 = BASE + 0x2000;
pub const CERTIFICATES: u64 = BASE + 0x4000;
/// RAX of the three calls.
pub const ALL: u64 = 1 << 32;
pub const SINGLE: u64 = 1 << 32 | 1;

/// An operation whose every field a test may spoil.
#[derive(Clone, Debug)]
pub struct Operation {
    pub report: (u64, u32, u32),
    pub nonce: (u64, u16, [u8; 6]),
    pub manifest: (u64, u32, u32),
    pub certificates: (u64, u32, u32),
    pub service: [u8; 16],
    pub version: u32,
    pub reserved: u32,
}

impl Operation {
    /// As Linux' sev-guest driver asks.
    pub fn of_version(version: u32) -> Self {
        Self {
            report: (REPORT, 0x1000, 0),
            nonce: (NONCE, 64, [0; 6]),
            manifest: (MANIFEST, 0x1000, 0),
            certificates: (CERTIFICATES, 0x4000, 0),
            service: VTPM_GUID,
            version,
            reserved: 0,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let buffer = |(address, bytes, reserved): (u64, u32, u32)| {
            [&address.to_le_bytes()[..], &bytes.to_le_bytes(), &reserved.to_le_bytes()].concat()
        };
        let nonce = [&self.nonce.0.to_le_bytes()[..], &self.nonce.1.to_le_bytes(), &self.nonce.2].concat();
        let single = [&self.service[..], &self.version.to_le_bytes(), &self.reserved.to_le_bytes()].concat();
        [buffer(self.report), nonce, buffer(self.manifest), buffer(self.certificates), single].concat()
    }

    /// Puts the operation and `nonce` into guest memory; the registers of the call with `rax`.
    pub fn place(&self, ram: &mut GuestRam, rax: u64, nonce: &[u8; 64]) -> Registers {
        ram.put(OPERATION, &self.bytes());
        ram.put(NONCE, nonce);
        // As the driver does, so that it sees which lengths were returned.
        Registers { rax, rcx: OPERATION, rdx: u64::MAX, r8: u64::MAX, r9: 0 }
    }
}
