//! What the relay holds: requests and answers, without what their records prove.

use crate::world::{Id, State};
use husk::release::standing::Answer;
use husk::release::{Head, ReleaseFault};
use husk_broker::rules::{Move, Reply, Request};

/// A request that was sent. It stays with the relay for ever, to be delivered at any time and any number of times.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Sent {
    pub(crate) instance: u8,
    pub(crate) ticket: u64,
    /// The generation that it names.
    pub(crate) generation: u32,
    pub(crate) what: What,
}

/// A request's content, without what the instance alone decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum What {
    Grant,
    Confirm { token: u64, epoch: u64, previous: Id, new: Id },
    Anchor { token: u64, epoch: u64, previous: Id, new: Id },
    Renew { token: u64 },
    Bump { token: u64 },
    Release { token: u64, head: Id },
    Resume { token: u64 },
}

/// An answer that the relay holds; like requests it may come at any time, again, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Told {
    pub(crate) instance: u8,
    pub(crate) ticket: u64,
    pub(crate) said: Said,
}

/// An answer's content; BUSY says nothing that a state depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Said {
    /// The key that seals the next epoch was made for `made_for`.
    Granted {
        token: u64,
        epoch: u64,
        head: Id,
        made_for: u64,
        generation: u32,
        restores: bool,
    },
    Leased {
        lease_ms: u32,
    },
    Bumped {
        token: u64,
        lease_ms: u32,
    },
    Done,
    Denied,
    Fenced,
    Conflict,
}

impl Said {
    /// What is told; nothing where the instance does not use it.
    pub(crate) const fn of(what: What, reply: Reply) -> Option<Self> {
        match (what, reply) {
            (What::Resume { .. }, Reply::Leased { .. }) | (_, Reply::Busy { .. }) => None,
            (_, Reply::Granted(grant)) => Some(Self::Granted {
                token: grant.token,
                epoch: grant.epoch,
                head: id_of(&grant.head),
                made_for: grant.next.token,
                generation: grant.generation,
                restores: grant.restores,
            }),
            (_, Reply::Leased { lease_ms }) => Some(Self::Leased { lease_ms }),
            (_, Reply::Bumped { token, lease_ms }) => Some(Self::Bumped { token, lease_ms }),
            (_, Reply::Done) => Some(Self::Done),
            (_, Reply::Denied(_)) => Some(Self::Denied),
            (_, Reply::Fenced) => Some(Self::Fenced),
            (_, Reply::Conflict) => Some(Self::Conflict),
        }
    }

    pub(crate) const fn answer(self) -> Option<Answer> {
        match self {
            Self::Granted { .. } => None,
            Self::Leased { lease_ms } => Some(Answer::Lease { lease_ms }),
            Self::Bumped { token, lease_ms } => Some(Answer::Bumped { token, lease_ms }),
            Self::Done => Some(Answer::Released),
            Self::Denied => Some(Answer::Denied(ReleaseFault::DeniedOther)),
            Self::Fenced => Some(Answer::Fenced),
            Self::Conflict => Some(Answer::Conflict),
        }
    }
}

/// An object's identity is its digest's first byte.
pub(crate) const fn id_of(head: &Head) -> Id {
    head.digest[0]
}

/// The request as the broker reads it.
pub(crate) fn request(state: &State, sent: &Sent) -> Request {
    let generation = sent.generation;
    let movement = |token, epoch, previous, new| Move {
        token,
        generation,
        epoch,
        previous: state.head(previous),
        new: state.head(new),
        reset_base: 0,
    };
    match sent.what {
        What::Grant => Request::Grant { report_id: [sent.instance; 32], guest_svn: 0 },
        What::Confirm { token, epoch, previous, new } => {
            Request::Confirm(movement(token, epoch, previous, new))
        }
        What::Anchor { token, epoch, previous, new } => {
            Request::Anchor(movement(token, epoch, previous, new))
        }
        What::Renew { token } => Request::Renew { token, generation },
        What::Bump { token } => Request::Bump { token, generation },
        What::Release { token, head } => Request::Release { token, generation, head: state.head(head) },
        What::Resume { token } => Request::Resume { token },
    }
}
