//! The broker's rules for one VM, as a pure function.
//!
//! **What.** [`Row`] is all that is remembered of a VM; [`step`] decides one request, [`operate`] one
//! order. `src/release/protocol.md`, section 5, is normative.
//! **Trust.** The caller's identity was proven by the session, the moment comes from the database's clock. What a
//! request says is an allegation.
//! **Laws.** Total, no I/O, no clock, no entropy, no secrets: an epoch's secret is only *named* here, by the token it
//! was made for, so that "fresh for every token" and "erased exactly at CONFIRM" are visible in the row: the store
//! makes a secret when its name appears and erases it when the name is gone. An answer other than success changes
//! nothing. Token and head only grow; the head moves by compare-and-swap alone.
//! **Not here.** Who the caller is (`service`), durability and secrets (`store`).

mod order;

pub use order::{Backed, Order, Original, operate};

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
}

/// When a request is decided, and how long a lease is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Moment {
    /// The database's clock in milliseconds.
    pub now_ms: u64,
    /// Length of a lease in milliseconds.
    pub lease_ms: u32,
}

/// What an instance asks. The session has proven who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// The keys, after a full attestation in this session.
    Grant {
        /// REPORT_ID of that attestation.
        report_id: [u8; 32],
        /// Its GUEST_SVN.
        guest_svn: u32,
    },
    /// To come back in a new session with the grant it holds.
    Resume {
        /// The token it holds.
        token: Token,
    },
    /// The new epoch is durable on its disk.
    Confirm(Move),
    /// A commit is durable on its disk.
    Anchor(Move),
    /// To go on answering.
    Renew {
        /// The token it holds.
        token: Token,
        /// The generation it was granted.
        generation: u32,
    },
    /// A fresh token for a TPM reset.
    Bump {
        /// The token it held when the reset began.
        token: Token,
        /// The generation it was granted.
        generation: u32,
    },
    /// It has stopped serving for good.
    Release {
        /// The token it held.
        token: Token,
        /// The generation it was granted.
        generation: u32,
        /// The head it left.
        head: Head,
    },
    /// Its disk does not hold the state at head.
    StateMissing {
        /// The token it holds.
        token: Token,
    },
    /// What is to be restored, and its parts.
    Restore {
        /// The token it holds.
        token: Token,
        /// The generation it was granted.
        generation: u32,
    },
}

/// From one head to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Move {
    /// The token it holds.
    pub token: Token,
    /// The generation it was granted.
    pub generation: u32,
    /// The epoch that `new` is sealed in.
    pub epoch: u64,
    /// The head before.
    pub previous: Head,
    /// The head after.
    pub new: Head,
    /// What resetCount is counted from in the state after.
    pub reset_base: u64,
}

/// What a grant hands over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    /// The fresh token.
    pub token: Token,
    /// The generation.
    pub generation: u32,
    /// The epoch of `head`.
    pub epoch: u64,
    /// The newest state.
    pub head: Head,
    /// What opens it; none: make a TPM.
    pub current: Option<SecretName>,
    /// What seals the next epoch.
    pub next: SecretName,
    /// Make the TPM anew from a backup, of which the head is not.
    pub restores: bool,
}

