//! What is remembered of one VM.
//!
//! **Laws.** [`Row::is_lawful`] says which rows there can be; every transition keeps it.

use super::{Moment, Reply};
use husk::release::Head;
use husk::release::wire::DeniedReason;

/// A fencing token: grows with every grant, reset and operator order; 0 is before the first.
pub type Token = u64;

/// SHA-384 of an instance key's point: the name of one running VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InstanceId(pub [u8; 48]);

/// Where a VM stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    /// Enrolled; its TPM does not exist yet.
    Virgin,
    /// Its TPM exists.
    Active,
    /// Stopped by the operator until resumed.
    Halted,
    /// Over for good; its secrets are erased.
    Retired,
}

/// The name of one epoch's secret. Two grants never share one, because no two grants share a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SecretName {
    /// The token that it was made for.
    pub token: Token,
    /// The epoch that it seals.
    pub epoch: u64,
}

/// Who holds the newest token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    /// Its instance key.
    pub instance: InstanceId,
    /// REPORT_ID of its launch.
    pub report_id: [u8; 32],
}

/// What becomes of a TPM when its launch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Keeps {
    /// Its state stays, at the head.
    State,
    /// It is gone: there is no head and no epoch, and nobody has a key.
    Nothing,
}

/// All that is remembered of one VM, but the bytes of its secrets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// Where it stands.
    pub life: Life,
    /// Raised by each operator restore.
    pub generation: u32,
    /// The newest token.
    pub token: Token,
    /// The epoch of `head`; 0 while there is no TPM.
    pub epoch: u64,
    /// The newest state.
    pub head: Head,
    /// Opens the state at `head`; none while there is no TPM.
    pub current: Option<SecretName>,
    /// Granted with `token` and not confirmed yet. While it is there, nobody serves.
    pub next: Option<SecretName>,
    /// Who holds `token`; none after an operator's order.
    pub holder: Option<Holder>,
    /// No window that any token was ever given ends later than this.
    pub lease_until_ms: u64,
    /// The last serving instance said that it serves no more.
    pub released: bool,
    /// The token that the last BUMP was asked with, so that asking again gives the same answer.
    pub bumped_from: Option<Token>,
    /// FORCE: the next grant does not wait for the lease. Until a CONFIRM uses it up, or another order.
    pub forced: bool,
    /// Until then an instance that a forced grant fenced may still answer: what is not promised, and said.
    pub overlap_until_ms: u64,
    /// The state at `head` counts resetCount from here: the token less this.
    pub reset_base: u64,
    /// The highest GUEST_SVN that was granted; nothing older is.
    pub guest_svn: u32,
    /// RESTORE: the next CONFIRM makes the TPM anew from a backup, and begins this generation. Until then, or another order.
    pub restoring: Option<u32>,
    /// What the newest grant was for.
    pub keeps: Keeps,
}

impl Row {
    /// A VM that was just enrolled. Nobody ever served, hence `released`.
    #[must_use]
    pub const fn enrolled() -> Self {
        Self {
            life: Life::Virgin,
            generation: 0,
            token: 0,
            epoch: 0,
            head: Head::NONE,
            current: None,
            next: None,
            holder: None,
            lease_until_ms: 0,
            released: true,
            bumped_from: None,
            forced: false,
            overlap_until_ms: 0,
            reset_base: 0,
            guest_svn: 0,
            restoring: None,
            keeps: Keeps::State,
        }
    }

    /// Whether the newest instance has confirmed its launch and not said that it serves no more, of a VM that may run.
    #[must_use]
    pub const fn serves(&self) -> bool {
        matches!(self.life, Life::Virgin | Life::Active)
            && self.holder.is_some()
            && self.next.is_none()
            && !self.released
    }

    /// Whether the parts agree. Every transition keeps this; a stored row without it was tampered with or damaged.
    #[must_use]
    pub fn is_lawful(&self) -> bool {
        let lived = self.epoch > 0;
        let life = match self.life {
            Life::Virgin => !lived,
            Life::Active => lived,
            Life::Halted => true,
            Life::Retired => self.current.is_none() && self.next.is_none(),
        };
        let current = match self.current {
            Some(name) => lived && name.epoch == self.epoch && name.token <= self.token,
            None => !lived || self.life == Life::Retired,
        };
        let next = self.next.is_none_or(|name| {
            self.holder.is_some() && name.token == self.token && Some(name.epoch) == self.epoch.checked_add(1)
        });
        let stopped = !matches!(self.life, Life::Halted | Life::Retired) || self.holder.is_none();
        let bumped = self.bumped_from.is_none_or(|from| from < self.token);
        let forced = !self.forced || matches!(self.life, Life::Virgin | Life::Active);
        let heads = lived == (self.head.sequence > 0);
        let restoring = self.restoring.is_none_or(|generation| {
            generation > self.generation && matches!(self.life, Life::Virgin | Life::Active)
        });
        let keeps = self.keeps == Keeps::State || !lived && self.restoring.is_none();
        life && current && next && stopped && bumped && forced && heads && restoring && keeps
    }

    /// The grant is not confirmed yet.
    pub(super) const fn is_pending(&self) -> bool {
        self.next.is_some()
    }

    /// Token and life, before anything else is looked at.
    pub(super) fn standing(&self, caller: InstanceId, token: Token) -> Result<(), Reply> {
        if matches!(self.life, Life::Halted | Life::Retired) {
            return Err(Reply::Fenced);
        }
        let holds = self.holder.is_some_and(|holder| holder.instance == caller);
        if !holds || token < self.token {
            return Err(Reply::Fenced);
        }
        // A holder with a token from the future: this database was rolled back. Nothing may come of it.
        if token > self.token { Err(Reply::Conflict) } else { Ok(()) }
    }

    /// As [`Row::standing`], and it serves: confirmed and not released.
    pub(super) fn serving(&self, caller: InstanceId, token: Token, generation: u32) -> Result<(), Reply> {
        self.standing(caller, token)?;
        if generation != self.generation {
            return Err(Reply::Conflict);
        }
        if self.is_pending() || self.released {
            return Err(Reply::Denied(DeniedReason::Order));
        }
        Ok(())
    }

    /// The generation that the next CONFIRM is of.
    pub(super) fn granted_generation(&self) -> u32 {
        self.restoring.unwrap_or(self.generation)
    }

    pub(super) fn leased(&self, at: Moment) -> Self {
        let until = at.now_ms.saturating_add(u64::from(at.lease_ms));
        Self { lease_until_ms: self.lease_until_ms.max(until), ..self.clone() }
    }
}
