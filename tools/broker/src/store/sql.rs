//! The seam between what is stored and what stores it.
//!
//! **What.** [`Database`] runs serialisable transactions, one at a time over all who share the database; [`Sql`] is one such
//! transaction. Statements are written once, in the SQL that SQLite and PostgreSQL share, with parameters `?1`, `?2`.
//! **Trust.** The database keeps what it promised when a connection was made (`sqlite`, `postgres`).
//! **Laws.** What [`Database::transact`] returned is durable; if it failed, nothing changed, or (a connection lost during
//! COMMIT) everything did and nobody was told: every request of the protocol may be repeated.

use super::StoreError;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a column holds, or a parameter is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Integer(i64),
    Bytes(Vec<u8>),
    Text(String),
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Integer(i64::from(flag))
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

impl<const N: usize> From<[u8; N]> for Value {
    fn from(bytes: [u8; N]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// One row of an answer, read from left to right; what is not of the wanted type is damage.
pub(super) struct Columns(std::vec::IntoIter<Value>);

impl Columns {
    pub(super) fn new(values: Vec<Value>) -> Self {
        Self(values.into_iter())
    }

    fn next(&mut self) -> Result<Value, StoreError> {
        self.0.next().ok_or(StoreError::Damaged)
    }

    pub(super) fn integer(&mut self) -> Result<i64, StoreError> {
        self.maybe_integer()?.ok_or(StoreError::Damaged)
    }

    pub(super) fn maybe_integer(&mut self) -> Result<Option<i64>, StoreError> {
        match self.next()? {
            Value::Integer(number) => Ok(Some(number)),
            Value::Null => Ok(None),
            Value::Bytes(_) | Value::Text(_) => Err(StoreError::Damaged),
        }
    }

    pub(super) fn number(&mut self) -> Result<u64, StoreError> {
        from_sql(self.integer()?)
    }

    pub(super) fn maybe_number(&mut self) -> Result<Option<u64>, StoreError> {
        self.maybe_integer()?.map(from_sql).transpose()
    }

    pub(super) fn flag(&mut self) -> Result<bool, StoreError> {
        match self.integer()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(StoreError::Damaged),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, StoreError> {
        match self.next()? {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Null | Value::Integer(_) | Value::Text(_) => Err(StoreError::Damaged),
        }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        self.maybe_array()?.ok_or(StoreError::Damaged)
    }

    pub(super) fn maybe_array<const N: usize>(&mut self) -> Result<Option<[u8; N]>, StoreError> {
        match self.next()? {
            Value::Bytes(bytes) => bytes.try_into().map(Some).map_err(|_| StoreError::Damaged),
            Value::Null => Ok(None),
            Value::Integer(_) | Value::Text(_) => Err(StoreError::Damaged),
        }
    }

    pub(super) fn text(&mut self) -> Result<String, StoreError> {
        match self.next()? {
            Value::Text(text) => Ok(text),
            Value::Null | Value::Integer(_) | Value::Bytes(_) => Err(StoreError::Damaged),
        }
    }
}

/// A transaction at work.
pub(super) trait Sql {
    /// Runs a statement; how many rows it touched.
    fn execute(&mut self, statement: &'static str, values: &[Value]) -> Result<u64, StoreError>;

    /// Runs a query; its rows.
    fn query(&mut self, statement: &'static str, values: &[Value]) -> Result<Vec<Columns>, StoreError>;

    /// The clock of the machine that the database runs on, in milliseconds, if it is not this process's machine.
    fn server_ms(&mut self) -> Result<Option<u64>, StoreError>;

    /// Brings the tables into being, or up to date.
    fn migrate(&mut self, script: &str) -> Result<(), StoreError>;

    /// The one row of a query, if there is one.
    fn one(&mut self, statement: &'static str, values: &[Value]) -> Result<Option<Columns>, StoreError> {
        Ok(self.query(statement, values)?.pop())
    }
}

/// What is done within a transaction.
pub(super) type Work<'w> = &'w mut dyn FnMut(&mut dyn Sql) -> Result<(), StoreError>;

/// A database that keeps its promises.
pub(super) trait Database: Send {
    /// Writes a copy to a new file; how many commits it knows of.
    fn copy_to(&mut self, path: &Path) -> Result<u64, StoreError>;

    /// Runs `work` in one transaction that nobody else's overlaps, and makes it durable. An error of `work` undoes it.
    fn transact(&mut self, work: Work<'_>) -> Result<(), StoreError>;

    /// Takes the right to serve for this process, where only one may.
    fn serve(&mut self) -> Result<(), StoreError>;

    /// Called after secrets were erased: what the database still holds of them beside its tables goes too, as far as
    /// it can be made to.
    fn scrub(&mut self);
}

/// As [`Database::transact`], with a result.
pub(super) fn transact<T>(
    database: &mut dyn Database,
    work: impl FnOnce(&mut dyn Sql) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let (mut work, mut made) = (Some(work), None);
    database.transact(&mut |sql| {
        let work = work.take().ok_or(StoreError::Raced)?;
        made = Some(work(&mut Counted(sql))?);
        Ok(())
    })?;
    made.ok_or(StoreError::Raced)
}

static STATEMENTS: AtomicU64 = AtomicU64::new(0);

/// How many statements this process gave to databases.
#[must_use]
pub fn statements() -> u64 {
    STATEMENTS.load(Ordering::Relaxed)
}

/// A transaction whose statements are counted.
struct Counted<'s>(&'s mut dyn Sql);

impl Sql for Counted<'_> {
    fn execute(&mut self, statement: &'static str, values: &[Value]) -> Result<u64, StoreError> {
        STATEMENTS.fetch_add(1, Ordering::Relaxed);
        self.0.execute(statement, values)
    }

    fn query(&mut self, statement: &'static str, values: &[Value]) -> Result<Vec<Columns>, StoreError> {
        STATEMENTS.fetch_add(1, Ordering::Relaxed);
        self.0.query(statement, values)
    }

    fn server_ms(&mut self) -> Result<Option<u64>, StoreError> {
        self.0.server_ms()
    }

    fn migrate(&mut self, script: &str) -> Result<(), StoreError> {
        self.0.migrate(script)
    }
}

/// SQL's integers are signed; ours never reach their end.
pub(super) fn from_sql(stored: i64) -> Result<u64, StoreError> {
    u64::try_from(stored).map_err(|_| StoreError::Damaged)
}

/// The other way.
pub(super) fn to_sql(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| StoreError::WornOut)
}
