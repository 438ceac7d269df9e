//! `husk broker`: make a broker, its keys and what it counts with; serving is `serve`'s.

use super::certs::CertsCommand;
use super::copies::{self, BackupArgs, RestoreArgs};
use super::serve::ServeArgs;
use super::tls::TlsCommand;
use super::token::TokenPlace;
use super::{Database, RootKey, Shape, or_remove};
use crate::log::{self, LogFormat};
use crate::store::{Counter, Store};
use crate::token::{Label, Token};
use crate::vault::{Passphrase, RootKeys};
use crate::world::Machine;
use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;
use std::path::{Path, PathBuf};

/// `husk broker …`
#[derive(Subcommand, Debug)]
pub enum BrokerCommand {
    /// Make a new broker: its root key file and its database.
    Init(InitArgs),
    /// Serve VMs until SIGTERM or Ctrl-C.
    Serve(ServeArgs),
    /// Wrap every secret under a new root key: what copies of the database hold opens no more once the old file is
    /// destroyed.
    Rotate(RotateArgs),
    /// Copy the database to a new file, also while it is served.
    Backup(BackupArgs),
    /// Put a copy of the database back, and halt every VM: what happened since the copy was made is lost.
    Restore(RestoreArgs),
    /// Make an external counter for `serve --counter`: a database that is set back later is noticed.
    Count(CountArgs),
    /// Certificates of processors' keys, their intermediates and revocation lists, kept in the database.
    #[command(subcommand)]
    Certs(CertsCommand),
    /// Make a key in a PKCS #11 token, which it cannot leave, for `init` and `rotate` to seal root keys under.
    TokenKey(TokenKeyArgs),
    /// Make what `serve` needs to speak TLS.
    #[command(subcommand)]
    Tls(TlsCommand),
}

/// `husk broker token-key`
#[derive(Args, Debug)]
pub struct TokenKeyArgs {
    #[command(flatten)]
    place: TokenPlace,
    /// The key's label.
    #[arg(long, value_name = "LABEL")]
    key: Label,
    #[command(flatten)]
    shape: Shape,
}

/// `husk broker count`
#[derive(Args, Debug)]
pub struct CountArgs {
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    root_key: RootKey,
    /// Where to write the counter: a disk that is not backed up and restored together with the database.
    #[arg(long, value_name = "FILE", required_unless_present = "counter_token_out")]
    counter_out: Option<PathBuf>,
    /// The label of a new object in the PKCS #11 token, in place of a file.
    #[arg(long, value_name = "LABEL", conflicts_with = "counter_out")]
    counter_token_out: Option<Label>,
    #[command(flatten)]
    shape: Shape,
}

/// `husk broker rotate`
#[derive(Args, Debug)]
pub struct RotateArgs {
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    root_key: RootKey,
    /// Where to write the new root key.
    #[arg(long, value_name = "FILE")]
    root_key_out: PathBuf,
    /// A private file whose first line is a passphrase to protect the new root key with.
    #[arg(long, value_name = "FILE")]
    passphrase_file_out: Option<PathBuf>,
    /// The label of a key in the PKCS #11 token to protect the new root key with.
    #[arg(long, value_name = "LABEL", conflicts_with = "passphrase_file_out")]
    token_key_out: Option<Label>,
    #[command(flatten)]
    shape: Shape,
}

/// `husk broker init`
#[derive(Args, Debug)]
pub struct InitArgs {
    #[command(flatten)]
    database: Database,
    /// Where to write the root key: it wraps every secret in the database and signs every grant.
    #[arg(long, value_name = "FILE")]
    root_key: PathBuf,
    /// A private file whose first line is a passphrase to protect the root key with; without it and a token only the
    /// file's mode does.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// The label of a key in the PKCS #11 token to protect the root key with (`husk broker token-key`).
    #[arg(long, value_name = "LABEL", conflicts_with = "passphrase_file", requires = "pkcs11_module")]
    token_key: Option<Label>,
    #[command(flatten)]
    token: TokenPlace,
    #[command(flatten)]
    shape: Shape,
}

impl BrokerCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// One chain of causes for the operator.
    pub fn run(self) -> anyhow::Result<()> {
        log::begin(match &self {
            Self::Serve(args) => args.log_format,
            _ => LogFormat::Text,
        })?;
        match self {
            Self::Init(args) => init(&args),
            Self::Serve(args) => super::serve::serve(&args),
            Self::Rotate(args) => rotate(&args),
            Self::Backup(args) => copies::backup(&args),
            Self::Restore(args) => copies::restore(&args),
            Self::Count(args) => count(&args),
            Self::Certs(command) => command.run(),
            Self::TokenKey(args) => token_key(&args),
            Self::Tls(command) => command.run(),
        }
    }
}

