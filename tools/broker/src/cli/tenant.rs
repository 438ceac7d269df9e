//! `husk tenant`: a tenant's root key and its registration.

use super::{Database, RootKey, Shape, or_remove, random_id};
use crate::ids::TenantId;
use crate::store::Tenant;
use crate::vault::TenantRoot;
use crate::world::Machine;
use anyhow::Context as _;
use clap::{Args, Subcommand};
use husk::release::transcript::point_digest;
use serde_json::json;
use std::path::PathBuf;

/// `husk tenant …`
#[derive(Subcommand, Debug)]
pub enum TenantCommand {
    /// Make a tenant: its root key, and that key's certificate for this broker.
    Init(InitArgs),
}

/// `husk tenant init`
#[derive(Args, Debug)]
pub struct InitArgs {
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    root_key: RootKey,
    /// Where to write the tenant root key. The broker keeps no copy: store it offline.
    #[arg(long, value_name = "FILE")]
    root_out: PathBuf,
    /// The tenant's id; random if not given.
    #[arg(long, value_name = "HEX")]
    tenant: Option<TenantId>,
    #[command(flatten)]
    shape: Shape,
}

impl TenantCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// One chain of causes for the operator.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Init(args) => init(&args),
        }
    }
}

fn init(args: &InitArgs) -> anyhow::Result<()> {
    let keys = args.root_key.read()?;
    let mut store = args.database.open()?;
    store.belongs_to(&keys)?;
    let id = args.tenant.map_or_else(|| random_id().map(TenantId), Ok)?;
    let root = TenantRoot::generate(&Machine::start())?;
    root.write(&args.root_out).context("the tenant root key was not written")?;
    or_remove(&args.root_out, || {
        let certificate = root.certify(id, &keys)?;
        Ok(store.register(id, &Tenant { root: *root.point(), certificate })?)
    })?;
    args.shape.print(&json!({
        "tenant": id.to_string(),
        "root": hex::encode(point_digest(root.point())),
        "root_key": args.root_out.display().to_string(),
    }));
    Ok(())
}
