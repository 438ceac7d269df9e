//! `husk vm unlock`: secrets that the broker gives to a VM's guest, once its TPM says that it was started as the tenant wants it.

use super::remote::Access;
use super::token::TokenPlace;
use super::vm::NamedArgs;
use super::{RootKey, Shape};
use crate::admin::{Id, Request};
use crate::ids::VmName;
use crate::store::KeptUnlock;
use crate::unlock::{PcrPolicy, PcrValues, is_name};
use crate::world::Machine;
use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::{Args, Subcommand};
use husk::release::wire::UNLOCK_SECRET_BYTES_MAX;
use husk_evidence::{Hash, PcrValue, pcr_values_in};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, stdin};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The longest file of values, and the longest manifest.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The PCR of a kernel image, and the phase of the boot in which the initrd runs (systemd-stub(7), systemd-pcrphase.service(8)).
const KERNEL_IMAGE: u8 = 11;
const INITRD: &str = "enter-initrd";

/// `husk vm unlock …`
#[derive(Subcommand, Debug)]
pub enum UnlockCommand {
    /// Keep a secret for a VM's guest, wrapped under the broker's root key, with what the guest must be started as.
    Put(Box<PutArgs>),
    /// The secrets of a VM's guest: their names, and what is demanded for each.
    List(NamedArgs),
    /// Remove a secret of a VM's guest.
    Remove(RemoveArgs),
}

/// `husk vm unlock put`
#[derive(Args, Debug)]
#[command(
    after_help = "For example: husk vm unlock put --database db --root-key root --tenant … --vm … --name data \
    --manifest guest/manifest.json --expected firmware.pcrs --secret passphrase"
)]
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
    /// What the guest asks for it by: letters, digits, '.', '-' and '_'.
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: String,
    /// A file with the secret, or - for the standard input; at most 1024 bytes, each of which counts: a line's end too.
    #[arg(long, value_name = "FILE")]
    secret: PathBuf,
    /// A value that a PCR must have, as sha256:NUMBER=HEX; of several for one PCR, any.
    #[arg(long, value_name = "BANK:NUMBER=HEX")]
    expect_pcr: Vec<PcrValue>,
    /// A manifest of `husk guest build`: PCR 11 must be its kernel image's while the initrd runs; of several, any.
    #[arg(long, value_name = "FILE")]
    manifest: Vec<PathBuf>,
    /// A file of values as in --expect-pcr: one or more on a line, # before a remark. Of several files, one must hold, together with the values that
    /// are named otherwise.
    #[arg(long, value_name = "FILE")]
    expected: Vec<PathBuf>,
    /// Put it in place of one that is there.
    #[arg(long)]
    replace: bool,
}

/// `husk vm unlock remove`
#[derive(Args, Debug)]
pub struct RemoveArgs {
    #[command(flatten)]
    one: NamedArgs,
    /// What it is called.
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: String,
}

fn name(text: &str) -> Result<String, String> {
    let reason =
        "a name has up to 64 letters, digits, '.', '-' and '_', and begins with one of the first two";
    if is_name(text) { Ok(text.to_owned()) } else { Err(reason.to_owned()) }
}

impl UnlockCommand {
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

    fn policy(&self) -> anyhow::Result<PcrPolicy> {
        let mut common = Demanded::default();
        self.expect_pcr.iter().try_for_each(|value| common.add(value))?;
        for manifest in &self.manifest {
            let value = in_initrd(&serde_json::from_slice(&content(manifest)?).unwrap_or_default());
            common.add(&value.with_context(|| {
                format!("{} tells no value of PCR 11 in the initrd", manifest.display())
            })?)?;
        }
        let mut alternatives = Vec::new();
        for file in &self.expected {
            let mut demanded = common.clone();
            let shown = || file.display().to_string();
            let text = String::from_utf8(content(file)?).context("it is not text").with_context(shown)?;
            let values = pcr_values_in(&text).map_err(anyhow::Error::msg).with_context(shown)?;
            values.iter().try_for_each(|value| demanded.add(value)).with_context(shown)?;
            alternatives.extend(demanded.alternatives()?);
        }
        if self.expected.is_empty() {
            alternatives = common.alternatives()?;
        }
        Ok(PcrPolicy::new(alternatives)?)
    }
}

