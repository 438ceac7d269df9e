//! Placeholder.

/// Proof that an image version is durable: on disk and, in strict mode, at the anchor.
#[derive(Debug)]
#[must_use]
pub struct Committed {
    version: u64,
}

impl Committed {
    /// The image version that is durable.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }
}

/// Placeholder.
#[derive(Debug)]
pub struct NvStore;
