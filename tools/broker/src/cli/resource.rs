//! `husk vm resource`: what the broker, as a CoCo KBS, gives to a VM.

use super::vm::OneArgs;
use super::{RootKey, Shape};
use crate::ids::VmName;
use crate::kbs::is_path;
use crate::vault::RESOURCE_BYTES_MAX;
use crate::world::Machine;
use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// `husk vm resource …`
#[derive(Subcommand, Debug)]
pub enum ResourceCommand {
    /// Keep a file as a resource of a VM, wrapped under the broker's root key.
    Put(PutArgs),
    /// The paths of a VM's resources.
    List(OneArgs),
    /// Remove a resource of a VM.
    Remove(RemoveArgs),
}

/// `husk vm resource put`
#[derive(Args, Debug)]
pub struct PutArgs {
    #[command(flatten)]
    one: OneArgs,
    #[command(flatten)]
    root_key: RootKey,
    /// Where a client of the KBS finds it: repository/type/tag.
    #[arg(long, value_name = "PATH", value_parser = path)]
    path: String,
    /// Its content, at most 4096 bytes.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Put it in place of one that is there.
    #[arg(long)]
    replace: bool,
}

/// `husk vm resource remove`
#[derive(Args, Debug)]
pub struct RemoveArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Where it is: repository/type/tag.
    #[arg(long, value_name = "PATH", value_parser = path)]
    path: String,
}

fn path(text: &str) -> Result<String, String> {
    let reason = "a resource's path is repository/type/tag, of letters, digits, '.', '-' and '_'";
    if is_path(text) { Ok(text.to_owned()) } else { Err(reason.to_owned()) }
}

impl ResourceCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// One chain of causes for the operator.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::Put(args) => put(args),
            Self::List(args) => list(args),
            Self::Remove(args) => remove(args),
        }
    }
}

fn put(args: &PutArgs) -> anyhow::Result<()> {
    let keys = args.root_key.read()?;
    let mut store = args.one.database.open()?;
    store.belongs_to(&keys)?;
    let name = VmName { tenant: args.one.tenant, vm: args.one.vm };
    let content = content(&args.file)?;
    let sealed = keys.wrap_resource(&Machine::start(), &name, &args.path, &content)?;
    store.keep_resource(&name, &args.path, &sealed, args.replace)?;
    show(args.one.shape, &name, &args.path);
    Ok(())
}

fn content(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let shown = || path.display().to_string();
    let mut content = Zeroizing::new(Vec::with_capacity(RESOURCE_BYTES_MAX + 1));
    let file = File::open(path).with_context(shown)?;
    file.take(RESOURCE_BYTES_MAX as u64 + 1).read_to_end(&mut content).with_context(shown)?;
    if content.len() > RESOURCE_BYTES_MAX {
        bail!("{} is longer than {RESOURCE_BYTES_MAX} bytes, which is the most that a resource has", shown());
    }
    Ok(content)
}

fn list(args: &OneArgs) -> anyhow::Result<()> {
    let paths = args.database.open()?.resources(&VmName { tenant: args.tenant, vm: args.vm })?;
    if args.shape.json {
        println!("{}", json!(paths));
    } else {
        paths.iter().for_each(|path| println!("{path}"));
    }
    Ok(())
}

fn remove(args: &RemoveArgs) -> anyhow::Result<()> {
    let name = VmName { tenant: args.one.tenant, vm: args.one.vm };
    args.one.database.open()?.remove_resource(&name, &args.path)?;
    show(args.one.shape, &name, &args.path);
    Ok(())
}

fn show(shape: Shape, name: &VmName, path: &str) {
    shape.print(&json!({ "tenant": name.tenant.to_string(), "vm": name.vm.to_string(), "resource": path }));
}
