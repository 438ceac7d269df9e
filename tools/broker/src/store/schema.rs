//! The database's tables, one migration per version.

use super::StoreError;
use rusqlite::Connection;

/// Marks a SQLite file as ours: "Husk".
const APPLICATION_ID: i64 = 0x4875_736B;

/// The version that this code reads and writes.
const VERSION: u32 = 1;
/// One script per version, oldest first. A released script is never changed, only followed.
const MIGRATIONS: [&str; VERSION as usize] = ["
CREATE TABLE broker (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    root_check BLOB NOT NULL,
    now_ms INTEGER NOT NULL,
    lease_ms_max INTEGER NOT NULL
) STRICT;
CREATE TABLE tenants (
    tenant BLOB PRIMARY KEY,
    root BLOB NOT NULL,
    certificate BLOB NOT NULL
) STRICT;
CREATE TABLE vms (
    tenant BLOB NOT NULL REFERENCES tenants (tenant),
    vm BLOB NOT NULL,
    host_data BLOB NOT NULL,
    policy TEXT NOT NULL,
    life INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    token INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    digest BLOB NOT NULL,
    current_token INTEGER,
    next_token INTEGER,
    holder BLOB,
    holder_report BLOB,
    lease_until_ms INTEGER NOT NULL,
    released INTEGER NOT NULL,
    bumped_from INTEGER,
    PRIMARY KEY (tenant, vm)
) STRICT;
CREATE TABLE secrets (
    tenant BLOB NOT NULL,
    vm BLOB NOT NULL,
    token INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    salt BLOB NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (tenant, vm, token),
    FOREIGN KEY (tenant, vm) REFERENCES vms (tenant, vm)
) STRICT;
CREATE TABLE launches (
    report_id BLOB NOT NULL,
    tenant BLOB NOT NULL,
    vm BLOB NOT NULL,
    instance BLOB NOT NULL,
    PRIMARY KEY (tenant, vm, report_id)
) STRICT;
"];

/// Settings of every connection: durable before COMMIT returns, erased content overwritten, other processes waited for.
pub(super) fn prepare(connection: &Connection) -> Result<(), StoreError> {
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;
         PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 5000; PRAGMA trusted_schema = OFF;",
    )?;
    Ok(())
}

/// Brings a fresh or older database to this version, in one transaction.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let pending = usize::try_from(version).ok().and_then(|version| MIGRATIONS.get(version..));
    let pending = pending.ok_or(StoreError::Newer)?;
    for script in pending {
        transaction.execute_batch(script)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    Ok(transaction.commit()?)
}

/// Refuses a file that is another program's database.
pub(super) fn recognise(connection: &Connection) -> Result<(), StoreError> {
    let id: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if id == APPLICATION_ID { Ok(()) } else { Err(StoreError::NotOurs) }
}