impl Grant {
    /// What it allows, for a log.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match (self.restores, self.current) {
            (true, _) => "restore from",
            (false, Some(_)) => "open",
            (false, None) => "create",
        }
    }
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// The keys.
    Granted(Grant),
    /// The right to answer for so long from when the request was sent; 0: none yet, or none any more.
    Leased {
        /// Length in milliseconds.
        lease_ms: u32,
    },
    /// A fresh token, and a lease.
    Bumped {
        /// The fresh token.
        token: Token,
        /// As in [`Reply::Leased`].
        lease_ms: u32,
    },
    /// Done, with nothing to say.
    Done,
    /// Another token's window may still be open.
    Busy {
        /// When it is over, in milliseconds from now.
        retry_ms: u32,
    },
    /// No.
    Denied(DeniedReason),
    /// A newer instance was granted.
    Fenced,
    /// The head is neither the previous nor the new one.
    Conflict,
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
        }
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
        life && current && next && stopped && bumped && forced && heads && restoring
    }

    /// The grant is not confirmed yet.
    const fn is_pending(&self) -> bool {
        self.next.is_some()
    }

    /// Token and life, before anything else is looked at.
    fn standing(&self, caller: InstanceId, token: Token) -> Result<(), Reply> {
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
    fn serving(&self, caller: InstanceId, token: Token, generation: u32) -> Result<(), Reply> {
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
    fn granted_generation(&self) -> u32 {
        self.restoring.unwrap_or(self.generation)
    }

    fn leased(&self, at: Moment) -> Self {
        let until = at.now_ms.saturating_add(u64::from(at.lease_ms));
        Self { lease_until_ms: self.lease_until_ms.max(until), ..self.clone() }
    }
}

/// Decides one request: the row to store, if it changes, and the answer.
#[must_use]
pub fn step(row: &Row, at: Moment, caller: InstanceId, request: &Request) -> (Option<Row>, Reply) {
    let decided = match *request {
        Request::Grant { report_id, guest_svn } => {
            grant(row, at, (Holder { instance: caller, report_id }, guest_svn))
        }
        Request::Resume { token } => resume(row, at, caller, token),
        Request::Confirm(to) => confirm(row, at, caller, &to),
        Request::Anchor(to) => anchor(row, at, caller, &to),
        Request::Renew { token, generation } => {
            row.serving(caller, token, generation).map(|()| lease(row.clone(), at))
        }
        Request::Bump { token, generation } => bump(row, at, caller, (token, generation)),
        Request::Release { token, generation, head } => release(row, caller, (token, generation), &head),
        Request::StateMissing { token } => row.standing(caller, token).map(|()| (None, Reply::Done)),
        Request::Restore { token, generation } => restore(row, caller, (token, generation)),
    };
    decided.unwrap_or_else(|refusal| (None, refusal))
}

type Decision = Result<(Option<Row>, Reply), Reply>;

/// The row with its lease drawn out, and the answer that says so.
fn lease(row: Row, at: Moment) -> (Option<Row>, Reply) {
    (Some(row.leased(at)), Reply::Leased { lease_ms: at.lease_ms })
}

/// A fresh token for every grant, also for the instance that asks again because the answer was lost: what it was
/// given before can never be confirmed any more, so nothing durable can depend on it, and no two answers are alike
/// to be confused. The old epoch's secret stays until CONFIRM: until then the disk still needs it.
fn grant(row: &Row, at: Moment, (holder, guest_svn): (Holder, u32)) -> Decision {
    if matches!(row.life, Life::Halted | Life::Retired) {
        return Err(Reply::Denied(DeniedReason::Lifecycle));
    }
    if guest_svn < row.guest_svn {
        return Err(Reply::Denied(DeniedReason::GuestPolicy));
    }
    let waits = !row.released && at.now_ms < row.lease_until_ms;
    if waits && !row.forced {
        let wait_ms = row.lease_until_ms - at.now_ms;
        return Err(Reply::Busy { retry_ms: u32::try_from(wait_ms).unwrap_or(u32::MAX) });
    }
    let (Some(token), Some(epoch)) = (row.token.checked_add(1), row.epoch.checked_add(1)) else {
        return Err(Reply::Denied(DeniedReason::Lifecycle));
    };
    let next = SecretName { token, epoch };
    // What is restored has its own key; what is given up keeps its secret until CONFIRM, and that stays here.
    let granted = Grant {
        token,
        generation: row.granted_generation(),
        epoch: row.epoch,
        head: row.head,
        current: row.current.filter(|_| row.restoring.is_none()),
        next,
        restores: row.restoring.is_some(),
    };
    // Forced: the windows of older tokens end by themselves, and until then there is no saying that they have.
    let overlap_until_ms = if waits { row.lease_until_ms } else { row.overlap_until_ms };
    let (next, holder) = (Some(next), Some(holder));
    let row = Row { token, next, holder, bumped_from: None, overlap_until_ms, guest_svn, ..row.clone() };
    Ok((Some(row), Reply::Granted(granted)))
}

/// Coming back is a RENEW for who serves, and no right to answer for who has not confirmed or has released.
fn resume(row: &Row, at: Moment, caller: InstanceId, token: Token) -> Decision {
    // A BUMP whose answer was lost: the instance still names the token from before.
    let token = if row.bumped_from == Some(token) { row.token } else { token };
    row.standing(caller, token)?;
    if row.is_pending() || row.released {
        return Ok((None, Reply::Leased { lease_ms: 0 }));
    }
    Ok(lease(row.clone(), at))
}

fn confirm(row: &Row, at: Moment, caller: InstanceId, to: &Move) -> Decision {
    row.standing(caller, to.token)?;
    if to.generation != row.granted_generation() {
        return Err(Reply::Conflict);
    }
    let Some(next) = row.next else {
        return repeated(row, at, to);
    };
    if to.epoch != next.epoch || to.previous != row.head {
        return Err(Reply::Conflict);
    }
    if to.new.sequence <= to.previous.sequence {
        return Err(Reply::Denied(DeniedReason::Order));
    }
    let confirmed = Row {
        life: Life::Active,
        epoch: next.epoch,
        head: to.new,
        reset_base: to.reset_base,
        current: Some(next),
        next: None,
        released: false,
        forced: false,
        generation: row.granted_generation(),
        restoring: None,
        ..row.clone()
    };
    Ok(lease(confirmed, at))
}

fn anchor(row: &Row, at: Moment, caller: InstanceId, to: &Move) -> Decision {
    row.serving(caller, to.token, to.generation)?;
    if to.epoch != row.epoch || to.previous != row.head {
        return repeated(row, at, to);
    }
    if to.new.sequence <= to.previous.sequence {
        return Err(Reply::Denied(DeniedReason::Order));
    }
    Ok(lease(Row { head: to.new, reset_base: to.reset_base, ..row.clone() }, at))
}

/// The head is already there: the answer was lost, and is given again. Only to who still serves.
fn repeated(row: &Row, at: Moment, to: &Move) -> Decision {
    if row.released {
        return Err(Reply::Denied(DeniedReason::Order));
    }
    if to.epoch == row.epoch && to.new == row.head {
        Ok(lease(row.clone(), at))
    } else {
        Err(Reply::Conflict)
    }
}

fn bump(row: &Row, at: Moment, caller: InstanceId, (token, generation): (Token, u32)) -> Decision {
    if row.bumped_from == Some(token) {
        row.serving(caller, row.token, generation)?;
        let reply = Reply::Bumped { token: row.token, lease_ms: at.lease_ms };
        return Ok((Some(row.leased(at)), reply));
    }
    row.serving(caller, token, generation)?;
    let fresh = row.token.checked_add(1).ok_or(Reply::Denied(DeniedReason::Lifecycle))?;
    let bumped = Row { token: fresh, bumped_from: Some(token), ..row.clone() };
    Ok((Some(bumped.leased(at)), Reply::Bumped { token: fresh, lease_ms: at.lease_ms }))
}

/// Only to who was granted to restore and has not confirmed: afterwards nothing is to be restored.
fn restore(row: &Row, caller: InstanceId, (token, generation): (Token, u32)) -> Decision {
    row.standing(caller, token)?;
    if !row.is_pending() || row.restoring != Some(generation) {
        return Err(Reply::Denied(DeniedReason::Order));
    }
    Ok((None, Reply::Done))
}

fn release(row: &Row, caller: InstanceId, (token, generation): (Token, u32), head: &Head) -> Decision {
    row.standing(caller, token)?;
    if row.is_pending() {
        return Err(Reply::Denied(DeniedReason::Order));
    }
    if generation != row.generation || *head != row.head {
        return Err(Reply::Conflict);
    }
    let change = (!row.released).then(|| Row { released: true, ..row.clone() });
    Ok((change, Reply::Done))
}

/// What a start of the broker assumes: whoever has not released may have been given a full lease just before.
#[must_use]
pub fn assume_lease(row: &Row, now_ms: u64, lease_ms_max: u32) -> Row {
    if row.released { row.clone() } else { row.leased(Moment { now_ms, lease_ms: lease_ms_max }) }
}
