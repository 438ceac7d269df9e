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
mod row;

pub use order::{Backed, Order, Original, operate};
pub use row::{Holder, InstanceId, Keeps, Life, Row, SecretName, Token};

use husk::release::Head;
use husk::release::wire::DeniedReason;

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
    /// To run a TPM that ends with the launch, after a full attestation in this session.
    Ephemeral {
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
    /// [`Keeps::Nothing`]: make a TPM that ends with the launch; then no secret leaves.
    pub keeps: Keeps,
}

impl Grant {
    /// What it allows, for a log.
    #[must_use]
    pub fn purpose(&self) -> String {
        let word = match (self.keeps, self.restores, self.current) {
            (Keeps::Nothing, _, _) => return "to run a TPM that keeps nothing".to_owned(),
            (Keeps::State, true, _) => "restore from",
            (Keeps::State, false, Some(_)) => "open",
            (Keeps::State, false, None) => "create",
        };
        format!("to {word} epoch {}", self.epoch)
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

/// Decides one request: the row to store, if it changes, and the answer.
#[must_use]
pub fn step(row: &Row, at: Moment, caller: InstanceId, request: &Request) -> (Option<Row>, Reply) {
    let decided = match *request {
        Request::Grant { report_id, guest_svn } => {
            grant(row, at, (Holder { instance: caller, report_id }, guest_svn), Keeps::State)
        }
        Request::Ephemeral { report_id, guest_svn } => {
            grant(row, at, (Holder { instance: caller, report_id }, guest_svn), Keeps::Nothing)
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
///
/// A TPM that keeps nothing takes no other's place: where there is a state, or one is to be restored, it is not granted.
fn grant(row: &Row, at: Moment, (holder, guest_svn): (Holder, u32), keeps: Keeps) -> Decision {
    if matches!(row.life, Life::Halted | Life::Retired) {
        return Err(Reply::Denied(DeniedReason::Lifecycle));
    }
    if keeps == Keeps::Nothing && (row.epoch != 0 || row.restoring.is_some()) {
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
        keeps,
    };
    // Forced: the windows of older tokens end by themselves, and until then there is no saying that they have.
    let overlap_until_ms = if waits { row.lease_until_ms } else { row.overlap_until_ms };
    let (next, holder) = (Some(next), Some(holder));
    let bumped_from = None;
    let row = Row { token, next, holder, bumped_from, overlap_until_ms, guest_svn, keeps, ..row.clone() };
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
    if row.keeps == Keeps::Nothing {
        return confirm_nothing(row, at, to);
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

/// A launch is confirmed, and no head: what is not kept has none.
fn confirm_nothing(row: &Row, at: Moment, to: &Move) -> Decision {
    nowhere(to)?;
    match (row.is_pending(), row.released) {
        (true, _) => {
            let reset_base = to.reset_base;
            let confirmed = Row { reset_base, next: None, released: false, forced: false, ..row.clone() };
            Ok(lease(confirmed, at))
        }
        // The answer was lost, and is given again.
        (false, false) => Ok(lease(row.clone(), at)),
        (false, true) => Err(Reply::Denied(DeniedReason::Order)),
    }
}

/// From no head to none, in no epoch.
fn nowhere(to: &Move) -> Result<(), Reply> {
    let is_nowhere = (to.epoch, to.previous, to.new) == (0, Head::NONE, Head::NONE);
    if is_nowhere { Ok(()) } else { Err(Reply::Conflict) }
}

fn anchor(row: &Row, at: Moment, caller: InstanceId, to: &Move) -> Decision {
    row.serving(caller, to.token, to.generation)?;
    if row.keeps == Keeps::Nothing {
        // All that there is to remember is what its resetCount is counted from.
        nowhere(to)?;
        return Ok(lease(Row { reset_base: to.reset_base, ..row.clone() }, at));
    }
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
