//! The table of hashes by which OVMF recognises the kernel that it is handed.
//!
//! **What.** [`KernelHashes`]: SHA-256 of kernel, initrd and command line in the layout that QEMU writes with
//! `kernel-hashes=on` (QEMU's `SevHashTable`; OVMF's `BlobVerifierSevHashes`).
//! **Trust.** None: the table is measured, and OVMF compares.
//! **Laws.** An absent initrd counts as empty, an absent command line as one NUL.
//! **Not here.** Reading the files.

use crate::digest::{PAGE_BYTES, Page};
use crate::guid::guid;
use sha2::{Digest as _, Sha256};

const TABLE: [u8; 16] = guid(0x9438_D606, 0x4F22, 0x4CC9, 0xB479_A793_D411_FD21);
const KERNEL: [u8; 16] = guid(0x4DE7_9437, 0xABD2, 0x427F, 0xB835_D5B1_72D2_045B);
const INITRD: [u8; 16] = guid(0x44BA_F731, 0x3A2F, 0x4BD7, 0x9AF1_41E2_9169_781D);
const CMDLINE: [u8; 16] = guid(0x97D0_2DD8, 0xBD20, 0x4C94, 0xAA78_E771_4D36_AB2A);

/// GUID, length, hash.
const ENTRY_BYTES: usize = 16 + 2 + 32;
/// GUID, length, three entries.
const TABLE_BYTES: usize = 16 + 2 + 3 * ENTRY_BYTES;

/// What OVMF is to expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelHashes {
    /// SHA-256 of the kernel's file.
    pub kernel: [u8; 32],
    /// SHA-256 of the initrd's file, or of nothing.
    pub initrd: [u8; 32],
    /// SHA-256 of the command line and a NUL.
    pub cmdline: [u8; 32],
}

impl KernelHashes {
    /// With `append` as the command line, and hashes of the files (none: no initrd).
    #[must_use]
    pub fn new(kernel: [u8; 32], initrd: Option<[u8; 32]>, append: &str) -> Self {
        Self {
            kernel,
            initrd: initrd.unwrap_or_else(|| Sha256::digest([]).into()),
            cmdline: Sha256::new().chain_update(append).chain_update([0]).finalize().into(),
        }
    }

    /// A page of zeros with the table at `offset`; none if it does not fit.
    #[must_use]
    pub fn page(&self, offset: usize) -> Option<Box<Page>> {
        let mut table = Vec::with_capacity(TABLE_BYTES);
        let mut head = |guid: &[u8; 16], bytes: usize, hash: &[u8]| {
            table.extend_from_slice(guid);
            table.extend_from_slice(&u16::try_from(bytes).ok()?.to_le_bytes());
            table.extend_from_slice(hash);
            Some(())
        };
        head(&TABLE, TABLE_BYTES, &[])?;
        head(&CMDLINE, ENTRY_BYTES, &self.cmdline)?;
        head(&INITRD, ENTRY_BYTES, &self.initrd)?;
        head(&KERNEL, ENTRY_BYTES, &self.kernel)?;
        let mut page = Box::new([0; PAGE_BYTES]);
        // QEMU pads the table to 16 bytes with zeros, and wants room for the padding too.
        let room = page.get_mut(offset..offset.checked_add(TABLE_BYTES.next_multiple_of(16))?)?;
        room.get_mut(..TABLE_BYTES)?.copy_from_slice(&table);
        Some(page)
    }
}
