//! PostgreSQL, for any number of serving brokers.
//!
//! **What.** One connection, made again when it was lost. The tables are in a schema of their own, `husk`.
//! **Trust.** The server and its disk, as far as wrapped secrets allow; the way to it, hence a unix socket or loopback.
//! **Laws.** A server that promises less than durable, serialisable transactions is refused at every connection. Every
//! transaction takes one lock first, before its snapshot, so that transactions are serial and none is ever sent back for a
//! conflict. Nobody can hold the lock for longer than [`PATIENCE`].
//! **Not here.** Making the PostgreSQL database and its users; replicas. A promoted asynchronous replica lacks
//! acknowledged commits: never promote one.

use super::DatabaseError;
use super::sql::{Columns, Database, Sql, Value, Work};
use super::{StoreError, schema};
use postgres::config::Host;
use postgres::error::SqlState;
use postgres::types::private::BytesMut;
use postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use postgres::{Client, Config, NoTls, Statement};
use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

/// How long a connection may take to be made.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);

/// Settings of a connection: nobody waits for ever, and who falls silent within a transaction loses it.
const PATIENCE: &str = "SET search_path = husk; SET lock_timeout = '10s'; SET statement_timeout = '10s';
    SET idle_in_transaction_session_timeout = '10s'; SET application_name = 'husk-broker';";

/// What the server must promise: the setting, what it may be, and why.
const PROMISES: [(&str, &[&str], &str); 4] = [
    ("synchronous_commit", &["on", "remote_apply"], "COMMIT must return only when it is durable"),
    ("fsync", &["on"], "a crash of the machine must lose nothing"),
    ("full_page_writes", &["on"], "a torn page must be mended"),
    ("transaction_read_only", &["off"], "a standby cannot serve"),
];

/// The lock is no statement that reads, so the snapshot is taken after it (PostgreSQL manual, LOCK).
const BEGIN: &str = "BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE; LOCK TABLE broker IN EXCLUSIVE MODE";

pub(super) struct Postgres {
    config: Config,
    connection: Option<Connection>,
}

struct Connection {
    client: Client,
    statements: HashMap<&'static str, Statement>,
}

impl Postgres {
    /// Makes the tables in a database that has none.
    pub(super) fn create(url: &str) -> Result<Self, StoreError> {
        let mut postgres = Self { config: config(url)?, connection: None };
        let mut client = postgres.connect()?;
        if is_ours(&mut client)? {
            return Err(StoreError::Exists);
        }
        let mut scripts = "BEGIN; CREATE SCHEMA husk; CREATE TABLE version (version BIGINT NOT NULL);
            INSERT INTO version VALUES (0);"
            .to_owned();
        scripts.push_str(&upgrade(0)?);
        client.batch_execute(&scripts)?;
        postgres.connection = Some(Connection::of(client));
        Ok(postgres)
    }

    /// Opens a database that has them.
    pub(super) fn open(url: &str) -> Result<Self, StoreError> {
        let mut postgres = Self { config: config(url)?, connection: None };
        postgres.connection()?;
        Ok(postgres)
    }

    fn connect(&self) -> Result<Client, StoreError> {
        let mut client =
            self.config.connect(NoTls).map_err(|error| StoreError::Unreachable(whole(&error)))?;
        client.batch_execute(PATIENCE)?;
        for (setting, allowed, why) in PROMISES {
            let row = client.query_one("SELECT current_setting($1)", &[&setting])?;
            let value: String = row.try_get(0)?;
            if !allowed.contains(&value.as_str()) {
                return Err(StoreError::Weaker(format!("{setting} is {value}, and {why}")));
            }
        }
        client.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE")?;
        let row = client.query_one("SELECT current_setting('transaction_isolation')", &[])?;
        let isolation: String = row.try_get(0)?;
        client.batch_execute("COMMIT")?;
        if isolation == "serializable" {
            Ok(client)
        } else {
            Err(StoreError::Weaker(format!("asked for serializable transactions, it gives {isolation}")))
        }
    }

    /// The connection; a new one if there is none, or it was lost.
    fn connection(&mut self) -> Result<&mut Connection, StoreError> {
        if self.connection.as_ref().is_some_and(|connection| connection.client.is_closed()) {
            self.connection = None;
        }
        if self.connection.is_none() {
            let mut client = self.connect()?;
            if !is_ours(&mut client)? {
                return Err(StoreError::Missing);
            }
            migrate(&mut client)?;
            self.connection = Some(Connection::of(client));
        }
        self.connection.as_mut().ok_or(StoreError::Raced)
    }
}

/// Brings the tables up to date. Whoever comes second finds nothing left to do.
fn migrate(client: &mut Client) -> Result<(), StoreError> {
    client.batch_execute("BEGIN; LOCK TABLE version IN EXCLUSIVE MODE")?;
    let version: i64 = client.query_one("SELECT version FROM version", &[])?.try_get(0)?;
    let version = u32::try_from(version).map_err(|_| StoreError::Damaged)?;
    Ok(client.batch_execute(&upgrade(version)?)?)
}

/// The rest of a transaction that upgrades from `version`.
fn upgrade(version: u32) -> Result<String, StoreError> {
    let mut script: String =
        schema::pending(version)?.iter().map(|script| schema::for_postgres(script)).collect();
    script.push_str(&format!("UPDATE version SET version = {}; COMMIT", schema::VERSION));
    Ok(script)
}

