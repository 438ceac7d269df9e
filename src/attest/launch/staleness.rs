//! How much of what was answered a boot may lose.

use super::{Lines, decimal, hex};
use core::fmt;
use core::ops::RangeInclusive;

/// TPM_HT_NV_INDEX, in the upper byte of a handle (TPM 2.0 part 2, "TPM_HT").
const NV_INDEX: u32 = 0x01;
const TYPE_SHIFT: u32 = 24;
/// A handle in hexadecimal digits.
const HANDLE_DIGITS: usize = 8;

/// What a tenant trades for fewer anchors: commits that change nothing but data of the indices it names are answered once they are on the
/// disk, and anchored later. At every boot the host may have the newest of them forgotten, at most this much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Staleness {
    /// So many commits, 1 to [`COMMITS_MAX`](Self::COMMITS_MAX).
    pub commits: u32,
    /// No answer that needs anything leaves while a commit waits for its anchor for longer than this, 1 to
    /// [`SECONDS_MAX`](Self::SECONDS_MAX).
    pub seconds: u32,
    /// Whose data may be stale.
    pub indices: NvIndices,
}

/// NV indices from the first to the last: those whose data a boot may lose, if they are ordinary ones. A tenant names them, since only a
/// tenant knows what nobody's policy rests on (TPM2_PolicyNV, TPM2_PolicyAuthorizeNV).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NvIndices {
    first: u32,
    last: u32,
}

impl NvIndices {
    /// From `first` to `last`; nothing where one is no NV index, or none is between them.
    #[must_use]
    pub const fn new(first: u32, last: u32) -> Option<Self> {
        let sound = first <= last && first >> TYPE_SHIFT == NV_INDEX && last >> TYPE_SHIFT == NV_INDEX;
        if sound { Some(Self { first, last }) } else { None }
    }

    /// Their handles.
    #[must_use]
    pub const fn handles(self) -> RangeInclusive<u32> {
        self.first..=self.last
    }

    /// Reads `<8 hex>-<8 hex>`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (first, rest) = text.split_at_checked(HANDLE_DIGITS)?;
        let [first, last] = [hex::<4>(first)?, hex::<4>(rest.strip_prefix('-')?)?].map(u32::from_be_bytes);
        Self::new(first, last)
    }
}

impl fmt::Display for NvIndices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:08x}", self.first, self.last)
    }
}

impl Staleness {
    /// The most commits.
    pub const COMMITS_MAX: u32 = 1000;
    /// The longest time in seconds.
    pub const SECONDS_MAX: u32 = 3600;

    pub(super) fn read(lines: &mut Lines<'_>) -> Option<Self> {
        let commits = decimal(lines.value("husk.staleness_commits")?)?;
        let seconds = decimal(lines.value("husk.staleness_s")?)?;
        let indices = NvIndices::parse(lines.value("husk.staleness_nv")?)?;
        let bounded =
            (1..=Self::COMMITS_MAX).contains(&commits) && (1..=Self::SECONDS_MAX).contains(&seconds);
        bounded.then_some(Self { commits, seconds, indices })
    }

    pub(super) fn write(self, out: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(out, "\"husk.staleness_commits\" = \"{}\"", self.commits)?;
        writeln!(out, "\"husk.staleness_s\" = \"{}\"", self.seconds)?;
        writeln!(out, "\"husk.staleness_nv\" = \"{}\"", self.indices)
    }
}
