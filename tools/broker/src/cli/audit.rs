//! `husk audit`: a tenant's log.

use super::Shape;
use super::remote::{Access, Place};
use crate::admin::Request;
use crate::audit::{Head, Log, exported};
use crate::ids::TenantId;
use crate::log::{self, LogFormat};
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
    place: Place,
    /// Whose log; with --broker it is the operator's tenant's.
    #[arg(long, value_name = "HEX", required_unless_present = "broker")]
    tenant: Option<TenantId>,
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
        log::begin(LogFormat::Text)?;
        match self {
            Self::Export(args) => export(&args),
            Self::Verify(args) => verify(&args),
        }
    }
}

fn export(args: &ExportArgs) -> anyhow::Result<()> {
    let mut access = args.place.access()?;
    let tenant = access.tenant(args.tenant)?;
    if let Access::Local(store) = &mut access {
        store.tenant(tenant)?;
    }
    let mut out = std::io::stdout().lock();
    let mut after = args.after;
    loop {
        let (lines, last) = page(&mut access, tenant, after)?;
        let Some(last) = last else { return Ok(()) };
        after = last;
        for line in &lines {
            writeln!(out, "{line}").context("standard output")?;
        }
    }
}

/// Some entries behind one, and the number of their last.
fn page(access: &mut Access, tenant: TenantId, after: u64) -> anyhow::Result<(Vec<String>, Option<u64>)> {
    match access {
        Access::Local(store) => {
            let entries = store.audit(tenant, after)?;
            let lines = entries.iter().map(|(entry, head)| exported(tenant, entry, head));
            Ok((lines.collect::<Result<_, _>>()?, entries.last().map(|(entry, _)| entry.number)))
        }
        Access::Remote(remote) => {
            let value = remote.ask(&Request::Audit { after })?;
            let last = value["last"].as_u64().filter(|last| *last > after);
            Ok((serde_json::from_value(value["lines"].clone())?, last))
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
