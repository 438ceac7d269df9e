//! One VM's row, two instances and a clock, in a few words.

use husk::release::Head;
use husk_broker::rules::{InstanceId, Moment, Move, Reply, Request, Row, Token, step};

/// Length of a lease here.
pub(crate) const LEASE_MS: u32 = 10;
/// The first instance.
pub(crate) const A: InstanceId = InstanceId([0xA; 48]);
/// The second instance.
pub(crate) const B: InstanceId = InstanceId([0xB; 48]);

/// The head of the commit `sequence`, on a branch so that two instances can disagree.
pub(crate) fn head(sequence: u64, branch: u8) -> Head {
    Head { sequence, digest: [branch; 48] }
}

/// A row that is asked things.
#[derive(Clone, Debug)]
pub(crate) struct Vm {
    /// The row.
    pub(crate) row: Row,
    /// The database's clock.
    pub(crate) now_ms: u64,
}

impl Vm {
    /// Just enrolled.
    pub(crate) fn enrolled() -> Self {
        Self { row: Row::enrolled(), now_ms: 1000 }
    }

    /// Served by `A` under token 1 at epoch 1 and head 1.
    pub(crate) fn serving() -> Self {
        let mut vm = Self::enrolled();
        assert!(matches!(vm.grant(A), Reply::Granted(_)));
        assert_eq!(vm.ask(A, vm.confirm(head(1, 1))), leased());
        vm
    }

    /// Asks, and keeps the change.
    pub(crate) fn ask(&mut self, caller: InstanceId, request: Request) -> Reply {
        let at = Moment { now_ms: self.now_ms, lease_ms: LEASE_MS };
        let (change, reply) = step(&self.row, at, caller, &request);
        if let Some(row) = change {
            assert!(row.is_lawful(), "{row:?}");
            self.row = row;
        }
        reply
    }

    /// As [`Vm::ask`], and asserts that nothing changed.
    pub(crate) fn refused(&mut self, caller: InstanceId, request: Request) -> Reply {
        let before = self.row.clone();
        let reply = self.ask(caller, request);
        assert_eq!(before, self.row, "{request:?} answered {reply:?}");
        reply
    }

    /// Asks for a grant.
    pub(crate) fn grant(&mut self, caller: InstanceId) -> Reply {
        self.ask(caller, Request::Grant { report_id: [caller.0[0]; 32], guest_svn: 0 })
    }

    /// The confirmation that the newest token wants.
    pub(crate) fn confirm(&self, new: Head) -> Request {
        Request::Confirm(Move { epoch: self.row.epoch + 1, ..self.movement(new) })
    }

    /// A commit by the newest token.
    pub(crate) fn anchor(&self, new: Head) -> Request {
        Request::Anchor(self.movement(new))
    }

    /// A commit by `token`.
    pub(crate) fn anchor_by(&self, token: Token, new: Head) -> Request {
        Request::Anchor(Move { token, ..self.movement(new) })
    }

    /// From the head to `new`, by the newest token.
    pub(crate) fn movement(&self, new: Head) -> Move {
        let Row { token, generation, epoch, head, .. } = self.row;
        Move { token, generation, epoch, previous: head, new, reset_base: 0 }
    }

    /// A renewal by `token`.
    pub(crate) fn renew(&self, token: Token) -> Request {
        Request::Renew { token, generation: self.row.generation }
    }

    /// A bump by `token`.
    pub(crate) fn bump(&self, token: Token) -> Request {
        Request::Bump { token, generation: self.row.generation }
    }

    /// The newest token's release.
    pub(crate) fn release(&self) -> Request {
        let Row { token, generation, head, .. } = self.row;
        Request::Release { token, generation, head }
    }
}

/// The answer that brings a full lease.
pub(crate) const fn leased() -> Reply {
    Reply::Leased { lease_ms: LEASE_MS }
}
