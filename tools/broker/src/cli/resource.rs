//! `husk vm resource`: what the broker, as a CoCo KBS, gives to a VM.

use super::remote::Access;
use super::token::TokenPlace;
use super::vm::NamedArgs;
use super::{RootKey, Shape};
use crate::admin::{Id, Request};
use crate::ids::VmName;
use crate::kbs::is_path;
use crate::vault::RESOURCE_BYTES_MAX;
use crate::world::Machine;
use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
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
    List(NamedArgs),
    /// Remove a resource of a VM.
    Remove(RemoveArgs),
}

/// `husk vm resource put`
#[derive(Args, Debug)]
pub struct PutArgs {
    #[command(flatten)]
    one: NamedArgs,
    /// With --database: the root key file that `husk broker init` wrote.
    #[arg(long, value_name = "FILE", required_unless_present = "broker", conflicts_with = "broker")]
    root_key: Option<PathBuf>,
    /// A private file whose first line is the passphrase that protects the root key file.
    #[arg(long, value_name = "FILE", requires = "root_key")]
    passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    token: TokenPlace,
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
    one: NamedArgs,
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

impl PutArgs {
    fn root_key(&self) -> anyhow::Result<RootKey> {
        let Self { root_key, passphrase_file, token, .. } = self;
        let root_key = root_key.clone().context("with --database, --root-key is needed")?;
        Ok(RootKey { root_key, passphrase_file: passphrase_file.clone(), token: token.clone() })
    }
}

fn put(args: &PutArgs) -> anyhow::Result<()> {
    let access = args.one.named.place.access()?;
    let name = args.one.named.name(&access)?;
    let content = content(&args.file)?;
    match access {
        Access::Local(mut store) => {
            let keys = args.root_key()?.read()?;
            store.belongs_to(&keys)?;
            let sealed = keys.wrap_resource(&Machine::start(), &name, &args.path, &content)?;
            store.keep_resource(&name, &args.path, &sealed, args.replace)?;
        }
        Access::Remote(remote) => {
            let (path, content) = (args.path.clone(), BASE64_STANDARD.encode(&*content));
            remote.ask(&Request::PutResource { vm: Id(name.vm), path, content, replace: args.replace })?;
        }
    }
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

fn list(args: &NamedArgs) -> anyhow::Result<()> {
    let access = args.named.place.access()?;
    let name = args.named.name(&access)?;
    let paths: Vec<String> = match access {
        Access::Local(mut store) => store.resources(&name)?,
        Access::Remote(remote) => {
            serde_json::from_value(remote.ask(&Request::Resources { vm: Id(name.vm) })?)?
        }
    };
    if args.shape.json {
        println!("{}", json!(paths));
    } else {
        paths.iter().for_each(|path| println!("{path}"));
    }
    Ok(())
}

fn remove(args: &RemoveArgs) -> anyhow::Result<()> {
    let access = args.one.named.place.access()?;
    let name = args.one.named.name(&access)?;
    match access {
        Access::Local(mut store) => store.remove_resource(&name, &args.path)?,
        Access::Remote(remote) => {
            let path = args.path.clone();
            remote.ask(&Request::RemoveResource { vm: Id(name.vm), path }).map(drop)?;
        }
    }
    show(args.one.shape, &name, &args.path);
    Ok(())
}

fn show(shape: Shape, name: &VmName, path: &str) {
    shape.print(&json!({ "tenant": name.tenant.to_string(), "vm": name.vm.to_string(), "resource": path }));
}
