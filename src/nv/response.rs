use super::{Committed, NvFault};

/// An answer that is locked until what it tells of is durable.
#[must_use]
#[expect(missing_debug_implementations, reason = "its bytes are locked")]
pub struct Response<'b> {
    bytes: &'b [u8],
    version: u64,
}

impl<'b> Response<'b> {
    /// Locks `bytes`, produced when the image had `version`.
    pub const fn locked(bytes: &'b [u8], version: u64) -> Self {
        Self { bytes, version }
    }

    /// Yields the bytes against the proof that the version they tell of is durable.
    ///
    /// # Errors
    /// [`NvFault::NotCommitted`] if the proof is of an earlier version.
    pub fn release(self, committed: &Committed) -> Result<&'b [u8], NvFault> {
        if committed.version() < self.version {
            return Err(NvFault::NotCommitted);
        }
        Ok(self.bytes)
    }
}