fn is_ours(client: &mut Client) -> Result<bool, StoreError> {
    let row = client.query_one("SELECT to_regclass('husk.version') IS NOT NULL", &[])?;
    Ok(row.try_get(0)?)
}

/// Reads the URL: no way over a network, since this client speaks no TLS, and no password, since arguments are seen.
fn config(url: &str) -> Result<Config, StoreError> {
    let refused = |why: &str| StoreError::Url(why.to_owned());
    let mut config: Config = url.parse().map_err(|error| StoreError::Url(whole(&error)))?;
    if config.get_password().is_some() {
        return Err(refused("a password in an argument is seen by everybody; set PGPASSWORD"));
    }
    let is_near = |host: &Host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => ["localhost", "127.0.0.1", "::1"].contains(&name.as_str()),
    };
    if config.get_hosts().is_empty() || !config.get_hosts().iter().all(is_near) {
        return Err(refused(
            "the host must be a unix socket's folder (?host=/run/postgresql) or this machine; \
             reach another through an authenticated tunnel",
        ));
    }
    if let Ok(password) = std::env::var("PGPASSWORD") {
        config.password(password);
    }
    config.connect_timeout(CONNECT_WAIT_MAX).tcp_user_timeout(CONNECT_WAIT_MAX);
    Ok(config)
}

impl Connection {
    fn of(client: Client) -> Self {
        Self { client, statements: HashMap::new() }
    }

    fn statement(&mut self, statement: &'static str) -> Result<Statement, StoreError> {
        if let Some(prepared) = self.statements.get(statement) {
            return Ok(prepared.clone());
        }
        let prepared = self.client.prepare(&statement.replace('?', "$"))?;
        self.statements.insert(statement, prepared.clone());
        Ok(prepared)
    }
}

impl Database for Postgres {
    fn copy_to(&mut self, _: &Path) -> Result<u64, StoreError> {
        Err(StoreError::CopyElsewhere)
    }

    fn transact(&mut self, work: Work<'_>) -> Result<(), StoreError> {
        let connection = self.connection()?;
        let mut worked = connection.client.batch_execute(BEGIN).map_err(StoreError::from);
        worked = worked.and_then(|()| work(connection));
        let ended = match worked {
            Ok(()) => connection.client.batch_execute("COMMIT").map_err(StoreError::from),
            Err(error) => Err(error),
        };
        // Nothing may be left of a transaction that failed; a connection that cannot say so is given up.
        if ended.is_err() && connection.client.batch_execute("ROLLBACK").is_err() {
            self.connection = None;
        }
        ended
    }

    /// Any number may.
    fn serve(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Deleted rows stay in PostgreSQL's pages and log until it reuses them: only the wrapping protects them, until the
    /// root key is changed (`husk broker rotate`).
    fn scrub(&mut self) {}
}

impl Sql for Connection {
    fn execute(&mut self, statement: &'static str, values: &[Value]) -> Result<u64, StoreError> {
        let statement = self.statement(statement)?;
        Ok(self.client.execute(&statement, &borrowed(values))?)
    }

    fn query(&mut self, statement: &'static str, values: &[Value]) -> Result<Vec<Columns>, StoreError> {
        let statement = self.statement(statement)?;
        let rows = self.client.query(&statement, &borrowed(values))?;
        rows.iter()
            .map(|row| {
                let columns: Result<Vec<Value>, _> = (0..row.len()).map(|at| row.try_get(at)).collect();
                Ok(Columns::new(columns?))
            })
            .collect()
    }

    fn server_ms(&mut self) -> Result<Option<u64>, StoreError> {
        const CLOCK: &str = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)";
        self.one(CLOCK, &[])?.ok_or(StoreError::Damaged)?.number().map(Some)
    }

    fn migrate(&mut self, script: &str) -> Result<(), StoreError> {
        Ok(self.client.batch_execute(&schema::for_postgres(script))?)
    }
}

fn borrowed(values: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|value| -> &(dyn ToSql + Sync) { value }).collect()
}

impl ToSql for Value {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Integer(number) => number.to_sql_checked(kind, out),
            Self::Bytes(bytes) => bytes.to_sql_checked(kind, out),
            Self::Text(text) => text.to_sql_checked(kind, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl<'r> FromSql<'r> for Value {
    fn from_sql(kind: &Type, raw: &'r [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        match *kind {
            Type::INT8 => FromSql::from_sql(kind, raw).map(Self::Integer),
            Type::BYTEA => FromSql::from_sql(kind, raw).map(Self::Bytes),
            _ => FromSql::from_sql(kind, raw).map(Self::Text),
        }
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self::Null)
    }

    fn accepts(kind: &Type) -> bool {
        [Type::INT8, Type::BYTEA, Type::TEXT].contains(kind)
    }
}

impl From<postgres::Error> for StoreError {
    fn from(error: postgres::Error) -> Self {
        let Some(code) = error.code() else {
            return if error.is_closed() || error.source().is_some_and(|cause| cause.is::<std::io::Error>()) {
                Self::Unreachable(whole(&error))
            } else {
                Self::Database(DatabaseError::Postgres(error))
            };
        };
        let is_serialisation =
            *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED;
        let is_ending = [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW];
        match code {
            code if is_serialisation || *code == SqlState::LOCK_NOT_AVAILABLE => Self::Raced,
            code if *code == SqlState::DISK_FULL => Self::Full,
            code if is_ending.contains(code) => Self::Unreachable(whole(&error)),
            _ => Self::Database(DatabaseError::Postgres(error)),
        }
    }
}

/// The error with its causes: this crate's own text names only the kind.
fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}
