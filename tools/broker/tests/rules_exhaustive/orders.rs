//! Orders that end in a launch: what they do to a row, and each rule's absence found.

use super::{RESTORE, rows};
use husk_broker::ids::VmId;
use husk_broker::rules::{Backed, Life, Order, Original, Row, operate};

/// BACKUP leaves a row as it is: the instance that runs makes the backup, or its successor.
#[test]
fn a_backup_order_changes_no_row_and_every_mutant_of_it_is_caught() {
    type Backup = fn(&Row) -> Option<Row>;
    let broken = |backup: Backup| {
        rows().into_iter().any(|row| {
            let wanted = (row.life == Life::Active).then(|| row.clone());
            backup(&row) != wanted
        })
    };
    assert!(!broken(|row| operate(row, Order::Backup).ok()));
    let mutants: [(&str, Backup); 3] = [
        ("a backup fences", |row| {
            operate(row, Order::Backup).ok().map(|new| Row { token: new.token + 1, holder: None, ..new })
        }),
        ("a backup does not wait", |row| {
            operate(row, Order::Backup).and_then(|new| operate(&new, Order::Force)).ok()
        }),
        ("a backup of no TPM", |row| Some(row.clone())),
    ];
    for (name, mutant) in mutants {
        assert!(broken(mutant), "nothing noticed the mutant \"{name}\"");
    }
}

/// What is beside the fencing: the generation is beyond the row's and the backup's, and begins at CONFIRM; so is the token; what is replaced
/// stays until then; HALT and RETIRE take the order back.
#[test]
fn a_restore_order_replaces_nothing_by_itself_and_every_mutant_of_it_is_caught() {
    type Restore = fn(&Row, Order) -> Option<Row>;
    let backups = [(0, 0), (0, 9), (4, 2)].map(|(generation, token)| Backed { generation, token });
    let is_right = |old: &Row, new: &Row, Backed { generation, token }: Backed| {
        let beyond = new.restoring.is_some_and(|new| new > old.generation && new > generation);
        let back = [Order::Halt, Order::Retire].into_iter().all(|order| {
            operate(new, order).is_ok_and(|row| row.restoring.is_none() && row.generation == old.generation)
        });
        let kept = (new.generation, new.epoch, new.head, new.current);
        beyond && new.token > token && kept == (old.generation, old.epoch, old.head, old.current) && back
    };
    let broken = |restore: Restore| {
        let halted = rows().map(|row| operate(&row, Order::Halt).expect("it makes sense"));
        rows().into_iter().chain(halted).any(|old| {
            backups.into_iter().any(|backed| {
                restore(&old, Order::Restore(backed)).is_none_or(|new| !is_right(&old, &new, backed))
            })
        })
    };
    assert!(!broken(|row, order| operate(row, order).ok()));
    let retired = operate(&rows()[1], Order::Retire).expect("it makes sense");
    assert_eq!(operate(&retired, RESTORE), Err(Life::Retired));
    let mutants: [(&str, Restore); 5] = [
        ("the generation begins with the order", |row, order| {
            operate(row, order).ok().map(|new| Row { generation: new.restoring.unwrap_or(0), ..new })
        }),
        ("the generation is not beyond the backup's", |row, order| {
            operate(row, order).ok().map(|new| Row { restoring: Some(row.generation + 1), ..new })
        }),
        ("the token goes back to the backup's", |row, order| match order {
            Order::Restore(backed) => operate(row, order).ok().map(|new| Row { token: backed.token, ..new }),
            _ => None,
        }),
        ("what is replaced is erased at once", |row, order| {
            operate(row, order).ok().map(|new| Row { current: None, ..new })
        }),
        ("a halted VM is not restored", |row, order| {
            (row.life != Life::Halted).then(|| operate(row, order).ok()).flatten()
        }),
    ];
    for (name, mutant) in mutants {
        assert!(broken(mutant), "nothing noticed the mutant \"{name}\"");
    }
}

/// CLONE is RESTORE of a VM that has no TPM yet, and takes the original's GUEST_SVN along.
#[test]
fn a_clone_order_is_for_a_vm_without_a_tpm_and_every_mutant_of_it_is_caught() {
    type Clone = fn(&Row, Original) -> Option<Row>;
    let broken = |clone: Clone| {
        [3, 7].into_iter().any(|guest_svn| {
            let backed = Backed { generation: 2, token: 9 };
            let original = Original { vm: VmId([9; 16]), backed, guest_svn };
            let ended = |row: &Row| [Order::Halt, Order::Retire].map(|order| operate(row, order).ok());
            let all = rows()
                .into_iter()
                .flat_map(|row| ended(&row).into_iter().flatten().chain([row.clone()]).collect::<Vec<_>>());
            let floored = all.map(|row| Row { guest_svn: 5, ..row });
            floored.into_iter().any(|row| {
                let restored = operate(&row, Order::Restore(backed)).ok();
                let wanted = restored.filter(|_| row.life == Life::Virgin);
                clone(&row, original) != wanted.map(|new| Row { guest_svn: guest_svn.max(5), ..new })
            })
        })
    };
    assert!(!broken(|row, original| operate(row, Order::Clone(original)).ok()));
    let mutants: [(&str, Clone); 3] = [
        ("a clone over a TPM", |row, original| {
            let new = operate(row, Order::Restore(original.backed)).ok()?;
            Some(Row { guest_svn: row.guest_svn.max(original.guest_svn), ..new })
        }),
        ("a clone forgets the original's GUEST_SVN", |row, original| {
            let new = operate(row, Order::Clone(original)).ok()?;
            Some(Row { guest_svn: row.guest_svn, ..new })
        }),
        ("a clone lowers GUEST_SVN", |row, original| {
            let new = operate(row, Order::Clone(original)).ok()?;
            Some(Row { guest_svn: original.guest_svn, ..new })
        }),
    ];
    for (name, mutant) in mutants {
        assert!(broken(mutant), "nothing noticed the mutant \"{name}\"");
    }
}
