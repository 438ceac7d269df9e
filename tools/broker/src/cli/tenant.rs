//! `husk tenant`: a tenant's root key, its registration, and who may give orders for it.

use super::authority::AuthorityCommand;
use super::backup::{self, CheckArgs, RecoveryArgs};
use super::quota::{self, QuotaArgs};
use super::restore::{self, OpenArgs};
use super::{Database, RootKey, Shape, or_remove, random_id};
use crate::admin::Right;
use crate::ids::TenantId;
use crate::log::{self, LogFormat};
use crate::store::Tenant;
use crate::vault::{OperatorKey, TenantRoot, fresh_secret};
use crate::world::Machine;
use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use husk::attest::launch::{Kbs, Mode};
use husk::fault::Fault;
use husk::release::kbs::frames::REPOSITORY;
use husk::release::ticket::TicketOrder;
use husk::release::transcript::point_digest;
use husk::secret::Secret;
use husk_files::{read_config, write_new};
use serde_json::json;
use std::path::{Path, PathBuf};
use zerocopy::IntoBytes as _;

/// `husk tenant …`
#[derive(Subcommand, Debug)]
pub enum TenantCommand {
    /// Make a tenant: its root key, and that key's certificate for this broker.
    Init(InitArgs),
    /// Make a tenant root key without a broker, for VMs in the disconnected mode.
    Root(RootArgs),
    /// Make a key that may give orders about the tenant's VMs (`husk vm ticket`), certified by the tenant's root key.
    Operator(OperatorArgs),
    /// Make the key that backups of the tenant's TPMs are sealed to, and its certificate by the tenant's root key.
    Recovery(RecoveryArgs),
    /// Look whether the recovery key opens a backup, without a broker.
    CheckBackup(CheckArgs),
    /// Seal a backup's key to a broker, for one restore, without a network.
    OpenBackup(OpenArgs),
    /// Permit that a TPM is made WITHOUT protection against rollback, under one launch configuration that names hw-sealed.
    Permit(PermitArgs),
    /// What the tenant may have of a broker that others share: shown, or said.
    Quota(QuotaArgs),
    /// Who certifies the endorsement keys of the tenant's VMs.
    #[command(subcommand)]
    Authority(AuthorityCommand),
    /// Make the envelope that a CoCo KBS stores for one VM: a static key, signed.
    Envelope(EnvelopeArgs),
}

/// `husk tenant root`
#[derive(Args, Debug)]
pub struct RootArgs {
    /// Where to write the tenant root key: store it offline.
    #[arg(long, value_name = "FILE")]
    root_out: PathBuf,
    #[command(flatten)]
    shape: Shape,
}

/// `husk tenant operator`
#[derive(Args, Debug)]
pub struct OperatorArgs {
    /// The tenant root key.
    #[arg(long, value_name = "FILE")]
    root: PathBuf,
    /// The tenant's id.
    #[arg(long, value_name = "HEX")]
    tenant: TenantId,
    /// The orders that it may give: halt, resume, retire, force, backup, restore, clone; repeat for more.
    #[arg(long = "order", value_name = "WORD", required_unless_present = "rights", value_parser = super::order::order)]
    orders: Vec<TicketOrder>,
    /// What it may ask of a broker (`--broker … --operator …`): read, policy, enroll, resources; repeat for more.
    #[arg(long = "right", value_name = "WORD", value_parser = right)]
    rights: Vec<Right>,
    /// Once a broker has carried out a ticket of a higher generation, it refuses those of lower ones: that is how a key is
    /// revoked.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    generation: u32,
    /// Where to write the operator's key.
    #[arg(long, value_name = "FILE")]
    operator_out: PathBuf,
    #[command(flatten)]
    shape: Shape,
}

/// `husk tenant permit`
#[derive(Args, Debug)]
pub struct PermitArgs {
    /// The tenant root key.
    #[arg(long, value_name = "FILE")]
    root: PathBuf,
    /// The launch configuration, as `husk image config --mode hw-sealed` wrote it.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where to write the permit, for `husk volume create --permit`. It is no secret.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    shape: Shape,
}

