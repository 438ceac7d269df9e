//! The commands `husk broker`, `husk tenant` and `husk vm`.
//!
//! **What.** Arguments and what they do; results on standard output, as text or with `--json`.
//! **Laws.** No secret in an argument or in the output. No file is ever overwritten; what a failed command made, it
//! takes away again. Exit codes are [`exit_code`]'s.
//! **Not here.** Anything that a VM can reach.

mod audit;
mod authority;
mod backup;
mod broker;
mod certs;
mod copies;
mod counter;
mod order;
mod policy;
mod prepared;
mod quota;
mod remote;
mod resource;
mod restore;
mod seen;
mod serve;
mod tenant;
mod tls;
mod token;
mod unlock;
mod vm;

pub use audit::AuditCommand;
pub use broker::BrokerCommand;
pub use order::{statement, statement_shown};
pub use prepared::{AuthorityArgs, Certifier};
pub use serve::ServeArgs;
pub use tenant::TenantCommand;
pub use vm::VmCommand;

use crate::admin::Failure;
use crate::operations::PageTokenError;
use crate::store::{Location, Store, StoreError};
use crate::tls::TlsError;
use crate::token::{Token, TokenError};
use crate::vault::{Opener, Passphrase, RootKeys, VaultError};
use anyhow::Context as _;
use clap::Args;
use husk_files::{ConfigFileError, PrivateFileError};
use std::path::PathBuf;

/// Where the database is.
#[derive(Args, Clone, Debug)]
pub struct Database {
    /// The broker's database: a SQLite file, or a PostgreSQL database as postgres:///NAME?host=/run/postgresql.
    #[arg(long, value_name = "FILE|URL")]
    pub database: Location,
}

impl Database {
    fn open(&self) -> anyhow::Result<Store> {
        Store::open_at(&self.database).with_context(|| self.database.to_string())
    }
}

/// The broker's root key file.
#[derive(Args, Clone, Debug)]
pub struct RootKey {
    /// The root key file that `husk broker init` wrote.
    #[arg(long, value_name = "FILE")]
    pub root_key: PathBuf,
    /// A private file whose first line is the passphrase that protects the root key file.
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    token: token::TokenPlace,
}

impl RootKey {
    fn read(&self) -> anyhow::Result<RootKeys> {
        self.read_with(self.token.open()?.as_ref())
    }

    /// Reads it where the token may be there `for_another` purpose: then a file that no token sealed is none to wonder at.
    fn read_for(&self, token: Option<&Token>, for_another: bool) -> anyhow::Result<RootKeys> {
        let sealed = || RootKeys::is_under_token(&self.root_key).context("the root key was not read");
        if for_another && !sealed()? { self.read_with(None) } else { self.read_with(token) }
    }

    fn read_with(&self, token: Option<&Token>) -> anyhow::Result<RootKeys> {
        let passphrase = self.passphrase_file.as_deref().map(Passphrase::read).transpose()?;
        let opener = match (&passphrase, token) {
            (Some(passphrase), _) => Opener::Passphrase(passphrase),
            (None, Some(token)) => Opener::Token(token),
            (None, None) => Opener::Open,
        };
        RootKeys::read_with(&self.root_key, opener).context("the root key was not read")
    }
}

/// How the result shows.
#[derive(Args, Clone, Copy, Debug)]
pub struct Shape {
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

impl Shape {
    /// Prints `value`: as JSON, or its fields one a line.
    fn print(self, value: &serde_json::Value) {
        if self.json {
            println!("{value}");
            return;
        }
        let Some(fields) = value.as_object() else {
            println!("{value}");
            return;
        };
        let width = fields.keys().map(String::len).max().unwrap_or(0);
        for (name, value) in fields {
            match value {
                serde_json::Value::String(text) => println!("{name:width$}  {text}"),
                serde_json::Value::Null => println!("{name:width$}  -"),
                other => println!("{name:width$}  {other}"),
            }
        }
    }
}

/// The exit code of a command that failed: 3 if a tenant, VM, file, token or object in it that it names is unknown, 4 if one is there
/// already, 5 if another broker serves the database, 1 for everything else. (2 is a wrong command line.)
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        match cause.downcast_ref() {
            Some(
                StoreError::UnknownTenant(_)
                | StoreError::UnknownVm(_)
                | StoreError::UnknownResource(_)
                | StoreError::UnknownUnlock(_)
                | StoreError::UnknownCertificate(_)
                | StoreError::Missing,
            ) => return 3,
            Some(
                StoreError::TenantExists(_)
                | StoreError::AuthorityExists(_)
                | StoreError::VmExists(_)
                | StoreError::ResourceExists(_)
                | StoreError::UnlockExists(_)
                | StoreError::Exists,
            ) => return 4,
            Some(StoreError::Served) => return 5,
            _ => {}
        }
        match cause.downcast_ref() {
            Some(Failure::UnknownVm | Failure::UnknownResource | Failure::UnknownUnlock) => return 3,
            Some(Failure::VmExists | Failure::ResourceExists | Failure::UnlockExists) => return 4,
            _ => {}
        }
        match in_token(cause) {
            Some(TokenError::Missing(..) | TokenError::NoToken(..)) => return 3,
            Some(TokenError::Exists(..)) => return 4,
            _ => {}
        }
        match in_file(cause) {
            Some(PrivateFileError::Missing(_)) => return 3,
            Some(PrivateFileError::Exists(_)) => return 4,
            _ => {}
        }
    }
    1
}

type Cause<'c> = &'c (dyn std::error::Error + 'static);

// An error that is shown as its cause stands in the chain in place of it: it is looked for within.

fn in_vault(cause: Cause<'_>) -> Option<&VaultError> {
    match cause.downcast_ref() {
        Some(StoreError::Vault(vault)) => Some(vault),
        _ => cause.downcast_ref(),
    }
}

fn in_token(cause: Cause<'_>) -> Option<&TokenError> {
    match (cause.downcast_ref(), in_vault(cause)) {
        (Some(StoreError::Token(token)), _) | (_, Some(VaultError::Token(token))) => Some(token),
        _ => cause.downcast_ref(),
    }
}

fn in_file(cause: Cause<'_>) -> Option<&PrivateFileError> {
    if let Some(TlsError::File(file)) = cause.downcast_ref() {
        return Some(file);
    }
    if let Some(PageTokenError::File(file)) = cause.downcast_ref() {
        return Some(file);
    }
    match (cause.downcast_ref(), in_vault(cause), in_token(cause), cause.downcast_ref()) {
        (Some(StoreError::File(file)), ..)
        | (_, Some(VaultError::File(file)), ..)
        | (_, _, Some(TokenError::File(file)), _)
        | (.., Some(ConfigFileError::File(file))) => Some(file),
        _ => cause.downcast_ref(),
    }
}

/// Does `rest`; takes the file at `path` away again if it fails.
fn or_remove<T>(path: &std::path::Path, rest: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    rest().inspect_err(|_| {
        if let Err(error) = std::fs::remove_file(path) {
            eprintln!("husk: {} was made and could not be removed: {error}", path.display());
        }
    })
}

/// 16 random bytes.
fn random_id() -> anyhow::Result<[u8; 16]> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|_| VaultError::Entropy)?;
    Ok(id)
}
