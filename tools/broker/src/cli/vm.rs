//! `husk vm`: enrolment and what the operator sees of it.

use super::backup::BackupArgs;
use super::order::{OrderArgs, StatusArgs, TicketArgs};
use super::policy::{self, PolicyCommand};
use super::resource::ResourceCommand;
use super::{Database, Shape, backup, or_remove, order, random_id};
use crate::ids::{TenantId, VmId, VmName};
use crate::policy::{ChipId, Measurement, Policy, chip, measurement, tcb};
use crate::rules::{Life, Order, Row};
use crate::store::Enrolment;
use crate::vault::KEY_GENERATION;
use clap::{Args, Subcommand};
use husk::attest::launch::{Kbs, LaunchConfig, Mode, Serve};
use husk::attest::report::Tcb;
use husk::release::transcript::point_digest;
use husk_files::{StalenessArgs, write_config};
use serde_json::{Value, json};
use std::path::PathBuf;

/// `husk vm …`
#[derive(Subcommand, Debug)]
pub enum VmCommand {
    /// Enrol a VM and write the launch configuration that it must be started with.
    Enroll(EnrolArgs),
    /// List the VMs.
    List(ListArgs),
    /// Show one VM.
    Show(OneArgs),
    /// Let one more firmware have the keys.
    Allow(MeasurementArgs),
    /// Let a firmware have the keys no more: what runs goes on, nothing is granted to it again.
    Forbid(MeasurementArgs),
    /// As the broker's operator: fence the running instance and grant to nobody until a ticket of the tenant's resumes the VM.
    Halt(OneArgs),
    /// Sign an order as an operator of the tenant's, offline.
    Ticket(TicketArgs),
    /// Hand a ticket in at the broker.
    Order(OrderArgs),
    /// Ask the broker for its signed word on where a VM stands.
    Status(StatusArgs),
    /// The whole of what a VM's tenant demands, as a file.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Fetch a backup that a launch made, by the ticket that ordered it.
    Backup(BackupArgs),
    /// What this broker, as a CoCo KBS, gives to a VM.
    #[command(subcommand)]
    Resource(ResourceCommand),
}

/// `husk vm enroll`
#[derive(Args, Debug)]
pub struct EnrolArgs {
    #[command(flatten)]
    database: Database,
    /// The tenant.
    #[arg(long, value_name = "HEX")]
    tenant: TenantId,
    /// The VM's id; random if not given.
    #[arg(long, value_name = "HEX")]
    vm: Option<VmId>,
    /// A firmware's launch digest that may have the keys; repeat for more.
    #[arg(long = "measurement", value_name = "HEX", required_unless_present = "policy", value_parser = measurement)]
    measurements: Vec<Measurement>,
    /// Lowest patch levels, such as bootloader=4,tee=0,snp=22,microcode=213 (and fmc=1 for Turin).
    #[arg(long, value_name = "LEVELS", value_parser = tcb)]
    min_tcb: Option<Tcb>,
    /// A chip that may run the VM; repeat for more; any genuine chip if not given.
    #[arg(long = "chip", value_name = "HEX", value_parser = chip)]
    chips: Vec<ChipId>,
    /// The tenant's whole policy, a TOML file (`husk vm policy example`), in place of the options above.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["measurements", "min_tcb", "chips"])]
    policy: Option<PathBuf>,
    /// What keeps a second instance from answering: lease (needs Secure TSC), percmd (the broker permits each command) or
    /// detect (nothing: it shows in resetCount only).
    #[arg(long, value_name = "WORD", default_value = Serve::Lease.word(), value_parser = serve)]
    serve: Serve,
    /// Whether the volume's key also takes a static key of a CoCo KBS: none, or required (`husk tenant envelope` makes one).
    #[arg(long, value_name = "WORD", default_value = "none", value_parser = kbs)]
    kbs: Kbs,
    #[command(flatten)]
    staleness: StalenessArgs,
    /// Where to write the launch configuration.
    #[arg(long, value_name = "FILE")]
    config_out: PathBuf,
    #[command(flatten)]
    shape: Shape,
}

/// `husk vm list`
#[derive(Args, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    database: Database,
    /// Only this tenant's.
    #[arg(long, value_name = "HEX")]
    tenant: Option<TenantId>,
    #[command(flatten)]
    shape: Shape,
}

/// `husk vm show|halt`
#[derive(Args, Debug)]
pub struct OneArgs {
    #[command(flatten)]
    pub(super) database: Database,
    /// The tenant.
    #[arg(long, value_name = "HEX")]
    pub(super) tenant: TenantId,
    /// The VM.
    #[arg(long, value_name = "HEX")]
    pub(super) vm: VmId,
    #[command(flatten)]
    pub(super) shape: Shape,
}

/// `husk vm allow|forbid`
#[derive(Args, Debug)]
pub struct MeasurementArgs {
    #[command(flatten)]
    one: OneArgs,
    /// The firmware's launch digest.
    #[arg(long, value_name = "HEX", value_parser = measurement)]
    measurement: Measurement,
}

