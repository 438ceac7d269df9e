//! `husk vm`: enrolment and what the operator sees of it.

use super::backup::BackupArgs;
use super::order::{OrderArgs, StatusArgs, TicketArgs};
use super::policy::{self, PolicyCommand};
use super::remote::{Access, Named, Place, Remote};
use super::resource::ResourceCommand;
use super::restore::{KeyArgs, RestoreArgs};
use super::unlock::UnlockCommand;
use super::{Database, Shape, backup, or_remove, order, random_id, restore};
use crate::admin::{Firmware, Id, Request, refusal_shown, row_shown};
use crate::ids::{TenantId, VmId, VmName};
use crate::log::{self, LogFormat};
use crate::policy::{ChipId, Measurement, Policy, chip, measurement, tcb};
use crate::rules::Order;
use crate::store::Enrolment;
use crate::vault::KEY_GENERATION;
use anyhow::Context as _;
use clap::{Args, Subcommand};
use husk::attest::launch::{Kbs, LaunchConfig, Mode, Serve};
use husk::attest::report::Tcb;
use husk::release::ticket::TicketOrder;
use husk::release::transcript::point_digest;
use husk_files::{StalenessArgs, VariablesArgs, write_config};
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
    Show(NamedArgs),
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
    /// Fetch the broker's key for one restore, for `husk tenant open-backup`.
    RestoreKey(KeyArgs),
    /// Hand a ticket in that orders a restore, together with its backup.
    Restore(RestoreArgs),
    /// Hand a ticket in that orders a clone of another VM's TPM, together with that one's backup.
    Clone(RestoreArgs),
    /// What this broker, as a CoCo KBS, gives to a VM.
    #[command(subcommand)]
    Resource(ResourceCommand),
    /// What this broker gives to a VM's guest, once its TPM says that it was started as the tenant wants it.
    #[command(subcommand)]
    Unlock(UnlockCommand),
}

/// `husk vm enroll`
#[derive(Args, Debug)]
pub struct EnrolArgs {
    #[command(flatten)]
    place: Place,
    /// The tenant; with --broker it is the operator's.
    #[arg(long, value_name = "HEX", required_unless_present = "broker")]
    tenant: Option<TenantId>,
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
    /// Give the VM a TPM that keeps nothing: it is made at each launch and ends with it, there is no volume, and what such a VM owns opens
    /// by attestation (`husk vm unlock`).
    #[arg(long, conflicts_with_all = ["kbs", "staleness_commits"])]
    ephemeral: bool,
    /// What keeps a second instance from answering: lease (needs Secure TSC), percmd (the broker permits each command) or
    /// detect (nothing: it shows in resetCount only).
    #[arg(long, value_name = "WORD", default_value = Serve::Lease.word(), value_parser = serve)]
    serve: Serve,
    /// Whether the volume's key also takes a static key of a CoCo KBS: none, or required (`husk tenant envelope` makes one).
    #[arg(long, value_name = "WORD", default_value = "none", value_parser = kbs)]
    kbs: Kbs,
    #[command(flatten)]
    staleness: StalenessArgs,
    #[command(flatten)]
    variables: VariablesArgs,
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
    place: Place,
    /// Only this tenant's.
    #[arg(long, value_name = "HEX")]
    tenant: Option<TenantId>,
    #[command(flatten)]
    shape: Shape,
}

/// `husk vm halt`
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

/// `husk vm show`
#[derive(Args, Debug)]
pub struct NamedArgs {
    #[command(flatten)]
    pub(super) named: Named,
    #[command(flatten)]
    pub(super) shape: Shape,
}

/// `husk vm allow|forbid`
#[derive(Args, Debug)]
pub struct MeasurementArgs {
    #[command(flatten)]
    named: Named,
    /// The firmware's launch digest.
    #[arg(long, value_name = "HEX", value_parser = measurement)]
    measurement: Measurement,
    #[command(flatten)]
    shape: Shape,
}

