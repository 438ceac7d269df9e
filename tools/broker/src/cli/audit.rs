//! `husk audit`: a tenant's log.

use super::{Database, Shape};
use crate::audit::{Head, Log, exported};
use crate::ids::TenantId;
use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;
use std::fs::File;
use std::io::{BufReader, Write as _};
use std::path::PathBuf;

/// `husk audit …`
#[derive(Subcommand, Debug)]
pub enum AuditCommand {
    /// Write a tenant's log to standard output, one JSON object a line.
    Export(ExportArgs),
    /// Check an exported log: that it is whole, and leads to the heads that were kept.
    Verify(VerifyArgs),
}

/// `husk audit export`
#[derive(Args, Debug)]
pub struct ExportArgs {
    #[command(flatten)]
    database: Database,
    /// Whose log.
    #[arg(long, value_name = "HEX")]
    tenant: TenantId,
    /// Only what follows this entry.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,
}

/// `husk audit verify`
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The log that `husk audit export` wrote.
    #[arg(long, value_name = "FILE")]
    log: PathBuf,
    /// The head that the log goes on from, as an earlier verification showed it; without it the log must begin at entry 1.
    #[arg(long, value_name = "NUMBER:HEX")]
    after: Option<Head>,
    /// A head that was kept, which the log must hold; repeat for more.
    #[arg(long = "kept", value_name = "NUMBER:HEX")]
    kept: Vec<Head>,
    #[command(flatten)]
    shape: Shape,
}

impl AuditCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// One chain of causes for the operator.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Export(args) => export(&args),
            Self::Verify(args) => verify(&args),
        }
    }
}

fn export(args: &ExportArgs) -> anyhow::Result<()> {
    let mut store = args.database.open()?;
    store.tenant(args.tenant)?;
    let mut out = std::io::stdout().lock();
    let mut after = args.after;
    loop {
        let entries = store.audit(args.tenant, after)?;
        let Some((last, _)) = entries.last() else { return Ok(()) };
        after = last.number;
        for (entry, head) in &entries {
            writeln!(out, "{}", exported(args.tenant, entry, head)?).context("standard output")?;
        }
    }
}

fn verify(args: &VerifyArgs) -> anyhow::Result<()> {
    let shown = args.log.display();
    let file = File::open(&args.log).with_context(|| shown.to_string())?;
    let log =
        Log::read(&mut BufReader::new(file), args.after, &args.kept).with_context(|| shown.to_string())?;
    args.shape.print(&json!({
        "tenant": log.tenant.to_string(),
        "entries": log.entries,
        "head": log.head.to_string(),
        "kept_heads_found": args.kept.len(),
    }));
    if args.after.is_none() && args.kept.is_empty() {
        eprintln!(
            "husk: the log is whole in itself; that nobody wrote it anew shows only beside a head that was kept: keep this one, and \
             give it as --kept the next time"
        );
    }
    Ok(())
}
