//! The operations of the attestation protocol as a guest lays them out (AMD 58019, tables 11 and 13).

use crate::caller::Caller;

/// Where the guest keeps the operation, the nonce and the buffers.
pub(crate) const OPERATION: u64 = 0x50_0100;
pub(crate) const NONCE: u64 = 0x50_0400;
pub(crate) const REPORT: u64 = 0x50_1000;
pub(crate) const MANIFEST: u64 = 0x50_2000;
pub(crate) const CERTIFICATES: u64 = 0x50_4000;

/// The vTPM's GUID c476f1eb-0123-45a5-9641-b4e7dde5bfe3, as it lies in memory.
const VTPM: [u8; 16] =
    [0xEB, 0xF1, 0x76, 0xC4, 0x23, 0x01, 0xA5, 0x45, 0x96, 0x41, 0xB4, 0xE7, 0xDD, 0xE5, 0xBF, 0xE3];

/// Fields; buffers are address, size and what is reserved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) report: (u64, u32, u32),
    pub(crate) nonce: (u64, u16),
    pub(crate) manifest: (u64, u32, u32),
    pub(crate) certificates: (u64, u32, u32),
    pub(crate) service: [u8; 16],
    pub(crate) version: u32,
    pub(crate) reserved: u32,
}

impl Operation {
    /// One without a fault.
    pub(crate) const fn sound() -> Self {
        Self {
            report: (REPORT, 0x1000, 0),
            nonce: (NONCE, 64),
            manifest: (MANIFEST, 0x1000, 0),
            certificates: (CERTIFICATES, 0x4000, 0),
            service: VTPM,
            version: 0,
            reserved: 0,
        }
    }

    /// Lays it and the nonce out in the guest's memory.
    pub(crate) fn place(&self, guest: &mut Caller) {
        let buffer = |(address, bytes, reserved): (u64, u32, u32)| {
            [&address.to_le_bytes()[..], &bytes.to_le_bytes(), &reserved.to_le_bytes()].concat()
        };
        let nonce = [&self.nonce.0.to_le_bytes()[..], &self.nonce.1.to_le_bytes(), &[0; 6]].concat();
        let single = [&self.service[..], &self.version.to_le_bytes(), &self.reserved.to_le_bytes()].concat();
        let [report, manifest, certificates] = [self.report, self.manifest, self.certificates].map(buffer);
        guest.write(OPERATION, &[report, nonce, manifest, certificates, single].concat());
        guest.write(NONCE, &self::nonce());
    }
}

/// What is asked with.
pub(crate) fn nonce() -> [u8; 64] {
    std::array::from_fn(|at| u8::try_from(at).unwrap_or_default())
}