/// For a PCR, the values that will do.
#[derive(Clone, Default)]
struct Demanded(BTreeMap<u8, BTreeSet<[u8; 32]>>);

impl Demanded {
    fn add(&mut self, value: &PcrValue) -> anyhow::Result<()> {
        let bytes = value.value.as_slice().try_into().ok().filter(|_| value.hash == Hash::Sha256);
        let bytes = bytes.context("a guest's secret goes by PCRs of the bank sha256 alone")?;
        self.0.entry(value.pcr).or_default().insert(bytes);
        Ok(())
    }

    /// Each combination of a value for every PCR.
    fn alternatives(&self) -> anyhow::Result<Vec<PcrValues>> {
        let mut all = vec![PcrValues::new()];
        for (pcr, values) in &self.0 {
            if all.len() * values.len() > crate::unlock::ALTERNATIVES_MAX {
                bail!(
                    "that are more than {} alternatives; name fewer values for a PCR",
                    crate::unlock::ALTERNATIVES_MAX
                );
            }
            let with = |one: &PcrValues, value: &[u8; 32]| {
                let mut one = one.clone();
                one.insert(*pcr, *value);
                one
            };
            all = all.iter().flat_map(|one| values.iter().map(|value| with(one, value))).collect();
        }
        Ok(all)
    }
}

/// What PCR 11 is while the initrd runs, by a manifest of `husk guest build`.
fn in_initrd(manifest: &Value) -> Option<PcrValue> {
    let phases = manifest["pcr_11"].as_array()?;
    let phase = phases.iter().find(|phase| phase["phase"] == INITRD)?;
    let value = hex::decode(phase["sha256"].as_str()?).ok()?;
    Some(PcrValue { hash: Hash::Sha256, pcr: KERNEL_IMAGE, value })
}

fn put(args: &PutArgs) -> anyhow::Result<()> {
    let policy = args.policy()?;
    let access = args.one.named.place.access()?;
    let vm = args.one.named.name(&access)?;
    let secret = secret(&args.secret)?;
    match access {
        Access::Local(mut store) => {
            let keys = args.root_key()?.read()?;
            store.belongs_to(&keys)?;
            let name = args.name.clone();
            let sealed = keys.wrap_unlock(&Machine::start(), &vm, (&name, &policy), &secret)?;
            store.keep_unlock(&vm, &KeptUnlock { name, policy, sealed }, args.replace)?;
        }
        Access::Remote(remote) => {
            let (name, policy) = (args.name.clone(), policy.to_string());
            let secret = BASE64_STANDARD.encode(&*secret);
            remote.ask(&Request::PutUnlock { vm: Id(vm.vm), name, policy, secret, replace: args.replace })?;
        }
    }
    show(args.one.shape, &vm, &args.name);
    Ok(())
}

/// From a file, or from the standard input: never from the command line, which everybody sees.
fn secret(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let shown = || path.display().to_string();
    let from: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(stdin()),
        _ => Box::new(File::open(path).with_context(shown)?),
    };
    let mut secret = Zeroizing::new(Vec::with_capacity(UNLOCK_SECRET_BYTES_MAX + 1));
    from.take(UNLOCK_SECRET_BYTES_MAX as u64 + 1).read_to_end(&mut secret).with_context(shown)?;
    if secret.is_empty() || secret.len() > UNLOCK_SECRET_BYTES_MAX {
        bail!("{}: a guest's secret has 1 to {UNLOCK_SECRET_BYTES_MAX} bytes", shown());
    }
    Ok(secret)
}

fn content(path: &Path) -> anyhow::Result<Vec<u8>> {
    let shown = || path.display().to_string();
    let mut content = Vec::new();
    let file = File::open(path).with_context(shown)?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut content).with_context(shown)?;
    Ok(content)
}

