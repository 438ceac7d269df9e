//! SQLite, in a file: the default, for one serving broker.
//!
//! **Laws.** `synchronous=FULL` in WAL mode: COMMIT returns after fsync. Writers take the database at BEGIN IMMEDIATE, so
//! transactions are serial. `secure_delete` overwrites what is deleted; [`Database::scrub`] empties the log.

use super::DatabaseError;
use super::sql::{Columns, Database, Sql, Value, Work};
use super::{StoreError, schema};
use husk_files::sync_folder;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, params_from_iter};
use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Marks a SQLite file as ours: "Husk".
const APPLICATION_ID: i64 = 0x4875_736B;

/// A database file, or one in memory.
pub(super) struct Sqlite {
    connection: Connection,
    path: Option<PathBuf>,
    /// Held while this serves.
    lock: Option<ServingLock>,
}

impl Sqlite {
    /// Makes a new file.
    pub(super) fn create(path: &Path) -> Result<Self, StoreError> {
        // SQLite gives the files beside it the same mode.
        made(path)?;
        Self::prepared(Connection::open(path)?, Some(path))
    }

    /// A database that is gone with the process.
    pub(super) fn in_memory() -> Result<Self, StoreError> {
        Self::prepared(Connection::open_in_memory()?, None)
    }

    /// Opens a file that is there and ours.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        if !path.exists() {
            return Err(StoreError::Missing);
        }
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let id: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        if id != APPLICATION_ID {
            return Err(StoreError::NotOurs);
        }
        Self::prepared(connection, Some(path))
    }

    /// Durable before COMMIT returns, erased content overwritten, other processes waited for.
    fn prepared(mut connection: Connection, path: Option<&Path>) -> Result<Self, StoreError> {
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;
             PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 5000; PRAGMA trusted_schema = OFF;",
        )?;
        connection.set_prepared_statement_cache_capacity(64);
        migrate(&mut connection)?;
        Ok(Self { connection, path: path.map(Path::to_owned), lock: None })
    }
}

fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for script in schema::pending(version)? {
        InTransaction(&transaction).migrate(script)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", schema::VERSION)?;
    Ok(transaction.commit()?)
}

impl Database for Sqlite {
    fn copy_to(&mut self, path: &Path) -> Result<u64, StoreError> {
        let text =
            path.to_str().ok_or_else(|| StoreError::Uncreatable("its name is not UTF-8".to_owned()))?;
        made(path)?;
        let copied = self.connection.execute("VACUUM INTO ?1", [text]).map_err(StoreError::from);
        copied.and_then(|_| checked_copy(path)).inspect_err(|_| {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::error!("{} was begun and could not be removed: {error}", path.display());
            }
        })
    }

    fn transact(&mut self, work: Work<'_>) -> Result<(), StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        work(&mut InTransaction(&transaction))?;
        Ok(transaction.commit()?)
    }

    fn serve(&mut self) -> Result<(), StoreError> {
        self.lock = self.path.as_deref().map(lock).transpose()?;
        Ok(())
    }

    /// Overwritten pages leave their old content in the write-ahead log until it is written back. Another reader may
    /// hold that up; the next erasure, or the orderly end, gets it.
    fn scrub(&mut self) {
        let scrubbed: Result<i64, _> =
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
        if !matches!(scrubbed, Ok(0)) {
            tracing::warn!("the write-ahead log is in use; erased secrets leave it later");
        }
    }
}

/// Makes an empty file, which is its owner's alone.
fn made(path: &Path) -> Result<(), StoreError> {
    let made = File::options().write(true).create_new(true).mode(0o600).open(path);
    made.map(drop).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => StoreError::Exists,
        _ => StoreError::Uncreatable(error.to_string()),
    })
}

/// How many commits a copy knows of, which is whole and on its disk.
fn checked_copy(path: &Path) -> Result<u64, StoreError> {
    let copy = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let verdict: String = copy.pragma_query_value(None, "integrity_check", |row| row.get(0))?;
    if verdict != "ok" {
        return Err(StoreError::Damaged);
    }
    let commits: i64 = copy.query_row("SELECT commits FROM broker", [], |row| row.get(0))?;
    drop(copy);
    let synced = File::open(path).and_then(|copy| copy.sync_all()).and_then(|()| sync_folder(path));
    synced.map_err(|error| StoreError::Uncreatable(error.to_string()))?;
    u64::try_from(commits).map_err(|_| StoreError::Damaged)
}

/// The lock of whoever serves.
struct ServingLock(File);

impl Drop for ServingLock {
    /// Closing the file is not enough: a program that another thread is starting has it open too until it runs (flock(2)).
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::error!("the lock of the database could not be given back: {error}");
        }
    }
}

/// One broker per database file: the lock goes with the process, however it ends. The file is its owner's alone, since
/// whoever can open it can hold its lock and keep the broker out.
fn lock(database: &Path) -> Result<ServingLock, StoreError> {
    let mut path = database.as_os_str().to_owned();
    path.push(".serving");
    let failed = |source: std::io::Error| StoreError::Lock(source.to_string());
    let file =
        File::options().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(ServingLock(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::Served),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

struct InTransaction<'c>(&'c Connection);

impl Sql for InTransaction<'_> {
    fn execute(&mut self, statement: &'static str, values: &[Value]) -> Result<u64, StoreError> {
        let touched = self.0.prepare_cached(statement)?.execute(params_from_iter(values))?;
        u64::try_from(touched).map_err(|_| StoreError::Damaged)
    }

    fn query(&mut self, statement: &'static str, values: &[Value]) -> Result<Vec<Columns>, StoreError> {
        let mut statement = self.0.prepare_cached(statement)?;
        let width = statement.column_count();
        let mut rows = statement.query(params_from_iter(values))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let columns: Result<Vec<Value>, StoreError> =
                (0..width).map(|at| value(row.get_ref(at)?)).collect();
            found.push(Columns::new(columns?));
        }
        Ok(found)
    }

    fn server_ms(&mut self) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }

    fn migrate(&mut self, script: &str) -> Result<(), StoreError> {
        Ok(self.0.execute_batch(script)?)
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

fn value(found: ValueRef<'_>) -> Result<Value, StoreError> {
    match found {
        ValueRef::Null => Ok(Value::Null),
        ValueRef::Integer(number) => Ok(Value::Integer(number)),
        ValueRef::Blob(bytes) => Ok(Value::Bytes(bytes.to_vec())),
        ValueRef::Text(text) => {
            String::from_utf8(text.to_vec()).map(Value::Text).map_err(|_| StoreError::Damaged)
        }
        ValueRef::Real(_) => Err(StoreError::Damaged),
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let extended = error.sqlite_error().map(|error| error.extended_code);
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            // The index of the write-ahead log could not grow: its file is made full size ahead, which fails for want of room.
            _ if extended == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE) => Self::Full,
            _ => Self::Database(DatabaseError::Sqlite(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::lock;
    use crate::store::StoreError;

    #[test]
    fn a_lock_is_given_back_at_once_even_while_another_program_is_started() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("db");
        let held = lock(&database).unwrap();
        // What a fork has until it executes.
        let inherited = held.0.try_clone().unwrap();
        assert!(matches!(lock(&database), Err(StoreError::Served)));
        drop(held);
        assert!(lock(&database).is_ok());
        drop(inherited);
    }
}
