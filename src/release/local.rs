//! The memory of a launch that has no broker.

use super::{Anchor, Anchored, Head, ReleaseFault};
use crate::seams::Platform;

/// An anchor that lasts as long as this launch. It holds the launch's own commits in order and protects against nothing
/// that happens to the disk in between.
#[derive(Debug)]
pub struct LocalAnchor {
    head: Head,
}

impl LocalAnchor {
    /// Begins at `head`, which only the volume vouches for.
    #[must_use]
    pub(super) const fn at(head: Head) -> Self {
        Self { head }
    }

    /// What is remembered.
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.head
    }
}

impl Anchor for LocalAnchor {
    fn anchor(
        &mut self,
        _platform: &mut Platform<'_>,
        previous: &Head,
        new: &Head,
    ) -> Result<Anchored, ReleaseFault> {
        if self.head != *previous && self.head != *new {
            return Err(ReleaseFault::Conflict);
        }
        self.head = *new;
        Ok(Anchored::new(*new))
    }
}
