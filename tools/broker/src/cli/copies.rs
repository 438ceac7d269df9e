//! `husk broker backup` and `husk broker restore`: the database, copied and put back.

use super::counter::CounterPlace;
use super::{Database, RootKey, Shape};
use crate::store::{Location, Quarantined, Store, StoreError};
use anyhow::{Context as _, bail};
use clap::Args;
use husk_files::sync_folder;
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// `husk broker backup`
#[derive(Args, Debug)]
pub struct BackupArgs {
    #[command(flatten)]
    database: Database,
    /// Where to write the copy: a new file. What is in it opens with the root key file alone; keep the two apart.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    #[command(flatten)]
    shape: Shape,
}

/// `husk broker restore`
#[derive(Args, Debug)]
pub struct RestoreArgs {
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    root_key: RootKey,
    /// The copy, which is left as it is; the database named must not be there. Without it, the database named was put back already: by
    /// `pg_restore`, or from a disk's snapshot.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    #[command(flatten)]
    counter: CounterPlace,
    /// Must be said: what happened since the copy was made is lost, and every VM is halted until its tenant lets it go on by a ticket.
    #[arg(long, required = true)]
    halt_all: bool,
    #[command(flatten)]
    shape: Shape,
}

pub(super) fn backup(args: &BackupArgs) -> anyhow::Result<()> {
    let mut store = args.database.open()?;
    let commits = store.copy_to(&args.to).with_context(|| args.to.display().to_string())?;
    args.shape.print(&json!({
        "database": args.database.database.to_string(),
        "copy": args.to.display().to_string(),
        "commits": commits,
    }));
    Ok(())
}

pub(super) fn restore(args: &RestoreArgs) -> anyhow::Result<()> {
    let location = &args.database.database;
    let done = match (&args.from, location) {
        (None, _) => quarantined(args, args.database.open()?),
        (Some(copy), Location::File(path)) => put_back(args, copy, path),
        (Some(_), Location::Postgres(_)) => bail!(
            "PostgreSQL puts its databases back itself: use pg_restore, then this command without --from"
        ),
    };
    let Quarantined { halted, retired, copied_at, commits } = done?;
    args.shape.print(&json!({
        "database": location.to_string(),
        "halted": halted,
        "retired": retired,
        "copied_at_commit": copied_at,
        "commits": commits,
    }));
    Ok(())
}

fn quarantined(args: &RestoreArgs, mut store: Store) -> anyhow::Result<Quarantined> {
    let token = args.root_key.token.open()?;
    let keys = args.root_key.read_for(token.as_ref(), args.counter.is_in_token())?;
    let mut counter = args.counter.open(token)?;
    let done = store.quarantine(&keys, counter.as_mut());
    done.with_context(|| args.database.database.to_string())
}

/// The database takes its name only once nothing old can be served from it.
fn put_back(args: &RestoreArgs, copy: &Path, path: &Path) -> anyhow::Result<Quarantined> {
    if path.exists() {
        return Err(StoreError::Exists).with_context(|| path.display().to_string());
    }
    let beside = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let begun = beside(".restoring");
    let taken = copied(copy, &begun).with_context(|| format!("{} to {}", copy.display(), begun.display()));
    let done = taken.and_then(|()| {
        let store = Store::open(&begun).with_context(|| copy.display().to_string())?;
        let done = quarantined(args, store)?;
        // Closed, the database is one file, unless its log could not be written into it.
        if beside(".restoring-wal").exists() {
            bail!("the quarantine is not in the copy's own file yet; see that the disk has room, and restore again");
        }
        // A link is never put over a file that came meanwhile.
        std::fs::hard_link(&begun, path).with_context(|| path.display().to_string())?;
        sync_folder(path)?;
        Ok(done)
    });
    for end in [".restoring", ".restoring-wal", ".restoring-shm", ".restoring.serving"] {
        let left = beside(end);
        if left.exists() {
            std::fs::remove_file(&left).with_context(|| left.display().to_string())?;
        }
    }
    done
}

fn copied(copy: &Path, to: &Path) -> anyhow::Result<()> {
    let mut from = File::open(copy).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => anyhow::Error::new(StoreError::Missing),
        _ => error.into(),
    })?;
    let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let written = std::io::copy(&mut from, &mut made).and_then(|_| made.sync_all());
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::StorageFull => StoreError::Full.into(),
        _ => error.into(),
    })
}
