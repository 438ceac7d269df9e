//! Orders: what the tenant's operators, and the broker for its own safety, do to a VM's row.

use super::{Keeps, Life, Row, Token};
use crate::ids::VmId;

/// What is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// Fence the running instance and grant to nobody.
    Halt,
    /// Grant again.
    Resume,
    /// End the VM for good and erase its secrets.
    Retire,
    /// Grant the next time without waiting for the lease: for at most that long two instances may answer.
    Force,
    /// Make a backup at the next launch: nothing about the row changes.
    Backup,
    /// Make the TPM anew at the next launch, from this backup.
    Restore(Backed),
    /// Make the TPM of a VM that has none, from this backup of another VM's.
    Clone(Original),
}

/// When a backup was made, as its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Backed {
    /// The generation of its state.
    pub generation: u32,
    /// The token under which it was made.
    pub token: Token,
}

/// Whose TPM is cloned, as its backup tells and as far as the broker knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Original {
    /// Which of the tenant's VMs it is.
    pub vm: VmId,
    /// When its backup was made.
    pub backed: Backed,
    /// The highest GUEST_SVN that it was granted with; 0 where that is not known.
    pub guest_svn: u32,
}

/// Carries out an order, or names the life that bars it.
///
/// Every order that stops a VM raises the token, so that whoever runs is fenced, and takes FORCE and RESTORE back. None of them shortens a
/// lease: after a resume or for a restore the next grant still waits for it, and a forced one says what it did not wait for. A TPM that
/// keeps nothing is not restored.
///
/// # Errors
/// The life in which the order makes no sense.
pub fn operate(row: &Row, order: Order) -> Result<Row, Life> {
    let stopped = |life, token| Row {
        life,
        token,
        next: None,
        holder: None,
        bumped_from: None,
        forced: false,
        restoring: None,
        ..row.clone()
    };
    let alive = if row.epoch == 0 { Life::Virgin } else { Life::Active };
    let raised = row.token.checked_add(1).ok_or(row.life)?;
    if row.keeps == Keeps::Nothing && matches!(order, Order::Restore(_) | Order::Clone(_)) {
        return Err(row.life);
    }
    match (order, row.life) {
        (Order::Halt, Life::Virgin | Life::Active) => Ok(stopped(Life::Halted, raised)),
        (Order::Resume, Life::Halted) => Ok(Row { life: alive, ..row.clone() }),
        (Order::Retire, Life::Virgin | Life::Active | Life::Halted) => {
            Ok(Row { current: None, ..stopped(Life::Retired, raised) })
        }
        (Order::Force, Life::Virgin | Life::Active) => Ok(Row { forced: true, ..row.clone() }),
        (Order::Backup, Life::Active) => Ok(row.clone()),
        (Order::Restore(backed), Life::Virgin | Life::Active | Life::Halted) => {
            let (token, generation) = beyond(row, raised, backed)?;
            Ok(Row { restoring: Some(generation), ..stopped(alive, token) })
        }
        (Order::Clone(original), Life::Virgin) => {
            let (token, generation) = beyond(row, raised, original.backed)?;
            let guest_svn = row.guest_svn.max(original.guest_svn);
            Ok(Row { restoring: Some(generation), guest_svn, ..stopped(Life::Virgin, token) })
        }
        (Order::Backup, life @ (Life::Virgin | Life::Halted | Life::Retired))
        | (Order::Halt | Order::Force, life @ (Life::Halted | Life::Retired))
        | (Order::Resume, life @ (Life::Virgin | Life::Active | Life::Retired))
        | (Order::Retire | Order::Restore(_), life @ Life::Retired)
        | (Order::Clone(_), life @ (Life::Active | Life::Halted | Life::Retired)) => Err(life),
    }
}

/// A token and a generation beyond what the backup's own instance was, which may have been another broker's: none of either comes again.
fn beyond(row: &Row, raised: Token, backed: Backed) -> Result<(Token, u32), Life> {
    let token = raised.max(backed.token.checked_add(1).ok_or(row.life)?);
    let generation = row.generation.max(backed.generation).checked_add(1).ok_or(row.life)?;
    Ok((token, generation))
}
