//! `husk vm policy`: what a VM's tenant demands, as a file.

use super::Shape;
use super::remote::Access;
use super::vm::NamedArgs;
use crate::admin::{Id, Request};
use crate::policy::{ChipId, FILE_BYTES_MAX, Measurement, Policy};
use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use husk::attest::report::Tcb;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Every key of a policy's file.
const EXAMPLE: &str = include_str!("policy.toml");

/// `husk vm policy ...`
#[derive(Subcommand, Debug)]
pub enum PolicyCommand {
    /// Print a file with every key, to begin with.
    Example,
    /// Read a file as `set` does, and change nothing.
    Check(CheckArgs),
    /// Put a file's policy in place of a VM's. Who was granted keys before keeps them.
    Set(SetArgs),
    /// Print a VM's policy.
    Show(NamedArgs),
}

/// `husk vm policy check`
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The policy, a TOML file.
    #[arg(value_name = "FILE")]
    policy: PathBuf,
    #[command(flatten)]
    shape: Shape,
}

/// `husk vm policy set`
#[derive(Args, Debug)]
pub struct SetArgs {
    #[command(flatten)]
    one: NamedArgs,
    /// The policy, a TOML file.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
}

impl PolicyCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Example => print!("{EXAMPLE}"),
            Self::Check(args) => args.shape.print(&serde_json::to_value(read(&args.policy)?)?),
            Self::Set(args) => set(args)?,
            Self::Show(args) => show(&args)?,
        }
        Ok(())
    }
}

fn set(SetArgs { one, policy }: SetArgs) -> anyhow::Result<()> {
    let policy = read(&policy)?;
    let access = one.named.place.access()?;
    let name = one.named.name(&access)?;
    let kept = match access {
        Access::Local(mut store) => serde_json::to_value(store.amend(&name, |known| *known = policy)?)?,
        Access::Remote(remote) => remote.ask(&Request::Policy { vm: Id(name.vm), policy })?["policy"].take(),
    };
    one.shape.print(&kept);
    Ok(())
}

fn show(one: &NamedArgs) -> anyhow::Result<()> {
    let access = one.named.place.access()?;
    let name = one.named.name(&access)?;
    let (mut shown, guest_svn) = match access {
        Access::Local(mut store) => {
            let (enrolment, row) = (store.enrolment(&name)?, store.row(&name)?);
            (serde_json::to_value(enrolment.policy)?, json!(row.guest_svn))
        }
        Access::Remote(remote) => {
            let mut value = remote.ask(&Request::Vm { vm: Id(name.vm) })?;
            (value["policy"].take(), value["guest_svn"].take())
        }
    };
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("guest_svn_granted".to_owned(), guest_svn);
    }
    one.shape.print(&shown);
    Ok(())
}

/// Reads a file.
pub(super) fn read(path: &Path) -> anyhow::Result<Policy> {
    let bytes = husk_files::read_public(path, FILE_BYTES_MAX)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| anyhow!("{} is not text", path.display()))?;
    Policy::from_file(text).with_context(|| path.display().to_string())
}

/// What the options of `husk vm enroll` say.
pub(super) fn of_options(
    measurements: Vec<Measurement>,
    min_tcb: Option<Tcb>,
    chips: Vec<ChipId>,
) -> anyhow::Result<Policy> {
    let policy = Policy { min_tcb: min_tcb.into(), chips, ..Policy::of(measurements) };
    policy.contradiction().map_or(Ok(policy), |found| Err(anyhow!(found)))
}
