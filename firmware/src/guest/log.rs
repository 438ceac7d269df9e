//! The event log: what was measured, for the guest and whoever verifies it.
//!
//! The format is the crypto-agile one of the TCG PC Client Platform Firmware Profile 1.06, section "Event Logging":
//! a first event in the old form names the hashes, every further one has a digest of each.

use super::GuestFault;
use super::measure::{Bank, Banks, Digests};

/// The most bytes of a log; its area in the guest's memory is larger, and zero behind it.
pub const LOG_BYTES_MAX: usize = 16 * 1024;

/// EV_NO_ACTION.
const NO_ACTION: u32 = 3;
/// Size of the digest field of an event in the old form.
const SHA1_BYTES: usize = 20;

/// A log being written.
#[derive(Debug)]
pub struct Log(heapless::Vec<u8, LOG_BYTES_MAX>);

impl Log {
    /// A log that says nothing, not even which hashes it uses; [`begin`](Self::begin) is next.
    #[must_use]
    pub const fn empty() -> Self {
        Self(heapless::Vec::new())
    }

    /// Begins anew, with the event that names the banks (TCG_EfiSpecIdEvent).
    ///
    /// # Errors
    /// [`GuestFault::LogFull`].
    pub fn begin(&mut self, banks: &Banks) -> Result<(), GuestFault> {
        self.0.clear();
        let count = banks.iter().count();
        self.u32(0)?;
        self.u32(NO_ACTION)?;
        self.put(&[0; SHA1_BYTES])?;
        self.length(28 + 4 * count + 1)?;
        self.put(b"Spec ID Event03\0")?;
        let platform_class_client = 0;
        self.u32(platform_class_client)?;
        // specVersionMinor 0, specVersionMajor 2, specErrata 106; uintnSize 2: sixty-four bits.
        self.put(&[0, 2, 106, 2])?;
        self.length(count)?;
        for bank in banks.iter() {
            self.u16(bank.algorithm())?;
            self.put(&[bank.digest_bytes(), 0])?;
        }
        let vendor_info_bytes = 0;
        self.put(&[vendor_info_bytes])
    }

    /// Appends an event whose digests went into PCR `pcr`; `data` are its bytes, in pieces.
    ///
    /// # Errors
    /// [`GuestFault::LogFull`].
    pub fn event(
        &mut self,
        pcr: u32,
        kind: u32,
        digests: &Digests,
        data: &[&[u8]],
    ) -> Result<(), GuestFault> {
        self.u32(pcr)?;
        self.u32(kind)?;
        self.length(digests.iter().count())?;
        for (bank, digest) in digests.iter() {
            self.u16(bank.algorithm())?;
            self.put(digest)?;
        }
        self.length(data.iter().map(|piece| piece.len()).sum())?;
        data.iter().try_for_each(|piece| self.put(piece))
    }

    /// The log so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), GuestFault> {
        self.0.extend_from_slice(bytes).map_err(|_| GuestFault::LogFull)
    }

    fn u16(&mut self, value: u16) -> Result<(), GuestFault> {
        self.put(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> Result<(), GuestFault> {
        self.put(&value.to_le_bytes())
    }

    fn length(&mut self, value: usize) -> Result<(), GuestFault> {
        self.u32(u32::try_from(value).map_err(|_| GuestFault::LogFull)?)
    }
}

impl Bank {
    /// Size of its digests in bytes, as the log's first event says it.
    const fn digest_bytes(self) -> u8 {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}
