//! Commits that lie behind the anchored head (`format.md` §12).

use crate::release::Head;

/// Whether `newest`, a sequence, lies so few commits behind `anchored` that those in between may be lost: what an instance defers,
/// and what a boot takes beyond the head.
#[must_use]
pub const fn within(anchored: u64, newest: u64, commits: u32) -> bool {
    newest.saturating_sub(anchored) <= commits as u64
}

/// The state that an opening is to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The anchored head. No opening reaches less.
    pub head: Head,
    /// How many authentic records behind it are taken, where they are there.
    pub beyond: u32,
}

impl Wanted {
    /// The anchored head, and nothing behind it.
    #[must_use]
    pub const fn exactly(head: Head) -> Self {
        Self { head, beyond: 0 }
    }
}