/// `husk tenant envelope`
#[derive(Args, Debug)]
pub struct EnvelopeArgs {
    /// The tenant root key.
    #[arg(long, value_name = "FILE")]
    root: PathBuf,
    /// The launch configuration of the VM, as `husk vm enroll --kbs required` wrote it.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// A private file with the static key: 64 hexadecimal digits, one line [default: a new key].
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Where to write the envelope. It is a SECRET until the KBS keeps it: it holds the key.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    shape: Shape,
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
        log::begin(LogFormat::Text)?;
        match self {
            Self::Init(args) => init(&args),
            Self::Root(args) => make_root(&args),
            Self::Operator(args) => operator(&args),
            Self::Recovery(args) => backup::recovery(&args),
            Self::CheckBackup(args) => backup::check(&args),
            Self::OpenBackup(args) => restore::open(&args),
            Self::Permit(args) => permit(&args),
            Self::Quota(args) => quota::quota(&args),
            Self::Authority(command) => command.run(),
            Self::Envelope(args) => envelope(&args),
        }
    }
}

fn right(text: &str) -> Result<Right, String> {
    let found = Right::ALL.iter().find(|(word, _)| *word == text);
    found
        .map(|(_, right)| *right)
        .ok_or_else(|| "one of read, policy, enroll, resources is expected".to_owned())
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

fn make_root(args: &RootArgs) -> anyhow::Result<()> {
    let root = TenantRoot::generate(&Machine::start())?;
    root.write(&args.root_out).context("the tenant root key was not written")?;
    args.shape.print(&json!({
        "root": hex::encode(point_digest(root.point())),
        "root_key": args.root_out.display().to_string(),
    }));
    Ok(())
}

fn operator(args: &OperatorArgs) -> anyhow::Result<()> {
    let root = TenantRoot::read(&args.root)?;
    let rights = args.rights.iter().fold(0, |bits, right| bits | right.bit());
    let may = (&args.orders[..], rights, args.generation);
    let operator = OperatorKey::generate(&Machine::start(), &root, args.tenant, may)?;
    operator.write(&args.operator_out).context("the operator's key was not written")?;
    args.shape.print(&json!({
        "operator": hex::encode(operator.certificate().operator),
        "operator_key": args.operator_out.display().to_string(),
        "tenant": args.tenant.to_string(),
        "generation": args.generation,
        "rights": args.rights.iter().map(|right| right.word()).collect::<Vec<_>>(),
    }));
    Ok(())
}

fn permit(args: &PermitArgs) -> anyhow::Result<()> {
    let (root, config) = (TenantRoot::read(&args.root)?, read_config(&args.config)?);
    config
        .supported()
        .map_err(Fault::from)
        .context("this version refuses to start with the configuration")?;
    if config.mode != Mode::HwSealed {
        bail!("the configuration does not name hw-sealed; where there is a broker, its grant permits");
    }
    if config.root != point_digest(root.point()) {
        bail!("the configuration names another root key than {}", args.root.display());
    }
    write_new(&args.out, root.permit(&config)?.as_bytes(), 0o644)?;
    args.shape.print(&json!({
        "permit": args.out.display().to_string(),
        "tenant": hex::encode(config.tenant),
        "vm": hex::encode(config.vm),
        "host_data": hex::encode(config.host_data()),
        "rollback_protection": "NONE: an old copy of the volume can be put back",
    }));
    Ok(())
}

fn envelope(args: &EnvelopeArgs) -> anyhow::Result<()> {
    let (root, config) = (TenantRoot::read(&args.root)?, read_config(&args.config)?);
    config
        .supported()
        .map_err(Fault::from)
        .context("this version refuses to start with the configuration")?;
    if config.kbs != Kbs::Required {
        bail!("the configuration requires no KBS; enrol the VM with --kbs required");
    }
    if config.root != point_digest(root.point()) {
        bail!("the configuration names another root key than {}", args.root.display());
    }
    let key = args.key_file.as_deref().map_or_else(|| Ok(fresh_secret(&Machine::start())?), static_key)?;
    let key_id = random_id()?;
    let envelope = root.envelope(&config, key_id, &key)?;
    write_new(&args.out, envelope.as_bytes(), 0o600)?;
    args.shape.print(&json!({
        "envelope": args.out.display().to_string(),
        "resource": format!("{REPOSITORY}/{}/{}", hex::encode(config.tenant), hex::encode(config.vm)),
        "key_id": hex::encode(key_id),
        "tenant": hex::encode(config.tenant),
        "vm": hex::encode(config.vm),
        "host_data": hex::encode(config.host_data()),
    }));
    Ok(())
}

/// The key in a private file.
fn static_key(path: &Path) -> anyhow::Result<Secret<32>> {
    let text = husk_files::read(path)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let fill = |key: &mut [u8; 32]| hex::decode_to_slice(line, key);
    Secret::try_fill(fill).ok().with_context(|| {
        format!("{} holds no key: 64 hexadecimal digits on one line are expected", path.display())
    })
}
