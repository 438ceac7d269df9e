//! How much of what was answered a boot may lose.

use super::{Lines, decimal};
use core::fmt;

/// What a tenant trades for fewer anchors: commits that change nothing but what may be stale are answered once they are on the
/// disk, and anchored later. At every boot the host may have the newest of them forgotten, at most this much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Staleness {
    /// So many commits, 1 to [`COMMITS_MAX`](Self::COMMITS_MAX).
    pub commits: u32,
    /// No answer that needs anything leaves while a commit waits for its anchor for longer than this, 1 to
    /// [`SECONDS_MAX`](Self::SECONDS_MAX).
    pub seconds: u32,
}

impl Staleness {
    /// The most commits.
    pub const COMMITS_MAX: u32 = 1000;
    /// The longest time in seconds.
    pub const SECONDS_MAX: u32 = 3600;

    pub(super) fn read(lines: &mut Lines<'_>) -> Option<Self> {
        let commits = decimal(lines.value("husk.staleness_commits")?)?;
        let seconds = decimal(lines.value("husk.staleness_s")?)?;
        let bounded =
            (1..=Self::COMMITS_MAX).contains(&commits) && (1..=Self::SECONDS_MAX).contains(&seconds);
        bounded.then_some(Self { commits, seconds })
    }

    pub(super) fn write(self, out: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(out, "\"husk.staleness_commits\" = \"{}\"", self.commits)?;
        writeln!(out, "\"husk.staleness_s\" = \"{}\"", self.seconds)
    }
}
