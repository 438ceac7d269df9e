//! A guest's memory as an SVSM lends it to the component: it counts, it refuses, and it may change between two looks.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(clippy::allow_attributes, reason = "what is unused differs from test to test")]

use husk::seams::{BadAddress, GuestMemory};
use std::collections::BTreeMap;
use std::ops::Range;

/// Where the guest's memory begins.
pub const BASE: u64 = 0x10_0000;
/// Size of the guest's memory in bytes.
pub const BYTES: usize = 64 * 1024;

#[derive(Clone)]
pub struct GuestRam {
    bytes: Vec<u8>,
    /// How often each byte was copied in, and what was written, since the last [`GuestRam::forget`].
    looks: BTreeMap<u64, u32>,
    pub written: Vec<Range<u64>>,
    /// Addresses that the guest may not name, beyond those outside its memory.
    pub forbidden: Range<u64>,
    /// Every byte that was looked at is overwritten with this right afterwards, as a guest on another vCPU may do.
    pub scribble: Option<u8>,
}

impl GuestRam {
    pub fn new() -> Self {
        Self {
            bytes: vec![0; BYTES],
            looks: BTreeMap::new(),
            written: Vec::new(),
            forbidden: 0..0,
            scribble: None,
        }
    }

    /// What the guest itself writes.
    pub fn put(&mut self, address: u64, bytes: &[u8]) {
        let range = self.range(address, bytes.len()).unwrap();
        self.bytes[range].copy_from_slice(bytes);
    }

    /// What the guest itself reads.
    pub fn get(&self, address: u64, bytes: usize) -> &[u8] {
        &self.bytes[self.range(address, bytes).unwrap()]
    }

    /// Forgets what was counted; everything else stays.
    pub fn forget(&mut self) {
        self.looks.clear();
        self.written.clear();
    }

    /// The largest number of times that any byte was copied in.
    pub fn looks_max(&self) -> u32 {
        self.looks.values().copied().max().unwrap_or(0)
    }

    fn range(&self, address: u64, bytes: usize) -> Option<Range<usize>> {
        let start = usize::try_from(address.checked_sub(BASE)?).ok()?;
        let end = start.checked_add(bytes).filter(|end| *end <= self.bytes.len())?;
        Some(start..end)
    }

    fn admitted(&self, address: u64, bytes: usize) -> Result<Range<usize>, BadAddress> {
        assert!(
            address % 4096 + bytes as u64 <= 4096,
            "one access never crosses a page: {address:#x}+{bytes}"
        );
        let last = address + (bytes as u64).saturating_sub(1);
        if address < self.forbidden.end && last >= self.forbidden.start {
            return Err(BadAddress);
        }
        self.range(address, bytes).ok_or(BadAddress)
    }
}

impl GuestMemory for GuestRam {
    fn copy_in(&mut self, address: u64, into: &mut [u8]) -> Result<(), BadAddress> {
        let range = self.admitted(address, into.len())?;
        into.copy_from_slice(&self.bytes[range.clone()]);
        for at in address..address + into.len() as u64 {
            *self.looks.entry(at).or_default() += 1;
        }
        if let Some(byte) = self.scribble {
            self.bytes[range].fill(byte);
        }
        Ok(())
    }

    fn copy_out(&mut self, address: u64, from: &[u8]) -> Result<(), BadAddress> {
        let range = self.admitted(address, from.len())?;
        self.bytes[range].copy_from_slice(from);
        self.written.push(address..address + from.len() as u64);
        Ok(())
    }
}