impl VmCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// One chain of causes for the operator.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Enroll(args) => enrol(args),
            Self::List(args) => list(&args),
            Self::Show(args) => show(&args),
            Self::Allow(args) => amend(&args, |policy, one| {
                policy.measurements.retain(|known| *known != one);
                policy.measurements.push(one);
            }),
            Self::Forbid(args) => {
                amend(&args, |policy, one| policy.measurements.retain(|known| *known != one))
            }
            Self::Halt(args) => halt(&args),
            Self::Ticket(args) => order::ticket(&args),
            Self::Order(args) => order::hand_in(&args),
            Self::Status(args) => order::status(&args),
            Self::Policy(command) => command.run(),
            Self::Backup(args) => backup::fetch(&args),
            Self::Resource(command) => command.run(),
        }
    }
}

fn serve(text: &str) -> Result<Serve, String> {
    Serve::from_word(text)
        .filter(|serve| *serve != Serve::Nothing)
        .ok_or_else(|| "one of lease, percmd, detect is expected".to_owned())
}

fn kbs(text: &str) -> Result<Kbs, String> {
    Kbs::from_word(text).ok_or_else(|| "one of none, required is expected".to_owned())
}

fn enrol(args: EnrolArgs) -> anyhow::Result<()> {
    let policy = match &args.policy {
        Some(file) => policy::read(file)?,
        None => policy::of_options(args.measurements, args.min_tcb, args.chips)?,
    };
    let mut store = args.database.open()?;
    let tenant = store.tenant(args.tenant)?;
    let vm = args.vm.map_or_else(|| random_id().map(VmId), Ok)?;
    let name = VmName { tenant: args.tenant, vm };
    let config = LaunchConfig {
        tenant: args.tenant.0,
        vm: vm.0,
        root: point_digest(&tenant.root),
        mode: Mode::Strict,
        serve: args.serve,
        kbs: args.kbs,
        min_key_generation: KEY_GENERATION,
        processor: None,
        staleness: args.staleness.staleness(),
    };
    let host_data = write_config(&args.config_out, &config)?;
    or_remove(&args.config_out, || Ok(store.enrol(&name, &Enrolment { host_data, policy })?))?;
    args.shape.print(&json!({
        "tenant": args.tenant.to_string(),
        "vm": vm.to_string(),
        "host_data": hex::encode(host_data),
        "config": args.config_out.display().to_string(),
    }));
    Ok(())
}

const fn life_word(life: Life) -> &'static str {
    match life {
        Life::Virgin => "virgin",
        Life::Active => "active",
        Life::Halted => "halted",
        Life::Retired => "retired",
    }
}

/// What an operator may see of a row: nothing secret is in a row.
fn shown(name: &VmName, row: &Row) -> Value {
    json!({
        "tenant": name.tenant.to_string(),
        "vm": name.vm.to_string(),
        "life": life_word(row.life),
        "generation": row.generation,
        "epoch": row.epoch,
        "token": row.token,
        "sequence": row.head.sequence,
        "digest": hex::encode(row.head.digest),
        "confirmed": row.next.is_none(),
        "released": row.released,
        "guest_svn": row.guest_svn,
    })
}

fn list(args: &ListArgs) -> anyhow::Result<()> {
    let mut store = args.database.open()?;
    let names = store.vms(args.tenant)?;
    let rows: Vec<Value> =
        names.iter().map(|name| store.row(name).map(|row| shown(name, &row))).collect::<Result<_, _>>()?;
    if args.shape.json {
        println!("{}", Value::Array(rows));
        return Ok(());
    }
    println!("{:32}  {:32}  {:7}  {:>8}  {:>10}", "TENANT", "VM", "LIFE", "EPOCH", "SEQUENCE");
    for name in &names {
        let row = store.row(name)?;
        let (life, epoch, sequence) = (life_word(row.life), row.epoch, row.head.sequence);
        println!("{}  {}  {life:7}  {epoch:>8}  {sequence:>10}", name.tenant, name.vm);
    }
    Ok(())
}

fn show(args: &OneArgs) -> anyhow::Result<()> {
    let mut store = args.database.open()?;
    let name = VmName { tenant: args.tenant, vm: args.vm };
    let mut value = shown(&name, &store.row(&name)?);
    let enrolment = store.enrolment(&name)?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("host_data".to_owned(), json!(hex::encode(enrolment.host_data)));
        fields.insert("policy".to_owned(), serde_json::to_value(enrolment.policy)?);
    }
    args.shape.print(&value);
    Ok(())
}

fn amend(args: &MeasurementArgs, change: impl FnOnce(&mut Policy, Measurement)) -> anyhow::Result<()> {
    let MeasurementArgs { one, measurement } = args;
    let name = VmName { tenant: one.tenant, vm: one.vm };
    let policy = one.database.open()?.amend(&name, |policy| change(policy, *measurement))?;
    one.shape.print(&serde_json::to_value(policy)?);
    Ok(())
}

fn halt(args: &OneArgs) -> anyhow::Result<()> {
    let name = VmName { tenant: args.tenant, vm: args.vm };
    let row = args.database.open()?.operate(&name, Order::Halt)?;
    args.shape.print(&shown(&name, &row));
    Ok(())
}