impl VmCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// One chain of causes for the operator.
    pub fn run(self) -> anyhow::Result<()> {
        log::begin(LogFormat::Text)?;
        match self {
            Self::Enroll(args) => enrol(args),
            Self::List(args) => list(&args),
            Self::Show(args) => show(&args),
            Self::Allow(args) => allow(&args),
            Self::Forbid(args) => forbid(&args),
            Self::Halt(args) => halt(&args),
            Self::Ticket(args) => order::ticket(&args),
            Self::Order(args) => order::hand_in(&args),
            Self::Status(args) => order::status(&args),
            Self::Policy(command) => command.run(),
            Self::Backup(args) => backup::fetch(&args),
            Self::RestoreKey(args) => restore::key(&args),
            Self::Restore(args) => restore::restore(&args, TicketOrder::Restore),
            Self::Clone(args) => restore::restore(&args, TicketOrder::Clone),
            Self::Resource(command) => command.run(),
            Self::Unlock(command) => command.run(),
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
    let mut access = args.place.access()?;
    let tenant = access.tenant(args.tenant)?;
    let root = match &mut access {
        Access::Local(store) => store.tenant(tenant)?.root,
        Access::Remote(remote) => remote.root()?,
    };
    let vm = args.vm.map_or_else(|| random_id().map(VmId), Ok)?;
    let name = VmName { tenant, vm };
    let config = LaunchConfig {
        tenant: tenant.0,
        vm: vm.0,
        root: point_digest(&root),
        mode: if args.ephemeral { Mode::Ephemeral } else { Mode::Strict },
        serve: args.serve,
        kbs: args.kbs,
        min_key_generation: KEY_GENERATION,
        processor: None,
        staleness: args.staleness.staleness(),
        variables: args.variables.digest()?,
    };
    let host_data = write_config(&args.config_out, &config)?;
    or_remove(&args.config_out, || match &mut access {
        Access::Local(store) => Ok(store.enrol(&name, &Enrolment { host_data, policy })?),
        Access::Remote(remote) => remote.ask(&Request::Enroll { vm: Id(vm), host_data, policy }).map(drop),
    })?;
    args.shape.print(&json!({
        "tenant": tenant.to_string(),
        "vm": vm.to_string(),
        "host_data": hex::encode(host_data),
        "config": args.config_out.display().to_string(),
    }));
    Ok(())
}

fn list(args: &ListArgs) -> anyhow::Result<()> {
    let rows = match args.place.access()? {
        Access::Local(mut store) => {
            let names = store.vms(args.tenant)?;
            let row = |name| store.row(name).map(|row| row_shown(name, &row));
            names.iter().map(row).collect::<Result<Vec<_>, _>>()?
        }
        Access::Remote(remote) => {
            remote.is_of(args.tenant)?;
            remote_rows(&remote)?
        }
    };
    if args.shape.json {
        println!("{}", Value::Array(rows));
        return Ok(());
    }
    println!("{:32}  {:32}  {:7}  {:>8}  {:>10}", "TENANT", "VM", "LIFE", "EPOCH", "SEQUENCE");
    for row in &rows {
        let [tenant, vm, life] = ["tenant", "vm", "life"].map(|key| row[key].as_str().unwrap_or("-"));
        println!("{tenant}  {vm}  {life:7}  {:>8}  {:>10}", row["epoch"], row["sequence"]);
    }
    Ok(())
}

fn show(args: &NamedArgs) -> anyhow::Result<()> {
    let access = args.named.place.access()?;
    let name = args.named.name(&access)?;
    let value = match access {
        Access::Local(mut store) => {
            let mut value = row_shown(&name, &store.row(&name)?);
            let enrolment = store.enrolment(&name)?;
            value["host_data"] = json!(hex::encode(enrolment.host_data));
            value["policy"] = json!(enrolment.policy);
            value["last_refusal"] = refusal_shown(store.last_refusal(&name)?);
            value
        }
        Access::Remote(remote) => remote.ask(&Request::Vm { vm: Id(name.vm) })?,
    };
    args.shape.print(&value);
    Ok(())
}

fn allow(args: &MeasurementArgs) -> anyhow::Result<()> {
    let measurement = args.measurement;
    let request = |vm| Request::Allow { vm, measurement: Firmware(measurement) };
    amend(args, request, |policy| {
        policy.measurements.retain(|known| *known != measurement);
        policy.measurements.push(measurement);
    })
}

fn forbid(args: &MeasurementArgs) -> anyhow::Result<()> {
    let measurement = args.measurement;
    let request = |vm| Request::Forbid { vm, measurement: Firmware(measurement) };
    amend(args, request, |policy| policy.measurements.retain(|known| *known != measurement))
}

fn amend(
    args: &MeasurementArgs,
    request: impl FnOnce(Id) -> Request,
    change: impl FnOnce(&mut Policy),
) -> anyhow::Result<()> {
    let access = args.named.place.access()?;
    let name = args.named.name(&access)?;
    let policy = match access {
        Access::Local(mut store) => serde_json::to_value(store.amend(&name, change)?)?,
        Access::Remote(remote) => remote.ask(&request(Id(name.vm)))?["policy"].take(),
    };
    args.shape.print(&policy);
    Ok(())
}

/// Every VM of the operator's tenant.
fn remote_rows(remote: &Remote) -> anyhow::Result<Vec<Value>> {
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let mut page = remote.ask(&Request::Vms { after })?;
        let Some(page) = page.as_array_mut().filter(|page| !page.is_empty()) else { return Ok(rows) };
        rows.append(page);
        let last = rows.last().and_then(|row| row["vm"].as_str()).and_then(|vm| vm.parse().ok());
        after = Some(Id(last.context("the broker named a VM by no id")?));
    }
}

fn halt(args: &OneArgs) -> anyhow::Result<()> {
    let name = VmName { tenant: args.tenant, vm: args.vm };
    let row = args.database.open()?.operate(&name, Order::Halt)?;
    args.shape.print(&row_shown(&name, &row));
    Ok(())
}
