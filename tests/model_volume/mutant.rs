//! The rule that is off, and what that makes of the shipped order.

use husk::nv::order::{self, Change, Due, Outcome};

/// The rule that is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    None,
    AnchorBeforeFlush,
    SwitchIntoTheHeadsArea,
    BootIntoTheHeadsArea,
    FreeBeforeAnchored,
    AcceptByKey,
    ReleaseBeforeAnchored,
    UnitsShareABlock,
    RewriteWhileUndecided,
    WriteWhileFenced,
    AppendWhileFenced,
}

impl Mutant {
    /// What is due once the engine has run: as shipped, or one rule short.
    pub(crate) const fn first(self, change: Change) -> Due {
        match (self, change) {
            (Self::WriteWhileFenced, _) | (Self::AppendWhileFenced, Change::Record) => Due::Write,
            _ => order::first(change),
        }
    }

    /// What is due after that, likewise.
    pub(crate) const fn after(self, change: Change, due: Due, outcome: Outcome) -> Due {
        match (self, due, outcome) {
            (Self::AnchorBeforeFlush, Due::Write, Outcome::Done) => Due::Anchor,
            (Self::ReleaseBeforeAnchored, Due::Flush, Outcome::Done) => Due::Permit,
            (Self::RewriteWhileUndecided, Due::Anchor, Outcome::Unknown) => Due::Write,
            _ => order::next(change, due, outcome),
        }
    }
}
