//! In which order a command becomes durable and answered.
//!
//! **What.** [`first`] says what is due once the engine has run, [`next`] what is due after that; both are pure.
//! **Trust.** None: what they are told has happened is what the caller has seen happen.
//! **Laws.** Nothing is written without the right to, nothing is anchored before it is flushed, nothing is answered before it is
//! anchored and permitted; a [`Deferred`](Change::Deferred) commit, which a tenant must have opted into, is answered once it is flushed. An anchor whose outcome is not known is followed by the same anchor. What failed is followed by nothing.
//! **Not here.** Doing it: `vtpm/serve.rs`, which does what is due and nothing else. The models
//! (`tests/model_release.rs`, `tests/model_volume.rs`) drive these very functions.

/// What there is to make durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// Nothing: the image is as it was anchored, or the answer tells of nothing that is stored.
    Nothing,
    /// The first commit of a launch: its grant is fresh, and nothing but CONFIRM gives it a lease.
    First,
    /// A commit behind the head.
    Record,
    /// A commit that overwrites the volume's other area.
    Checkpoint,
    /// A commit behind the head that may be lost at a boot: it is anchored with a later one.
    Deferred,
    /// No new commit: deferred ones, on the disk, that are to be anchored.
    Window,
    /// A commit that is on the disk, and whose anchor's outcome is not known.
    Undecided,
    /// A change of a TPM that ends with the launch: its memory is all that there is.
    Forgotten,
    /// Such a TPM's launch, or what its resetCount is counted from, which the broker is to hear of.
    Told,
}

/// The one thing that may happen now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Due {
    /// The broker is asked for the lease anew: an instance that was fenced must not destroy what its successor uses.
    Renew,
    /// The lease is looked at, and renewed where it runs out.
    Hold,
    /// The commit is handed to the disk.
    Write,
    /// The disk makes it durable.
    Flush,
    /// The broker is asked to remember it as the newest.
    Anchor,
    /// The commit is left to a later anchor.
    Defer,
    /// The change is taken for what it is: in memory, until the launch ends.
    Keep,
    /// The right to answer is looked at, or asked for.
    Permit,
    /// The answer leaves.
    Answer,
    /// Nothing, ever.
    Over,
}

/// How what was due went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was done.
    Done,
    /// Whether it was done is not known.
    Unknown,
    /// It was not done.
    Failed,
}

/// What is due once the engine has run.
#[must_use]
pub const fn first(change: Change) -> Due {
    match change {
        Change::Nothing => Due::Permit,
        Change::First => Due::Write,
        Change::Record | Change::Deferred => Due::Hold,
        Change::Checkpoint => Due::Renew,
        Change::Window | Change::Undecided | Change::Told => Due::Anchor,
        Change::Forgotten => Due::Keep,
    }
}

/// What is due after `due` went like that, on the way of `change`.
#[must_use]
pub const fn next(change: Change, due: Due, outcome: Outcome) -> Due {
    if let (Change::Deferred, Due::Flush, Outcome::Done) = (change, due, outcome) {
        return Due::Defer;
    }
    match (due, outcome) {
        (Due::Renew | Due::Hold, Outcome::Done) => Due::Write,
        (Due::Write, Outcome::Done) => Due::Flush,
        (Due::Flush, Outcome::Done) | (Due::Anchor, Outcome::Unknown) => Due::Anchor,
        (Due::Anchor | Due::Defer | Due::Keep, Outcome::Done) => Due::Permit,
        (Due::Permit, Outcome::Done) => Due::Answer,
        (Due::Answer | Due::Over, Outcome::Done | Outcome::Unknown)
        | (
            Due::Renew | Due::Hold | Due::Write | Due::Flush | Due::Defer | Due::Keep | Due::Permit,
            Outcome::Unknown,
        )
        | (_, Outcome::Failed) => Due::Over,
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, Due, Outcome, first, next};

    /// What is done from `change` on, where each step goes well and the anchor's first answer is lost.
    fn way(change: Change) -> heapless::Vec<Due, 8> {
        let (mut way, mut due, mut lost) = (heapless::Vec::new(), first(change), false);
        while due != Due::Over {
            way.push(due).unwrap();
            let unknown = due == Due::Anchor && !lost;
            lost |= unknown;
            due = next(change, due, if unknown { Outcome::Unknown } else { Outcome::Done });
        }
        way
    }

    #[test]
    fn each_change_goes_its_way() {
        use Due::{Anchor, Answer, Defer, Flush, Hold, Keep, Permit, Renew, Write};
        let table: [(Change, &[Due]); 9] = [
            (Change::Nothing, &[Permit, Answer]),
            (Change::First, &[Write, Flush, Anchor, Anchor, Permit, Answer]),
            (Change::Record, &[Hold, Write, Flush, Anchor, Anchor, Permit, Answer]),
            (Change::Checkpoint, &[Renew, Write, Flush, Anchor, Anchor, Permit, Answer]),
            (Change::Deferred, &[Hold, Write, Flush, Defer, Permit, Answer]),
            (Change::Window, &[Anchor, Anchor, Permit, Answer]),
            (Change::Undecided, &[Anchor, Anchor, Permit, Answer]),
            (Change::Forgotten, &[Keep, Permit, Answer]),
            (Change::Told, &[Anchor, Anchor, Permit, Answer]),
        ];
        for (change, wanted) in table {
            assert_eq!(way(change), wanted, "{change:?}");
        }
    }

    #[test]
    fn what_failed_is_followed_by_nothing_and_only_an_anchor_is_asked_for_again() {
        use Due::{Anchor, Answer, Defer, Flush, Hold, Keep, Over, Permit, Renew, Write};
        for change in [Change::Record, Change::Deferred, Change::Forgotten] {
            for due in [Renew, Hold, Write, Flush, Anchor, Defer, Keep, Permit, Answer, Over] {
                assert_eq!(next(change, due, Outcome::Failed), Over);
                let again = if due == Anchor { Anchor } else { Over };
                assert_eq!(next(change, due, Outcome::Unknown), again);
            }
        }
    }
}