fn init(args: &InitArgs) -> anyhow::Result<()> {
    let keys = RootKeys::generate(&Machine::start())?;
    let token = args.token.open()?;
    let protection = Protection::of(args.passphrase_file.as_deref(), &args.token_key, &token)?;
    let protection = protection.write(&keys, &args.root_key)?;
    or_remove(&args.root_key, || {
        let location = &args.database.database;
        Store::create_at(location, &keys).with_context(|| location.to_string()).map(|_| ())
    })?;
    args.shape.print(&json!({
        "broker": hex::encode(keys.broker()),
        "database": args.database.database.to_string(),
        "root_key": args.root_key.display().to_string(),
        "root_key_protection": protection,
    }));
    Ok(())
}

/// What will protect a new root key file.
enum Protection<'a> {
    Mode,
    Passphrase(Passphrase),
    Token(&'a Token, &'a Label),
}

impl<'a> Protection<'a> {
    fn of(
        passphrase: Option<&Path>,
        key: &'a Option<Label>,
        token: &'a Option<Token>,
    ) -> anyhow::Result<Self> {
        match (passphrase, key, token) {
            (Some(file), _, _) => {
                Ok(Self::Passphrase(Passphrase::read(file).context("the passphrase was not read")?))
            }
            (None, Some(label), Some(token)) => Ok(Self::Token(token, label)),
            (None, Some(_), None) => {
                anyhow::bail!("a token's key needs --pkcs11-module, --pkcs11-token and --pkcs11-pin-file")
            }
            (None, None, _) => Ok(Self::Mode),
        }
    }

    /// Writes a root key file; says what protects it.
    fn write(&self, keys: &RootKeys, path: &Path) -> anyhow::Result<&'static str> {
        let (written, protection) = match self {
            Self::Mode => (keys.write(path), "file mode"),
            Self::Passphrase(passphrase) => {
                (keys.write_protected(path, passphrase, &Machine::start()), "passphrase")
            }
            Self::Token(token, label) => {
                (keys.write_under_token(path, token, label, &Machine::start()), "token")
            }
        };
        written.context("the root key was not written").map(|()| protection)
    }
}

fn token_key(args: &TokenKeyArgs) -> anyhow::Result<()> {
    args.place.required("token-key")?.make_key(&args.key)?;
    args.shape.print(&json!({ "key": args.key.text() }));
    Ok(())
}

fn rotate(args: &RotateArgs) -> anyhow::Result<()> {
    let token = args.root_key.token.open()?;
    let old = args.root_key.read_for(token.as_ref(), args.token_key_out.is_some())?;
    let mut store = args.database.open()?;
    store.belongs_to(&old)?;
    let world = Machine::start();
    let new = old.rotated(&world)?;
    let protection = Protection::of(args.passphrase_file_out.as_deref(), &args.token_key_out, &token)?;
    let protection = protection.write(&new, &args.root_key_out)?;
    // The new file stays, whatever happens: if the connection breaks in the middle, it may be the one that counts.
    let secrets = store.rotate(&world, &old, &new).context(
        "the secrets were not wrapped anew, as far as is known; keep both root key files: the database takes only one, \
         and says so",
    )?;
    args.shape.print(&json!({
        "database": args.database.database.to_string(),
        "root_key": args.root_key_out.display().to_string(),
        "root_key_protection": protection,
        "secrets": secrets,
    }));
    Ok(())
}

fn count(args: &CountArgs) -> anyhow::Result<()> {
    let token = args.root_key.token.open()?;
    let keys = args.root_key.read_for(token.as_ref(), args.counter_token_out.is_some())?;
    let mut store = args.database.open()?;
    store.belongs_to(&keys)?;
    let commits = store.commits()?;
    let counter = match (&args.counter_out, &args.counter_token_out, &token) {
        (Some(path), _, _) => {
            Counter::create(path, keys.broker(), commits)?;
            path.display().to_string()
        }
        (None, Some(label), Some(token)) => {
            Counter::create_in(token, label, keys.broker(), commits)?;
            label.text().to_owned()
        }
        _ => {
            anyhow::bail!("a counter in a token needs --pkcs11-module, --pkcs11-token and --pkcs11-pin-file")
        }
    };
    args.shape.print(&json!({ "counter": counter, "commits": commits }));
    Ok(())
}