fn list(args: &NamedArgs) -> anyhow::Result<()> {
    let access = args.named.place.access()?;
    let vm = args.named.name(&access)?;
    let kept: Vec<(String, String)> = match access {
        Access::Local(mut store) => {
            store.unlocks(&vm)?.into_iter().map(|kept| (kept.name, kept.policy.to_string())).collect()
        }
        Access::Remote(remote) => serde_json::from_value(remote.ask(&Request::Unlocks { vm: Id(vm.vm) })?)?,
    };
    if args.shape.json {
        let shown = |(name, policy): &(String, String)| json!({ "name": name, "pcrs": alternatives(policy) });
        println!("{}", Value::Array(kept.iter().map(shown).collect()));
        return Ok(());
    }
    for (name, policy) in kept {
        println!("{name}");
        policy.split(';').for_each(|alternative| println!("  {}", alternative.replace(',', " ")));
    }
    Ok(())
}

/// Each alternative as an object of PCRs.
fn alternatives(policy: &str) -> Vec<Value> {
    let object = |alternative: &str| {
        let pairs = alternative.split(',').filter_map(|pair| pair.split_once('='));
        Value::Object(pairs.map(|(pcr, value)| (pcr.to_owned(), value.into())).collect())
    };
    policy.split(';').map(object).collect()
}

fn remove(args: &RemoveArgs) -> anyhow::Result<()> {
    let access = args.one.named.place.access()?;
    let vm = args.one.named.name(&access)?;
    match access {
        Access::Local(mut store) => store.remove_unlock(&vm, &args.name)?,
        Access::Remote(remote) => {
            let name = args.name.clone();
            remote.ask(&Request::RemoveUnlock { vm: Id(vm.vm), name }).map(drop)?;
        }
    }
    show(args.one.shape, &vm, &args.name);
    Ok(())
}

fn show(shape: Shape, vm: &VmName, name: &str) {
    shape.print(&json!({ "tenant": vm.tenant.to_string(), "vm": vm.vm.to_string(), "unlock": name }));
}

#[cfg(test)]
mod tests {
    use super::{Demanded, in_initrd};
    use husk_evidence::pcr_values_in;
    use serde_json::json;

    #[test]
    fn alternatives_are_each_combination_of_the_values() {
        let value = |byte: u8| hex::encode([byte; 32]);
        let text = format!(
            "sha256:4={} sha256:11={} sha256:11={} sha256:12={}",
            value(1),
            value(2),
            value(3),
            value(4)
        );
        let mut demanded = Demanded::default();
        pcr_values_in(&text).unwrap().iter().for_each(|value| demanded.add(value).unwrap());
        let all = demanded.alternatives().unwrap();
        assert_eq!(all.len(), 2);
        assert!(all.iter().all(|one| one[&4] == [1; 32] && one[&12] == [4; 32] && one.len() == 3));
        let many: String = (0..17).map(|byte| format!("sha256:7={} ", value(byte))).collect();
        pcr_values_in(&many).unwrap().iter().for_each(|value| demanded.add(value).unwrap());
        assert!(demanded.alternatives().is_err());
        let other = pcr_values_in(&format!("sha384:7={}", "00".repeat(48))).unwrap();
        assert!(demanded.add(&other[0]).is_err(), "of another bank");
    }

    #[test]
    fn a_manifest_tells_what_the_initrd_finds() {
        let manifest = json!({ "pcr_11": [
            { "phase": "enter-initrd", "sha256": "11".repeat(32) },
            { "phase": "enter-initrd:leave-initrd", "sha256": "22".repeat(32) },
        ] });
        let value = in_initrd(&manifest).unwrap();
        assert_eq!((value.pcr, value.value), (11, vec![0x11; 32]));
        assert!(in_initrd(&json!({})).is_none() && in_initrd(&json!({ "pcr_11": [] })).is_none());
    }
}
