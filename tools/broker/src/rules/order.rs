//! Orders: what the tenant's operators, and the broker for its own safety, do to a VM's row.

use super::{Life, Row};

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
}

/// Carries out an order, or names the life that bars it.
///
/// Every order that stops a VM raises the token, so that whoever runs is fenced. None of them shortens a
/// lease: after a resume the next grant still waits for it, and a forced one says what it did not wait for.
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
        ..row.clone()
    };
    let raised = row.token.checked_add(1).ok_or(row.life)?;
    match (order, row.life) {
        (Order::Halt, Life::Virgin | Life::Active) => Ok(stopped(Life::Halted, raised)),
        (Order::Resume, Life::Halted) if row.epoch == 0 => Ok(Row { life: Life::Virgin, ..row.clone() }),
        (Order::Resume, Life::Halted) => Ok(Row { life: Life::Active, ..row.clone() }),
        (Order::Retire, Life::Virgin | Life::Active | Life::Halted) => {
            Ok(Row { current: None, ..stopped(Life::Retired, raised) })
        }
        (Order::Force, Life::Virgin | Life::Active) => Ok(Row { forced: true, ..row.clone() }),
        (Order::Backup, Life::Active) => Ok(row.clone()),
        (Order::Backup, life @ (Life::Virgin | Life::Halted | Life::Retired))
        | (Order::Halt | Order::Force, life @ (Life::Halted | Life::Retired))
        | (Order::Resume, life @ (Life::Virgin | Life::Active | Life::Retired))
        | (Order::Retire, life @ Life::Retired) => Err(life),
    }
}
